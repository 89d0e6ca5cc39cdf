//! What the bridge shows of itself: one snapshot, for `/status`, metrics and logs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::classify::ErrorClass;
use crate::clock::UnixMillis;
use crate::drain::DrainRecord;
use crate::policy::{Forward, Held, Permit, Scope};
use crate::traffic::Month;
use crate::traffic::budget::BudgetState;
use crate::uplink::UplinkState;
use crate::version::Version;

/// What keeps readings from going faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// Nothing: there is nothing to send, or no link.
    #[default]
    Nothing,
    /// The link: as much is under way as it holds.
    Link,
    /// The hub's receive maximum, with as many connections as there may or can be.
    ReceiveMaximum,
    /// The village's store: it does not give readings fast enough, or fails.
    Storage,
    /// The hub's database: so much was forwarded and is not receipted that nothing more may leave.
    Receipt,
    /// One reading at a time goes over, to find the one that the hub never takes.
    Suspect,
    /// `uplink.forward`: what waits goes when the next window opens.
    Window,
    /// `uplink.rate_limit`.
    RateLimit,
    /// `uplink.monthly_budget` is used up.
    Budget,
}

impl LimitedBy {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Link => "link",
            Self::ReceiveMaximum => "receive_maximum",
            Self::Storage => "storage",
            Self::Receipt => "receipt",
            Self::Suspect => "suspect",
            Self::Window => "window",
            Self::RateLimit => "rate_limit",
            Self::Budget => "budget",
        }
    }
}

/// Counters since the bridge was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Readings that the hub acknowledged.
    pub forwarded_readings: u64,
    /// Their size in bytes, as packets.
    pub forwarded_bytes: u64,
    /// Readings sent again on a new connection, since the last one ended before they were acknowledged.
    pub resent_readings: u64,
    /// Readings that the hub acknowledged with "no subscriber" (0x10).
    pub no_subscriber: u64,
    /// Readings put aside.
    pub refused_readings: u64,
    /// Links that the hub accepted.
    pub connects: u64,
    /// Links that failed or broke, by class.
    pub failures: BTreeMap<&'static str, u64>,
}

/// A failure, as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownFailure {
    /// Its class.
    pub class: ErrorClass,
    /// What happened, in words.
    pub detail: String,
    /// When.
    pub at: UnixMillis,
}

/// What may cross, as shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PolicyStatus {
    /// `uplink.forward`.
    pub forward: Forward,
    /// What may cross now, and how fast.
    #[serde(flatten)]
    pub permit: Permit,
    /// Whether a window is open; `None` without a trusted clock.
    pub window_open: Option<bool>,
    /// When the one that is open closes.
    pub window_closes: Option<UnixMillis>,
    /// When the next one opens; `None` where there is none, or no trusted clock to say.
    pub window_opens: Option<UnixMillis>,
}

/// What crossed this month, as shown: both directions, headers included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetStatus {
    /// How near its end is.
    pub state: BudgetState,
    /// The month that is counted in; `None` before a trusted clock named one.
    pub month: Option<Month>,
    /// When it ends.
    pub month_ends: Option<UnixMillis>,
    /// `uplink.monthly_budget`; `None`: there is none.
    pub budget_bytes: Option<u64>,
    /// Bytes that crossed in it.
    pub used_bytes: u64,
    /// Of them, what left.
    pub sent_bytes: u64,
    /// Of them, what came.
    pub received_bytes: u64,
    /// Of them, what is an estimate: headers, acknowledgements, handshakes, names.
    pub estimated_bytes: u64,
    /// Bytes of the months before, as far as they are kept.
    pub months: BTreeMap<Month, u64>,
}

impl Default for BudgetStatus {
    fn default() -> Self {
        Self {
            state: BudgetState::Unlimited,
            month: None,
            month_ends: None,
            budget_bytes: None,
            used_bytes: 0,
            sent_bytes: 0,
            received_bytes: 0,
            estimated_bytes: 0,
            months: BTreeMap::new(),
        }
    }
}

