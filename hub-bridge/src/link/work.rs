//! The link's loop: send what fits, take answers, and watch that something moves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Bounds, Care, Cargo, Confirms, Feed, Flying, Framing, Item, Link, LinkEnd, LinkEvent,
    LinkParts, Memory, framing, storage::CONFIRM_AFTER,
};
use crate::backlog::{EpochState, Mark};
use crate::classify::{ErrorClass, Failure};
use crate::connection::{self, HubLimits, LaneEvent};
use crate::inflight::Ticket;
use crate::lanes::{Lanes, OfClient};
use crate::packet::{Outgoing, Packing, Unsendable};
use crate::platform::{Crashed, Job};
use crate::policy::Forward;
use crate::settings::{BridgeSettings, Confirm, Format};
use crate::status::LimitedBy;
use crate::version::Version;
use crate::wire;

/// How long a link that is told to end waits for what is in flight.
const FAREWELL: Duration = Duration::from_secs(1);
/// At most so often are gathered readings read again.
const REWIND_EVERY: Duration = Duration::from_secs(5);

impl Link {
    pub(super) async fn prepare(
        parts: LinkParts,
        version: Version,
        mut memory: Memory,
        events: mpsc::Sender<LinkEvent>,
        lane_events: mpsc::Sender<LaneEvent>,
    ) -> Result<Self, (Failure, Memory)> {
        let begun = {
            let parts = parts.clone();
            let platform = parts.platform.clone();
            platform
                .offload(move || {
                    let epochs = parts.backlog.epochs();
                    let receipts = receipts_of(&parts.settings, &epochs);
                    connection::load_tls(&parts.settings.hub, parts.clock, parts.time_floor)
                        .map(|tls| (epochs, receipts, tls))
                })
                .await
                .unwrap_or_else(|error| Err(crashed(error)))
        };
        let (epochs, receipts, tls) = match begun {
            Ok(begun) => begun,
            Err(failure) => return Err((failure, memory)),
        };
        let village = &parts.settings.village;
        let client_id = epochs.last().map_or_else(
            || village.to_string(),
            |state| format!("{village}-{}", state.epoch),
        );
        memory.pace.reconnected();
        if parts.settings.hub.format == Format::Batch {
            memory.pace.start_with(framing::FLIGHT_START_BYTES);
        }
        let now = parts.began.elapsed();
        let feed = feed_of(&parts.settings, &memory, &epochs, now);
        let connections_max = usize::from(parts.settings.hub.connections_max);
        let care = Care::new(memory.suspects.mode());
        Ok(Self {
            version,
            tls,
            client_id,
            receipts,
            memory,
            events,
            lane_events,
            connections: Vec::new(),
            lane_of_connection: Vec::new(),
            connection_of_lane: Vec::new(),
            limits: HubLimits {
                receive_maximum: None,
                packet_bytes_max: None,
                retain: true,
            },
            accepted: false,
            ask_only: false,
            opening: 0,
            connections_max,
            starved_since: None,
            connected_in: None,
            bounds: Bounds::default(),
            feed,
            framing: Framing::new(),
            up_at: None,
            read_job: None,
            lanes: Lanes::new(),
            put_off: Vec::new(),
            flying: std::collections::HashMap::new(),
            next_ticket: 0,
            next_order: 0,
            care,
            taken_here: 0,
            refused_here: 0,
            saying: super::accounts::Saying::default(),
            confirms: Confirms::default(),
            confirm_job: None,
            confirming: (0, 0),
            storage_retry_at: Duration::ZERO,
            rewind_wanted: false,
            rewound_at: now,
            appended_in_read: false,
            busy: false,
            progress_at: now,
            answered_to: Vec::new(),
            overtaken: None,
            looked_at: now,
            moved: false,
            moved_counts: (0, 0),
            parts,
        })
    }

    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<LaneEvent>,
        stop: CancellationToken,
    ) -> LinkEnd {
        self.keep_awaited_out();
        self.open_connection();
        let mut ended = self.work(&mut inbox, &stop).await;
        // A hub that wants no more for now is there, and answers what it has got.
        let still_answers = match &ended {
            Ok(()) => true,
            Err(failure) => failure.class == ErrorClass::Refused && !failure.accuses,
        };
        let why = self.last_answers(&mut inbox, still_answers).await;
        // That a connection is gone may be seen before what it said of its end is read.
        if let (Err(failure), Some(why)) = (&mut ended, why)
            && failure.class == ErrorClass::Connect
        {
            *failure = why;
        }
        if ended.is_ok() {
            self.stop_accounts();
        }
        let loss = self.loss();
        for connection in self.connections.drain(..).flatten() {
            if ended.is_ok() {
                connection.close().await;
            }
        }
        let failure = ended.err();
        if let Some(failure) = &failure {
            self.account_loss(loss, failure).await;
        }
        self.confirm_all().await;
        let now = self.now();
        self.memory.awaiting.disconnected(now);
        self.tell_moved().await;
        if self.accepted {
            let now = self.now();
            self.memory.line.keep(&self.feed, now);
        }
        self.parts.board.update(|board| {
            board.version = None;
            board.connections = 0;
            board.in_flight = 0;
            // What is left of it goes again, and is counted then.
            board.unconfirmed = (0, 0);
            board.limited_by = LimitedBy::Nothing;
        });
        LinkEnd {
            failure,
            accepted: self.accepted,
            memory: self.memory,
        }
    }

    async fn work(
        &mut self,
        inbox: &mut mpsc::Receiver<LaneEvent>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut appended = self.parts.backlog.appended();
        let mut permit = self.parts.policed.permit.clone();
        self.take_permit(*permit.borrow_and_update());
        loop {
            self.send_overdue();
            self.tend_accounts()?;
            self.fill().await?;
            self.begin_read();
            self.begin_frame();
            self.begin_confirm();
            self.show_and_tell().await;
            let wait = if self.confirms.is_empty() && self.put_off.is_empty() {
                Duration::from_millis(500)
            } else {
                CONFIRM_AFTER
            };
            let wait = self.lingers_for().map_or(wait, |rest| wait.min(rest));
            let wait = self.wait_under_policy(wait);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                event = inbox.recv() => {
                    let mut next = event;
                    while let Some(event) = next {
                        self.take_event(event).await?;
                        next = inbox.try_recv().ok();
                    }
                }
                read = join(&mut self.read_job) => self.take_read(read),
                made = join(&mut self.framing.job) => self.take_frame(made).await,
                done = join(&mut self.confirm_job) => self.take_confirmed(done).await,
                drawn_up = self.saying.drawn_up() => self.take_accounts(drawn_up),
                changed = appended.changed() => {
                    if changed.is_err() {
                        return Err(Failure::new(ErrorClass::Connect, "the backlog is closed"));
                    }
                    self.feed.exhausted = false;
                    self.appended_in_read = self.read_job.is_some();
                    self.rewind_wanted = true;
                }
                // An error means that the bridge is gone; then the stop comes next.
                changed = permit.changed(), if permit.has_changed().is_ok() => {
                    if changed.is_ok() {
                        self.take_permit(*permit.borrow_and_update());
                    }
                }
                () = tokio::time::sleep(wait) => self.tell_moved().await,
            }
            self.watch()?;
        }
    }

    /// What the hub said before the link ended still counts. Where it `still_answers`, that waits a moment for what is
    /// in flight, or it would go a second time. Returns why a connection ended, where one says so.
    async fn last_answers(
        &mut self,
        inbox: &mut mpsc::Receiver<LaneEvent>,
        still_answers: bool,
    ) -> Option<Failure> {
        let mut why = None;
        let moment = if still_answers {
            FAREWELL
        } else {
            Duration::ZERO
        };
        let until = tokio::time::Instant::now() + moment;
        while !self.flying.is_empty() {
            let event = match inbox.try_recv() {
                Ok(event) => event,
                Err(_) => match tokio::time::timeout_at(until, inbox.recv()).await {
                    Ok(Some(event)) => event,
                    _ => return why,
                },
            };
            match event {
                LaneEvent::Answers { lane, answers } => {
                    let heard = self.take_answers(lane, answers).await;
                    if heard.is_err_and(|failure| failure.class == ErrorClass::Protocol) {
                        return why;
                    }
                }
                LaneEvent::Down { failure, .. } => why = why.or(Some(failure)),
                LaneEvent::Message { topic, payload } => self.take_message(&topic, &payload).await,
                LaneEvent::Up { .. } => {}
            }
        }
        why
    }

    async fn take_event(&mut self, event: LaneEvent) -> Result<(), Failure> {
        match event {
            LaneEvent::Up { lane, limits } => {
                self.connection_up(lane, limits);
                if !self.accepted {
                    self.accepted = true;
                    self.progress_at = self.now();
                    self.up_at = Some(self.now());
                    self.memory.awaiting.reconnected(self.now());
                    self.say(LinkEvent::Up).await;
                }
                Ok(())
            }
            LaneEvent::Answers { lane, answers } => self.take_answers(lane, answers).await,
            LaneEvent::Message { topic, payload } => {
                self.take_message(&topic, &payload).await;
                Ok(())
            }
            LaneEvent::Down { lane, failure } => self.connection_down(lane, failure),
        }
    }

    /// Gives the connections what fits.
    async fn fill(&mut self) -> Result<(), Failure> {
        if !self.accepted || self.ask_only || self.receipts_hold_up() {
            return Ok(());
        }
        self.bring_back_put_off();
        while self.flying.is_empty() || (self.care.is_off() && self.memory.pace.has_room()) {
            if self.care.wants_probe() {
                if !self.send_probe()? {
                    return Ok(());
                }
                continue;
            }
            if self.lanes.queued() == 0 || !self.may_send() {
                return Ok(());
            }
            let Some(lane) = self.lanes.ready(|item| item.order) else {
                return Ok(());
            };
            let Some(item) = self.lanes.take(lane) else {
                return Ok(());
            };
            self.send(lane, item, false).await?;
        }
        Ok(())
    }

    pub(super) async fn send(
        &mut self,
        lane: usize,
        item: Item,
        probe: bool,
    ) -> Result<(), Failure> {
        match self.pack(&item) {
            Ok(outgoing) => {
                let again = self.memory.sent_to.get(&item.epoch);
                let again = again.map_or(0, |to| item.count_to(*to));
                if again > 0 {
                    self.parts
                        .board
                        .update(|b| b.counters.resent_readings += again);
                }
                self.launch(lane, Some(item), outgoing, probe)
            }
            Err(unsendable) => {
                let client = Arc::clone(item.client());
                self.put_aside(&item, &unsendable.to_string()).await;
                self.lanes.landed(lane, &client);
                Ok(())
            }
        }
    }

    /// The item as a PUBLISH.
    pub(super) fn pack(&mut self, item: &Item) -> Result<Outgoing, Unsendable> {
        match &item.cargo {
            Cargo::Reading(reading) => {
                let (age, epoch) = (item.epoch_age, item.epoch);
                let retained = &mut self.memory.retained;
                let retain =
                    reading.retain && retained.allows(&reading.topic, age, epoch, reading.sequence);
                self.packing().pack(&item.village, epoch, reading, retain)
            }
            Cargo::Frame(frame) => self.packing().pack_frame(&item.village, &frame.payload),
        }
    }

    pub(super) fn packing(&self) -> Packing<'_> {
        Packing {
            template: &self.parts.settings.hub.topic,
            clock: self.parts.clock.as_ref(),
            v5: self.version == Version::V5,
            packet_bytes_max: self.limits.packet_bytes_max,
            retain: self.limits.retain,
        }
    }

    pub(super) fn launch(
        &mut self,
        lane: usize,
        item: Option<Item>,
        outgoing: Outgoing,
        probe: bool,
    ) -> Result<(), Failure> {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let bytes = outgoing.size_bytes();
        let connection = self
            .connection_of_lane
            .get(lane)
            .and_then(|n| self.connections.get(*n))
            .and_then(Option::as_ref)
            .ok_or_else(|| Failure::new(ErrorClass::Connect, "the connection ended"))?;
        connection.publish(ticket, outgoing)?;
        let now = self.now();
        if self.flying.is_empty() {
            self.progress_at = now;
        }
        self.bounds.charge(bytes);
        // Under a rate limit the policy is what is measured, not the link.
        let starved = self.lanes.queued() == 0 || self.bounds.rate().is_some();
        let departure = self.memory.pace.departed(bytes, now, starved);
        let flying = Flying {
            lane,
            item,
            departure,
            probe,
            bytes,
        };
        self.flying.insert(ticket, flying);
        Ok(())
    }

    async fn show_and_tell(&mut self) {
        let idle = !self.has_work() && self.read_job.is_none();
        let rested = self.read_job.is_none() && self.rests() && self.may_read_gathered_again();
        if (idle || rested) && self.rewind_wanted && self.accepted {
            // Everything sent is confirmed: whatever is unconfirmed now came back, was skipped, or is gathered.
            self.rewind_wanted = false;
            self.rewound_at = self.now();
            self.framing.forget();
            self.feed.rewind();
            self.keep_awaited_out();
            self.begin_read();
            return;
        }
        let busy = if idle {
            self.busy && !self.feed.exhausted
        } else {
            // A read that may find nothing is no work yet, nor are readings that wait for others to come.
            self.busy && !self.rests() || self.has_work() && !self.rests()
        };
        if self.accepted && busy != self.busy {
            self.busy = busy;
            debug!(busy, "link");
            let event = if busy {
                LinkEvent::Filled
            } else {
                LinkEvent::Emptied
            };
            self.say(event).await;
        }
        self.grow_if_starved();
        let (in_flight, limited_by) = (self.flying.len(), self.limited_by());
        let (rate, round_trip) = (self.memory.pace.rate(), self.memory.pace.round_trip());
        let now = self.now();
        let storage_failing = now < self.storage_retry_at;
        self.parts.board.update(|board| {
            board.in_flight = in_flight;
            board.rate = rate;
            board.round_trip = round_trip;
            if !storage_failing {
                board.limited_by = limited_by;
            }
        });
    }

    fn has_work(&self) -> bool {
        !self.flying.is_empty()
            || self.lanes.queued() > 0
            || !self.put_off.is_empty()
            || !self.framing.is_empty()
            || !self.confirms.is_empty()
            || self.confirm_job.is_some()
    }

    /// Whether nothing is under way but readings that wait for others to come.
    fn rests(&self) -> bool {
        self.flying.is_empty()
            && self.lanes.queued() == 0
            && self.put_off.is_empty()
            && !self.framing.is_empty()
            && self.framing.only_lingers()
            && self.feed.exhausted
            && self.confirms.is_empty()
            && self.confirm_job.is_none()
    }

    /// Where readings never cease to come, the gathered ones are read again now and then, for the sake of those that came
    /// back below them (a replay, a retry). Not while what is new has a lane of its own: it would lose its place.
    fn may_read_gathered_again(&self) -> bool {
        !self.feed.has_a_live_lane() && self.now().saturating_sub(self.rewound_at) >= REWIND_EVERY
    }

    fn limited_by(&self) -> LimitedBy {
        if self.receipts_hold_up() {
            LimitedBy::Receipt
        } else if self.flying.is_empty() && self.lanes.queued() == 0 {
            if self.feed.held_back {
                LimitedBy::Window
            } else {
                LimitedBy::Nothing
            }
        } else if !self.care.is_off() {
            LimitedBy::Suspect
        } else if self.bounds.limited() {
            LimitedBy::RateLimit
        } else if !self.memory.pace.has_room() {
            LimitedBy::Link
        } else if self.lanes.starved() {
            LimitedBy::ReceiveMaximum
        } else if self.lanes.queued() == 0 && !self.feed.exhausted {
            LimitedBy::Storage
        } else {
            LimitedBy::Nothing
        }
    }

    pub(super) async fn tell_moved(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.say(LinkEvent::Moved).await;
        }
    }

    pub(super) async fn say(&self, event: LinkEvent) {
        // An error means that the bridge is gone; then the stop comes next.
        let _ = self.events.send(event).await;
    }

    pub(super) fn now(&self) -> Duration {
        self.parts.began.elapsed()
    }
}

