//! The functions of the C library that are replaced. Each does the same by a system call; those that have a `64` are the same
//! function under two names, as `off_t` has 64 bits wherever this is built.
//!
//! `open` and `fcntl` take a variable argument list in C. Here they have as many parameters as they can have: on the
//! machines that this is for (`x86_64`, `aarch64`) such arguments come in the same registers.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};

use libc::{iovec, mode_t, off_t, size_t, ssize_t};

use crate::control::Fate;
use crate::format::{Kind, op};
use crate::record::{Parts, Recorder, errno, recorder, set_errno};
use crate::table::Opened;

const CWD: c_int = libc::AT_FDCWD;

/// `-1`, with this errno.
fn fail(error: c_int) -> c_int {
    set_errno(error);
    -1
}

/// What a system call returned, as an `int`.
#[allow(clippy::cast_possible_truncation)] // descriptors, 0 and -1
fn int(result: c_long) -> c_int {
    result as c_int
}

/// Does and records an operation on names; it has an effect or none.
fn named(
    recorder: &Recorder,
    op: u32,
    kind: Kind,
    paths: (&[u8], &[u8]),
    real: impl FnOnce() -> c_long,
) -> c_int {
    let step = recorder.step();
    let parts = Parts {
        path: paths.0,
        path_2: paths.1,
        data: &[],
    };
    // A rename is matched by its new name: that is the file that the program means.
    let meant = if paths.1.is_empty() { paths.0 } else { paths.1 };
    if let Fate::Fails(error) = recorder.fate(op, meant) {
        step.done(kind, error, 0, (0, 0), parts);
        return fail(error);
    }
    let result = int(real());
    if result == 0 {
        step.done(kind, 0, 0, (0, 0), parts);
    }
    result
}

fn unsupported(recorder: &Recorder, what: &str) {
    let parts = Parts {
        path: what.as_bytes(),
        ..Parts::default()
    };
    recorder.step().done(Kind::Unsupported, 0, 0, (0, 0), parts);
}

unsafe fn is_directory(fd: c_int) -> bool {
    // SAFETY: all-zero is a valid stat, and fstat writes to it.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &raw mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
    }
}

unsafe fn open_at(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    let real = || {
        int(unsafe { libc::syscall(libc::SYS_openat, at, path, flags | libc::O_LARGEFILE, mode) })
    };
    let Some(recorder) = recorder() else {
        return real();
    };
    // SAFETY: the caller's path ends with NUL.
    let Some(path) = recorder.meant(at, unsafe { CStr::from_ptr(path) }) else {
        let fd = real();
        recorder.table.clear(fd);
        return fd;
    };
    let step = recorder.step();
    let parts = Parts {
        path: &path,
        ..Parts::default()
    };
    let flags_word = u64::from(flags.cast_unsigned());
    if let Fate::Fails(error) = recorder.fate(op::OPEN, &path) {
        step.done(Kind::Open, error, 0, (flags_word, 0), parts);
        return fail(error);
    }
    let fd = real();
    if fd < 0 {
        return fd;
    }
    let handle = recorder.next_handle();
    // SAFETY: a descriptor that was just opened.
    let directory = unsafe { is_directory(fd) };
    recorder.table.set(
        fd,
        Opened {
            handle,
            path: path.clone(),
            directory,
        },
    );
    let synchronous = !directory && flags & libc::O_DSYNC != 0;
    let temporary = flags & libc::O_TMPFILE == libc::O_TMPFILE;
    step.done(Kind::Open, 0, handle, (flags_word, 0), parts);
    if synchronous || temporary {
        unsupported(recorder, "open with O_SYNC, O_DSYNC or O_TMPFILE");
    }
    fd
}

/// Does and records a write of `pieces`.
unsafe fn write_pieces(
    fd: c_int,
    pieces: &[&[u8]],
    offset: Option<off_t>,
    real: impl FnOnce() -> c_long,
) -> ssize_t {
    let Some((recorder, file)) = recorder().and_then(|r| Some((r, r.file(fd)?))) else {
        return real() as ssize_t;
    };
    let step = recorder.step();
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let result = match recorder.fate(op::WRITE, &file.path) {
        Fate::Passes => real(),
        Fate::Short if total > 1 => {
            let half: Vec<u8> = pieces.concat().into_iter().take(total / 2).collect();
            // SAFETY: a buffer that is there, and its length.
            unsafe {
                match offset {
                    Some(at) => {
                        libc::syscall(libc::SYS_pwrite64, fd, half.as_ptr(), half.len(), at)
                    }
                    None => libc::syscall(libc::SYS_write, fd, half.as_ptr(), half.len()),
                }
            }
        }
        fate => {
            let error = if let Fate::Fails(error) = fate {
                error
            } else {
                libc::ENOSPC
            };
            let parts = Parts {
                path: &file.path,
                ..Parts::default()
            };
            step.done(Kind::Write, error, file.handle, (0, 0), parts);
            return fail(error) as ssize_t;
        }
    };
    let Ok(mut left) = usize::try_from(result) else {
        return result as ssize_t;
    };
    let at = offset.unwrap_or_else(|| {
        // SAFETY: asks for the position.
        let end = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        end - result
    });
    let mut written = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let part = piece.get(..left.min(piece.len())).unwrap_or_default();
        left -= part.len();
        written.push(part);
    }
    let parts = Parts {
        data: &written,
        ..Parts::default()
    };
    step.done(Kind::Write, 0, file.handle, (at.cast_unsigned(), 0), parts);
    result as ssize_t
}

