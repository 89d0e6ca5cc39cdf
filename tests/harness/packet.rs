//! MQTT as bytes: enough of 3.1.1 and 5 to be a meter, a subscriber and a lying hub.
//!
//! Written for tests: whatever may be wrong on the wire can be built here, and what comes in is
//! checked, not trusted.

use std::io::{self, Read};

/// The protocol level of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// One control packet as it came: the first byte and what follows the remaining length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub first: u8,
    /// Variable header and payload.
    pub body: Vec<u8>,
}

/// Control packet types (MQTT 5, 2.1.2).
pub mod kind {
    /// CONNECT.
    pub const CONNECT: u8 = 1;
    /// CONNACK.
    pub const CONNACK: u8 = 2;
    /// PUBLISH.
    pub const PUBLISH: u8 = 3;
    /// PUBACK.
    pub const PUBACK: u8 = 4;
    /// PUBREC.
    pub const PUBREC: u8 = 5;
    /// PUBREL.
    pub const PUBREL: u8 = 6;
    /// PUBCOMP.
    pub const PUBCOMP: u8 = 7;
    /// SUBSCRIBE.
    pub const SUBSCRIBE: u8 = 8;
    /// SUBACK.
    pub const SUBACK: u8 = 9;
    /// PINGREQ.
    pub const PINGREQ: u8 = 12;
    /// PINGRESP.
    pub const PINGRESP: u8 = 13;
    /// DISCONNECT.
    pub const DISCONNECT: u8 = 14;
}

impl Packet {
    /// The packet type, 0 to 15.
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet id of PUBACK, PUBREC, PUBREL, PUBCOMP and SUBACK.
    pub fn packet_id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The reason code of PUBACK, PUBREC, PUBREL and PUBCOMP; 0 where none is written.
    pub fn ack_reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or(0)
    }

    /// Reads one packet. End of stream is `UnexpectedEof`.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut byte = [0_u8; 1];
        from.read_exact(&mut byte)?;
        let first = byte[0];
        let mut length = 0_usize;
        for shift in 0..4 {
            from.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << (7 * shift);
            if byte[0] & 0x80 == 0 {
                let mut body = vec![0; length];
                from.read_exact(&mut body)?;
                return Ok(Self { first, body });
            }
        }
        Err(invalid("remaining length of more than four bytes"))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The value of an MQTT 5 property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Byte, two and four byte integer, variable byte integer.
    Number(u32),
    /// Text or binary data.
    Bytes(Vec<u8>),
    /// A user property.
    Pair(String, String),
}

/// An MQTT 5 property: its identifier and value.
pub type Property = (u8, Value);

/// Property identifiers that the tests use (MQTT 5, 2.2.2.2).
pub mod property {
    /// Payload format indicator.
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    /// Content type.
    pub const CONTENT_TYPE: u8 = 0x03;
    /// Response topic.
    pub const RESPONSE_TOPIC: u8 = 0x08;
    /// Correlation data.
    pub const CORRELATION_DATA: u8 = 0x09;
    /// Session expiry interval, in s.
    pub const SESSION_EXPIRY: u8 = 0x11;
    /// Receive maximum.
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    /// User property.
    pub const USER: u8 = 0x26;
    /// Maximum packet size, in bytes.
    pub const PACKET_SIZE_MAX: u8 = 0x27;
}

/// How many bytes a property's value has: 1, 2, 4; 0 varint, 11 text, 12 binary, 13 pair.
fn shape(id: u8) -> Option<u8> {
    Some(match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
        0x13 | 0x21 | 0x22 | 0x23 => 2,
        0x02 | 0x11 | 0x18 | 0x27 => 4,
        0x0b => 0,
        0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c | 0x1f => 11,
        0x09 | 0x16 => 12,
        0x26 => 13,
        _ => return None,
    })
}

/// A cursor over a packet's body.
#[derive(Debug)]
pub struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// Over `bytes`, from the start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        if count > self.0.len() {
            return Err(invalid("packet ends early"));
        }
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// Two bytes, big endian.
    pub fn u16(&mut self) -> io::Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes with a two byte length before them.
    pub fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// Text with a two byte length before it.
    pub fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| invalid("text is not UTF-8"))
    }

    /// A variable byte integer.
    pub fn varint(&mut self) -> io::Result<usize> {
        let mut number = 0;
        for shift in 0..4 {
            let byte = self.u8()?;
            number |= usize::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(invalid("variable byte integer of more than four bytes"))
    }

    /// A property list with its length before it.
    pub fn properties(&mut self) -> io::Result<Vec<Property>> {
        let length = self.varint()?;
        let mut list = Body(self.take(length)?);
        let mut properties = Vec::new();
        while !list.0.is_empty() {
            let id = list.u8()?;
            properties.push((id, list.value(id)?));
        }
        Ok(properties)
    }

    fn value(&mut self, id: u8) -> io::Result<Value> {
        Ok(match shape(id) {
            Some(0) => Value::Number(u32::try_from(self.varint()?).unwrap_or(u32::MAX)),
            Some(count @ 1..=4) => {
                let bytes = self.take(usize::from(count))?;
                Value::Number(bytes.iter().fold(0, |n, b| (n << 8) | u32::from(*b)))
            }
            Some(11 | 12) => Value::Bytes(self.bytes()?.to_vec()),
            Some(_) => Value::Pair(self.text()?, self.text()?),
            None => return Err(invalid("unknown property")),
        })
    }
}

