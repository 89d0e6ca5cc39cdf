//! Our codec against rumqttd's, an independent one: what one writes, the other reads as the same.
//!
//! Left out is what rumqttd is known to get wrong: its DISCONNECT of MQTT 5, more than two subscription identifiers,
//! and properties past the end of their list (`docs/adr/0003-broker-core.md`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use hub_bridge::reading::PublishProperties;
use proptest::prelude::*;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{self as theirs, Protocol as _};

use super::write::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, PublishHeader};
use super::{Version, connect, packet, wire};
use crate::broker::message::{Delivery, Message};

const BYTES_MAX: usize = 1 << 20;

fn written_by_them(version: Version, packet: theirs::Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    match version {
        Version::V4 => V4.write(packet, &mut bytes).unwrap(),
        Version::V5 => V5.write(packet, &mut bytes).unwrap(),
    };
    bytes
}

fn read_by_them(version: Version, bytes: &BytesMut) -> theirs::Packet {
    let mut bytes = bytes.clone();
    let packet = match version {
        Version::V4 => V4.read_mut(&mut bytes, BYTES_MAX).unwrap(),
        Version::V5 => V5.read_mut(&mut bytes, BYTES_MAX).unwrap(),
    };
    assert!(bytes.is_empty(), "bytes are left");
    packet
}

fn read_by_us(version: Version, bytes: &[u8]) -> packet::Packet<'_> {
    let frame = wire::frame(bytes, BYTES_MAX).unwrap().unwrap();
    assert_eq!(frame.end, bytes.len());
    packet::read(version, frame, bytes).unwrap()
}

/// A PUBLISH, in neither's terms.
#[derive(Debug, Clone)]
struct Sample {
    qos: u8,
    dup: bool,
    retain: bool,
    id: u16,
    topic: String,
    payload: Vec<u8>,
    expiry_s: Option<u32>,
    properties: PublishProperties,
}

impl Sample {
    fn flags(&self) -> u8 {
        0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain)
    }

    /// As `rumqttd::protocol::Publish::serialize` has it.
    fn serialized(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(self.flags());
        bytes.put_u16(self.id);
        bytes.put_u16(u16::try_from(self.topic.len()).unwrap());
        bytes.put_slice(self.topic.as_bytes());
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }

    fn their_properties(&self) -> theirs::PublishProperties {
        theirs::PublishProperties {
            payload_format_indicator: self.properties.payload_format_indicator,
            message_expiry_interval: self.expiry_s,
            topic_alias: None,
            response_topic: self.properties.response_topic.clone(),
            correlation_data: self.properties.correlation_data.clone(),
            user_properties: self.properties.user_properties.clone(),
            subscription_identifiers: Vec::new(),
            content_type: self.properties.content_type.clone(),
        }
    }

    fn delivery(&self, subscription_ids: Vec<u32>) -> Delivery {
        let message = Message {
            topic: self.topic.as_str().into(),
            payload: self.payload.clone().into(),
            qos: self.qos,
            retain: self.retain,
            publisher: "meter".into(),
            properties: Some(Box::new(self.properties.clone())),
            expires_at: None,
        };
        Delivery {
            message: Arc::new(message),
            qos: self.qos,
            retain: self.retain,
            subscription_ids,
            share: None,
        }
    }
}

fn topic() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9é水 _.-]{1,12}(/[a-zé]{0,5}){0,3}"
}

fn properties() -> impl Strategy<Value = PublishProperties> {
    let text = || "[a-zé水]{0,20}";
    (
        prop::option::of(0u8..2),
        prop::option::of(text()),
        prop::option::of(topic()),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        prop::collection::vec((text(), text()), 0..4),
    )
        .prop_map(
            |(format, content_type, response_topic, data, user)| PublishProperties {
                payload_format_indicator: format,
                content_type,
                response_topic,
                correlation_data: data.map(Bytes::from),
                user_properties: user,
            },
        )
}

