//! What is there beside the bridge: one lock, one queue of events in virtual time, one trace.
//!
//! A life is one process of the relay in a tokio runtime of its own, whose clock stands still until nothing is left to
//! do. Dropping the runtime is kill -9: what is here stays. Everything that the bridge does or is told
//! passes [`World::step`], which counts it, folds it into the digest and keeps the last of it for the trace.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::ClockState;
use super::dice::Rng;
use super::drains::DrainBook;
use super::hub::Hub;
use super::policy::PolicyBook;
use super::scene::Scene;
use super::store::Store;
use super::wire::Wire;

/// Read ahead while fewer than 512 wait, 512 at once: what waits, what is read.
const READ_AHEAD_MAX: usize = 512 + 512 + 512;

/// A reading: epoch and sequence.
pub type Id = (u32, u64);

/// Something that happened. All of it is in the digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Note {
    Life(u32),
    Killed,
    Stopped,
    Append {
        id: Id,
        meter: u16,
        bytes: u32,
    },
    Read {
        epoch: u32,
        from: u64,
        count: usize,
    },
    ReadFails,
    Confirm {
        epoch: u32,
        first: u64,
        last: u64,
    },
    ConfirmFails,
    Refuse {
        id: Id,
        reason: String,
    },
    RefuseFails,
    Connect {
        conn: u32,
    },
    ConnectFails {
        why: &'static str,
    },
    Out {
        conn: u32,
        kind: u8,
        packet_id: u16,
        id: Id,
    },
    In {
        conn: u32,
        kind: u8,
        packet_id: u16,
        code: u8,
    },
    HubCloses {
        conn: u32,
    },
    Reset {
        conn: u32,
    },
    BridgeCloses {
        conn: u32,
    },
    Link(&'static str),
    Mood(&'static str),
    Clock {
        what: &'static str,
        wall: i64,
    },
    Settings(&'static str),
    Drain {
        id: u64,
        joined: bool,
    },
    DrainEnds {
        id: u64,
        outcome: &'static str,
    },
    Calm,
    CalmEnds,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    pub steps: u64,
    pub lives: u64,
    pub connections: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub refused_innocent: u64,
    pub appended: u64,
    pub drains: u64,
    pub virtual_s: u64,
    pub most_alive: usize,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.lives += other.lives;
        self.connections += other.connections;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.refused_innocent += other.refused_innocent;
        self.appended += other.appended;
        self.drains += other.drains;
        self.virtual_s += other.virtual_s;
        self.most_alive = self.most_alive.max(other.most_alive);
    }
}

pub struct World {
    pub rng: Rng,
    pub scene: Scene,
    pub clock: ClockState,
    pub store: Store,
    pub wire: Wire,
    pub hub: Hub,
    pub drains: DrainBook,
    pub policy: PolicyBook,
    pub totals: Totals,
    pub calm: bool,
    life_began: Option<Instant>,
    base: Duration,
    digest: DefaultHasher,
    trace: VecDeque<(Duration, Note)>,
    trace_kept: usize,
    /// The most readings that may be in flight with the settings of any life so far.
    pub flight_max: usize,
    broken: Option<String>,
    /// Woken when the wire's next event is sooner than it was.
    pub pump: Arc<Notify>,
    /// Woken at the first violation.
    pub alarm: Arc<Notify>,
}

impl World {
    /// Virtual time since the run began.
    pub fn now(&self) -> Duration {
        self.base + self.life_began.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub fn instant_of(&self, at: Duration) -> Instant {
        let began = self.life_began.expect("a life runs");
        began + at.saturating_sub(self.base)
    }

    pub fn begin_life(&mut self) {
        self.life_began = Some(Instant::now());
        self.pump = Arc::new(Notify::new());
        self.alarm = Arc::new(Notify::new());
        self.totals.lives += 1;
        let life = u32::try_from(self.totals.lives).unwrap();
        self.step(Note::Life(life));
    }

    /// Whether a process runs; what its end drops says nothing.
    pub fn lives(&self) -> bool {
        self.life_began.is_some()
    }

    pub fn end_life(&mut self) {
        self.base = self.now();
        self.life_began = None;
        self.totals.virtual_s = self.base.as_secs();
    }

    /// One event that the bridge handled, or was given.
    pub fn step(&mut self, note: Note) {
        let now = self.now();
        self.totals.steps += 1;
        now.hash(&mut self.digest);
        note.hash(&mut self.digest);
        if self.trace.len() == self.trace_kept {
            self.trace.pop_front();
        }
        self.trace.push_back((now, note));
    }

    /// An invariant does not hold. The first counts.
    pub fn violated(&mut self, what: impl fmt::Display) {
        if self.broken.is_none() {
            self.broken = Some(format!("at {:.3?}: {what}", self.now()));
            self.alarm.notify_one();
        }
    }

    pub fn holds(&mut self, true_: bool, what: impl FnOnce() -> String) {
        if !true_ {
            self.violated(what());
        }
    }

    /// What the bridge holds in memory does not grow with the backlog.
    pub fn check_memory(&mut self) {
        let alive = self.store.alive();
        self.totals.most_alive = self.totals.most_alive.max(alive);
        let most = READ_AHEAD_MAX + self.flight_max;
        self.holds(alive <= most, || {
            format!("the bridge holds {alive} readings, and needs {most} at most")
        });
    }

    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub fn trace(&self) -> String {
        let mut text = String::new();
        for (at, note) in &self.trace {
            let _ = writeln!(text, "{:>14.6}  {note:?}", at.as_secs_f64());
        }
        text
    }
}

/// The world, shared between its doubles. Locked for a moment at a time, by one thread.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// The world of `seed`, which remembers its last `trace_kept` steps.
    pub fn new(seed: u64, trace_kept: usize) -> Self {
        let mut rng = Rng::new(seed);
        let scene = Scene::of(&mut rng);
        let world = World {
            clock: ClockState::new(&mut rng),
            store: Store::new(&mut rng),
            wire: Wire::new(&scene),
            hub: Hub::new(&scene),
            drains: DrainBook::default(),
            policy: PolicyBook::default(),
            totals: Totals::default(),
            calm: false,
            life_began: None,
            base: Duration::ZERO,
            digest: DefaultHasher::new(),
            trace: VecDeque::new(),
            trace_kept,
            flight_max: scene.flight_max(),
            broken: None,
            pump: Arc::default(),
            alarm: Arc::default(),
            scene,
            rng,
        };
        Self(Arc::new(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        match self.0.try_lock() {
            Ok(world) => world,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("the simulation locks its world twice"),
        }
    }
}
