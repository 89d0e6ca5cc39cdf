//! The corpus, every finding, and a moment of seeded random input, as one ordinary test a target.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::random::Random;

/// How long random input is tried where `RELAY_FUZZ_MS` does not say otherwise, in ms.
const RANDOM_MS: u64 = 500;

/// A fuzz function and its name, which is that of its directories in `fuzz/corpus` and `fuzz/findings`.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As on the command line.
    pub name: &'static str,
    /// Panics where an invariant is broken.
    pub run: fn(&[u8]),
}

impl Target {
    /// Runs what is kept in `fuzz` (the directory) and random input through the function.
    ///
    /// # Panics
    /// Where any of it breaks an invariant; all that do are named.
    pub fn replay(&self, fuzz: &Path) {
        let mut kept = Vec::new();
        let mut failed = Vec::new();
        for kind in ["findings", "corpus"] {
            for path in files(&fuzz.join(kind).join(self.name)) {
                let bytes = fs::read(&path).expect("a kept input");
                if !self.holds(&bytes) {
                    failed.push(path);
                }
                kept.push(bytes);
            }
        }
        assert!(failed.is_empty(), "{}: broken by {failed:?}", self.name);
        self.at_random(&kept);
    }

    fn at_random(&self, kept: &[Vec<u8>]) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seed = number("RELAY_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
        println!(
            "{}: {} kept inputs, RELAY_TEST_SEED={seed}",
            self.name,
            kept.len()
        );
        let until =
            Instant::now() + Duration::from_millis(number("RELAY_FUZZ_MS").unwrap_or(RANDOM_MS));
        let mut random = Random(seed);
        let mut tried = 0u64;
        while Instant::now() < until {
            let bytes = random.input(kept);
            if !self.holds(&bytes) {
                let path = std::env::temp_dir().join(format!("fuzz-{}-{seed}", self.name));
                let _ = fs::write(&path, &bytes);
                panic!(
                    "{}: broken by {} (input {tried} of seed {seed}): {bytes:?}",
                    self.name,
                    path.display()
                );
            }
            tried += 1;
        }
        println!("{}: {tried} random inputs", self.name);
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.run)(bytes))).is_ok()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}
