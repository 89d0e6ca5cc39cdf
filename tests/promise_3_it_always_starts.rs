//! Promise 3: after damage of any file the relay listens again, what could be saved is saved, and what
//! was lost is named.
//!
//! `RELAY_TEST_DAMAGES` (30) is how many of all damages are tried, chosen by the seed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::ledger::{Key, Ledger};
use harness::meter::Habits;
use harness::packet::{self, Connect, Publish, Version, kind};
use harness::{Disk, FakeHub, Meter, Raw, Relay, Temper, VILLAGE};
use harness::{seed, setting, skip, within};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const READINGS: u64 = 3_000;

/// What can happen to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    FlippedBit,
    ZeroedBlock,
    Truncated,
    Emptied,
    Missing,
    Noise,
}

const DAMAGES: [Damage; 6] = [
    Damage::FlippedBit,
    Damage::ZeroedBlock,
    Damage::Truncated,
    Damage::Emptied,
    Damage::Missing,
    Damage::Noise,
];

impl Damage {
    fn inflict(self, file: &Path, random: &mut StdRng) {
        let mut bytes = fs::read(file).unwrap();
        let length = bytes.len();
        if length == 0 && !matches!(self, Self::Missing) {
            return;
        }
        match self {
            Self::FlippedBit => {
                bytes[random.random_range(0..length)] ^= 1 << random.random_range(0..8);
            }
            Self::ZeroedBlock => {
                let start = random.random_range(0..length) & !4095;
                let end = length.min(start + 4096);
                bytes[start..end].fill(0);
            }
            Self::Truncated => bytes.truncate(random.random_range(0..length)),
            Self::Emptied => bytes.clear(),
            Self::Missing => return fs::remove_file(file).unwrap(),
            Self::Noise => random.fill(&mut bytes[..]),
        }
        fs::write(file, bytes).unwrap();
    }
}

/// A relay with readings of one meter in several segments, killed; its files are what gets damaged.
struct Wreck {
    ledger: Ledger,
    data: tempfile::TempDir,
    files: Vec<PathBuf>,
}

impl Wreck {
    fn make() -> Self {
        let ledger = Ledger::new(VILLAGE);
        let mut relay = relay_without_hub();
        relay.start();
        let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
        meter.habits.size = 1_000;
        meter.publish(READINGS).unwrap();
        relay.kill();
        let data = tempfile::tempdir().unwrap();
        copy(&relay.data_dir(), data.path());
        let mut files = Vec::new();
        list(data.path(), data.path(), &mut files);
        assert!(files.len() > 5, "{files:?}");
        Self {
            ledger,
            data,
            files,
        }
    }

    /// Damages a copy by `inflict`, starts a relay on it, and checks what comes to the hub: how many readings were
    /// lost and named, or which were lost without a word.
    fn survive(&self, name: &str, inflict: impl FnOnce(&Path)) -> Result<u64, String> {
        let ledger = self.ledger.fork();
        let hub = FakeHub::start(&ledger, Temper::Honest);
        let mut relay = relay_without_hub();
        relay.set("hub.url", format!("mqtt://{}", hub.address));
        copy(self.data.path(), &relay.data_dir());
        inflict(&relay.data_dir());
        println!("{name}");
        relay.start();
        let mut meter = Meter::new(&ledger, "after", Habits::new(relay.mqtt));
        meter.publish(100).expect("it takes new readings");
        relay.wait_drained(within(60));
        let status = relay.status();
        let named = named_as_lost(&status);
        let tail = unproved_tail(&status);
        let unnamed: Vec<Key> = ledger
            .missing()
            .into_iter()
            .filter(|key| key.meter != 0 || !(named.contains(&key.number) || key.number >= tail))
            .collect();
        ledger.check();
        if let (Some(first), Some(last)) = (unnamed.first(), unnamed.last()) {
            let (count, epochs) = (unnamed.len(), &status["backlog"]["epochs"]);
            return Err(format!(
                "{name}: {count} lost without a word, {first:?} to {last:?}; {epochs}"
            ));
        }
        let lost = ledger.missing().len() as u64;
        assert_eq!(ledger.sums().at_hub, READINGS + 100 - lost);
        Ok(lost)
    }
}

