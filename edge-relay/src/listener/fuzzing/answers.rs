//! What the server answered, read by rumqttc's decoders, against what was said.

use std::collections::BTreeMap;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::said::Said;
use crate::broker::topic;
use crate::listener::Settings;
use crate::listener::codec::Version;

const BYTES_MAX: usize = 1 << 20;

/// Readings, topic and payload, and how often.
pub(super) type Stored = BTreeMap<(String, Vec<u8>), usize>;

/// How often each packet id was answered, by the kind of answer.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) let_in: bool,
    pubacks: BTreeMap<u16, usize>,
    pubrecs: BTreeMap<u16, usize>,
    pubrels: BTreeMap<u16, usize>,
    pubcomps: BTreeMap<u16, usize>,
    subacks: Vec<(u16, usize)>,
    unsubacks: Vec<(u16, usize)>,
    pings: usize,
    /// The reason byte of DISCONNECT.
    pub(super) disconnect: Option<u8>,
    packets: usize,
}

impl Answers {
    /// # Panics
    /// Where it is not MQTT, or not what a server sends.
    pub(super) fn read(version: Option<Version>, bytes: &[u8]) -> Self {
        let mut answers = Self::default();
        let mut rest = BytesMut::from(bytes);
        while !rest.is_empty() {
            assert!(
                answers.disconnect.is_none(),
                "more after DISCONNECT: {bytes:?}"
            );
            let before = rest.clone();
            match version {
                None => panic!("an answer to what is not MQTT: {bytes:?}"),
                Some(Version::V4) => match v4::Packet::read(&mut rest, BYTES_MAX) {
                    Ok(packet) => answers.take_v4(packet),
                    Err(error) => panic!("{error:?} in {before:?}"),
                },
                Some(Version::V5) => match v5::Packet::read(&mut rest, None) {
                    Ok(packet) => answers.take_v5(packet, &before),
                    Err(error) => panic!("{error:?} in {before:?}"),
                },
            }
            answers.packets += 1;
        }
        answers
    }

    fn hello(&mut self, accepted: bool) {
        assert_eq!(self.packets, 0, "CONNACK is first");
        self.let_in = accepted;
    }

    fn take_v4(&mut self, packet: v4::Packet) {
        use v4::Packet as P;
        assert!(
            self.let_in || matches!(packet, P::ConnAck(_)),
            "{packet:?} to a client that is not in"
        );
        match packet {
            P::ConnAck(ack) => self.hello(ack.code == v4::ConnectReturnCode::Success),
            P::Publish(_) => {}
            P::PubAck(ack) => count(&mut self.pubacks, ack.pkid),
            P::PubRec(ack) => count(&mut self.pubrecs, ack.pkid),
            P::PubRel(ack) => count(&mut self.pubrels, ack.pkid),
            P::PubComp(ack) => count(&mut self.pubcomps, ack.pkid),
            P::SubAck(ack) => self.subacks.push((ack.pkid, ack.return_codes.len())),
            P::UnsubAck(ack) => self.unsubacks.push((ack.pkid, 0)),
            P::PingResp => self.pings += 1,
            other => panic!("{other:?} from a server"),
        }
    }

    fn take_v5(&mut self, packet: v5::Packet, bytes: &[u8]) {
        use v5::Packet as P;
        assert!(
            self.let_in || matches!(packet, P::ConnAck(_)),
            "{packet:?} to a client that is not in"
        );
        match packet {
            P::ConnAck(ack) => self.hello(ack.code == v5::ConnectReturnCode::Success),
            P::Publish(_) => {}
            // With a reason: refused.
            P::PubAck(_) | P::PubRec(_) if bytes[1] > 2 => {}
            P::PubAck(ack) => count(&mut self.pubacks, ack.pkid),
            P::PubRec(ack) => count(&mut self.pubrecs, ack.pkid),
            P::PubRel(ack) => count(&mut self.pubrels, ack.pkid),
            P::PubComp(ack) => count(&mut self.pubcomps, ack.pkid),
            P::SubAck(ack) => self.subacks.push((ack.pkid, ack.return_codes.len())),
            P::UnsubAck(ack) => self.unsubacks.push((ack.pkid, ack.reasons.len())),
            P::PingResp(_) => self.pings += 1,
            P::Disconnect(_) => self.disconnect = Some(bytes[2]),
            other => panic!("{other:?} from a server"),
        }
    }

