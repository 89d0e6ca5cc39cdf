//! What the tests stand on: a relay and a hub as child processes, meters that keep a ledger, a link
//! that can be cut, and a disk that loses its power.
//!
//! Nothing here knows the relay's inside: it is started with a config file, spoken to over MQTT and
//! its admin API, and killed.

pub mod clock;
pub mod disk;
pub mod fake_hub;
pub mod hub;
pub mod hub_side;
pub mod journal;
pub mod ledger;
pub mod meter;
pub mod packet;
pub mod port;
#[path = "../../hub-bridge/tests/support/postgres.rs"]
#[allow(missing_docs, reason = "the same file as in the tests of hub-bridge")]
pub mod postgres;
pub mod proxy;
pub mod rabbit;
pub mod raw;
pub mod relay;
pub mod replay;
pub mod sample;
pub mod wait;

pub use clock::Clock;
pub use disk::Disk;
pub use fake_hub::{FakeHub, Temper};
pub use hub::{Hub, Subscriber};
pub use ledger::Ledger;
pub use meter::{Fleet, Meter};
pub use proxy::Proxy;
pub use raw::Raw;
pub use relay::Relay;
pub use wait::{wait_for, within};

/// The village of all tests that do not name another one.
pub const VILLAGE: &str = "test-village";

/// A number from the environment, else `default`: how a test's size is raised for a long run.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// The seed of a test's random choices: `RELAY_TEST_SEED`, else a new one. Printed, so that a failure
/// can be repeated.
pub fn seed(test: &str) -> u64 {
    let seed = setting("RELAY_TEST_SEED", rand::random::<u32>().into());
    println!("{test}: RELAY_TEST_SEED={seed}");
    seed
}

/// Says why a test is not run. The reason is printed past libtest's capture, so that it is in every log.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// A directory that goes with its owner, unless `RELAY_TEST_KEEP` is set: then it stays, to be looked at.
pub fn scratch(prefix: &str) -> tempfile::TempDir {
    let keep = std::env::var_os("RELAY_TEST_KEEP").is_some();
    let mut directory = tempfile::Builder::new();
    directory.prefix(prefix).disable_cleanup(keep);
    directory.tempdir().unwrap()
}

/// A seed from words, the same in every build.
pub fn seed_of(words: &str) -> u64 {
    // FNV-1a.
    words.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
