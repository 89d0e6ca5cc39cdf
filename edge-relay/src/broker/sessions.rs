//! Sessions come, are taken over, are left, and end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::exactly_once::Position;
use super::keeping::{change_expiry, forget, forget_session};
use super::record::Key;
use super::routing::Routed;
use super::session::{Link, Session};
use super::state::{Change, Durable};
use super::subscriptions::SessionKey;
use super::topic;
use super::will::{Waiting, Will};
use super::{Broker, Core, Limits};

/// A client that wants its session.
#[derive(Debug)]
pub struct Attach {
    /// Its client id.
    pub client_id: Arc<str>,
    /// Whether what was kept is to be forgotten.
    pub clean_start: bool,
    /// How long the session outlives the connection.
    pub expiry: Duration,
    /// How many deliveries it takes unacknowledged.
    pub window: u16,
    /// The connection's number.
    pub connection: u64,
    /// Its will.
    pub will: Option<Will>,
    /// Where the store ends.
    pub stored: Position,
}

/// A connection that is gone.
#[derive(Debug)]
pub struct Left {
    /// Its client id.
    pub client_id: Arc<str>,
    /// Its session.
    pub key: SessionKey,
    /// Its number.
    pub connection: u64,
    /// A new session expiry, from its DISCONNECT.
    pub expiry: Option<Duration>,
    /// Its will, unless it went with a word.
    pub will: Option<Will>,
    /// It is the relay that stops: the will is kept for after the restart.
    pub stopping: bool,
}

/// A session, attached.
#[derive(Debug)]
pub struct Attached {
    /// Its number.
    pub key: SessionKey,
    /// Whether it was there before.
    pub session_present: bool,
    /// Wakes the connection when something waits.
    pub wake: Arc<Notify>,
    /// Cancelled when another connection takes the session.
    pub taken_over: CancellationToken,
    /// A will that waited for its delay, and is due since its session ended.
    pub will: Option<Will>,
    /// To be cancelled when all that this connection published is through.
    pub through: CancellationToken,
    /// That of the connection that had the session: only then does this one's first packet count.
    pub previous: Option<CancellationToken>,
    /// The will of this connection is on disk.
    pub will_stored: Option<Durable>,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// `sessions_max` is reached.
    #[error("the most sessions that are kept is reached")]
    TooMany,
}

impl Broker {
    /// Finds or makes the session of a client, and takes it from a connection that has it.
    pub fn attach(&self, attach: &Attach) -> Result<Attached, AttachError> {
        let limits = self.limits.read().clone();
        let now = self.clock.monotonic();
        let mut core = self.core.lock();
        let mut routed = Routed::default();
        let mut found = core.by_client.get(&attach.client_id).copied();
        let previous = found.and_then(|key| core.take_over(key));
        self.stats.takeovers_total.add(previous.is_some().into());
        let ends = |session: &Session| attach.clean_start || session.is_over(now);
        let ended = found.filter(|key| core.sessions.get(key).is_none_or(ends));
        let over = attach.clean_start || ended.is_some();
        let due = core.take_will(&attach.client_id, over, &mut routed);
        if let Some(key) = ended {
            core.end_session(key, &limits, now, &mut routed);
            found = None;
        }
        if found.is_none() && !attach.expiry.is_zero() && core.kept() >= limits.sessions_max {
            self.routed(&mut core, &mut routed, now);
            self.state.submit(routed.changes);
            return Err(AttachError::TooMany);
        }
        let key = found.unwrap_or_else(|| core.begin_session(&attach.client_id));
        let link = Link::new(attach);
        if let Some(session) = core.sessions.get_mut(&key) {
            if found.is_some() {
                session.disconnected(now);
            }
            session.link = Some(link.clone());
            session.absent_since = None;
            session.settled.get_or_insert(attach.stored);
            change_expiry(session, attach.expiry, now, &mut routed.changes);
        }
        let stored = attach.will.as_ref().map(|w| core.wills.connected(w, now));
        core.count_bytes();
        self.measure(&core);
        self.routed(&mut core, &mut routed, now);
        link.wake.notify_one();
        let mut changes = routed.changes;
        let will_stored = if let Some(stored) = stored {
            changes.push(stored);
            Some(self.state.commit(changes))
        } else {
            self.state.submit(changes);
            None
        };
        Ok(Attached {
            key,
            session_present: found.is_some(),
            wake: link.wake,
            taken_over: link.taken_over,
            will: due,
            through: link.through,
            previous,
            will_stored,
        })
    }

