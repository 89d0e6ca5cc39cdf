//! A wall clock that tests move, in a process that knows nothing of it: libfaketime, told by a file.
//!
//! Monotonic time stays the machine's, as it does when a real clock is stepped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::relay::Relay;

/// The clock of one relay.
#[derive(Debug)]
pub struct Clock {
    home: TempDir,
    library: PathBuf,
}

impl Clock {
    /// A clock that shows `unix_s`; an error says why there cannot be one.
    pub fn showing(unix_s: i64) -> Result<Self, String> {
        let library = library().ok_or("libfaketime is not installed (Debian: faketime)")?;
        let home = crate::scratch("clock-");
        let clock = Self { home, library };
        clock.set(unix_s);
        Ok(clock)
    }

    /// Steps to `unix_s`; it runs on from there.
    pub fn set(&self, unix_s: i64) {
        let offset = unix_s - unix_now();
        let new = self.home.path().join("new");
        fs::write(&new, format!("{offset:+}s\n")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("offset")
    }

    /// Makes it the clock of `relay`, from its next start.
    pub fn rule(&self, relay: &mut Relay) {
        relay.env("LD_PRELOAD", self.library.to_str().unwrap());
        relay.env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap());
        relay.env("FAKETIME_NO_CACHE", "1");
        relay.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        relay.env("DONT_FAKE_MONOTONIC", "1");
    }
}

fn library() -> Option<PathBuf> {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
        "/usr/lib64/faketime/libfaketimeMT.so.1",
    ];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.map(PathBuf::from)
}

/// The machine's own clock, in s since 1970.
pub fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_secs()).unwrap()
}
