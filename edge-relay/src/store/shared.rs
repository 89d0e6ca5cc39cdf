//! What the threads of the store share, and the order of its locks: account, reader, marks, index. Nothing is
//! written or synced while the index is locked.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hub_bridge::backlog::BacklogError;
use hub_bridge::clock::{Clock, ClockQuality};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange};
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::Settings;
use super::account::AccountFile;
use super::health::{Health, StoreHealth};
use super::identity::{EpochRecord, Identity};
use super::index::{Index, Need, Phase, Source};
use super::marks::MarksFile;
use super::quarantine;
use super::queue::Queue;
use super::reached::Reached;
use super::reader::{Found, Page, Reader, SegmentFile, storage};
use super::refused::RefusedDir;
use super::segment::{SegmentName, Sidecar};
use crate::durable;

/// A write of the marks waits so long after the one before, so that a confirmation a reading does not
/// become a write a reading.
const MARKS_WRITE_EVERY: Duration = Duration::from_millis(5);

/// The marks' file and when it was written.
pub(super) struct Marks {
    pub(super) file: MarksFile,
    pub(super) written: Option<Instant>,
    /// Written since the last sync.
    pub(super) unsynced: bool,
    /// The current epoch and its next sequence, as written last.
    pub(super) written_next: Option<(u32, u64)>,
    /// The same, as synced last.
    pub(super) synced_next: Option<(u32, u64)>,
}

/// What the keeper thread is asked.
#[derive(Default)]
pub(super) struct KeeperState {
    pub(super) asked: bool,
    pub(super) closing: bool,
}

/// All of the store.
pub(super) struct Shared {
    pub(super) settings: RwLock<Settings>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) data_dir: PathBuf,
    pub(super) backlog_dir: PathBuf,
    pub(super) refused_dir: RefusedDir,
    pub(super) queue: Queue,
    pub(super) index: Mutex<Index>,
    pub(super) reader: Mutex<Reader>,
    pub(super) marks: Mutex<Marks>,
    pub(super) reached: Mutex<Reached>,
    pub(super) account: Mutex<AccountFile>,
    pub(super) identity: Mutex<Identity>,
    pub(super) health: Health,
    pub(super) appended: watch::Sender<u64>,
    pub(super) keeper: Mutex<KeeperState>,
    pub(super) keeper_wake: Condvar,
    /// What was free on the disk when it was last looked at, in bytes.
    pub(super) disk_free_bytes: AtomicU64,
    /// The directory is given back: nothing is written any more.
    pub(super) closed: AtomicBool,
}

impl Shared {
    /// Where a segment lies.
    pub(super) fn segment_dir(&self, name: SegmentName) -> PathBuf {
        self.backlog_dir.join(name.dir_name())
    }

