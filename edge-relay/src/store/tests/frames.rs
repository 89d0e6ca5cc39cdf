//! Frames: what is damaged never decodes to another reading; nothing leaves sled's log.

use bytes::Bytes;
use hub_bridge::identity::Epoch;
use proptest::prelude::*;

use super::fixture::*;
use crate::store::frame::{self, Pending, VALUE_BYTES_MAX};

fn pending(n: u64, bytes: usize) -> Pending {
    Pending {
        reading: reading(n, bytes),
        repeat_of: None,
    }
}

#[test]
fn no_flipped_bit_decodes() {
    let readings: Vec<_> = (0..3).map(|n| pending(n, 40)).collect();
    let frames = frame::encode(Epoch(7), 1, &readings, 99).unwrap();
    assert_eq!(frames.len(), 1);
    let whole = &frames[0].bytes;
    assert_eq!(
        frame::decode(std::slice::from_ref(whole), 99)
            .unwrap()
            .len(),
        3
    );
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(frame::decode(&[Bytes::from(bad)], 99).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn frames_hold_what_was_put_in_and_stay_small(
        sizes in prop::collection::vec(prop_oneof![20usize..400, 7_000usize..9_000, 20_000usize..70_000], 1..40)
    ) {
        let readings: Vec<_> = (0..).zip(&sizes).map(|(n, size)| pending(n, *size)).collect();
        let frames = frame::encode(Epoch(7), 100, &readings, 99).unwrap();
        let mut back = Vec::new();
        let mut i = 0;
        while i < frames.len() {
            let pieces = frames[i..].iter().take_while(|f| f.first == frames[i].first).count();
            let values: Vec<_> = frames[i..i + pieces].iter().map(|f| f.bytes.clone()).collect();
            for value in &values {
                prop_assert!(value.len() <= VALUE_BYTES_MAX, "{}", value.len());
            }
            back.extend(frame::decode(&values, 99).unwrap());
            i += pieces;
        }
        prop_assert_eq!(back.len(), sizes.len());
        for ((n, size), back) in (0..).zip(sizes).zip(back) {
            prop_assert_eq!(back.sequence.0, 100 + n);
            prop_assert!(back.payload == reading(n, size).payload);
        }
    }

    #[test]
    fn rubbish_never_decodes_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut framed = crate::store::envelope::MAGIC.to_vec();
        framed.extend(&bytes);
        prop_assert!(frame::decode(&[Bytes::from(bytes)], 99).is_err());
        prop_assert!(frame::decode(&[Bytes::from(framed)], 99).is_err());
    }
}

#[test]
fn no_payload_leaves_the_log_for_a_file_that_is_not_synced() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.segment_bytes = 8 << 20;
    let (store, _) = open(&settings);
    fill(&store, 0, 2000, 1, 200);
    fill(&store, 2000, 4000, 100, 200);
    fill(&store, 4000, 4100, 1, 20_000);
    fill(&store, 4100, 4112, 1, 256 * 1024);
    fill(&store, 4112, 4200, 3, 8_000);
    for segment in store.segments() {
        let blobs = std::fs::read_dir(segment.path.join("blobs"))
            .unwrap()
            .count();
        assert_eq!(blobs, 0, "{segment:?}");
    }
    assert_eq!(waiting_numbers(&store), (0..4200).collect::<Vec<_>>());
}
