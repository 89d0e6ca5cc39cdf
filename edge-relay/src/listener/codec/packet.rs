//! The packets that a client may send once it is connected.

use rumqttd::protocol::{DisconnectReasonCode, Filter, RetainForwardRule};

use super::Version;
use super::properties::{Place, Properties};
use super::violation::Violation;
use super::wire::{Frame, Reader};

/// A packet of a connected client; texts and payload still lie in the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Publish(Publish<'a>),
    PubAck {
        id: u16,
    },
    PubRec {
        id: u16,
        failed: bool,
    },
    PubRel {
        id: u16,
    },
    PubComp {
        id: u16,
    },
    Subscribe(Subscribe),
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect {
        with_will: bool,
        session_expiry_s: Option<u32>,
    },
}

/// PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// 0 for `QoS` 0.
    pub(crate) id: u16,
    /// Not checked yet as a topic name, not even as UTF-8.
    pub(crate) topic: &'a [u8],
    pub(crate) properties: Option<Box<Properties>>,
    pub(crate) payload: &'a [u8],
}

/// SUBSCRIBE. The filters' syntax is not checked: a bad one is answered in the SUBACK.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) id: u16,
    pub(crate) filters: Vec<Filter>,
    pub(crate) subscription_id: Option<u32>,
}

/// Reads the packet that `frame` found at the start of `buffer`.
pub(crate) fn read(version: Version, frame: Frame, buffer: &[u8]) -> Result<Packet<'_>, Violation> {
    let body = buffer
        .get(frame.body_at..frame.end)
        .ok_or(Violation::malformed("a frame past its buffer"))?;
    let flags = frame.first_byte & 0x0F;
    let kind = frame.first_byte >> 4;
    if kind == 3 {
        return publish(version, flags, body).map(Packet::Publish);
    }
    let expected_flags = if matches!(kind, 6 | 8 | 10) {
        0x02
    } else {
        0x00
    };
    if flags != expected_flags {
        return Err(Violation::malformed(
            "reserved flags of the fixed header are wrong",
        ));
    }
    let mut reader = Reader::new(body);
    match kind {
        4 => acknowledgement(version, &mut reader).map(|(id, _)| Packet::PubAck { id }),
        5 => acknowledgement(version, &mut reader).map(|(id, reason)| Packet::PubRec {
            id,
            failed: reason >= 0x80,
        }),
        6 => acknowledgement(version, &mut reader).map(|(id, _)| Packet::PubRel { id }),
        7 => acknowledgement(version, &mut reader).map(|(id, _)| Packet::PubComp { id }),
        8 => subscribe(version, &mut reader).map(Packet::Subscribe),
        10 => unsubscribe(version, &mut reader),
        12 if body.is_empty() => Ok(Packet::PingReq),
        12 => Err(Violation::malformed("PINGREQ with a body")),
        14 => disconnect(version, &mut reader),
        1 => Err(Violation::protocol("a second CONNECT")),
        15 => Err(Violation::protocol("AUTH without an authentication method")),
        _ => Err(Violation::protocol("a packet that only servers send")),
    }
}

fn publish(version: Version, flags: u8, body: &[u8]) -> Result<Publish<'_>, Violation> {
    let qos = (flags >> 1) & 0x03;
    let dup = flags & 0x08 != 0;
    if qos == 3 {
        return Err(Violation::malformed("PUBLISH with QoS 3"));
    }
    if qos == 0 && dup {
        return Err(Violation::malformed("PUBLISH with QoS 0 and DUP"));
    }
    let mut reader = Reader::new(body);
    let topic = reader.binary()?;
    let id = if qos == 0 { 0 } else { reader.packet_id()? };
    let properties = match version {
        Version::V4 => None,
        Version::V5 => Some(Properties::read(&mut reader, Place::Publish)?)
            .filter(|p| *p != Properties::default())
            .map(Box::new),
    };
    Ok(Publish {
        dup,
        qos,
        retain: flags & 0x01 != 0,
        id,
        topic,
        properties,
        payload: reader.rest(),
    })
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP: packet id, and in MQTT 5 perhaps a reason and properties.
fn acknowledgement(version: Version, reader: &mut Reader<'_>) -> Result<(u16, u8), Violation> {
    let id = reader.packet_id()?;
    let mut reason = 0;
    if version == Version::V5 && !reader.is_empty() {
        reason = reader.u8()?;
        if !reader.is_empty() {
            Properties::read(reader, Place::Acknowledgement)?;
        }
    }
    at_end(reader)?;
    Ok((id, reason))
}

fn at_end(reader: &Reader<'_>) -> Result<(), Violation> {
    if reader.is_empty() {
        Ok(())
    } else {
        Err(Violation::malformed("bytes after the end of the packet"))
    }
}

fn subscribe(version: Version, reader: &mut Reader<'_>) -> Result<Subscribe, Violation> {
    let id = reader.packet_id()?;
    let subscription_id = match version {
        Version::V4 => None,
        Version::V5 => Properties::read(reader, Place::Subscribe)?.subscription_id,
    };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let path = reader.text()?.to_owned();
        filters.push(filter(version, path, reader.u8()?)?);
    }
    if filters.is_empty() {
        return Err(Violation::protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe {
        id,
        filters,
        subscription_id,
    })
}

