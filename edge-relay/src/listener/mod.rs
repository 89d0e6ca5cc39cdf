//! What meters connect to: one port for MQTT 3.1.1 and 5, and one more with TLS.
//!
//! `Listener::run` accepts; each connection is a task of its own (`connect` lets it in, `connection` serves it).
//! A publish goes socket → `codec` → `inbound` (checks, a reading) → store → on disk → `broker` (local
//! subscribers) → PUBACK.
//!
//! Invariant: no PUBACK and no PUBREC of success is written before the store, and where the broker keeps
//! something of it, the broker's state, said that it is durable. A client that misbehaves costs its own task and
//! its own bounded buffers.

pub(crate) mod codec;
mod connect;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod inbound;
mod place;
mod said;
mod settings;
mod stats;
mod wills;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hub_bridge::backlog::Backlog;
use hub_bridge::clock::Clock;
use hub_bridge::identity::Epoch;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, StateError, topic};
use crate::store::Store;
use crate::tls::{self, TlsError};
use crate::users::{Users, UsersError};

use place::Places;
use said::Said;

pub use settings::{Settings, TlsSettings};
pub use stats::{Counter, Gauge, MqttStats};

/// How long connections may take to end when the relay stops.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// The listener cannot be made, or cannot take new settings.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The users file.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The broker's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A filter of `forward`.
    #[error("forward: {filter:?} is no topic filter: {reason}")]
    Forward {
        /// The filter.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// A task of the relay's own failed.
    #[error("the listener could not start: {0}")]
    Start(String),
}

/// What all connections share.
pub(crate) struct Shared {
    settings: RwLock<Arc<Settings>>,
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stats: Arc<MqttStats>,
    pub(crate) users: Users,
    tls: RwLock<Option<TlsAcceptor>>,
    next_connection: AtomicU64,
    /// Publishes that were not acknowledged, for the log.
    withheld: Said,
    /// Connections that ended for a packet that breaks the standard, for the log.
    violations: Said,
    /// Connections that were not authorised, for the log.
    strangers: Said,
    places: Places,
}

impl Shared {
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    pub(crate) fn connection_number(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }
}

/// Bound, with its state restored, and not accepting yet.
pub struct Listener {
    shared: Arc<Shared>,
    plain: TcpListener,
    tls: Option<TcpListener>,
}

/// Reaches a listener that runs.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Listener {
    /// Binds, reads certificates and users, and restores sessions and retained messages.
    pub async fn bind(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
        stats: Arc<MqttStats>,
    ) -> Result<Self, ListenError> {
        check(&settings)?;
        let acceptor = acceptor(&settings)?;
        let users = Users::open(settings.users_file.as_deref())?;
        let plain = bind(settings.listen).await?;
        let tls = match &settings.tls {
            Some(tls) => Some(bind(tls.listen).await?),
            None => None,
        };
        let for_broker = (settings.clone(), clock.clone(), stats.clone());
        let of_store = store.clone();
        let broker = tokio::task::spawn_blocking(move || {
            let (settings, clock, stats) = for_broker;
            let epochs: Vec<Epoch> = of_store.epochs().iter().map(|e| e.epoch).collect();
            let stored = of_store.take_exactly_once();
            Broker::open(&settings, clock, stats, &stored, &epochs)
        })
        .await
        .map_err(|e| ListenError::Start(e.to_string()))??;
        let shared = Shared {
            withheld: Said::default(),
            violations: Said::default(),
            strangers: Said::default(),
            places: Places::default(),
            settings: RwLock::new(Arc::new(settings)),
            broker,
            store,
            clock,
            stats,
            users,
            tls: RwLock::new(acceptor),
            next_connection: AtomicU64::new(1),
        };
        Ok(Self {
            shared: Arc::new(shared),
            plain,
            tls,
        })
    }

    /// Where it listens; with the port that was free, where the settings say 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.plain.local_addr()
    }

    /// Where it listens with TLS.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// For changing settings while it runs.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// Accepts until `shutdown`; then commits, acknowledges, closes every connection, keeps the wills for after the
    /// restart, and closes the state.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ending = shutdown.child_token();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.plain.accept() => (accepted, false),
                accepted = accept_tls(self.tls.as_ref()) => (accepted, true),
                _ = second.tick() => {
                    self.tick(&mut connections);
                    continue;
                }
            };
            match accepted {
                (Ok((stream, peer)), secure) => {
                    self.admit(&mut connections, stream, peer, secure, &ending);
                }
                (Err(error), _) => {
                    // Out of file descriptors, or a connection that was gone already: neither ends the listener.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop((self.plain, self.tls));
        end(self.shared, connections).await;
    }

    fn tick(&self, connections: &mut JoinSet<()>) {
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
        let wills = self.shared.broker.tick();
        if !wills.is_empty() {
            let shared = self.shared.clone();
            connections.spawn(async move { wills::publish_all(&shared, wills).await });
        }
    }

    fn admit(
        &self,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        peer: SocketAddr,
        secure: bool,
        ending: &CancellationToken,
    ) {
        let shared = self.shared.clone();
        let connections_max = shared.settings().connections_max;
        let Some(place) = shared.places.take(connections_max) else {
            shared.stats.connections_refused_total.one();
            tracing::debug!(%peer, "connections_max is reached, a connection is closed");
            return;
        };
        let _ = stream.set_nodelay(true);
        if let Err(error) = place::keep_alive(&stream) {
            tracing::debug!(%peer, %error, "no keep alive");
        }
        let acceptor = if secure {
            shared.tls.read().clone()
        } else {
            None
        };
        let ending = ending.clone();
        connections.spawn(async move {
            let _place = place;
            match acceptor {
                Some(acceptor) => connect::serve_tls(shared, acceptor, stream, peer, ending).await,
                None if secure => tracing::warn!(%peer, "TLS is not set up any more"),
                None => connect::serve(shared, stream, peer, false, ending).await,
            }
        });
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
    }
}

