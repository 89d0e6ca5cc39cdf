//! Gathers readings into frames: as large as the link carries in a few seconds, so that a cut costs little.
//!
//! Read ahead → gathered → encoded off the async threads → a frame in the lanes. While more is to be had, a frame waits until
//! it is full; when the backlog is read to its end, its oldest reading waits `linger`, and not at all in a drain. A link
//! that does not last for one frame gets smaller ones (`Memory::frame_readings_max`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::feed::FeedLane;
use super::item::{Cargo, Framed, Item};
use super::{Link, Portion};
use crate::clock::Clock;
use crate::identity::{Epoch, SequenceRange, VillageId};
use crate::platform::{Crashed, Job};
use crate::ranges::Ranges;
use crate::reading::Reading;
use crate::settings::Format;
use crate::wire::frame::{self, Carried, Frame, FrameError};

/// A frame's size before the link's rate is known, in bytes.
const FRAME_START_BYTES: usize = 16 * 1024;
/// Frames in flight before anything is known of the link, in bytes: a reading in a frame costs so little that two seconds of
/// the thinnest link hold a village's day.
pub(super) const FLIGHT_START_BYTES: usize = 64 * 1024;
/// Smaller frames would not compress.
const FRAME_MIN_BYTES: usize = 4 * 1024;
/// The most readings in a frame, and the most bytes of readings: what memory allows.
pub(super) const READINGS_MAX: usize = 16_384;
const GATHERED_BYTES_MAX: usize = 4 << 20;
/// What a reading takes in a frame before one was made, in bytes.
const EACH_START_BYTES: f64 = 16.0;
/// Frames that wait to be sent while others are in flight.
const FRAMES_AHEAD: usize = 1;
/// What a PUBLISH of a frame takes beside the frame, in bytes, with a topic of the longest village id.
const PUBLISH_BYTES: usize = 128;

/// A reading that waits for its frame.
struct Gathered {
    epoch_age: usize,
    reading: Arc<Reading>,
    retain: bool,
}

/// A frame that was made, or the readings that could not be one.
pub(super) struct Made {
    epoch: Epoch,
    epoch_age: usize,
    village: Arc<VillageId>,
    ranges: Ranges,
    /// As they were gathered, where they could not be a frame.
    readings: Vec<Gathered>,
    frame: Result<Vec<u8>, FrameError>,
}

/// The frame that is gathered, and the one that is being encoded.
pub(super) struct Framing {
    of: Option<(Epoch, Arc<VillageId>, FeedLane)>,
    gathered: VecDeque<Gathered>,
    gathered_bytes: usize,
    /// When the first of the gathered came, or of those that are read again.
    since: Duration,
    read_again: bool,
    /// The frame before was full: what is left of a backlog behind it waits for no others.
    after_full: bool,
    /// A portion of another epoch or lane, which waits until this one's are gone.
    next: Option<Portion>,
    pub(super) job: Option<Job<Made>>,
    each_bytes: f64,
    lane: Arc<str>,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self {
            of: None,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            since: Duration::ZERO,
            read_again: false,
            after_full: false,
            next: None,
            job: None,
            each_bytes: EACH_START_BYTES,
            lane: Arc::from("frames"),
        }
    }

    /// Whether readings are here, in whatever state.
    pub(super) fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.job.is_none() && self.next.is_none()
    }

    /// Leaves the gathered readings to be read again; their time does not begin anew.
    pub(super) fn forget(&mut self) {
        self.read_again = !self.gathered.is_empty();
        self.gathered.clear();
        self.gathered_bytes = 0;
    }

    /// Puts readings back where they were taken from; not possible where those of another epoch or lane are there now.
    fn put_back(&mut self, epoch: Epoch, readings: Vec<Gathered>) -> bool {
        if self.of.as_ref().is_none_or(|(of, _, _)| *of != epoch) {
            return false;
        }
        let first_here = self.gathered.front().map(|g| g.reading.sequence);
        let last = readings.last().map(|g| g.reading.sequence);
        if first_here.is_some() && first_here < last {
            return false;
        }
        for gathered in readings.into_iter().rev() {
            self.gathered_bytes += gathered.reading.size_bytes();
            self.gathered.push_front(gathered);
        }
        true
    }

    /// Whether all that is here rests until its time comes.
    pub(super) fn only_lingers(&self) -> bool {
        self.job.is_none() && self.next.is_none()
    }

    /// Whether readings may be read for the frame that is gathered: one full frame at a time.
    pub(super) fn has_room(&self, wanted: usize) -> bool {
        self.next.is_none()
            && self.gathered.len() < wanted
            && self.gathered_bytes < GATHERED_BYTES_MAX
    }

    fn put(&mut self, portion: Portion, mut retains: impl FnMut(&Reading) -> bool, now: Duration) {
        let other = self
            .of
            .as_ref()
            .is_some_and(|(epoch, _, lane)| (*epoch, *lane) != (portion.epoch, portion.lane));
        if other && !self.gathered.is_empty() {
            self.next = Some(portion);
            return;
        }
        self.of = Some((portion.epoch, Arc::clone(&portion.village), portion.lane));
        if self.gathered.is_empty() && !std::mem::take(&mut self.read_again) {
            self.since = now;
        }
        let last = self.gathered.back().map(|g| g.reading.sequence);
        // What was given back comes after what had been read behind it.
        let unordered = portion.readings.first().map(|r| r.sequence) < last;
        for reading in portion.readings {
            self.gathered_bytes += reading.size_bytes();
            let retain = reading.retain && retains(&reading);
            self.gathered.push_back(Gathered {
                epoch_age: portion.epoch_age,
                reading,
                retain,
            });
        }
        if unordered {
            let gathered = self.gathered.make_contiguous();
            gathered.sort_unstable_by_key(|g| g.reading.sequence);
        }
    }

    /// The first readings gathered, at most `count` and what fits into a frame.
    fn take(&mut self, count: usize) -> Vec<Gathered> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.gathered.front() {
            let size = first.reading.size_bytes();
            if taken.len() >= count || (!taken.is_empty() && bytes + size > GATHERED_BYTES_MAX) {
                break;
            }
            bytes += size;
            taken.extend(self.gathered.pop_front());
        }
        self.gathered_bytes = self.gathered_bytes.saturating_sub(bytes);
        taken
    }
}

