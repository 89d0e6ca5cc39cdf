//! The recorder itself: is a path meant, may the operation go on, and its record.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::control::{Control, Fate};
use crate::format::{ENV_RECORD, ENV_ROOT, Head, Kind};
use crate::table::{Opened, Table};

/// All of it. There is none where the environment does not ask for one.
pub(crate) struct Recorder {
    root: Vec<u8>,
    record: i32,
    pid: u32,
    /// Held while an operation is done and recorded.
    order: Mutex<Vec<u8>>,
    pub(crate) table: Table,
    control: Option<Control>,
    handles: AtomicU64,
    syncs: AtomicU64,
}

/// An operation on its way: the order of operations is held until it is recorded.
pub(crate) struct Step<'a> {
    recorder: &'a Recorder,
    buffer: Option<MutexGuard<'a, Vec<u8>>>,
    began_ns: u64,
}

/// The paths and bytes of a record.
#[derive(Default, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) path_2: &'a [u8],
    /// In pieces, as `writev` has them.
    pub(crate) data: &'a [&'a [u8]],
}

static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();

/// The recorder of this process.
pub(crate) fn recorder() -> Option<&'static Recorder> {
    RECORDER.get_or_init(Recorder::begin).as_ref()
}

impl Recorder {
    fn begin() -> Option<Self> {
        let root = std::env::var_os(ENV_ROOT)?;
        let record = CString::new(std::env::var_os(ENV_RECORD)?.as_bytes()).ok()?;
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        // SAFETY: a terminated path; what it returns is checked.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                record.as_ptr(),
                flags,
                0o600,
            )
        };
        let record = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        Some(Self {
            root: root.as_bytes().to_vec(),
            record,
            pid: std::process::id(),
            order: Mutex::default(),
            table: Table::new(),
            control: Control::open(),
            handles: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        })
    }

    /// `path`, seen from the directory `at`, as an absolute path, if it is the root or below it.
    pub(crate) fn meant(&self, at: i32, path: &CStr) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        if path.to_bytes().first() != Some(&b'/') {
            let link = if at == libc::AT_FDCWD {
                "/proc/self/cwd".to_owned()
            } else {
                format!("/proc/self/fd/{at}")
            };
            whole.extend_from_slice(std::fs::read_link(link).ok()?.as_os_str().as_bytes());
        }
        let mut clean: Vec<u8> = Vec::new();
        whole.push(b'/');
        whole.extend_from_slice(path.to_bytes());
        for part in whole.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    let end = clean.iter().rposition(|byte| *byte == b'/');
                    clean.truncate(end.unwrap_or(0));
                }
                part => {
                    clean.push(b'/');
                    clean.extend_from_slice(part);
                }
            }
        }
        let below = clean.strip_prefix(self.root.as_slice())?;
        (below.is_empty() || below.first() == Some(&b'/')).then_some(clean)
    }

    /// A number for a new open file.
    pub(crate) fn next_handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number for a new sync.
    pub(crate) fn next_sync(&self) -> u64 {
        self.syncs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What is to become of the operation `op` on `path`.
    pub(crate) fn fate(&self, op: u32, path: &[u8]) -> Fate {
        let below = path.get(self.root.len()..).unwrap_or_default();
        let control = self.control.as_ref();
        control.map_or(Fate::Passes, |control| control.fate(op, below))
    }

    /// Begins an operation.
    pub(crate) fn step(&self) -> Step<'_> {
        if let Some(control) = &self.control {
            control.enter();
        }
        let buffer = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        Step {
            recorder: self,
            buffer: Some(buffer),
            began_ns: now_ns(),
        }
    }

    /// What `fd` is, where it is a file below the root.
    pub(crate) fn file(&self, fd: i32) -> Option<Opened> {
        self.table.get(fd).filter(|opened| !opened.directory)
    }
}

impl Step<'_> {
    /// Writes the record and lets the next operation begin. `errno` is 0 where it succeeded.
    pub(crate) fn done(
        mut self,
        kind: Kind,
        errno: i32,
        handle: u64,
        ab: (u64, u64),
        parts: Parts<'_>,
    ) {
        let Some(mut buffer) = self.buffer.take() else {
            return;
        };
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let head = Head {
            kind: kind as u8,
            errno: errno.unsigned_abs(),
            pid: self.recorder.pid,
            began_ns: self.began_ns,
            ended_ns: now_ns(),
            handle,
            a: ab.0,
            b: ab.1,
            path_len: length(parts.path.len()),
            path_2_len: length(parts.path_2.len()),
            data_len: length(parts.data.iter().map(|piece| piece.len()).sum()),
        };
        buffer.clear();
        buffer.extend_from_slice(&head.encode());
        buffer.extend_from_slice(parts.path);
        buffer.extend_from_slice(parts.path_2);
        for piece in parts.data {
            buffer.extend_from_slice(piece);
        }
        append(self.recorder.record, &buffer);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        drop(self.buffer.take());
        if let Some(control) = &self.recorder.control {
            control.leave();
        }
    }
}

/// Writes all of it; a record that cannot be written ends the process, since it would be worth nothing.
fn append(fd: i32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: a buffer that is there, and its length.
        let written = unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) };
        match usize::try_from(written) {
            Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or_default(),
            _ if errno() == libc::EINTR => {}
            _ => std::process::abort(),
        }
    }
}

/// `CLOCK_MONOTONIC`, in ns.
fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The calling thread's `errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: glibc's place of errno, always there.
    unsafe { *libc::__errno_location() }
}

/// Sets it.
pub(crate) fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value };
}
