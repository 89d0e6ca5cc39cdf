//! The fuzz function of the codec: what we take rumqttc's and rumqttd's decoders take too, as the same; what we
//! write they read.
//!
//! The other way round does not hold, since they take what the standard forbids: reserved flags, padded lengths,
//! wildcards and NUL in names, properties that do not belong there. What they are known to get wrong is left out by name.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use bytes::BytesMut;
use fuzz_harness::{Input, within};
use rumqttc::mqttbytes as c4;
use rumqttc::v5::mqttbytes as c5;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{self as d, Protocol};

use super::packet::{self, Packet};
use super::{Version, connect, wire};
use crate::broker::topic;

const BYTES_MAX: usize = 1 << 20;

pub(crate) fn codec(data: &[u8]) {
    let mut input = Input::new(data);
    let version = if input.flag() {
        Version::V5
    } else {
        Version::V4
    };
    let bytes = input.rest();
    within((1 << 20) + bytes.len() * 64, || {
        let Ok(Some(frame)) = wire::frame(bytes, BYTES_MAX) else {
            return;
        };
        assert!(frame.end <= bytes.len() && frame.body_at <= frame.end);
        // Nothing of it is known any earlier.
        assert_eq!(wire::frame(&bytes[..frame.end - 1], BYTES_MAX), Ok(None));
        assert!(wire::frame(bytes, frame.end - 1).is_err(), "over the limit");
        let one = &bytes[..frame.end];
        let _ = connect::read(frame.first_byte, &bytes[frame.body_at..frame.end]);
        if let Ok(packet) = packet::read(version, frame, bytes) {
            match version {
                Version::V4 => {
                    like_rumqttc_4(&packet, one);
                }
                Version::V5 => like_rumqttc_5(&packet, one),
            }
            like_rumqttd(version, &packet, one);
        }
    });
}

/// What none of them decodes as we do, and we are right.
fn is_known(packet: &Packet<'_>) -> bool {
    match packet {
        // They want texts; we look at the topic only when it is used.
        Packet::Publish(publish) => {
            std::str::from_utf8(publish.topic).map_or(true, |t| topic::check_name(t).is_err())
        }
        _ => false,
    }
}

fn like_rumqttc_4(packet: &Packet<'_>, bytes: &[u8]) {
    use c4::v4::Packet as P;
    if is_known(packet) {
        return;
    }
    let theirs = match P::read(&mut BytesMut::from(bytes), BYTES_MAX) {
        Ok(theirs) => theirs,
        Err(error) => panic!("{error:?}, but we read {packet:?}"),
    };
    let same = match (packet, &theirs) {
        (Packet::Publish(us), P::Publish(them)) => {
            (us.dup, us.qos, us.retain, us.id) == (them.dup, them.qos as u8, them.retain, them.pkid)
                && us.topic == them.topic.as_bytes()
                && us.payload == them.payload
        }
        (Packet::PubAck { id }, P::PubAck(them)) => *id == them.pkid,
        (Packet::PubRec { id, .. }, P::PubRec(them)) => *id == them.pkid,
        (Packet::PubRel { id }, P::PubRel(them)) => *id == them.pkid,
        (Packet::PubComp { id }, P::PubComp(them)) => *id == them.pkid,
        (Packet::Subscribe(us), P::Subscribe(them)) => {
            let filters = us.filters.iter().map(|f| (&f.path, f.qos as u8));
            let theirs = them.filters.iter().map(|f| (&f.path, f.qos as u8));
            us.id == them.pkid && filters.eq(theirs)
        }
        (Packet::Unsubscribe { id, filters }, P::Unsubscribe(them)) => {
            *id == them.pkid && *filters == them.topics
        }
        (Packet::PingReq, P::PingReq) | (Packet::Disconnect { .. }, P::Disconnect) => true,
        _ => false,
    };
    assert!(same, "we read {packet:?}, rumqttc {theirs:?}");
    // MQTT 3.1.1 has one way to say a thing.
    let mut again = BytesMut::new();
    theirs
        .write(&mut again, BYTES_MAX)
        .expect("it can be written");
    assert_eq!(again, bytes, "{packet:?} is written otherwise");
}

