//! A disk that is full and has room again, over and over, while meters publish.

use std::time::Duration;

use harness::{Disk, within};
use rand::Rng;

use crate::case::Case;
use crate::village::Village;

/// Times that the disk is full, a case.
const TIMES: u64 = 6;

pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let disk = Disk::new(96)?;
    let mut village = Village::new(case);
    village.on_disk(&disk, "0 B");
    village.start(case);
    let fleet = village.fleet(&[200, 2_000, 20_000]);
    for _ in 0..case.times(TIMES) {
        village.any_weather(case);
        village.some_traffic(case, 200);
        fill(&disk, case);
        case.outcome.faults += 1;
        // From time to time the relay finds the disk full at its start.
        if case.one_in(3) {
            village.relay.kill();
            village.start(case);
        }
        case.moment(1500);
        disk.relieve();
        // The backlog itself must not fill it.
        village.uplink.restore();
        village.relay.wait_ready(within(60));
        village.relay.wait_drained(within(60));
    }
    village.settle(case, fleet);
    village.relay.kill();
    Ok(())
}

/// Leaves it nothing, or so little that it is full in a moment.
pub(crate) fn fill(disk: &Disk, case: &mut Case) {
    let leave = case.pick(&[0, 4 << 10, 64 << 10, 1 << 20]);
    disk.fill(leave + case.random.random_range(0..4096));
    std::thread::sleep(Duration::from_millis(case.random.random_range(0..100)));
}
