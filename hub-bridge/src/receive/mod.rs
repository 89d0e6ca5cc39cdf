//! The receiver: from the hub's broker into PostgreSQL, each reading once.
//!
//! The path of a message: `broker/session` delivers it, `arrival` reads it, `work` gathers a batch, `store` makes rows of
//! it in one transaction, `republish` and `receipts` say so to the hub and the village, and then the broker gets its
//! acknowledgement. `slots` says which sessions this replica holds; `broker/probe` finds out what the broker can do.
//! Invariant: nothing is acknowledged that is not committed. What a crash at any instant leaves behind: messages that the
//! broker delivers again, and rows that are known then.

mod admin;
mod arrival;
mod broker;
#[cfg(feature = "kafka")]
mod kafka;
pub mod mapping;
mod metrics;
mod pause;
mod receipts;
mod republish;
mod slots;
mod state;
pub mod store;
pub mod topics;
mod work;

use std::sync::Arc;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::classify::ErrorClass;
use crate::hub::config::{HubConfig, Sharing};
use crate::hub::{database, migrations};
use crate::identity::VillageId;
use crate::version::Version;
use crate::wire;

use broker::Access;
use broker::publisher::Publisher;
use metrics::Metrics;
use pause::Pause;
use receipts::Receipts;
use state::State;
use store::Store;
use topics::PlainTopics;

/// How messages are divided among the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Division {
    /// By the broker: shared subscriptions.
    Shared,
    /// Each session gets everything, and works on the villages that are its own.
    Partitions,
}

/// What all parts of a running receiver share.
struct Receiver {
    config: HubConfig,
    access: Access,
    division: Division,
    /// Topics of plain readings; `None` where they are not wanted, or can have no identity.
    plain: Option<PlainTopics>,
    store: Store,
    publisher: Publisher,
    receipts: Receipts,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    #[cfg(feature = "kafka")]
    kafka: Option<kafka::Kafka>,
    #[cfg(not(feature = "kafka"))]
    kafka: Option<store::NoSink>,
}

/// Receives until `stop`; then finishes what is in hand.
///
/// # Errors
/// Where it cannot begin: the admin address is taken, the schema cannot be used. What may pass is tried again.
pub async fn run(config: HubConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let state = Arc::new(State::default());
    let serving = admin::serve(config.admin, &metrics, &state).await?;
    let receiver = tokio::select! {
        receiver = prepare(config, metrics, state) => Arc::new(receiver?),
        () = stop.cancelled() => return Ok(()),
    };
    let receipts = tokio::spawn(receipts::publish(Arc::clone(&receiver)));
    slots::hold(Arc::clone(&receiver), stop).await;
    receipts.abort();
    let last = receipts::publish_the_last(&receiver);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), last).await;
    info!("stopped");
    if let Some(serving) = serving {
        serving.abort();
    }
    Ok(())
}

async fn prepare(
    config: HubConfig,
    metrics: Arc<Metrics>,
    state: Arc<State>,
) -> anyhow::Result<Receiver> {
    schema(&config, &state).await?;
    let (access, division) = reach_broker(&config).await;
    let is_v5 = access.version == Version::V5;
    let wanted = config.receive.topic.as_ref().filter(|_| is_v5);
    let plain = wanted.map(PlainTopics::new).transpose()?;
    info!(version = ?access.version, ?division, "the broker is known");
    state.broker_is(access.version, division);
    let chance = rand::random::<u32>();
    let client_id = format!("{}-publishes-{chance:08x}", config.broker.client_id);
    #[cfg(feature = "kafka")]
    let kafka = config.kafka.as_ref().map(kafka::Kafka::new).transpose()?;
    Ok(Receiver {
        plain,
        store: Store::new(config.mapping.clone()),
        publisher: Publisher::start(access.clone(), client_id, metrics.publishes_refused.clone()),
        receipts: Receipts::default(),
        #[cfg(feature = "kafka")]
        kafka,
        #[cfg(not(feature = "kafka"))]
        kafka: None,
        config,
        access,
        division,
        metrics,
        state,
    })
}

/// Brings the schema up to date, as soon as the database is there.
async fn schema(config: &HubConfig, state: &State) -> anyhow::Result<()> {
    let mut pause = Pause::new();
    loop {
        let error = match database::connect(&config.database).await {
            Ok(mut client) => match migrations::migrate(&mut client).await {
                Ok(_) => return Ok(()),
                Err(error) if error.passes() => error.to_string(),
                Err(error) => return Err(error).context("the schema"),
            },
            Err(error) => error.to_string(),
        };
        let wait = pause.failed(ErrorClass::Connect);
        warn!(error, ?wait, "the database is not there yet");
        state.database_said(Some(error));
        tokio::time::sleep(wait).await;
    }
}

/// Finds out what the broker speaks and can do, as soon as it is there.
async fn reach_broker(config: &HubConfig) -> (Access, Division) {
    let mut pause = Pause::new();
    loop {
        match ask_broker(config).await {
            Ok(known) => return known,
            Err(failure) => {
                let wait = pause.failed(failure.class);
                warn!(%failure, ?wait, "the broker is not there yet");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn ask_broker(config: &HubConfig) -> Result<(Access, Division), crate::classify::Failure> {
    let (hub, client_id) = (&config.broker.hub, &config.broker.client_id);
    let receive = &config.receive;
    // One batch on its way into the database, and the next one gathering.
    let waiting = receive.batch_readings_max.saturating_mul(2);
    let access = Access {
        hub: hub.clone(),
        version: broker::probe::version(hub, client_id).await?,
        packet_bytes_max: receive.packet_bytes_max,
        receive_maximum: u16::try_from(waiting).unwrap_or(u16::MAX).max(20),
    };
    let shares = match receive.shared {
        Sharing::Auto => broker::probe::shares(&access, client_id).await?,
        Sharing::Never => false,
    };
    let division = if shares {
        Division::Shared
    } else {
        Division::Partitions
    };
    Ok((access, division))
}

impl Receiver {
    /// The client id of a slot's session. Another division has other sessions.
    fn session_name(&self, slot: &str) -> String {
        let division = match self.division {
            Division::Shared => "shares",
            Division::Partitions => "part",
        };
        let (prefix, of) = (
            &self.config.broker.client_id,
            self.config.receive.partitions,
        );
        format!("{prefix}-{division}-{of}-{slot}")
    }

    /// What a slot's session subscribes to.
    fn filters(&self, slot: u16) -> Vec<String> {
        let mut filters = vec![format!("{}/+/frames", wire::ROOT)];
        filters.extend(self.plain.as_ref().map(PlainTopics::filter));
        let accounts = format!("{}/+/accounts/+", wire::ROOT);
        match self.division {
            Division::Shared => {
                let group = &self.config.receive.group;
                for filter in &mut filters {
                    *filter = format!("$share/{group}/{filter}");
                }
                // A shared subscription never gets what is retained: accounts are for one session, as they are.
                if slot == 0 {
                    filters.push(accounts);
                }
            }
            Division::Partitions => filters.push(accounts),
        }
        filters
    }
}

/// Which of `partitions` a village belongs to: the same on every machine, for ever.
fn partition_of(village: &VillageId, partitions: u16) -> u16 {
    let hash = Sha256::digest(village.as_str());
    let bytes = hash.first_chunk::<8>().copied().unwrap_or_default();
    let part = u64::from_be_bytes(bytes) % u64::from(partitions.max(1));
    u16::try_from(part).unwrap_or(0)
}
