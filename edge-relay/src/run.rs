//! Composes the relay and keeps it running: the one place that knows all components.
//!
//! Order of the start: data directory, clock, store, listener, and only then everything that has to do with
//! the hub or with people, so that meters are heard as early as possible and nothing about the uplink can
//! keep them waiting. Order of the stop: no new connections, what is in flight committed and acknowledged,
//! then the bridge, the admin API and last the store.
//!
//! A vital task that ends before it was told to ends the process with an error: the supervisor starts a fresh
//! one, and nothing acknowledged is lost by that.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hub_bridge::bridge::{Bridge, BridgeHandle};
use hub_bridge::clock::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::admin::{self, Admin};
use crate::clock::SystemClock;
use crate::config::{self, Apply, Environment, LiveConfig, Settings, Start};
use crate::drain_log::KeptDrains;
use crate::listener::{self, Listener};
use crate::logs::LogHandle;
use crate::store::{OpenReport, Store};
use crate::supervisor;

/// How often the clock is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// How often a taken admin address is tried again.
const ADMIN_BIND_EVERY: Duration = Duration::from_secs(5);

/// How long the tasks may take to stop once the meters are served.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A task whose end is the relay's end.
type Ended = (&'static str, anyhow::Result<()>);

/// Runs the relay until `shutdown`, or until something vital fails.
///
/// # Errors
/// Where the data directory, the store or the meters' address cannot be had, or a vital task ends by itself.
pub async fn run(
    start: Start,
    environment: Environment,
    logs: Option<LogHandle>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = start.loaded.settings.clone();
    make_data_dir(&settings.data_dir)?;
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    let (store, report) = open_store(&settings, clock.clone()).await?;

    let meters_stop = CancellationToken::new();
    let rest_stop = CancellationToken::new();
    let mut vital: JoinSet<Ended> = JoinSet::new();
    let listener = Listener::bind(settings.listener.clone(), store.clone(), clock.clone())
        .await
        .with_context(|| format!("meters cannot be heard on {}", settings.listener.listen))?;
    let meters = listener.handle();
    info!(address = %listener.local_addr(), village = %settings.bridge.village, "listening for meters");
    let stop = meters_stop.clone();
    vital.spawn(async move { ("listener", listener.run(stop).await.map_err(Into::into)) });

    let drains = Arc::new(KeptDrains::open(&settings.data_dir));
    let bridge = Bridge::new(settings.bridge.clone(), Arc::new(store.clone()), clock.clone(), drains.clone());
    let uplink = bridge.handle();
    let stop = rest_stop.clone();
    vital.spawn(async move {
        bridge.run(stop).await;
        ("bridge", Ok(()))
    });

    let targets = Targets {
        store: store.clone(),
        meters: meters.clone(),
        uplink: uplink.clone(),
        logs,
        at_start: settings.clone(),
    };
    let live = Arc::new(LiveConfig::new(start, environment, vec![Arc::new(targets)]));
    let admin = Arc::new(Admin::new(store.clone(), report, uplink, meters, live.clone(), clock.clone(), drains));
    spawn_admin(&mut vital, admin, &live, rest_stop.clone());
    tokio::spawn(rest_stop.clone().run_until_cancelled_owned(follow_config(live)));
    tokio::spawn(rest_stop.clone().run_until_cancelled_owned(watch_clock(clock)));
    tokio::spawn(rest_stop.clone().run_until_cancelled_owned(tell_supervisor()));

    let failure = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = vital.join_next() => Some(unexpected(ended)),
    };
    supervisor::notify("STOPPING=1");
    meters_stop.cancel();
    stop_in_order(vital, &rest_stop).await;
    close_store(store).await?;
    failure.map_or(Ok(()), Err)
}

fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("data_dir {}", dir.display()))
}
