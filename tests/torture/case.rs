//! One case: its kind, its seed, its choices; run in this process, told to the parent by the last line.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use harness::seed_of;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::outcome::Outcome;
use crate::{clocks, combined, cuts, full_disk, hubs, kills, matrix, power, replays, two_relays};

/// Set by the parent: `<kind> <seed>`.
pub(crate) const CHILD: &str = "RELAY_TORTURE_CASE";
/// A small part of each case only, for the ordinary tests ([`Case::times`]).
pub(crate) const QUICK: &str = "RELAY_TORTURE_QUICK";

/// The last line of a case that held.
pub(crate) const HELD: &str = "OUTCOME ";
/// The last line of a case that this machine cannot run.
pub(crate) const SKIPPED: &str = "SKIPPED ";

/// What a kind does; an error says why this machine cannot.
type Body = fn(&mut Case) -> Result<(), String>;

/// A kind of fault.
pub(crate) struct Kind {
    /// Its name in arguments and tables.
    pub(crate) name: &'static str,
    /// In a line.
    pub(crate) what: &'static str,
    body: Body,
}

/// All kinds, in the order of the table.
pub(crate) const KINDS: [Kind; 10] = [
    Kind {
        name: "kill",
        what: "kill -9: under load, at the start, in a drain, at a roll-over, at a reload, at a stop",
        body: kills::run,
    },
    Kind {
        name: "power",
        what: "power cut: ext4 shut down without its log, the image copied",
        body: power::run,
    },
    Kind {
        name: "replay",
        what: "power cut: any state that recorded writes and syncs allow",
        body: replays::run,
    },
    Kind {
        name: "full",
        what: "a disk that is full and has room again, over and over",
        body: full_disk::run,
    },
    Kind {
        name: "damage",
        what: "each file of the data directory, each kind of damage, in turn",
        body: matrix::run,
    },
    Kind {
        name: "hub",
        what: "a hub that stalls, lies, floods, talks rubbish, refuses, vanishes",
        body: hubs::run,
    },
    Kind {
        name: "cut",
        what: "the uplink cut after each byte of an exchange, both ways",
        body: cuts::run,
    },
    Kind {
        name: "clock",
        what: "a clock that jumps, in drains and with retention",
        body: clocks::run,
    },
    Kind {
        name: "two",
        what: "two relays on one directory, the first killed at any moment",
        body: two_relays::run,
    },
    Kind {
        name: "combined",
        what: "two faults at once: kill or power cut with a full disk or a flapping hub",
        body: combined::run,
    },
];

/// The kind of that name.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// A case that runs.
pub(crate) struct Case {
    /// Its place in the campaign: kinds with a fixed list of things go through it by this.
    pub(crate) number: u64,
    /// Whole.
    pub(crate) seed: u64,
    /// Its choices.
    pub(crate) random: StdRng,
    /// Whether only a small part of it is asked for.
    pub(crate) quick: bool,
    /// What it has come to.
    pub(crate) outcome: Outcome,
}

/// The seed of the `number`th case: its last 16 bits are that number.
pub(crate) fn case_seed(campaign: u64, kind: &str, number: u64) -> u64 {
    let mixed = seed_of(&format!("{campaign}/{kind}/{number}"));
    (mixed << 16) >> 8 | (number & 0xffff)
}

impl Case {
    fn new(seed: u64) -> Self {
        Self {
            number: seed & 0xffff,
            seed,
            random: StdRng::seed_from_u64(seed),
            quick: std::env::var_os(QUICK).is_some(),
            outcome: Outcome {
                cases: 1,
                ..Outcome::default()
            },
        }
    }

    /// How often a fault is made that a whole case makes `n` times.
    pub(crate) fn times(&self, n: u64) -> u64 {
        if self.quick { (n / 5).max(2) } else { n }
    }

    /// One in `n`.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    /// Of these, any.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())].clone()
    }

    /// A short rest: faults come at any moment, not only where something was waited for.
    pub(crate) fn moment(&mut self, ms_max: u64) {
        let us = self.random.random_range(0..=ms_max * 1000);
        std::thread::sleep(Duration::from_micros(us));
    }
}

/// The case that the parent asks for.
pub(crate) fn requested() -> Option<(&'static Kind, u64)> {
    let text = std::env::var(CHILD).ok()?;
    let (name, seed) = text.split_once(' ')?;
    Some((kind(name)?, seed.parse().ok()?))
}

/// Runs it and says how it ended: by status and by the last line.
pub(crate) fn run((kind, seed): &(&'static Kind, u64)) -> ExitCode {
    let mut case = Case::new(*seed);
    println!("{} {seed}", kind.name);
    match catch_unwind(AssertUnwindSafe(|| (kind.body)(&mut case))) {
        Ok(Ok(())) => {
            println!("{HELD}{}", case.outcome.to_json());
            ExitCode::SUCCESS
        }
        Ok(Err(reason)) => {
            println!("{SKIPPED}{reason}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}
