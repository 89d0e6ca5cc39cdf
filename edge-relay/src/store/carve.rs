//! Finds the frames of a segment in its raw file, whatever became of sled's own structure.
//!
//! sled is opened only to write a new segment, never on a segment that exists: its open is where
//! damage turns into a panic or a silent loss, and it rewrites the evidence. Values are stored
//! uncompressed and inline, so each frame lies in the file in one piece, often more than once. Read-only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::envelope::{EnvelopeError, HEADER_BYTES, MAGIC};
use super::frame::{self, Head};

/// How much of the file is in memory at once, in bytes.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What a disk reads or does not, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// No record is longer, in bytes: more than any version of this program has written as one value.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Where one value of a frame lies in the segment's file. Frozen: part of the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// From the start of the file, in bytes.
    pub(super) offset: u64,
    /// The whole record, in bytes.
    pub(super) length: u32,
}

/// One whole frame: readings `first .. first + count`. Frozen: part of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Indexed {
    /// The sequence of its first reading.
    pub(super) first: u64,
    /// How many readings.
    pub(super) count: u32,
    /// Its values in order; more than one only for a large reading.
    pub(super) places: Vec<Place>,
}

impl Indexed {
    /// The sequence after its last reading.
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }
}

/// What a segment's file holds.
#[derive(Debug, Default)]
pub(super) struct Carved {
    /// Whole frames in order of sequence, none twice.
    pub(super) frames: Vec<Indexed>,
    /// Records that begin like one of ours and are not sound, and of which no sound copy was found next to
    /// them: what is left of a frame, or of a write that was cut off.
    pub(super) broken: usize,
}

impl Carved {
    /// The frame that holds `sequence`.
    pub(super) fn find(&self, sequence: u64) -> Option<&Indexed> {
        let after = self.frames.partition_point(|f| f.first <= sequence);
        let found = self.frames.get(after.checked_sub(1)?)?;
        (sequence < found.end()).then_some(found)
    }

    /// The first sequence at or after `sequence` that is there.
    pub(super) fn next_from(&self, sequence: u64) -> Option<u64> {
        if self.find(sequence).is_some() {
            return Some(sequence);
        }
        let after = self.frames.partition_point(|f| f.first <= sequence);
        self.frames.get(after).map(|f| f.first)
    }

    /// Leaves out what a commit that was never finished has left, of a segment that begins at `first`: where everything below
    /// `acknowledged_below` is there, what lies behind a gap was acknowledged to nobody, and what is broken neither.
    pub(super) fn leave_out_unfinished(&mut self, first: u64, acknowledged_below: u64) {
        let mut end = first;
        let in_row = self.frames.iter().take_while(|frame| {
            let follows = frame.first == end;
            end = if follows { frame.end() } else { end };
            follows
        });
        let count = in_row.count();
        if end >= acknowledged_below {
            self.frames.truncate(count);
            self.broken = 0;
        }
    }

    /// The size of all frames, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let places = self.frames.iter().flat_map(|f| &f.places);
        places.map(|p| u64::from(p.length)).sum()
    }
}

/// All frames of `epoch` in the file at `path`.
///
/// # Errors
/// What the system says when the file cannot be opened; blocks that cannot be read count as damage.
pub(super) fn carve(path: &Path, epoch: u32, salt: u32) -> io::Result<Carved> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(carve_from(
        |buffer, at| file.read_at(buffer, at),
        length,
        epoch,
        salt,
    ))
}

/// As [`carve`], of `length` bytes that `read_at` gives.
fn carve_from(
    read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    length: u64,
    epoch: u32,
    salt: u32,
) -> Carved {
    let mut found = Found::default();
    let finder = memmem::Finder::new(&MAGIC);
    let mut window = vec![0; WINDOW_BYTES + RECORD_BYTES_MAX];
    let mut at = 0;
    while at < length {
        let read = read_up_to(&read_at, &mut window, at);
        let end = at + read as u64;
        let stopped = read < window.len() && end < length;
        let bytes = window.get(..read).unwrap_or_default();
        let last = stopped || end >= length;
        at += found.scan(bytes, at, last, epoch, salt, &finder);
        if stopped {
            // A block that cannot be read is damage, wherever it lies: go on behind it.
            found.broken.insert(end);
            at = end / BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES;
        }
    }
    found.into_carved()
}

