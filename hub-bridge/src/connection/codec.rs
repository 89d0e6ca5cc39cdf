//! MQTT packets as the bridge needs them, in both versions: rumqttc's packet types and codecs do the work.
//!
//! What the hub sends is judged here and nowhere else: a packet that a hub may not send ends the connection.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use rumqttc::{QoS as QoS4, v5::mqttbytes::QoS as QoS5};

use super::{HubLimits, Verdict};
use crate::classify::{self, ErrorClass, Failure, VersionHint};
use crate::inflight::PacketId;
use crate::packet::Outgoing;
use crate::version::Version;

/// The largest packet that MQTT can carry, in bytes (MQTT 3.1.1, 2.2.3).
const PACKET_BYTES_MAX: usize = 268_435_455 + 5;
/// The largest packet taken from the hub, in bytes: a receipt of all its ranges.
const INCOMING_BYTES_MAX: usize = 64 * 1024;
/// The packet id of the one SUBSCRIBE, sent before any PUBLISH: theirs count from 1.
const SUBSCRIBE_ID: u16 = u16::MAX;

/// What is said in a CONNECT.
pub(super) struct Hello {
    pub(super) client_id: String,
    pub(super) keep_alive: Duration,
    pub(super) credentials: Option<(String, String)>,
}

/// What the hub said.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// CONNACK that accepts, and the keep alive that the hub wants.
    Accepted(HubLimits, Option<Duration>),
    /// PUBACK.
    Answered(PacketId, Verdict),
    /// PINGRESP.
    Pong,
    /// A message on a topic that was subscribed to.
    Message { topic: String, payload: Bytes },
    /// SUBACK that accepts.
    Subscribed,
}

/// Writes and reads one version's packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codec(pub(super) Version);

impl Codec {
    /// Appends a CONNECT for a session of its own.
    pub(super) fn connect(self, hello: Hello, out: &mut BytesMut) -> Result<(), Failure> {
        let keep_alive = u16::try_from(hello.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let written = match self.0 {
            Version::V5 => {
                let login = hello
                    .credentials
                    .map(|(username, password)| v5::Login { username, password });
                let connect = v5::Connect {
                    keep_alive,
                    client_id: hello.client_id,
                    clean_start: true,
                    properties: None,
                };
                connect
                    .write(&None, &login, out)
                    .map_err(|error| unwritable(&error))
            }
            Version::V311 => {
                let mut connect = v4::Connect::new(hello.client_id);
                connect.keep_alive = keep_alive;
                connect.login = hello
                    .credentials
                    .map(|(username, password)| v4::Login::new(username, password));
                let packet = v4::Packet::Connect(connect);
                packet
                    .write(out, PACKET_BYTES_MAX)
                    .map_err(|error| unwritable(&error))
            }
        };
        written.map(drop)
    }

    /// Appends a PUBLISH of `QoS` 1.
    pub(super) fn publish(
        self,
        id: PacketId,
        outgoing: Outgoing,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let Outgoing {
            topic,
            retain,
            payload,
            properties,
        } = outgoing;
        out.reserve(payload.len() + topic.len() + 64);
        let written = match self.0 {
            Version::V5 => v5::Publish {
                dup: false,
                qos: QoS5::AtLeastOnce,
                retain,
                topic: topic.into(),
                pkid: id.0,
                payload,
                properties,
            }
            .write(out)
            .map_err(|error| unwritable(&error)),
            Version::V311 => {
                let mut publish = v4::Publish::from_bytes(topic, QoS4::AtLeastOnce, payload);
                publish.retain = retain;
                publish.pkid = id.0;
                publish.write(out).map_err(|error| unwritable(&error))
            }
        };
        written.map(drop)
    }

    /// Appends a SUBSCRIBE with `QoS` 0: what is lost of a receipt is in the next.
    pub(super) fn subscribe(self, filters: &[String], out: &mut BytesMut) -> Result<(), Failure> {
        let written = match self.0 {
            Version::V5 => {
                let filter = |filter: &String| v5::Filter::new(filter.clone(), QoS5::AtMostOnce);
                let mut subscribe = v5::Subscribe::new_many(filters.iter().map(filter), None);
                subscribe.pkid = SUBSCRIBE_ID;
                subscribe.write(out).map_err(|error| unwritable(&error))
            }
            Version::V311 => {
                let filter =
                    |filter: &String| v4::SubscribeFilter::new(filter.clone(), QoS4::AtMostOnce);
                let mut subscribe = v4::Subscribe::new_many(filters.iter().map(filter));
                subscribe.pkid = SUBSCRIBE_ID;
                subscribe.write(out).map_err(|error| unwritable(&error))
            }
        };
        written.map(drop)
    }

    /// Appends a PINGREQ.
    pub(super) fn ping(out: &mut BytesMut) {
        out.put_slice(&[0xc0, 0]);
    }

    /// Appends a DISCONNECT: the same two bytes in both versions.
    pub(super) fn disconnect(out: &mut BytesMut) {
        out.put_slice(&[0xe0, 0]);
    }

    /// Takes the next packet off `incoming`; `None`: it is not all there yet.
    pub(super) fn take(self, incoming: &mut BytesMut) -> Result<Option<Heard>, Failure> {
        // The one that comes by the hundred thousand.
        if let Some(&[0x40, 2, high, low]) = incoming.get(..4) {
            let id = PacketId(u16::from_be_bytes([high, low]));
            bytes::Buf::advance(incoming, 4);
            return Ok(Some(Heard::Answered(id, Verdict::Taken)));
        }
        let Some(length) = frame_length(incoming)? else {
            return Ok(None);
        };
        let mut frame = incoming.split_to(length);
        match self.0 {
            Version::V5 => read5(&mut frame).map(Some),
            Version::V311 => read4(&mut frame).map(Some),
        }
    }
}

/// The length of the packet that `incoming` begins with, once all of it is there.
fn frame_length(incoming: &BytesMut) -> Result<Option<usize>, Failure> {
    let mut length = 0_usize;
    for (place, byte) in incoming.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let whole = 2 + place + length;
            if whole > INCOMING_BYTES_MAX {
                let words = format!("a packet of {whole} bytes from the hub");
                return Err(Failure::new(ErrorClass::Protocol, words));
            }
            return Ok((incoming.len() >= whole).then_some(whole));
        }
    }
    if incoming.len() > 4 {
        return Err(broken("a remaining length of more than four bytes"));
    }
    Ok(None)
}

