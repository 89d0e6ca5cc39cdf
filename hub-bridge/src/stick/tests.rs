use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Sequence, SequenceRange};
use crate::wire::frame::{Carried, Frame};
use crate::wire::receipt::Receipt;

struct Keys {
    village: SigningKey,
    hub: HubIdentity,
    recipients: Recipients,
}

fn keys(dir: &Path) -> Keys {
    let hub = HubIdentity::open_or_make(&dir.join("identity")).unwrap();
    Keys {
        village: SigningKey::open_or_make(&dir.join("village.key")).unwrap(),
        recipients: Recipients::parse(&hub.recipients()).unwrap(),
        hub,
    }
}

fn frame(sequences: std::ops::RangeInclusive<u64>) -> Frame {
    let carried = |n: u64| Carried {
        sequence: Sequence(n),
        topic: Arc::from("meter/1"),
        client_id: Arc::from("m1"),
        payload: n.to_string().into_bytes().into(),
        qos: 1,
        retain: false,
        at: UnixMillis(1_790_000_000_000),
        clock: ClockQuality::Synchronised,
        properties: None,
        repeat_of: None,
    };
    Frame {
        village: "bamenda-01".parse().unwrap(),
        epoch: Epoch(7),
        readings: sequences.map(carried).collect(),
    }
}

fn file(keys: &Keys) -> Vec<u8> {
    let village: VillageId = "bamenda-01".parse().unwrap();
    let mut file = StickWriter::new(village, Epoch(7), &keys.recipients).unwrap();
    file.push(&frame(5..=9)).unwrap();
    file.push(&frame(12..=20)).unwrap();
    file.finish(&keys.village).unwrap().1
}

#[test]
fn a_file_goes_there_and_back_and_its_readings_are_not_to_be_seen_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path());
    let bytes = file(&keys);
    assert!(!bytes.windows(7).any(|w| w == b"meter/1"));
    let read = StickFile::from_bytes(bytes).unwrap();
    read.verify(&keys.village.public()).unwrap();
    let header = read.header();
    assert_eq!(
        header.file_name(),
        "bamenda-01-00000007-00000000000000000005-00000000000000000020.readings"
    );
    assert_eq!(header.count, 14);
    let frames = read.frames(&keys.hub).unwrap();
    let frames: Vec<Frame> = frames.map(Result::unwrap).collect();
    assert_eq!(frames, [frame(5..=9), frame(12..=20)]);
}

#[test]
fn no_changed_byte_and_no_cut_goes_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path());
    let whole = file(&keys);
    let verdict = |bytes: Vec<u8>| {
        let read = StickFile::from_bytes(bytes)?;
        read.verify(&keys.village.public())
    };
    verdict(whole.clone()).unwrap();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x04;
        assert!(verdict(changed).is_err(), "byte {place}");
    }
    for length in 0..whole.len() {
        let cut = verdict(whole[..length].to_vec()).unwrap_err();
        let said = matches!(cut, StickError::CutShort { .. }) || length < 8;
        assert!(said, "cut to {length}: {cut}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(verdict(longer), Err(StickError::TooLong(_))));
}

#[test]
fn another_villages_key_and_another_hubs_identity_do_not_do() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (keys, other) = (keys(dir.path()), self::keys(other.path()));
    let read = StickFile::from_bytes(file(&keys)).unwrap();
    let error = read.verify(&other.village.public()).unwrap_err();
    assert!(matches!(error, StickError::Signature(_)), "{error}");
    let error = read.frames(&other.hub).map(|_| ()).unwrap_err();
    assert!(matches!(error, StickError::NotForUs), "{error}");
}

