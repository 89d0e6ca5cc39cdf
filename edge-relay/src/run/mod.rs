//! Composes the relay and keeps it running: the one place that knows all components.
//!
//! Order of the start: data directory, clock, store, listener, and only then everything that has to do with
//! the hub or with people, so that meters are heard as early as possible and nothing about the uplink can
//! keep them waiting. Order of the stop: no new connections, what is in flight committed and acknowledged,
//! then the bridge, the admin API and last the store.
//!
//! A vital task that ends before it was told to ends the process with an error: the supervisor starts a fresh
//! one, and nothing acknowledged is lost by that.

mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use hub_bridge::bridge::{Bridge, BridgeHandle, BridgeParts, TimeFloor};
use parking_lot::RwLock;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{Admin, Guard};
use crate::clock::SystemClock;
use crate::config::{Apply, Environment, LiveConfig, Settings, Start};
use crate::drain_log::KeptDrains;
use crate::listener::{self, ListenError, Listener};
use crate::logs::LogHandle;
use crate::store::{OpenReport, Store};
use crate::supervisor;

/// How long the tasks may take to stop once the meters are served.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A task whose end is the relay's end, by name.
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
    let started = Instant::now();
    let settings = start.loaded.settings.clone();
    make_data_dir(&settings.data_dir)?;
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    let (store, opened) = open_store(&settings, clock.clone()).await?;

    let meters_stop = CancellationToken::new();
    let rest_stop = CancellationToken::new();
    let mut vital: JoinSet<Ended> = JoinSet::new();
    let (listener, start_alarms) = bind(&settings, &store, clock.clone()).await?;
    let meters = listener.handle();
    info!(address = %listener.local_addr()?, village = %settings.bridge.village, "listening for meters");
    let stop = meters_stop.clone();
    vital.spawn(async move {
        listener.run(stop).await;
        ("listener", Ok(()))
    });

    let drains = Arc::new(KeptDrains::open(&settings.data_dir));
    let (bridge, uplink, time_floor) = make_bridge(&settings, &store, &clock, &drains)?;
    let stop = rest_stop.clone();
    vital.spawn(async move {
        bridge.run(stop).await;
        ("bridge", Ok(()))
    });

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
    };
    let stop = rest_stop.clone();
    let address = settings.admin.listen;
    vital.spawn(async move {
        let served = tasks::serve_admin(address, Arc::new(admin), stop).await;
        ("admin", served.map_err(Into::into))
    });
    tasks::spawn_until(&rest_stop, tasks::follow_config(live));
    tasks::spawn_until(&rest_stop, tasks::watch_clock(clock, time_floor));
    tasks::spawn_until(&rest_stop, tasks::tell_supervisor());

    let failure = tokio::select! {
        () = shutdown.cancelled() => None,
        Some(ended) = vital.join_next() => Some(unexpected(ended)),
    };
    supervisor::notify("STOPPING=1");
    meters_stop.cancel();
    stop_in_order(vital, &rest_stop).await;
    close(store).await;
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
    };
    let (bridge, handle) = Bridge::new(settings.bridge.clone(), parts).map_err(|problems| {
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("hub settings: {}", words.join("; "))
    })?;
    Ok((bridge, handle, time_floor))
}

fn unexpected(ended: Result<Ended, JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Err(error) => anyhow!("a vital task panicked: {error}"),
    }
}

/// The listener first: what is in flight from the meters is committed and acknowledged.
async fn stop_in_order(mut vital: JoinSet<Ended>, rest_stop: &CancellationToken) {
    let mut listener_ended = false;
    let mut deadline = None;
    while !vital.is_empty() {
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            ended = vital.join_next() => match ended {
                Some(Ok(("listener", _)) | Err(_)) => listener_ended = true,
                Some(Ok((name, Err(error)))) => warn!(name, %error, "ended with an error"),
                _ => {}
            },
            () = tokio::time::sleep_until(deadline.unwrap_or(far).into()) => {
                warn!("not everything stopped in time");
                vital.abort_all();
                return;
            }
        }
        if listener_ended && deadline.is_none() {
            rest_stop.cancel();
            deadline = Some(Instant::now() + STOP_MAX);
        }
    }
}

async fn close(store: Store) {
    if tokio::task::spawn_blocking(move || store.close())
        .await
        .is_err()
    {
        error!("the store could not be closed in order");
    }
}

/// Everything that takes an edit of the configuration while it runs.
struct Targets {
    store: Store,
    meters: listener::Handle,
    uplink: BridgeHandle,
    guard: Arc<RwLock<Guard>>,
    logs: Option<LogHandle>,
    at_start: Settings,
    /// Reloads run on a thread that may block.
    runtime: tokio::runtime::Handle,
}

impl Apply for Targets {
    fn apply(&self, settings: &Settings) -> Result<(), String> {
        // The one that can still say no comes first.
        let mut listener = settings.listener.clone();
        listener
            .state_dir
            .clone_from(&self.at_start.listener.state_dir);
        listener
            .quarantine_dir
            .clone_from(&self.at_start.listener.quarantine_dir);
        self.meters
            .apply(listener)
            .map_err(|error| error.to_string())?;
        self.store.apply(&settings.store);
        let mut bridge = settings.bridge.clone();
        bridge.village.clone_from(&self.at_start.bridge.village);
        self.runtime
            .block_on(self.uplink.apply(bridge))
            .map_err(|error| error.to_string())?;
        // What listens off loopback never becomes open to all, also where the address changes at the restart only.
        let opens =
            settings.admin.guard == Guard::Open && !self.at_start.admin.listen.ip().is_loopback();
        *self.guard.write() = if opens {
            Guard::Closed
        } else {
            settings.admin.guard.clone()
        };
        if let Some(logs) = &self.logs {
            logs.apply(&settings.log);
        }
        Ok(())
    }
}
