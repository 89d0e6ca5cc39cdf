use proptest::prelude::*;

use super::*;

fn carried(sequence: u64, client: &str, topic: &str, payload: &str, at: i64) -> Carried {
    Carried {
        sequence: Sequence(sequence),
        topic: topic.into(),
        client_id: client.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: 1,
        retain: false,
        at: UnixMillis(at),
        clock: ClockQuality::Synchronised,
        properties: None,
        repeat_of: None,
    }
}

fn frame(readings: Vec<Carried>) -> Frame {
    Frame {
        village: "bamenda-01".parse().unwrap(),
        epoch: Epoch(0xdead_beef),
        readings,
    }
}

/// The sample as JSON of about 200 bytes, if it is there.
fn sample() -> Option<Vec<String>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/household-2007-02.csv"
    );
    let csv = std::fs::read_to_string(path).ok()?;
    let line = |line: &str| {
        let f: Vec<&str> = line.split(',').collect();
        format!(
            "{{\"ts\":\"{}\",\"active_power_kw\":{},\"reactive_power_kvar\":{},\"voltage_v\":{},\"current_a\":{},\
             \"sub_metering_1_wh\":{},\"sub_metering_2_wh\":{},\"sub_metering_3_wh\":{}}}",
            f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]
        )
    };
    Some(csv.lines().skip(1).map(line).collect())
}

#[test]
fn a_reading_of_the_sample_takes_less_than_ten_bytes() {
    let Some(sample) = sample() else {
        println!("skipped: the sample is not there");
        return;
    };
    let mut at = 1_700_000_000_000;
    let mut chance = 1_u64;
    let readings = sample.iter().enumerate().map(|(n, payload)| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        at += 60_000 + (chance >> 33).cast_signed() % 200 - 100;
        carried(1 + n as u64, "household-01", "household/main", payload, at)
    });
    let frame = frame(readings.collect());
    let began = std::time::Instant::now();
    let bytes = encode(&frame).unwrap();
    let took = began.elapsed();
    #[allow(clippy::cast_precision_loss)] // a few thousand
    let each = bytes.len() as f64 / sample.len() as f64;
    println!(
        "{} readings: {each:.2} bytes each, packed in {took:?}",
        sample.len()
    );
    assert_eq!(decode(&bytes).unwrap(), frame);
    assert!(each < 10.0, "{each}");
}

#[test]
fn a_frame_of_one_reading_is_not_much_more_than_its_payload() {
    let payload = r#"{"ts":"2026-11-21T10:00:00Z","meter":"meter-017","power_kw":0.326,"energy_kwh":1234.567,"voltage_v":231.4}"#;
    let one = frame(vec![carried(
        7,
        "meter-017",
        "site/meters/meter-017/readings",
        payload,
        1_700_000_000_000,
    )]);
    let bytes = encode(&one).unwrap();
    println!("{} bytes of payload: {} bytes", payload.len(), bytes.len());
    assert_eq!(decode(&bytes).unwrap(), one);
    assert!(bytes.len() < payload.len() + 60, "{}", bytes.len());
}

#[test]
fn what_is_no_frame_is_said_to_be_none() {
    let bytes = encode(&frame(vec![carried(1, "c", "t", "{\"kw\":1}", 5)])).unwrap();
    assert_eq!(decode(b""), Err(FrameError::NotAFrame));
    assert_eq!(decode(b"{\"kw\":1}"), Err(FrameError::NotAFrame));
    assert_eq!(decode(b"ERF\x02"), Err(FrameError::Version(2)));
    for cut in 4..bytes.len() {
        assert!(decode(&bytes[..cut]).is_err(), "{cut}");
    }
    for flipped in 4..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[flipped] ^= 0x10;
        assert_eq!(decode(&bytes), Err(FrameError::Checksum), "{flipped}");
    }
    assert_eq!(encode(&frame(vec![])), Err(FrameError::Readings));
    let twice = vec![carried(2, "c", "t", "", 5), carried(2, "c", "t", "", 5)];
    assert_eq!(encode(&frame(twice)), Err(FrameError::Readings));
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (-1000_i32..1000, 0_u8..4).prop_map(|(n, shape)| format!(
            "{{\"shape\":{shape},\"kw\":{}.{:03},\"on\":{}}}",
            n / 7,
            n.unsigned_abs(),
            n > 0
        )
        .into_bytes()),
        prop::collection::vec(any::<u8>(), 0..40),
        "[0-9.]{0,30}".prop_map(String::into_bytes),
    ]
}

fn reading() -> impl Strategy<Value = Carried> {
    let properties = (
        any::<Option<u8>>(),
        any::<Option<String>>(),
        prop::collection::vec(any::<u8>(), 0..5),
    )
        .prop_map(|(indicator, text, data)| {
            Box::new(PublishProperties {
                payload_format_indicator: indicator,
                content_type: text.clone(),
                response_topic: text.clone(),
                correlation_data: (!data.is_empty()).then(|| data.into()),
                user_properties: text.into_iter().map(|t| (t.clone(), t)).collect(),
            })
        });
    let names = (0_u8..5, 0_u8..3);
    let rest = (
        0_u8..3,
        any::<bool>(),
        any::<bool>(),
        any::<i64>(),
        prop::option::of(1..=SEQUENCE_MAX),
    );
    (
        names,
        payload(),
        rest,
        prop::option::weighted(0.1, properties),
    )
        .prop_map(
            |((client, topic), payload, (qos, retain, trusted, at, repeat), properties)| Carried {
                sequence: Sequence(0),
                topic: format!("t/{topic}").into(),
                client_id: format!("c{client}").into(),
                payload: payload.into(),
                qos,
                retain,
                at: UnixMillis(at),
                clock: if trusted {
                    ClockQuality::Synchronised
                } else {
                    ClockQuality::Unsynchronised
                },
                properties,
                repeat_of: repeat.map(Sequence),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_frame_comes_back(readings in prop::collection::vec((reading(), 1_u64..9), 1..60)) {
        let mut sequence = 0;
        let readings = readings.into_iter().map(|(mut reading, gap)| {
            sequence += gap;
            reading.sequence = Sequence(sequence);
            reading
        });
        let frame = frame(readings.collect());
        prop_assert_eq!(decode(&encode(&frame).unwrap()), Ok(frame));
    }

    /// With a checksum that fits: what a hub is sent on purpose.
    #[test]
    fn hostile_bytes_never_crash(mut at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), readings in prop::collection::vec(reading(), 1..20)) {
        let readings = readings.into_iter().zip(1..).map(|(mut reading, n)| {
            reading.sequence = Sequence(n);
            reading
        });
        let mut bytes = encode(&frame(readings.collect())).unwrap();
        let len = bytes.len() - 4;
        for (place, byte) in at.drain(..) {
            bytes[place.index(len)] = byte;
        }
        let checksum = crc32fast::hash(&bytes[..len]).to_le_bytes();
        bytes[len..].copy_from_slice(&checksum);
        let _ = decode(&bytes);
    }
}
