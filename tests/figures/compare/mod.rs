//! This relay beside mosquitto, nats-server and the floor, in one run: a table of Markdown, with versions, disk and
//! settings.
//!
//! `figures compare [part=pubacks|drain|memory|device] [into=FILE]`. Without `part` all of them, about a quarter of an
//! hour; each alone takes at most four minutes. With `into` the text goes between the marks `<!-- begin compare PART -->`
//! and `<!-- end compare PART -->` of that file instead of to standard output.

mod device;
mod machine;
mod memory;
mod pubacks;
mod report;
mod servers;
mod volume;

use std::fs;

use anyhow::{Context, Result, bail};

use self::report::Part;
use crate::{Arguments, drain};

type Measure = fn(&Arguments) -> Result<Part>;

const PARTS: [(&str, Measure); 4] = [
    ("pubacks", pubacks::run),
    ("drain", drain_part),
    ("memory", memory::run),
    ("device", device::run),
];

/// Measures, and writes each part as soon as it is there.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wanted = arguments.text("part").unwrap_or("all");
    let chosen: Vec<_> = PARTS
        .iter()
        .filter(|(name, _)| wanted == "all" || wanted == *name)
        .collect();
    if chosen.is_empty() {
        bail!("no part {wanted}");
    }
    for (_, measure) in chosen {
        let part = measure(arguments)?;
        let text = format!("{}\n{}", machine::line(), part.markdown());
        match arguments.text("into") {
            Some(file) => replace(file, part.name, &text)?,
            None => println!("## {}\n\n{text}", part.name),
        }
    }
    Ok(())
}

/// Puts `text` between the marks of `part` in `file`.
fn replace(file: &str, part: &str, text: &str) -> Result<()> {
    let old = fs::read_to_string(file).context(file.to_owned())?;
    let (begin, end) = (
        format!("<!-- begin compare {part} -->\n"),
        format!("<!-- end compare {part} -->"),
    );
    let (before, rest) = old
        .split_once(&begin)
        .with_context(|| format!("no {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no {end}"))?;
    fs::write(file, format!("{before}{begin}\n{text}\n{end}{after}"))?;
    Ok(())
}

fn drain_part(arguments: &Arguments) -> Result<Part> {
    let rounds = arguments.number("rounds", 5)?;
    let [mosquitto, least] = drain::measure(arguments, rounds)?;
    let mut part = Part::new(
        "drain",
        &format!(
            "Drain of a backlog on loopback with `max_inflight_messages 0`, readings a second from the first arrival to the \
             last: medians of {rounds} rounds in turn. The hub mosquitto has a subscriber for every reading; what an ideal \
             client gets through, with its packets made beforehand, is the most that this hub can take. The least hub only \
             acknowledges and counts"
        ),
    );
    part.table(
        "Drain",
        &[
            "sender",
            "to mosquitto, readings/s",
            "to the least hub, readings/s",
        ],
    );
    for (name, of) in [
        ("relay", (|m| m.relay) as fn(drain::Medians) -> f64),
        ("mosquitto bridge", |m| m.bridge),
        ("ideal client", |m| m.ideal),
    ] {
        let rate = |medians| report::grouped(of(medians));
        part.row(&[name.to_owned(), rate(mosquitto), rate(least)]);
    }
    let mut target = |what, ratio| {
        part.target(report::Target::at_least(what, 2.0, Some(ratio), "×"));
    };
    target(
        "drain on loopback beside the mosquitto bridge, hub mosquitto",
        mosquitto.relay / mosquitto.bridge,
    );
    target(
        "the same, a hub that only acknowledges and counts",
        least.relay / least.bridge,
    );
    Ok(part)
}
