//! The tasks without which there is no relay, and their end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use hub_bridge::bridge::Bridge;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::tasks;
use crate::admin::Admin;
use crate::listener::Listener;

/// How long the tasks may take to stop once the meters are served.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A task that ended, by name.
type Ended = (&'static str, anyhow::Result<()>);

/// The vital tasks, and what tells them to stop.
#[derive(Default)]
pub(super) struct Vital {
    tasks: JoinSet<Ended>,
    meters_stop: CancellationToken,
    rest_stop: CancellationToken,
}

impl Vital {
    pub(super) fn spawn_listener(&mut self, listener: Listener) {
        let stop = self.meters_stop.clone();
        self.tasks.spawn(async move {
            listener.run(stop).await;
            ("listener", Ok(()))
        });
    }

    /// The bridge's tasks hand each reading to one another: on one thread that costs no wake-up of another.
    pub(super) fn spawn_bridge(&mut self, bridge: Bridge) {
        let stop = self.rest_stop.clone();
        self.tasks.spawn_blocking(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => return ("bridge", Err(error.into())),
            };
            runtime.block_on(bridge.run(stop));
            // A resolver may still block.
            runtime.shutdown_background();
            ("bridge", Ok(()))
        });
    }

    pub(super) fn spawn_admin(&mut self, address: SocketAddr, admin: Admin) {
        let stop = self.rest_stop.clone();
        self.tasks.spawn(async move {
            let served = tasks::serve_admin(address, Arc::new(admin), stop).await;
            ("admin", served.map_err(Into::into))
        });
    }

    /// Cancelled when the relay begins to stop.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.meters_stop.clone()
    }

    /// What the relay can do without.
    pub(super) fn spawn_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.rest_stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Until `shutdown`, or until a task ended before: then why.
    pub(super) async fn until_end(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Option<anyhow::Error> {
        tokio::select! {
            () = shutdown.cancelled() => None,
            Some(ended) = self.tasks.join_next() => Some(unexpected(ended)),
        }
    }

    /// The listener first: what is in flight from the meters is committed and acknowledged. Where something
    /// `failed`, it may be the listener that has ended: everything stops at once.
    pub(super) async fn stop(mut self, failed: bool) {
        self.meters_stop.cancel();
        let mut listener_ended = failed;
        let mut deadline = None;
        while !self.tasks.is_empty() {
            if listener_ended && deadline.is_none() {
                self.rest_stop.cancel();
                deadline = Some(Instant::now() + STOP_MAX);
            }
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(Ok(("listener", _)) | Err(_)) => listener_ended = true,
                    Some(Ok((name, Err(error)))) => warn!(name, %error, "ended with an error"),
                    _ => {}
                },
                () = tokio::time::sleep_until(deadline.unwrap_or(far).into()) => {
                    warn!("not everything stopped in time");
                    self.tasks.abort_all();
                    return;
                }
            }
        }
    }
}

fn unexpected(ended: Result<Ended, JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Err(error) => anyhow!("a vital task panicked: {error}"),
    }
}
