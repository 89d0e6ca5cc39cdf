//! What subscribers and publishers acknowledge.
//!
//! Invariant: what is said to be received once (PUBREL, PUBCOMP) is durable before it is said, where the session
//! outlives its connection.

use super::Broker;
use super::keeping::forget;
use super::record::Key;
use super::session::{Acked, Session};
use super::state::Durable;
use super::subscriptions::SessionKey;

impl Broker {
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
                // The first one may not be durable yet.
                Acked::ReleasedBefore => must_wait = session.persistent(),
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

    /// Resolves when all that is known of the session is durable; `None` where it ends with its connection.
    pub fn durable_so_far(&self, key: SessionKey, connection: u64) -> Option<Durable> {
        let mut core = self.core.lock();
        let persistent = core.with_session(key, connection, |session| session.persistent());
        (persistent == Some(true)).then(|| self.state.commit(Vec::new()))
    }

    /// PUBREL of a publishing client: forgets the packet id; the PUBCOMP may be sent when what is returned is
    /// durable, or a new publish with that id could be taken for the old one after a restart.
    pub fn release(&self, key: SessionKey, connection: u64, id: u16) -> Option<Release> {
        let mut core = self.core.lock();
        core.with_session(key, connection, |session| {
            let known = session.received.remove(&id);
            session.unsettled.remove(&id);
            // Also where it was released before: over another connection, by a commit that may not have ended.
            let durable = session.persistent().then(|| {
                let key = Key::Received(session.client_id.to_string(), id);
                let change = known.then(|| (key.encode(), None));
                self.state.commit(change.into_iter().collect())
            });
            Release { known, durable }
        })
    }
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
