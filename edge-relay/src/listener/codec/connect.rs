//! CONNECT (MQTT 5, 3.1), read strictly.
//!
//! rumqttd's decoder refuses passwords that are not UTF-8 and cannot tell an empty user name from none.

use bytes::Bytes;
use hub_bridge::reading::PublishProperties;

use super::Version;
use super::properties::{Place, Properties};
use super::violation::Violation;
use super::wire::Reader;
use crate::broker::topic;

/// A CONNECT that keeps the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) client_id: String,
    pub(crate) will: Option<ConnectWill>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) properties: Properties,
}

/// The will in a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectWill {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) delay_s: u32,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) properties: Option<Box<PublishProperties>>,
}

/// Why there is no CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// It is not MQTT: close without a word.
    NotMqtt,
    /// Another level than 4 and 5.
    Level(u8),
    /// The rest breaks the rules.
    Violation(Version, Violation),
}

/// Reads what comes after the fixed header.
pub(crate) fn read(first_byte: u8, body: &[u8]) -> Result<Connect, ConnectError> {
    let mut reader = Reader::new(body);
    if first_byte != 0x10 || reader.binary() != Ok(b"MQTT") {
        return Err(ConnectError::NotMqtt);
    }
    let version = match reader.u8() {
        Ok(4) => Version::V4,
        Ok(5) => Version::V5,
        Ok(level) => return Err(ConnectError::Level(level)),
        Err(_) => return Err(ConnectError::NotMqtt),
    };
    read_rest(version, &mut reader).map_err(|v| ConnectError::Violation(version, v))
}

fn read_rest(version: Version, reader: &mut Reader<'_>) -> Result<Connect, Violation> {
    let flags = reader.u8()?;
    check_flags(version, flags)?;
    let keep_alive_s = reader.u16()?;
    let properties = properties(version, reader, Place::Connect)?;
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(Violation::protocol("authentication data without a method"));
    }
    let client_id = reader.text()?.to_owned();
    let will = (flags & 0x04 != 0)
        .then(|| read_will(version, flags, reader))
        .transpose()?;
    let user_name = (flags & 0x80 != 0)
        .then(|| reader.text().map(str::to_owned))
        .transpose()?;
    let password = (flags & 0x40 != 0)
        .then(|| reader.binary().map(<[u8]>::to_vec))
        .transpose()?;
    if !reader.is_empty() {
        return Err(Violation::malformed("bytes after the end of CONNECT"));
    }
    Ok(Connect {
        version,
        clean_start: flags & 0x02 != 0,
        keep_alive_s,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

/// [MQTT-3.1.2-3], [MQTT-3.1.2-11] to [MQTT-3.1.2-15], and for 3.1.1 [MQTT-3.1.2-22].
fn check_flags(version: Version, flags: u8) -> Result<(), Violation> {
    let will_qos = (flags >> 3) & 0x03;
    let wrong = if flags & 0x01 != 0 {
        Some("the reserved connect flag is set")
    } else if flags & 0x04 == 0 && flags & 0x38 != 0 {
        Some("will QoS or will retain without a will")
    } else if will_qos == 3 {
        Some("will QoS 3")
    } else if version == Version::V4 && flags & 0xC0 == 0x40 {
        Some("a password without a user name")
    } else {
        None
    };
    wrong.map_or(Ok(()), |what| Err(Violation::malformed(what)))
}

fn read_will(
    version: Version,
    flags: u8,
    reader: &mut Reader<'_>,
) -> Result<ConnectWill, Violation> {
    let properties = properties(version, reader, Place::Will)?;
    let topic = reader.text()?;
    topic::check_name(topic).map_err(|_| {
        Violation::new(
            rumqttd::protocol::DisconnectReasonCode::TopicNameInvalid,
            "the will's topic is no topic name",
        )
    })?;
    Ok(ConnectWill {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(reader.binary()?),
        qos: (flags >> 3) & 0x03,
        retain: flags & 0x20 != 0,
        delay_s: properties.will_delay_interval.unwrap_or(0),
        expiry_s: properties.message_expiry_interval,
        properties: properties.into_message(),
    })
}

fn properties(
    version: Version,
    reader: &mut Reader<'_>,
    place: Place,
) -> Result<Properties, Violation> {
    match version {
        Version::V4 => Ok(Properties::default()),
        Version::V5 => Properties::read(reader, place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend([level, flags, 0, 30]);
        body.extend(rest);
        body
    }

    #[test]
    fn flags_and_lengths_are_checked() {
        let ok = read(0x10, &body(4, 2, b"\0\x01m")).unwrap();
        assert_eq!(
            (ok.client_id.as_str(), ok.keep_alive_s, ok.clean_start),
            ("m", 30, true)
        );
        let broken = |flags, rest: &[u8]| read(0x10, &body(4, flags, rest)).is_err();
        assert!(broken(0x03, b"\0\x01m"), "reserved flag");
        assert!(broken(0x0A, b"\0\x01m"), "will QoS without will");
        assert!(broken(0x1E, b"\0\x01m\0\x01t\0\0"), "will QoS 3");
        assert!(
            broken(0x42, b"\0\x01m\0\x01p"),
            "password without user name"
        );
        assert!(broken(0x02, b"\0\x01mx"), "bytes left");
        assert!(broken(0x82, b"\0\x01m"), "user name missing");
        assert!(
            broken(0x06, b"\0\x01m\0\x01#\0\0"),
            "wildcard in the will's topic"
        );
        assert!(matches!(
            read(0x10, &body(3, 2, b"\0\x01m")),
            Err(ConnectError::Level(3))
        ));
        assert!(matches!(
            read(0x11, &body(4, 2, b"\0\x01m")),
            Err(ConnectError::NotMqtt)
        ));
    }

    #[test]
    fn a_password_may_be_any_bytes() {
        let connect = read(0x10, &body(5, 0x42, b"\0\0\x01m\0\x02\xff\0")).unwrap();
        assert_eq!(connect.password, Some(vec![0xFF, 0]));
        assert_eq!(connect.user_name, None);
    }
}
