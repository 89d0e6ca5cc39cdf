//! Retained messages (MQTT 5, 3.3.1.3): the last one of each topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::message::Message;
use super::topic;

/// All retained messages.
#[derive(Debug, Default)]
pub(super) struct Retained {
    by_topic: BTreeMap<Arc<str>, Arc<Message>>,
    bytes: usize,
}

/// What storing one did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is kept.
    Kept,
    /// The topic has none any more; whether it had one.
    Removed(bool),
    /// It does not fit: the topic has none any more, since what it had is not the last one; whether it had one.
    Full(bool),
}

impl Retained {
    pub(super) fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// Stores a message with the retain flag; an empty payload removes [MQTT-3.3.1-6].
    pub(super) fn store(
        &mut self,
        message: &Arc<Message>,
        count_max: usize,
        bytes_max: usize,
    ) -> Stored {
        if message.payload.is_empty() {
            return Stored::Removed(self.remove(&message.topic.clone()));
        }
        let before = self.by_topic.get(&message.topic).map(|m| m.size_bytes());
        let bytes = self.bytes - before.unwrap_or(0) + message.size_bytes();
        if bytes > bytes_max || (before.is_none() && self.by_topic.len() >= count_max) {
            return Stored::Full(self.remove(&message.topic.clone()));
        }
        self.bytes = bytes;
        self.by_topic.insert(message.topic.clone(), message.clone());
        Stored::Kept
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, topic: &str) -> bool {
        let removed = self.by_topic.remove(topic);
        self.bytes -= removed.as_ref().map_or(0, |m| m.size_bytes());
        removed.is_some()
    }

    /// Puts back what was on disk.
    pub(super) fn restore(&mut self, topic: &str, message: Message) {
        self.bytes += message.size_bytes();
        self.by_topic.insert(topic.into(), Arc::new(message));
    }

    /// Those whose topic matches, and that have not expired.
    pub(super) fn matching<'a>(
        &'a self,
        pattern: &'a str,
        now: Duration,
    ) -> impl Iterator<Item = Arc<Message>> + 'a {
        self.by_topic
            .iter()
            .filter(move |(name, message)| !message.expired(now) && topic::matches(name, pattern))
            .map(|(_, message)| message.clone())
    }

    /// Removes the expired; returns their topics.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Arc<str>> {
        let expired: Vec<Arc<str>> = self
            .by_topic
            .values()
            .filter(|m| m.expired(now))
            .map(|m| m.topic.clone())
            .collect();
        for topic in &expired {
            self.remove(topic);
        }
        expired
    }
}
