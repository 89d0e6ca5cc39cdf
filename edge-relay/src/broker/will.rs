//! Wills (MQTT 5, 3.1.2.5) that wait for their delay to pass.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_bridge::reading::PublishProperties;

/// What is published for a client that went without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Who leaves it.
    pub client_id: Arc<str>,
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

/// At most one a client.
#[derive(Debug, Default)]
pub(super) struct Wills {
    waiting: HashMap<Arc<str>, (Duration, Will)>,
}

impl Wills {
    pub(super) fn wait(&mut self, will: Will, due: Duration) {
        self.waiting.insert(will.client_id.clone(), (due, will));
    }

    /// The client is back, or its session ends.
    pub(super) fn take(&mut self, client_id: &str) -> Option<Will> {
        self.waiting.remove(client_id).map(|(_, will)| will)
    }

    /// Those whose time has come.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Will> {
        let clients: Vec<Arc<str>> = self
            .waiting
            .iter()
            .filter(|(_, (due, _))| *due <= now)
            .map(|(client, _)| client.clone())
            .collect();
        clients
            .iter()
            .filter_map(|client| self.take(client))
            .collect()
    }

    /// All of them, for a relay that stops.
    pub(super) fn take_all(&mut self) -> Vec<Will> {
        self.waiting.drain().map(|(_, (_, will))| will).collect()
    }
}
