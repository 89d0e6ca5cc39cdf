//! Frames as a receiver in another language reads them: `tests/clients/frame_reader.py`, written from
//! `docs/frame-format.md`. What the relay writes comes out of it in every field, and what is refused here is refused there.

// What a test finds wrong ends it right there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence};
use hub_bridge::reading::PublishProperties;
use hub_bridge::wire::frame::{Carried, Frame, SEQUENCE_MAX, decode, encode};
use serde_json::{Value, json};

const READER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/clients/frame_reader.py"
);
const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/data/household-2007-02.csv"
);

/// A python that has `zstandard`: Debian's library is for Debian's python.
fn python() -> Option<&'static str> {
    let works = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import zstandard"]);
        command.stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(works);
    if found.is_none() {
        println!("skipped: no python3 with zstandard (Debian: python3-zstandard)");
    }
    found
}

/// What the script says of each frame: its readings, or why it refuses it.
fn read_in_python(python: &str, frames: &[Vec<u8>]) -> Vec<Vec<Value>> {
    let mut script = Command::new(python)
        .arg(READER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = script.stdin.take().unwrap();
    let mut stdout = script.stdout.take().unwrap();
    let mut said = String::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for frame in frames {
                let len = u32::try_from(frame.len()).unwrap();
                stdin.write_all(&len.to_be_bytes()).unwrap();
                stdin.write_all(frame).unwrap();
            }
        });
        stdout.read_to_string(&mut said).unwrap();
    });
    assert!(script.wait().unwrap().success());
    let lines = |frame: &str| {
        let lines = frame.lines().map(serde_json::from_str);
        lines.collect::<Result<Vec<Value>, _>>().unwrap()
    };
    let said: Vec<Vec<Value>> = said.split_terminator("\n\n").map(lines).collect();
    assert_eq!(said.len(), frames.len());
    said
}

fn hex(bytes: &[u8]) -> String {
    let each: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    each.concat()
}

/// As the script would say it.
fn said_of(frame: &Frame) -> Vec<Value> {
    let of = |reading: &Carried| {
        let mut said = json!({
            "village": frame.village,
            "epoch": frame.epoch,
            "sequence": reading.sequence,
            "client_id": &*reading.client_id,
            "topic": &*reading.topic,
            "payload": hex(&reading.payload),
            "qos": reading.qos,
            "retain": reading.retain,
            "at": reading.at,
            "clock": reading.clock,
        });
        if let Some(properties) = &reading.properties {
            said["properties"] = said_of_properties(properties);
        }
        if let Some(first) = reading.repeat_of {
            said["repeat_of"] = json!(first);
        }
        said
    };
    frame.readings.iter().map(of).collect()
}

fn said_of_properties(properties: &PublishProperties) -> Value {
    let mut said = json!({ "user_properties": properties.user_properties });
    if let Some(indicator) = properties.payload_format_indicator {
        said["payload_format_indicator"] = json!(indicator);
    }
    if let Some(text) = &properties.content_type {
        said["content_type"] = json!(text);
    }
    if let Some(text) = &properties.response_topic {
        said["response_topic"] = json!(text);
    }
    if let Some(data) = &properties.correlation_data {
        said["correlation_data"] = json!(hex(data));
    }
    said
}

/// Xorshift: the same frames every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn carried(sequence: u64, meter: u64, payload: Vec<u8>) -> Carried {
    Carried {
        sequence: Sequence(sequence),
        topic: Arc::from(format!("site/meters/meter-{meter:03}/readings")),
        client_id: Arc::from(format!("meter-{meter:03}")),
        payload: payload.into(),
        qos: 1,
        retain: false,
        at: UnixMillis(1_780_000_000_000 + i64::try_from(sequence % 1_000_000).unwrap() * 1_000),
        clock: ClockQuality::Synchronised,
        properties: None,
        repeat_of: None,
    }
}

fn frame(readings: impl IntoIterator<Item = Carried>) -> Frame {
    Frame {
        village: "bamenda-01".parse().unwrap(),
        epoch: Epoch(0xdead_beef),
        readings: readings.into_iter().collect(),
    }
}

fn one_shape(count: u64, payload: impl Fn(u64) -> String) -> Frame {
    frame((1..=count).map(|n| carried(n, n % 7, payload(n).into_bytes())))
}

