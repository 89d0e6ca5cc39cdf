//! A data directory with everything in it that a relay ever writes: segments open and closed, forwarded and waiting, in
//! two epochs; marks, identity, refused readings, quarantine, drains, the accepted configuration, retained messages and
//! a session with messages that wait. The relay is ended; the directory is what gets damaged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::ledger::{Key, Ledger, payload, read_tag};
use harness::meter::Habits;
use harness::packet::{self, Connect, Publish, Version, kind};
use harness::{FakeHub, Meter, Raw, Relay, Temper, VILLAGE};
use harness::{wait_for, within};
use serde_json::Value;

use crate::case::Case;

/// Bytes of a small reading: of these it is counted what is saved.
const SMALL: usize = 700;
/// Bytes of a large one, which the store keeps in pieces.
const LARGE: usize = 20_000;
/// Readings that the hub has before the wreck.
const FORWARDED: u64 = 1_700;
/// Small readings that wait.
const WAITING: u64 = 4_500;
/// Retained messages, and messages that wait for a session.
pub(crate) const LOCAL: usize = 200;
/// Bytes of each.
const LOCAL_BYTES: usize = 1_000;
/// The client with the session.
const DISPLAY: &str = "display";

/// `(epoch in hex, sequence)`.
pub(crate) type Identity = (String, u64);

/// It.
pub(crate) struct Wreck {
    /// As it was when the relay ended.
    pub(crate) ledger: Ledger,
    /// Which reading each identity on the disk is.
    pub(crate) readings: BTreeMap<Identity, Key>,
    /// All files, relative.
    pub(crate) files: Vec<PathBuf>,
    data: tempfile::TempDir,
}

/// A relay on small segments that keeps what was forwarded.
pub(crate) fn relay(hub: std::net::SocketAddr) -> Relay {
    let mut relay = Relay::new(hub);
    relay
        .set("backlog.segment_bytes", "1 MiB")
        .set("hub.retry_max", "1s")
        .set("mqtt.forward", vec!["meters/#".to_owned()]);
    relay
}

