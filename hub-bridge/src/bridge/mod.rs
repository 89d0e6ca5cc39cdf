//! The bridge: links, waits and drains, driven by the uplink's state machine.
//!
//! One task owns the machine, the drain that runs and the link's lifetime. [`BridgeHandle`] talks to it
//! through a bounded channel; status is read beside it, so that it is there even while the bridge is busy.

mod draining;
mod handle;
mod policing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backlog::Backlog;
use crate::classify::{ErrorClass, Failure};
use crate::clock::Clock;
pub use crate::connection::TimeFloor;
use crate::drain::{DrainLog, DrainOutcome};
use crate::link::{self, LinkEnd, LinkEvent, LinkParts, Memory};
use crate::platform::Platform;
use crate::settings::{BridgeSettings, SettingsProblem};
use crate::status::{ShownFailure, StatusBoard};
use crate::traffic::TrafficBook;
use crate::uplink::{Action, Event, Phase, Uplink, UplinkState};
use crate::version::{Accepted, Versions};
use crate::window::{LastRun, Schedule};

use draining::RunningDrain;
use handle::Command;
pub use handle::{ApplyError, BridgeGone, BridgeHandle};
use policing::Policing;

/// How often drains and schedules are looked at.
const TICK: Duration = Duration::from_millis(250);
/// A failure of the same class is said aloud no more often.
const FAILURE_SAID_EVERY: Duration = Duration::from_secs(600);

/// What the bridge is given to work with.
pub struct BridgeParts {
    /// The village's store.
    pub backlog: Arc<dyn Backlog>,
    /// The clock, for times of day and stamps. Waits are tokio's.
    pub clock: Arc<dyn Clock>,
    /// Where drains are recorded.
    pub drain_log: Arc<dyn DrainLog>,
    /// The latest time known to be good, for certificates.
    pub time_floor: TimeFloor,
    /// Where the bytes of each month are kept.
    pub traffic_book: Arc<dyn TrafficBook>,
    /// Sockets, threads and chance.
    pub platform: Platform,
}

/// A bridge that is not running yet.
pub struct Bridge {
    parts: LinkParts,
    drain_log: Arc<dyn DrainLog>,
    commands: mpsc::Receiver<Command>,
    uplink: Uplink,
    versions: Versions,
    /// The failure that was last said aloud, and when.
    failure_said: Option<(ErrorClass, Duration)>,
    schedule: Option<Schedule>,
    policing: Policing,
    last_run: LastRun,
    drain: Option<RunningDrain>,
    drains_begun: u64,
    link: Option<RunningLink>,
    memory: Option<Memory>,
    wake_at: Option<Duration>,
}

struct RunningLink {
    task: JoinHandle<LinkEnd>,
    events: mpsc::Receiver<LinkEvent>,
    stop: CancellationToken,
}