unsafe fn vector<'a>(iov: *const iovec, count: c_int) -> Vec<&'a [u8]> {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's vector and its length; each of its buffers is there during the call.
    unsafe {
        let all = if count == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(iov, count)
        };
        let pieces = all.iter().filter(|one| one.iov_len > 0);
        pieces
            .map(|one| std::slice::from_raw_parts(one.iov_base.cast(), one.iov_len))
            .collect()
    }
}

unsafe fn bytes<'a>(buffer: *const c_void, count: size_t) -> &'a [u8] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's buffer and its length.
    unsafe { std::slice::from_raw_parts(buffer.cast(), count) }
}

fn resize(fd: c_int, kind: Kind, ab: (u64, u64), real: impl FnOnce() -> c_long) -> c_int {
    let Some((recorder, file)) = recorder().and_then(|r| Some((r, r.file(fd)?))) else {
        return int(real());
    };
    let step = recorder.step();
    if let Fate::Fails(error) = recorder.fate(op::RESIZE, &file.path) {
        step.done(kind, error, file.handle, ab, Parts::default());
        return fail(error);
    }
    let result = int(real());
    if result == 0 {
        step.done(kind, 0, file.handle, ab, Parts::default());
    }
    result
}

fn sync(fd: c_int, real: impl FnOnce() -> c_long) -> c_int {
    let Some((recorder, file)) = recorder().and_then(|r| Some((r, r.table.get(fd)?))) else {
        return int(real());
    };
    let number = recorder.next_sync();
    let parts = Parts::default();
    recorder
        .step()
        .done(Kind::SyncBegin, 0, file.handle, (number, 0), parts);
    let (result, error) = match recorder.fate(op::SYNC, &file.path) {
        Fate::Passes => {
            let result = int(real());
            (result, if result == 0 { 0 } else { errno() })
        }
        Fate::Fails(error) => (-1, error),
        Fate::Short => (-1, libc::EIO),
    };
    recorder
        .step()
        .done(Kind::SyncEnd, error, file.handle, (number, 0), parts);
    if result == 0 { 0 } else { fail(error) }
}

/// An operation of two names, both below the root or neither.
unsafe fn two_names(
    op: u32,
    kind: Kind,
    from: (c_int, *const c_char),
    to: (c_int, *const c_char),
    real: impl FnOnce() -> c_long,
) -> c_int {
    let Some(recorder) = recorder() else {
        return int(real());
    };
    // SAFETY: the caller's paths end with NUL.
    let (old, new) = unsafe {
        (
            recorder.meant(from.0, CStr::from_ptr(from.1)),
            recorder.meant(to.0, CStr::from_ptr(to.1)),
        )
    };
    match (old, new) {
        (Some(old), Some(new)) => named(recorder, op, kind, (&old, &new), real),
        (None, None) => int(real()),
        _ => {
            unsupported(recorder, "a rename or link into the directory or out of it");
            int(real())
        }
    }
}

unsafe fn one_name(
    op: u32,
    kind: Kind,
    at: c_int,
    path: *const c_char,
    real: impl FnOnce() -> c_long,
) -> c_int {
    // SAFETY: the caller's path ends with NUL.
    let meant = recorder().and_then(|r| Some((r, r.meant(at, unsafe { CStr::from_ptr(path) })?)));
    match meant {
        Some((recorder, path)) => named(recorder, op, kind, (&path, &[]), real),
        None => int(real()),
    }
}

/// `new` is the same open file as `old`.
fn duplicated(old: c_int, new: c_int) -> c_int {
    if let Some(recorder) = recorder()
        && new >= 0
    {
        recorder.table.clear(new);
        if let Some(opened) = recorder.table.get(old) {
            recorder.table.set(new, opened);
        }
    }
    new
}