fn read5(frame: &mut BytesMut) -> Result<Heard, Failure> {
    match **frame {
        // The short form means a reason of 0 (MQTT 5, 3.14.2.1).
        [0xe0, 0] => {
            let normal = v5::DisconnectReasonCode::NormalDisconnection;
            return Err(classify::of_disconnect(normal, None));
        }
        // The form without properties, which mosquitto sends; rumqttc looks for their length all the same.
        [0xe0, 1, code] => {
            let reason = v5::DisconnectReasonCode::try_from(code)
                .map_err(|error| broken(&error.to_string()))?;
            return Err(classify::of_disconnect(reason, None));
        }
        [0x20, 2, _, code] => return Err(classify::of_connack_in_311(code)),
        _ => {}
    }
    let packet = v5::Packet::read(frame, None).map_err(|error| match error {
        rumqttc::v5::mqttbytes::Error::InvalidConnectReturnCode(1) => {
            classify::of_connack_in_311(1)
        }
        other => broken(&other.to_string()),
    })?;
    match packet {
        v5::Packet::PubAck(ack) => Ok(Heard::Answered(PacketId(ack.pkid), verdict(ack.reason))),
        v5::Packet::PingResp(_) => Ok(Heard::Pong),
        v5::Packet::Publish(publish) if publish.pkid == 0 => Ok(Heard::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
        }),
        v5::Packet::SubAck(ack) if ack.pkid == SUBSCRIBE_ID => {
            let refused = ack.return_codes.iter();
            let mut refused =
                refused.filter(|code| !matches!(code, v5::SubscribeReasonCode::Success(_)));
            refused
                .next()
                .map_or(Ok(Heard::Subscribed), |code| Err(no_receipts(code)))
        }
        v5::Packet::ConnAck(ack) if ack.code == v5::ConnectReturnCode::Success => {
            let keep_alive = ack.properties.as_ref().and_then(|p| p.server_keep_alive);
            let keep_alive = keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
            Ok(Heard::Accepted(limits(&ack), keep_alive))
        }
        v5::Packet::ConnAck(ack) => Err(classify::of_code5(ack.code)),
        v5::Packet::Disconnect(disconnect) => {
            let words = disconnect.properties.and_then(|p| p.reason_string);
            Err(classify::of_disconnect(
                disconnect.reason_code,
                words.as_deref(),
            ))
        }
        other => Err(unexpected(&other)),
    }
}