    /// What waits: readings and bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let confirming = self.settings.read().confirm;
        self.index.lock().waiting(confirming)
    }

    /// Tells the bridge that there is more.
    pub(super) fn readings_came(&self, count: u64) {
        self.appended.send_modify(|n| *n = n.wrapping_add(count));
    }

    /// Sets how near the quotas are, where readings are taken.
    pub(super) fn assess(&self) {
        self.health.set_while_well(self.nearness());
    }

    /// As [`Shared::assess`], once there is surely room again.
    pub(super) fn recovered(&self) {
        self.health.set(self.nearness());
    }

    fn nearness(&self) -> StoreHealth {
        let (_, waiting_bytes) = self.waiting();
        let settings = self.settings.read();
        let (bytes_max, disk_free_min) = (settings.bytes_max, settings.disk_free_min);
        let disk_free_bytes = self.disk_free_bytes.load(Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss)] // a level, not an account
        let near = |used: u64, max: u64| used as f64 >= settings.alarm_at * max as f64;
        let alarm = near(waiting_bytes, bytes_max)
            || (disk_free_min > 0 && near(disk_free_min, disk_free_bytes));
        if alarm {
            StoreHealth::Alarm {
                waiting_bytes,
                bytes_max,
                disk_free_bytes,
                disk_free_min,
            }
        } else {
            StoreHealth::Ready
        }
    }

    /// Asks the keeper to look.
    pub(super) fn wake_keeper(&self) {
        let mut keeper = self.keeper.lock();
        if !keeper.asked {
            keeper.asked = true;
            self.keeper_wake.notify_one();
        }
    }

    /// Writes the marks where they have changed, and syncs them if asked.
    pub(super) fn write_marks(&self, sync: bool) {
        self.save_marks(sync, false);
    }

    /// As [`Shared::write_marks`]; `clean` says that the store is closing in order.
    pub(super) fn save_marks(&self, sync: bool, clean: bool) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let mut marks = self.marks.lock();
        let content = {
            let mut index = self.index.lock();
            // That readings came is written when it is to be synced: after a kill `reached` knows it better.
            let wanted = index.dirty || clean || (sync && index.grown > 0);
            let content = wanted.then(|| index.to_marks());
            if wanted {
                (index.dirty, index.grown) = (false, 0);
            }
            content
        };
        let result = (|| {
            if let Some(mut content) = content {
                content.clean = clean;
                let next = content.epochs.last().map(|e| (e.epoch, e.next));
                marks.file.write(content)?;
                marks.written_next = next;
                marks.written = Some(Instant::now());
                marks.unsynced = true;
            }
            if sync && marks.unsynced {
                marks.file.sync()?;
                marks.unsynced = false;
                marks.synced_next = marks.written_next;
            }
            io::Result::Ok(())
        })();
        if let Err(error) = result {
            tracing::warn!(%error, "the marks were not written; readings may be sent again");
            self.index.lock().dirty = true;
            return false;
        }
        true
    }

    /// The first sequence of `epoch` that may not leave this box, since the marks on stable storage do not know of
    /// it; of an epoch that is over, none.
    pub(super) fn unknown_from(&self, epoch: Epoch) -> u64 {
        let current = self.index.lock().epochs.last().map(|e| e.epoch);
        if current != Some(epoch) {
            return u64::MAX;
        }
        let synced = self.marks.lock().synced_next;
        synced.map_or(0, |(e, next)| if e == epoch.0 { next } else { 0 })
    }

    /// After a change of marks: writes them now, or leaves it to the keeper if they were just written.
    pub(super) fn marks_changed(&self) {
        let recent = |m: &Marks| m.written.is_some_and(|w| w.elapsed() < MARKS_WRITE_EVERY);
        let just_written = self.marks.try_lock().is_none_or(|m| recent(&m));
        if !just_written {
            self.write_marks(false);
        }
        self.wake_keeper();
    }

    /// The frame that holds `sequence`, or the next sequence that exists; what turns out to be lost is
    /// written down as lost.
    pub(super) fn page(&self, epoch: Epoch, sequence: u64) -> Result<Found, BacklogError> {
        let mut reader = self.reader.lock();
        if let Some(page) = reader.cached(epoch, sequence) {
            return Ok(Found::Page(page));
        }
        let (source, salt) = {
            let index = self.index.lock();
            (index.source(epoch, sequence)?, index.epoch(epoch)?.salt)
        };
        match source {
            Source::Values(values) => reader.decode(epoch, &values, salt).map(Found::Page),
            Source::Live(live) => {
                let values = live.segment.values(sequence).map_err(storage);
                match values.and_then(|values| reader.decode(epoch, &values, salt)) {
                    Ok(page) if holds(&page, sequence) => Ok(Found::Page(page)),
                    _ => self.carve_live(live.name, salt, sequence),
                }
            }
            Source::Segment(name, end) => {
                let dir = self.segment_dir(name);
                reader.read_segment(&dir, name, end, salt, sequence)
            }
            Source::Refused => self.refused_page(&mut reader, epoch, sequence),
            Source::Nowhere(next) => Ok(Found::Missing(next.max(sequence + 1))),
        }
    }

    /// A committed reading that sled does not give back: it is looked for in the file. Never counts as lost
    /// while the segment is being written.
    fn carve_live(
        &self,
        name: SegmentName,
        salt: u32,
        sequence: u64,
    ) -> Result<Found, BacklogError> {
        tracing::warn!(sequence, "not given back by sled: carving");
        let dir = self.segment_dir(name);
        let mut file = SegmentFile::open(&dir, name, u64::MAX, salt).map_err(storage)?;
        match file.read(sequence).map_err(storage)? {
            Found::Page(page) => Ok(Found::Page(page)),
            Found::Missing(_) => Err(storage("a committed reading is not in its segment")),
        }
    }

    fn refused_page(
        &self,
        reader: &mut Reader,
        epoch: Epoch,
        sequence: u64,
    ) -> Result<Found, BacklogError> {
        let refused = self.refused_dir.get(epoch, sequence).map_err(storage)?;
        let page = reader.decode(epoch, &[refused.record], refused.salt)?;
        Ok(Found::Page(page))
    }

    /// Names `first..end` as lost, durably: both marks pass it.
    pub(super) fn lose(&self, epoch: Epoch, first: u64, end: u64) -> Result<(), BacklogError> {
        let Some(range) = SequenceRange::new(Sequence(first), Sequence(end.saturating_sub(1)))
        else {
            return Ok(());
        };
        let confirming = self.settings.read().confirm;
        {
            let mut index = self.index.lock();
            let found = index.epoch_mut(epoch)?;
            // What was confirmed before is not lost.
            let mut missing = super::sequences::SequenceSet::from_pairs(&[(first, end - 1)]);
            for passed in found.passed(confirming).ranges() {
                missing.remove(passed);
            }
            if missing.count() == 0 {
                return Ok(());
            }
            tracing::error!(%epoch, %range, readings = missing.count(), "lost to damage");
            for range in missing.ranges() {
                found.lost.insert(range);
            }
            if let Some((first, _)) = found.segment_of(first)
                && let Some(segment) = found.segments.get_mut(&first)
            {
                segment.damaged = true;
            }
            found.pass(range);
            found.recount(range, confirming);
            index.dirty = true;
        }
        self.write_marks(true);
        self.wake_keeper();
        Ok(())
    }

    /// Reads a whole segment and says what of it cannot be read.
    pub(super) fn verify_segment(
        &self,
        name: SegmentName,
    ) -> Result<Vec<(u64, u64)>, BacklogError> {
        let (salt, end) = {
            let index = self.index.lock();
            let epoch = index.epoch(name.epoch)?;
            let end = epoch
                .segments
                .get(&name.first)
                .map_or(name.first, |s| s.end);
            (epoch.salt, end)
        };
        let missing = SegmentFile::open(&self.segment_dir(name), name, end, salt)
            .and_then(|mut file| file.verify())
            .map_err(storage)?;
        if !missing.is_empty() {
            self.found_damaged(name);
        }
        Ok(missing)
    }

    /// Has the keeper keep a copy of the segment aside.
    fn found_damaged(&self, name: SegmentName) {
        if let Ok(epoch) = self.index.lock().epoch_mut(name.epoch)
            && let Some(segment) = epoch.segments.get_mut(&name.first)
        {
            segment.damaged = true;
        }
        self.wake_keeper();
    }

    /// Keeps a copy of a damaged segment aside, as it was found, while the segment itself is still read.
    pub(super) fn keep_aside(&self, name: SegmentName) {
        let dir = self.segment_dir(name);
        match quarantine::link_aside(&self.data_dir, &dir) {
            Ok(true) => {
                tracing::warn!(segment = %dir.display(), "damaged; a copy is in quarantine/");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, segment = %dir.display(), "damaged; put aside when it is done");
            }
        }
        if let Ok(epoch) = self.index.lock().epoch_mut(name.epoch)
            && let Some(segment) = epoch.segments.get_mut(&name.first)
        {
            segment.aside = true;
        }
    }

    /// Makes the sidecar of a segment that takes no more.
    pub(super) fn seal(&self, name: SegmentName) -> Result<(), String> {
        let (salt, end) = {
            let index = self.index.lock();
            let Ok(epoch) = index.epoch(name.epoch) else {
                return Ok(());
            };
            let Some(segment) = epoch.segments.get(&name.first) else {
                return Ok(());
            };
            (epoch.salt, segment.end)
        };
        let dir = self.segment_dir(name);
        let carved = super::carve::carve(&dir.join("db"), name.epoch.0, salt)
            .map_err(|e| format!("{}: {e}", dir.display()))?;
        let sidecar = Sidecar::new(name, end, &carved);
        sidecar.write(&dir, salt).map_err(|e| e.to_string())?;
        let mut index = self.index.lock();
        if let Ok(epoch) = index.epoch_mut(name.epoch) {
            epoch.sealed(name.first, sidecar.damaged, sidecar.bytes);
        }
        Ok(())
    }

    /// Removes the oldest segment that is done; whether there was one.
    pub(super) fn remove_oldest_done(&self) -> bool {
        let oldest = {
            let index = self.index.lock();
            let mut done = index.epochs.iter().flat_map(|e| {
                let done = e
                    .segments
                    .iter()
                    .filter(|(_, s)| s.phase != Phase::Live && matches!(s.need, Need::Done(_)));
                done.map(|(first, _)| SegmentName {
                    epoch: e.epoch,
                    first: *first,
                })
            });
            done.next()
        };
        oldest.is_some_and(|name| self.remove_segment(name))
    }

    /// Removes a segment that is done, durably; a damaged one is kept aside.
    pub(super) fn remove_segment(&self, name: SegmentName) -> bool {
        // A power cut must not bring back marks from before this segment was done.
        if !self.save_marks(true, false) {
            return false;
        }
        // Only now: an account speaks of nothing that synced marks do not know, and after a start they know nothing yet.
        self.account_before_removal(name);
        let mut reader = self.reader.lock();
        let damaged = {
            let mut index = self.index.lock();
            let Ok(epoch) = index.epoch_mut(name.epoch) else {
                return false;
            };
            let removable = |s: &&super::index::Segment| {
                s.phase != Phase::Live && matches!(s.need, Need::Done(_))
            };
            let Some(damaged) = epoch
                .segments
                .get(&name.first)
                .filter(removable)
                .map(|s| s.damaged)
            else {
                return false;
            };
            epoch.remove_segment(name.first);
            index.dirty = true;
            damaged
        };
        reader.close(name);
        drop(reader);
        let dir = self.segment_dir(name);
        let result = if damaged && !quarantine::holds(&self.data_dir, &dir) {
            quarantine::put_aside(&self.data_dir, &dir)
        } else {
            fs::remove_dir_all(&dir)
        };
        if let Err(error) =
            result.and_then(|()| durable::sync_dir(&self.backlog_dir).map_err(io::Error::other))
        {
            tracing::warn!(%error, segment = %dir.display(), "not removed; tried again at the next start");
        }
        self.forget_empty_epochs();
        true
    }

    /// Epochs of the past with nothing left in them are forgotten.
    fn forget_empty_epochs(&self) {
        let kept = {
            let mut index = self.index.lock();
            let before = index.epochs.len();
            let kept = index.forget_empty();
            if kept.len() == before {
                return;
            }
            kept
        };
        let mut identity = self.identity.lock();
        let still = |r: &EpochRecord| kept.contains(&r.epoch);
        identity.epochs.retain(still);
        if let Err(error) = identity.write(&self.data_dir) {
            tracing::warn!(%error, "the identity was not written");
        }
    }

    /// Whether all in the segment that is being written is confirmed.
    pub(super) fn live_is_done(&self) -> bool {
        let index = self.index.lock();
        let Some(name) = index.live.as_ref().map(|l| l.name) else {
            return false;
        };
        let epoch = index.epoch(name.epoch).ok();
        epoch
            .and_then(|e| e.segments.get(&name.first))
            .is_some_and(|s| s.waiting == 0 && s.end > name.first)
    }

    /// The wall clock, if it is to be trusted, in ms since 1970.
    pub(super) fn trusted_now_ms(&self) -> Option<i64> {
        let trusted = self.clock.quality() == ClockQuality::Synchronised;
        trusted.then(|| self.clock.wall().0)
    }
}

fn holds(page: &Page, sequence: u64) -> bool {
    page.first().is_some_and(|r| r.sequence.0 <= sequence)
        && page.last().is_some_and(|r| sequence <= r.sequence.0)
}
