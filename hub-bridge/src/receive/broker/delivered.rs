//! A message as the broker delivered it, over MQTT 5 or 3.1.1.

use bytes::Bytes;
use rumqttc::Publish as Publish4;
use rumqttc::v5::mqttbytes::v5::Publish as Publish5;
use tokio::sync::OwnedSemaphorePermit;

use crate::reading::PublishProperties;

/// What acknowledges a message, on the connection that delivered it and on no other.
#[derive(Debug)]
pub(super) enum Ack {
    V5(Publish5),
    V311(Publish4),
}

/// A message.
#[derive(Debug)]
pub(in crate::receive) struct Delivered {
    pub(in crate::receive) topic: String,
    pub(in crate::receive) payload: Bytes,
    /// The broker may have delivered it before.
    pub(in crate::receive) again: bool,
    pub(in crate::receive) retain: bool,
    pub(in crate::receive) qos: u8,
    /// With MQTT 5 only.
    pub(in crate::receive) properties: Option<PublishProperties>,
    pub(super) ack: Ack,
    /// Its share of the queue's room, given back when it is dropped.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl From<Publish5> for Delivered {
    fn from(mut publish: Publish5) -> Self {
        let properties = publish.properties.take().map(|own| PublishProperties {
            payload_format_indicator: own.payload_format_indicator,
            content_type: own.content_type,
            response_topic: own.response_topic,
            correlation_data: own.correlation_data,
            user_properties: own.user_properties,
        });
        Self {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: std::mem::take(&mut publish.payload),
            again: publish.dup,
            retain: publish.retain,
            qos: publish.qos as u8,
            properties: Some(properties.unwrap_or_default()),
            ack: Ack::V5(publish),
            room: None,
        }
    }
}

impl From<Publish4> for Delivered {
    fn from(mut publish: Publish4) -> Self {
        Self {
            topic: publish.topic.clone(),
            payload: std::mem::take(&mut publish.payload),
            again: publish.dup,
            retain: publish.retain,
            qos: publish.qos as u8,
            properties: None,
            ack: Ack::V311(publish),
            room: None,
        }
    }
}

impl Delivered {
    /// About what it takes in memory.
    pub(super) fn size_bytes(&self) -> usize {
        256 + self.topic.len()
            + self.payload.len()
            + self
                .properties
                .as_ref()
                .map_or(0, PublishProperties::size_bytes)
    }
}
