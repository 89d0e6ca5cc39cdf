//! One connection, any bytes.

use fuzz_harness::{Input, within};

use super::answers::{Answers, assert_kept};
use super::rig::{Rig, with_rig};
use super::said::Said;
use crate::broker::topic;
use crate::listener::codec::Version;

/// What stands before the input's own bytes.
const HELLOS: [&[u8]; 4] = [
    b"",
    b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a",
    b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01a",
    b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\x01\0\0\x01b",
];

pub(crate) fn mqtt_bytes(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bytes = input.pick(&HELLOS).to_vec();
    let chunk = match input.byte() {
        0..64 => usize::MAX,
        other => usize::from(other) - 63,
    };
    bytes.extend(input.rest());
    // The first of them on a thread makes the rig.
    let enough = (64 << 20) + bytes.len() * 64;
    within(enough, || {
        with_rig(async |rig| one(rig, &bytes, chunk).await);
    });
}

async fn one(rig: &mut Rig, bytes: &[u8], chunk: usize) {
    let settings = rig.shared.settings();
    let said = Said::read(bytes, settings.packet_bytes_max as usize);
    let mut wire = rig.connect();
    for part in bytes.chunks(chunk.min(bytes.len().max(1))) {
        wire.write(part).await;
    }
    let output = if said.must_end {
        wire.cut_off().await
    } else {
        wire.end().await
    };
    let answers = Answers::read(said.version, &output);
    answers.assert_answer(&said);
    answers.assert_releases(&said);
    let stored = rig.stored();
    assert_kept(&answers.promised(&said, &settings, 2), &stored);
    assert_said(&said, &stored.into_keys().collect::<Vec<_>>());
    assert_ended_well(&said, &answers);
}

/// Nothing is stored that was not said: a publish or the will, on a topic that is forwarded.
fn assert_said(said: &Said, stored: &[(String, Vec<u8>)]) {
    for (name, payload) in stored {
        let of_publish = said
            .publishes
            .iter()
            .any(|p| p.payload == *payload && p.topic.as_ref().is_none_or(|t| t == name));
        let will = said.connect.as_ref().and_then(|c| c.will.as_ref());
        let of_will = will.is_some_and(|w| w.topic == *name && w.payload == *payload);
        assert!(
            of_publish || of_will,
            "stored and never said: {name} {payload:?}"
        );
        assert!(topic::check_name(name).is_ok());
    }
}

fn assert_ended_well(said: &Said, answers: &Answers) {
    let settings_refuse = said.connect.as_ref().is_none_or(|c| c.user_name.is_some());
    if settings_refuse {
        assert!(!answers.let_in);
        return;
    }
    if !answers.let_in {
        return;
    }
    if said.is_lawful() {
        let in_flight = said.publishes.iter().filter(|p| p.qos > 0).count();
        let expiry = said.goodbye && said.version == Some(Version::V5);
        if in_flight <= 8 && !expiry {
            assert_eq!(answers.disconnect, None, "a lawful client is cut off");
            answers.assert_complete(said);
        }
    } else if let (Some(violation), Some(Version::V5)) = (said.violation, said.version) {
        let reason = answers.disconnect.expect("cut off without a word");
        let doubtful = said.publishes.iter().any(|p| p.doubtful) || said.publishes.len() > 8;
        let right = reason_byte(violation.reason);
        assert!(
            reason == right || (doubtful && reason >= 0x80),
            "{reason:#x} for {violation:?}"
        );
    }
}

fn reason_byte(reason: rumqttd::protocol::DisconnectReasonCode) -> u8 {
    let mut bytes = bytes::BytesMut::new();
    crate::listener::codec::write::disconnect(&mut bytes, Version::V5, reason);
    bytes[2]
}
