//! The control file, mapped: the halt before a kill, and the rules by which operations fail.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::format::{
    CONTROL_BUSY, CONTROL_BYTES, CONTROL_HALT, CONTROL_RULES, ENV_CONTROL, PATTERN_BYTES_MAX,
    RULE_BYTES, RULES, rule,
};

/// The mapping; it lives as long as the process.
pub(crate) struct Control {
    base: *mut u8,
}

// SAFETY: all shared words are accessed as atomics; the mapping is never taken away.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

/// What is to happen to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done.
    Passes,
    /// It is not done, and fails with this errno.
    Fails(i32),
    /// Half of it is done.
    Short,
}

impl Control {
    /// Maps the file that the environment names.
    pub(crate) fn open() -> Option<Self> {
        let path = std::env::var_os(ENV_CONTROL)?;
        let path = CString::new(path.as_bytes()).ok()?;
        // SAFETY: a terminated path; the descriptor is checked.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::O_RDWR | libc::O_CLOEXEC,
            )
        };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: a new mapping of a file that has this size; the result is checked.
        let base = unsafe {
            libc::syscall(
                libc::SYS_mmap,
                ptr::null_mut::<u8>(),
                CONTROL_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        // SAFETY: the descriptor is ours; the mapping stays without it.
        unsafe { libc::syscall(libc::SYS_close, fd) };
        (base != -1).then_some(Self {
            base: base as *mut u8,
        })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4) && at + 4 <= CONTROL_BYTES);
        // SAFETY: within the mapping and aligned, as all offsets are multiples of four below its size.
        unsafe { &*self.base.add(at).cast::<AtomicU32>() }
    }

    fn rule_word(&self, number: usize, word: usize) -> &AtomicU32 {
        self.word(CONTROL_RULES + number * RULE_BYTES + word * 4)
    }

    /// Begins an operation; where the process is halted, it never returns.
    pub(crate) fn enter(&self) {
        let busy = self.word(CONTROL_BUSY);
        busy.fetch_add(1, Ordering::SeqCst);
        while self.word(CONTROL_HALT).load(Ordering::SeqCst) != 0 {
            busy.fetch_sub(1, Ordering::SeqCst);
            loop {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
        }
    }

    /// Ends what [`Control::enter`] began.
    pub(crate) fn leave(&self) {
        self.word(CONTROL_BUSY).fetch_sub(1, Ordering::SeqCst);
    }

    /// What becomes of an operation `op` (one of [`crate::format::op`]) on `path`, which is below the root.
    pub(crate) fn fate(&self, op: u32, path: &[u8]) -> Fate {
        for number in 0..RULES {
            let ops = self.rule_word(number, rule::OPS).load(Ordering::SeqCst);
            if ops & op == 0 || !self.matches(number, path) {
                continue;
            }
            let matched = self
                .rule_word(number, rule::MATCHED)
                .fetch_add(1, Ordering::SeqCst);
            if matched < self.rule_word(number, rule::SKIP).load(Ordering::SeqCst) {
                continue;
            }
            let failed = self.rule_word(number, rule::FAILED);
            if failed.load(Ordering::SeqCst)
                >= self.rule_word(number, rule::TIMES).load(Ordering::SeqCst)
            {
                continue;
            }
            failed.fetch_add(1, Ordering::SeqCst);
            return match self.rule_word(number, rule::ACTION).load(Ordering::SeqCst) {
                rule::SHORT => Fate::Short,
                errno => Fate::Fails(errno.cast_signed()),
            };
        }
        Fate::Passes
    }

    fn matches(&self, number: usize, path: &[u8]) -> bool {
        let length = self
            .rule_word(number, rule::PATTERN_LEN)
            .load(Ordering::SeqCst) as usize;
        let length = length.min(PATTERN_BYTES_MAX);
        let from = CONTROL_RULES + number * RULE_BYTES + (rule::PATTERN_LEN + 1) * 4;
        // SAFETY: within the mapping; the other side writes a pattern only while the rule is off.
        let pattern = unsafe { std::slice::from_raw_parts(self.base.add(from), length) };
        pattern.is_empty() || path.windows(length).any(|part| part == pattern)
    }
}
