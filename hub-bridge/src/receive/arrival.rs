//! What a message from the broker is: readings, an account, or something that cannot be read.

use super::broker::delivered::Delivered;
use super::store::{DeadLetter, Incoming, Source};
use super::topics::PlainTopics;
use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence, VillageId};
use crate::reading::PublishProperties;
use crate::wire;
use crate::wire::account::Account;
use crate::wire::frame::{self, Carried};

/// The last user property of what this program publishes itself.
pub(super) const RELAYED: (&str, &str) = ("relayed", "hub-bridge");

/// A message, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arrival {
    /// A frame's readings.
    Frame(Vec<Incoming>),
    /// One reading that came as a publish.
    Plain(Box<Incoming>),
    /// What a relay says of its store.
    Account(Box<Account>),
    /// Kept with its bytes.
    Dead(DeadLetter),
    /// What this program published itself.
    Own,
    /// A publish without an identity: from a relay over MQTT 3.1.1, or from somebody else.
    Unidentified,
}

/// Reads a message. `plain` are the topics of plain readings, where they are wanted.
pub(super) fn read(message: &Delivered, plain: Option<&PlainTopics>) -> Arrival {
    let under_root = message.topic.strip_prefix(wire::ROOT);
    if under_root.is_some_and(|rest| rest.starts_with('/')) {
        return match wire::village_of(&message.topic) {
            Some((village, "frames")) => frame(message, &village),
            Some((village, rest)) if rest.starts_with("accounts/") => account(message, &village),
            _ => dead(message, "a topic that names no village, or nothing known"),
        };
    }
    let Some(properties) = &message.properties else {
        return Arrival::Unidentified;
    };
    if is_own(properties) {
        return Arrival::Own;
    }
    let place = plain.and_then(|plain| plain.read(&message.topic));
    let identity = Identified::of(properties);
    match (place, identity) {
        (Some(place), Some(identity)) => Arrival::Plain(Box::new(Incoming {
            village: place.village,
            epoch: identity.epoch,
            reading: Carried {
                sequence: identity.sequence,
                topic: place.topic.into(),
                client_id: place.client_id.into(),
                payload: message.payload.clone(),
                qos: message.qos,
                retain: message.retain,
                at: identity.at,
                clock: identity.clock,
                properties: identity.own.map(Box::new),
                repeat_of: None,
            },
            source: Source::Plain,
        })),
        _ => Arrival::Unidentified,
    }
}

fn dead(message: &Delivered, reason: impl std::fmt::Display) -> Arrival {
    Arrival::Dead(DeadLetter {
        topic: message.topic.clone(),
        reason: reason.to_string(),
        payload: message.payload.to_vec(),
    })
}

fn frame(message: &Delivered, village: &VillageId) -> Arrival {
    let frame = match frame::decode(&message.payload) {
        Ok(frame) => frame,
        Err(error) => return dead(message, error),
    };
    if frame.village != *village {
        return dead(message, format!("a frame of village {}", frame.village));
    }
    let incoming = frame.readings.into_iter().map(|reading| Incoming {
        village: frame.village.clone(),
        epoch: frame.epoch,
        reading,
        source: Source::Frame,
    });
    Arrival::Frame(incoming.collect())
}

fn account(message: &Delivered, village: &VillageId) -> Arrival {
    // Taking a retained message away.
    if message.payload.is_empty() {
        return Arrival::Own;
    }
    match Account::from_json(&message.payload) {
        Ok(account) if wire::account_topic(village, account.epoch) != message.topic => {
            dead(message, "an account of another epoch")
        }
        Ok(account) if account.village != *village => dead(
            message,
            format!("an account of village {}", account.village),
        ),
        Ok(account) => Arrival::Account(Box::new(account)),
        Err(error) => dead(message, error),
    }
}

/// The very last one counts: what a meter sent stands before.
fn is_own(properties: &PublishProperties) -> bool {
    let last = properties.user_properties.last();
    last.is_some_and(|(name, value)| (name.as_str(), value.as_str()) == RELAYED)
}

/// What the last user properties say: `id`, `at`, and before them perhaps `clock`.
struct Identified {
    epoch: Epoch,
    sequence: Sequence,
    at: UnixMillis,
    clock: ClockQuality,
    /// What the meter sent itself; `None` where that is nothing.
    own: Option<PublishProperties>,
}

