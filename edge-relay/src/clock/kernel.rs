//! The kernel's clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hub_bridge::clock::{BootId, UnixMillis};

use super::TimeSource;

/// Time as this machine's kernel tells it.
#[derive(Debug)]
pub struct Kernel {
    boot: BootId,
}

impl Kernel {
    /// Of this boot.
    #[allow(clippy::new_without_default)] // it looks at the machine: nothing to default to
    pub fn new() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = match text.trim() {
            // No two boots may pass for one: times of the one would be corrected by the other's clock.
            "" => rand::random(),
            id => crc32fast::hash(id.as_bytes()),
        };
        Self { boot: BootId(boot) }
    }
}

impl TimeSource for Kernel {
    fn wall(&self) -> UnixMillis {
        let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => UnixMillis(millis(since)),
            Err(before) => UnixMillis(-millis(before.duration())),
        }
    }

    fn monotonic(&self) -> Duration {
        system::since_boot()
    }

    fn boot(&self) -> BootId {
        self.boot
    }

    fn synchronised(&self) -> bool {
        system::synchronised()
    }
}

/// The two calls that the standard library does not have.
#[allow(unsafe_code)] // system calls that fill a struct of ours
mod system {
    use std::time::Duration;

    /// `CLOCK_BOOTTIME`: never goes back, goes on while the machine sleeps.
    pub(super) fn since_boot() -> Duration {
        // SAFETY: all-zero is a valid timespec.
        let mut time: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live timespec, which the call fills.
        if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0 {
            return Duration::ZERO;
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// What an NTP client told the kernel. `modes` of 0 only reads, which needs no privilege.
    pub(super) fn synchronised() -> bool {
        // SAFETY: all-zero is a valid timex.
        let mut state: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live timex, which the call fills.
        let result = unsafe { libc::adjtimex(&raw mut state) };
        result >= 0 && result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0
    }
}