    /// Answers only what was asked, and in the numbers that were.
    pub(super) fn assert_answer(&self, said: &Said) {
        let asked = |qos: u8| tally(said.publishes.iter().filter(|p| p.qos == qos).map(|p| p.id));
        at_most(&self.pubacks, &asked(1), "PUBACK");
        at_most(&self.pubrecs, &asked(2), "PUBREC");
        at_most(
            &self.pubcomps,
            &tally(said.releases.iter().copied()),
            "PUBCOMP",
        );
        let v5 = said.version == Some(Version::V5);
        for (answers, asked) in [
            (&self.subacks, &said.subscribes),
            (&self.unsubacks, &said.unsubscribes),
        ] {
            assert!(answers.len() <= asked.len(), "{answers:?} to {asked:?}");
            for (answer, asked) in answers.iter().zip(asked) {
                let counted = answer.1 == asked.1 || (answer.1 == 0 && !v5);
                assert!(answer.0 == asked.0 && counted, "{answers:?} to {asked:?}");
            }
        }
        assert!(self.pings <= said.pings);
    }

    /// Of a session that began with this connection.
    pub(super) fn assert_releases(&self, said: &Said) {
        at_most(
            &self.pubrels,
            &tally(said.received.iter().copied()),
            "PUBREL",
        );
    }

    /// Nothing is left unanswered.
    pub(super) fn assert_complete(&self, said: &Said) {
        let asked = tally(said.publishes.iter().filter(|p| p.qos == 1).map(|p| p.id));
        assert_eq!(self.pubacks, asked, "not all is acknowledged");
        assert_eq!(self.subacks.len(), said.subscribes.len());
        assert_eq!(self.unsubacks.len(), said.unsubscribes.len());
        assert_eq!(self.pings, said.pings);
    }

    /// Readings that were acknowledged and so must be stored: topic, payload, and how often. Where an id was used
    /// again, the first publishes with it count; repeats with `QoS` 2 are one reading.
    pub(super) fn promised(&self, said: &Said, settings: &Settings, qos_max: u8) -> Stored {
        let mut left = [self.pubacks.clone(), self.pubrecs.clone()];
        let mut promised = Stored::new();
        for publish in said
            .publishes
            .iter()
            .filter(|p| (1..=qos_max).contains(&p.qos))
        {
            let left = &mut left[usize::from(publish.qos) - 1];
            let Some(count) = left.get_mut(&publish.id).filter(|count| **count > 0) else {
                continue;
            };
            *count = if publish.qos == 2 { 0 } else { *count - 1 };
            let Some(topic) = &publish.topic else {
                continue;
            };
            if topic::is_forwarded(topic, &settings.forward) {
                let reading = (topic.clone(), publish.payload.clone());
                *promised.entry(reading).or_insert(0) += 1;
            }
        }
        promised
    }
}

/// # Panics
/// Where something that was promised is not among what is stored.
pub(super) fn assert_kept(promised: &Stored, stored: &Stored) {
    for (reading, count) in promised {
        let found = stored.get(reading).copied().unwrap_or(0);
        assert!(
            found >= *count,
            "acknowledged and not stored: {reading:?}, {found} of {count}"
        );
    }
}

fn count(counts: &mut BTreeMap<u16, usize>, id: u16) {
    *counts.entry(id).or_insert(0) += 1;
}

fn tally(ids: impl Iterator<Item = u16>) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    ids.for_each(|id| count(&mut counts, id));
    counts
}

fn at_most(answers: &BTreeMap<u16, usize>, asked: &BTreeMap<u16, usize>, what: &str) {
    for (id, count) in answers {
        let most = asked.get(id).copied().unwrap_or(0);
        assert!(
            *count <= most,
            "{what} {id} came {count} times and was asked for {most} times"
        );
    }
}
