//! The start: takes what is on the disk, whatever it is, and says what it found.
//!
//! Only three things keep a store from opening: another process on the same directory, no permission, and
//! a flush that does not reach the disk. The cost is one small file a segment, and reading the last segment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use hub_bridge::clock::Clock;
use hub_bridge::identity::{Epoch, Sequence, SequenceRange};
use parking_lot::{Condvar, Mutex, RwLock};

use super::account::AccountFile;
use super::health::Health;
use super::identity::{self, EpochReason, EpochRecord, Identity};
use super::index::{EpochIndex, Index, Need};
use super::lock::DirLock;
use super::marks::{self, MarksFile, MarksV1};
use super::quarantine;
use super::queue::Queue;
use super::reached::{Reached, Said};
use super::reader::{Reader, SegmentFile};
use super::refused::{Refused, RefusedDir, RefusedV1};
use super::repeat::{REMEMBERED, Recent};
use super::segment::{Meta, SegmentName};
use super::shared::{KeeperState, Marks, Shared};
use super::sled_segment;
use super::{ExactlyOnce, Settings};
use crate::durable::{self, DurableError};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another edge-relay{}", data_dir.display(), pid.map_or_else(String::new, |p| format!(" (process {p})")))]
    Locked {
        /// The directory.
        data_dir: PathBuf,
        /// The other process, where known.
        pid: Option<u32>,
    },
    /// A directory or the lock cannot be made or opened.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A flush does not reach the disk in this program: nothing could be acknowledged.
    #[error(
        "self-check: a flush of the store does not reach the disk; this build cannot keep its promise"
    )]
    NotDurable,
}

/// What the start found.
#[derive(Debug, Clone, Default)]
pub struct OpenReport {
    /// The epoch that new readings get.
    pub epoch: Option<Epoch>,
    /// Why it began at this start; `None` where it goes on.
    pub began: Option<EpochReason>,
    /// Whether the store was closed in order the last time.
    pub closed_cleanly: bool,
    /// Segments that had not been closed, and how many readings were found in them.
    pub salvaged: Vec<(PathBuf, u64)>,
    /// Files and directories that could not be used and were moved to `quarantine/`.
    pub quarantined: Vec<PathBuf>,
    /// Readings that are known to be lost: all that were ever found missing, not only at this start.
    pub lost: Vec<(Epoch, SequenceRange)>,
    /// Readings that wait for the hub.
    pub waiting_readings: u64,
    /// How long the start took.
    pub took: Duration,
}

/// A store that is open, its threads not yet started.
pub(super) struct Opened {
    pub(super) shared: Arc<Shared>,
    pub(super) recent: Recent,
    pub(super) exactly_once: Vec<ExactlyOnce>,
    pub(super) lock: DirLock,
    pub(super) report: OpenReport,
}

/// Opens the store in `settings.data_dir`.
pub(super) fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let data_dir = settings.data_dir.clone();
    let backlog_dir = data_dir.join("backlog");
    make_dir(&data_dir)?;
    let lock = DirLock::take(&data_dir)?;
    make_dir(&backlog_dir)?;
    check_durable(&data_dir)?;

    let mut opening = Opening {
        settings,
        data_dir: data_dir.clone(),
        backlog_dir: backlog_dir.clone(),
        report: OpenReport::default(),
        acknowledged_below: None,
    };
    let (marks_file, marks) = MarksFile::open(&data_dir);
    let refused_dir = RefusedDir::open(&data_dir);
    let (reached_file, reached) = Reached::open(&data_dir, clock.boot());
    let (index, identity) = opening.index(marks, reached, &refused_dir);
    let (recent, exactly_once) = opening.recent(&index);
    let mut report = opening.report;
    report.waiting_readings = index.waiting(settings.confirm).0;
    report.lost = lost(&index);
    report.epoch = index.epochs.last().map(|e| e.epoch);
    report.took = started.elapsed();

    let account = AccountFile::open(&data_dir);
    let shared = Arc::new(Shared {
        settings: RwLock::new(settings.clone()),
        clock,
        data_dir,
        backlog_dir,
        refused_dir,
        queue: Queue::default(),
        index: Mutex::new(index),
        reader: Mutex::new(Reader::default()),
        marks: Mutex::new(Marks {
            file: marks_file,
            written: None,
            unsynced: true,
            written_next: None,
            synced_next: None,
        }),
        reached: Mutex::new(reached_file),
        account: Mutex::new(account),
        identity: Mutex::new(identity),
        health: Health::default(),
        appended: tokio::sync::watch::channel(0).0,
        keeper: Mutex::new(KeeperState::default()),
        keeper_wake: Condvar::new(),
        disk_free_bytes: AtomicU64::new(u64::MAX),
        closed: AtomicBool::new(false),
    });
    if shared.save_marks(true, false) {
        let listed: Vec<_> = shared.index.lock().refused.keys().copied().collect();
        shared.refused_dir.list_only(listed.into_iter());
    }
    shared.assess();
    Ok(Opened {
        shared,
        recent,
        exactly_once,
        lock,
        report,
    })
}

