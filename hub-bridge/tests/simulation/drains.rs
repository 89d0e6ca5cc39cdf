//! The record of drains, and what must hold of it.

use std::time::Duration;

use hub_bridge::clock::UnixMillis;
use hub_bridge::drain::{DrainCause, DrainLog, DrainOutcome, DrainRecord};

use super::world::{Id, Note, Shared, World};

#[derive(Default)]
pub struct DrainBook {
    /// All that ended, over all lives.
    pub records: Vec<DrainRecord>,
    /// The drain that was last seen to run in this life.
    pub running: Option<u64>,
    /// The last one that ended in this life.
    pub ended: u64,
    /// What waited when a drain was asked for: it must be gone when that drain is done.
    pub promised: Option<(u64, Vec<Id>)>,
    /// When the running one was first seen.
    seen_at: Duration,
    /// When clock or schedule last changed.
    pub changed_at: Option<Duration>,
    /// How often the schedule was edited, and how often when a night's drain last began.
    pub edits: u64,
    night_edits: u64,
}

impl DrainBook {
    pub fn new_life(&mut self) {
        self.running = None;
        self.ended = 0;
        self.promised = None;
    }
}

impl World {
    /// A drain was seen to run.
    pub fn drain_seen(&mut self, id: u64) {
        let (running, ended) = (self.drains.running, self.drains.ended);
        if running == Some(id) || ended >= id {
            return;
        }
        self.holds(running.is_none_or(|other| ended >= other), || {
            format!("drain {id} runs, and drain {running:?} has not ended")
        });
        self.holds(id == ended + 1, || {
            format!("drain {id} runs, and the last that was recorded is {ended}")
        });
        self.drains.running = Some(id);
        self.drains.seen_at = self.now();
    }

    fn drain_ended(&mut self, record: &DrainRecord) {
        self.drain_seen(record.id);
        let (id, last) = (record.id, self.drains.ended);
        self.holds(id == last + 1, || {
            format!("drain {id} was recorded after drain {last}")
        });
        let outcome = match record.outcome {
            Some(DrainOutcome::Done) => "done",
            Some(DrainOutcome::Failed) => "failed",
            Some(DrainOutcome::WindowEnded) => "window ended",
            Some(DrainOutcome::Stopped) => "stopped",
            None => "none",
        };
        self.step(Note::DrainEnds { id, outcome });
        self.holds(record.outcome.is_some() && record.ended.is_some(), || {
            format!("a drain was recorded before it ended: {record:?}")
        });
        if let Some((promised, ends)) = self.drains.promised.take() {
            let done = record.outcome == Some(DrainOutcome::Done) && promised == id;
            let all = self.store.all_done_below(&ends);
            self.holds(!done || all, || {
                format!("drain {id} is done, and something that waited when it began waits still")
            });
            if promised != id {
                self.drains.promised = Some((promised, ends));
            }
        }
        // A clock that was stepped meanwhile, or just before, may have anything in its record.
        let margin = self.drains.seen_at.saturating_sub(Duration::from_secs(10));
        if self.drains.changed_at.is_none_or(|at| at < margin) {
            self.judge_window(record);
        }
        self.drains.ended = id;
        self.drains.records.push(record.clone());
        self.totals.drains += 1;
    }

    fn judge_window(&mut self, record: &DrainRecord) {
        let windows = self.scene.windows_around(record.started);
        let started = record.started.0;
        let current = windows.iter().rev().find(|w| w.0 <= started).copied();
        match record.cause {
            DrainCause::Request => {}
            DrainCause::Uptime => self.holds(!record.clock_trusted, || {
                format!("a drain by uptime with a clock that is right: {record:?}")
            }),
            DrainCause::Window => {
                let open = current.is_some_and(|(_, end)| started < end);
                self.holds(record.clock_trusted && open, || {
                    format!("a drain outside its window: {record:?}, windows {windows:?}")
                });
            }
            DrainCause::Missed => {
                let past = current.is_some_and(|(_, end)| started >= end);
                self.holds(record.clock_trusted && past, || {
                    format!("no window was missed: {record:?}, windows {windows:?}")
                });
            }
        }
        if record.outcome == Some(DrainOutcome::WindowEnded) && record.cause == DrainCause::Window {
            let ended = record.ended.unwrap_or(UnixMillis(0)).0;
            self.holds(current.is_some_and(|(_, end)| ended >= end), || {
                format!("ended before its window did: {record:?}, windows {windows:?}")
            });
        }
        self.judge_once_a_night(record, current);
    }

    fn judge_once_a_night(&mut self, record: &DrainRecord, current: Option<(i64, i64)>) {
        let Some((start, _)) = current else { return };
        let night = |r: &DrainRecord| r.cause.is_scheduled() && r.clock_trusted;
        if !night(record) {
            return;
        }
        let tomorrow = record.started.0 + 24 * 3_600_000;
        let before = self.drains.records.iter().rev().find(|r| night(r));
        let again = before.filter(|r| (start..=tomorrow).contains(&r.started.0));
        let again = again.cloned();
        let edited = std::mem::replace(&mut self.drains.night_edits, self.drains.edits);
        let same_schedule = edited == self.drains.edits;
        self.holds(again.is_none() || !same_schedule, || {
            format!("twice in one night: {again:?} and {record:?}")
        });
    }
}

pub struct SimDrainLog(pub Shared);

impl DrainLog for SimDrainLog {
    fn record(&self, record: &DrainRecord) {
        self.0.lock().drain_ended(record);
    }

    fn last(&self) -> Option<DrainRecord> {
        self.0.lock().drains.records.last().cloned()
    }

    fn last_scheduled(&self) -> Option<DrainRecord> {
        let world = self.0.lock();
        let scheduled = |r: &&DrainRecord| r.cause.is_scheduled() && r.clock_trusted;
        world.drains.records.iter().rev().find(scheduled).cloned()
    }
}
