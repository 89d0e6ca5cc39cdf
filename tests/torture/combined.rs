//! Two faults at once.

use std::time::Duration;

use harness::{Disk, within};

use crate::case::Case;
use crate::full_disk::fill;
use crate::village::{Village, listening};

/// Rounds a case.
const ROUNDS: u64 = 5;

pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    match case.number % 3 {
        0 => kill_while_full(case),
        1 => power_cut_while_full(case),
        _ => power_cut_while_the_hub_flaps(case),
    }
}

fn kill_while_full(case: &mut Case) -> Result<(), String> {
    let disk = Disk::new(96)?;
    let mut village = Village::new(case);
    village.on_disk(&disk, "0 B");
    village.start(case);
    let fleet = village.fleet(&[200, 2_000, 20_000]);
    for _ in 0..case.times(ROUNDS) {
        village.any_weather(case);
        village.some_traffic(case, 200);
        fill(&disk, case);
        for _ in 0..3 {
            case.moment(200);
            village.relay.kill();
            case.outcome.faults += 1;
            village.start(case);
        }
        disk.relieve();
        village.uplink.restore();
        village.relay.wait_ready(within(60));
        village.relay.wait_drained(within(60));
    }
    village.settle(case, fleet);
    village.relay.kill();
    Ok(())
}

fn power_cut_while_full(case: &mut Case) -> Result<(), String> {
    let mut disk = Disk::new(96)?;
    let mut village = Village::new(case);
    village.on_disk(&disk, "0 B");
    village.start(case);
    let fleet = village.fleet(&[200, 2_000, 20_000]);
    for _ in 0..case.times(ROUNDS) {
        village.any_weather(case);
        village.some_traffic(case, 200);
        fill(&disk, case);
        case.moment(300);
        disk.cut(Some(&mut village.relay));
        case.outcome.faults += 1;
        // The ballast was never synced: the disk may be full still, or not.
        village.start(case);
        case.moment(300);
        disk.relieve_if_full();
        village.uplink.restore();
        village.relay.wait_ready(within(60));
        village.relay.wait_drained(within(60));
    }
    village.settle_after_power_cuts(case, fleet);
    village.relay.kill();
    Ok(())
}

fn power_cut_while_the_hub_flaps(case: &mut Case) -> Result<(), String> {
    let mut disk = Disk::new(256)?;
    let mut village = Village::new(case);
    village.on_disk(&disk, "8 MiB");
    village.start(case);
    let fleet = village.fleet(&[200, 200, 20_000]);
    let flapping = village
        .uplink
        .flap(Duration::from_millis(150), Duration::from_millis(60));
    for _ in 0..case.times(ROUNDS * 2) {
        village.some_traffic(case, 400);
        case.moment(20);
        disk.cut(Some(&mut village.relay));
        case.outcome.faults += 1;
        village.relay.start_as_is();
        listening(&mut village.relay, case);
    }
    drop(flapping);
    village.settle_after_power_cuts(case, fleet);
    village.relay.kill();
    Ok(())
}
