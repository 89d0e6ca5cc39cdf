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
use super::model::{Model, Names, Node};
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
    _temporary: Option<TempDir>,
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
        let temporary = tempfile::Builder::new()
            .prefix("recording-")
            .tempdir()
            .unwrap();
        let home = temporary.path().to_owned();
        let root = home.join("disk");
        fs::create_dir(&root).map_err(|error| error.to_string())?;
        let recorder = Recorder::new(&root, &home).map_err(|error| error.to_string())?;
        let ledger = Ledger::new(VILLAGE);
        let hub = FakeHub::start(&ledger, Temper::Honest);
        let mut relay = relay(&hub, &root, plan);
        for (name, value) in recorder.environment()? {
            relay.env(&name, &value);
        }
        relay.start();
        let local = Locals::start(relay.mqtt).map_err(|error| error.to_string())?;
        let fleet = Fleet::start(meters(&relay, &ledger));
        let mut random = StdRng::seed_from_u64(seed);
        live(plan, &mut random, &mut relay, &recorder, &hub);
        recorder.halt();
        relay.kill();
        drop(fleet.stop());
        let recording = Self {
            log: recorder.log()?,
            config: relay.config_text(),
            topics: ledger.topics(),
            journal: ledger.journal(),
            local: local.stop(),
            home,
            _temporary: Some(temporary),
        };
        recording.save()?;
        recording.is_complete(&root)?;
        Ok(recording)
    }

    fn save(&self) -> Result<(), String> {
        let write = |name: &str, text: String| {
            fs::write(self.home.join(name), text).map_err(|error| format!("{name}: {error}"))
        };
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
            log: Log::read(&home.join("record"), &home.join("disk"))
                .or_else(|_| Log::read(&home.join("record"), &home.join("gone")))?,
            config: read("broker.toml")?,
            topics: read("topics")?.lines().map(str::to_owned).collect(),
            journal: journal::from_text(&read("journal")?).ok_or("journal: not one")?,
            local: local::from_text(&read("local")?).ok_or("local: not one")?,
            home: home.to_owned(),
            _temporary: None,
        })
    }

    /// Keeps the recording's directory, and says where it is.
    pub fn keep(&mut self) -> &Path {
        if let Some(temporary) = self._temporary.take() {
            let _ = temporary.keep();
        }
        &self.home
    }

    /// Where it is.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Whether doing all that was recorded leads to what is in the directory, byte for byte: nothing was written past the
    /// recorder.
    fn is_complete(&self, root: &Path) -> Result<(), String> {
        let mut model = Model::new(Names::Strict, StdRng::seed_from_u64(0));
        for at in 0..self.log.records.len() {
            model.apply(&self.log, at)?;
        }
        same(&model, 0, root)
    }
}

fn same(model: &Model, id: usize, path: &Path) -> Result<(), String> {
    let differs = |how: &str| Err(format!("{}: {how}; not all was recorded", path.display()));
    match &model.nodes[id] {
        Node::File(file) => match fs::read(path) {
            Ok(bytes) if bytes == file.now => Ok(()),
            Ok(_) => differs("another content"),
            Err(error) => differs(&error.to_string()),
        },
        Node::Directory { now, .. } => {
            let there = fs::read_dir(path).map(Iterator::count);
            if there.ok() != Some(now.len()) {
                return differs("other names");
            }
            now.iter()
                .try_for_each(|(name, child)| same(model, *child, &path.join(name)))
        }
    }
}

fn relay(hub: &FakeHub, root: &Path, plan: &Plan) -> Relay {
    let mut relay = Relay::new(hub.address);
    relay.set("data_dir", root.join(DATA).to_str().unwrap());
    relay
        .set("mqtt.forward", vec!["meters/#"])
        .set("mqtt.session_queue_messages_max", 1_000_000)
        .set("mqtt.session_queue_bytes_max", "64 MiB")
        .set("mqtt.queues_bytes_max", "128 MiB");
    relay
        .set("backlog.segment_bytes", "1 MiB")
        .set(
            "backlog.keep_forwarded",
            if plan.keep_forwarded { "7 days" } else { "0 s" },
        )
        .set("hub.retry_max", "1s");
    relay
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
fn live(plan: &Plan, random: &mut StdRng, relay: &mut Relay, recorder: &Recorder, hub: &FakeHub) {
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
            hub.restart(temper);
            let rest = step.mul_f64(random.random_range(0.2..0.8));
            std::thread::sleep(rest.min(until.saturating_duration_since(Instant::now())));
        }
        if random.random() {
            relay.stop();
        } else {
            recorder.halt();
            relay.kill();
            recorder.go_on();
        }
        relay.start();
    }
    let last = if random.random() {
        Temper::Honest
    } else {
        Temper::ClosesAtConnect
    };
    hub.restart(last);
    wait_for("the time is over", within(300), || {
        (Instant::now() >= end).then_some(())
    });
}