#[test]
fn a_village_signs_only_what_its_header_says() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path());
    let other: VillageId = "bamenda-02".parse().unwrap();
    let mut writer = StickWriter::new(other, Epoch(7), &keys.recipients).unwrap();
    assert!(writer.push(&frame(1..=2)).is_err());
    // As a village that lies would write it.
    let bytes = file(&keys);
    let (header, begins) = Header::parse(&bytes).unwrap();
    for lie in [
        Header {
            village: "bamenda-02".parse().unwrap(),
            ..header.clone()
        },
        Header {
            epoch: Epoch(8),
            ..header.clone()
        },
        Header {
            first: Sequence(4),
            ..header.clone()
        },
        Header {
            last: Sequence(21),
            ..header.clone()
        },
        Header {
            count: 15,
            ..header
        },
    ] {
        let mut forged = lie.to_bytes();
        forged.extend_from_slice(&bytes[begins..bytes.len() - SIGNATURE_BYTES]);
        let signature = keys.village.sign(&header::to_sign(&forged));
        forged.extend_from_slice(&signature);
        let read = StickFile::from_bytes(forged).unwrap();
        read.verify(&keys.village.public()).unwrap();
        assert!(read.frames(&keys.hub).is_err(), "{lie:?}");
    }
}

#[test]
fn keys_are_for_their_user_only_and_are_made_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stick.key");
    let made = SigningKey::open_or_make(&path).unwrap().public();
    let permissions = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(permissions & 0o777, 0o600);
    assert_eq!(SigningKey::open_or_make(&path).unwrap().public(), made);
    assert_eq!(made.to_string().parse::<PublicKey>().unwrap(), made);
    let mut wide = std::fs::metadata(&path).unwrap().permissions();
    wide.set_mode(0o644);
    std::fs::set_permissions(&path, wide).unwrap();
    let error = SigningKey::open_or_make(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    std::fs::write(dir.path().join("broken"), b"").unwrap();
    let mut narrow = std::fs::metadata(dir.path().join("broken"))
        .unwrap()
        .permissions();
    narrow.set_mode(0o600);
    std::fs::set_permissions(dir.path().join("broken"), narrow).unwrap();
    assert!(SigningKey::open_or_make(&dir.path().join("broken")).is_err());
    for wrong in ["", "00", "zz", &"0".repeat(63), &"é".repeat(32)] {
        assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
    }
}

#[test]
fn a_receipt_is_taken_from_the_hub_only_and_never_for_a_list() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hub = SigningKey::open_or_make(&dir.path().join("hub.key")).unwrap();
    let stranger = SigningKey::open_or_make(&other.path().join("key")).unwrap();
    let village: VillageId = "bamenda-01".parse().unwrap();
    let receipt = StickReceipt {
        village: village.clone(),
        at: UnixMillis(5),
        epochs: vec![Receipt {
            village: village.clone(),
            epoch: Epoch(7),
            stored: vec![SequenceRange::one(Sequence(5))],
        }],
    };
    let text = receipt.seal(&hub);
    assert_eq!(StickReceipt::open(&text, &hub.public()).unwrap(), receipt);
    assert!(StickReceipt::open(&text, &stranger.public()).is_err());
    let changed = String::from_utf8(text.clone())
        .unwrap()
        .replace("[5,5]", "[5,9]");
    assert!(StickReceipt::open(changed.as_bytes(), &hub.public()).is_err());
    let manifest = Manifest {
        version: VERSION,
        village,
        at: UnixMillis(5),
        clock: ClockQuality::Synchronised,
        files: Vec::new(),
    };
    let list = manifest.seal(&hub);
    assert_eq!(
        Manifest::open(&list, |_| Some(hub.public())).unwrap(),
        manifest
    );
    assert!(Manifest::open(&list, |_| Some(stranger.public())).is_err());
    assert!(Manifest::open(&list, |_| None).is_err());
    assert!(StickReceipt::open(&list, &hub.public()).is_err());
    let one = signed::seal("list of files", &hub, &"what both would take");
    signed::check("list of files", &one, &hub.public()).unwrap();
    assert!(signed::check("receipt", &one, &hub.public()).is_err());
}