impl Identified {
    fn of(properties: &PublishProperties) -> Option<Self> {
        let mut own = properties.clone();
        let mut last = |wanted: &str| {
            own.user_properties
                .pop_if(|(name, _)| name == wanted)
                .map(|(_, value)| value)
        };
        let at = last("at")?.parse().ok()?;
        let id = last("id")?;
        // A meter may have a property of that name; the relay says one thing only.
        let untrusted = own
            .user_properties
            .pop_if(|(name, value)| name == "clock" && value == "unsynchronised");
        let clock = match untrusted {
            None => ClockQuality::Synchronised,
            Some(_) => ClockQuality::Unsynchronised,
        };
        let (epoch, sequence) = id.split_once('/')?;
        Some(Self {
            epoch: epoch.parse().ok()?,
            sequence: Sequence(sequence.parse().ok()?),
            at: UnixMillis(at),
            clock,
            own: (!own.is_empty()).then_some(own),
        })
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties as Properties5};

    use super::*;
    use crate::settings::TopicTemplate;
    use crate::wire::frame::Frame;

    fn message(topic: &str, payload: &[u8], user: &[(&str, &str)]) -> Delivered {
        let user = user.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let properties = Properties5 {
            user_properties: user.collect(),
            ..Properties5::default()
        };
        Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), Some(properties)).into()
    }

    fn arrival(topic: &str, payload: &[u8], user: &[(&str, &str)]) -> Arrival {
        let plain = PlainTopics::new(&TopicTemplate::default()).unwrap();
        read(&message(topic, payload, user), Some(&plain))
    }

    #[test]
    fn the_last_properties_are_the_identity_and_the_meters_own_stay() {
        let user = [
            ("at", "5"),
            ("id", "the meter's"),
            ("clock", "unsynchronised"),
            ("id", "000000ab/7"),
            ("at", "1780000000000"),
        ];
        let Arrival::Plain(incoming) = arrival("villages/v/m/1", b"x", &user) else {
            panic!("no reading");
        };
        assert_eq!(
            (incoming.village.as_str(), incoming.epoch),
            ("v", Epoch(0xab))
        );
        assert_eq!(&*incoming.reading.topic, "m/1");
        assert_eq!(incoming.reading.sequence, Sequence(7));
        assert_eq!(incoming.reading.at, UnixMillis(1_780_000_000_000));
        assert_eq!(incoming.reading.clock, ClockQuality::Unsynchronised);
        let own = incoming.reading.properties.unwrap();
        assert_eq!(own.user_properties.len(), 2);
    }

    #[test]
    fn what_has_no_identity_or_is_our_own_is_no_reading() {
        let id = ("id", "000000ab/7");
        for user in [
            vec![],
            vec![id],
            vec![("at", "1"), id],
            vec![("id", "7"), ("at", "1")],
            vec![id, ("at", "now")],
            vec![id, ("at", "1"), ("x", "y")],
        ] {
            assert_eq!(
                arrival("villages/v/t", b"", &user),
                Arrival::Unidentified,
                "{user:?}"
            );
        }
        assert_eq!(
            arrival("other/v/t", b"", &[id, ("at", "1")]),
            Arrival::Unidentified
        );
        let relayed = [id, ("at", "1"), RELAYED];
        assert_eq!(arrival("villages/v/t", b"", &relayed), Arrival::Own);
        // A meter that says so itself stands before the identity.
        let meters = [RELAYED, id, ("at", "1")];
        assert!(matches!(
            arrival("villages/v/t", b"", &meters),
            Arrival::Plain(_)
        ));
    }

    #[test]
    fn a_frame_counts_on_its_own_villages_topic_only() {
        let reading = Carried {
            sequence: Sequence(1),
            topic: "t".into(),
            client_id: "c".into(),
            payload: "x".into(),
            qos: 1,
            retain: false,
            at: UnixMillis(1),
            clock: ClockQuality::Synchronised,
            properties: None,
            repeat_of: None,
        };
        let frame = Frame {
            village: "v".parse().unwrap(),
            epoch: Epoch(1),
            readings: vec![reading],
        };
        let bytes = frame::encode(&frame).unwrap();
        let Arrival::Frame(readings) = arrival("relay/v1/v/frames", &bytes, &[]) else {
            panic!("no frame");
        };
        assert_eq!(readings.len(), 1);
        for (topic, payload) in [
            ("relay/v1/w/frames", bytes.as_slice()),
            ("relay/v1/v/frames", b"nonsense"),
            ("relay/v1/v/other", b""),
            ("relay/v1/a b/frames", bytes.as_slice()),
            ("relay/v1/v/accounts/00000001", b"{}"),
        ] {
            let arrival = arrival(topic, payload, &[]);
            assert!(
                matches!(&arrival, Arrival::Dead(letter) if letter.payload == payload),
                "{topic}"
            );
        }
    }
}
