//! How sessions, deliveries and retained messages lie in the state database.
//!
//! Key: a letter for the kind, then what it is about. Value: `version | crc32 | bincode`; a record whose
//! checksum is wrong is left out when the state is read, and said so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bincode::Options as _;
use bytes::Bytes;
use hub_bridge::identity::Epoch;
use hub_bridge::reading::PublishProperties;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::exactly_once::Position;
use super::message::{Delivery, Message};
use super::subscriptions::Options;
use super::will::{Waiting, Will};

const VERSION: u8 = 1;
/// Of a delivery that came by a shared subscription.
const SHARED: u8 = 2;

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A session, by client id.
    Session(String),
    /// What waits for a session, by client id and number.
    Queued(String, u64),
    /// That a delivery was released (PUBREC came).
    Released(String, u64),
    /// The packet id of a `QoS` 2 publish that was kept.
    Received(String, u16),
    /// A retained message, by topic.
    Retained(String),
    /// A will that waits, or whose client is connected, by client id.
    Will(String),
    /// Up to where a session's `QoS` 2 readings in the store are known here, by client id.
    Settled(String),
}

impl Key {
    /// The key as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Session(client) => about(b's', client, &[]),
            Self::Queued(client, number) => about(b'q', client, &number.to_be_bytes()),
            Self::Released(client, number) => about(b'o', client, &number.to_be_bytes()),
            Self::Received(client, id) => about(b'i', client, &id.to_be_bytes()),
            Self::Retained(topic) => about(b'r', topic, &[]),
            Self::Will(client) => about(b'w', client, &[]),
            Self::Settled(client) => about(b'p', client, &[]),
        }
    }

    /// The key again; `None` where the bytes are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (name, rest) = rest.split_at_checked(length)?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        let number = || rest.try_into().ok().map(u64::from_be_bytes);
        match kind {
            b's' => Some(Self::Session(name)),
            b'q' => Some(Self::Queued(name, number()?)),
            b'o' => Some(Self::Released(name, number()?)),
            b'i' => Some(Self::Received(
                name,
                u16::from_be_bytes(rest.try_into().ok()?),
            )),
            b'r' => Some(Self::Retained(name)),
            b'w' => Some(Self::Will(name)),
            b'p' => Some(Self::Settled(name)),
            _ => None,
        }
    }
}

fn about(kind: u8, name: &str, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + name.len() + rest.len());
    key.push(kind);
    key.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    key.extend(name.as_bytes());
    key.extend(rest);
    key
}

