//! MQTT as the double of the hub reads and writes it: no more than a hub of a bridge needs, by hand from the
//! standard, so that it owes nothing to the bridge's own codec.

use super::world::Id;

pub const CONNECT: u8 = 1;
pub const CONNACK: u8 = 2;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PINGREQ: u8 = 12;

/// A whole packet of the bridge.
#[derive(Debug, Clone)]
pub struct Packet {
    pub kind: u8,
    pub size: usize,
    pub publish: Option<Publish>,
    pub connect: Option<Connect>,
}

#[derive(Debug, Clone)]
pub struct Connect {
    pub level: u8,
    pub client_id: String,
}

#[derive(Debug, Clone)]
pub struct Publish {
    pub packet_id: u16,
    pub topic: String,
    pub qos: u8,
    /// `(0, 0)`: an empty publish, sent to probe.
    pub id: Id,
    pub payload: Vec<u8>,
    /// The user properties `id`, if there.
    pub identity: Option<String>,
}

/// The length that a fixed header tells, and how many bytes it takes.
fn remaining(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (n, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((length, n + 1));
        }
    }
    None
}

fn text(body: &[u8], at: usize) -> (String, usize) {
    let length = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let end = at + 2 + length;
    let text = String::from_utf8_lossy(&body[at + 2..end]).into_owned();
    (text, end)
}

/// Takes the whole packets from the front of `bytes`; what remains is the beginning of the next.
/// `level` is that of the CONNECT before, 0 where it is still to come.
pub fn take_whole(bytes: &mut Vec<u8>, level: &mut u8) -> Vec<Packet> {
    let mut packets = Vec::new();
    let mut at = 0;
    while let Some((length, field)) = bytes.get(at + 1..).and_then(remaining) {
        let body = at + 1 + field;
        let Some(whole) = bytes.get(body..body + length) else {
            break;
        };
        let packet = packet(bytes[at], whole, 1 + field + length, *level);
        *level = packet.connect.as_ref().map_or(*level, |c| c.level);
        packets.push(packet);
        at = body + length;
    }
    bytes.drain(..at);
    packets
}

fn packet(first: u8, body: &[u8], size: usize, level: u8) -> Packet {
    let kind = first >> 4;
    Packet {
        kind,
        size,
        publish: (kind == PUBLISH).then(|| publish(first, body, level)),
        connect: (kind == CONNECT).then(|| connect(body)),
    }
}

fn connect(body: &[u8]) -> Connect {
    let level = body[6];
    let properties = if level == 5 {
        1 + usize::from(body[10])
    } else {
        0
    };
    let client_id = text(body, 10 + properties).0;
    Connect { level, client_id }
}

fn publish(first: u8, body: &[u8], level: u8) -> Publish {
    let (topic, at) = text(body, 0);
    let packet_id = u16::from_be_bytes([body[at], body[at + 1]]);
    let at = at + 2;
    let (length, field) = if level == 5 {
        remaining(&body[at..]).expect("the length of properties")
    } else {
        (0, 0)
    };
    let properties = &body[at + field..at + field + length];
    let payload = body[at + field + length..].to_vec();
    let id = if payload.len() < 12 {
        (0, 0)
    } else {
        let epoch = u32::from_be_bytes(payload[..4].try_into().unwrap());
        (
            epoch,
            u64::from_be_bytes(payload[4..12].try_into().unwrap()),
        )
    };
    Publish {
        packet_id,
        topic,
        qos: first >> 1 & 3,
        id,
        identity: user_property(properties, "id"),
        payload,
    }
}

/// A user property by its name; the readings of the simulation have no other properties.
fn user_property(mut properties: &[u8], name: &str) -> Option<String> {
    while properties.first() == Some(&0x26) {
        let (key, at) = text(properties, 1);
        let (value, end) = text(properties, at);
        if key == name {
            return Some(value);
        }
        properties = &properties[end..];
    }
    None
}

pub fn connack(code: u8, receive_maximum: Option<u16>, packet_bytes_max: Option<u32>) -> Vec<u8> {
    let mut properties = Vec::new();
    if let Some(max) = receive_maximum {
        properties.push(0x21);
        properties.extend(max.to_be_bytes());
    }
    if let Some(max) = packet_bytes_max {
        properties.push(0x27);
        properties.extend(max.to_be_bytes());
    }
    let length = u8::try_from(properties.len()).unwrap();
    let mut packet = vec![0x20, length + 3, 0, code, length];
    packet.extend(properties);
    packet
}

pub fn puback(packet_id: u16, code: u8) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    if code == 0 {
        vec![0x40, 2, high, low]
    } else {
        vec![0x40, 3, high, low, code]
    }
}

pub fn disconnect(code: u8) -> Vec<u8> {
    // With the length of no properties, and without it.
    if code.is_multiple_of(2) {
        vec![0xe0, 2, code, 0]
    } else {
        vec![0xe0, 1, code]
    }
}

/// MQTT 3.1.1 knows neither properties nor most of the reasons.
pub fn connack_311(code: u8) -> Vec<u8> {
    let code = match code {
        0 => 0,
        0x84 => 1,
        0x85 => 2,
        0x86 => 4,
        0x87 => 5,
        _ => 3,
    };
    vec![0x20, 2, 0, code]
}

/// Kind, packet id and code of each packet in bytes that a hub sent.
pub fn from_hub(bytes: &[u8]) -> Vec<(u8, u16, u8)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((length, field)) = bytes.get(at + 1..).and_then(remaining) {
        let Some(body) = bytes.get(at + 1 + field..at + 1 + field + length) else {
            break;
        };
        let kind = bytes[at] >> 4;
        let code = |n: usize| body.get(n).copied().unwrap_or(0);
        found.push(match kind {
            PUBACK => (kind, u16::from_be_bytes([code(0), code(1)]), code(2)),
            CONNACK => (kind, 0, code(1)),
            _ => (kind, 0, code(0)),
        });
        at += 1 + field + length;
    }
    found
}
