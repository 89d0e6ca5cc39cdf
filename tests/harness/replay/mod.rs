//! Power cuts without a disk that loses power: what the relay writes and syncs is recorded (`tests/recorder`), and
//! from the recording every state that a disk may legally be in after a cut can be made, whatever the cut's moment.
//!
//! [`Recording::make`] records a village. [`one`] picks from a seed a moment, a reading of POSIX and what becomes of
//! everything that was not synced, makes that state in a directory, opens it, and checks the ledger of what meters, the hub and local
//! subscribers had seen by that moment. It changes nothing outside of a directory of its own, and needs no root.

pub mod check;
pub mod local;
pub mod log;
pub mod model;
pub mod recording;
pub mod started;
pub mod state;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

pub use check::Found;
pub use log::{Log, Recorder, Rule, op};
pub use model::{Model, Names};
pub use recording::{Plan, Recorded, Recording};
pub use state::Luck;

/// What a seed stands for.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The seed.
    pub seed: u64,
    /// Operations before this one were done.
    pub at: usize,
    /// Before this moment, by `CLOCK_MONOTONIC` in ns; what was seen before it counts.
    pub moment_ns: u64,
    /// How names become durable.
    pub names: Names,
    /// What becomes of what was not synced.
    pub luck: Luck,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: before operation {}, {:?} names, {}",
            self.seed, self.at, self.names, self.luck
        )
    }
}

/// A state that was found sound.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which.
    pub cut: Cut,
    /// What was in it.
    pub found: Found,
}

/// A state in which a promise is broken.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which.
    pub cut: Cut,
    /// How.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cut, self.what)
    }
}

impl Cut {
    /// What `seed` stands for in `recording`.
    pub fn draw(seed: u64, recording: &Recording) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let records = &recording.log.records;
        let at = random.random_range(0..=records.len());
        Self {
            seed,
            at,
            moment_ns: records
                .get(at)
                .map_or(u64::MAX, |record| record.head.ended_ns),
            names: if random.random() {
                Names::Strict
            } else {
                Names::Journal
            },
            luck: Luck::draw(at, &mut random),
        }
    }

    /// Makes the state below `target`.
    ///
    /// # Errors
    /// A recording that does not hold together, or a disk that is full.
    pub fn materialise(&self, log: &Log, target: &Path) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x5eed);
        let mut model = Model::new(self.names, StdRng::seed_from_u64(self.seed));
        for at in 0..self.at {
            model.apply(log, at)?;
        }
        state::materialise(&model, self.names, self.luck, &mut random, target)
            .map_err(|error| error.to_string())
    }
}

/// Cuts the power once, as `seed` says, and checks every promise on what is left.
///
/// # Errors
/// The promise that is broken, with what leads there.
pub fn one(seed: u64, recording: &Recording) -> Result<Outcome, Failure> {
    with_state(seed, recording, check::check)
}

/// As [`one`], with the real relay, started on what is left.
///
/// # Errors
/// As [`one`].
pub fn one_started(seed: u64, recording: &Recording) -> Result<Outcome, Failure> {
    with_state(seed, recording, |root, recording, moment_ns| {
        started::check(root, recording, moment_ns).map(|()| Found::default())
    })
}

/// Makes the state that `seed` stands for and lets `check` look at it.
fn with_state(
    seed: u64,
    recording: &Recording,
    check: impl Fn(&Path, &Recording, u64) -> Result<Found, String>,
) -> Result<Outcome, Failure> {
    let cut = Cut::draw(seed, recording);
    let target = scratch();
    let result = catch_unwind(AssertUnwindSafe(|| {
        cut.materialise(&recording.log, target.path())?;
        check(target.path(), recording, cut.moment_ns)
    }));
    let what = match result {
        Ok(Ok(found)) => return Ok(Outcome { cut, found }),
        Ok(Err(what)) => what,
        Err(panic) => format!("panicked: {}", text_of(panic.as_ref())),
    };
    Err(Failure { cut, what })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// A directory in memory where there is one: its syncs cost nothing.
fn scratch() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("cut-")
        .tempdir_in(place)
        .unwrap()
}