fn like_rumqttc_5(packet: &Packet<'_>, bytes: &[u8]) {
    use c5::v5::Packet as P;
    if is_known(packet) {
        return;
    }
    let theirs = match P::read(&mut BytesMut::from(bytes), None) {
        Ok(theirs) => theirs,
        // Reason codes that are none: an acknowledgement is one all the same.
        Err(_) if !matches!(packet, Packet::Publish(_) | Packet::Subscribe(_)) => return,
        Err(error) => panic!("{error:?}, but we read {packet:?}"),
    };
    let same = match (packet, &theirs) {
        (Packet::Publish(us), P::Publish(them)) => {
            let properties = us.properties.as_deref().cloned().unwrap_or_default();
            let found = them.properties.clone().unwrap_or_default();
            assert_eq!(properties.topic_alias, found.topic_alias);
            assert_eq!(
                properties.message_expiry_interval,
                found.message_expiry_interval
            );
            assert_eq!(
                properties.payload_format_indicator,
                found.payload_format_indicator
            );
            assert_eq!(properties.content_type, found.content_type);
            assert_eq!(properties.response_topic, found.response_topic);
            assert_eq!(properties.correlation_data, found.correlation_data);
            assert_eq!(properties.user_properties, found.user_properties);
            (us.dup, us.qos, us.retain, us.id) == (them.dup, them.qos as u8, them.retain, them.pkid)
                && us.topic == them.topic
                && us.payload == them.payload
        }
        (Packet::PubAck { id }, P::PubAck(them)) => *id == them.pkid,
        (Packet::PubRec { id, .. }, P::PubRec(them)) => *id == them.pkid,
        (Packet::PubRel { id }, P::PubRel(them)) => *id == them.pkid,
        (Packet::PubComp { id }, P::PubComp(them)) => *id == them.pkid,
        (Packet::Subscribe(us), P::Subscribe(them)) => {
            let filters = us
                .filters
                .iter()
                .map(|f| (&f.path, f.qos as u8, f.nolocal, f.preserve_retain));
            let theirs = them
                .filters
                .iter()
                .map(|f| (&f.path, f.qos as u8, f.nolocal, f.preserve_retain));
            us.id == them.pkid && filters.eq(theirs)
        }
        (Packet::Unsubscribe { id, filters }, P::Unsubscribe(them)) => {
            *id == them.pkid && *filters == them.filters
        }
        (Packet::PingReq, P::PingReq(_)) | (Packet::Disconnect { .. }, P::Disconnect(_)) => true,
        _ => false,
    };
    assert!(same, "we read {packet:?}, rumqttc {theirs:?}");
}

fn like_rumqttd(version: Version, packet: &Packet<'_>, bytes: &[u8]) {
    if is_known(packet) {
        return;
    }
    let mut rest = BytesMut::from(bytes);
    let read = match version {
        Version::V4 => V4.read_mut(&mut rest, BYTES_MAX),
        Version::V5 => V5.read_mut(&mut rest, BYTES_MAX),
    };
    let Ok(theirs) = read else {
        return;
    };
    let same = match (packet, &theirs) {
        (Packet::Publish(us), d::Packet::Publish(them, _)) => {
            // First byte, packet id, topic, payload.
            let first = 0x30 | u8::from(us.dup) << 3 | us.qos << 1 | u8::from(us.retain);
            let mut ours = vec![first];
            ours.extend(us.id.to_be_bytes());
            ours.extend(u16::try_from(us.topic.len()).unwrap_or(0).to_be_bytes());
            ours.extend(us.topic);
            ours.extend(us.payload);
            them.serialize() == ours
        }
        (Packet::Subscribe(us), d::Packet::Subscribe(them, _)) => {
            us.id == them.pkid && us.filters == them.filters
        }
        (Packet::Unsubscribe { id, filters }, d::Packet::Unsubscribe(them, _)) => {
            *id == them.pkid && *filters == them.filters
        }
        (Packet::PubAck { id }, d::Packet::PubAck(them, _)) => *id == them.pkid,
        (Packet::PubRec { id, .. }, d::Packet::PubRec(them, _)) => *id == them.pkid,
        (Packet::PubRel { id }, d::Packet::PubRel(them, _)) => *id == them.pkid,
        (Packet::PubComp { id }, d::Packet::PubComp(them, _)) => *id == them.pkid,
        (Packet::PingReq, d::Packet::PingReq(_))
        | (Packet::Disconnect { .. }, d::Packet::Disconnect(..)) => true,
        _ => false,
    };
    assert!(same, "we read {packet:?}, rumqttd {theirs:?}");
}