/// The uplink as it is now.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct UplinkStatus {
    /// The state.
    pub state: UplinkState,
    /// What limits it.
    pub limited_by: LimitedBy,
    /// Seconds since the hub last acknowledged something; `None` before it first did.
    pub last_progress_age_s: Option<f64>,
    /// The version in use; `None` while not connected.
    pub protocol: Option<Version>,
    /// Whether readings carry their identity; `None` while not connected.
    pub identity: Option<bool>,
    /// Open connections.
    pub connections: usize,
    /// How many the hub lets be in flight on one connection, where it said so.
    pub receive_maximum: Option<u16>,
    /// Readings in flight.
    pub in_flight: usize,
    /// The rate of the link in bytes a second, as far as it showed.
    pub rate_bytes_per_s: Option<f64>,
    /// The shortest round trip of late, in seconds.
    pub round_trip_s: Option<f64>,
    /// The last failure; `None` once the hub acknowledged something after it.
    pub error: Option<ShownFailure>,
    /// When the next connection is tried, in seconds from now, while backing off.
    pub retry_in_s: Option<f64>,
    /// Counters.
    pub counters: Counters,
    /// The drain that runs, if one does.
    pub drain: Option<DrainRecord>,
    /// When the next nightly drain begins; `None` where there is none, or no trusted clock to say.
    pub next_drain: Option<UnixMillis>,
    /// What may cross.
    pub policy: PolicyStatus,
    /// What crossed this month.
    pub budget: BudgetStatus,
}

/// What the parts of the bridge write and [`UplinkStatus`] is made of.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) state: UplinkState,
    pub(crate) limited_by: LimitedBy,
    pub(crate) progress_at: Option<Duration>,
    pub(crate) version: Option<Version>,
    pub(crate) connections: usize,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) in_flight: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) error: Option<ShownFailure>,
    pub(crate) retry_at: Option<Duration>,
    pub(crate) counters: Counters,
    /// Readings and bytes that are in the counters and that the backlog was not told of yet.
    pub(crate) unconfirmed: (u64, u64),
    pub(crate) drain: Option<DrainRecord>,
    pub(crate) next_drain: Option<UnixMillis>,
    pub(crate) policy: PolicyStatus,
    pub(crate) budget: BudgetStatus,
}

impl Board {
    /// Without a link, what keeps it from being there.
    fn limited_by(&self) -> LimitedBy {
        match (self.policy.permit.scope, self.policy.permit.held_by) {
            (Scope::Nothing, Some(Held::Window)) => LimitedBy::Window,
            (Scope::Nothing, Some(Held::Budget)) => LimitedBy::Budget,
            _ => self.limited_by,
        }
    }
}

/// The board that is shared. Locked for a moment at a time, never over an `await`.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatusBoard(Arc<Mutex<Board>>);

impl StatusBoard {
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut Board) -> R) -> R {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut board)
    }

    pub(crate) fn snapshot(&self, now: Duration) -> UplinkStatus {
        self.update(|board| UplinkStatus {
            state: board.state,
            limited_by: board.limited_by(),
            last_progress_age_s: board
                .progress_at
                .map(|at| now.saturating_sub(at).as_secs_f64()),
            protocol: board.version,
            identity: board.version.map(|version| version == Version::V5),
            connections: board.connections,
            receive_maximum: board.receive_maximum,
            in_flight: board.in_flight,
            rate_bytes_per_s: board.rate,
            round_trip_s: board.round_trip.map(|trip| trip.as_secs_f64()),
            error: board.error.clone(),
            retry_in_s: board
                .retry_at
                .map(|at| at.saturating_sub(now).as_secs_f64()),
            counters: board.counters.clone(),
            drain: board.drain.clone(),
            next_drain: board.next_drain,
            policy: board.policy.clone(),
            budget: board.budget.clone(),
        })
    }
}
