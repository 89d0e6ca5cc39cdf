//! The power is cut: what was not synced is gone.
//!
//! What it cannot show: a drive that says "written" of what is still in its own cache.

use harness::Disk;

use crate::case::Case;
use crate::kills::Moment;
use crate::village::{Village, listening};

/// Cuts a case.
const CUTS: u64 = 10;

pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let mut disk = Disk::new(512)?;
    let mut village = Village::new(case);
    village.on_disk(&disk, "8 MiB");
    village.start(case);
    let largest = (256 << 10) - 100;
    let fleet = village.fleet(&[200, 200, 20_000, largest]);
    for _ in 0..case.times(CUTS) {
        village.any_weather(case);
        let moment = Moment::any(case);
        moment.bring_about(&mut village, case);
        if village.relay.exited().is_some() {
            // It had stopped already: the cut comes a moment after.
            disk.cut(None);
        } else {
            disk.cut(Some(&mut village.relay));
        }
        case.outcome.faults += 1;
        village.relay.write_config();
        village.relay.start_as_is();
    }
    listening(&mut village.relay, case);
    village.settle_after_power_cuts(case, fleet);
    village.relay.kill();
    Ok(())
}
