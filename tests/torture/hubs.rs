//! A hub that stalls, lies, floods, talks rubbish, refuses and vanishes, while readings come.

use harness::packet::{self, Publish, Version, kind};
use harness::{Temper, wait_for, within};
use rand::{Rng, RngCore};

use crate::case::Case;
use crate::village::{Village, listening};

/// Tempers a case.
const TEMPERS: u64 = 20;

#[allow(clippy::unnecessary_wraps)] // other kinds may say why they cannot run
pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let mut village = Village::with_own_hub();
    village.start(case);
    let fleet = village.fleet(&[200, 200, 2_000, 20_000]);
    for _ in 0..case.times(TEMPERS) {
        let temper = any_temper(case);
        println!("{}", shown(&temper));
        let hub = village.own_hub();
        if case.one_in(2) {
            hub.restart(temper);
        } else {
            hub.temper(temper);
        }
        case.outcome.faults += 1;
        case.moment(600);
        village.some_traffic(case, 100);
        if case.one_in(8) {
            village.relay.kill();
            village.relay.start_as_is();
            listening(&mut village.relay, case);
        }
    }
    village.own_hub().restart(Temper::Honest);
    // What is refused for long is tried seldom, unless someone has changed something.
    village.relay.set("hub.retry_max", "2s").write_config();
    wait_for("all that was refused is taken", within(100), || {
        village.relay.cli(&["backlog", "retry", "--all"]);
        let backlog = &village.relay.status()["backlog"];
        (backlog["readings"] == 0 && backlog["refused"] == 0).then_some(())
    });
    village.settle(case, fleet);
    Ok(())
}

fn any_temper(case: &mut Case) -> Temper {
    match case.random.random_range(0..17) {
        0 => Temper::Stalls,
        1 => Temper::Lies,
        2 => Temper::LiesInFlight,
        3 => Temper::ClaimsSession,
        4 => Temper::NeverConnacks,
        5 => Temper::ClosesAtConnect,
        6 => Temper::AcknowledgesBackwards,
        7 => Temper::AcknowledgesTwice,
        8 => Temper::VanishesAfter(case.random.random_range(0..200)),
        9 => Temper::RefusesConnect(case.pick(&[0x80, 0x87, 0x88, 0x89, 0x97, 0x9f])),
        10 => Temper::RefusesAll(case.pick(&[0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, 0xff])),
        11 => Temper::ClosesAt(format!("#0:{}", case.random.random_range(1..10))),
        12 => Temper::Says(flood(Version::V5, case)),
        13 => Temper::Says(rubbish(case)),
        14 => Temper::Says(huge()),
        15 => Temper::Says(strange(case)),
        _ => Temper::Honest,
    }
}

fn shown(temper: &Temper) -> String {
    match temper {
        Temper::Says(bytes) => format!("says {} bytes: {:02x?}…", bytes.len(), &bytes[..8]),
        temper => format!("{temper:?}"),
    }
}

/// Thousands of publishes that nobody subscribed to.
fn flood(version: Version, case: &mut Case) -> Vec<u8> {
    let size = case.pick(&[10, 1_000, 9_000]);
    let mut publish = Publish::new("flood/of/the/hub", vec![7; size], 1);
    publish.qos = case.pick(&[0, 1, 2]);
    publish.encode(version).repeat(2_000_000 / (size + 30))
}

fn rubbish(case: &mut Case) -> Vec<u8> {
    let mut bytes = vec![0; case.random.random_range(8..20_000)];
    case.random.fill_bytes(&mut bytes);
    bytes
}

/// The largest packet there can be begins, and some of it comes.
fn huge() -> Vec<u8> {
    let mut bytes = vec![kind::PUBLISH << 4, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'x', 0];
    bytes.resize(4 << 20, 0);
    bytes
}

/// Packets that a hub may not send, or not now.
fn strange(case: &mut Case) -> Vec<u8> {
    let kinds = [
        kind::SUBACK,
        kind::PUBREC,
        kind::PUBREL,
        kind::PUBCOMP,
        kind::PUBACK,
    ];
    let mut bytes = Vec::new();
    for _ in 0..50 {
        let (kind, id) = (case.pick(&kinds), case.random.random_range(0..=u16::MAX));
        bytes.extend(packet::ack(
            kind,
            Version::V5,
            id,
            case.pick(&[0, 0x10, 0x80, 0x92]),
        ));
    }
    bytes
}
