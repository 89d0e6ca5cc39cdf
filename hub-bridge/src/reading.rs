//! A reading as the village keeps it and the hub gets it.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::ReceivedAt;
use crate::identity::Sequence;

/// One publish of a meter, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its number within the epoch.
    pub sequence: Sequence,
    /// The topic name the meter published to, as it sent it.
    pub topic: Arc<str>,
    /// The meter's MQTT client id.
    pub client_id: Arc<str>,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// The quality of service it was published with: 0, 1 or 2.
    pub qos: u8,
    /// The retain flag it was published with.
    pub retain: bool,
    /// The packet id it was published with; 0 for `QoS` 0 and for wills.
    pub packet_id: u16,
    /// When the relay received it.
    pub received: ReceivedAt,
    /// The properties of an MQTT 5 PUBLISH that travel on to the hub.
    pub properties: Option<Box<PublishProperties>>,
    /// Where this is a DUP of a reading that is stored already: that one's sequence.
    pub repeat_of: Option<Sequence>,
}

impl Reading {
    /// About how many bytes the reading takes, in memory and on disk: what quotas and queues count.
    pub fn size_bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| p.size_bytes());
        READING_OVERHEAD_BYTES
            + self.topic.len()
            + self.client_id.len()
            + self.payload.len()
            + properties
    }
}

/// What a reading costs beside its texts and its payload, in bytes.
pub const READING_OVERHEAD_BYTES: usize = 48;

/// The properties of an MQTT 5 PUBLISH that belong to the message and not to the connection
/// (MQTT 5, 3.3.2.3). The topic alias is resolved and the message expiry governs local delivery only,
/// so neither is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishProperties {
    /// 0: bytes, 1: UTF-8 text.
    pub payload_format_indicator: Option<u8>,
    /// A description of the content.
    pub content_type: Option<String>,
    /// Where a response is wanted.
    pub response_topic: Option<String>,
    /// What identifies the request.
    pub correlation_data: Option<Bytes>,
    /// The meter's own user properties, in order.
    pub user_properties: Vec<(String, String)>,
}

impl PublishProperties {
    /// Whether no property is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// About how many bytes the properties take.
    pub fn size_bytes(&self) -> usize {
        let text = |t: &Option<String>| t.as_ref().map_or(0, String::len);
        text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + self
                .user_properties
                .iter()
                .map(|(k, v)| k.len() + v.len() + 4)
                .sum::<usize>()
    }
}
