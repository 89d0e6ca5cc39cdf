//! What is sent as one publish: a reading, or a frame of many.

use std::sync::Arc;

use bytes::Bytes;

use crate::identity::{Epoch, Sequence, SequenceRange, VillageId};
use crate::lanes::OfClient;
use crate::reading::Reading;
use crate::suspect::Id;

/// One publish of an epoch's readings.
pub(super) struct Item {
    pub(super) order: u64,
    pub(super) epoch: Epoch,
    pub(super) epoch_age: usize,
    pub(super) village: Arc<VillageId>,
    pub(super) cargo: Cargo,
}

/// What it carries.
pub(super) enum Cargo {
    Reading(Arc<Reading>),
    Frame(Framed),
}

/// A frame, ready to be sent. Its readings are in the backlog only.
pub(super) struct Framed {
    pub(super) payload: Bytes,
    /// In order, never empty.
    pub(super) ranges: Vec<SequenceRange>,
    /// Frames go one after the other, as if of one client: so no meter's readings pass each other.
    pub(super) lane: Arc<str>,
}

impl Item {
    /// The lowest sequence names it.
    pub(super) fn id(&self) -> Id {
        let sequence = match &self.cargo {
            Cargo::Reading(reading) => reading.sequence,
            Cargo::Frame(frame) => frame
                .ranges
                .first()
                .map_or(Sequence(0), |range| range.first),
        };
        (self.epoch, sequence)
    }

    /// The highest sequence in it.
    pub(super) fn last(&self) -> Sequence {
        match &self.cargo {
            Cargo::Reading(reading) => reading.sequence,
            Cargo::Frame(frame) => frame.ranges.last().map_or(Sequence(0), |range| range.last),
        }
    }

    /// What it carries, in order.
    pub(super) fn ranges(&self) -> Vec<SequenceRange> {
        match &self.cargo {
            Cargo::Reading(reading) => vec![SequenceRange::one(reading.sequence)],
            Cargo::Frame(frame) => frame.ranges.clone(),
        }
    }

    /// How many readings it carries.
    pub(super) fn count(&self) -> u64 {
        match &self.cargo {
            Cargo::Reading(_) => 1,
            Cargo::Frame(frame) => frame.ranges.iter().map(SequenceRange::count).sum(),
        }
    }

    /// How many of them were under way before, when `to` was the highest.
    pub(super) fn count_to(&self, to: Sequence) -> u64 {
        let below = |range: &SequenceRange| {
            let last = range.last.min(to).0;
            (last + 1).saturating_sub(range.first.0)
        };
        self.ranges().iter().map(below).sum()
    }
}

impl OfClient for Item {
    fn client(&self) -> &Arc<str> {
        match &self.cargo {
            Cargo::Reading(reading) => &reading.client_id,
            Cargo::Frame(frame) => &frame.lane,
        }
    }

    fn bytes(&self) -> usize {
        match &self.cargo {
            Cargo::Reading(reading) => reading.size_bytes(),
            Cargo::Frame(frame) => frame.payload.len(),
        }
    }
}
