//! The fuzz functions of this crate, by name; see `edge_relay::fuzzing` for the others.

use fuzz_harness::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "hub",
        run: crate::connection::fuzzing::hub,
    },
    Target {
        name: "uplink_frame",
        run: crate::wire::frame::fuzzing::uplink_frame,
    },
    Target {
        name: "receipts",
        run: crate::wire::fuzzing::receipts,
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// So that `within` can see what is allocated.
    #[global_allocator]
    static COUNTING: fuzz_harness::Counting = fuzz_harness::Counting;

    fn replay(name: &str) {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let target = super::TARGETS.iter().find(|target| target.name == name);
        target.unwrap().replay(&fuzz);
    }

    #[test]
    fn hub() {
        replay("hub");
    }

    #[test]
    fn uplink_frame() {
        replay("uplink_frame");
    }

    #[test]
    fn receipts() {
        replay("receipts");
    }
}