/// How much could be read before the window was full, the file at its end, or an error came.
fn read_up_to(
    read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    window: &mut [u8],
    at: u64,
) -> usize {
    let mut read = 0;
    while let Some(rest) = window.get_mut(read..).filter(|r| !r.is_empty()) {
        match read_at(rest, at + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    read
}

#[derive(Default)]
struct Found {
    values: BTreeMap<(u64, u32), (Head, Place)>,
    broken: BTreeSet<u64>,
}

impl Found {
    /// Takes what is in `bytes`, which begin at `base` of the file; returns how far it came.
    fn scan(
        &mut self,
        bytes: &[u8],
        base: u64,
        last: bool,
        epoch: u32,
        salt: u32,
        finder: &memmem::Finder<'_>,
    ) -> u64 {
        let mut at = 0;
        while let Some(hit) = bytes.get(at..).and_then(|rest| finder.find(rest)) {
            at += hit;
            let rest = bytes.get(at..).unwrap_or_default();
            if !last && rest.len() < RECORD_BYTES_MAX {
                return at as u64;
            }
            let offset = base + at as u64;
            match frame::head(rest, salt) {
                Ok(head) => {
                    let length = u32::try_from(head.length).unwrap_or(u32::MAX);
                    if head.epoch == epoch {
                        let value = (head, Place { offset, length });
                        self.values.entry((head.first, head.piece)).or_insert(value);
                    }
                    at += head.length;
                }
                Err(EnvelopeError::NotARecord) => at += MAGIC.len(),
                Err(_) => {
                    self.broken.insert(offset);
                    at += MAGIC.len();
                }
            }
        }
        if last {
            bytes.len() as u64
        } else {
            (bytes.len() - HEADER_BYTES.min(bytes.len())).max(1) as u64
        }
    }

    fn into_carved(self) -> Carved {
        let mut frames: Vec<Indexed> = Vec::new();
        let mut values = self.values.into_values().peekable();
        while let Some((head, place)) = values.next() {
            let mut places = vec![place];
            while let Some((_, place)) = values.next_if(|(next, _)| {
                next.first == head.first && next.piece as usize == places.len()
            }) {
                places.push(place);
            }
            let whole = head.piece == 0 && places.len() == head.pieces as usize;
            let after_the_last = frames.last().is_none_or(|f| f.end() <= head.first);
            if whole && after_the_last && head.count > 0 {
                frames.push(Indexed {
                    first: head.first,
                    count: head.count,
                    places,
                });
            }
        }
        Carved {
            frames,
            broken: self.broken.len(),
        }
    }
}

/// Reads the values of `frame` from `file`.
pub(super) fn read_values(file: &File, frame: &Indexed) -> io::Result<Vec<Bytes>> {
    frame
        .places
        .iter()
        .map(|place| {
            let length = usize::try_from(place.length).unwrap_or(usize::MAX);
            let mut value = vec![0; length.min(RECORD_BYTES_MAX)];
            file.read_exact_at(&mut value, place.offset)?;
            Ok(Bytes::from(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::frame::Pending;
    use super::super::tests::fixture::reading;
    use super::*;
    use hub_bridge::identity::Epoch;

    const SALT: u32 = 5;

    /// A file of 300 frames in a row, each of one reading.
    fn file() -> Vec<u8> {
        let frames = (1..=300).flat_map(|sequence| {
            let pending = Pending {
                reading: reading(sequence, 200),
                repeat_of: None,
            };
            frame::encode(Epoch(7), sequence, &[pending], SALT).unwrap()
        });
        frames.flat_map(|frame| frame.bytes.to_vec()).collect()
    }

    #[test]
    fn blocks_that_cannot_be_read_cost_what_lies_in_them_and_count_as_damage() {
        let file = file();
        let whole = carve_of(&file, &[]);
        assert_eq!((whole.frames.len(), whole.broken), (300, 0));
        let blocks = file.len() as u64 / BLOCK_BYTES;
        for bad in [&[0][..], &[1], &[3, 4], &[2, 9], &[blocks]] {
            let carved = carve_of(&file, bad);
            let untouched = whole.frames.iter().filter(|frame| {
                frame.places.iter().all(|place| {
                    let last = place.offset + u64::from(place.length) - 1;
                    let touches = place.offset / BLOCK_BYTES..=last / BLOCK_BYTES;
                    bad.iter().all(|block| !touches.contains(block))
                })
            });
            let untouched: Vec<&Indexed> = untouched.collect();
            assert_eq!(
                carved.frames.iter().collect::<Vec<_>>(),
                untouched,
                "{bad:?}"
            );
            assert!(carved.broken > 0, "{bad:?}");
        }
    }

    /// Of a disk that cannot read those blocks.
    fn carve_of(file: &[u8], bad: &[u64]) -> Carved {
        let read_at = |buffer: &mut [u8], at: u64| {
            if bad.contains(&(at / BLOCK_BYTES)) {
                return Err(io::Error::other("a bad block"));
            }
            let until = bad.iter().map(|block| block * BLOCK_BYTES);
            let until = until.filter(|start| *start > at).min().unwrap_or(u64::MAX);
            let rest = file.get(usize::try_from(at).unwrap()..).unwrap_or_default();
            let count = rest
                .len()
                .min(buffer.len())
                .min(usize::try_from(until - at).unwrap());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        };
        carve_from(read_at, file.len() as u64, 7, SALT)
    }
}
