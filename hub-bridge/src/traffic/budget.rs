//! The bytes of each month, kept over restarts, and whether the month's budget is used up.
//!
//! Invariant: a count never goes down but by a new month, and a new month is believed of a trusted clock only; without one
//! the bytes go to the month that was known last. A clock that was trusted and wrong, there and back, finds the count of the
//! right month again. What failure leaves behind: a crash forgets what was counted since the book was last written, see
//! [`Keeping`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Month, Traffic};

/// Where the count is kept. Both calls block on the disk.
pub trait TrafficBook: Send + Sync + 'static {
    /// What was kept last; `None` where nothing was, or it cannot be read.
    fn load(&self) -> Option<Usage>;

    /// Keeps it in place of what was kept before.
    ///
    /// # Errors
    /// In words, where it is not kept. It is tried again later.
    fn keep(&self, usage: &Usage) -> Result<(), String>;
}

/// Keeps nothing: each process counts from zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBook;

impl TrafficBook for NoBook {
    fn load(&self) -> Option<Usage> {
        None
    }

    fn keep(&self, _usage: &Usage) -> Result<(), String> {
        Ok(())
    }
}

/// So many months are kept: a year to look back on, and this one.
const MONTHS_KEPT: usize = 13;

/// What crossed in each month.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    months: BTreeMap<Month, Traffic>,
    /// The month that is counted in; `None` before a trusted clock first named one.
    current: Option<Month>,
    /// What crossed before that.
    undated: Traffic,
}

impl Usage {
    /// Counts `more`. `month`: what the clock says, where it is to be trusted.
    pub fn count(&mut self, more: Traffic, month: Option<Month>) {
        if month.is_some() && self.current != month {
            self.current = month;
            let undated = std::mem::take(&mut self.undated);
            self.add(undated);
        }
        self.add(more);
    }

    fn add(&mut self, more: Traffic) {
        let Some(current) = self.current else {
            return self.undated.add(more);
        };
        self.months.entry(current).or_default().add(more);
        while self.months.len() > MONTHS_KEPT {
            let oldest = self.months.keys().copied().find(|month| *month != current);
            oldest.and_then(|month| self.months.remove(&month));
        }
    }

    /// The month that is counted in.
    pub fn month(&self) -> Option<Month> {
        self.current
    }

    /// What crossed in it.
    pub fn now(&self) -> Traffic {
        match self.current {
            Some(month) => self.months.get(&month).copied().unwrap_or_default(),
            None => self.undated,
        }
    }

    /// All months that are kept, oldest first.
    pub fn months(&self) -> &BTreeMap<Month, Traffic> {
        &self.months
    }
}

/// How near the budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetState {
    /// There is none.
    Unlimited,
    /// Below the alarm.
    Within,
    /// Above the alarm.
    Alarm,
    /// Used up.
    Reached,
}

impl BudgetState {
    /// Of `used` bytes under a budget.
    pub fn of(used: u64, budget: Option<u64>, alarm_permille: u16) -> Self {
        let Some(budget) = budget else {
            return Self::Unlimited;
        };
        let alarm = u128::from(budget) * u128::from(alarm_permille) / 1000;
        if used >= budget {
            Self::Reached
        } else if u128::from(used) >= alarm {
            Self::Alarm
        } else {
            Self::Within
        }
    }
}

/// When the book is written: often enough that a crash forgets little, seldom enough that an SD card does not notice.
///
/// A crash forgets at most a ten-thousandth of the budget (64 KiB of a small one), and what crosses in [`EVERY_MIN`] or,
/// idle, in [`EVERY_MAX`]. Writing takes some 30 KB of the card: of a budget of 2 GB at most 300 MB a month.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keeping {
    kept: u64,
    kept_at: Duration,
}

/// Not again sooner.
pub const EVERY_MIN: Duration = Duration::from_secs(5);
/// At the latest, where anything crossed.
pub const EVERY_MAX: Duration = Duration::from_secs(30 * 60);
const UNKEPT_MIN: u64 = 64 * 1024;
const UNKEPT_WITHOUT_BUDGET: u64 = 16 * 1024 * 1024;

impl Keeping {
    /// Begins with what the book has at `now`.
    pub fn begin(total: u64, now: Duration) -> Self {
        Self {
            kept: total,
            kept_at: now,
        }
    }

    /// What the book had then.
    pub(crate) fn begun_with(self) -> u64 {
        self.kept
    }