#[derive(Serialize, Deserialize)]
struct SessionV1 {
    expiry_s: u64,
    next_number: u64,
    subscriptions: Vec<SubscriptionV1>,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionV1 {
    filter: String,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    id: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct DeliveryV1 {
    qos: u8,
    retain: bool,
    subscription_ids: Vec<u32>,
    message: MessageV1,
}

#[derive(Serialize, Deserialize)]
struct MessageV1 {
    topic: String,
    payload: Bytes,
    qos: u8,
    retain: bool,
    publisher: String,
    properties: Option<PublishProperties>,
    /// What was left of its life when it was written.
    expires_in_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WillV1 {
    /// Its life begins when it is published.
    message: MessageV1,
    life_ms: Option<u64>,
    /// What was left of its delay when it was written.
    waits_ms: u64,
    deferred: bool,
}

/// A session that comes back from disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredSession {
    /// How long it outlives its connection.
    pub(super) expiry: Duration,
    /// The number that its next delivery gets, or lower: what is queued counts too.
    pub(super) next_number: u64,
    /// Filter to options.
    pub(super) subscriptions: BTreeMap<String, Options>,
}

/// A session as a value.
pub(super) fn encode_session(session: &super::session::Session) -> Vec<u8> {
    seal(
        VERSION,
        &SessionV1 {
            expiry_s: session.expiry.as_secs(),
            next_number: session.next_number(),
            subscriptions: session
                .subscriptions
                .iter()
                .map(|(filter, o)| SubscriptionV1 {
                    filter: filter.clone(),
                    qos: o.qos,
                    no_local: o.no_local,
                    retain_as_published: o.retain_as_published,
                    id: o.id,
                })
                .collect(),
        },
    )
}

/// The session again.
pub(super) fn decode_session(bytes: &[u8]) -> Option<StoredSession> {
    let v1: SessionV1 = open(VERSION, bytes)?;
    let options = |s: &SubscriptionV1| Options {
        qos: s.qos.min(2),
        no_local: s.no_local,
        retain_as_published: s.retain_as_published,
        id: s.id,
    };
    Some(StoredSession {
        expiry: Duration::from_secs(v1.expiry_s),
        next_number: v1.next_number,
        subscriptions: v1
            .subscriptions
            .into_iter()
            .map(|s| (s.filter.clone(), options(&s)))
            .collect(),
    })
}

/// A delivery as a value. `now`: the monotonic clock.
pub(super) fn encode_delivery(delivery: &Delivery, now: Duration) -> Vec<u8> {
    let v1 = DeliveryV1 {
        qos: delivery.qos,
        retain: delivery.retain,
        subscription_ids: delivery.subscription_ids.clone(),
        message: message_v1(&delivery.message, now),
    };
    match &delivery.share {
        None => seal(VERSION, &v1),
        Some(share) => seal(SHARED, &(v1, share.to_string())),
    }
}

/// The delivery again.
pub(super) fn decode_delivery(bytes: &[u8], now: Duration) -> Option<Delivery> {
    let (v1, share): (DeliveryV1, Option<String>) = if bytes.first() == Some(&SHARED) {
        let (v1, share) = open(SHARED, bytes)?;
        (v1, Some(share))
    } else {
        (open(VERSION, bytes)?, None)
    };
    Some(Delivery {
        share: share.map(Arc::from),
        qos: v1.qos.min(2),
        retain: v1.retain,
        subscription_ids: v1.subscription_ids,
        message: Arc::new(message(v1.message, now)),
    })
}

/// A retained message as a value.
pub(super) fn encode_message(message: &Message, now: Duration) -> Vec<u8> {
    seal(VERSION, &message_v1(message, now))
}

/// The message again.
pub(super) fn decode_message(bytes: &[u8], now: Duration) -> Option<Message> {
    open::<MessageV1>(VERSION, bytes).map(|v1| message(v1, now))
}

/// A position in the store as a value.
pub(super) fn encode_position(position: Position) -> Vec<u8> {
    seal(VERSION, &(position.epoch.0, position.sequence))
}

/// The position again.
pub(super) fn decode_position(bytes: &[u8]) -> Option<Position> {
    let (epoch, sequence) = open(VERSION, bytes)?;
    Some(Position {
        epoch: Epoch(epoch),
        sequence,
    })
}

/// A will that waits, as a value.
pub(super) fn encode_will(waiting: &Waiting, now: Duration) -> Vec<u8> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let will = &waiting.will;
    seal(
        VERSION,
        &WillV1 {
            message: MessageV1 {
                topic: will.topic.to_string(),
                payload: will.payload.clone(),
                qos: will.qos,
                retain: will.retain,
                publisher: will.client_id.to_string(),
                properties: will.properties.as_deref().cloned(),
                expires_in_ms: None,
            },
            life_ms: will.expiry.map(millis),
            waits_ms: millis(waiting.due.saturating_sub(now)),
            deferred: waiting.deferred,
        },
    )
}

/// The will again; due after what was left of its delay.
pub(super) fn decode_will(bytes: &[u8], now: Duration) -> Option<Waiting> {
    let v1: WillV1 = open(VERSION, bytes)?;
    let left = Duration::from_millis(v1.waits_ms);
    Some(Waiting {
        due: now.saturating_add(left),
        deferred: v1.deferred,
        will: Will {
            client_id: v1.message.publisher.into(),
            connection: 0,
            topic: v1.message.topic.into(),
            payload: v1.message.payload,
            qos: v1.message.qos.min(2),
            retain: v1.message.retain,
            delay: left,
            expiry: v1.life_ms.map(Duration::from_millis),
            properties: v1.message.properties.map(Box::new),
        },
    })
}

fn message_v1(message: &Message, now: Duration) -> MessageV1 {
    MessageV1 {
        topic: message.topic.to_string(),
        payload: message.payload.clone(),
        qos: message.qos,
        retain: message.retain,
        publisher: message.publisher.to_string(),
        properties: message.properties.as_deref().cloned(),
        expires_in_ms: message
            .expires_at
            .map(|at| u64::try_from(at.saturating_sub(now).as_millis()).unwrap_or(u64::MAX)),
    }
}

fn message(v1: MessageV1, now: Duration) -> Message {
    Message {
        topic: v1.topic.into(),
        payload: v1.payload,
        qos: v1.qos.min(2),
        retain: v1.retain,
        publisher: v1.publisher.into(),
        properties: v1.properties.map(Box::new),
        expires_at: v1.expires_in_ms.map(|ms| now + Duration::from_millis(ms)),
    }
}

fn coder() -> impl bincode::Options {
    bincode::DefaultOptions::new()
        .with_limit(1 << 30)
        .reject_trailing_bytes()
}

/// Nothing that is sealed here can fail to encode: no maps of unknown length, no sizes near the limit.
fn seal<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let body = coder().serialize(value).unwrap_or_default();
    let mut sealed = Vec::with_capacity(body.len() + 5);
    sealed.push(version);
    sealed.extend(crc32fast::hash(&body).to_be_bytes());
    sealed.extend(body);
    sealed
}

fn open<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Option<T> {
    let (found, rest) = bytes.split_first()?;
    let (crc, body) = rest.split_first_chunk::<4>()?;
    if *found != version || crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    coder().deserialize(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        for key in [
            Key::Session("é".into()),
            Key::Queued("a".into(), 7),
            Key::Released(String::new(), u64::MAX),
            Key::Received("a".into(), 9),
            Key::Retained("a/b".into()),
            Key::Settled("a".into()),
        ] {
            assert_eq!(Key::decode(&key.encode()), Some(key));
        }
        assert_eq!(Key::decode(b"s\0\0\0\x09ab"), None);
    }

    #[test]
    fn a_delivery_comes_back_and_a_flipped_bit_is_seen() {
        let now = Duration::from_secs(100);
        let mut delivery = Delivery {
            share: None,
            message: Arc::new(Message {
                topic: "t".into(),
                payload: Bytes::from_static(&[0, 255]),
                qos: 2,
                retain: true,
                publisher: "p".into(),
                properties: Some(Box::new(PublishProperties {
                    user_properties: vec![("k".into(), "v".into())],
                    ..PublishProperties::default()
                })),
                expires_at: Some(Duration::from_secs(160)),
            }),
            qos: 1,
            retain: false,
            subscription_ids: vec![3, 4],
        };
        let mut bytes = encode_delivery(&delivery, now);
        assert_eq!(decode_delivery(&bytes, now), Some(delivery.clone()));
        let later = decode_delivery(&bytes, Duration::ZERO).unwrap();
        assert_eq!(later.message.expires_at, Some(Duration::from_secs(60)));
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(decode_delivery(&bytes, now), None, "byte {at}");
            bytes[at] ^= 1;
        }
        delivery.share = Some("$share/g/t".into());
        let shared = encode_delivery(&delivery, now);
        assert_eq!(decode_delivery(&shared, now), Some(delivery));
    }
}
