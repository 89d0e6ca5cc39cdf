//! `QoS` 2 publishes of clients, once: their packet ids are remembered until they are released, over restarts too.
//!
//! A reading is committed to the store first and its packet id to the state after it, each with its own sync. A kill
//! between the two would leave a reading whose packet id nobody remembers, and the client's repetition would be
//! stored as another one. So each commit of packet ids says up to where in the store they reach (`settled`); the
//! `QoS` 2 readings that the store has beyond it are known again at the start (`unsettled`), and their repetition is
//! routed and acknowledged, and not stored.
//!
//! Invariant: a publish is taken for such a repetition only where client, packet id, topic and payload are those of
//! the stored reading: anything else is stored. The DUP flag is not asked for: as long as it has no PUBREC, a packet id
//! stands for one message [MQTT-4.3.3-10], and there are clients (rumqttc) that repeat without it.

use hub_bridge::identity::Epoch;

use super::record::{self, Key};
use super::routing::Routed;
use super::subscriptions::SessionKey;
use super::{Broker, Core};
use crate::store::ExactlyOnce;

/// A place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The epoch.
    pub epoch: Epoch,
    /// The sequence in it.
    pub sequence: u64,
}

/// A stored reading whose packet id was not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled {
    /// The digest of topic and payload.
    pub content: u64,
    /// Where it is.
    pub position: Position,
}

/// What is known of a `QoS` 2 packet id that a client publishes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    New,
    /// It was kept and is not released.
    Received,
    /// A reading with it is in the store, and was neither routed nor acknowledged.
    Stored(Unsettled),
}

impl Broker {
    /// What is known of the packet id of a `QoS` 2 publish. A stored reading is told once: what comes now decides.
    pub fn seen(&self, key: SessionKey, id: u16) -> Seen {
        let mut core = self.core.lock();
        let Some(session) = core.sessions.get_mut(&key) else {
            return Seen::New;
        };
        if session.received.contains(&id) {
            return Seen::Received;
        }
        session
            .unsettled
            .remove(&id)
            .map_or(Seen::New, Seen::Stored)
    }
}

impl Core {
    /// Remembers a packet id until it is released.
    pub(super) fn remember(&mut self, origin: SessionKey, id: u16, routed: &mut Routed) {
        let Some(session) = self.sessions.get_mut(&origin) else {
            return;
        };
        session.received.insert(id);
        if session.persistent() {
            let key = Key::Received(session.client_id.to_string(), id);
            routed.changes.push((key.encode(), Some(Vec::new())));
            routed.must_wait = true;
        }
    }

    /// All `QoS` 2 readings of the session up to `stored` are remembered now.
    pub(super) fn settle(&mut self, key: SessionKey, stored: Position, routed: &mut Routed) {
        let Some(session) = self.sessions.get_mut(&key).filter(|s| s.persistent()) else {
            return;
        };
        let newer = |p: Position| p.epoch != stored.epoch || p.sequence < stored.sequence;
        if session.settled.is_none_or(newer) {
            session.settled = Some(stored);
            let key = Key::Settled(session.client_id.to_string());
            let change = (key.encode(), Some(record::encode_position(stored)));
            routed.changes.push(change);
        }
    }

    /// After a restart: finds the readings that the store has and the state does not know. `epochs`: the store's, the
    /// oldest first.
    pub(super) fn find_unsettled(&mut self, stored: &[ExactlyOnce], epochs: &[Epoch]) {
        let age = |epoch: Epoch| epochs.iter().position(|e| *e == epoch);
        let place = |p: Position| (age(p.epoch), p.sequence);
        for reading in stored {
            let key = self.by_client.get(&*reading.client_id);
            let Some(session) = key.and_then(|key| self.sessions.get_mut(key)) else {
                continue;
            };
            let position = Position {
                epoch: reading.epoch,
                sequence: reading.sequence.0,
            };
            let beyond = session.settled.is_some_and(|p| place(position) > place(p));
            if beyond && !session.received.contains(&reading.packet_id) {
                let unsettled = Unsettled {
                    content: reading.content,
                    position,
                };
                session.unsettled.insert(reading.packet_id, unsettled);
            }
        }
    }
}
