use std::sync::Arc;

use super::*;

/// A clock that the test moves.
#[derive(Clone)]
struct Moved(Arc<Mutex<Times>>);

#[derive(Clone, Copy)]
struct Times {
    wall: i64,
    since_boot: u64,
    boot: u32,
    synchronised: bool,
}

impl Moved {
    fn new(times: Times) -> Self {
        Self(Arc::new(Mutex::new(times)))
    }
}

impl TimeSource for Moved {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.lock().wall)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.lock().since_boot)
    }
    fn boot(&self) -> BootId {
        BootId(self.0.lock().boot)
    }
    fn synchronised(&self) -> bool {
        self.0.lock().synchronised
    }
}

const NOON: i64 = 1_790_000_000_000;

fn in_1970(boot: u32) -> Moved {
    Moved::new(Times {
        wall: 5_000,
        since_boot: 5_000,
        boot,
        synchronised: false,
    })
}

fn synchronise(time: &Moved) {
    let mut times = time.0.lock();
    times.since_boot = 65_000;
    times.wall = NOON;
    times.synchronised = true;
}

#[test]
fn a_reading_of_1970_gets_its_time_once_the_clock_is_synchronised() {
    let dir = tempfile::tempdir().unwrap();
    let time = in_1970(7);
    let clock = SystemClock::with_source(time.clone(), dir.path(), Trust::Kernel);
    let early = clock.stamp();
    assert_eq!(
        clock.best_time_of(&early),
        (UnixMillis(5_000), ClockQuality::Unsynchronised)
    );

    synchronise(&time);
    clock.observe();
    assert_eq!(clock.steps_total(), 1);
    let corrected = (UnixMillis(NOON - 60_000), ClockQuality::Synchronised);
    assert_eq!(clock.best_time_of(&early), corrected);
    assert_eq!(clock.stamp().quality, ClockQuality::Synchronised);

    drop(clock);
    let next_boot = SystemClock::with_source(in_1970(8), dir.path(), Trust::Kernel);
    assert_eq!(
        next_boot.best_time_of(&early),
        corrected,
        "the offset of boot 7 was kept"
    );
    assert_eq!(next_boot.known_good(), Some(UnixMillis(NOON)));
    assert_eq!(
        next_boot.best_time_of(&next_boot.stamp()).1,
        ClockQuality::Unsynchronised
    );
}

#[test]
fn a_time_before_2025_is_not_trusted_whatever_is_said_of_it() {
    let dir = tempfile::tempdir().unwrap();
    for trust in [Trust::Kernel, Trust::Always, Trust::Never] {
        let time = in_1970(1);
        time.0.lock().synchronised = true;
        let clock = SystemClock::with_source(time, dir.path(), trust);
        assert_eq!(clock.quality(), ClockQuality::Unsynchronised);
    }
}

#[test]
fn trust_overrides_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (Trust::Always, false, true),
        (Trust::Never, true, false),
        (Trust::Kernel, true, true),
    ];
    for (trust, kernel, expected) in cases {
        let time = in_1970(1);
        time.0.lock().wall = NOON;
        time.0.lock().synchronised = kernel;
        let clock = SystemClock::with_source(time, dir.path(), trust);
        assert_eq!(
            clock.quality() == ClockQuality::Synchronised,
            expected,
            "{trust:?}"
        );
    }
}

#[test]
fn a_damaged_file_costs_only_what_it_knew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("boots"), b"{\"boots\": [garbage").unwrap();
    let time = in_1970(7);
    let clock = SystemClock::with_source(time.clone(), dir.path(), Trust::Kernel);
    assert_eq!(clock.known_good(), None);
    synchronise(&time);
    clock.observe();
    let again = SystemClock::with_source(in_1970(7), dir.path(), Trust::Kernel);
    assert_eq!(again.known_good(), Some(UnixMillis(NOON)));
}

#[test]
fn the_file_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    for boot in 0..600 {
        let time = in_1970(boot);
        synchronise(&time);
        let _ = SystemClock::with_source(time, dir.path(), Trust::Kernel);
    }
    assert!(std::fs::metadata(dir.path().join("boots")).unwrap().len() < 20_000);
}

#[test]
fn the_kernel_tells_sane_times() {
    let kernel = Kernel::new();
    assert!(kernel.wall() > PLAUSIBLE_MIN);
    let first = kernel.monotonic();
    assert!(first > Duration::ZERO);
    assert!(kernel.monotonic() >= first);
    assert_eq!(kernel.boot(), Kernel::new().boot());
}
