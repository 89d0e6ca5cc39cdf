//! The built binary and a stick: export, the hub's receipt, and all that goes wrong on the way. The hub is this test,
//! with the keys and the format that `hub-bridge import` uses.

// The lint's exception for tests does not cover their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_relay::clock::SystemClock;
use edge_relay::config;
use edge_relay::store::{NewReading, Store};
use hub_bridge::clock::{Clock as _, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::stick::{HubIdentity, Manifest, PublicKey, SigningKey, StickFile, StickReceipt};
use hub_bridge::wire::receipt::Receipt;
use serde_json::Value;

const VILLAGE: &str = "stick-01";

/// A relay's configuration and store, a hub's keys, and a directory for a stick.
struct Village {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

fn free_port() -> u16 {
    let bound = TcpListener::bind("127.0.0.1:0").unwrap();
    bound.local_addr().unwrap().port()
}

impl Village {
    fn new() -> Self {
        let village = Self {
            dir: tempfile::tempdir().unwrap(),
            child: None,
        };
        fs::create_dir(village.stick()).unwrap();
        let (mqtt, hub, admin) = (free_port(), free_port(), free_port());
        let recipients = serde_json::to_string(&village.identity().recipients()).unwrap();
        let key = village.hub_key().public();
        let text = format!(
            "village_id = \"{VILLAGE}\"\ndata_dir = \"data\"\nmqtt.listen = \"127.0.0.1:{mqtt}\"\n\
             hub.url = \"mqtt://127.0.0.1:{hub}\"\nadmin.listen = \"127.0.0.1:{admin}\"\n\
             [stick]\nrecipients = {recipients}\nhub_key = \"{key}\"\n"
        );
        fs::write(village.file(), text).unwrap();
        village
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("broker.toml")
    }

    fn stick(&self) -> PathBuf {
        self.dir.path().join("stick")
    }

    fn identity(&self) -> HubIdentity {
        HubIdentity::open_or_make(&self.dir.path().join("identity")).unwrap()
    }

    fn hub_key(&self) -> SigningKey {
        SigningKey::open_or_make(&self.dir.path().join("hub.key")).unwrap()
    }

    /// Puts readings into the store of the relay, which must not run.
    fn fill(&self, count: u64, bytes: usize) -> Epoch {
        let loaded = config::load(&self.file(), &config::Environment::new()).unwrap();
        let settings = loaded.settings;
        let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
        let (store, _) = Store::open(&settings.store, clock.clone()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut number = 0;
        while number < count {
            let batch: Vec<NewReading> = (number..(number + 100).min(count))
                .map(|n| reading(n, bytes, clock.stamp()))
                .collect();
            number += batch.len() as u64;
            let size = batch.iter().map(NewReading::size_bytes).sum();
            runtime.block_on(async {
                let permit = store.reserve(size).await.unwrap();
                permit.append(batch).await.unwrap().unwrap();
            });
        }
        let epoch = store.stats().epoch;
        store.close();
        epoch
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-relay"));
        command.args(arguments).arg("--config").arg(self.file());
        command.stdin(Stdio::null());
        command
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A command that must go well.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            words(&output.stderr)
        );
        words(&output.stdout)
    }

    /// A command that must fail with 1; what it said.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        words(&output.stderr)
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        self.child = Some(self.command(&["run"]).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.cli(&["status", "--json"]).status.success() {
            assert!(Instant::now() < deadline, "the relay answers");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn export(&self, more: &[&str]) -> String {
        let stick = self.stick();
        let mut arguments = vec!["backlog", "export", stick.to_str().unwrap()];
        arguments.extend(more);
        self.done(&arguments)
    }

    fn key(&self) -> PublicKey {
        let shown: Value = serde_json::from_str(&self.done(&["backlog", "key", "--json"])).unwrap();
        assert_eq!(shown["village"], VILLAGE);
        shown["key"].as_str().unwrap().parse().unwrap()
    }

    /// What is on the stick, as the hub reads it: every file must be whole and right.
    fn sequences(&self) -> Vec<u64> {
        let (key, identity) = (self.key(), self.identity());
        let mut sequences = Vec::new();
        for path in with_suffix(&self.stick(), ".readings") {
            let file = StickFile::read(&path).unwrap();
            assert_eq!(file.header().village.as_str(), VILLAGE);
            assert!(path.ends_with(file.header().file_name()));
            file.verify(&key).unwrap();
            for frame in file.frames(&identity).unwrap() {
                let frame = frame.unwrap();
                assert!(
                    frame
                        .readings
                        .iter()
                        .all(|r| r.payload.starts_with(b"reading"))
                );
                sequences.extend(frame.readings.iter().map(|r| r.sequence.0));
            }
        }
        sequences.sort_unstable();
        sequences
    }

    fn manifest(&self) -> Manifest {
        let text = fs::read(self.stick().join(format!("{VILLAGE}.manifest"))).unwrap();
        let key = self.key();
        Manifest::open(&text, |_| Some(key)).unwrap()
    }

    /// A receipt of the hub's.
    fn receipt(
        &self,
        key: &SigningKey,
        village: &str,
        epoch: Epoch,
        ranges: &[(u64, u64)],
    ) -> String {
        let village: VillageId = village.parse().unwrap();
        let range = |(a, b): &(u64, u64)| SequenceRange::new(Sequence(*a), Sequence(*b)).unwrap();
        let receipt = StickReceipt {
            village: village.clone(),
            at: UnixMillis(0),
            epochs: vec![Receipt {
                village,
                epoch,
                stored: ranges.iter().map(range).collect(),
            }],
        };
        let path = self.dir.path().join("receipt");
        fs::write(&path, receipt.seal(key)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn waiting(&self) -> u64 {
        let text = self.done(&["backlog", "list", "--json"]);
        let segments: Vec<Value> = serde_json::from_str(&text).unwrap();
        segments
            .iter()
            .map(|s| s["waiting"].as_u64().unwrap())
            .sum()
    }
}

impl Drop for Village {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn with_suffix(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect()
}

/// A payload that cannot be compressed, behind a word.
fn reading(n: u64, bytes: usize, received: hub_bridge::clock::ReceivedAt) -> NewReading {
    let mut payload = b"reading".to_vec();
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while payload.len() < bytes {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        payload.extend_from_slice(&x.to_le_bytes());
    }
    NewReading {
        topic: "meter/power".into(),
        client_id: "meter".into(),
        payload: payload.into(),
        qos: 1,
        retain: false,
        dup: false,
        packet_id: 1,
        received,
        properties: None,
    }
}

fn there_and_back(village: &Village, epoch: Epoch) {
    let said = village.export(&[]);
    assert!(said.contains("9000 readings in 1 files"), "{said}");
    assert_eq!(village.sequences(), (1..=9000).collect::<Vec<_>>());
    let manifest = village.manifest();
    let on_stick = with_suffix(&village.stick(), ".readings").len();
    assert_eq!(manifest.files.len(), on_stick);
    assert_eq!(manifest.files.iter().map(|f| f.count).sum::<u64>(), 9000);
    assert_eq!(village.waiting(), 9000, "exporting confirms nothing");

    let receipt = village.receipt(
        &village.hub_key(),
        VILLAGE,
        epoch,
        &[(1, 5000), (5003, 6000)],
    );
    let said = village.done(&["backlog", "receipt", &receipt]);
    assert!(
        said.contains("9000 readings waited, 3002 wait now"),
        "{said}"
    );
    assert_eq!(village.waiting(), 3002);
    // Read twice.
    let said = village.done(&["backlog", "receipt", &receipt]);
    assert!(
        said.contains("3002 readings waited, 3002 wait now"),
        "{said}"
    );

    fs::remove_dir_all(village.stick()).unwrap();
    fs::create_dir(village.stick()).unwrap();
    village.export(&[]);
    let rest: Vec<u64> = (5001..=5002).chain(6001..=9000).collect();
    assert_eq!(village.sequences(), rest);
    fs::remove_dir_all(village.stick()).unwrap();
    fs::create_dir(village.stick()).unwrap();
    village.export(&["--all"]);
    assert_eq!(village.sequences(), (1..=9000).collect::<Vec<_>>());
}

#[test]
fn readings_cross_by_hand_while_the_relay_stands_still() {
    let village = Village::new();
    let epoch = village.fill(9000, 60);
    there_and_back(&village, epoch);
}

#[test]
fn readings_cross_by_hand_while_the_relay_runs() {
    let mut village = Village::new();
    let epoch = village.fill(9000, 60);
    let key = village.key();
    village.start();
    assert_eq!(village.key(), key, "one key, made once");
    there_and_back(&village, epoch);
    // What was confirmed stays so over a kill.
    village.child.take().map(|mut child| {
        child.kill().unwrap();
        child.wait().unwrap()
    });
    assert_eq!(village.waiting(), 3002);
}

#[test]
fn a_receipt_that_is_not_for_this_village_confirms_nothing() {
    let mut village = Village::new();
    let epoch = village.fill(100, 60);
    let stranger = SigningKey::open_or_make(&village.dir.path().join("stranger.key")).unwrap();
    for running in [false, true] {
        if running {
            village.start();
        }
        let hub = village.hub_key();
        let unknown = Epoch(epoch.0 ^ 1);
        let cases = [
            (
                &stranger,
                VILLAGE,
                epoch,
                (1, 50),
                "the signature of the receipt does not fit",
            ),
            (&hub, "other-01", epoch, (1, 50), "is for village other-01"),
            (
                &hub,
                "other-01",
                unknown,
                (1, 50),
                "is for village other-01",
            ),
            (
                &hub,
                VILLAGE,
                epoch,
                (1, 101),
                "only what is below 101 was ever received here",
            ),
        ];
        for (key, name, epoch, range, words) in cases {
            let receipt = village.receipt(key, name, epoch, &[range]);
            let said = village.fails(&["backlog", "receipt", &receipt]);
            assert!(said.contains(words), "{said}");
            assert_eq!(village.waiting(), 100);
        }
        let cut = village.receipt(&hub, VILLAGE, epoch, &[(1, 50)]);
        let text = fs::read(&cut).unwrap();
        fs::write(&cut, &text[..text.len() / 4]).unwrap();
        let said = village.fails(&["backlog", "receipt", &cut]);
        assert!(said.contains("not a receipt"), "{said}");
    }
}

#[test]
fn without_keys_nothing_leaves_and_no_receipt_is_taken() {
    let village = Village::new();
    let epoch = village.fill(10, 60);
    let receipt = village.receipt(&village.hub_key(), VILLAGE, epoch, &[(1, 10)]);
    let text = fs::read_to_string(village.file()).unwrap();
    fs::write(village.file(), text.split("[stick]").next().unwrap()).unwrap();
    let stick = village.stick();
    let said = village.fails(&["backlog", "export", stick.to_str().unwrap()]);
    assert!(said.contains("stick.recipients is empty"), "{said}");
    assert_eq!(fs::read_dir(&stick).unwrap().count(), 0);
    let said = village.fails(&["backlog", "receipt", &receipt]);
    assert!(said.contains("stick.hub_key is not set"), "{said}");
    let said = village.fails(&["backlog", "export", "/nowhere/stick"]);
    assert!(said.contains("is the stick mounted there?"), "{said}");
}

/// A stick of so many bytes, where this machine lets us mount one.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, kib: u64) -> Option<Self> {
        let size = format!("size={kib}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_stick_holds_whole_files_and_the_rest_goes_on_another() {
    let village = Village::new();
    let epoch = village.fill(800, 20_000);
    let small = village.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let Some(_mounted) = Small::mount(small.clone(), 14 * 1024) else {
        eprintln!("SKIPPED: no mount here");
        return;
    };
    let said = village.fails(&["backlog", "export", small.to_str().unwrap()]);
    assert!(said.contains("the stick is full"), "{said}");
    let names = fs::read_dir(&small).unwrap().count();
    assert_eq!(
        (names, with_suffix(&small, ".readings").len()),
        (1, 1),
        "no half file"
    );
    let on_it = StickFile::read(&with_suffix(&small, ".readings")[0]).unwrap();
    let next = on_it.header().last.next();
    let from = format!("{epoch}/{next}");
    assert!(said.contains(&format!("--from {from}")), "{said}");
    village.export(&["--from", &from]);
    assert_eq!(village.sequences(), (next.0..=800).collect::<Vec<_>>());
}

#[test]
fn the_largest_readings_cross_too() {
    let village = Village::new();
    village.fill(3, 15 * 1024 * 1024);
    let said = village.export(&[]);
    assert!(said.contains("3 readings in 3 files"), "{said}");
    assert_eq!(village.sequences(), [1, 2, 3]);
}

#[test]
fn an_export_that_is_killed_leaves_whole_files_and_can_be_made_again() {
    let village = Village::new();
    village.fill(1200, 20_000);
    let stick = village.stick();
    let mut export = village.command(&["backlog", "export", stick.to_str().unwrap()]);
    let mut child = export
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while with_suffix(&stick, ".readings").is_empty() {
        assert!(Instant::now() < deadline, "a first file is there");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        with_suffix(&stick, ".manifest").is_empty(),
        "the list comes last"
    );
    let there = village.sequences();
    assert_eq!(there, (1..=there.len() as u64).collect::<Vec<_>>());
    fs::write(stick.join("x.readings.part"), b"half").unwrap();
    village.export(&[]);
    assert_eq!(village.sequences(), (1..=1200).collect::<Vec<_>>());
    assert!(with_suffix(&stick, ".part").is_empty());
    assert_eq!(
        village.manifest().files.len(),
        with_suffix(&stick, ".readings").len()
    );
}
