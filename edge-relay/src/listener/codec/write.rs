//! What clients get. PUBLISH and the acknowledgements of the hot path are written here; rumqttd's codec
//! writes the rest (its `Publish` keeps `QoS` and packet id to itself).

use bytes::{BufMut, BytesMut};
use hub_bridge::reading::PublishProperties;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{
    ConnAck, ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, Packet, Protocol, SubAck,
    SubscribeReasonCode, UnsubAck, UnsubAckReason,
};

use super::Version;
use crate::broker::message::Delivery;

/// First bytes of the acknowledgements.
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;

/// PUBACK, PUBREC, PUBREL or PUBCOMP; `reason` is left out where it is 0, and for MQTT 3.1.1.
pub(crate) fn acknowledgement(
    out: &mut BytesMut,
    version: Version,
    first: u8,
    id: u16,
    reason: u8,
) {
    let [high, low] = id.to_be_bytes();
    if reason == 0 || version == Version::V4 {
        out.put_slice(&[first, 2, high, low]);
    } else {
        out.put_slice(&[first, 3, high, low, reason]);
    }
}

/// PINGRESP.
pub(crate) fn ping_response(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// CONNACK. MQTT 3.1.1 knows few codes; what it does not know is "server unavailable".
pub(crate) fn connack(
    out: &mut BytesMut,
    version: Version,
    session_present: bool,
    code: ConnectReturnCode,
    properties: ConnAckProperties,
) {
    use ConnectReturnCode as Code;
    let code = match (version, code) {
        (Version::V4, Code::UnsupportedProtocolVersion) => Code::RefusedProtocolVersion,
        (Version::V5, code)
        | (
            Version::V4,
            code @ (Code::Success
            | Code::RefusedProtocolVersion
            | Code::ClientIdentifierNotValid
            | Code::BadUserNamePassword
            | Code::NotAuthorized),
        ) => code,
        (Version::V4, _) => Code::ServiceUnavailable,
    };
    let packet = ConnAck {
        session_present,
        code,
    };
    put(out, version, Packet::ConnAck(packet, Some(properties)));
}

/// SUBACK.
pub(crate) fn suback(
    out: &mut BytesMut,
    version: Version,
    id: u16,
    codes: Vec<SubscribeReasonCode>,
) {
    use SubscribeReasonCode as Code;
    let return_codes = match version {
        Version::V5 => codes,
        Version::V4 => codes
            .into_iter()
            .map(|code| match code {
                Code::QoS0 | Code::QoS1 | Code::QoS2 | Code::Success(_) => code,
                _ => Code::Failure,
            })
            .collect(),
    };
    let packet = SubAck {
        pkid: id,
        return_codes,
    };
    put(out, version, Packet::SubAck(packet, None));
}

/// UNSUBACK.
pub(crate) fn unsuback(
    out: &mut BytesMut,
    version: Version,
    id: u16,
    reasons: Vec<UnsubAckReason>,
) {
    put(
        out,
        version,
        Packet::UnsubAck(UnsubAck { pkid: id, reasons }, None),
    );
}

/// DISCONNECT: a server of MQTT 3.1.1 has none, it closes. rumqttd's encoder gets the length wrong here: with
/// properties it leaves out the reason, without them it writes a byte too many. The empty list of properties could be
/// left out; the decoders of rumqttd and rumqttc want it.
pub(crate) fn disconnect(out: &mut BytesMut, version: Version, reason: DisconnectReasonCode) {
    if version == Version::V5 {
        out.put_slice(&[0xE0, 2, disconnect_code(reason), 0]);
    }
}

/// The reasons that this server gives (MQTT 5, 3.14.2.1).
fn disconnect_code(reason: DisconnectReasonCode) -> u8 {
    use DisconnectReasonCode as Code;
    match reason {
        Code::MalformedPacket => 0x81,
        Code::ProtocolError => 0x82,
        Code::ServerShuttingDown => 0x8B,
        Code::KeepAliveTimeout => 0x8D,
        Code::SessionTakenOver => 0x8E,
        Code::TopicNameInvalid => 0x90,
        Code::ReceiveMaximumExceeded => 0x93,
        Code::TopicAliasInvalid => 0x94,
        Code::PacketTooLarge => 0x95,
        Code::QuotaExceeded => 0x97,
        _ => 0x80,
    }
}

fn put(out: &mut BytesMut, version: Version, packet: Packet) {
    let written = match version {
        Version::V4 => V4.write(packet, out),
        Version::V5 => V5.write(packet, out),
    };
    if let Err(error) = written {
        // Only a packet over 256 MiB, which is not made here.
        tracing::error!(%error, "a packet could not be encoded");
    }
}

/// How one PUBLISH to a subscriber differs from the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishHeader {
    pub(crate) version: Version,
    /// 0 for `QoS` 0.
    pub(crate) id: u16,
    pub(crate) dup: bool,
    /// What is left of the message's life [MQTT-3.3.2-6].
    pub(crate) expiry_s: Option<u32>,
}

/// PUBLISH; returns false, and writes nothing, where it would be over `bytes_max`.
pub(crate) fn publish(
    out: &mut BytesMut,
    header: PublishHeader,
    delivery: &Delivery,
    bytes_max: usize,
) -> bool {
    let message = &delivery.message;
    let properties = match header.version {
        Version::V4 => None,
        Version::V5 => Some(properties(header, delivery)),
    };
    let properties_bytes = properties
        .as_ref()
        .map_or(0, |p| varint_len(p.len()) + p.len());
    let id_bytes = if delivery.qos == 0 { 0 } else { 2 };
    let remaining = 2 + message.topic.len() + id_bytes + properties_bytes + message.payload.len();
    if 1 + varint_len(remaining) + remaining > bytes_max {
        return false;
    }
    out.reserve(5 + remaining);
    let flags = (u8::from(header.dup) << 3) | (delivery.qos << 1) | u8::from(delivery.retain);
    out.put_u8(0x30 | flags);
    put_varint(out, remaining);
    put_binary(out, message.topic.as_bytes());
    if delivery.qos > 0 {
        out.put_u16(header.id);
    }
    if let Some(properties) = properties {
        put_varint(out, properties.len());
        out.put_slice(&properties);
    }
    out.put_slice(&message.payload);
    true
}

fn properties(header: PublishHeader, delivery: &Delivery) -> BytesMut {
    let mut out = BytesMut::new();
    if let Some(seconds) = header.expiry_s {
        out.put_u8(2);
        out.put_u32(seconds);
    }
    if let Some(properties) = &delivery.message.properties {
        put_message_properties(&mut out, properties);
    }
    // Last: rumqttd's decoder counts a byte too many for each, and so would lose what comes behind.
    for id in &delivery.subscription_ids {
        out.put_u8(11);
        put_varint(&mut out, *id as usize);
    }
    out
}

fn put_message_properties(out: &mut BytesMut, properties: &PublishProperties) {
    if let Some(value) = properties.payload_format_indicator {
        out.put_slice(&[1, value]);
    }
    if let Some(text) = &properties.content_type {
        out.put_u8(3);
        put_binary(out, text.as_bytes());
    }
    if let Some(text) = &properties.response_topic {
        out.put_u8(8);
        put_binary(out, text.as_bytes());
    }
    if let Some(data) = &properties.correlation_data {
        out.put_u8(9);
        put_binary(out, data);
    }
    for (name, value) in &properties.user_properties {
        out.put_u8(38);
        put_binary(out, name.as_bytes());
        put_binary(out, value.as_bytes());
    }
}

/// All that is put came in with a length of two bytes.
fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes));
}

fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = u8::try_from(value & 0x7F).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}
