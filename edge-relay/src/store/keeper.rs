//! The keeper thread: puts the marks on stable storage, closes segments with their sidecars, and lets
//! forwarded ones go when their time is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::index::{Need, Phase, Segment};
use super::segment::SegmentName;
use super::shared::Shared;

/// Marks are written at the latest so long after a change.
const MARKS_WRITE_WITHIN: Duration = Duration::from_millis(50);

/// How long a burst of changes gathers before they are looked at.
const GATHER: Duration = Duration::from_millis(10);

/// Marks are synced at the latest so long after a change, and after [`MANY_READINGS`] came.
const MARKS_SYNC_WITHIN: Duration = Duration::from_secs(1);

/// Likewise where only fewer readings came: at one a second, a sync of the marks for each would wear the disk as much as
/// the readings do. What it is for: `reached.rs`.
const FEW_SYNC_WITHIN: Duration = Duration::from_secs(30);

/// See [`FEW_SYNC_WITHIN`].
const MANY_READINGS: u64 = 64;

/// How long nothing must have come before a segment that is all confirmed is closed.
const ROLL_IDLE: Duration = Duration::from_secs(5);

/// How often it looks when nothing happens: retention counts in days.
const IDLE: Duration = Duration::from_secs(30);

/// Runs until it is told to close.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut synced = Instant::now();
    let mut appended = *shared.appended.borrow();
    let mut quiet_since = Instant::now();
    let mut verified = BTreeSet::new();
    let mut verified_at = Instant::now();
    loop {
        let live_done = shared.live_is_done();
        let idle = if live_done { ROLL_IDLE } else { IDLE };
        let (asked, closing) = wait(shared, patience(shared, synced.elapsed(), idle));
        if asked && !closing {
            std::thread::sleep(GATHER);
        }
        let sync = sync_due(shared).is_some_and(|due| synced.elapsed() >= due);
        if sync {
            synced = Instant::now();
        }
        shared.write_marks(sync);
        seal_all(shared);
        keep_aside(shared);
        let_go(shared);
        shared.assess();
        if closing {
            return;
        }
        // Readings that trickle in ask again and again: no reason to look at none of the segments.
        if !asked || verified_at.elapsed() >= IDLE {
            verified_at = Instant::now();
            verify_next(shared, &mut verified);
            shared.account_in_idle_time();
        }
        let now = *shared.appended.borrow();
        if now != appended {
            appended = now;
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() >= ROLL_IDLE && live_done {
            shared.queue.roll();
        }
    }
}

/// How long after the last sync of the marks the next is due; `None` while there is nothing to sync.
fn sync_due(shared: &Shared) -> Option<Duration> {
    let (dirty, grown) = {
        let index = shared.index.lock();
        (index.dirty, index.grown)
    };
    if dirty || grown >= MANY_READINGS || shared.marks.lock().unsynced {
        return Some(MARKS_SYNC_WITHIN);
    }
    (grown > 0).then_some(FEW_SYNC_WITHIN)
}

/// How long to wait for a call: until something is to be written or synced, at most `idle`.
fn patience(shared: &Shared, since_sync: Duration, idle: Duration) -> Duration {
    if shared.index.lock().dirty {
        return MARKS_WRITE_WITHIN;
    }
    let left = |due: Duration| due.saturating_sub(since_sync).max(MARKS_WRITE_WITHIN);
    sync_due(shared).map_or(idle, |due| left(due).min(idle))
}

/// In idle time, and now and then: looks through one closed segment that was not looked at since the start. Damage is
/// reported here and a copy of the segment kept aside; what it costs is named when the drain gets there.
fn verify_next(shared: &Shared, verified: &mut BTreeSet<SegmentName>) {
    let closed = segments_where(shared, |s| s.phase == Phase::Closed);
    verified.retain(|name| closed.contains(name));
    let Some(name) = closed.into_iter().find(|n| !verified.contains(n)) else {
        return;
    };
    verified.insert(name);
    match shared.verify_segment(name) {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => {
            tracing::error!(segment = %name.dir_name(), ?missing, "readings are damaged");
        }
        Err(error) => {
            tracing::warn!(%error, segment = %name.dir_name(), "cannot be verified");
        }
    }
}

fn wait(shared: &Shared, patience: Duration) -> (bool, bool) {
    let mut keeper = shared.keeper.lock();
    if !keeper.asked && !keeper.closing {
        shared.keeper_wake.wait_for(&mut keeper, patience);
    }
    (std::mem::take(&mut keeper.asked), keeper.closing)
}

/// Makes the sidecars that are missing.
pub(super) fn seal_all(shared: &Shared) {
    for name in segments_where(shared, |s| s.phase == Phase::Unsealed) {
        if let Err(error) = shared.seal(name) {
            tracing::warn!(%error, "a segment has no sidecar yet");
        }
    }
}

/// Keeps copies of damaged segments aside.
fn keep_aside(shared: &Shared) {
    let damaged = segments_where(shared, |s| s.damaged && !s.aside && s.phase != Phase::Live);
    for name in damaged {
        shared.keep_aside(name);
    }
}

/// Removes segments that are done for longer than `keep_forwarded`, by a clock that can be trusted.
fn let_go(shared: &Shared) {
    let keep = shared.settings.read().keep_forwarded;
    let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let now_ms = shared.trusted_now_ms();
    if let Some(now_ms) = now_ms {
        stamp_done(shared, now_ms);
    }
    let over = |since: Option<i64>| {
        let age = now_ms
            .zip(since)
            .map(|(now, since)| now.saturating_sub(since));
        keep.is_zero() || age.is_some_and(|age| age >= keep_ms)
    };
    let gone = segments_where(shared, |s| {
        s.phase != Phase::Live && matches!(s.need, Need::Done(since) if over(since))
    });
    for name in gone {
        shared.remove_segment(name);
    }
}

fn stamp_done(shared: &Shared, now_ms: i64) {
    let mut index = shared.index.lock();
    let mut stamped = false;
    for epoch in &mut index.epochs {
        for segment in epoch.segments.values_mut() {
            if segment.need == Need::Done(None) {
                segment.need = Need::Done(Some(now_ms));
                stamped = true;
            }
        }
    }
    index.dirty |= stamped;
}

fn segments_where(shared: &Shared, wanted: impl Fn(&Segment) -> bool) -> Vec<SegmentName> {
    let index = shared.index.lock();
    let all = index.epochs.iter().flat_map(|e| {
        e.segments.iter().map(|(first, s)| {
            let name = SegmentName {
                epoch: e.epoch,
                first: *first,
            };
            (name, s)
        })
    });
    all.filter(|(_, segment)| wanted(segment))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture::*;
    use super::*;

    #[test]
    fn few_readings_do_not_cost_a_sync_of_the_marks_each() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(&settings(dir.path()));
        fill(&store, 0, 1, 1, 200);
        wait_until("what the new segment changed is synced", || {
            sync_due(store.shared()) == Some(FEW_SYNC_WITHIN)
        });
        fill(&store, 1, MANY_READINGS, 1, 200);
        assert_eq!(sync_due(store.shared()), Some(MARKS_SYNC_WITHIN));
        wait_until("the marks of many readings are synced", || {
            sync_due(store.shared()).is_none()
        });
    }
}
