//! Random numbers of a seed: the same on every machine and with every version of every crate.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hub_bridge::platform::Dice;

/// `SplitMix64` (Steele, Lea, Flood, 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    #[allow(clippy::cast_precision_loss)]
    pub fn roll(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.roll() < probability
    }

    /// In `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let n = usize::try_from(self.next() % of.len() as u64).unwrap();
        &of[n]
    }

    /// Between `low` and `high`, each order of magnitude as likely as any other.
    pub fn log_between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.roll())
    }

    /// Between so many seconds, each order of magnitude as likely as any other.
    pub fn log_seconds(&mut self, low: f64, high: f64) -> Duration {
        Duration::from_secs_f64(self.log_between(low, high))
    }
}

/// The bridge's own dice.
pub struct SeededDice(Mutex<Rng>);

impl SeededDice {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Rng::new(seed)))
    }
}

impl Dice for SeededDice {
    fn roll(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).roll()
    }
}