/// A payload of one of the kinds that the format tells apart.
fn payload(chance: &mut Chance) -> Vec<u8> {
    let (a, b) = (chance.below(1_000_000), chance.below(100));
    match chance.below(9) {
        0 => format!(r#"{{"kw":{}.{b},"n":{a}}}"#, a % 10).into_bytes(),
        1 => format!(r#"{{"v":-{}.{b:02}}}"#, a % 300).into_bytes(),
        2 => format!(r#"{{"ts":"2026-11-{:02}T10:{:02}:00Z"}}"#, b % 28, b % 60).into_bytes(),
        3 => format!("{a},{b:03},-0,{}", u64::MAX - a).into_bytes(),
        4 => (0..b)
            .map(|n| (a.wrapping_mul(n) >> 3).to_le_bytes()[0])
            .collect(),
        5 => Vec::new(),
        6 => format!("{b:00$}", usize::try_from(a % 12).unwrap()).into_bytes(),
        7 => format!(
            "{}.{}",
            a % 3,
            "5".repeat(1 + usize::try_from(b % 11).unwrap())
        )
        .into_bytes(),
        _ => "réseau éteint".to_owned().into_bytes(),
    }
}

fn properties(chance: &mut Chance) -> PublishProperties {
    let mut maybe = |text: &str| (chance.below(2) == 0).then(|| text.to_owned());
    PublishProperties {
        content_type: maybe("application/json"),
        response_topic: maybe("m/réponse"),
        correlation_data: maybe("\u{0}\u{ff}").map(|text| text.into_bytes().into()),
        user_properties: maybe("id")
            .map(|name| vec![(name.clone(), String::new()), (name, "own".to_owned())])
            .unwrap_or_default(),
        payload_format_indicator: maybe("").map(|_| 1),
    }
}

/// Readings with everything that readings can have.
fn anything(chance: &mut Chance, count: u64) -> Frame {
    let mut sequence = 0;
    frame((0..count).map(|_| {
        sequence += 1 + chance.below(4) / 3 * chance.below(100_000);
        let meter = chance.below(5);
        let mut reading = carried(sequence, meter, payload(chance));
        reading.qos = u8::try_from(chance.below(3)).unwrap();
        reading.retain = chance.below(5) == 0;
        if chance.below(6) == 0 {
            reading.clock = ClockQuality::Unsynchronised;
            reading.at = UnixMillis(chance.below(u64::MAX).cast_signed());
        }
        if chance.below(4) == 0 {
            reading.properties = Some(Box::new(properties(chance)));
        }
        if chance.below(8) == 0 {
            reading.repeat_of = Some(Sequence(1 + chance.below(SEQUENCE_MAX)));
        }
        reading
    }))
}

/// The sample as JSON of about 200 bytes, if it is there.
fn sample() -> Option<Frame> {
    let Ok(csv) = std::fs::read_to_string(SAMPLE) else {
        println!("without the sample: it is not there");
        return None;
    };
    let line = |(n, line): (usize, &str)| {
        let f: Vec<&str> = line.split(',').collect();
        let payload = format!(
            r#"{{"ts":"{}","active_power_kw":{},"reactive_power_kvar":{},"voltage_v":{},"current_a":{},"sub_metering_1_wh":{},"sub_metering_2_wh":{},"sub_metering_3_wh":{}}}"#,
            f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]
        );
        carried(n as u64 + 1, 1, payload.into_bytes())
    };
    Some(frame(csv.lines().skip(1).enumerate().map(line)))
}

fn frames() -> Vec<Frame> {
    let mut chance = Chance(0x5eed);
    let mut frames = vec![
        // One reading, which the dictionary makes shorter, and one of nothing.
        one_shape(1, |_| {
            r#"{"status":"ok","power_kw":0.326,"energy_kwh":1234.567}"#.to_owned()
        }),
        one_shape(1, |_| String::new()),
        // Constant columns; columns that count up; that fall; long numbers.
        one_shape(500, |_| r#"{"kw":0.5,"n":7}"#.to_owned()),
        one_shape(2_000, |n| format!(r#"{{"wh":{},"t":"{:05}"}}"#, n * 250, n)),
        one_shape(2_000, |n| {
            format!(r#"{{"left":{}}}"#, 999_999_999_999_999_999 - n * n)
        }),
        // Widths, scales, and signs of each number's own.
        one_shape(300, |n| {
            format!(r#"{{"a":{n:00$}}}"#, usize::try_from(n % 5).unwrap())
        }),
        one_shape(300, |n| {
            format!(
                r#"{{"a":{}{}}}"#,
                ["-", ""][usize::from(n % 3 > 0)],
                ["0.10", "2", "3.0", "0.007", "0"][usize::try_from(n % 5).unwrap()]
            )
        }),
        one_shape(300, |n| {
            format!(
                r#"{{"a":{}.{}}}"#,
                n % 4,
                ["5", "25", "75"][usize::try_from(n % 3).unwrap()]
            )
        }),
        one_shape(300, |n| {
            format!(
                r#"{{"a":{}}}"#,
                ["1.0", "2.5", "0.0"][usize::try_from(n % 3).unwrap()]
            )
        }),
        // Several shapes, by meter.
        one_shape(400, |n| {
            format!(
                r#"{{"kind{}":{n}}}"#,
                ["a", "b", "c"][usize::try_from(n % 3).unwrap()]
            )
        }),
        // Up to the last sequence.
        frame([carried(1, 1, vec![]), carried(SEQUENCE_MAX, 2, vec![0xff])]),
    ];
    frames.extend(sample());
    // Nothing that the dictionary knows.
    frames.push(frame((1..=5_u64).map(|n| Carried {
        topic: Arc::from("x"),
        client_id: Arc::from("y"),
        ..carried(n, 0, vec![n.to_le_bytes()[0]])
    })));
    for count in [1, 2, 3, 10, 100, 1_000, 5_000] {
        frames.push(anything(&mut chance, count));
    }
    for _ in 0..60 {
        let count = 1 + chance.below(60);
        frames.push(anything(&mut chance, count));
    }
    frames
}

#[test]
fn every_field_of_every_frame_comes_out_in_python() {
    let Some(python) = python() else { return };
    let frames = frames();
    let bytes: Vec<Vec<u8>> = frames.iter().map(|f| encode(f).unwrap()).collect();
    // Both ways to pack a plan, and columns in the body, are among them.
    assert!(bytes.iter().any(|frame| frame[4] == 0) && bytes.iter().any(|frame| frame[4] == 1));
    for (n, (frame, said)) in frames
        .iter()
        .zip(read_in_python(python, &bytes))
        .enumerate()
    {
        assert_eq!(
            said.len(),
            frame.readings.len(),
            "frame {n}: {:?}",
            said.first()
        );
        for (said, expected) in said.iter().zip(said_of(frame)) {
            assert_eq!(*said, expected, "frame {n}");
        }
    }
    println!("{} frames", frames.len());
}

/// A number of up to 64 bits, seven a byte.
fn varint(from: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first().unwrap();
        *from = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            break;
        }
    }
    value
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A frame whose plan has some other bytes, and a checksum that fits.
fn changed(frame: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut rest = &frame[5..frame.len() - 4];
    let village = varint(&mut rest);
    rest = &rest[village + 4..];
    let (_first, _count) = (varint(&mut rest), varint(&mut rest));
    let head = &frame[..frame.len() - 4 - rest.len()];
    let len = varint(&mut rest);
    let packed = varint(&mut rest);
    let (packed, body) = rest.split_at(packed);
    let dictionary = [
        &[][..],
        include_bytes!("../src/wire/frame/dictionary-1.txt"),
    ];
    let mut unpacking =
        zstd::bulk::Decompressor::with_dictionary(dictionary[usize::from(frame[4])]).unwrap();
    let mut plan = unpacking.decompress(packed, len).unwrap();
    for _ in 0..=chance.below(2) {
        let at = usize::try_from(chance.below(plan.len() as u64)).unwrap();
        plan[at] = match chance.below(4) {
            0 => 0,
            1 => plan[at].wrapping_add(1),
            2 => plan[at] ^ 0x10,
            _ => chance.below(256).to_le_bytes()[0],
        };
    }
    let mut out = head.to_vec();
    out[4] = 0;
    put_varint(&mut out, plan.len());
    let packed = zstd::bulk::compress(&plan, 1).unwrap();
    put_varint(&mut out, packed.len());
    out.extend(packed);
    out.extend(body);
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

#[test]
fn what_is_refused_here_is_refused_in_python() {
    let Some(python) = python() else { return };
    let mut chance = Chance(0xbad);
    let mut bytes = Vec::new();
    for _ in 0..300 {
        let count = 1 + chance.below(12);
        let frame = encode(&anything(&mut chance, count)).unwrap();
        bytes.extend((0..10).map(|_| changed(&frame, &mut chance)));
    }
    let mut taken = 0;
    for (frame, said) in bytes.iter().zip(read_in_python(python, &bytes)) {
        match decode(frame) {
            Ok(frame) => {
                assert_eq!(said, said_of(&frame));
                taken += 1;
            }
            Err(error) => assert!(
                said[0].get("refused").is_some(),
                "{error}, and {said:?}: {}",
                hex(frame)
            ),
        }
    }
    println!("{taken} of {} are frames", bytes.len());
    assert!((300..2_700).contains(&taken));
}
