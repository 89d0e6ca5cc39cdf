//! A busy village whose relay is recorded: meters with small, middling and the largest readings, a hub that comes and goes,
//! local subscribers, restarts and kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::local::{self, LocalJournal, Locals};
use super::log::{Log, Recorder};
use super::model::Model;
use crate::VILLAGE;
use crate::fake_hub::{FakeHub, Temper};
use crate::journal::{self, Journal};
use crate::ledger::Ledger;
use crate::meter::{Fleet, Habits, Meter};
use crate::packet::Version;
use crate::relay::Relay;
use crate::wait::{wait_for, within};

/// The data directory, below the recorded root: that it was made is recorded, too.
pub const DATA: &str = "var/data";

/// What a recording is to hold.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long meters publish.
    pub lasts: Duration,
    /// How often the relay is stopped or killed on the way, and started again.
    pub restarts: u32,
    /// Whether forwarded segments go at once.
    pub keep_forwarded: bool,
}

impl Plan {
    /// Long enough for a few segments and a restart, short enough for CI.
    pub fn short(seed: u64) -> Self {
        Self {
            lasts: Duration::from_secs(5),
            restarts: 2,
            keep_forwarded: seed.is_multiple_of(2),
        }
    }

    /// A busy minute.
    pub fn minute(seed: u64) -> Self {
        Self {
            lasts: Duration::from_secs(60),
            restarts: 8,
            keep_forwarded: seed.is_multiple_of(2),
        }
    }
}

/// What was recorded: the operations, and what the world outside saw, by the same clock.
#[derive(Debug)]
pub struct Recording {
    home: PathBuf,
    temporary: Option<TempDir>,
    /// The operations.
    pub log: Log,
    /// The relay's configuration.
    pub config: String,
    /// The topics of the meters.
    pub topics: Vec<String>,
    /// Meters and hub.
    pub journal: Journal,
    /// Local publishers and sessions.
    pub local: LocalJournal,
}

impl Recording {
    /// Records a village as `plan` says, with `seed` for what happens when.
    ///
    /// # Errors
    /// There is no recorder, or what it recorded is not all that happened.
    pub fn make(plan: &Plan, seed: u64) -> Result<Self, String> {
        let mut recorded = Recorded::new(plan.keep_forwarded)?;
        recorded.relay.start();
        let local = Locals::start(recorded.relay.mqtt).map_err(|error| error.to_string())?;
        let fleet = Fleet::start(meters(&recorded.relay, &recorded.ledger));
        let mut random = StdRng::seed_from_u64(seed);
        live(plan, &mut random, &mut recorded);
        recorded.kill();
        drop(fleet.stop());
        recorded.end(local.stop())
    }

    fn save(&self, root: &Path) -> Result<(), String> {
        let write = |name: &str, text: String| {
            fs::write(self.home.join(name), text).map_err(|error| format!("{name}: {error}"))
        };
        write("root", root.display().to_string())?;
        write("broker.toml", self.config.clone())?;
        write("topics", self.topics.join("\n"))?;
        write("journal", journal::to_text(&self.journal))?;
        write("local", local::to_text(&self.local))
    }

    /// A recording that was kept.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub fn load(home: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = home.join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(Self {
            log: Log::read(&home.join("record"), Path::new(&read("root")?))?,
            config: read("broker.toml")?,
            topics: read("topics")?.lines().map(str::to_owned).collect(),
            journal: journal::from_text(&read("journal")?).ok_or("journal: not one")?,
            local: local::from_text(&read("local")?).ok_or("local: not one")?,
            home: home.to_owned(),
            temporary: None,
        })
    }

    /// Keeps the recording's directory, and says where it is.
    pub fn keep(&mut self) -> &Path {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
        &self.home
    }

    /// Where it is.
    pub fn home(&self) -> &Path {
        &self.home
    }
}

/// A relay that is recorded, and what is around it.
#[derive(Debug)]
pub struct Recorded {
    /// The relay, not started yet.
    pub relay: Relay,
    /// Its recorder, by which it is told to fail.
    pub recorder: Recorder,
    /// Its hub.
    pub hub: FakeHub,
    /// What meters and hub saw.
    pub ledger: Ledger,
    temporary: TempDir,
    root: PathBuf,
}

