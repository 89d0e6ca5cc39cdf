//! Prints the figures of `docs/performance.md`, each beside what it is compared with, in one run.
//!
//! `cargo run --release -p relay-tests --bin figures -- compare|drain|memory|thin|flapping|frames [key=value …]`
//! after `cargo build --release -p edge-relay`.

mod arrivals;
mod ceiling;
mod compare;
mod cpu;
mod drain;
mod floor;
mod frames;
mod least_hub;
mod links;
mod load;
mod memory;

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

    /// What was given for `key`.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
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
        "compare" => compare::run(&arguments),
        "drain" => drain::run(&arguments),
        "thin" => links::thin(&arguments),
        "flapping" => links::flapping(&arguments),
        "frames" => frames::run(&arguments),
        "memory" => memory::run(&arguments),
        // What `compare` starts, not a figure.
        "floor-server" => floor::serve(
            arguments.text("listen").context("listen=")?.parse()?,
            arguments.text("log").context("log=")?.as_ref(),
        ),
        _ => bail!("which figure? compare, drain, memory, thin, flapping, frames"),
    }
}

/// The middle of the figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