fn sample() -> impl Strategy<Value = Sample> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(any::<u8>(), 16_000..17_000),
    ];
    let head = (0u8..3, any::<bool>(), any::<bool>(), 1u16..);
    (head, topic(), payload, any::<Option<u32>>(), properties()).prop_map(
        |((qos, dup, retain, id), topic, payload, expiry_s, properties)| Sample {
            qos,
            dup: dup && qos > 0,
            retain,
            id: if qos > 0 { id } else { 0 },
            topic,
            payload,
            expiry_s,
            properties,
        },
    )
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V4), Just(Version::V5)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn we_read_the_publish_that_they_write(version in version(), sample in sample()) {
        let publish = theirs::Publish::deserialize(sample.serialized());
        let properties = (version == Version::V5).then(|| sample.their_properties());
        let bytes = written_by_them(version, theirs::Packet::Publish(publish, properties));
        let packet::Packet::Publish(read) = read_by_us(version, &bytes) else {
            panic!("not a PUBLISH");
        };
        prop_assert_eq!(
            (read.qos, read.dup, read.retain, read.id, read.topic, read.payload),
            (sample.qos, sample.dup, sample.retain, sample.id, sample.topic.as_bytes(), &sample.payload[..])
        );
        let found = read.properties.map(|p| *p).unwrap_or_default();
        if version == Version::V5 {
            prop_assert_eq!(found.message_expiry_interval, sample.expiry_s);
            let found = found.into_message().map(|p| *p).unwrap_or_default();
            prop_assert_eq!(found, sample.properties);
        }
    }

    #[test]
    fn they_read_the_publish_that_we_write(
        version in version(),
        sample in sample(),
        ids in prop::collection::vec(1u32..268_435_456, 0..3),
    ) {
        let header = PublishHeader { version, id: sample.id, dup: sample.dup, expiry_s: sample.expiry_s };
        let mut bytes = BytesMut::new();
        prop_assert!(write::publish(&mut bytes, header, &sample.delivery(ids.clone()), BYTES_MAX));
        let theirs::Packet::Publish(read, properties) = read_by_them(version, &bytes) else {
            panic!("not a PUBLISH");
        };
        prop_assert_eq!(read.serialize(), sample.serialized());
        let mut wanted = sample.their_properties();
        wanted.subscription_identifiers = ids.iter().map(|id| *id as usize).collect();
        let none = theirs::PublishProperties {
            payload_format_indicator: None,
            message_expiry_interval: None,
            topic_alias: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
            subscription_identifiers: Vec::new(),
            content_type: None,
        };
        if version == Version::V5 {
            prop_assert_eq!(properties.unwrap_or(none), wanted);
        } else {
            prop_assert_eq!(properties, None);
        }
    }

    #[test]
    fn they_read_the_acknowledgements_that_we_write(version in version(), id in 1u16.., refused: bool) {
        let reason = if refused && version == Version::V5 { 0x92 } else { 0 };
        let quota = if refused && version == Version::V5 { 0x97 } else { 0 };
        for (first, reason) in [(PUBACK, quota), (PUBREC, quota), (PUBREL, reason), (PUBCOMP, reason)] {
            let mut bytes = BytesMut::new();
            write::acknowledgement(&mut bytes, version, first, id, reason);
            let refused = reason > 0;
            let (found, was_refused) = match read_by_them(version, &bytes) {
                theirs::Packet::PubAck(ack, _) => (ack.pkid, ack.reason != theirs::PubAckReason::Success),
                theirs::Packet::PubRec(ack, _) => (ack.pkid, ack.reason != theirs::PubRecReason::Success),
                theirs::Packet::PubRel(ack, _) => (ack.pkid, ack.reason != theirs::PubRelReason::Success),
                theirs::Packet::PubComp(ack, _) => (ack.pkid, ack.reason != theirs::PubCompReason::Success),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!((found, was_refused), (id, refused));
        }
    }

    #[test]
    fn we_read_the_connect_that_they_write(
        version in version(),
        id in "[a-zé]{0,30}",
        clean: bool,
        keep_alive: u16,
        will in prop::option::of((topic(), prop::collection::vec(any::<u8>(), 0..50), 0u8..3, any::<bool>())),
        login in prop::option::of(("[a-z]{1,9}", "[a-zé]{1,9}")),
    ) {
        let connect = theirs::Connect { keep_alive, client_id: id.clone(), clean_session: clean };
        let their_will = will.clone().map(|(topic, message, qos, retain)| theirs::LastWill {
            topic: topic.into(),
            message: message.into(),
            qos: theirs::qos(qos).unwrap(),
            retain,
        });
        let their_login = login.clone().map(|(username, password)| theirs::Login { username, password });
        let bytes = written_by_them(
            version,
            theirs::Packet::Connect(connect, None, their_will, None, their_login),
        );
        let frame = wire::frame(&bytes, BYTES_MAX).unwrap().unwrap();
        let read = connect::read(frame.first_byte, &bytes[frame.body_at..frame.end]).unwrap();
        prop_assert_eq!((read.version, read.clean_start, read.keep_alive_s, read.client_id),
            (version, clean, keep_alive, id));
        let found = read.will.map(|w| (w.topic, w.payload.to_vec(), w.qos, w.retain));
        prop_assert_eq!(found, will);
        let password = read.password.map(|p| String::from_utf8(p).unwrap());
        prop_assert_eq!(read.user_name.zip(password), login);
    }

    #[test]
    fn we_read_the_subscribe_and_unsubscribe_that_they_write(
        version in version(),
        id in 1u16..,
        filters in prop::collection::vec((topic(), 0u8..3, any::<bool>(), any::<bool>(), 0u8..3), 1..5),
    ) {
        let v5 = version == Version::V5;
        let wanted: Vec<theirs::Filter> = filters.iter().map(|(path, qos, no_local, retain, rule)| theirs::Filter {
            path: path.clone(),
            qos: theirs::qos(*qos).unwrap(),
            nolocal: v5 && *no_local,
            preserve_retain: v5 && *retain,
            retain_forward_rule: match rule {
                1 if v5 => theirs::RetainForwardRule::OnNewSubscribe,
                2 if v5 => theirs::RetainForwardRule::Never,
                _ => theirs::RetainForwardRule::OnEverySubscribe,
            },
        }).collect();
        let subscribe = theirs::Subscribe { pkid: id, filters: wanted.clone() };
        let bytes = written_by_them(version, theirs::Packet::Subscribe(subscribe, None));
        let packet::Packet::Subscribe(read) = read_by_us(version, &bytes) else {
            panic!("not a SUBSCRIBE");
        };
        prop_assert_eq!((read.id, read.filters), (id, wanted));
        let paths: Vec<String> = filters.into_iter().map(|f| f.0).collect();
        let unsubscribe = theirs::Unsubscribe { pkid: id, filters: paths.clone() };
        let bytes = written_by_them(version, theirs::Packet::Unsubscribe(unsubscribe, None));
        prop_assert_eq!(read_by_us(version, &bytes), packet::Packet::Unsubscribe { id, filters: paths });
    }
}

#[test]
fn they_read_the_disconnect_that_we_write() {
    use theirs::DisconnectReasonCode as Code;
    for code in [
        Code::MalformedPacket,
        Code::ProtocolError,
        Code::ServerShuttingDown,
        Code::KeepAliveTimeout,
        Code::SessionTakenOver,
        Code::TopicNameInvalid,
        Code::ReceiveMaximumExceeded,
        Code::TopicAliasInvalid,
        Code::PacketTooLarge,
        Code::QuotaExceeded,
    ] {
        let mut bytes = BytesMut::new();
        write::disconnect(&mut bytes, Version::V5, code);
        let theirs::Packet::Disconnect(read, _) = read_by_them(Version::V5, &bytes) else {
            panic!("not a DISCONNECT");
        };
        assert_eq!(read.reason_code, code);
    }
}