fn lost(index: &Index) -> Vec<(Epoch, SequenceRange)> {
    let each = index.epochs.iter();
    each.flat_map(|e| e.lost.ranges().map(|r| (e.epoch, r)))
        .collect()
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(dir).map_err(|source| OpenError::Io {
        path: dir.to_owned(),
        source,
    })
}

fn check_durable(data_dir: &Path) -> Result<(), OpenError> {
    match sled_segment::self_check(&data_dir.join("probe")) {
        Ok(()) => {
            durable::rest_surplus_threads(&data_dir.join("probe"));
            Ok(())
        }
        Err(DurableError::NotSynced) => Err(OpenError::NotDurable),
        Err(error) => {
            // A full disk at start: each commit proves its sync anyway.
            tracing::warn!(%error, "the self-check of the disk could not be made");
            Ok(())
        }
    }
}

/// The start under way.
pub(super) struct Opening<'a> {
    pub(super) settings: &'a Settings,
    pub(super) data_dir: PathBuf,
    pub(super) backlog_dir: PathBuf,
    pub(super) report: OpenReport,
    /// Of the epoch that is being looked at: what lies from here on was surely never acknowledged, where that is known.
    pub(super) acknowledged_below: Option<u64>,
}

impl Opening<'_> {
    fn index(
        &mut self,
        marks: marks::Found,
        reached: Option<Said>,
        refused_dir: &RefusedDir,
    ) -> (Index, Identity) {
        let (found_identity, identity_lost) = match Identity::read(&self.data_dir) {
            identity::Found::Identity(found) => (Some(found), false),
            identity::Found::Nothing => (None, false),
            identity::Found::Damaged => (None, true),
        };
        let names = self.segment_names();
        let (marks, marks_lost) = match marks {
            marks::Found::Marks(marks) => (marks, false),
            marks::Found::Unreadable => (MarksV1::default(), true),
            // Where all was forwarded and let go there are no segments, and sequences were used all the same.
            marks::Found::Nothing => {
                let began = found_identity.is_some() && reached.is_none();
                (MarksV1::default(), began || !names.is_empty())
            }
        };
        self.report.closed_cleanly = marks.clean;
        let used = identity_lost || !names.is_empty() || !marks.epochs.is_empty();
        let mut identity = found_identity.clone().unwrap_or_default();
        self.adopt_unknown_epochs(&mut identity, &names);

        let Refused {
            sound: refused,
            gone,
        } = refused_dir.read();
        let mut index = Index::default();
        let mut tail_proved = true;
        for record in &identity.epochs {
            let own = names.get(&record.epoch).cloned().unwrap_or_default();
            let own_marks = marks.epochs.iter().find(|m| m.epoch == record.epoch.0);
            let mut own_marks = own_marks.cloned().unwrap_or_default();
            let own_reached = reached.filter(|said| said.epoch == record.epoch);
            if let Some(said) = own_reached {
                own_marks.next = own_marks.next.max(said.next);
            }
            self.acknowledged_below = own_reached.filter(|said| said.exact).map(|said| said.next);
            let retried: Vec<u64> = refused
                .iter()
                .filter(|r| r.retried && r.epoch == record.epoch.0)
                .map(|r| r.sequence)
                .collect();
            let (epoch, proved) = self.epoch(record, &own, &own_marks, &retried);
            tail_proved = proved;
            index.epochs.push(epoch);
        }
        self.take_refused(&mut index, refused_dir, refused);
        self.take_gone(&mut index, &gone);
        Self::set_ring(&mut index, &marks);

        let reason = match &found_identity {
            None if used => Some(EpochReason::IdentityLost),
            None => Some(EpochReason::NewStore),
            Some(found) => self.reason(found, marks_lost, tail_proved),
        };
        if !tail_proved || marks_lost {
            Self::leave_open(&mut index, &mut identity);
        }
        if let Some(reason) = reason {
            let record = loop {
                let record = EpochRecord::draw(self.settings.village.clone(), reason);
                if identity.epochs.iter().all(|e| e.epoch != record.epoch) {
                    break record;
                }
            };
            let epoch = EpochIndex::new(record.epoch, record.village.clone(), record.salt);
            index.epochs.push(epoch);
            identity.epochs.push(record);
            self.report.began = Some(reason);
        }
        let kept = index.forget_empty();
        identity.epochs.retain(|e| kept.contains(&e.epoch));
        identity.machine_id.clone_from(&self.settings.machine_id);
        if found_identity.as_ref() != Some(&identity)
            && let Err(error) = identity.write(&self.data_dir)
        {
            tracing::warn!(%error, "the identity was not written");
        }
        index.dirty = true;
        (index, identity)
    }

    fn reason(&self, found: &Identity, marks_lost: bool, tail_proved: bool) -> Option<EpochReason> {
        let village = found.epochs.last().map(|e| &e.village);
        if found.machine_id != self.settings.machine_id {
            Some(EpochReason::OtherMachine)
        } else if village != Some(&self.settings.village) {
            Some(EpochReason::OtherVillage)
        } else if marks_lost {
            Some(EpochReason::IdentityLost)
        } else if !tail_proved {
            Some(EpochReason::TailUnproved)
        } else {
            None
        }
    }

    /// Names the end of the last epoch, which a new one follows, as unknown.
    fn leave_open(index: &mut Index, identity: &mut Identity) {
        if let (Some(epoch), Some(record)) = (index.epochs.last_mut(), identity.epochs.last_mut())
            && epoch.epoch == record.epoch
        {
            let from = epoch.next;
            tracing::error!(epoch = %epoch.epoch, from, "readings from here on may be lost: the end cannot be proved");
            epoch.tail_unknown_from = Some(from);
            record.tail_unknown_from = Some(from);
        }
    }

    fn segment_names(&mut self) -> BTreeMap<Epoch, Vec<SegmentName>> {
        let mut names: BTreeMap<Epoch, Vec<SegmentName>> = BTreeMap::new();
        let entries = fs::read_dir(&self.backlog_dir).into_iter().flatten();
        for entry in entries.flatten() {
            match SegmentName::parse(&entry.file_name().to_string_lossy()) {
                Some(name) => names.entry(name.epoch).or_default().push(name),
                None => self.put_aside(&entry.path()),
            }
        }
        for own in names.values_mut() {
            own.sort();
        }
        names
    }

    pub(super) fn put_aside(&mut self, path: &Path) {
        match quarantine::put_aside(&self.data_dir, path) {
            Ok(()) => self.report.quarantined.push(path.to_owned()),
            Err(error) => tracing::warn!(%error, path = %path.display(), "not put aside"),
        }
    }

    /// Epochs of which there are segments, but no word in `identity`: each segment's `meta` says it too.
    fn adopt_unknown_epochs(
        &mut self,
        identity: &mut Identity,
        names: &BTreeMap<Epoch, Vec<SegmentName>>,
    ) {
        for (epoch, own) in names {
            if identity.epochs.iter().any(|e| e.epoch == *epoch) {
                continue;
            }
            let meta = own
                .iter()
                .find_map(|n| Meta::read(&self.backlog_dir.join(n.dir_name())));
            match meta.filter(|m| m.epoch == *epoch) {
                Some(meta) => {
                    let record = EpochRecord {
                        epoch: *epoch,
                        village: meta.village,
                        salt: meta.salt,
                        began: EpochReason::IdentityLost,
                        tail_unknown_from: None,
                    };
                    identity.epochs.insert(0, record);
                }
                None => {
                    for name in own {
                        self.put_aside(&self.backlog_dir.join(name.dir_name()));
                    }
                }
            }
        }
    }

    fn take_refused(&self, index: &mut Index, refused_dir: &RefusedDir, all: Vec<RefusedV1>) {
        for refused in all {
            let epoch = Epoch(refused.epoch);
            let range = SequenceRange::one(Sequence(refused.sequence));
            if index.epoch(epoch).is_err() {
                let Some(village) = refused.village() else {
                    continue;
                };
                let mut past = EpochIndex::new(epoch, village, refused.salt);
                past.pass(SequenceRange {
                    first: Sequence::FIRST,
                    last: range.last,
                });
                past.next = refused.sequence + 1;
                if refused.retried {
                    past.forwarded.remove(range);
                    past.stored.remove(range);
                }
                index.epochs.insert(0, past);
            }
            let Ok(found) = index.epoch_mut(epoch) else {
                continue;
            };
            if !refused.retried {
                found.pass(range);
                found.recount(range, self.settings.confirm);
            } else if found
                .passed(self.settings.confirm)
                .contains(refused.sequence)
            {
                let _ = refused_dir.remove(epoch, refused.sequence);
                continue;
            }
            let entry = refused.entry();
            index.refused.insert((epoch, refused.sequence), entry);
        }
    }

    /// Refused readings whose files are gone: they wait again where a segment still has them, else they are lost.
    fn take_gone(&self, index: &mut Index, gone: &[(Epoch, u64)]) {
        for (id, sequence) in gone {
            let Ok(epoch) = index.epoch_mut(*id) else {
                tracing::error!(epoch = %id, sequence, "a refused reading is lost to damage");
                continue;
            };
            let range = SequenceRange::one(Sequence(*sequence));
            if epoch.segment_of(*sequence).is_some() {
                epoch.forwarded.remove(range);
                epoch.stored.remove(range);
            } else {
                epoch.lost.insert(range);
                epoch.pass(range);
            }
            epoch.recount(range, self.settings.confirm);
        }
    }

    fn set_ring(index: &mut Index, marks: &MarksV1) {
        for ring in &marks.ring {
            if let Ok(epoch) = index.epoch_mut(Epoch(ring.epoch))
                && let Some(segment) = epoch.segments.get_mut(&ring.first)
                && matches!(segment.need, Need::Done(_))
            {
                segment.need = Need::Done(ring.since_ms);
            }
        }
    }

    /// The last readings, to find repeats of them: in the current epoch those with any packet id, and of the last
    /// epoch with readings those with `QoS` 2.
    fn recent(&self, index: &Index) -> (Recent, Vec<ExactlyOnce>) {
        let mut recent = Recent::default();
        let mut exactly_once = Vec::new();
        let with_readings = |e: &&EpochIndex| !e.segments.is_empty();
        let Some(epoch) = index.epochs.iter().rev().find(with_readings) else {
            return (recent, exactly_once);
        };
        let is_current = index.epochs.last().is_some_and(|e| e.epoch == epoch.epoch);
        let hasher = recent.hasher();
        let from = epoch.next.saturating_sub(REMEMBERED as u64);
        let last_two = epoch.segments.iter().rev().take(2).collect::<Vec<_>>();
        for (first, segment) in last_two.into_iter().rev() {
            let name = SegmentName {
                epoch: epoch.epoch,
                first: *first,
            };
            let dir = self.backlog_dir.join(name.dir_name());
            let Ok(file) = SegmentFile::open(&dir, name, segment.end, epoch.salt) else {
                continue;
            };
            file.for_each_from(from, |reading| {
                if is_current {
                    recent.remember(reading);
                }
                if reading.qos == 2 && reading.packet_id != 0 {
                    exactly_once.push(ExactlyOnce {
                        client_id: reading.client_id.clone(),
                        packet_id: reading.packet_id,
                        content: hasher.hash_one((&*reading.topic, &*reading.payload)),
                        epoch: epoch.epoch,
                        sequence: reading.sequence,
                    });
                }
            });
        }
        (recent, exactly_once)
    }
}
