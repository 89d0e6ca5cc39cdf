//! From a PUBLISH on the wire to a reading for the store and a message for subscribers.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rumqttd::protocol::DisconnectReasonCode;

use super::Shared;
use super::codec::packet::{self, Publish};
use super::codec::properties::Properties;
use super::codec::write::{PUBACK, PUBREC};
use super::codec::{Version, Violation};
use crate::broker::Publication;
use crate::broker::exactly_once::{Position, Unsettled};
use crate::broker::message::Message;
use crate::broker::topic;
use crate::store::NewReading;

/// Topics that a connection has published to lately and that need no second look.
const KNOWN_TOPICS_MAX: usize = 64;

/// Reason of a PUBACK for what can never be accepted.
const NOT_AUTHORIZED: u8 = 0x87;

/// An acknowledgement that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) first_byte: u8,
    pub(super) id: u16,
    pub(super) reason: u8,
}

/// Publishes that came in one go: appended, routed and acknowledged together, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) readings: Vec<NewReading>,
    pub(super) bytes: usize,
    pub(super) publications: Vec<Publication>,
    pub(super) acks: Vec<Ack>,
    /// Readings with `QoS` 0 among them.
    pub(super) unpromised: u64,
    /// Up to where in the store its readings are.
    pub(super) stored: Option<Position>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.publications.is_empty() && self.acks.is_empty()
    }
}

#[derive(Debug, Clone)]
struct KnownTopic {
    name: Arc<str>,
    forwarded: bool,
    /// `$SYS/…`: only a broker publishes there.
    reserved: bool,
}

/// What is remembered of one connection's publishes.
pub(super) struct Inbound {
    version: Version,
    client_id: Arc<str>,
    known: HashMap<Box<[u8]>, KnownTopic>,
    aliases: HashMap<u16, Box<[u8]>>,
    alias_max: u16,
    /// The `forward` that `known` was decided by.
    forward: Vec<String>,
}

impl Inbound {
    pub(super) fn new(
        version: Version,
        client_id: Arc<str>,
        alias_max: u16,
        forward: Vec<String>,
    ) -> Self {
        Self {
            version,
            client_id,
            known: HashMap::new(),
            aliases: HashMap::new(),
            alias_max,
            forward,
        }
    }

    /// New settings may forward other topics.
    pub(super) fn set_forward(&mut self, forward: &[String]) {
        if self.forward != forward {
            self.forward = forward.to_vec();
            self.known.clear();
        }
    }

    /// Checks a publish and adds it to the batch. `unsettled`: the reading in the store that it may repeat.
    pub(super) fn accept(
        &mut self,
        shared: &Shared,
        publish: Publish<'_>,
        unsettled: Option<Unsettled>,
        batch: &mut Batch,
    ) -> Result<(), Violation> {
        let mut properties = publish.properties.unwrap_or_default();
        let topic = self.topic(publish.topic, &properties)?;
        shared.stats.publishes_received_total.one();
        shared
            .stats
            .publish_bytes_received_total
            .add((topic.name.len() + publish.payload.len()) as u64);
        let first_byte = if publish.qos == 2 { PUBREC } else { PUBACK };
        let refused = topic.reserved && self.version == Version::V5;
        if publish.qos > 0 {
            batch.acks.push(Ack {
                first_byte,
                id: publish.id,
                reason: if refused { NOT_AUTHORIZED } else { 0 },
            });
        }
        if topic.reserved {
            return Ok(());
        }
        let payload = Bytes::copy_from_slice(publish.payload);
        let expiry = properties.message_expiry_interval.take();
        let message_properties = properties.into_message();
        let repeated = unsettled
            .filter(|stored| stored.content == shared.store.content(&topic.name, publish.payload));
        if let Some(stored) = repeated {
            shared.stats.duplicates_suppressed_total.one();
            batch.stored = Some(stored.position);
        } else if topic.forwarded {
            let reading = NewReading {
                topic: topic.name.clone(),
                client_id: self.client_id.clone(),
                payload: payload.clone(),
                qos: publish.qos,
                retain: publish.retain,
                dup: publish.dup,
                packet_id: publish.id,
                received: shared.clock.stamp(),
                properties: message_properties.clone(),
            };
            batch.bytes += reading.size_bytes();
            batch.unpromised += u64::from(publish.qos == 0);
            batch.readings.push(reading);
        }
        let message = Message {
            topic: topic.name,
            payload,
            qos: publish.qos,
            retain: publish.retain,
            publisher: self.client_id.clone(),
            properties: message_properties,
            expires_at: expiry
                .map(|s| shared.clock.monotonic() + std::time::Duration::from_secs(s.into())),
        };
        batch.publications.push(Publication {
            message: Arc::new(message),
            received: (publish.qos == 2).then_some(publish.id),
        });
        Ok(())
    }

    /// The topic that a publish names, itself or by its alias (MQTT 5, 3.3.2.3.4).
    fn topic(&mut self, named: &[u8], properties: &Properties) -> Result<KnownTopic, Violation> {
        let Some(alias) = properties.topic_alias else {
            if named.is_empty() && self.version == Version::V5 {
                return Err(Violation::protocol("neither a topic nor an alias"));
            }
            return self.known(named);
        };
        if alias > self.alias_max {
            return Err(bad_alias("a topic alias over the maximum"));
        }
        if named.is_empty() {
            let named = self
                .aliases
                .get(&alias)
                .cloned()
                .ok_or(Violation::protocol("a topic alias that was never set"))?;
            return self.known(&named);
        }
        let topic = self.known(named)?;
        self.aliases.insert(alias, named.into());
        Ok(topic)
    }

    fn known(&mut self, named: &[u8]) -> Result<KnownTopic, Violation> {
        if let Some(known) = self.known.get(named) {
            return Ok(known.clone());
        }
        let name = std::str::from_utf8(named)
            .map_err(|_| Violation::malformed("a topic name that is not UTF-8"))?;
        topic::check_name(name).map_err(|_| packet::BAD_TOPIC)?;
        let known = KnownTopic {
            name: name.into(),
            forwarded: topic::is_forwarded(name, &self.forward),
            reserved: name == "$SYS" || name.starts_with("$SYS/"),
        };
        if self.known.len() >= KNOWN_TOPICS_MAX {
            self.known.clear();
        }
        self.known.insert(named.into(), known.clone());
        Ok(known)
    }
}

fn bad_alias(what: &'static str) -> Violation {
    Violation::new(DisconnectReasonCode::TopicAliasInvalid, what)
}