fn filter(version: Version, path: String, options: u8) -> Result<Filter, Violation> {
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if options & reserved != 0 {
        return Err(Violation::malformed(
            "reserved subscription options are set",
        ));
    }
    let qos = rumqttd::protocol::qos(options & 0x03)
        .ok_or(Violation::malformed("a subscription with QoS 3"))?;
    let retain_forward_rule = match (options >> 4) & 0x03 {
        0 => RetainForwardRule::OnEverySubscribe,
        1 => RetainForwardRule::OnNewSubscribe,
        2 => RetainForwardRule::Never,
        _ => return Err(Violation::protocol("retain handling 3")),
    };
    let nolocal = options & 0x04 != 0;
    if nolocal && path.starts_with("$share/") {
        return Err(Violation::protocol("no local on a shared subscription"));
    }
    Ok(Filter {
        path,
        qos,
        nolocal,
        preserve_retain: options & 0x08 != 0,
        retain_forward_rule,
    })
}

fn unsubscribe<'a>(version: Version, reader: &mut Reader<'_>) -> Result<Packet<'a>, Violation> {
    let id = reader.packet_id()?;
    if version == Version::V5 {
        Properties::read(reader, Place::Unsubscribe)?;
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.text()?.to_owned());
    }
    if filters.is_empty() {
        return Err(Violation::protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Packet::Unsubscribe { id, filters })
}

fn disconnect<'a>(version: Version, reader: &mut Reader<'_>) -> Result<Packet<'a>, Violation> {
    let mut reason = 0;
    let mut session_expiry_s = None;
    if version == Version::V5 && !reader.is_empty() {
        reason = reader.u8()?;
        if !reader.is_empty() {
            session_expiry_s = Properties::read(reader, Place::Disconnect)?.session_expiry_interval;
        }
    }
    at_end(reader)?;
    Ok(Packet::Disconnect {
        with_will: reason != 0,
        session_expiry_s,
    })
}

/// The violation of a PUBLISH whose topic is no topic name.
pub(crate) const BAD_TOPIC: Violation = Violation::new(
    DisconnectReasonCode::TopicNameInvalid,
    "PUBLISH to something that is no topic name",
);

#[cfg(test)]
mod tests {
    use super::super::wire::frame;
    use super::*;
    use proptest::prelude::*;

    fn read_bytes(version: Version, bytes: &[u8]) -> Result<Packet<'_>, Violation> {
        read(version, frame(bytes, 1 << 20).unwrap().unwrap(), bytes)
    }

    #[test]
    fn what_the_standard_forbids_is_a_violation() {
        for (bytes, what) in [
            (&[0x36, 5, 0, 1, b't', 0, 1][..], "QoS 3"),
            (&[0x38, 3, 0, 1, b't'], "DUP with QoS 0"),
            (&[0x32, 5, 0, 1, b't', 0, 0], "packet id 0"),
            (&[0x30, 3, 0, 9, b't'], "topic past the end"),
            (&[0x20, 2, 0, 0], "CONNACK"),
            (&[0x80, 6, 0, 1, 0, 1, b't', 0], "SUBSCRIBE with flags 0"),
            (&[0x82, 2, 0, 1], "SUBSCRIBE without filter"),
            (&[0x82, 6, 0, 0, 0, 1, b't', 0], "SUBSCRIBE with id 0"),
            (&[0x82, 6, 0, 1, 0, 1, b't', 3], "SUBSCRIBE with QoS 3"),
            (&[0x82, 6, 0, 1, 0, 1, b't', 4], "reserved options in 3.1.1"),
            (&[0xA2, 2, 0, 1], "UNSUBSCRIBE without filter"),
            (&[0xC0, 1, 0], "PINGREQ with a body"),
            (&[0xC1, 0], "PINGREQ with flags"),
            (&[0x10, 0], "CONNECT again"),
            (&[0xF0, 0], "type 15"),
            (&[0x00, 0], "type 0"),
            (&[0x60, 2, 0, 1], "PUBREL with flags 0"),
            (&[0x40, 3, 0, 1, 0], "PUBACK with a byte too many"),
        ] {
            assert!(read_bytes(Version::V4, bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn short_and_long_forms_of_mqtt_5_are_read() {
        for bytes in [
            &[0x40, 2, 0, 1][..],
            &[0x40, 3, 0, 1, 0x10],
            &[0x40, 4, 0, 1, 0, 0],
        ] {
            assert_eq!(read_bytes(Version::V5, bytes), Ok(Packet::PubAck { id: 1 }));
        }
        let bye = read_bytes(Version::V5, &[0xE0, 1, 4]).unwrap();
        assert!(matches!(
            bye,
            Packet::Disconnect {
                with_will: true,
                ..
            }
        ));
        let bye = read_bytes(Version::V5, &[0xE0, 7, 0, 5, 17, 0, 0, 0, 9]).unwrap();
        assert!(matches!(
            bye,
            Packet::Disconnect {
                with_will: false,
                session_expiry_s: Some(9)
            }
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 2..60)) {
            let remaining = u8::try_from(bytes.len() - 2).unwrap();
            bytes[1] = remaining;
            let _ = read_bytes(Version::V4, &bytes);
            let _ = read_bytes(Version::V5, &bytes);
            let _ = super::super::connect::read(bytes[0], &bytes[2..]);
            bytes.splice(0..2, *b"\0\x04MQTT\x05");
            let _ = super::super::connect::read(0x10, &bytes);
        }
    }
}
