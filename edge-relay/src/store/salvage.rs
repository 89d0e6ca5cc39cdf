//! What the segments of an epoch turn out to hold at the start, and whether its end is proved to be all there.
//!
//! A closed segment is taken at its sidecar's word, and looked at when the drain gets there. The last one, if it
//! was not closed, is read through, read-only: where its frames end is where the epoch ends.

use std::fs;
use std::path::Path;

use hub_bridge::identity::{Sequence, SequenceRange};

use super::carve::{self, Carved, Indexed};
use super::identity::EpochRecord;
use super::index::{EpochIndex, Need, Phase, Segment};
use super::marks::EpochMarksV1;
use super::open::Opening;
use super::segment::{SegmentName, Sidecar};
use super::sequences::SequenceSet;

/// What one segment on disk turned out to be.
enum Loaded {
    Segment {
        segment: Segment,
        /// Whether nothing is missing at its end, as far as it can say itself.
        sound: bool,
    },
    /// Nothing was ever acknowledged in it.
    Empty,
    /// Readings should be there, and none can be found.
    Ruined,
}

impl Opening<'_> {
    /// One epoch from its segments and marks, and whether its end is proved to be all there.
    pub(super) fn epoch(
        &mut self,
        record: &EpochRecord,
        names: &[SegmentName],
        marks: &EpochMarksV1,
        retried: &[u64],
    ) -> (EpochIndex, bool) {
        let mut epoch = EpochIndex::new(record.epoch, record.village.clone(), record.salt);
        epoch.tail_unknown_from = record.tail_unknown_from;
        epoch.forwarded = SequenceSet::from_pairs(&marks.forwarded);
        epoch.stored = SequenceSet::from_pairs(&marks.stored);
        epoch.lost = SequenceSet::from_pairs(&marks.lost);
        let mut proved = true;
        let mut next_first = None;
        for name in names.iter().rev() {
            match self.segment(*name, next_first, record.salt, marks) {
                Loaded::Segment { segment, sound } => {
                    proved &= sound;
                    epoch.segments.insert(name.first, segment);
                    next_first = Some(name.first);
                }
                Loaded::Empty => {
                    let _ = fs::remove_dir_all(self.backlog_dir.join(name.dir_name()));
                    // The one before still ends here: what it holds beyond was never acknowledged.
                    next_first = next_first.or(Some(name.first));
                }
                Loaded::Ruined => {
                    proved = false;
                    self.put_aside(&self.backlog_dir.join(name.dir_name()));
                    next_first = Some(name.first);
                }
            }
        }
        let live_is_missing = marks.live != 0 && names.iter().all(|n| n.first != marks.live);
        let end = epoch.segments.values().next_back().map_or(1, |s| s.end);
        epoch.next = end.max(marks.next).max(1);
        if end < marks.next {
            proved &= self.end_is_passed(&mut epoch, end, marks.next, retried);
        }
        epoch.recount_all(self.settings.confirm);
        (epoch, proved && !live_is_missing)
    }

    /// Whether all of `end..next`, of which there is no segment, was confirmed or lies in `refused/`; else it
    /// is lost.
    fn end_is_passed(&self, epoch: &mut EpochIndex, end: u64, next: u64, retried: &[u64]) -> bool {
        let mut missing = SequenceSet::from_pairs(&[(end, next - 1)]);
        for passed in epoch.passed(self.settings.confirm).ranges() {
            missing.remove(passed);
        }
        for sequence in retried {
            missing.remove(SequenceRange::one(Sequence(*sequence)));
        }
        for range in missing.ranges() {
            epoch.lost.insert(range);
            epoch.pass(range);
        }
        missing.count() == 0
    }

    fn segment(
        &mut self,
        name: SegmentName,
        next_first: Option<u64>,
        salt: u32,
        marks: &EpochMarksV1,
    ) -> Loaded {
        let dir = self.backlog_dir.join(name.dir_name());
        let segment = |end: u64, bytes: u64, phase: Phase, damaged: bool| Segment {
            end: next_first.map_or(end, |next| end.min(next)),
            bytes,
            waiting: 0,
            phase,
            need: Need::Waiting,
            damaged,
            aside: false,
        };
        if let Some(sidecar) = Sidecar::read(&dir, name, salt) {
            // A closed segment that ends before the marks is judged with the epoch's end.
            return Loaded::Segment {
                segment: segment(sidecar.end, sidecar.bytes, Phase::Closed, sidecar.damaged),
                sound: true,
            };
        }
        if let Some(next) = next_first {
            let bytes = fs::metadata(dir.join("db")).map_or(0, |m| m.len() / 2);
            return Loaded::Segment {
                segment: segment(next, bytes, Phase::Unsealed, false),
                sound: true,
            };
        }
        self.last_segment(name, &dir, salt, marks)
    }

    /// The last segment of an epoch, not closed: what it holds is where the epoch ends.
    fn last_segment(
        &mut self,
        name: SegmentName,
        dir: &Path,
        salt: u32,
        marks: &EpochMarksV1,
    ) -> Loaded {
        let mut carved = match carve::carve(&dir.join("db"), name.epoch.0, salt) {
            Ok(carved) => carved,
            // Its directory was made, and no more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Carved::default(),
            Err(error) => {
                // Nobody knows what is in it: it is kept.
                tracing::warn!(%error, segment = %dir.display(), "cannot be read");
                return Loaded::Ruined;
            }
        };
        if let Some(below) = self.acknowledged_below {
            carved.leave_out_unfinished(name.first, below);
        }
        let Some(end) = carved.frames.last().map(Indexed::end) else {
            let expected = marks.next > name.first || carved.broken > 0;
            return if expected {
                Loaded::Ruined
            } else {
                Loaded::Empty
            };
        };
        let readings: u64 = carved.frames.iter().map(|f| u64::from(f.count)).sum();
        self.report.salvaged.push((dir.to_owned(), readings));
        let whole = readings == end - name.first;
        if carved.broken > 0 {
            tracing::warn!(segment = %dir.display(), broken = carved.broken, "broken frames in the last segment");
        }
        let reached = marks.live != name.first || end >= marks.next;
        Loaded::Segment {
            segment: Segment {
                end,
                bytes: carved.bytes(),
                waiting: 0,
                phase: Phase::Unsealed,
                need: Need::Waiting,
                damaged: !whole || carved.broken > 0,
                aside: false,
            },
            sound: whole && carved.broken == 0 && reached,
        }
    }
}
