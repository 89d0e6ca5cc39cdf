//! Durable PUBACKs a second, their latency, and processor time, at several numbers of clients and readings in flight.

use std::time::Duration;

use anyhow::Result;

use super::report::{Part, Target, grouped, ms};
use super::servers::{Kind, Server, available};
use crate::load::{self, Load};
use crate::{Arguments, cpu, median};

const KINDS: [Kind; 5] = [
    Kind::Relay,
    Kind::Mosquitto,
    Kind::MosquittoAutosave,
    Kind::Nats,
    Kind::Floor,
];

/// Clients and in flight.
const SHAPES: [(usize, usize); 4] = [(1, 1), (1, 20), (10, 20), (100, 20)];

/// One round of one server.
#[derive(Debug, Clone, Copy)]
struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
    server_cpu: f64,
    load_cpu: f64,
}

/// All rounds of one server at one shape.
#[derive(Debug, Default)]
struct Rounds(Vec<Round>);

impl Rounds {
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    fn rate(&self) -> f64 {
        self.median(|r| r.rate)
    }
}

/// Measures in turn, round by round: each server anew, over an empty directory.
pub(crate) fn run(arguments: &Arguments) -> Result<Part> {
    let kinds = available(&KINDS, arguments);
    let rounds = arguments.number("rounds", 5)?;
    let payload_bytes = arguments.number("payload", 200)?;
    let limit = Duration::from_millis(arguments.number("milliseconds", 1_200)? as u64);
    let mut part = Part::new(
        "pubacks",
        &format!(
            "PUBACKs, {payload_bytes} B of payload: medians of {rounds} rounds of {limit:?}, the servers in turn, each \
             anew over an empty directory; the load is one thread with one epoll and packets made beforehand"
        ),
    );
    part.kinds(&kinds);
    for (clients, in_flight) in shapes(arguments)? {
        let load = Load {
            clients,
            in_flight,
            readings: usize::MAX,
            payload_bytes,
        };
        let mut all: Vec<Rounds> = kinds.iter().map(|_| Rounds::default()).collect();
        for round in 1..=rounds {
            for (kind, rounds) in kinds.iter().zip(&mut all) {
                let result = one(*kind, load, limit)?;
                eprintln!(
                    "{clients}×{in_flight} round {round} {:22} {result:?}",
                    kind.name()
                );
                rounds.0.push(result);
            }
        }
        tabulate(&mut part, (clients, in_flight), &kinds, &all);
    }
    Ok(part)
}

fn shapes(arguments: &Arguments) -> Result<Vec<(usize, usize)>> {
    let clients = arguments.number("clients", 0)?;
    if clients == 0 {
        return Ok(SHAPES.to_vec());
    }
    Ok(vec![(clients, arguments.number("in_flight", 20)?)])
}

/// A short warm-up, then the load; what the server before it left to be written back is written before.
#[allow(clippy::cast_precision_loss)] // far below 2^52 readings
fn one(kind: Kind, load: Load, limit: Duration) -> Result<Round> {
    nix::unistd::sync();
    let data = tempfile::tempdir()?;
    let server = Server::start(kind, data.path())?;
    let warm = Load {
        readings: load.clients * 100,
        ..load
    };
    load::run_within(server.address, warm, "warm", limit / 4)?;
    let before = cpu::of_process(server.pid())?;
    let result = load::run_within(server.address, load, "meter", limit)?;
    let used = cpu::of_process(server.pid())?.saturating_sub(before);
    let per_million = 1e6 / result.acknowledged as f64;
    Ok(Round {
        rate: result.rate,
        p50: result.p50,
        p99: result.p99,
        server_cpu: used.as_secs_f64() * per_million,
        load_cpu: result.cpu.as_secs_f64() * per_million,
    })
}

fn tabulate(part: &mut Part, shape: (usize, usize), kinds: &[Kind], all: &[Rounds]) {
    let of = |kind: Kind| {
        kinds
            .iter()
            .zip(all)
            .find(|(k, _)| **k == kind)
            .map(|(_, r)| r)
    };
    let Some(ours) = of(Kind::Relay) else { return };
    let (clients, in_flight) = shape;
    part.table(
        &format!("{clients} × {in_flight} (clients × in flight)"),
        &[
            "server",
            "PUBACKs/s",
            "relay beside it",
            "single rounds",
            "p50 ms",
            "p99 ms",
            "CPU-s/M server",
            "CPU-s/M load",
        ],
    );
    for (kind, rounds) in kinds.iter().zip(all) {
        let mut ratios: Vec<f64> = ours
            .0
            .iter()
            .zip(&rounds.0)
            .map(|(a, b)| a.rate / b.rate)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let span = ratios.first().zip(ratios.last());
        part.row(&[
            kind.name().to_owned(),
            grouped(rounds.rate()),
            format!("{:.2} ×", ours.rate() / rounds.rate()),
            span.map_or(String::new(), |(low, high)| {
                format!("{low:.2} to {high:.2}")
            }),
            ms(rounds.median(|r| r.p50.as_secs_f64())),
            ms(rounds.median(|r| r.p99.as_secs_f64())),
            format!("{:.2}", rounds.median(|r| r.server_cpu)),
            format!("{:.2}", rounds.median(|r| r.load_cpu)),
        ]);
    }
    let beside = |kind: Kind| of(kind).map(|r| ours.rate() / r.rate());
    let cpu = |kind: Kind| of(kind).map_or(f64::NAN, |r| r.median(|r| r.server_cpu));
    match shape {
        (10, 20) => {
            part.target(Target::at_least(
                "durable PUBACKs/s, 10 × 20, beside mosquitto's not durable ones",
                2.0,
                beside(Kind::Mosquitto),
                "×",
            ));
            part.target(Target::at_least(
                "durable PUBACKs/s, 10 × 20, beside append + group-commit fdatasync",
                0.7,
                beside(Kind::Floor),
                "×",
            ));
            part.target(
                Target::at_most(
                    "CPU-seconds per million readings, 10 × 20",
                    4.0,
                    Some(cpu(Kind::Relay)),
                    "s",
                )
                .note(&format!(
                    "mosquitto {:.1}, floor {:.1}, nats-server {:.1}",
                    cpu(Kind::Mosquitto),
                    cpu(Kind::Floor),
                    cpu(Kind::Nats)
                )),
            );
        }
        (1, 1) => part.target(Target::at_least(
            "durable PUBACKs/s, 1 × 1, beside append + fdatasync",
            0.8,
            beside(Kind::Floor),
            "×",
        )),
        _ => {}
    }
}
