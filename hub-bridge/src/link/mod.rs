//! A link: from the first CONNECT until something breaks, everything between the backlog and the hub.
//!
//! Backlog → [`feed`] → ([`framing`]) → lanes → connections → hub, and back: PUBACK → ([`receipts`]) → [`confirms`] → backlog.
//! One task owns
//! all of it, so the order of things is the order of this file. Invariant: a reading is read ahead, or in
//! flight under one ticket, or put off, or acknowledged and on its way to be confirmed. When the link ends, what is
//! acknowledged is confirmed before the next link reads, and everything else is read again.

pub(crate) mod accounts;
mod answers;
mod care;
mod confirms;
mod feed;
mod framing;
mod grow;
mod item;
mod policed;
mod receipts;
mod storage;
mod watch;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backlog::{Backlog, BacklogError};
use crate::classify::Failure;
use crate::clock::Clock;
use crate::connection::{Connection, HubLimits, LaneEvent, TimeFloor, TlsConfig};
use crate::identity::Epoch;
use crate::inflight::Ticket;
use crate::lanes::Lanes;
use crate::pace::{Departure, Pace};
use crate::platform::{Job, Platform};
use crate::retained::Retained;
use crate::settings::BridgeSettings;
use crate::status::StatusBoard;
use crate::suspect::Suspects;
use crate::version::Version;

use care::Care;
use confirms::Confirms;
use feed::{Feed, Found, LineKept, Portion};
use framing::Framing;
use item::{Cargo, Item};
use policed::Bounds;
pub(crate) use policed::Policed;
use receipts::Awaiting;

/// What a link works with.
#[derive(Clone)]
pub(crate) struct LinkParts {
    pub(crate) settings: Arc<BridgeSettings>,
    pub(crate) backlog: Arc<dyn Backlog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) time_floor: TimeFloor,
    pub(crate) platform: Platform,
    pub(crate) policed: Policed,
    pub(crate) board: StatusBoard,
    pub(crate) account_calls: accounts::AccountCalls,
    /// What the timers of links count from.
    pub(crate) began: tokio::time::Instant,
}

/// What is remembered from link to link.
pub(crate) struct Memory {
    pub(crate) pace: Pace,
    pub(crate) retained: Retained,
    pub(crate) suspects: Suspects,
    /// How often the hub answered a reading with a refusal that may not be meant for it.
    pub(crate) strikes: HashMap<crate::suspect::Id, u32>,
    /// The highest reading that was in flight when a link ended, by epoch: what is below goes a second time.
    pub(crate) sent_to: HashMap<Epoch, crate::identity::Sequence>,
    pub(crate) said: accounts::Said,
    /// What waits for the word of the hub's database.
    pub(crate) awaiting: Awaiting,
    /// A frame holds at most so many readings: less where links did not last for one.
    pub(crate) frame_readings_max: usize,
    /// Where new readings begin, if they go before what waited.
    pub(crate) line: LineKept,
}

impl Memory {
    pub(crate) fn new(in_flight_bytes_max: usize) -> Self {
        Self {
            pace: Pace::new(in_flight_bytes_max),
            retained: Retained::default(),
            suspects: Suspects::default(),
            strikes: HashMap::new(),
            sent_to: HashMap::new(),
            said: accounts::Said::default(),
            awaiting: Awaiting::default(),
            frame_readings_max: framing::READINGS_MAX,
            line: LineKept::default(),
        }
    }
}

/// What a link tells while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// The hub accepted the first connection.
    Up,
    /// Readings wait or are under way.
    Filled,
    /// All that is known of is confirmed.
    Emptied,
    /// The hub acknowledged readings.
    Moved,
    /// The backlog was told of acknowledgements.
    Confirmed,
}

/// What a link leaves behind.
pub(crate) struct LinkEnd {
    /// Why it ended; `None`: it was told to.
    pub(crate) failure: Option<Failure>,
    /// Whether the hub had accepted it.
    pub(crate) accepted: bool,
    pub(crate) memory: Memory,
}

struct Flying {
    lane: usize,
    /// `None`: an empty publish to probe with.
    item: Option<Item>,
    departure: Departure,
    probe: bool,
    bytes: usize,
}

type ReadJob = Job<Result<Found, BacklogError>>;
type ConfirmJob = Job<(Confirms, Result<(), BacklogError>)>;

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own, and any of them goes with any other
struct Link {
    parts: LinkParts,
    version: Version,
    tls: Option<TlsConfig>,
    client_id: String,
    /// Where receipts come.
    receipts: Vec<String>,
    memory: Memory,
    events: mpsc::Sender<LinkEvent>,
    lane_events: mpsc::Sender<LaneEvent>,

    connections: Vec<Option<Connection>>,
    lane_of_connection: Vec<Option<usize>>,
    connection_of_lane: Vec<usize>,
    limits: HubLimits,
    accepted: bool,
    ask_only: bool,
    opening: usize,
    connections_max: usize,
    starved_since: Option<Duration>,
    connected_in: Option<Duration>,

    bounds: Bounds,
    feed: Feed,
    framing: Framing,
    /// When the hub accepted the first connection.
    up_at: Option<Duration>,
    read_job: Option<ReadJob>,
    lanes: Lanes<Item>,
    put_off: Vec<(Duration, Item)>,
    flying: HashMap<Ticket, Flying>,
    next_ticket: u64,
    next_order: u64,
    care: Care,
    taken_here: u64,
    refused_here: u32,

    saying: accounts::Saying,
    confirms: Confirms,
    confirm_job: Option<ConfirmJob>,
    /// Readings and bytes that the job confirms.
    confirming: (u64, u64),
    storage_retry_at: Duration,
    rewind_wanted: bool,
    rewound_at: Duration,
    /// Something was appended while the read under way may have looked before it.
    appended_in_read: bool,
    busy: bool,
    progress_at: Duration,
    /// The last publish of each lane that the hub answered.
    answered_to: Vec<Ticket>,
    /// The oldest publish that the hub passed over, and since when.
    overtaken: Option<(Ticket, Duration)>,
    looked_at: Duration,
    moved: bool,
    moved_counts: (u64, u64),
}

/// Runs a link until it breaks or is told to stop. `ask_only`: nothing is sent but the CONNECT.
pub(crate) async fn run(
    parts: LinkParts,
    version: Version,
    ask_only: bool,
    memory: Memory,
    events: mpsc::Sender<LinkEvent>,
    stop: CancellationToken,
) -> LinkEnd {
    let (lane_events, lane_inbox) = mpsc::channel(256);
    match Link::prepare(parts, version, memory, events, lane_events).await {
        Ok(mut link) => {
            link.ask_only = ask_only;
            link.run(lane_inbox, stop).await
        }
        Err((failure, memory)) => LinkEnd {
            failure: Some(failure),
            accepted: false,
            memory,
        },
    }
}
