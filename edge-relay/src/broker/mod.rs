//! The broker's core: who gets a publish, what waits for whom, what is retained.
//!
//! All of it lies in memory behind one lock that is never held over an await or a disk access; what must
//! survive a restart goes as [`state::Change`]s to the state database, in the order of the lock.
//!
//! Invariant: a change is handed over before the lock is released, so that the database sees the changes of a
//! key in the order in which they happened. Every queue is bounded; what does not fit is counted and said.

mod acknowledging;
pub mod exactly_once;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keeping;
mod long_names;
pub mod message;
mod record;
mod restore;
mod retained;
mod routing;
pub mod session;
mod sessions;
mod state;
mod state_file;
mod state_proof;
mod subscribing;
pub mod subscriptions;
pub mod topic;
pub mod will;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hub_bridge::clock::Clock;
use hub_bridge::identity::Epoch;
use parking_lot::{Mutex, RwLock};

use crate::listener::{MqttStats, Settings};
use crate::store::ExactlyOnce;
use keeping::forget;
use retained::Retained;
use session::{Next, Session};
use state::State;
use subscriptions::{SessionKey, Subscriptions};
use will::Wills;

pub use acknowledging::{Received, Release};
pub use routing::Publication;
pub use sessions::{Attach, AttachError, Attached, Left};
pub use state::{Durable, StateError};

/// What the broker is bounded by.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names)] // each is a maximum, and says so
struct Limits {
    sessions_max: usize,
    queue_messages_max: usize,
    queue_bytes_max: usize,
    queues_bytes_max: usize,
    subscriptions_max: usize,
    retained_max: usize,
    retained_bytes_max: usize,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            sessions_max: settings.sessions_max,
            queue_messages_max: settings.session_queue_messages_max,
            queue_bytes_max: settings.session_queue_bytes_max,
            queues_bytes_max: settings.queues_bytes_max,
            subscriptions_max: settings.session_subscriptions_max,
            retained_max: settings.retained_max,
            retained_bytes_max: settings.retained_bytes_max,
        }
    }
}

/// The broker.
pub struct Broker {
    core: Mutex<Core>,
    limits: RwLock<Limits>,
    state: State,
    clock: Arc<dyn Clock>,
    stats: Arc<MqttStats>,
}

#[derive(Default)]
struct Core {
    sessions: HashMap<SessionKey, Session>,
    by_client: HashMap<Arc<str>, SessionKey>,
    next_key: SessionKey,
    subscriptions: Subscriptions,
    retained: Retained,
    wills: Wills,
    queued_bytes: usize,
    overflow_said: Option<Duration>,
}

impl Broker {
    /// Opens the state and restores what is in it. Blocks on the disk. `stored`: the last `QoS` 2 readings of the
    /// store, `epochs`: its epochs, the oldest first.
    ///
    /// # Errors
    /// Where not even an empty state database can be made.
    pub fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        stats: Arc<MqttStats>,
        stored: &[ExactlyOnce],
        epochs: &[Epoch],
    ) -> Result<Self, StateError> {
        let (database, found) = State::open(
            &settings.state_dir,
            &settings.quarantine_dir,
            settings.hold_max,
            stats.clone(),
        )?;
        let mut core = Core::default();
        core.restore(
            found,
            clock.monotonic(),
            usize::from(settings.in_flight_max),
        );
        core.find_unsettled(stored, epochs);
        let broker = Self {
            core: Mutex::new(core),
            limits: RwLock::new(settings.into()),
            state: database,
            clock,
            stats,
        };
        broker.measure(&broker.core.lock());
        Ok(broker)
    }

    /// New limits; what is over them already stays.
    pub fn apply(&self, settings: &Settings) {
        *self.limits.write() = settings.into();
    }

    /// Commits the state and ends its thread. Blocks on the disk.
    pub fn close(&self) {
        self.state.close();
    }

    fn measure(&self, core: &Core) {
        self.stats.sessions.set(core.sessions.len() as u64);
        self.stats
            .subscriptions
            .set(core.subscriptions.len() as u64);
        self.stats.retained.set(core.retained.len() as u64);
        self.stats.queued_bytes.set(core.queued_bytes as u64);
    }

    /// Gives `take` what the connection is to write next, until nothing is left or `take` says false.
    pub fn send(
        &self,
        key: SessionKey,
        connection: u64,
        mut take: impl FnMut(&Next, Duration) -> Sending,
    ) {
        let now = self.clock.monotonic();
        let mut core = self.core.lock();
        let mut changes = Vec::new();
        core.with_session(key, connection, |session| {
            while let Some(next) = session.next_to_send() {
                let more = match (take(&next, now), &next) {
                    (Sending::Sent { more }, _) => more,
                    (
                        Sending::Skipped,
                        Next::Publish {
                            number: Some(n), ..
                        },
                    ) => {
                        session.drop_sent(*n);
                        changes.extend(forget(session, *n));
                        true
                    }
                    (Sending::Skipped, _) => true,
                };
                if !more {
                    break;
                }
            }
        });
        self.stats.queued_bytes.set(core.queued_bytes as u64);
        self.state.submit(changes);
    }
}

/// What a connection did with what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// It will be written; whether it takes more.
    Sent {
        /// Go on.
        more: bool,
    },
    /// It cannot be sent to this client: as if it had been [MQTT-3.1.2-25].
    Skipped,
}

impl Core {
    /// Runs `act` on the session, if it is still that connection's, and keeps count of the bytes.
    fn with_session<T>(
        &mut self,
        key: SessionKey,
        connection: u64,
        act: impl FnOnce(&mut Session) -> T,
    ) -> Option<T> {
        let session = self.sessions.get_mut(&key)?;
        if session
            .link
            .as_ref()
            .is_none_or(|l| l.connection != connection)
        {
            return None;
        }
        let before = session.bytes();
        let result = act(session);
        self.queued_bytes = (self.queued_bytes + session.bytes()).saturating_sub(before);
        Some(result)
    }

    fn new_key(&mut self) -> SessionKey {
        self.next_key += 1;
        self.next_key
    }
}
