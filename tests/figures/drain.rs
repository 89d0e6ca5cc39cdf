//! The drain of a backlog on loopback: the relay, the mosquitto bridge with the same backlog, and an ideal client with
//! the same readings in memory, each to the same two hubs.
//!
//! The hub `mosquitto` has one thread, and a subscriber for every reading as a hub's database is: what the ideal client
//! gets through is its ceiling. The hub `least` does no more than acknowledge and count, so that the bridges are compared
//! and not the hub. Per reading it also says what processor time the sender and the hub took.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use harness::hub::Hub;
use harness::port;
use harness::relay::Relay;
use nix::sys::signal::Signal;
use nix::unistd::getpid;

use crate::arrivals::Arrivals;
use crate::ceiling;
use crate::least_hub;
use crate::load::{self, Load};
use crate::{Arguments, median};

const DEADLINE: Duration = Duration::from_secs(60);
/// Connecting and subscribing on loopback takes far less.
const SUBSCRIBED_IN: Duration = Duration::from_millis(200);

/// Which hub takes the readings.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Mosquitto,
    Least,
}

/// Who brings them.
#[derive(Debug, Clone, Copy)]
enum Sender {
    Relay,
    Bridge,
    Ideal,
}

/// One drain.
#[derive(Debug, Clone, Copy)]
struct Drained {
    /// Readings a second, from the first arrival to the last.
    rate: f64,
    /// Processor time a reading, in µs.
    sender_us: f64,
    /// Likewise; the hub `least` runs in this process, with the ideal client.
    hub_us: f64,
}

/// Medians of the rounds, in readings a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Medians {
    /// This relay.
    pub(crate) relay: f64,
    /// The mosquitto bridge.
    pub(crate) bridge: f64,
    /// A client that has the packets in memory: what the hub can take.
    pub(crate) ideal: f64,
}

/// Prints each round, and the ratios of the medians.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rounds = arguments.number("rounds", 3)?;
    for kind in [Kind::Mosquitto, Kind::Least] {
        let Medians {
            relay,
            bridge,
            ideal,
        } = rounds_to(kind, arguments, rounds)?;
        println!(
            "hub {kind:?}, median: relay {relay:.0}/s, mosquitto bridge {bridge:.0}/s, ideal client {ideal:.0}/s; \
             relay / bridge {:.2}, relay / ideal {:.2}",
            relay / bridge,
            relay / ideal
        );
    }
    Ok(())
}

/// Drains to mosquitto and to the least hub.
pub(crate) fn measure(arguments: &Arguments, rounds: usize) -> Result<[Medians; 2]> {
    Ok([
        rounds_to(Kind::Mosquitto, arguments, rounds)?,
        rounds_to(Kind::Least, arguments, rounds)?,
    ])
}

/// Drains in turn, and says each round on standard error.
fn rounds_to(kind: Kind, arguments: &Arguments, rounds: usize) -> Result<Medians> {
    let load = Load {
        clients: arguments.number("clients", 10)?,
        in_flight: 20,
        readings: arguments.number("readings", 100_000)?,
        payload_bytes: arguments.number("payload", 200)?,
    };
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (sender, rates) in [Sender::Relay, Sender::Bridge, Sender::Ideal]
            .into_iter()
            .zip(&mut rates)
        {
            let Drained {
                rate,
                sender_us,
                hub_us,
            } = drain(kind, sender, load)?;
            eprintln!(
                "hub {kind:?}, round {round}: {sender:?} {rate:.0}/s, processor time a reading: sender {sender_us:.1} µs, hub {hub_us:.1} µs"
            );
            rates.push(rate);
        }
    }
    let [relay, bridge, ideal] = rates.map(median);
    Ok(Medians {
        relay,
        bridge,
        ideal,
    })
}

/// Fills while the hub is away, and drains.
fn drain(kind: Kind, sender: Sender, load: Load) -> Result<Drained> {
    let mut mosquitto = matches!(kind, Kind::Mosquitto).then(Hub::start);
    let address = mosquitto
        .as_ref()
        .map_or_else(port::free, |hub| hub.address);
    if let Some(hub) = &mut mosquitto {
        hub.kill();
    }
    let village = Village::fill(sender, address, load)?;
    let before = village.cpu();
    let arrivals = if let Some(hub) = &mut mosquitto {
        // Nothing may arrive before the subscriber is there.
        village.signal(Signal::SIGSTOP);
        hub.run();
        let arrivals = Arrivals::watch(address);
        std::thread::sleep(SUBSCRIBED_IN);
        village.signal(Signal::SIGCONT);
        arrivals
    } else {
        let arrivals = Arrivals::default();
        least_hub::serve(address, &arrivals)?;
        arrivals
    };
    let hub_cpu = || mosquitto.as_ref().map_or_else(own_cpu, Hub::cpu);
    let hub_before = hub_cpu();
    if let Village::Ideal = village {
        ceiling::run(address, load)?;
    }
    let seen = arrivals.wait(load.readings, DEADLINE)?;
    let readings = load.readings as f64;
    let each = |used: Duration| used.as_secs_f64() * 1e6 / readings;
    Ok(Drained {
        rate: readings / seen.span().as_secs_f64(),
        sender_us: each(village.cpu().saturating_sub(before)),
        hub_us: each(hub_cpu().saturating_sub(hub_before)),
    })
}

enum Village {
    Relay(Box<Relay>),
    /// A mosquitto that bridges everything at QoS 1, with its limits off.
    Bridge(Hub),
    Ideal,
}

impl Village {
    fn fill(sender: Sender, hub: SocketAddr, load: Load) -> Result<Self> {
        let village = match sender {
            Sender::Relay => {
                let mut relay = Relay::new(hub);
                relay.set("hub.retry_max", "1s");
                relay.start();
                Self::Relay(Box::new(relay))
            }
            Sender::Bridge => Self::Bridge(Hub::start_with(&format!(
                "max_inflight_messages 0\nconnection hub\naddress {hub}\ntopic # out 1\nrestart_timeout 1 1\ntry_private true\n"
            ))),
            Sender::Ideal => return Ok(Self::Ideal),
        };
        let meters = match &village {
            Self::Relay(relay) => relay.mqtt,
            Self::Bridge(broker) => broker.address,
            Self::Ideal => hub,
        };
        load::run(meters, load, "meter")?;
        Ok(village)
    }

    fn signal(&self, signal: Signal) {
        match self {
            Self::Relay(relay) => relay.signal(signal),
            Self::Bridge(broker) => broker.signal(signal),
            Self::Ideal => {}
        }
    }

    fn cpu(&self) -> Duration {
        match self {
            Self::Relay(relay) => relay.cpu(),
            Self::Bridge(broker) => broker.cpu(),
            Self::Ideal => own_cpu(),
        }
    }
}

fn own_cpu() -> Duration {
    harness::relay::cpu_time(getpid().as_raw().unsigned_abs())
}