async fn accept_tls(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

async fn end(shared: Arc<Shared>, mut connections: JoinSet<()>) {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(SHUTDOWN_MAX, all).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "connections did not end in time and are cut"
        );
        connections.shutdown().await;
    }
    let closed = tokio::task::spawn_blocking(move || shared.broker.close()).await;
    report(closed);
}

impl Handle {
    /// Takes new settings. Certificates and users are read again, also where the settings are the same. Returns the
    /// names of settings that need a restart and keep their old value.
    ///
    /// # Errors
    /// Where a file cannot be read or a filter is none: then nothing changes.
    pub fn apply(&self, settings: Settings) -> Result<Vec<&'static str>, ListenError> {
        let shared = &self.shared;
        check(&settings)?;
        let acceptor = acceptor(&settings)?;
        shared.users.reload(settings.users_file.as_deref())?;
        let old = shared.settings();
        let mut needs_restart = Vec::new();
        let tls_listen = |s: &Settings| s.tls.as_ref().map(|t| t.listen);
        for (name, changed) in [
            ("listen", old.listen != settings.listen),
            ("tls.listen", tls_listen(&old) != tls_listen(&settings)),
            ("data_dir", old.state_dir != settings.state_dir),
            ("hold_max", old.hold_max != settings.hold_max),
        ] {
            if changed {
                needs_restart.push(name);
            }
        }
        *shared.tls.write() = acceptor;
        shared.broker.apply(&settings);
        *shared.settings.write() = Arc::new(settings);
        Ok(needs_restart)
    }

    /// What the listener counts.
    pub fn stats(&self) -> &MqttStats {
        &self.shared.stats
    }
}

/// Whether the settings could be applied: reads the files, changes nothing.
pub fn check_settings(settings: &Settings) -> Result<(), ListenError> {
    check(settings)?;
    acceptor(settings)?;
    Users::open(settings.users_file.as_deref())?;
    Ok(())
}

fn check(settings: &Settings) -> Result<(), ListenError> {
    for filter in &settings.forward {
        let reason = match topic::parse_filter(filter) {
            Ok(parsed) if parsed.share.is_some() => "a shared subscription".to_owned(),
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        return Err(ListenError::Forward {
            filter: filter.clone(),
            reason,
        });
    }
    Ok(())
}

fn acceptor(settings: &Settings) -> Result<Option<TlsAcceptor>, TlsError> {
    settings
        .tls
        .as_ref()
        .map(|tls| tls::server_config(tls).map(TlsAcceptor::from))
        .transpose()
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind { address, source })
}