/// Where the target is below the root, the copy inside of the kernel is not there: programs then copy by themselves.
fn copy(to: c_int, real: impl FnOnce() -> c_long) -> ssize_t {
    match recorder().and_then(|r| r.file(to)) {
        Some(_) => fail(libc::ENOSYS) as ssize_t,
        None => real() as ssize_t,
    }
}

/// Functions that the C library has, under one name or two: `[name, other_name](arguments) -> result { body }`.
macro_rules! replaced {
    (@one $name:ident ($($argument:ident: $type:ty),* $(,)?) $result:ty, $body:block) => {
        /// As in the C library.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the caller keeps what the C library asks of it, and it is handed on unchanged.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    };
    (@each [$($name:ident),+] $arguments:tt $result:ty, $body:block) => {
        $(replaced!(@one $name $arguments $result, $body);)+
    };
    ($([$($name:ident),+] $arguments:tt -> $result:ty $body:block)*) => {
        $(replaced!(@each [$($name),+] $arguments $result, $body);)*
    };
}

replaced! {
    [open, open64](path: *const c_char, flags: c_int, mode: mode_t) -> c_int { open_at(CWD, path, flags, mode) }
    [openat, openat64](at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int { open_at(at, path, flags, mode) }
    [creat, creat64](path: *const c_char, mode: mode_t) -> c_int {
        open_at(CWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode)
    }
    [close](fd: c_int) -> c_int {
        if let Some(recorder) = recorder() {
            recorder.table.clear(fd);
        }
        int(libc::syscall(libc::SYS_close, fd))
    }
    [dup](fd: c_int) -> c_int { duplicated(fd, int(libc::syscall(libc::SYS_dup, fd))) }
    [dup2](fd: c_int, new: c_int) -> c_int {
        if fd == new {
            return if libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFD) < 0 { -1 } else { new };
        }
        duplicated(fd, int(libc::syscall(libc::SYS_dup3, fd, new, 0)))
    }
    [dup3](fd: c_int, new: c_int, flags: c_int) -> c_int { duplicated(fd, int(libc::syscall(libc::SYS_dup3, fd, new, flags))) }
    [fcntl, fcntl64](fd: c_int, command: c_int, argument: usize) -> c_int {
        let result = int(libc::syscall(libc::SYS_fcntl, fd, command, argument));
        match command {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, result),
            _ => result,
        }
    }

    [write](fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
        write_pieces(fd, &[bytes(buffer, count)], None, || libc::syscall(libc::SYS_write, fd, buffer, count))
    }
    [pwrite, pwrite64](fd: c_int, buffer: *const c_void, count: size_t, at: off_t) -> ssize_t {
        write_pieces(fd, &[bytes(buffer, count)], Some(at), || libc::syscall(libc::SYS_pwrite64, fd, buffer, count, at))
    }
    [writev](fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        write_pieces(fd, &vector(iov, count), None, || libc::syscall(libc::SYS_writev, fd, iov, count))
    }
    [pwritev, pwritev64](fd: c_int, iov: *const iovec, count: c_int, at: off_t) -> ssize_t {
        write_pieces(fd, &vector(iov, count), Some(at), || libc::syscall(libc::SYS_pwritev, fd, iov, count, at, 0))
    }
    [copy_file_range](from: c_int, from_at: *mut off_t, to: c_int, to_at: *mut off_t, count: size_t, flags: c_uint) -> ssize_t {
        copy(to, || libc::syscall(libc::SYS_copy_file_range, from, from_at, to, to_at, count, flags))
    }
    [sendfile, sendfile64](to: c_int, from: c_int, at: *mut off_t, count: size_t) -> ssize_t {
        copy(to, || libc::syscall(libc::SYS_sendfile, to, from, at, count))
    }
    [splice](from: c_int, from_at: *mut off_t, to: c_int, to_at: *mut off_t, count: size_t, flags: c_uint) -> ssize_t {
        copy(to, || libc::syscall(libc::SYS_splice, from, from_at, to, to_at, count, flags))
    }

    [ftruncate, ftruncate64](fd: c_int, length: off_t) -> c_int {
        resize(fd, Kind::Truncate, (length.cast_unsigned(), 0), || libc::syscall(libc::SYS_ftruncate, fd, length))
    }
    [fallocate, fallocate64](fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
        if mode != 0 && let Some(recorder) = recorder() && recorder.file(fd).is_some() {
            unsupported(recorder, "fallocate with a mode");
        }
        let ab = (at.cast_unsigned(), length.cast_unsigned());
        resize(fd, Kind::Allocate, ab, || libc::syscall(libc::SYS_fallocate, fd, mode, at, length))
    }
    [posix_fallocate, posix_fallocate64](fd: c_int, at: off_t, length: off_t) -> c_int {
        let ab = (at.cast_unsigned(), length.cast_unsigned());
        match resize(fd, Kind::Allocate, ab, || libc::syscall(libc::SYS_fallocate, fd, 0, at, length)) {
            0 => 0,
            _ => errno(),
        }
    }
    [truncate, truncate64](path: *const c_char, length: off_t) -> c_int {
        if let Some(recorder) = recorder() && recorder.meant(CWD, CStr::from_ptr(path)).is_some() {
            unsupported(recorder, "truncate by name");
        }
        int(libc::syscall(libc::SYS_truncate, path, length))
    }

    [rename](old: *const c_char, new: *const c_char) -> c_int {
        two_names(op::RENAME, Kind::Rename, (CWD, old), (CWD, new), || libc::syscall(libc::SYS_renameat2, CWD, old, CWD, new, 0))
    }
    [renameat](old_at: c_int, old: *const c_char, new_at: c_int, new: *const c_char) -> c_int {
        two_names(op::RENAME, Kind::Rename, (old_at, old), (new_at, new), || {
            libc::syscall(libc::SYS_renameat2, old_at, old, new_at, new, 0)
        })
    }
    [renameat2](old_at: c_int, old: *const c_char, new_at: c_int, new: *const c_char, flags: c_uint) -> c_int {
        if flags & libc::RENAME_EXCHANGE != 0 && let Some(recorder) = recorder() {
            unsupported(recorder, "an exchange of names");
        }
        two_names(op::RENAME, Kind::Rename, (old_at, old), (new_at, new), || {
            libc::syscall(libc::SYS_renameat2, old_at, old, new_at, new, flags)
        })
    }
    [link](old: *const c_char, new: *const c_char) -> c_int {
        two_names(op::LINK, Kind::Link, (CWD, old), (CWD, new), || libc::syscall(libc::SYS_linkat, CWD, old, CWD, new, 0))
    }
    [linkat](old_at: c_int, old: *const c_char, new_at: c_int, new: *const c_char, flags: c_int) -> c_int {
        two_names(op::LINK, Kind::Link, (old_at, old), (new_at, new), || {
            libc::syscall(libc::SYS_linkat, old_at, old, new_at, new, flags)
        })
    }
    [symlink](target: *const c_char, path: *const c_char) -> c_int {
        if let Some(recorder) = recorder() && recorder.meant(CWD, CStr::from_ptr(path)).is_some() {
            unsupported(recorder, "a symbolic link");
        }
        int(libc::syscall(libc::SYS_symlinkat, target, CWD, path))
    }
    [unlink](path: *const c_char) -> c_int {
        one_name(op::REMOVE, Kind::Unlink, CWD, path, || libc::syscall(libc::SYS_unlinkat, CWD, path, 0))
    }
    [unlinkat](at: c_int, path: *const c_char, flags: c_int) -> c_int {
        let kind = if flags & libc::AT_REMOVEDIR == 0 { Kind::Unlink } else { Kind::Rmdir };
        one_name(op::REMOVE, kind, at, path, || libc::syscall(libc::SYS_unlinkat, at, path, flags))
    }
    [rmdir](path: *const c_char) -> c_int {
        one_name(op::REMOVE, Kind::Rmdir, CWD, path, || libc::syscall(libc::SYS_unlinkat, CWD, path, libc::AT_REMOVEDIR))
    }
    [mkdir](path: *const c_char, mode: mode_t) -> c_int {
        one_name(op::MKDIR, Kind::Mkdir, CWD, path, || libc::syscall(libc::SYS_mkdirat, CWD, path, mode))
    }
    [mkdirat](at: c_int, path: *const c_char, mode: mode_t) -> c_int {
        one_name(op::MKDIR, Kind::Mkdir, at, path, || libc::syscall(libc::SYS_mkdirat, at, path, mode))
    }

    [fsync](fd: c_int) -> c_int { sync(fd, || libc::syscall(libc::SYS_fsync, fd)) }
    [fdatasync](fd: c_int) -> c_int { sync(fd, || libc::syscall(libc::SYS_fdatasync, fd)) }

    [mmap, mmap64](address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, at: off_t) -> *mut c_void {
        let written = protection & libc::PROT_WRITE != 0 && flags & libc::MAP_SHARED != 0 && flags & libc::MAP_ANONYMOUS == 0;
        if written && let Some(recorder) = recorder() && recorder.file(fd).is_some() {
            unsupported(recorder, "a shared mapping to write to");
        }
        libc::syscall(libc::SYS_mmap, address, length, protection, flags, fd, at) as *mut c_void
    }
}
