//! The store's small files: read whatever is in them, and what was understood is written back as the same.

use std::fs;
use std::path::Path;

use fuzz_harness::{Input, within};
use hub_bridge::clock::BootId;
use hub_bridge::identity::Epoch;

use super::{enough_memory, sealed};
use crate::clock::{SystemClock, Trust};
use crate::drain_log::KeptDrains;
use crate::store::envelope::{Kind, NO_SALT};
use crate::store::identity::{self, Identity};
use crate::store::marks::{self, MarksFile};
use crate::store::reached::{Reached, Said};
use crate::store::refused::RefusedDir;
use crate::store::segment::{Meta, SegmentName, Sidecar};

const NAME: SegmentName = SegmentName {
    epoch: Epoch(7),
    first: 1,
};
const SALT: u32 = 99;
const BOOT: BootId = BootId(1);

pub(crate) fn files(data: &[u8]) {
    let mut input = Input::new(data);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    within(enough_memory(data.len()), || match input.below(9) {
        0 => sidecar(dir, &record(&mut input, Kind::Sidecar, SALT)),
        1 => marks(dir, &mut input),
        2 => refused(dir, &record(&mut input, Kind::Refused, NO_SALT)),
        3 => identity(dir, &mut input),
        4 => reached(dir, &mut input),
        5 => {
            fs::write(dir.join("meta"), input.rest()).unwrap();
            if let Some(meta) = Meta::read(dir) {
                fs::write(dir.join("meta"), serde_json::to_vec(&meta).unwrap()).unwrap();
                assert_eq!(
                    format!("{meta:?}"),
                    format!("{:?}", Meta::read(dir).unwrap())
                );
            }
        }
        6 => {
            let text = String::from_utf8_lossy(input.rest());
            if let Some(name) = SegmentName::parse(&text) {
                assert_eq!(SegmentName::parse(&name.dir_name()), Some(name));
            }
        }
        7 => {
            fs::write(dir.join("drains.json"), input.rest()).unwrap();
            let drains = KeptDrains::open(dir);
            let _ = hub_bridge::drain::DrainLog::last_scheduled(&drains);
            let again = serde_json::to_vec(&drains.all()).unwrap();
            fs::write(dir.join("drains.json"), again).unwrap();
            assert_eq!(KeptDrains::open(dir).all(), drains.all());
        }
        _ => {
            fs::write(dir.join("boots"), input.rest()).unwrap();
            let clock = SystemClock::open(dir, Trust::Always);
            clock.observe();
            let _ = clock.known_good();
        }
    });
}

/// As it comes, or under a checksum that is right.
fn record(input: &mut Input<'_>, kind: Kind, salt: u32) -> Vec<u8> {
    if input.flag() {
        sealed(kind as u8, salt, input.rest())
    } else {
        input.rest().to_vec()
    }
}

fn sidecar(dir: &Path, bytes: &[u8]) {
    fs::write(dir.join("closed"), bytes).unwrap();
    let Some(found) = Sidecar::read(dir, NAME, SALT) else {
        return;
    };
    // What the reader and the index take for granted.
    assert!(found.first == NAME.first && found.end >= found.first);
    let mut at = found.first;
    for frame in &found.frames {
        assert!(frame.first >= at && frame.end() > frame.first && frame.end() <= found.end);
        at = frame.end();
    }
    found.write(dir, SALT).unwrap();
    let again = Sidecar::read(dir, NAME, SALT).unwrap();
    assert_eq!(format!("{found:?}"), format!("{again:?}"));
}

fn marks(dir: &Path, input: &mut Input<'_>) {
    for name in ["marks.a", "marks.b"] {
        let bytes = input.short().to_vec();
        let bytes = if input.flag() {
            sealed(Kind::Marks as u8, NO_SALT, &bytes)
        } else {
            bytes
        };
        fs::write(dir.join(name), bytes).unwrap();
    }
    let (mut file, found) = MarksFile::open(dir);
    if let marks::Found::Marks(found) = found {
        file.write(found.clone()).unwrap();
        let marks::Found::Marks(again) = MarksFile::open(dir).1 else {
            panic!("the marks that were written are gone");
        };
        assert_eq!(again.generation, found.generation + 1);
        assert_eq!((again.epochs, again.ring), (found.epochs, found.ring));
    }
}

fn refused(dir: &Path, bytes: &[u8]) {
    let refused = RefusedDir::open(dir);
    fs::write(dir.join("refused").join("anything"), bytes).unwrap();
    for found in refused.read().sound {
        let _ = (found.village(), found.entry());
        refused.put(&found).unwrap();
        let again = refused.get(Epoch(found.epoch), found.sequence).unwrap();
        assert_eq!(format!("{again:?}"), format!("{found:?}"));
    }
}

fn identity(dir: &Path, input: &mut Input<'_>) {
    let mut bytes = Vec::new();
    if input.flag() {
        bytes = format!("{:08x}\n", crc32fast::hash(input.rest())).into_bytes();
    }
    bytes.extend(input.rest());
    fs::write(dir.join("identity"), bytes).unwrap();
    if let identity::Found::Identity(found) = Identity::read(dir) {
        found.write(dir).unwrap();
        assert_eq!(Identity::read(dir), identity::Found::Identity(found));
    }
}

fn reached(dir: &Path, input: &mut Input<'_>) {
    let mut bytes = input.rest().to_vec();
    if bytes.len() == 16 {
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    }
    fs::write(dir.join("reached"), bytes).unwrap();
    let (mut file, said) = Reached::open(dir, BOOT);
    if let Some(said) = said {
        file.note(said.epoch, said.next);
        let again = Reached::open(dir, BOOT).1;
        assert_eq!(
            again,
            Some(Said {
                exact: true,
                ..said
            })
        );
    }
}