fn relay_without_hub() -> Relay {
    let mut relay = Relay::new(harness::port::free());
    relay
        .set("backlog.segment_bytes", "1 MiB")
        .set("hub.retry_max", "1s");
    relay
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

/// All files below `directory`, as paths relative to `root`.
fn list(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list(root, &path, files);
        } else if path.is_file() {
            files.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}

/// Every sequence that `/status` names as lost, of any epoch.
fn named_as_lost(status: &Value) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for epoch in status["backlog"]["epochs"].as_array().into_iter().flatten() {
        add_ranges(&epoch["lost"], &mut lost);
    }
    lost
}

/// Where an epoch ended at this start, since nobody can tell what was behind its last known reading: the first
/// sequence of which nothing is known.
fn unproved_tail(status: &Value) -> u64 {
    let began = status["store"]["opened"]["epoch_began"].as_str();
    if !matches!(began, Some("tail_unproved" | "identity_lost")) {
        return u64::MAX;
    }
    let epochs = status["backlog"]["epochs"].as_array().into_iter().flatten();
    let mut ended = epochs.filter(|epoch| epoch["epoch"] != status["epoch"]);
    ended
        .next()
        .and_then(|epoch| epoch["next_sequence"].as_u64())
        .unwrap_or(u64::MAX)
}

fn add_ranges(value: &Value, sequences: &mut BTreeSet<u64>) {
    match (value["first"].as_u64(), value["last"].as_u64(), value) {
        (Some(from), Some(to), _) => sequences.extend(from..=to),
        (_, _, Value::Array(values)) => values.iter().for_each(|v| add_ranges(v, sequences)),
        (_, _, Value::Object(map)) => map.values().for_each(|v| add_ranges(v, sequences)),
        _ => {}
    }
}

