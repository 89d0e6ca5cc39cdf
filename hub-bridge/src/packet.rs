//! A reading as a PUBLISH to the hub.
//!
//! Payload byte for byte, the meter's own properties, and with MQTT 5 the identity as the *last* user
//! properties: `id` = `<epoch>/<sequence>`, `at` = ms since 1970, and `clock` = `unsynchronised` only where that
//! time is not to be trusted. Short, since each byte of them is paid for with every reading.

use rumqttc::v5::mqttbytes::v5::PublishProperties as Properties5;

use crate::clock::{Clock, ClockQuality};
use crate::identity::{Epoch, VillageId};
use crate::reading::Reading;
use crate::topic::TopicTemplate;

/// The longest text that MQTT can carry, in bytes (MQTT 5, 1.5.4).
const TEXT_BYTES_MAX: usize = 65_535;
/// The largest remaining length (MQTT 5, 1.5.5), less the longest fixed header.
const PACKET_BYTES_MAX: usize = 268_435_455;

/// A PUBLISH, ready for a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) retain: bool,
    pub(crate) payload: bytes::Bytes,
    /// With MQTT 5 only.
    pub(crate) properties: Option<Properties5>,
}

/// Why a reading cannot be put into a packet that this hub takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsendable {
    #[error("a packet of {size} bytes, and the hub takes at most {max}")]
    TooLarge { size: usize, max: usize },
    #[error("a topic of {0} bytes at the hub, and MQTT carries at most 65535")]
    TopicTooLong(usize),
    #[error("a topic that no hub takes: {0:?}")]
    Topic(String),
}

/// What the packets of a link depend on.
pub(crate) struct Packing<'a> {
    pub(crate) template: &'a TopicTemplate,
    pub(crate) clock: &'a dyn Clock,
    /// MQTT 5 carries identities.
    pub(crate) v5: bool,
    /// The hub's maximum packet size in bytes.
    pub(crate) packet_bytes_max: Option<u32>,
    /// The hub keeps retained messages.
    pub(crate) retain: bool,
}

impl Packing<'_> {
    /// The packet of a reading of `village` and `epoch`.
    pub(crate) fn pack(
        &self,
        village: &VillageId,
        epoch: Epoch,
        reading: &Reading,
        retain: bool,
    ) -> Result<Outgoing, Unsendable> {
        let topic = self
            .template
            .render(village, &reading.client_id, &reading.topic);
        if topic.len() > TEXT_BYTES_MAX {
            return Err(Unsendable::TopicTooLong(topic.len()));
        }
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return Err(Unsendable::Topic(topic));
        }
        let outgoing = Outgoing {
            topic,
            retain: retain && self.retain,
            payload: reading.payload.clone(),
            properties: self.v5.then(|| self.properties(epoch, reading)),
        };
        self.check_size(&outgoing).map(|()| outgoing)
    }

    /// The packet of a frame.
    pub(crate) fn pack_frame(
        &self,
        village: &VillageId,
        payload: &bytes::Bytes,
    ) -> Result<Outgoing, Unsendable> {
        let outgoing = Outgoing {
            topic: crate::wire::frames_topic(village),
            retain: false,
            payload: payload.clone(),
            properties: None,
        };
        self.check_size(&outgoing).map(|()| outgoing)
    }

    fn check_size(&self, outgoing: &Outgoing) -> Result<(), Unsendable> {
        let max = self
            .packet_bytes_max
            .map_or(PACKET_BYTES_MAX, |max| max as usize);
        let size = outgoing.size_bytes();
        if size > max {
            return Err(Unsendable::TooLarge { size, max });
        }
        Ok(())
    }

    fn properties(&self, epoch: Epoch, reading: &Reading) -> Properties5 {
        let mut properties = Properties5::default();
        if let Some(own) = reading.properties.as_deref() {
            properties.payload_format_indicator = own.payload_format_indicator;
            properties.content_type.clone_from(&own.content_type);
            properties.response_topic.clone_from(&own.response_topic);
            properties
                .correlation_data
                .clone_from(&own.correlation_data);
            properties.user_properties.clone_from(&own.user_properties);
        }
        let (at, quality) = self.clock.best_time_of(&reading.received);
        let mut add = |name: &str, value: String| {
            properties.user_properties.push((name.to_owned(), value));
        };
        if quality == ClockQuality::Unsynchronised {
            add("clock", "unsynchronised".to_owned());
        }
        add("id", format!("{epoch}/{}", reading.sequence));
        add("at", at.to_string());
        properties
    }
}

impl Outgoing {
    /// The size of the whole packet in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let rest = self.topic.len() + self.payload.len();
        let Some(properties) = &self.properties else {
            let length = 2 + 2 + rest;
            return 1 + length_bytes(length) + length;
        };
        let listed = properties_bytes(properties);
        let length = 2 + 2 + length_bytes(listed) + listed + rest;
        1 + length_bytes(length) + length
    }
}

/// What the properties of a reading take, without their length (MQTT 5, 3.3.2.3).
fn properties_bytes(properties: &Properties5) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, |text| 3 + text.len());
    let correlation = properties.correlation_data.as_ref();
    let user = properties.user_properties.iter();
    properties.payload_format_indicator.map_or(0, |_| 2)
        + text(&properties.content_type)
        + text(&properties.response_topic)
        + correlation.map_or(0, |data| 3 + data.len())
        + user.map(|(k, v)| 5 + k.len() + v.len()).sum::<usize>()
}