fn read4(frame: &mut BytesMut) -> Result<Heard, Failure> {
    // A reason, perhaps a refusal, that only MQTT 5 knows: rumqttc reads over it.
    if frame.starts_with(&[0x40]) && frame.len() != 4 {
        return Err(broken("a PUBACK of MQTT 3.1.1 with more than a packet id"));
    }
    let packet =
        v4::Packet::read(frame, INCOMING_BYTES_MAX).map_err(|error| broken(&error.to_string()))?;
    match packet {
        v4::Packet::PubAck(ack) => Ok(Heard::Answered(PacketId(ack.pkid), Verdict::Taken)),
        v4::Packet::PingResp => Ok(Heard::Pong),
        v4::Packet::Publish(publish) if publish.pkid == 0 => Ok(Heard::Message {
            topic: publish.topic,
            payload: publish.payload,
        }),
        v4::Packet::SubAck(ack) if ack.pkid == SUBSCRIBE_ID => {
            let failed = ack.return_codes.contains(&v4::SubscribeReasonCode::Failure);
            if failed {
                Err(no_receipts(&"0x80"))
            } else {
                Ok(Heard::Subscribed)
            }
        }
        v4::Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => {
            let limits = HubLimits {
                receive_maximum: None,
                packet_bytes_max: None,
                retain: true,
            };
            Ok(Heard::Accepted(limits, None))
        }
        v4::Packet::ConnAck(ack) => Err(classify::of_code4(ack.code)),
        other => Err(unexpected(&other)),
    }
}

fn limits(connack: &v5::ConnAck) -> HubLimits {
    let properties = connack.properties.as_ref();
    HubLimits {
        receive_maximum: properties.and_then(|p| p.receive_max),
        packet_bytes_max: properties.and_then(|p| p.max_packet_size),
        retain: properties.and_then(|p| p.retain_available) != Some(0),
    }
}

fn verdict(reason: v5::PubAckReason) -> Verdict {
    use v5::PubAckReason as Reason;
    match reason {
        Reason::Success => Verdict::Taken,
        Reason::NoMatchingSubscribers => Verdict::NoSubscriber,
        Reason::TopicNameInvalid => Verdict::Never("topic name invalid (0x90)"),
        Reason::PayloadFormatInvalid => Verdict::Never("payload format invalid (0x99)"),
        Reason::QuotaExceeded => Verdict::NotNow("quota exceeded (0x97)"),
        Reason::PacketIdentifierInUse => Verdict::NotNow("packet id in use (0x91)"),
        Reason::UnspecifiedError => Verdict::Unwanted("unspecified error (0x80)"),
        Reason::ImplementationSpecificError => {
            Verdict::Unwanted("implementation specific error (0x83)")
        }
        Reason::NotAuthorized => Verdict::Unwanted("not authorized (0x87)"),
    }
}

fn no_receipts(code: &dyn std::fmt::Debug) -> Failure {
    let words = format!("the hub does not let us subscribe to receipts: {code:?}");
    Failure::new(ErrorClass::Refused, words).of_no_reading()
}

fn unexpected(packet: &dyn std::fmt::Debug) -> Failure {
    broken(&format!("{packet:?}, which no hub may send here"))
}

fn broken(words: &str) -> Failure {
    let words = format!("from the hub: {words}");
    Failure::new(ErrorClass::Protocol, words).hint(VersionHint::Perhaps)
}

/// The error holds no payload.
fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorClass::Protocol, format!("cannot be written: {error}"))
}