#[test]
fn it_starts_and_names_what_was_lost_after_damage_of_any_file() {
    let test = "it_starts_and_names_what_was_lost_after_damage_of_any_file";
    let mut random = StdRng::seed_from_u64(seed(test));
    let wreck = Wreck::make();
    let mut all: Vec<(&PathBuf, Damage)> = Vec::new();
    for file in &wreck.files {
        all.extend(DAMAGES.map(|damage| (file, damage)));
    }
    let count = usize::try_from(setting("RELAY_TEST_DAMAGES", 30)).unwrap();
    all.shuffle(&mut random);
    let (mut lost, mut failures) = (0, Vec::new());
    for (file, damage) in all.iter().take(count) {
        let name = format!("{damage:?} in {}", file.display());
        let inflict = |data: &Path| damage.inflict(&data.join(file), &mut random);
        match wreck.survive(&name, inflict) {
            Ok(named) => lost += named,
            Err(failure) => failures.push(failure),
        }
    }
    let tried = count.min(all.len());
    println!(
        "{test}: {tried} of {} damages, {lost} readings lost and named",
        all.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn nothing_is_lost_without_damage() {
    assert_eq!(Wreck::make().survive("no damage", |_| ()), Ok(0));
}

#[test]
fn a_missing_segment_is_named() {
    let wreck = Wreck::make();
    let lost = wreck.survive("a missing segment", |data| {
        let mut segments: Vec<_> = fs::read_dir(data.join("backlog"))
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        segments.sort();
        assert!(segments.len() >= 3, "{segments:?}");
        fs::remove_dir_all(&segments[1]).unwrap();
    });
    let lost = lost.unwrap();
    assert!((1..READINGS).contains(&lost), "{lost} lost");
}

#[test]
fn damage_is_kept_aside_for_those_who_want_to_look() {
    let wreck = Wreck::make();
    let ledger = wreck.ledger.fork();
    let hub = FakeHub::start(&ledger, Temper::Honest);
    let mut relay = relay_without_hub();
    relay.set("hub.url", format!("mqtt://{}", hub.address));
    copy(wreck.data.path(), &relay.data_dir());
    let databases = wreck.files.iter().filter(|file| file.ends_with("db"));
    let first = relay.data_dir().join(databases.min().unwrap());
    let mut bytes = fs::read(&first).unwrap();
    let length = bytes.len();
    bytes[length / 4..length * 3 / 4].fill(0xaa);
    fs::write(&first, &bytes).unwrap();
    relay.start();
    relay.wait_drained(within(60));
    let quarantine = relay.data_dir().join("quarantine");
    assert!(quarantine.is_dir(), "{:#}", relay.status());
    let mut kept = Vec::new();
    list(&quarantine, &quarantine, &mut kept);
    let same = |file: &&PathBuf| fs::read(quarantine.join(file)).is_ok_and(|kept| kept == bytes);
    assert!(
        kept.iter().find(same).is_some(),
        "not as it was found: {kept:?}"
    );
}

#[test]
fn a_second_relay_on_the_same_directory_ends_with_a_clear_error() {
    let ledger = Ledger::new(VILLAGE);
    let mut first = relay_without_hub();
    first.start();
    let mut second = relay_without_hub();
    second.set("data_dir", first.data_dir().to_str().unwrap());
    second.write_config();
    second.start_as_is();
    let status = second.wait_exit(within(20));
    assert_eq!(status.code(), Some(1), "{}", second.log());
    let log = second.log();
    let pid = first.pid().to_string();
    assert!(
        log.contains(&pid) && log.contains("lock") || log.contains("another"),
        "{log}"
    );
    Meter::new(&ledger, "meter", Habits::new(first.mqtt))
        .publish(10)
        .unwrap();
}

#[test]
fn a_data_directory_of_another_machine_begins_a_new_epoch() {
    // A card that is put into another gateway: what waits keeps its identity, what comes gets another.
    let wreck = Wreck::make();
    let ledger = wreck.ledger.fork();
    let hub = FakeHub::start(&ledger, Temper::Honest);
    let mut relay = relay_without_hub();
    relay.set("hub.url", format!("mqtt://{}", hub.address));
    relay.set("village_id", "another-village");
    copy(wreck.data.path(), &relay.data_dir());
    relay.start();
    relay.wait_drained(within(30));
    assert_eq!(
        ledger.sums().missing,
        0,
        "what waited keeps the village it was received in"
    );
    ledger.check();
    let other = Ledger::new("another-village");
    let hub = FakeHub::start(&other, Temper::Honest);
    relay.kill();
    relay
        .set("hub.url", format!("mqtt://{}", hub.address))
        .start();
    Meter::new(&other, "meter", Habits::new(relay.mqtt))
        .publish(10)
        .unwrap();
    other.settle("another village", within(10));
    assert_ne!(ledger.epochs(), other.epochs());
}

/// sled writes when it opens: on a full disk that must cost neither the start nor what is known.
#[test]
fn a_start_on_a_full_disk_hears_meters_and_knows_what_was_retained() {
    let test = "a_start_on_a_full_disk_hears_meters_and_knows_what_was_retained";
    let disk = match Disk::new(64) {
        Ok(disk) => disk,
        Err(reason) => return skip(test, &reason),
    };
    let mut relay = relay_without_hub();
    let data = disk.mount_point().join("data");
    relay.set("data_dir", data.to_str().unwrap());
    relay.set("backlog.disk_free_min", "1 MiB");
    relay
        .set("mqtt.forward", vec!["meters/#".to_owned()])
        .start();
    let connect = |name| {
        Raw::connect(relay.mqtt, &Connect::new(Version::V4, name))
            .unwrap()
            .0
    };
    let mut configurator = connect("configurator");
    let mut tariff = Publish::new("tariffs/evening", "85 XAF", 1);
    tariff.retain = true;
    configurator.send(&tariff.encode(Version::V4)).unwrap();
    configurator.receive_kind(kind::PUBACK).unwrap();

    relay.kill();
    disk.fill(0);
    relay.start_as_is();
    relay.wait_listening(within(30));
    let mut display = Raw::connect(relay.mqtt, &Connect::new(Version::V4, "display"))
        .unwrap()
        .0;
    display
        .send(&packet::subscribe(Version::V4, 1, "tariffs/#", 1))
        .unwrap();
    let retained = display.receive_kind(kind::PUBLISH).unwrap();
    assert_eq!(
        Publish::decode(&retained, Version::V4).unwrap().payload,
        b"85 XAF"
    );

    disk.relieve();
    relay.wait_ready(within(60));
    let mut meter = Raw::connect(relay.mqtt, &Connect::new(Version::V4, "meter"))
        .unwrap()
        .0;
    meter
        .send(&Publish::new("meters/1", "1 kWh", 1).encode(Version::V4))
        .unwrap();
    meter.receive_kind(kind::PUBACK).unwrap();
}
