//! `reached`: how far the current epoch has come, written at each commit before anyone is acknowledged, and never
//! synced.
//!
//! # What it is for: the open end
//!
//! Where the readings of an epoch end is where its frames end, if nothing is wrong with the last segment. If its
//! file was cut off between two frames, or is gone, nothing in it says so. Three things do:
//!
//! - After a kill this file is exact: the system keeps what was written, and the boot in it is the present one. Frames that
//!   end before it are lost, are named, and the epoch is over. What lies behind it was never acknowledged: a gap there is a
//!   commit that the kill came in the middle of, and no loss (`salvage.rs`).
//! - After a power cut it may be old or gone, and the marks that were synced last, at most about a second before (half
//!   a minute, where fewer than 64 readings came since: `keeper.rs`), say how far the epoch had surely come. Where frames end before *that*, the same happens, and what may have come
//!   behind it is named as unknown (`tail_unknown_from` of the epoch that is over).
//! - What remains is a disk that forgets, without a trace in any file, what it said was on stable storage in that
//!   time before the cut. Nobody can name such a loss, but it must not let a sequence be used twice. So no
//!   reading is given to the bridge before marks that were *synced* know of its sequence (`backlog.rs`). If
//!   an epoch goes on, its frames end at or behind the marks; so each sequence it gives out again was never seen
//!   outside of this box.
//!
//! Syncing the marks before each acknowledgement would name that last loss too, for a second sync a commit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hub_bridge::clock::BootId;
use hub_bridge::identity::Epoch;

const FILE: &str = "reached";

/// Epoch, next sequence, boot, checksum of all; little-endian.
const RECORD_BYTES: usize = 20;

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) epoch: Epoch,
    /// The sequence that the next reading would have got.
    pub(super) next: u64,
    /// Whether it was written in this boot: then it is exact.
    pub(super) exact: bool,
}

/// The file.
#[derive(Debug)]
pub(super) struct Reached {
    path: PathBuf,
    boot: BootId,
    file: Option<File>,
    failed: bool,
}

impl Reached {
    /// The file in `dir`, and what it says in this `boot`.
    pub(super) fn open(dir: &Path, boot: BootId) -> (Self, Option<Said>) {
        let path = dir.join(FILE);
        let said = std::fs::read(&path)
            .ok()
            .and_then(|bytes| parse(&bytes, boot));
        let this = Self {
            path,
            boot,
            file: None,
            failed: false,
        };
        (this, said)
    }

    /// Writes it down; survives a kill at once. What fails is logged once: the marks say it a moment later.
    pub(super) fn note(&mut self, epoch: Epoch, next: u64) {
        match self.write(epoch, next) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, path = %self.path.display(), "not written");
            }
            Err(_) => {}
        }
    }

    fn write(&mut self, epoch: Epoch, next: u64) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&self.path)?,
            ),
        };
        file.write_all_at(&record(epoch, next, self.boot), 0)
    }
}

fn record(epoch: Epoch, next: u64, boot: BootId) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    let (head, checksum) = record.split_at_mut(RECORD_BYTES - 4);
    let fields = epoch.0.to_le_bytes().into_iter().chain(next.to_le_bytes());
    head.iter_mut()
        .zip(fields.chain(boot.0.to_le_bytes()))
        .for_each(|(to, from)| *to = from);
    checksum.copy_from_slice(&crc32fast::hash(head).to_le_bytes());
    record
}

fn parse(bytes: &[u8], now: BootId) -> Option<Said> {
    let (epoch, rest) = bytes.split_first_chunk::<4>()?;
    let (next, rest) = rest.split_first_chunk::<8>()?;
    let (boot, _) = rest.split_first_chunk::<4>()?;
    let (epoch, next) = (Epoch(u32::from_le_bytes(*epoch)), u64::from_le_bytes(*next));
    let boot = BootId(u32::from_le_bytes(*boot));
    (bytes == record(epoch, next, boot)).then_some(Said {
        epoch,
        next,
        exact: boot == now,
    })
}
