//! The broker's core: who gets a publish, what waits for whom, what is retained.
//!
//! All of it lies in memory behind one lock that is never held over an await or a disk access; what must
//! survive a restart goes as [`state::Change`]s to the state database, in the order of the lock.
//!
//! Invariant: a change is handed over before the lock is released, so that the database sees the changes of a
//! key in the order in which they happened. Every queue is bounded; what does not fit is counted and said.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod message;
mod record;
mod retained;
mod routing;
pub mod session;
mod sessions;
mod state;
mod state_file;
mod state_proof;
pub mod subscriptions;
pub mod topic;
pub mod will;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hub_bridge::clock::Clock;
use parking_lot::{Mutex, RwLock};

use crate::listener::{MqttStats, Settings};
use record::Key;
use retained::Retained;
use session::{Acked, Next, Session};
use state::{Change, State};
use subscriptions::{SessionKey, Subscriptions};
use will::Wills;

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
    /// Opens the state and restores what is in it. Blocks on the disk.
    ///
    /// # Errors
    /// Where not even an empty state database can be made.
    pub fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        stats: Arc<MqttStats>,
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

    /// A subscriber's PUBACK.
    pub fn puback(&self, key: SessionKey, connection: u64, id: u16) {
        self.acknowledged(key, connection, |session| session.puback(id));
    }

    /// A subscriber's PUBCOMP.
    pub fn pubcomp(&self, key: SessionKey, connection: u64, id: u16) {
        self.acknowledged(key, connection, |session| session.pubcomp(id));
    }

    /// A subscriber's PUBREC. The PUBREL may be sent when what it returns is durable.
    pub fn pubrec(&self, key: SessionKey, connection: u64, id: u16, failed: bool) -> Received {
        let (acked, durable) =
            self.acknowledged(key, connection, |session| session.pubrec(id, failed));
        match acked {
            Some(Acked::Released(_) | Acked::ReleasedBefore) => Received::Release(durable),
            Some(Acked::Done(_)) => Received::Nothing,
            _ => Received::Unknown,
        }
    }

    fn acknowledged(
        &self,
        key: SessionKey,
        connection: u64,
        act: impl FnOnce(&mut Session) -> Acked,
    ) -> (Option<Acked>, Option<Durable>) {
        let mut core = self.core.lock();
        let mut changes = Vec::new();
        let mut must_wait = false;
        let acked = core.with_session(key, connection, |session| {
            let acked = act(session);
            match acked {
                Acked::Done(number) => changes.extend(forget(session, number)),
                Acked::Released(number) if session.persistent() => {
                    let key = Key::Released(session.client_id.to_string(), number);
                    changes.push((key.encode(), Some(Vec::new())));
                    must_wait = true;
                }
                _ => {}
            }
            acked
        });
        self.stats.queued_bytes.set(core.queued_bytes as u64);
        if must_wait {
            return (acked, Some(self.state.commit(changes)));
        }
        self.state.submit(changes);
        (acked, None)
    }

    /// PUBREL of a publishing client: forgets the packet id; the PUBCOMP may be sent when what is returned is
    /// durable, or a new publish with that id could be taken for the old one after a restart.
    pub fn release(&self, key: SessionKey, connection: u64, id: u16) -> Option<Release> {
        let mut core = self.core.lock();
        core.with_session(key, connection, |session| {
            let known = session.received.remove(&id);
            let durable = (known && session.persistent()).then(|| {
                let key = Key::Received(session.client_id.to_string(), id);
                self.state.commit(vec![(key.encode(), None)])
            });
            Release { known, durable }
        })
    }

    /// Whether a `QoS` 2 publish with this packet id was kept already and is not released.
    pub fn has_received(&self, key: SessionKey, id: u16) -> bool {
        let core = self.core.lock();
        core.sessions
            .get(&key)
            .is_some_and(|session| session.received.contains(&id))
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

/// What follows a PUBREC.
pub enum Received {
    /// PUBREL, after this is durable.
    Release(Option<Durable>),
    /// Nothing: it ended the delivery.
    Nothing,
    /// The packet id is not in flight.
    Unknown,
}

/// What follows a PUBREL.
pub struct Release {
    /// Whether the packet id was known.
    pub known: bool,
    /// PUBCOMP after this.
    pub durable: Option<Durable>,
}

/// The changes that forget a delivery of a session.
fn forget(session: &Session, number: u64) -> Vec<Change> {
    if !session.persistent() {
        return Vec::new();
    }
    let client = session.client_id.to_string();
    vec![
        (Key::Queued(client.clone(), number).encode(), None),
        (Key::Released(client, number).encode(), None),
    ]
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

    /// Puts together what the state database held.
    fn restore(&mut self, found: Vec<(Vec<u8>, Vec<u8>)>, now: Duration, in_flight_max: usize) {
        let mut later = Vec::new();
        let mut released = std::collections::HashSet::new();
        let mut damaged = 0u64;
        for (key, value) in found {
            let done = match Key::decode(&key) {
                Some(Key::Session(client)) => record::decode_session(&value)
                    .map(|stored| self.restore_session(&client, stored, now)),
                Some(Key::Retained(topic)) => record::decode_message(&value, now)
                    .map(|message| self.retained.restore(&topic, message)),
                Some(Key::Will(_)) => {
                    record::decode_will(&value, now).map(|waiting| self.wills.restore(waiting, now))
                }
                Some(Key::Released(client, number)) => {
                    released.insert((client, number));
                    Some(())
                }
                Some(key) => {
                    later.push((key, value));
                    Some(())
                }
                None => None,
            };
            damaged += u64::from(done.is_none());
        }
        later.sort_by_key(|(key, _)| match key {
            Key::Queued(_, number) => *number,
            _ => 0,
        });
        for (key, value) in later {
            let done = self.restore_part(key, &value, &released, now, in_flight_max);
            damaged += u64::from(done.is_none());
        }
        if damaged > 0 {
            tracing::error!(
                damaged,
                "records of the broker's state were damaged and are lost"
            );
        }
    }

    fn restore_session(&mut self, client: &str, stored: record::StoredSession, now: Duration) {
        let client: Arc<str> = client.into();
        let key = self.new_key();
        let mut session = Session::new(client.clone(), stored.expiry);
        session.absent_since = Some(now);
        session.set_next_number(stored.next_number);
        for (filter, options) in &stored.subscriptions {
            if let Ok(parsed) = topic::parse_filter(filter) {
                self.subscriptions.insert(parsed, key, *options);
            }
        }
        session.subscriptions = stored.subscriptions;
        self.by_client.insert(client, key);
        self.sessions.insert(key, session);
    }

    fn restore_part(
        &mut self,
        key: Key,
        value: &[u8],
        released: &std::collections::HashSet<(String, u64)>,
        now: Duration,
        in_flight_max: usize,
    ) -> Option<()> {
        match key {
            Key::Queued(client, number) => {
                let delivery = record::decode_delivery(value, now)?;
                let bytes = delivery.message.size_bytes();
                let session = self.by_client.get(client.as_str())?;
                let session = self.sessions.get_mut(session)?;
                let released = released.contains(&(client, number));
                session.restore(number, delivery, released, in_flight_max);
                self.queued_bytes += bytes;
            }
            Key::Received(client, id) => {
                let session = self.by_client.get(client.as_str())?;
                self.sessions.get_mut(session)?.received.insert(id);
            }
            Key::Session(_) | Key::Released(..) | Key::Retained(_) | Key::Will(_) => {}
        }
        Some(())
    }

    fn new_key(&mut self) -> SessionKey {
        self.next_key += 1;
        self.next_key
    }
}
