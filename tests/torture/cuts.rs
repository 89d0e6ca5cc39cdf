//! The uplink is cut after each byte of an exchange: CONNECT and publishes one way, CONNACK and PUBACKs the other.

use harness::meter::Habits;
use harness::{Meter, Proxy, within};

use crate::case::Case;
use crate::village::Village;

/// So many cases go once through all bytes.
const CASES_A_PASS: u64 = 8;

/// Readings an exchange.
const READINGS: u64 = 3;

/// No exchange is longer, in bytes.
const BYTES_MAX: u64 = 4_000;

#[allow(clippy::unnecessary_wraps)] // other kinds may say why they cannot run
pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let stride = CASES_A_PASS * if case.quick { 8 } else { 1 };
    let mut village = Village::with_own_hub();
    village.relay.set("hub.retry_max", "1s");
    // Cut in each CONNECT on purpose, `auto` may take it for a hub that does not know MQTT 5, and a reading has no identity
    // then that the ledger could check.
    village.relay.set("hub.protocol", "5");
    village.start(case);
    let mut habits = Habits::new(village.relay.mqtt);
    habits.size = 60;
    let mut meter = Meter::new(&village.ledger, "meter", habits);
    for (way, cut_after) in [
        ("to the hub", Proxy::cut_after_to_hub as fn(&Proxy, u64)),
        ("to the relay", Proxy::cut_after_to_relay),
    ] {
        let mut offset = case.number % stride;
        while offset < BYTES_MAX {
            village.uplink.cut();
            meter.publish(READINGS).unwrap();
            cut_after(&village.uplink, offset);
            village.uplink.restore();
            village.ledger.wait_at_hub(meter.made(), within(30));
            village.relay.wait_drained(within(30));
            if village.uplink.disarm() {
                break;
            }
            case.outcome.faults += 1;
            offset += stride;
        }
        println!("{way}: an exchange has about {offset} bytes");
        assert!((1..BYTES_MAX).contains(&offset), "{offset}");
    }
    village.ledger.check_arrival_order();
    village.settled(case);
    Ok(())
}
