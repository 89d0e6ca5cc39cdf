//! A message on its way to local subscribers, and what one subscriber's copy of it adds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_bridge::reading::PublishProperties;

/// A publish, as subscribers share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic name.
    pub topic: Arc<str>,
    /// Byte for byte.
    pub payload: Bytes,
    /// 0, 1 or 2, as published.
    pub qos: u8,
    /// As published.
    pub retain: bool,
    /// Who published it.
    pub publisher: Arc<str>,
    /// What of an MQTT 5 PUBLISH belongs to the message.
    pub properties: Option<Box<PublishProperties>>,
    /// When it is of no use any more, on the monotonic clock.
    pub expires_at: Option<Duration>,
}

impl Message {
    /// About how many bytes it takes in memory.
    pub fn size_bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| p.size_bytes());
        96 + self.topic.len() + self.payload.len() + self.publisher.len() + properties
    }

    /// Whether its expiry has passed.
    pub fn expired(&self, now: Duration) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// One subscriber's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What is delivered.
    pub message: Arc<Message>,
    /// The lower one of publish and subscription.
    pub qos: u8,
    /// The retain flag it is sent with.
    pub retain: bool,
    /// The subscription identifiers of all subscriptions it matched.
    pub subscription_ids: Vec<u32>,
    /// The shared subscription, `$share/NAME/FILTER`, whose turn it was.
    pub share: Option<Arc<str>>,
}