impl Recorded {
    /// A relay with an empty disk; `keep_forwarded`: segments stay after they were forwarded.
    ///
    /// # Errors
    /// There is no recorder.
    pub fn new(keep_forwarded: bool) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let temporary = tempfile::Builder::new()
            .prefix("recording-")
            .tempdir()
            .map_err(text)?;
        let home = temporary.path().canonicalize().map_err(text)?;
        let root = home.join("disk");
        fs::create_dir(&root).map_err(text)?;
        let recorder = Recorder::new(&root, &home).map_err(text)?;
        let ledger = Ledger::new(VILLAGE);
        let hub = FakeHub::start(&ledger, Temper::Honest);
        let mut relay = Relay::new(hub.address);
        relay
            .set("data_dir", root.join(DATA).to_str().unwrap())
            .set("mqtt.forward", vec!["meters/#"])
            .set("mqtt.session_queue_messages_max", 1_000_000)
            .set("mqtt.session_queue_bytes_max", "64 MiB")
            .set("mqtt.queues_bytes_max", "128 MiB")
            .set("backlog.segment_bytes", "1 MiB")
            .set(
                "backlog.keep_forwarded",
                if keep_forwarded { "7 days" } else { "0 s" },
            )
            .set("hub.retry_max", "1s");
        for (name, value) in recorder.environment()? {
            relay.env(&name, &value);
        }
        Ok(Self {
            relay,
            recorder,
            hub,
            ledger,
            temporary,
            root,
        })
    }

    /// kill -9, between two operations.
    pub fn kill(&mut self) {
        self.recorder.halt();
        self.relay.kill();
        self.recorder.go_on();
    }

    /// What was recorded, after the relay has ended.
    ///
    /// # Errors
    /// It is not all that was written.
    pub fn end(self, local: LocalJournal) -> Result<Recording, String> {
        let recording = Recording {
            log: self.recorder.log()?,
            config: self.relay.config_text(),
            topics: self.ledger.topics(),
            journal: self.ledger.journal(),
            local,
            home: self.temporary.path().to_owned(),
            temporary: Some(self.temporary),
        };
        recording.save(&self.root)?;
        // Nothing was written past the recorder.
        Model::explains(&recording.log, &self.root)?;
        Ok(recording)
    }
}

fn meters(relay: &Relay, ledger: &Ledger) -> Vec<Meter> {
    // Size, in flight, rest between.
    let habits = [
        (200, 20, 15),
        (200, 1, 2),
        (20_000, 2, 250),
        ((256 << 10) - 100, 1, 1_200),
    ];
    let meter = |(number, (size, in_flight, pause)): (usize, (usize, usize, u64))| {
        let mut habits = Habits::new(relay.mqtt);
        habits.version = if number % 2 == 0 {
            Version::V5
        } else {
            Version::V4
        };
        (habits.size, habits.in_flight) = (size, in_flight);
        habits.pause = Duration::from_millis(pause);
        Meter::new(ledger, &format!("meter-{number}"), habits)
    };
    habits.into_iter().enumerate().map(meter).collect()
}

/// The hub comes and goes, the relay is restarted and killed.
fn live(plan: &Plan, random: &mut StdRng, recorded: &mut Recorded) {
    let end = Instant::now() + plan.lasts;
    let step = plan.lasts / (plan.restarts + 1);
    for _ in 0..plan.restarts {
        let until = (Instant::now() + step).min(end);
        while Instant::now() < until {
            // Away more often than there: what waits is what a cut can take.
            let temper = match random.random_range(0..5) {
                0 => Temper::Honest,
                1 => Temper::VanishesAfter(random.random_range(1..2_000)),
                _ => Temper::ClosesAtConnect,
            };
            recorded.hub.restart(temper);
            let rest = step.mul_f64(random.random_range(0.2..0.8));
            std::thread::sleep(rest.min(until.saturating_duration_since(Instant::now())));
        }
        if random.random() {
            recorded.relay.stop();
        } else {
            recorded.kill();
        }
        recorded.relay.start();
    }
    let last = if random.random() {
        Temper::Honest
    } else {
        Temper::ClosesAtConnect
    };
    recorded.hub.restart(last);
    wait_for("the time is over", within(300), || {
        (Instant::now() >= end).then_some(())
    });
}