impl Wreck {
    /// Makes one; `in_order`: the relay was stopped, and not killed.
    pub(crate) fn make(case: &mut Case, in_order: bool) -> Self {
        let ledger = Ledger::new(VILLAGE);
        let hub = FakeHub::start(&ledger, Temper::Refuses("#0:5;".to_owned(), 0x99));
        let mut relay = relay(hub.address);
        relay.start();
        let meter = |name: &str, size: usize| {
            let mut habits = Habits::new(relay.mqtt);
            habits.size = size;
            habits.in_flight = if size == LARGE { 5 } else { 40 };
            Meter::new(&ledger, name, habits)
        };
        let (mut small, mut large) = (meter("small", SMALL), meter("large", LARGE));
        small.publish(FORWARDED).unwrap();
        relay.wait_drained(within(60));
        relay.post("/drain").unwrap();
        relay.wait_status("a drain is recorded", within(20), |status| {
            status["drain"]["last"]["outcome"].is_string()
        });
        wait_for("one is refused", within(10), || {
            (relay.status()["backlog"]["refused"] == 1).then_some(())
        });
        relay.stop();

        // Another epoch, and something in the quarantine.
        fs::remove_file(relay.data_dir().join("identity")).unwrap();
        fs::write(relay.data_dir().join("backlog/not-a-segment"), "?").unwrap();
        relay.set("hub.url", format!("mqtt://{}", harness::port::free()));
        relay.start();
        // Its connection ended with the relay that was stopped.
        wait_for("the meter is back", within(20), || small.publish(1).ok());
        local_messages(&relay);
        for _ in 0..10 {
            small.publish(WAITING / 10).unwrap();
            large.publish(2).unwrap();
        }
        wait_for("segments are closed", within(20), || {
            let segments = relay.cli(&["backlog", "list", "--json"]).stdout;
            let segments: Value = serde_json::from_slice(&segments).ok()?;
            let states: Vec<_> = segments.as_array()?.iter().map(|s| &s["state"]).collect();
            (states.len() >= 4 && !states.contains(&&Value::from("closing"))).then_some(())
        });
        let readings = readings(&relay);
        if in_order {
            relay.stop();
        } else {
            case.moment(1200);
            relay.kill();
        }
        let data = harness::scratch("wreck-");
        copy(&relay.data_dir(), data.path());
        let mut files = Vec::new();
        list(data.path(), data.path(), &mut files);
        for file in files.iter().filter(|file| !file.starts_with("quarantine")) {
            let mode = fs::metadata(data.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{} is not for others", file.display());
        }
        fs::remove_dir_all(relay.data_dir()).unwrap();
        Self {
            ledger,
            readings,
            files,
            data,
        }
    }

    /// Puts a copy into the data directory of `relay`.
    pub(crate) fn copy_to(&self, relay: &Relay) {
        copy(self.data.path(), &relay.data_dir());
    }
}

/// Retained messages, and others for a session whose client is away.
fn local_messages(relay: &Relay) {
    let mut connect = Connect::new(Version::V4, DISPLAY);
    connect.clean = false;
    let (mut display, _, _) = Raw::connect(relay.mqtt, &connect).unwrap();
    let subscribe = packet::subscribe(Version::V4, 1, "commands/#", 1);
    display.send(&subscribe).unwrap();
    display.receive_kind(kind::SUBACK).unwrap();
    drop(display);
    let (mut office, _, _) =
        Raw::connect(relay.mqtt, &Connect::new(Version::V4, "office")).unwrap();
    for number in 0..LOCAL {
        for topic in ["tariffs", "commands"] {
            let id = u16::try_from(number).unwrap() + 1;
            let text = format!("{number} {}", "x".repeat(LOCAL_BYTES));
            let mut publish = Publish::new(&format!("{topic}/{number}"), text, id);
            publish.retain = topic == "tariffs";
            office.send(&publish.encode(Version::V4)).unwrap();
            office.receive_kind(kind::PUBACK).unwrap();
        }
    }
}

/// How many of the retained messages, and of those that waited for the session, come.
pub(crate) fn local_messages_left(relay: &Relay) -> (usize, usize) {
    let quiet = std::time::Duration::from_millis(300);
    let come = |mut client: Raw, topic: &str| {
        let mut seen = std::collections::BTreeSet::new();
        while let Ok(packet) = client.receive_within(quiet) {
            if packet.kind() == kind::PUBLISH {
                let publish = Publish::decode(&packet, Version::V4).unwrap();
                let number = publish.topic.strip_prefix(topic).unwrap().to_owned();
                let text = format!("{number} {}", "x".repeat(LOCAL_BYTES));
                assert_eq!(publish.payload, text.as_bytes(), "delivered altered");
                seen.insert(number);
                if publish.qos == 1 {
                    let ack = packet::ack(kind::PUBACK, Version::V4, publish.packet_id, 0);
                    client.send(&ack).unwrap();
                }
            }
        }
        seen.len()
    };
    let (mut reader, _, _) =
        Raw::connect(relay.mqtt, &Connect::new(Version::V4, "reader")).unwrap();
    reader
        .send(&packet::subscribe(Version::V4, 1, "tariffs/#", 1))
        .unwrap();
    let retained = come(reader, "tariffs/");
    let mut connect = Connect::new(Version::V4, DISPLAY);
    connect.clean = false;
    let (display, _, _) = Raw::connect(relay.mqtt, &connect).unwrap();
    (retained, come(display, "commands/"))
}

/// All that is on the disk, asked of the relay while it is whole.
fn readings(relay: &Relay) -> BTreeMap<Identity, Key> {
    let mut found = BTreeMap::new();
    let status = relay.status();
    let epochs = status["backlog"]["epochs"].as_array().unwrap();
    for epoch in epochs.iter().map(|e| e["epoch"].as_str().unwrap()) {
        let mut from = 1;
        loop {
            let path = format!("/backlog/peek?count=1000&epoch={epoch}&from={from}");
            let page: Value = serde_json::from_str(&relay.get(&path).unwrap().1).unwrap();
            let page = page.as_array().unwrap();
            let Some(last) = page.last() else { break };
            from = last["sequence"].as_u64().unwrap() + 1;
            for reading in page {
                let sequence = reading["sequence"].as_u64().unwrap();
                let key = tag_of(reading).expect("a payload of ours");
                found.insert((epoch.to_owned(), sequence), key);
            }
        }
    }
    found
}

fn tag_of(reading: &Value) -> Option<Key> {
    let text = reading["payload"].as_str()?;
    if reading["payload_encoding"] == "text" {
        return read_tag(text.as_bytes());
    }
    let digits = text.as_bytes().chunks(2).take(40);
    let bytes: Option<Vec<u8>> = digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect();
    read_tag(&bytes?)
}

/// The small readings whose bytes are all there, side by side, in some file below `directory`.
pub(crate) fn untouched(directory: &Path) -> std::collections::BTreeSet<Key> {
    let mut files = Vec::new();
    list(directory, directory, &mut files);
    let mut whole = std::collections::BTreeSet::new();
    for file in files {
        let bytes = fs::read(directory.join(file)).unwrap();
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'#') {
            let Some(key) = read_tag(&bytes[at..]) else {
                continue;
            };
            if !whole.contains(&key) && bytes[at..].starts_with(&payload(key, SMALL)) {
                whole.insert(key);
            }
        }
    }
    whole
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(status.unwrap().success());
}

/// All files below `directory`, in order, relative to `root`.
fn list(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(root, &path, files);
        } else if path.is_file() {
            files.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}
