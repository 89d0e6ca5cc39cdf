//! Wills (MQTT 5, 3.1.2.5): of clients that are connected, and those that wait, for their delay to pass or since the
//! relay stopped.
//!
//! A relay that stops in order says nothing of its meters, so their wills are not published then: each upgrade
//! would report the whole village as gone. They are kept, and published after the restart for those who do not come
//! back (MQTT 3.1.1, 3.1.2.5: a server that shuts down may defer wills to its restart). A relay that dies does the same:
//! a will is on disk before its client's CONNACK.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_bridge::reading::PublishProperties;

use super::record::{self, Key};
use super::state::Change;

/// What is published for a client that went without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Who leaves it.
    pub client_id: Arc<str>,
    /// The number of the connection that brought it; 0 after a restart.
    pub connection: u64,
    /// Topic name.
    pub topic: Arc<str>,
    /// Byte for byte.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The retain flag.
    pub retain: bool,
    /// How long after the end of the connection it is published.
    pub delay: Duration,
    /// The message's expiry, from when it is published.
    pub expiry: Option<Duration>,
    /// What of its properties belongs to the message.
    pub properties: Option<Box<PublishProperties>>,
}

/// How long a client has after a restart of the relay to come back, before its will is published.
pub(super) const AFTER_RESTART: Duration = Duration::from_secs(300);

/// A will, and when it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) due: Duration,
    pub(super) will: Will,
    /// It waits since the relay stopped, not since its client went: a client that is back takes it away, also
    /// one that starts clean.
    pub(super) deferred: bool,
}

/// At most one that waits a client. All of them, and those of clients that are connected, are in the state database.
#[derive(Debug, Default)]
pub(super) struct Wills {
    waiting: HashMap<Arc<str>, Waiting>,
    /// Which connection's will is in the state database: it goes when that will is published or forgotten.
    stored: HashMap<Arc<str>, u64>,
}

impl Wills {
    /// Its client is connected: should the relay die, the will waits for the client after the restart, as after a
    /// stop. Returns the change that stores it.
    pub(super) fn connected(&mut self, will: &Will, now: Duration) -> Change {
        let waiting = Waiting {
            due: now.saturating_add(will.delay),
            will: will.clone(),
            deferred: true,
        };
        self.stored.insert(will.client_id.clone(), will.connection);
        (
            key(&will.client_id),
            Some(record::encode_will(&waiting, now)),
        )
    }

    /// Returns the change that stores it.
    pub(super) fn wait(&mut self, waiting: Waiting, now: Duration) -> Change {
        let client = waiting.will.client_id.clone();
        let change = (key(&client), Some(record::encode_will(&waiting, now)));
        self.stored.insert(client.clone(), waiting.will.connection);
        self.waiting.insert(client, waiting);
        change
    }

    /// Puts back what was on disk. Its client could not come back while the relay was away.
    pub(super) fn restore(&mut self, mut waiting: Waiting, now: Duration) {
        waiting.due = waiting.due.max(now.saturating_add(AFTER_RESTART));
        let client = waiting.will.client_id.clone();
        self.stored.insert(client.clone(), waiting.will.connection);
        self.waiting.insert(client, waiting);
    }

    /// The client is back, or its session ends.
    pub(super) fn take(&mut self, client_id: &str) -> Option<Waiting> {
        self.waiting.remove(client_id)
    }

    /// Those whose time has come.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Will> {
        let due = self.waiting.extract_if(|_, waiting| waiting.due <= now);
        due.map(|(_, waiting)| waiting.will).collect()
    }

    /// The change that takes the will of a connection out of the database, where it is still that one's.
    pub(super) fn forget(&mut self, client_id: &str, connection: u64) -> Option<Change> {
        if self.waiting.contains_key(client_id) || self.stored.get(client_id) != Some(&connection) {
            return None;
        }
        self.stored.remove(client_id);
        Some((key(client_id), None))
    }
}

fn key(client_id: &str) -> Vec<u8> {
    Key::Will(client_id.to_owned()).encode()
}
