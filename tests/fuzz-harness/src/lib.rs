//! What the fuzz functions share, so that libFuzzer and an ordinary test can run the same ones.
//!
//! A fuzz function takes any bytes and panics where an invariant is broken; it lives beside the parser that it
//! feeds. `fuzz/` runs it under libFuzzer, [`Target::replay`] runs the kept corpus, every finding and a moment of seeded
//! random input through it. How to: `docs/fuzzing.md`.

// What a test finds wrong ends it right there.
#![allow(clippy::panic, clippy::expect_used)]

mod input;
mod memory;
mod random;
mod replay;

pub use input::Input;
pub use memory::{Counting, within};
pub use replay::Target;
