//! The figures of `docs/performance.md`: the relay beside mosquitto, in one run on one machine, as ratios.
//!
//! A release build is measured: `cargo build --release -p edge-relay`, then
//! `cargo run --release -p relay-tests --bin figures -- COMMAND`.

mod backlog;
mod contender;
mod crossing;
mod puback;

const HELP: &str = "\
figures COMMAND: measures the relay beside mosquitto

  puback   durable PUBACKs/s, 10 clients x 20 in flight, 200 bytes, beside mosquitto with persistence and beside
           an append-only file with group commit and fdatasync (SECONDS=5, ROUNDS=3)
  drain    drain of a backlog to a mosquitto hub on loopback, beside mosquitto's bridge (READINGS=100000)
  thin     drain through 256 kbit/s and 600 ms to a hub with a receive maximum of 20 (READINGS=1500)
  flap     link up 2 s, down 1 s, 2 Mbit/s and 200 ms (READINGS=20000)
  backlog  peak memory, restart after kill -9, disk left after the drain (READINGS=1000000)

Sizes come from the environment, as named above. EDGE_RELAY_BIN names another binary of the relay.";

fn main() {
    let command = std::env::args().nth(1).unwrap_or_default();
    println!("relay: {}", harness::relay::binary().display());
    match command.as_str() {
        "puback" => puback::measure(),
        "drain" => crossing::drain(),
        "thin" => crossing::thin(),
        "flap" => crossing::flap(),
        "backlog" => backlog::measure(),
        _ => println!("{HELP}"),
    }
}