    /// Whether `total` bytes should be written down now.
    pub fn due(self, total: u64, budget: Option<u64>, now: Duration) -> bool {
        let unkept = total.saturating_sub(self.kept);
        let much = budget.map_or(UNKEPT_WITHOUT_BUDGET, |budget| {
            (budget / 10_000).max(UNKEPT_MIN)
        });
        let since = now.saturating_sub(self.kept_at);
        unkept > 0 && (since >= EVERY_MAX || (unkept >= much && since >= EVERY_MIN))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(sent: u64) -> Traffic {
        Traffic {
            sent,
            received: 1,
            estimated: 0,
        }
    }

    #[allow(clippy::unnecessary_wraps)] // as `count` takes it
    fn month(text: &str) -> Option<Month> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_new_month_begins_at_zero_by_a_trusted_clock_only() {
        let mut usage = Usage::default();
        usage.count(bytes(100), month("2026-10"));
        usage.count(bytes(50), None);
        assert_eq!((usage.now().sent, usage.month()), (150, month("2026-10")));
        usage.count(bytes(7), month("2026-11"));
        assert_eq!((usage.now().sent, usage.month()), (7, month("2026-11")));
        usage.count(bytes(3), None);
        assert_eq!(usage.now().sent, 10);
    }

    #[test]
    fn what_crossed_before_any_month_was_known_belongs_to_the_first() {
        let mut usage = Usage::default();
        usage.count(bytes(100), None);
        assert_eq!((usage.now().sent, usage.month()), (100, None));
        usage.count(bytes(1), month("2026-11"));
        assert_eq!(usage.now().sent, 101);
    }

    #[test]
    fn a_clock_that_was_wrong_there_and_back_finds_its_month_again() {
        let mut usage = Usage::default();
        usage.count(bytes(900), month("2026-11"));
        usage.count(bytes(5), month("2031-01"));
        usage.count(bytes(1), month("2026-11"));
        assert_eq!(usage.now().sent, 901);
    }

    #[test]
    fn a_year_is_kept_and_no_more() {
        let mut usage = Usage::default();
        for year in 2026..2030 {
            for n in 1..=12 {
                usage.count(bytes(1), month(&format!("{year}-{n:02}")));
            }
        }
        assert_eq!(usage.months().len(), MONTHS_KEPT);
        assert_eq!(usage.months().keys().next().copied(), month("2028-12"));
    }

    #[test]
    fn the_alarm_comes_before_the_end() {
        let state = |used| BudgetState::of(used, Some(1000), 800);
        assert_eq!(state(799), BudgetState::Within);
        assert_eq!(state(800), BudgetState::Alarm);
        assert_eq!(state(999), BudgetState::Alarm);
        assert_eq!(state(1000), BudgetState::Reached);
        assert_eq!(BudgetState::of(u64::MAX, None, 800), BudgetState::Unlimited);
    }

    #[test]
    fn the_book_survives_as_text() {
        let mut usage = Usage::default();
        usage.count(bytes(5), month("2026-11"));
        let text = serde_json::to_string(&usage).unwrap();
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), usage);
    }

    proptest! {
        /// However fast it comes: between two writes at least five seconds, and what a crash forgets is bounded.
        #[test]
        fn the_card_is_spared_and_little_is_forgotten(rates in prop::collection::vec(0u64..2_000_000, 1..300)) {
            let budget = Some(2_000_000_000);
            let mut keeping = Keeping::begin(0, Duration::ZERO);
            let (mut total, mut written) = (0u64, Vec::new());
            for (second, rate) in rates.iter().enumerate() {
                let now = Duration::from_secs(second as u64 + 1);
                total += rate;
                if keeping.due(total, budget, now) {
                    keeping = Keeping::begin(total, now);
                    written.push(now);
                }
                let most = 200_000 + 6 * rates.iter().max().unwrap();
                prop_assert!(total - keeping.kept <= most);
            }
            for pair in written.windows(2) {
                prop_assert!(pair[1] >= pair[0] + EVERY_MIN);
            }
        }
    }

    #[test]
    fn an_idle_link_is_written_down_twice_an_hour() {
        let keeping = Keeping::begin(0, Duration::ZERO);
        assert!(!keeping.due(160, None, EVERY_MAX.mul_f64(0.99)));
        assert!(keeping.due(160, None, EVERY_MAX));
        assert!(!keeping.due(0, None, EVERY_MAX * 2), "nothing crossed");
    }
}