impl Bridge {
    /// A bridge and the handle to it.
    ///
    /// # Errors
    /// Every problem of the settings.
    pub fn new(
        settings: BridgeSettings,
        parts: BridgeParts,
    ) -> Result<(Self, BridgeHandle), Vec<SettingsProblem>> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let (sender, commands) = mpsc::channel(16);
        let board = StatusBoard::default();
        let handle = BridgeHandle::new(sender, board.clone(), Arc::clone(&parts.clock));
        let versions = Versions::new(settings.hub.versions());
        let schedule = Schedule::new(&settings.drain, &settings.village);
        let memory = Memory::new(settings.hub.in_flight_bytes_max);
        let (policing, policed) = Policing::new(&settings, parts.traffic_book);
        let platform = policed.metered(parts.platform);
        let bridge = Self {
            parts: LinkParts {
                settings: Arc::new(settings),
                backlog: parts.backlog,
                clock: parts.clock,
                time_floor: parts.time_floor,
                platform,
                policed,
                board,
                account_calls: link::accounts::AccountCalls::default(),
                began: tokio::time::Instant::now(),
            },
            drain_log: parts.drain_log,
            commands,
            uplink: Uplink::default(),
            versions,
            failure_said: None,
            schedule,
            policing,
            last_run: LastRun::default(),
            drain: None,
            drains_begun: 0,
            link: None,
            memory: Some(memory),
            wake_at: None,
        };
        Ok((bridge, handle))
    }

    /// Forwards until `shutdown`; then confirms what the hub acknowledged, and closes.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.load_last_run().await;
        self.load_usage().await;
        self.police();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake_at = self.wake_at.map(|at| self.parts.began + at);
            // In this order, so that a run can be repeated: none of those before the link's events is there for long.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                command = self.commands.recv(), if !self.commands.is_closed() || !self.commands.is_empty() => {
                    // `None`: no handle is left; forwarding goes on, and nobody can ask for anything.
                    if let Some(command) = command {
                        self.obey(command).await;
                    }
                }
                _ = tick.tick() => self.tick().await,
                () = sleep_until(wake_at) => {
                    self.wake_at = None;
                    self.step(Event::Due);
                }
                event = next_event(&mut self.link) => self.take_link_event(event).await,
            }
        }
        self.step(Event::Close);
        if let Some(link) = self.link.take() {
            link.stop.cancel();
            drop(link.events);
            if let Err(error) = link.task.await {
                warn!(%error, "the link crashed");
            }
        }
        self.end_drain(DrainOutcome::Stopped).await;
        self.count();
        self.keep_usage(true).await;
    }

    async fn take_link_event(&mut self, event: Option<LinkEvent>) {
        let Some(event) = event else {
            return self.link_ended().await;
        };
        match event {
            LinkEvent::Up => match self.versions.accepted(self.now()) {
                Accepted::Use => {
                    self.parts
                        .board
                        .update(|board| board.counters.connects += 1);
                    self.step(Event::Up);
                }
                Accepted::AskAgain => {
                    info!("the hub accepts MQTT 3.1.1; asking once more for 5");
                    self.step(Event::Changed);
                }
            },
            LinkEvent::Filled => self.step(Event::Filled),
            LinkEvent::Emptied => self.step(Event::Emptied),
            LinkEvent::Moved => {
                self.drain_moved();
                self.step(Event::Moved);
            }
            LinkEvent::Confirmed => self.drain_may_be_done().await,
        }
    }

    async fn link_ended(&mut self) {
        let Some(link) = self.link.take() else { return };
        let end = match link.task.await {
            Ok(end) => end,
            Err(error) => LinkEnd {
                failure: Some(Failure::new(
                    ErrorClass::Connect,
                    format!("the link crashed: {error}"),
                )),
                accepted: true,
                memory: Memory::new(self.parts.settings.hub.in_flight_bytes_max),
            },
        };
        self.memory = Some(end.memory);
        let Some(failure) = end.failure else {
            return self.step(Event::Closed);
        };
        let now = self.now();
        self.show_failure(&failure);
        if !end.accepted && self.versions.failed(failure.version, now) {
            info!(%failure, "the hub may not speak this version of MQTT; trying the other");
        }
        self.step(Event::Down(failure.class));
    }

    fn show_failure(&mut self, failure: &Failure) {
        let (class, detail) = (failure.class.as_str(), &failure.detail);
        let now = self.now();
        let said = self.failure_said.filter(|(what, at)| {
            *what == failure.class && now.saturating_sub(*at) < FAILURE_SAID_EVERY
        });
        if said.is_none() {
            self.failure_said = Some((failure.class, now));
            warn!(class, detail, "the uplink failed");
        } else {
            debug!(class, detail, "the uplink failed");
        }
        let at = self.parts.clock.wall();
        self.parts.board.update(|board| {
            *board
                .counters
                .failures
                .entry(failure.class.as_str())
                .or_insert(0) += 1;
            board.error = Some(ShownFailure {
                class: failure.class,
                detail: failure.detail.clone(),
                at,
            });
        });
    }

    fn step(&mut self, event: Event) {
        let now = self.now();
        let settings = &self.parts.settings.retry;
        let dice = self.parts.platform.dice.roll();
        let (next, action) = self.uplink.step(event, now, settings, dice);
        let before = self.shown();
        self.uplink = next;
        match action {
            Some(Action::Connect) => self.begin_link(),
            Some(Action::Disconnect) => {
                if let Some(link) = &self.link {
                    link.stop.cancel();
                }
            }
            Some(Action::WakeAt(at)) => self.wake_at = Some(at),
            None => {}
        }
        let retry_at = if let Phase::BackingOff { until } = self.uplink.phase {
            Some(until)
        } else {
            self.wake_at = None;
            None
        };
        let shown = self.shown();
        // Status counts in the clock's time, waits in tokio's.
        let clock_now = self.parts.clock.monotonic();
        self.parts.board.update(|board| {
            board.state = shown;
            board.retry_at = retry_at.map(|at| clock_now + at.saturating_sub(now));
        });
        if before != shown {
            let (from, to) = (before.as_str(), shown.as_str());
            if shown == UplinkState::Connecting || shown == UplinkState::BackingOff {
                // A hub that is away for days: each try would be two lines.
                debug!(from, to, "uplink");
            } else {
                info!(from, to, "uplink");
            }
        }
    }

    fn shown(&self) -> UplinkState {
        self.uplink.shown(self.drain.is_some())
    }

    fn begin_link(&mut self) {
        let version = self.versions.offer(self.now());
        let ask_only = self.versions.only_asks();
        let bytes_max = self.parts.settings.hub.in_flight_bytes_max;
        let memory = self.memory.take().unwrap_or_else(|| Memory::new(bytes_max));
        let (sender, events) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let parts = self.parts.clone();
        let run = link::run(parts, version, ask_only, memory, sender, stop.clone());
        self.link = Some(RunningLink {
            task: tokio::spawn(run),
            events,
            stop,
        });
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Drain { answer } => {
                let job = self
                    .request_drain(crate::drain::DrainCause::Request, None)
                    .await;
                // An error means that the one who asked is gone; the drain goes on.
                let _ = answer.send(job);
            }
            Command::Apply { settings, answer } => {
                self.apply(*settings).await;
                let _ = answer.send(());
            }
        }
    }

    async fn apply(&mut self, settings: BridgeSettings) {
        let old = Arc::clone(&self.parts.settings);
        if *old == settings {
            return;
        }
        // Which readings are new is decided when a link begins.
        let order = old.policy.forward != settings.policy.forward;
        let reconnect = order || old.hub != settings.hub || old.village != settings.village;
        if old.hub.versions() != settings.hub.versions() || old.hub.url != settings.hub.url {
            self.versions = Versions::new(settings.hub.versions());
        }
        self.schedule = Schedule::new(&settings.drain, &settings.village);
        self.policing.apply(&settings);
        let bytes_max = settings.hub.in_flight_bytes_max;
        if let Some(memory) = &mut self.memory
            && old.hub.in_flight_bytes_max != bytes_max
        {
            memory.pace = crate::pace::Pace::new(bytes_max);
        }
        self.parts.settings = Arc::new(settings);
        info!(reconnect, "settings changed");
        if reconnect {
            self.step(Event::Changed);
        } else if old.retry != self.parts.settings.retry {
            self.step(Event::Hurry);
        }
        self.tick().await;
    }

    fn now(&self) -> Duration {
        self.parts.began.elapsed()
    }
}

/// The link's next event; `None` when it ended. Without a link, for ever.
async fn next_event(link: &mut Option<RunningLink>) -> Option<LinkEvent> {
    match link {
        Some(link) => link.events.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
