//! The tasks beside the data path: admin API, edits of the configuration, clock, supervisor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hub_bridge::bridge::TimeFloor;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::clock::SystemClock;
use crate::config::{self, LiveConfig};
use crate::supervisor;

/// How often the clock is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// How often an admin address that is taken is tried again.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// Serves the admin API. An address that cannot be had is tried again: the meters must not suffer for it.
pub(super) async fn serve_admin(
    address: SocketAddr,
    admin: Arc<Admin>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => warn!(%address, %error, "the admin API cannot listen, trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(BIND_EVERY) => {}
        }
    };
    info!(address = %listener.local_addr()?, "admin API");
    admin::serve(listener, admin, stop).await
}

/// Applies edits: when a directory changes, and at SIGHUP.
pub(super) async fn follow_config(live: Arc<LiveConfig>) {
    let mut watcher = match config::watch(&live.watched_files()) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%error, "the configuration is not watched, SIGHUP and POST /reload still work");
            None
        }
    };
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            warn!(%error, "SIGHUP cannot be caught");
            return;
        }
    };
    loop {
        // First of all once: an edit may have come between the start's reading and the watch.
        let reloading = live.clone();
        // What it says of the file is in the status and the log.
        let _ = tokio::task::spawn_blocking(move || reloading.reload().is_ok()).await;
        if let Some(watcher) = &mut watcher {
            watcher.follow(&live.watched_files());
        }
        tokio::select! {
            () = changed(watcher.as_mut()) => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn changed(watcher: Option<&mut config::Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

/// Notes when the clock is set or synchronised, and tells the time that is known to be good to those who check
/// certificates.
pub(super) async fn watch_clock(clock: Arc<SystemClock>, floor: TimeFloor) {
    let mut tick = tokio::time::interval(CLOCK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let observed = clock.clone();
        let _ = tokio::task::spawn_blocking(move || observed.observe()).await;
        if let Some(known_good) = clock.known_good() {
            floor.raise(known_good);
        }
    }
}

/// Ready, and alive as long as this runtime turns.
pub(super) async fn tell_supervisor() {
    supervisor::notify("READY=1");
    let Some(every) = supervisor::watchdog_interval() else {
        return;
    };
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        supervisor::notify("WATCHDOG=1");
    }
}