    /// The connection is gone. `expiry`: a new one from its DISCONNECT. `will`: what it leaves, unless it went with
    /// a word. Where the session was taken over, that one stays as it is.
    ///
    /// Returns the will if it is to be published now: where it has no delay, or the session is at its end
    /// (MQTT 5, 3.1.3.2.2).
    pub fn leave(&self, left: Left) -> Option<Will> {
        let Left {
            client_id,
            key,
            connection,
            expiry,
            will,
            stopping,
        } = left;
        let now = self.clock.monotonic();
        let limits = self.limits.read().clone();
        let mut core = self.core.lock();
        let mut routed = Routed::default();
        let ended = core.with_session(key, connection, |session| {
            if let Some(expiry) = expiry {
                change_expiry(session, expiry, now, &mut routed.changes);
            }
            session.disconnected(now);
            !session.persistent()
        });
        if ended == Some(true) {
            core.end_session(key, &limits, now, &mut routed);
        }
        let due = match will {
            Some(will) if stopping && ended.is_some() => {
                let waiting = Waiting {
                    due: now.saturating_add(will.delay),
                    will,
                    deferred: true,
                };
                routed.changes.push(core.wills.wait(waiting, now));
                None
            }
            Some(will) if will.delay.is_zero() || !core.sessions.contains_key(&key) => Some(will),
            Some(will) if ended.is_some() => {
                let waiting = Waiting {
                    due: now.saturating_add(will.delay),
                    will,
                    deferred: false,
                };
                routed.changes.push(core.wills.wait(waiting, now));
                None
            }
            _ => {
                let gone = core.wills.forget(&client_id, connection);
                routed.changes.extend(gone);
                None
            }
        };
        core.count_bytes();
        self.measure(&core);
        self.routed(&mut core, &mut routed, now);
        self.state.submit(routed.changes);
        due
    }

    /// Once a second: ends sessions whose time is over, forgets what expired. Returns the wills that are due.
    pub fn tick(&self) -> Vec<Will> {
        let now = self.clock.monotonic();
        let limits = self.limits.read().clone();
        let mut core = self.core.lock();
        let mut routed = Routed::default();
        let mut wills = core.wills.due(now);
        for key in core.over(now) {
            let client_id = core.sessions.get(&key).map(|s| s.client_id.clone());
            wills.extend(
                client_id
                    .and_then(|client| core.wills.take(&client))
                    .map(|w| w.will),
            );
            core.end_session(key, &limits, now, &mut routed);
        }
        for topic in core.retained.expire(now) {
            let key = Key::Retained(topic.to_string());
            routed.changes.push((key.encode(), None));
        }
        let expired = core.expire_queued(now, &mut routed.changes);
        self.stats.messages_expired_total.add(expired);
        core.count_bytes();
        self.measure(&core);
        self.routed(&mut core, &mut routed, now);
        self.state.submit(routed.changes);
        wills
    }

    /// The will of a connection was published: it need not be kept any more.
    pub fn forget_will(&self, client_id: &str, connection: u64) {
        let mut core = self.core.lock();
        let change = core.wills.forget(client_id, connection);
        self.state.submit(change.into_iter().collect());
    }
}

impl Link {
    fn new(attach: &Attach) -> Self {
        Self {
            connection: attach.connection,
            wake: Arc::new(Notify::new()),
            taken_over: CancellationToken::new(),
            through: CancellationToken::new(),
            window: attach.window,
        }
    }
}

impl Core {
    /// Ends the connection that has the session, if any; its token says when all that it published is through.
    fn take_over(&mut self, key: SessionKey) -> Option<CancellationToken> {
        let link = self.sessions.get_mut(&key)?.link.take()?;
        link.taken_over.cancel();
        Some(link.through)
    }

    fn begin_session(&mut self, client_id: &Arc<str>) -> SessionKey {
        let key = self.new_key();
        self.by_client.insert(client_id.clone(), key);
        let session = Session::new(client_id.clone(), Duration::ZERO);
        self.sessions.insert(key, session);
        key
    }

    /// The client is back. A will that waits is due where its session is over, and forgotten where it goes on.
    fn take_will(&mut self, client_id: &str, over: bool, routed: &mut Routed) -> Option<Will> {
        let waiting = self.wills.take(client_id)?;
        if over && !waiting.deferred {
            return Some(waiting.will);
        }
        let gone = self.wills.forget(client_id, waiting.will.connection);
        routed.changes.extend(gone);
        None
    }

    fn end_session(
        &mut self,
        key: SessionKey,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let Some(session) = self.sessions.remove(&key) else {
            return;
        };
        self.by_client.remove(&session.client_id);
        for filter in session.subscriptions.keys() {
            if let Ok(parsed) = topic::parse_filter(filter) {
                self.subscriptions.remove(parsed, key);
            }
        }
        if session.persistent() {
            forget_session(&session, &mut routed.changes);
        }
        self.hand_on(session.left_to_share(), limits, now, routed);
    }

    /// Sessions that outlive their connection.
    fn kept(&self) -> usize {
        self.sessions.values().filter(|s| s.persistent()).count()
    }

    /// Absent sessions whose time is over.
    fn over(&self, now: Duration) -> Vec<SessionKey> {
        self.sessions
            .iter()
            .filter(|(_, session)| session.link.is_none() && session.is_over(now))
            .map(|(key, _)| *key)
            .collect()
    }

    fn expire_queued(&mut self, now: Duration, changes: &mut Vec<Change>) -> u64 {
        let mut count = 0;
        for session in self.sessions.values_mut() {
            for number in session.expire(now) {
                count += 1;
                if let Some(number) = number {
                    changes.extend(forget(session, number));
                }
            }
        }
        count
    }

    fn count_bytes(&mut self) {
        self.queued_bytes = self.sessions.values().map(Session::bytes).sum();
    }
}
