//! Keeps a segment's log written ahead with zeroes, so that a commit changes what a file holds and neither its length nor
//! its blocks.
//!
//! An `fdatasync` of a file that grew commits the file system's journal: on ext4 three to five blocks for one reading of
//! 200 bytes, and as long again as the write itself. Of a file that did not grow it writes the block that changed. The
//! zeroes cost their own length once, so they are worth it while commits are small against a block of the disk; for large
//! ones the journal's share is small, and the log grows as it is written.
//!
//! Invariant: zeroes are only ever appended (`O_APPEND`, which the kernel makes one step of finding the end and writing),
//! so none can be put over what sled wrote. They need not reach the disk: what they are for is speed, and an error is
//! none of the commit's business (sled meets a full disk itself). Readers look for frames by their magic and see nothing
//! in zeroes, so a log that ends in them is whole (`carve.rs`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::durable::LogEnd;

/// So many bytes of zeroes are added at once: one journal commit for some hundred small ones.
const CHUNK_BYTES: usize = 256 * 1024;

/// A commit of more bytes than this does without.
const SMALL_COMMIT_BYTES: usize = 64 * 1024;

/// What sled may put around the frames of a commit: headers, a leaf written again.
const MARGIN_BYTES: u64 = 64 * 1024;

/// The zeroes before the end of one log.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Opened to append; `None` where that failed: then the log grows as it is written.
    file: Option<File>,
    end: LogEnd,
    /// At least so long is the file.
    length: u64,
}

impl Ahead {
    /// For the log at `path`, which sled writes.
    pub(super) fn of(path: &Path) -> Self {
        let file = OpenOptions::new().append(true).open(path);
        let end = file.as_ref().map(LogEnd::watch).unwrap_or_default();
        Self {
            file: file.ok(),
            end,
            length: 0,
        }
    }

    /// Before a commit of `bytes`: sees to it that the log need not grow for it, if it is a small one.
    pub(super) fn make_room(&mut self, bytes: usize) {
        let Some(file) = &mut self.file else { return };
        if bytes > SMALL_COMMIT_BYTES {
            return;
        }
        let needed = self.end.get() + bytes as u64 + MARGIN_BYTES;
        if self.length >= needed {
            return;
        }
        self.length = file.metadata().map_or(u64::MAX, |m| m.len());
        if self.length < needed && file.write_all(&vec![0; CHUNK_BYTES]).is_err() {
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable;

    /// A log with one synced value, and the zeroes before its end.
    fn log(dir: &Path) -> (sled::Db, Ahead) {
        let db = super::super::sled_segment::open_sled(dir).unwrap();
        let ahead = Ahead::of(&dir.join("db"));
        db.insert(b"k", b"v").unwrap();
        durable::flush(&db, None).unwrap();
        (db, ahead)
    }

    #[test]
    fn small_commits_do_not_make_the_log_grow() {
        let dir = tempfile::tempdir().unwrap();
        let (db, mut ahead) = log(dir.path());
        let length = || std::fs::metadata(dir.path().join("db")).unwrap().len();
        ahead.make_room(300);
        let mut lengths = vec![length()];
        for n in 0..2_000_u32 {
            ahead.make_room(300);
            let before = length();
            db.insert(n.to_be_bytes(), vec![b'x'; 300]).unwrap();
            durable::flush(&db, None).unwrap();
            assert_eq!(length(), before, "commit {n} made the file grow");
            lengths.push(before);
        }
        lengths.dedup();
        assert!(lengths.len() > 2 && lengths.len() < 30, "{lengths:?}");
    }

    #[test]
    fn the_end_is_where_sled_wrote_last() {
        let dir = tempfile::tempdir().unwrap();
        let (db, ahead) = log(dir.path());
        let before = ahead.end.get();
        assert!(before > 0);
        db.insert(b"again", vec![b'x'; 1000]).unwrap();
        durable::flush(&db, None).unwrap();
        let after = ahead.end.get();
        assert!(
            after >= before + 1000 && after < before + 2000,
            "{before} {after}"
        );
        let bytes = std::fs::read(dir.path().join("db")).unwrap();
        let tail = bytes.get(usize::try_from(after).unwrap()..).unwrap();
        assert!(tail.iter().all(|b| *b == 0));
    }
}