/// Where the receipts of all `epochs` come: a moved gateway has readings of more than one village.
fn receipts_of(settings: &BridgeSettings, epochs: &[EpochState]) -> Vec<String> {
    if settings.hub.confirm == Confirm::Puback {
        return Vec::new();
    }
    let mut villages: Vec<_> = epochs.iter().map(|state| &state.village).collect();
    villages.push(&settings.village);
    villages.sort_unstable();
    villages.dedup();
    villages.into_iter().map(wire::receipts_filter).collect()
}

/// Where the link reads from.
fn feed_of(
    settings: &BridgeSettings,
    memory: &Memory,
    epochs: &[EpochState],
    now: Duration,
) -> Feed {
    let mark = match settings.hub.confirm {
        Confirm::Puback => Mark::Forwarded,
        Confirm::Receipt => Mark::Stored,
    };
    if settings.policy.forward == Forward::LiveFirst {
        Feed::live_first(mark, &memory.line, epochs, now)
    } else {
        Feed::new(mark)
    }
}

fn crashed(error: Crashed) -> Failure {
    Failure::new(ErrorClass::Connect, error.to_string())
}

/// Waits for a job, where there is one; without one, for ever.
async fn join<T>(job: &mut Option<Job<T>>) -> Result<T, Crashed> {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}
