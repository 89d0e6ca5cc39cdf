//! Whether the broker's state is all there. sled opens a database that lost its end without a word.
//!
//! Each commit writes, in the same batch, how many pieces there are, the sum of their checksums, and its own number; the
//! number goes also into a file beside the database, `data_dir/state.reached`, after the commit and before anyone is
//! told of it. A database whose pieces do not add up lost some of them; one whose number is lower than the file's lost the
//! last commits.
//!
//! What failure leaves behind: the file is exact after a kill and may be old after a power cut, when the database is
//! ahead of it; then it says nothing. Without the file only the sums are checked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the proof lies in the database: shorter than any piece's key.
pub(super) const KEY: &[u8] = b"proof";

/// Three numbers and their checksum, little-endian.
const BYTES: usize = 28;

/// What a database must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// How many commits there were.
    pub(super) commits: u64,
    /// How many pieces there are.
    pieces: u64,
    /// The sum of their checksums.
    sum: u64,
}

impl Proof {
    /// A piece is there.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.pieces = self.pieces.wrapping_add(1);
        self.sum = self.sum.wrapping_add(checksum(key, value));
    }

    /// A piece is there no more.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.pieces = self.pieces.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum(key, value));
    }

    /// As bytes.
    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let (numbers, checksum) = bytes.split_at_mut(BYTES - 4);
        let fields = [self.commits, self.pieces, self.sum].map(u64::to_le_bytes);
        numbers.copy_from_slice(fields.as_flattened());
        checksum.copy_from_slice(&crc32fast::hash(numbers).to_le_bytes());
        bytes
    }

    /// From bytes, where they are sound.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, checksum) = bytes.split_at_checked(BYTES - 4)?;
        (checksum == crc32fast::hash(numbers).to_le_bytes()).then_some(())?;
        let (fields, _) = numbers.as_chunks::<8>();
        let [commits, pieces, sum] = fields else {
            return None;
        };
        Some(Self {
            commits: u64::from_le_bytes(*commits),
            pieces: u64::from_le_bytes(*pieces),
            sum: u64::from_le_bytes(*sum),
        })
    }

    /// What is missing, in words, of a database that states `stated` and holds what `self` has counted, where the file
    /// beside it knows of `reached` commits.
    pub(super) fn missing(&self, stated: Option<Self>, reached: u64) -> Option<String> {
        match stated {
            // A database of a version that wrote no proofs, or a new one.
            None if reached == 0 => None,
            None => Some(format!("all {reached} commits")),
            Some(stated) if stated.commits < reached => {
                Some(format!("the last {} commits", reached - stated.commits))
            }
            Some(stated) if (stated.pieces, stated.sum) != (self.pieces, self.sum) => {
                Some(format!(
                    "{} of {} records, or what was in them",
                    stated.pieces.saturating_sub(self.pieces),
                    stated.pieces
                ))
            }
            Some(_) => None,
        }
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().into()
}

/// The file beside the database.
#[derive(Debug)]
pub(super) struct Reached {
    path: PathBuf,
    file: Option<File>,
}

impl Reached {
    /// That of the database in `dir`, and how many commits it knows of.
    pub(super) fn open(dir: &Path) -> (Self, u64) {
        let path = dir.with_extension("reached");
        let known = std::fs::read(&path).ok();
        let known = known.and_then(|bytes| Proof::decode(&bytes));
        let this = Self { path, file: None };
        (this, known.map_or(0, |proof| proof.commits))
    }

    /// Writes it down; survives a kill at once.
    pub(super) fn note(&mut self, proof: &Proof) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(&self.path)?,
            ),
        };
        file.write_all_at(&proof.encode(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_and_nothing_else() {
        let mut proof = Proof::default();
        assert_eq!(proof.missing(None, 0), None);
        proof.add(b"a", b"1");
        proof.add(b"b", b"2");
        proof.commits = 2;
        let stated = Proof::decode(&proof.encode());
        assert_eq!(stated, Some(proof));
        for reached in [0, 1, 2] {
            assert_eq!(proof.missing(stated, reached), None);
        }
        let words = |counted: &Proof, stated, reached| counted.missing(stated, reached).unwrap();
        assert_eq!(words(&proof, stated, 5), "the last 3 commits");
        assert_eq!(words(&Proof::default(), None, 2), "all 2 commits");
        let mut counted = proof;
        counted.remove(b"b", b"2");
        assert!(words(&counted, stated, 0).starts_with("1 of 2 records"));
        counted.add(b"b", b"altered");
        assert!(words(&counted, stated, 0).contains("what was in them"));
        counted.remove(b"b", b"altered");
        counted.add(b"b", b"2");
        assert_eq!(counted.missing(stated, 2), None);
    }

    #[test]
    fn a_file_that_is_not_sound_knows_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let (mut reached, known) = Reached::open(&dir);
        assert_eq!(known, 0);
        let proof = Proof {
            commits: 7,
            ..Proof::default()
        };
        reached.note(&proof).unwrap();
        assert_eq!(Reached::open(&dir).1, 7);
        let path = root.path().join("state.reached");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(path, bytes).unwrap();
        assert_eq!(Reached::open(&dir).1, 0);
    }
}
