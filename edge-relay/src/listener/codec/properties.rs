//! The properties of MQTT 5 packets (2.2.2), checked: which packet may carry which, once or often, and the
//! values they may have.
//!
//! rumqttd's decoder reads a property past the end of its list, and checks neither values nor repetitions; so
//! packets of clients are read here.

use bytes::Bytes;
use hub_bridge::reading::PublishProperties;
use rumqttd::protocol::DisconnectReasonCode;

use super::violation::Violation;
use super::wire::Reader;

/// All properties that a client may send, as found in one packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // the standard's names
pub(crate) struct Properties {
    pub(crate) payload_format_indicator: Option<u8>,
    pub(crate) message_expiry_interval: Option<u32>,
    pub(crate) content_type: Option<String>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Bytes>,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) session_expiry_interval: Option<u32>,
    pub(crate) authentication_method: Option<String>,
    pub(crate) authentication_data: Option<Bytes>,
    pub(crate) request_problem_information: Option<u8>,
    pub(crate) will_delay_interval: Option<u32>,
    pub(crate) request_response_information: Option<u8>,
    pub(crate) reason_string: Option<String>,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) topic_alias: Option<u16>,
    pub(crate) user_properties: Vec<(String, String)>,
    pub(crate) maximum_packet_size: Option<u32>,
}

/// Which packet the properties belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Connect,
    Will,
    Publish,
    Acknowledgement,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

impl Place {
    fn allows(self, id: u32) -> bool {
        match self {
            Self::Connect => matches!(id, 17 | 21 | 22 | 23 | 25 | 33 | 34 | 38 | 39),
            Self::Will => matches!(id, 1 | 2 | 3 | 8 | 9 | 24 | 38),
            Self::Publish => matches!(id, 1 | 2 | 3 | 8 | 9 | 35 | 38),
            Self::Acknowledgement => matches!(id, 31 | 38),
            Self::Subscribe => matches!(id, 11 | 38),
            Self::Unsubscribe => id == 38,
            Self::Disconnect => matches!(id, 17 | 31 | 38),
        }
    }
}

impl Properties {
    /// Reads the length and the properties, and nothing beyond.
    pub(crate) fn read(reader: &mut Reader<'_>, place: Place) -> Result<Self, Violation> {
        let mut found = Self::default();
        let bytes = reader.varint()? as usize;
        if bytes == 0 {
            return Ok(found);
        }
        let mut list = Reader::new(reader.take(bytes)?);
        while !list.is_empty() {
            let id = list.varint()?;
            if !place.allows(id) {
                return Err(Violation::malformed(
                    "a property that this packet cannot have",
                ));
            }
            found.read_one(id, &mut list)?;
        }
        Ok(found)
    }

    fn read_one(&mut self, id: u32, list: &mut Reader<'_>) -> Result<(), Violation> {
        match id {
            1 => once(&mut self.payload_format_indicator, flag(list)?),
            2 => once(&mut self.message_expiry_interval, list.u32()?),
            3 => once(&mut self.content_type, list.text()?.to_owned()),
            8 => once(&mut self.response_topic, response_topic(list)?),
            9 => once(
                &mut self.correlation_data,
                Bytes::copy_from_slice(list.binary()?),
            ),
            11 => once(&mut self.subscription_id, subscription_id(list)?),
            17 => once(&mut self.session_expiry_interval, list.u32()?),
            21 => once(&mut self.authentication_method, list.text()?.to_owned()),
            22 => once(
                &mut self.authentication_data,
                Bytes::copy_from_slice(list.binary()?),
            ),
            23 => once(&mut self.request_problem_information, flag(list)?),
            24 => once(&mut self.will_delay_interval, list.u32()?),
            25 => once(&mut self.request_response_information, flag(list)?),
            31 => once(&mut self.reason_string, list.text()?.to_owned()),
            33 => once(&mut self.receive_maximum, above_zero(list.u16()?)?),
            34 => once(&mut self.topic_alias_maximum, list.u16()?),
            35 => once(&mut self.topic_alias, topic_alias(list)?),
            38 => {
                let name = list.text()?.to_owned();
                self.user_properties.push((name, list.text()?.to_owned()));
                Ok(())
            }
            39 => once(&mut self.maximum_packet_size, above_zero(list.u32()?)?),
            _ => Err(Violation::malformed("an unknown property")),
        }
    }

    /// What of them belongs to the message: `None` where nothing does.
    pub(crate) fn into_message(self) -> Option<Box<PublishProperties>> {
        let properties = PublishProperties {
            payload_format_indicator: self.payload_format_indicator,
            content_type: self.content_type,
            response_topic: self.response_topic,
            correlation_data: self.correlation_data,
            user_properties: self.user_properties,
        };
        (!properties.is_empty()).then(|| Box::new(properties))
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Violation> {
    if slot.is_some() {
        return Err(Violation::protocol("a property stands twice"));
    }
    *slot = Some(value);
    Ok(())
}

fn flag(list: &mut Reader<'_>) -> Result<u8, Violation> {
    match list.u8()? {
        value @ (0 | 1) => Ok(value),
        _ => Err(Violation::protocol("a property must be 0 or 1")),
    }
}

fn above_zero<T: Default + PartialEq>(value: T) -> Result<T, Violation> {
    if value == T::default() {
        return Err(Violation::protocol("a property must not be 0"));
    }
    Ok(value)
}

fn response_topic(list: &mut Reader<'_>) -> Result<String, Violation> {
    let topic = list.text()?;
    crate::broker::topic::check_name(topic)
        .map_err(|_| Violation::protocol("the response topic is no topic name"))?;
    Ok(topic.to_owned())
}

fn subscription_id(list: &mut Reader<'_>) -> Result<u32, Violation> {
    above_zero(list.varint()?)
}

fn topic_alias(list: &mut Reader<'_>) -> Result<u16, Violation> {
    match list.u16()? {
        0 => Err(Violation::new(
            DisconnectReasonCode::TopicAliasInvalid,
            "topic alias 0",
        )),
        alias => Ok(alias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], place: Place) -> Result<Properties, Violation> {
        Properties::read(&mut Reader::new(bytes), place)
    }

    #[test]
    fn properties_stand_once_in_their_packet_with_their_values() {
        assert!(read(&[0], Place::Publish).is_ok());
        assert!(read(&[2, 1, 1], Place::Publish).is_ok());
        assert!(read(&[2, 1, 2], Place::Publish).is_err(), "neither 0 nor 1");
        assert!(read(&[4, 1, 1, 1, 1], Place::Publish).is_err(), "twice");
        assert!(
            read(&[2, 1, 1], Place::Subscribe).is_err(),
            "not in SUBSCRIBE"
        );
        assert!(read(&[5, 1, 1], Place::Publish).is_err(), "past the end");
        assert!(
            read(&[2, 11, 5], Place::Publish).is_err(),
            "not from a client"
        );
        assert!(read(&[3, 33, 0, 0], Place::Connect).is_err());
        assert!(read(&[3, 35, 0, 0], Place::Publish).is_err());
    }

    #[test]
    fn what_follows_a_subscription_identifier_is_read() {
        let bytes = [9, 11, 5, 38, 0, 1, b'k', 0, 1, b'v'];
        let found = read(&bytes, Place::Subscribe).unwrap();
        assert_eq!(found.subscription_id, Some(5));
        assert_eq!(found.user_properties, [("k".to_owned(), "v".to_owned())]);
    }
}
