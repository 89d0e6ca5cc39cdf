//! The fuzz functions of this crate, by name; see `edge_relay::fuzzing` for the others.

use fuzz_harness::Target;

/// All of them.
pub const TARGETS: &[Target] = &[Target {
    name: "hub",
    run: crate::connection::fuzzing::hub,
}];

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// So that `within` can see what is allocated.
    #[global_allocator]
    static COUNTING: fuzz_harness::Counting = fuzz_harness::Counting;

    #[test]
    fn hub() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        super::TARGETS[0].replay(&fuzz);
    }
}
