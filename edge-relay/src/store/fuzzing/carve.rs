//! Carving: every frame that lies whole in the file is found, whatever lies around it, and nothing else is.

use std::collections::BTreeSet;
use std::fs::File;

use bytes::Bytes;
use fuzz_harness::{Input, within};
use hub_bridge::reading::Reading;

use super::frames::{EPOCH, SALT, units};
use super::{assert_same, enough_memory, pending, sealed};
use crate::store::carve;
use crate::store::envelope::MAGIC;
use crate::store::frame::{self, Pending};

/// The most that carving may hold beside what it found: its window.
const WINDOW_BYTES: usize = 2 << 20;

/// A file, and where in it a value of our frames lies.
#[derive(Default)]
struct Layout {
    bytes: Vec<u8>,
    /// (frame, value, from, to)
    copies: Vec<(usize, usize, usize, usize)>,
}

pub(crate) fn carve(data: &[u8]) {
    let mut input = Input::new(data);
    let first = 1 + u64::from(input.u16());
    let count = 1 + input.below(6);
    let put: Vec<Pending> = (0..count).map(|_| pending(&mut input)).collect();
    let frames: Vec<Vec<Bytes>> = units(&frame::encode(EPOCH, first, &put, SALT).unwrap());
    let mut layout = lay_out(&mut input, &frames);
    let touched = damage(&mut input, &mut layout.bytes);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, &layout.bytes).unwrap();
    let enough = enough_memory(layout.bytes.len()) + WINDOW_BYTES;
    let carved = within(enough, || carve::carve(&path, EPOCH.0, SALT).unwrap());

    let file = File::open(&path).unwrap();
    let mut found = BTreeSet::new();
    let mut last_end = 0;
    for indexed in &carved.frames {
        assert!(indexed.first >= last_end, "out of order");
        last_end = indexed.end();
        let values = carve::read_values(&file, indexed).unwrap();
        let readings = frame::decode(&values, SALT).expect("what is carved decodes");
        assert_eq!(readings.len(), indexed.count as usize);
        for read in &readings {
            assert_is_ours(read, first, &put);
        }
        found.insert(indexed.first);
    }
    for (which, values) in frames.iter().enumerate() {
        let whole = (0..values.len()).all(|value| {
            let mut copies = layout.copies.iter();
            copies.any(|(f, v, from, to)| {
                (*f, *v) == (which, value) && touched.iter().all(|(a, b)| b <= from || to <= a)
            })
        });
        let head = frame::head(&values[0], SALT).unwrap();
        assert!(
            !whole || found.contains(&head.first),
            "frame {which} is whole and was not found"
        );
    }
}

fn assert_is_ours(read: &Reading, first: u64, put: &[Pending]) {
    let place = usize::try_from(read.sequence.0 - first).unwrap();
    assert_same(read, &put[place].reading);
}

/// Values in any order, often more than once, with rubbish between them.
fn lay_out(input: &mut Input<'_>, frames: &[Vec<Bytes>]) -> Layout {
    let mut layout = Layout::default();
    for _ in 0..=input.below(24) {
        let which = input.below(frames.len());
        let values = &frames[which];
        let value = input.below(values.len());
        match input.below(9) {
            0..3 => layout.put(which, value, &values[value]),
            3 => (0..values.len()).for_each(|value| layout.put(which, value, &values[value])),
            4 => layout.bytes.extend(input.short()),
            5 => layout.bytes.extend(&MAGIC[..input.below(MAGIC.len() + 1)]),
            6 => {
                // The beginning of a value whose end was never written.
                let cut = input.below(values[value].len());
                layout.bytes.extend(&values[value][..cut]);
            }
            7 => {
                // Another store's record, or one that a meter made up: another salt.
                layout.bytes.extend(sealed(1, SALT ^ 1, input.short()));
            }
            _ => {
                let gap = [0, 512, 4096, 65_000, 1 << 20];
                layout
                    .bytes
                    .resize(layout.bytes.len() + input.pick(&gap), 0);
            }
        }
    }
    layout
}

impl Layout {
    fn put(&mut self, frame: usize, value: usize, bytes: &[u8]) {
        let from = self.bytes.len();
        self.bytes.extend(bytes);
        self.copies.push((frame, value, from, self.bytes.len()));
    }
}

/// Returns what was touched.
fn damage(input: &mut Input<'_>, bytes: &mut Vec<u8>) -> Vec<(usize, usize)> {
    let mut touched = Vec::new();
    for _ in 0..input.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = input.below(bytes.len());
        match input.below(3) {
            0 => {
                bytes[at] ^= input.byte();
                touched.push((at, at + 1));
            }
            1 => {
                let to = (at + input.below(9000)).min(bytes.len());
                bytes[at..to].fill(0);
                touched.push((at, to));
            }
            _ => {
                touched.push((at, bytes.len()));
                bytes.truncate(at);
            }
        }
    }
    touched
}
