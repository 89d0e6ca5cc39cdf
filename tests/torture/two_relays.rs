//! Two relays on one directory: one of them gets it, the other says so and ends, and nothing is harmed.

use std::time::{Duration, Instant};

use harness::{Relay, within};

use crate::case::Case;
use crate::village::{Village, listening};

/// Second relays, a case.
const TIMES: u64 = 10;

#[allow(clippy::unnecessary_wraps)] // other kinds may say why they cannot run
pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let mut village = Village::new(case);
    village.start(case);
    let fleet = village.fleet(&[200, 200, 2_000]);
    for _ in 0..case.times(TIMES) {
        village.some_traffic(case, 200);
        let mut second = Relay::new(village.uplink.address);
        second.set("data_dir", village.relay.data_dir().to_str().unwrap());
        second.write_config();
        let first_dies = case.one_in(2);
        second.start_as_is();
        if first_dies {
            case.moment(40);
            village.relay.kill();
        }
        case.outcome.faults += 1;
        match ends_or_listens(&mut second) {
            Some(log) => assert!(log.contains("in use by another edge-relay"), "{log}"),
            None => assert!(first_dies, "two relays have one directory"),
        }
        if first_dies {
            // Where the second one has it, the first comes in vain, until the second dies too.
            if second.exited().is_none() && second.log().contains("listening") && case.one_in(2) {
                village.relay.start_as_is();
                let status = village.relay.wait_exit(within(20));
                assert_eq!(status.code(), Some(1), "{}", village.relay.log_tail(10));
            }
            second.kill();
            village.relay.start_as_is();
            listening(&mut village.relay, case);
        }
    }
    village.settle(case, fleet);
    Ok(())
}

/// What it says where it ends by itself; `None` where it listens.
fn ends_or_listens(second: &mut Relay) -> Option<String> {
    let started = Instant::now();
    while started.elapsed() < within(30) {
        if let Some(status) = second.exited() {
            assert_eq!(status.code(), Some(1), "{}", second.log());
            return Some(second.log());
        }
        if std::net::TcpStream::connect(second.mqtt).is_ok() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("neither ends nor listens:\n{}", second.log());
}
