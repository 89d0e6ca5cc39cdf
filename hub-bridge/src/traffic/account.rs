//! From the meter to the month: what was counted, and when it must be written down.

use std::time::Duration;

use super::budget::{Keeping, Usage};
use super::meter::Meter;
use super::{Month, Traffic};

/// The meter's count, by month.
#[derive(Debug, Default)]
pub(crate) struct Account {
    meter: Meter,
    /// What of the meter's count is in `usage`.
    counted: Traffic,
    usage: Usage,
    keeping: Keeping,
    /// Bytes in `usage` that were counted in this process.
    total: u64,
}

impl Account {
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            meter,
            ..Self::default()
        }
    }

    /// Goes on from what the book has. Before anything is counted.
    pub(crate) fn go_on_from(&mut self, kept: Usage, now: Duration) {
        self.usage = kept;
        self.keeping = Keeping::begin(0, now);
    }

    /// Takes over what the meter counted. `month`: what the clock says, where it is to be trusted.
    pub(crate) fn count(&mut self, month: Option<Month>) {
        let meter = self.meter.total();
        let more = meter.since(self.counted);
        self.counted = meter;
        self.total = self.total.saturating_add(more.total());
        self.usage.count(more, month);
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// What is to be written down now, if anything.
    pub(crate) fn to_keep(&self, budget: Option<u64>, now: Duration) -> Option<Usage> {
        let due = self.keeping.due(self.total, budget, now);
        due.then(|| self.usage.clone())
    }

    /// What is not written down yet, if anything.
    pub(crate) fn unkept(&self) -> Option<Usage> {
        let all = self.keeping.begun_with() == self.total;
        (!all).then(|| self.usage.clone())
    }

    /// It was written down, or is tried again later.
    pub(crate) fn kept(&mut self, now: Duration) {
        self.keeping = Keeping::begin(self.total, now);
    }
}
