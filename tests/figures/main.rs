//! Prints the figures of `docs/performance.md`, each beside what it is compared with, in one run.
//!
//! `cargo run --release -p relay-tests --bin figures -- pubacks|drain|memory|thin|flapping [key=value …]`
//! after `cargo build --release -p edge-relay`.

mod arrivals;
mod ceiling;
mod drain;
mod floor;
mod links;
mod load;
mod memory;
mod pubacks;

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

/// `key=value` arguments with defaults.
#[derive(Debug)]
pub(crate) struct Arguments(HashMap<String, String>);

impl Arguments {
    /// The number given for `key`, else `default`.
    pub(crate) fn number(&self, key: &str, default: usize) -> Result<usize> {
        match self.0.get(key) {
            Some(text) => text.parse().with_context(|| format!("{key}={text}")),
            None => Ok(default),
        }
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let figure = words.next().unwrap_or_default();
    let pairs = words.map(|word| {
        let (key, value) = word
            .split_once('=')
            .with_context(|| format!("{word}: key=value expected"))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let arguments = Arguments(pairs.collect::<Result<_>>()?);
    match figure.as_str() {
        "pubacks" => pubacks::run(&arguments),
        "drain" => drain::run(&arguments),
        "ceiling" => drain::ceiling(&arguments),
        "thin" => links::thin(&arguments),
        "flapping" => links::flapping(&arguments),
        "memory" => memory::run(&arguments),
        _ => bail!("which figure? pubacks, drain, memory, thin, flapping"),
    }
}
