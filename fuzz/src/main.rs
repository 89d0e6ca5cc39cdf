//! Any of the fuzz functions under libFuzzer: `FUZZ_TARGET` names it. Run by `fuzz/run`.

#![no_main]

use std::sync::OnceLock;

use fuzz_harness::{Counting, Target};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static COUNTING: Counting = Counting;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn targets() -> impl Iterator<Item = &'static Target> {
    edge_relay::fuzzing::TARGETS
        .iter()
        .chain(hub_bridge::fuzzing::TARGETS)
}

fn chosen() -> fn(&[u8]) {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets().find(|target| target.name == wanted);
    found.map_or_else(
        || {
            eprintln!("FUZZ_TARGET must be one of:");
            targets().for_each(|target| eprintln!("  {}", target.name));
            std::process::exit(2)
        },
        |target| target.run,
    )
}

fuzz_target!(init: { TARGET.get_or_init(chosen); }, |data: &[u8]| {
    if let Some(run) = TARGET.get() {
        run(data);
    }
});