fn length_bytes(length: usize) -> usize {
    match length {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rumqttc::v5::mqttbytes::QoS as QoS5;
    use rumqttc::v5::mqttbytes::v5::Publish as Publish5;

    use super::*;
    use crate::clock::{BootId, ReceivedAt, UnixMillis};
    use crate::identity::Sequence;
    use crate::reading::PublishProperties;

    pub(crate) struct StillClock(pub(crate) ClockQuality);

    impl Clock for StillClock {
        fn wall(&self) -> UnixMillis {
            UnixMillis(1_780_000_000_000)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(100)
        }
        fn boot(&self) -> BootId {
            BootId(1)
        }
        fn quality(&self) -> ClockQuality {
            self.0
        }
        fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
            (received.wall, self.0)
        }
    }

    fn reading(payload: usize) -> Reading {
        let clock = StillClock(ClockQuality::Synchronised);
        Reading {
            sequence: Sequence(1_234_567),
            topic: Arc::from("m/01/energy"),
            client_id: Arc::from("meter-01"),
            payload: vec![7; payload].into(),
            qos: 1,
            retain: true,
            packet_id: 1,
            received: clock.stamp(),
            properties: Some(Box::new(PublishProperties {
                user_properties: vec![("id".to_owned(), "the meter's own".to_owned())],
                content_type: Some("text/plain".to_owned()),
                response_topic: Some("m/01/answer".to_owned()),
                correlation_data: Some(vec![1, 2, 3].into()),
                payload_format_indicator: Some(1),
            })),
            repeat_of: None,
        }
    }

    fn packing<'a>(clock: &'a dyn Clock, template: &'a TopicTemplate) -> Packing<'a> {
        Packing {
            template,
            clock,
            v5: true,
            packet_bytes_max: None,
            retain: true,
        }
    }

    #[test]
    fn the_identity_is_last_and_the_meters_own_properties_travel_along() {
        let clock = StillClock(ClockQuality::Unsynchronised);
        let template = TopicTemplate::default();
        let village = "bamenda-01".parse().unwrap();
        let packed = packing(&clock, &template)
            .pack(&village, Epoch(0xab), &reading(3), true)
            .unwrap();
        assert_eq!(packed.topic, "villages/bamenda-01/m/01/energy");
        assert!(packed.retain);
        let user = packed.properties.unwrap().user_properties;
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            user,
            [
                pair("id", "the meter's own"),
                pair("clock", "unsynchronised"),
                pair("id", "000000ab/1234567"),
                pair("at", "1780000000000"),
            ]
        );
    }

    #[test]
    fn a_plain_reading_costs_at_most_a_fifth_more_than_without_identity() {
        let clock = StillClock(ClockQuality::Synchronised);
        let template = TopicTemplate::default();
        let village = "bamenda-01".parse().unwrap();
        let mut reading = reading(200);
        reading.properties = None;
        let mut packing = packing(&clock, &template);
        let with = packing.pack(&village, Epoch(1), &reading, false).unwrap();
        packing.v5 = false;
        let without = packing.pack(&village, Epoch(1), &reading, false).unwrap();
        let (with, without) = (with.size_bytes(), without.size_bytes());
        assert!(with * 10 <= without * 12, "{with} against {without}");
    }

    #[test]
    fn what_is_larger_than_the_hub_takes_is_told_apart() {
        let clock = StillClock(ClockQuality::Synchronised);
        let template = TopicTemplate::default();
        let village = "v".parse().unwrap();
        let mut packing = packing(&clock, &template);
        let size = |payload| {
            let packed = Packing {
                packet_bytes_max: None,
                ..packing_copy(&clock, &template)
            }
            .pack(&village, Epoch(1), &reading(payload), false)
            .unwrap();
            packed.size_bytes()
        };
        packing.packet_bytes_max = Some(u32::try_from(size(20_000)).unwrap());
        assert!(
            packing
                .pack(&village, Epoch(1), &reading(20_000), false)
                .is_ok()
        );
        let over = packing.pack(&village, Epoch(1), &reading(20_001), false);
        assert!(matches!(over, Err(Unsendable::TooLarge { .. })));
    }

    fn packing_copy<'a>(clock: &'a dyn Clock, template: &'a TopicTemplate) -> Packing<'a> {
        packing(clock, template)
    }

    #[test]
    fn the_size_is_what_rumqttc_writes() {
        let clock = StillClock(ClockQuality::Synchronised);
        let template = TopicTemplate::default();
        let village = "v".parse().unwrap();
        for payload in [0, 1, 60, 100, 127, 128, 16_000, 16_384, 300_000, 2_100_000] {
            let packed = packing(&clock, &template)
                .pack(&village, Epoch(1), &reading(payload), false)
                .unwrap();
            let mut publish = Publish5::new(
                packed.topic.clone(),
                QoS5::AtLeastOnce,
                packed.payload.clone(),
                packed.properties.clone(),
            );
            publish.pkid = 1;
            let mut wire = bytes::BytesMut::new();
            publish.write(&mut wire).unwrap();
            assert_eq!(packed.size_bytes(), wire.len(), "payload {payload}");
        }
    }
}
