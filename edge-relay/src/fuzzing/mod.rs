//! Every fuzz function, by name: run by libFuzzer (`fuzz/`), and by the tests here over what is kept.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod texts;
mod users;

use fuzz_harness::Target;

use crate::{admin, broker, config, listener, store};

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them. Each is a name of a directory in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[
    target("mqtt_bytes", listener::fuzzing::mqtt_bytes),
    target("mqtt_session", listener::fuzzing::mqtt_session),
    target("codec", listener::codec::fuzzing::codec),
    target("frames", store::fuzzing::frames),
    target("carve", store::fuzzing::carve),
    target("files", store::fuzzing::files),
    target("data_dir", store::fuzzing::data_dir),
    target("broker_state", broker::fuzzing::broker_state),
    target("config", config::fuzzing::config),
    target("admin", admin::fuzzing::admin),
    target("users", users::users),
    target("texts", texts::texts),
];

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::TARGETS;

    /// So that `within` can see what is allocated.
    #[global_allocator]
    static COUNTING: fuzz_harness::Counting = fuzz_harness::Counting;

    fn fuzz_dir() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
    }

    macro_rules! replay {
        ($($name:ident),*) => {
            $(#[test]
            fn $name() {
                let target = TARGETS.iter().find(|t| t.name == stringify!($name)).unwrap();
                target.replay(&fuzz_dir());
            })*

            #[test]
            fn every_target_is_replayed() {
                let replayed = [$(stringify!($name)),*];
                let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
                assert_eq!(names, replayed);
            }
        };
    }

    replay!(
        mqtt_bytes,
        mqtt_session,
        codec,
        frames,
        carve,
        files,
        data_dir,
        broker_state,
        config,
        admin,
        users,
        texts
    );

    #[test]
    fn memory_is_counted() {
        let held =
            std::panic::catch_unwind(|| fuzz_harness::within(1 << 20, || vec![0u8; 2 << 20]));
        assert!(held.is_err(), "2 MiB within 1 MiB");
    }
}