/// A packet from its first byte and body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    push_varint(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// Appends a variable byte integer.
pub fn push_varint(to: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        to.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return;
        }
    }
}

/// Appends bytes with their two byte length.
pub fn push_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("at most 65,535 bytes");
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Appends a property list with its length.
pub fn push_properties(to: &mut Vec<u8>, properties: &[Property]) {
    let mut list = Vec::new();
    for (id, value) in properties {
        list.push(*id);
        match (value, shape(*id).expect("a known property")) {
            (Value::Number(n), 0) => push_varint(&mut list, *n as usize),
            (Value::Number(n), count) => {
                list.extend_from_slice(&n.to_be_bytes()[4 - usize::from(count)..]);
            }
            (Value::Bytes(bytes), _) => push_bytes(&mut list, bytes),
            (Value::Pair(name, value), _) => {
                push_bytes(&mut list, name.as_bytes());
                push_bytes(&mut list, value.as_bytes());
            }
        }
    }
    push_varint(to, list.len());
    to.extend_from_slice(&list);
}

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Protocol level.
    pub version: Version,
    /// Client id.
    pub client_id: String,
    /// Clean session or clean start.
    pub clean: bool,
    /// Keep alive in s; 0: none.
    pub keep_alive_s: u16,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// MQTT 5 only.
    pub properties: Vec<Property>,
}

impl Connect {
    /// A clean connection without login.
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive_s: 60,
            login: None,
            properties: Vec::new(),
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        push_bytes(&mut body, b"MQTT");
        body.push(if self.version == Version::V5 { 5 } else { 4 });
        let login = if self.login.is_some() { 0xc0 } else { 0 };
        body.push(login | if self.clean { 2 } else { 0 });
        body.extend_from_slice(&self.keep_alive_s.to_be_bytes());
        if self.version == Version::V5 {
            push_properties(&mut body, &self.properties);
        }
        push_bytes(&mut body, self.client_id.as_bytes());
        if let Some((user, password)) = &self.login {
            push_bytes(&mut body, user.as_bytes());
            push_bytes(&mut body, password.as_bytes());
        }
        packet(kind::CONNECT << 4, &body)
    }

    /// Reads a CONNECT without a will, as a hub does.
    pub fn decode(packet: &Packet) -> io::Result<Self> {
        let mut body = Body::new(&packet.body);
        if packet.kind() != kind::CONNECT || body.bytes()? != b"MQTT" {
            return Err(invalid("not a CONNECT"));
        }
        let version = match body.u8()? {
            4 => Version::V4,
            5 => Version::V5,
            _ => return Err(invalid("protocol level")),
        };
        let flags = body.u8()?;
        let keep_alive_s = body.u16()?;
        let properties = match version {
            Version::V4 => Vec::new(),
            Version::V5 => body.properties()?,
        };
        Ok(Self {
            version,
            client_id: body.text()?,
            clean: flags & 2 != 0,
            keep_alive_s,
            login: None,
            properties,
        })
    }
}

/// A PUBLISH, in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// 0, 1, 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// 0 for `QoS` 0.
    pub packet_id: u16,
    /// MQTT 5 only.
    pub properties: Vec<Property>,
}

impl Publish {
    /// `QoS` 1, nothing else set.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>, packet_id: u16) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos: 1,
            retain: false,
            dup: false,
            packet_id,
            properties: Vec::new(),
        }
    }

    /// As bytes.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.payload.len() + self.topic.len() + 8);
        push_bytes(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if version == Version::V5 {
            push_properties(&mut body, &self.properties);
        }
        body.extend_from_slice(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        packet(kind::PUBLISH << 4 | flags, &body)
    }

    /// Reads a PUBLISH.
    pub fn decode(packet: &Packet, version: Version) -> io::Result<Self> {
        let mut body = Body::new(&packet.body);
        let topic = body.text()?;
        let qos = packet.first >> 1 & 3;
        let packet_id = if qos > 0 { body.u16()? } else { 0 };
        let properties = match version {
            Version::V4 => Vec::new(),
            Version::V5 => body.properties()?,
        };
        Ok(Self {
            topic,
            payload: body.rest().to_vec(),
            qos,
            retain: packet.first & 1 != 0,
            dup: packet.first & 8 != 0,
            packet_id,
            properties,
        })
    }

    /// The last user property of that name.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find_map(|(_, value)| match value {
                Value::Pair(key, value) if key == name => Some(value.as_str()),
                _ => None,
            })
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP; the reason is written for MQTT 5 where it is not 0.
pub fn ack(kind: u8, version: Version, packet_id: u16, reason: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 && reason != 0 {
        body.push(reason);
    }
    packet(
        kind << 4 | if kind == self::kind::PUBREL { 2 } else { 0 },
        &body,
    )
}

/// CONNACK.
pub fn connack(
    version: Version,
    session_present: bool,
    code: u8,
    properties: &[Property],
) -> Vec<u8> {
    let mut body = vec![u8::from(session_present), code];
    if version == Version::V5 {
        push_properties(&mut body, properties);
    }
    packet(kind::CONNACK << 4, &body)
}

/// SUBSCRIBE to one filter.
pub fn subscribe(version: Version, packet_id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        push_properties(&mut body, &[]);
    }
    push_bytes(&mut body, filter.as_bytes());
    body.push(qos);
    packet(kind::SUBSCRIBE << 4 | 2, &body)
}