fn carried(gathered: &Gathered, clock: &dyn Clock) -> Carried {
    let reading = &gathered.reading;
    let (at, quality) = clock.best_time_of(&reading.received);
    Carried {
        sequence: reading.sequence,
        topic: Arc::clone(&reading.topic),
        client_id: Arc::clone(&reading.client_id),
        payload: reading.payload.clone(),
        qos: reading.qos,
        retain: gathered.retain,
        at,
        clock: quality,
        properties: reading.properties.clone(),
        repeat_of: reading.repeat_of,
    }
}

impl Link {
    pub(super) fn frames(&self) -> bool {
        self.parts.settings.hub.format == Format::Batch
    }

    /// How many bytes a frame should have: what the link carries in `frame_time`, as far as it is known.
    fn frame_bytes(&self) -> usize {
        let batch = &self.parts.settings.batch;
        let hub = self
            .limits
            .packet_bytes_max
            .map_or(usize::MAX, |max| max as usize);
        let most = batch.frame_bytes_max.min(hub.saturating_sub(PUBLISH_BYTES));
        // Under a rate limit a frame takes what that gives, and not more at once.
        let rates = self
            .memory
            .pace
            .rate()
            .into_iter()
            .chain(self.bounds.rate());
        let bytes = rates.reduce(f64::min).map_or(FRAME_START_BYTES, |rate| {
            // Casting a float saturates.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bytes = (rate * batch.frame_time.as_secs_f64()) as usize;
            bytes.max(FRAME_MIN_BYTES)
        });
        bytes.min(most)
    }

    /// How many readings that is.
    pub(super) fn frame_readings(&self) -> usize {
        #[allow(clippy::cast_precision_loss)] // sizes of frames
        let readings = self.frame_bytes() as f64 / self.framing.each_bytes;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let readings = readings as usize;
        let most = self.memory.frame_readings_max.min(READINGS_MAX);
        readings.clamp(1, most.max(1))
    }

    pub(super) fn gather(&mut self, portion: Portion) {
        let now = self.now();
        let (epoch, epoch_age) = (portion.epoch, portion.epoch_age);
        let retained = &mut self.memory.retained;
        let retains =
            |reading: &Reading| retained.allows(&reading.topic, epoch_age, epoch, reading.sequence);
        self.framing.put(portion, retains, now);
    }

