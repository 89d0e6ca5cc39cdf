//! A whole data directory of which something was changed: the store opens it whatever it is, gives no reading out as another
//! one, and takes new ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use fuzz_harness::Input;
use hub_bridge::backlog::{Backlog, Mark, ReadLimit};
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange};
use tempfile::TempDir;

use super::sealed;
use crate::store::identity::{EpochReason, EpochRecord, Identity};
use crate::store::reached::Reached;
use crate::store::{NewReading, Settings, Store};

/// What was kept, by its identity.
type Ledger = BTreeMap<(Epoch, u64), Vec<u8>>;

struct Template {
    files: Vec<(PathBuf, Vec<u8>)>,
    ledger: Ledger,
    salt: u32,
}

struct StillClock;

impl Clock for StillClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(100)
    }
    fn boot(&self) -> BootId {
        BootId(1)
    }
    fn quality(&self) -> ClockQuality {
        ClockQuality::Synchronised
    }
    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}

pub(crate) fn data_dir(data: &[u8]) {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    let template = TEMPLATE.get_or_init(Template::make);
    let dir = temporary();
    let mut input = Input::new(data);
    let mut files: BTreeMap<PathBuf, Vec<u8>> = template.files.iter().cloned().collect();
    for _ in 0..=input.below(3) {
        change(&mut input, &mut files, template);
    }
    for (path, bytes) in &files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let (store, _) = Store::open(&settings(dir.path()), Arc::new(StillClock)).unwrap();
    let mut now = template.ledger.clone();
    compare(&store, &now);
    let _ = (store.verify(), store.refused(), store.segments());
    let added = append(&store, b"new one");
    assert!(
        now.insert(added, b"new one".to_vec()).is_none(),
        "an identity is used twice"
    );
    store.close();
    drop(store);

    let (store, _) = Store::open(&settings(dir.path()), Arc::new(StillClock)).unwrap();
    let found = compare(&store, &now);
    assert!(found.contains(&added), "a reading of a moment ago is gone");
    store.close();
}

fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn settings(dir: &Path) -> Settings {
    Settings {
        data_dir: dir.to_owned(),
        village: "fuzz".parse().unwrap(),
        machine_id: "machine".to_owned(),
        bytes_max: u64::MAX / 2,
        disk_free_min: 0,
        alarm_at: 0.8,
        confirm: Mark::Forwarded,
        keep_forwarded: Duration::from_secs(3600),
        segment_bytes: 4 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 4 << 20,
        hold_max: Duration::from_secs(5),
    }
}

/// Every reading that the store gives out is one that was kept, under its identity.
fn compare(store: &Store, ledger: &Ledger) -> Vec<(Epoch, u64)> {
    let limit = ReadLimit {
        count: 100,
        bytes: 1 << 20,
    };
    let mut found = Vec::new();
    for state in store.epochs() {
        let mut from = state.first_unconfirmed;
        while let Ok(batch) = store.read(state.epoch, from, Mark::Forwarded, limit) {
            for reading in &batch.readings {
                let identity = (state.epoch, reading.sequence.0);
                let kept = ledger.get(&identity);
                assert!(
                    kept.is_some_and(|payload| *payload == reading.payload),
                    "{reading:?}"
                );
                found.push(identity);
            }
            match batch.next {
                Some(next) if next > from => from = next,
                _ => break,
            }
        }
    }
    found
}

fn append(store: &Store, payload: &'static [u8]) -> (Epoch, u64) {
    let reading = NewReading {
        topic: "m".into(),
        client_id: "c".into(),
        payload: payload.into(),
        qos: 1,
        retain: false,
        dup: false,
        packet_id: 1,
        received: StillClock.stamp(),
        properties: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let committed = runtime.block_on(async {
        let permit = store.reserve(reading.size_bytes()).await.unwrap();
        permit.append(vec![reading]).await.unwrap().unwrap()
    });
    (committed.epoch, committed.range.first.0)
}

impl Template {
    /// Three segments, the last one not closed as after a kill; some readings confirmed, one refused.
    fn make() -> Self {
        const PAYLOADS: [&[u8]; 4] = [b"one", b"two", &[7; 600], &[9; 1500]];
        let dir = temporary();
        let salt = 0x5eed;
        // The same names and checksums in every process, so that an input means the same.
        let identity = Identity {
            machine_id: settings(dir.path()).machine_id,
            epochs: vec![EpochRecord {
                epoch: Epoch(0xe1),
                village: settings(dir.path()).village,
                salt,
                began: EpochReason::NewStore,
                tail_unknown_from: None,
            }],
        };
        identity.write(dir.path()).unwrap();
        // Without it nobody could know that the epoch is only beginning.
        let boot = StillClock.boot();
        Reached::open(dir.path(), boot).0.note(Epoch(0xe1), 1);
        let (store, _) = Store::open(&settings(dir.path()), Arc::new(StillClock)).unwrap();
        let mut ledger = Ledger::new();
        for payload in PAYLOADS.iter().cycle().take(20) {
            ledger.insert(append(&store, payload), payload.to_vec());
        }
        let epoch = store.stats().epoch;
        assert_eq!(epoch, Epoch(0xe1));
        let some = SequenceRange::new(Sequence(1), Sequence(3)).unwrap();
        store.confirm(epoch, Mark::Forwarded, &[some]).unwrap();
        let refusal = hub_bridge::backlog::Refusal {
            reason: "never".to_owned(),
        };
        store.refuse(epoch, Sequence(5), &refusal).unwrap();
        let mut files = Vec::new();
        collect(dir.path(), dir.path(), &mut files);
        store.close();
        Self {
            files,
            ledger,
            salt,
        }
    }
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, files);
        } else if let Ok(bytes) = fs::read(&path) {
            files.push((path.strip_prefix(root).unwrap().to_owned(), bytes));
        }
    }
}

fn change(input: &mut Input<'_>, files: &mut BTreeMap<PathBuf, Vec<u8>>, template: &Template) {
    let which = input.below(files.len());
    let Some(path) = files.keys().nth(which).cloned() else {
        return;
    };
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let how = input.byte();
    let Some(bytes) = files.get_mut(&path) else {
        return;
    };
    let at = input
        .below(bytes.len().max(257))
        .min(bytes.len().saturating_sub(1));
    match how % 8 {
        0 => drop(files.remove(&path)),
        1 => bytes.truncate(at),
        2 => {
            let to = (at + 4096).min(bytes.len());
            bytes[at..to].fill(0);
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= input.byte();
            }
        }
        4 => *bytes = input.short().to_vec(),
        // What a bug of this program could have written, under a checksum that is right.
        5 | 6 => {
            let body = input.short();
            *bytes = match name.as_str() {
                "closed" => sealed(4, template.salt, body),
                "marks.a" | "marks.b" => sealed(5, 0, body),
                "identity" => {
                    let mut text = format!("{:08x}\n", crc32fast::hash(body)).into_bytes();
                    text.extend(body);
                    text
                }
                _ => sealed(3, 0, body),
            };
        }
        _ => {
            let bytes = std::mem::take(bytes);
            files.remove(&path);
            let text = input.text().replace(['/', '\0'], "_");
            let place = path
                .parent()
                .and_then(Path::parent)
                .unwrap_or(Path::new(""));
            if !text.is_empty() && text != "." && text != ".." && text.len() < 200 {
                files.insert(place.join(text).join(name), bytes);
            }
        }
    }
}
