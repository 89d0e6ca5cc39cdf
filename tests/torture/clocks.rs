//! A clock that jumps: a day, a year, to 1970, over summer time, while readings come, drains run and retention counts.

use harness::{Clock, within};

use crate::case::Case;
use crate::village::Village;

/// 2026-03-29T00:59:50Z: ten seconds before two o'clock in Douala, and before summer time in Berlin.
const START: i64 = 1_774_745_990;
const DAY: i64 = 86_400;

/// Jumps a case.
const JUMPS: u64 = 15;

pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let clock = Clock::showing(START)?;
    let mut village = Village::new(case);
    clock.rule(&mut village.relay);
    let zone = case.pick(&["Africa/Douala", "Europe/Berlin", "Asia/Kolkata"]);
    let trust = case.pick(&["always", "kernel", "never"]);
    let keep = case.pick(&["0s", "1h", "7days"]);
    village
        .relay
        .set("drain.time_zone", zone)
        .set("drain.stagger", "0s")
        .set("clock.trust", trust)
        .set("backlog.keep_forwarded", keep);
    village.start(case);
    let fleet = village.fleet(&[200, 200, 2_000]);
    let mut now = START;
    for _ in 0..case.times(JUMPS) {
        village.any_weather(case);
        now = match case.pick(&[0, 1, 2, 3, 4, 5, 6]) {
            0 => now + DAY,
            // No kernel lets a clock be set before 1970.
            1 => (now - DAY).max(1_000),
            2 => 1_000,
            3 => START + 400 * DAY,
            // Past two o'clock: a drain begins.
            4 => START + 11,
            5 => 4_102_444_800, // 2100
            _ => START,
        };
        clock.set(now);
        case.outcome.faults += 1;
        if case.one_in(3) {
            let _ = village.relay.post("/drain");
        }
        village.some_traffic(case, 150);
        if case.one_in(4) {
            village.relay.kill();
            village.start(case);
        }
    }
    // A good clock again, or a certificate of the hub's would be the only thing that ever is in the future.
    clock.set(START);
    village.settle(case, fleet);
    village.relay.wait_drained(within(10));
    assert_eq!(
        village.ledger.epochs().len(),
        1,
        "a clock step is no new store"
    );
    Ok(())
}