    /// Has the gathered readings encoded once they are enough, or waited long enough.
    pub(super) fn begin_frame(&mut self) {
        if self.framing.job.is_some() || self.lanes.queued() > FRAMES_AHEAD || !self.accepted {
            return;
        }
        if self.framing.gathered.is_empty()
            && let Some(portion) = self.framing.next.take()
        {
            self.gather(portion);
        }
        let wanted = self.frame_readings();
        if self.framing.gathered.is_empty() || !self.frame_is_due(wanted) {
            return;
        }
        self.framing.after_full = !self.framing.has_room(wanted);
        let readings = self.framing.take(wanted);
        self.framing.since = self.now();
        let Some((epoch, village, _)) = self.framing.of.clone() else {
            return;
        };
        let clock = Arc::clone(&self.parts.clock);
        self.framing.job = Some(self.parts.platform.offload(move || {
            let epoch_age = readings.first().map_or(0, |g| g.epoch_age);
            let carried = readings.iter().map(|g| carried(g, clock.as_ref()));
            let frame = Frame {
                village: village.as_ref().clone(),
                epoch,
                readings: carried.collect(),
            };
            Made {
                epoch,
                epoch_age,
                village,
                ranges: readings.iter().map(|g| g.reading.sequence).collect(),
                frame: frame::encode(&frame),
                readings,
            }
        }));
    }

    fn frame_is_due(&self, wanted: usize) -> bool {
        let framing = &self.framing;
        if !framing.has_room(wanted) {
            return true;
        }
        if !self.feed.exhausted || self.read_job.is_some() {
            return false;
        }
        let draining = self.parts.board.update(|board| board.drain.is_some());
        let lingered = self.now().saturating_sub(framing.since);
        draining
            || framing.after_full
            || !self.care.is_off()
            || lingered >= self.parts.settings.batch.linger
    }

    /// How long until the gathered readings have lingered.
    pub(super) fn lingers_for(&self) -> Option<Duration> {
        let linger = self.parts.settings.batch.linger;
        let rests = self.feed.exhausted
            && !self.framing.gathered.is_empty()
            && self.framing.job.is_none()
            && self.lanes.queued() <= FRAMES_AHEAD
            && self.accepted;
        rests.then(|| (self.framing.since + linger).saturating_sub(self.now()))
    }

    pub(super) async fn take_frame(&mut self, made: Result<Made, Crashed>) {
        self.framing.job = None;
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                // Its readings are in the backlog; they are read again once the rest is through.
                self.rewind_wanted = true;
                return self.storage_failed(&error);
            }
        };
        let ranges: Vec<_> = made.ranges.iter().collect();
        let payload = match made.frame {
            Ok(payload) => payload,
            Err(error) if made.readings.len() <= 1 => {
                for range in &ranges {
                    warn!(epoch = %made.epoch, %range, %error, "no frame can carry this reading: it is put aside");
                    if !self
                        .refuse(made.epoch, range.first, &error.to_string())
                        .await
                    {
                        self.rewind_wanted = true;
                    }
                }
                return;
            }
            Err(error) => {
                debug!(%error, readings = made.readings.len(), "no frame of these readings");
                return self.halve(made.epoch, &ranges, made.readings);
            }
        };
        #[allow(clippy::cast_precision_loss)] // sizes of frames
        let each = payload.len() as f64 / made.readings.len() as f64;
        self.framing.each_bytes = each.max(1.0);
        let most = self
            .limits
            .packet_bytes_max
            .map_or(usize::MAX, |max| max as usize);
        let most = most.saturating_sub(PUBLISH_BYTES);
        if payload.len() > most && made.readings.len() > 1 {
            // Not what was expected of them.
            return self.halve(made.epoch, &ranges, made.readings);
        }
        self.next_order += 1;
        self.lanes.push(Item {
            order: self.next_order,
            epoch: made.epoch,
            epoch_age: made.epoch_age,
            village: made.village,
            cargo: Cargo::Frame(Framed {
                payload: payload.into(),
                ranges,
                lane: Arc::clone(&self.framing.lane),
            }),
        });
    }

    /// Tries `readings` again in two frames, before what was gathered behind them.
    fn halve(&mut self, epoch: Epoch, ranges: &[SequenceRange], readings: Vec<Gathered>) {
        self.smaller_frames(readings.len());
        if !self.framing.put_back(epoch, readings) {
            self.feed.give_back(epoch, ranges);
        }
    }

    /// The next frames hold at most half of `readings`.
    pub(super) fn smaller_frames(&mut self, readings: usize) {
        self.memory.frame_readings_max = (readings / 2).max(1);
    }

    /// A frame got through: the next may be larger.
    pub(super) fn larger_frames(&mut self) {
        let max = self.memory.frame_readings_max;
        self.memory.frame_readings_max = max.saturating_mul(2).min(READINGS_MAX);
    }
}
