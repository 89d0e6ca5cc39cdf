//! Composes the relay and keeps it running: the one place that knows all components.
//!
//! Order of the start: data directory, clock, store, listener, and only then everything that has to do with
//! the hub or with people, so that meters are heard as early as possible and nothing about the uplink can
//! keep them waiting. Order of the stop: no new connections, what is in flight committed and acknowledged,
//! then the bridge, the admin API and last the store.
//!
//! A vital task that ends before it was told to ends the process with an error: the supervisor starts a fresh
//! one, and nothing acknowledged is lost by that.

mod apply;
mod tasks;
mod vital;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use hub_bridge::bridge::{Bridge, BridgeHandle, BridgeParts, TimeFloor};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::Admin;
use crate::clock::SystemClock;
use crate::config::{Environment, LiveConfig, Settings, Start};
use crate::drain_log::KeptDrains;
use crate::listener::{self, ListenError, Listener};
use crate::logs::LogHandle;
use crate::store::{OpenReport, Store};
use crate::supervisor;
use crate::traffic_book::KeptTraffic;

use apply::Targets;
use vital::Vital;

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
    let started = Instant::now();
    let settings = start.loaded.settings.clone();
    make_data_dir(&settings.data_dir)?;
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    let (store, opened) = open_store(&settings, clock.clone()).await?;

    let mut vital = Vital::default();
    let (listener, start_alarms) = bind(&settings, &store, clock.clone()).await?;
    let meters = listener.handle();
    info!(address = %listener.local_addr()?, village = %settings.bridge.village, "listening for meters");
    vital.spawn_listener(listener);

    let drains = Arc::new(KeptDrains::open(&settings.data_dir));
    let (bridge, uplink, time_floor) = make_bridge(&settings, &store, &clock, &drains)?;
    vital.spawn_bridge(bridge);

    let guard = Arc::new(RwLock::new(settings.admin.guard.clone()));
    let targets = Targets {
        store: store.clone(),
        meters: meters.clone(),
        uplink: uplink.clone(),
        guard: guard.clone(),
        logs,
        at_start: settings.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let live = Arc::new(LiveConfig::new(start, environment, vec![Arc::new(targets)]));
    let admin = Admin {
        store: store.clone(),
        opened,
        uplink,
        meters,
        live: live.clone(),
        clock: clock.clone(),
        drains,
        started,
        start_alarms,
        guard,
        stopping: vital.stopping(),
    };
    vital.spawn_admin(settings.admin.listen, admin);
    vital.spawn_beside(tasks::follow_config(live));
    vital.spawn_beside(tasks::watch_clock(clock, time_floor));
    vital.spawn_beside(tasks::tell_supervisor());

    let failure = vital.until_end(&shutdown).await;
    supervisor::notify("STOPPING=1");
    vital.stop(failure.is_some()).await;
    close(store).await;
    failure.map_or(Ok(()), Err)
}

fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    crate::durable::make_dirs(dir).with_context(|| format!("data_dir {}", dir.display()))
}

async fn open_store(
    settings: &Settings,
    clock: Arc<SystemClock>,
) -> anyhow::Result<(Store, OpenReport)> {
    let settings = settings.store.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&settings, clock)).await?;
    let (store, report) = opened.context("the store cannot be opened")?;
    info!(
        waiting_readings = report.waiting_readings,
        closed_cleanly = report.closed_cleanly,
        took_ms = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        "store open"
    );
    for path in &report.quarantined {
        warn!(path = %path.display(), "damaged, kept aside");
    }
    for (epoch, lost) in &report.lost {
        warn!(%epoch, %lost, "readings lost to damage");
    }
    Ok((store, report))
}

/// Better a relay without TLS or without users than none: what cannot be had becomes an alarm. The check of the
/// configuration has refused it before, unless the files changed since.
async fn bind(
    settings: &Settings,
    store: &Store,
    clock: Arc<SystemClock>,
) -> anyhow::Result<(Listener, Vec<String>)> {
    let stats = Arc::new(listener::MqttStats::default());
    let mut wanted = settings.listener.clone();
    let mut alarms = Vec::new();
    loop {
        let bound =
            Listener::bind(wanted.clone(), store.clone(), clock.clone(), stats.clone()).await;
        let error = match bound {
            Ok(listener) => return Ok((listener, alarms)),
            Err(error) => error,
        };
        match &error {
            ListenError::Tls(_) if wanted.tls.is_some() => wanted.tls = None,
            ListenError::Users(_) if wanted.users_file.is_some() => wanted.users_file = None,
            _ => return Err(error).context("meters cannot be heard"),
        }
        error!(%error, "meters can connect in part only");
        alarms.push(format!("meters can connect in part only: {error}"));
    }
}

fn make_bridge(
    settings: &Settings,
    store: &Store,
    clock: &Arc<SystemClock>,
    drains: &Arc<KeptDrains>,
) -> anyhow::Result<(Bridge, BridgeHandle, TimeFloor)> {
    let time_floor = TimeFloor::new(clock.known_good());
    let parts = BridgeParts {
        backlog: Arc::new(store.clone()),
        clock: clock.clone(),
        drain_log: drains.clone(),
        time_floor: time_floor.clone(),
        traffic_book: Arc::new(KeptTraffic::new(&settings.data_dir)),
        platform: hub_bridge::platform::Platform::default(),
    };
    let (bridge, handle) = Bridge::new(settings.bridge.clone(), parts).map_err(|problems| {
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("hub settings: {}", words.join("; "))
    })?;
    Ok((bridge, handle, time_floor))
}

async fn close(store: Store) {
    if tokio::task::spawn_blocking(move || store.close())
        .await
        .is_err()
    {
        error!("the store could not be closed in order");
    }
}
