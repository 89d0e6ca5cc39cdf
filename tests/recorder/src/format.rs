//! The record file and the control file, as both sides see them: the recorder in the relay's process, which
//! writes the one and reads the other, and the harness (`tests/harness/replay/log.rs`), which includes this file.

/// Names the directory below which is recorded, absolute and without symbolic links.
pub const ENV_ROOT: &str = "RELAY_RECORDER_ROOT";
/// Names the record file, which is appended to.
pub const ENV_RECORD: &str = "RELAY_RECORDER_RECORD";
/// Names the control file, [`CONTROL_BYTES`] long.
pub const ENV_CONTROL: &str = "RELAY_RECORDER_CONTROL";

/// What was done. The number is what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A file or directory was opened, perhaps made: `handle`, `a` flags.
    Open = 1,
    /// `data` at offset `a` of `handle`.
    Write = 2,
    /// `handle` has `a` bytes from now on.
    Truncate = 3,
    /// `fallocate` of `handle`: `a` offset, `b` length; only the plain mode.
    Allocate = 4,
    /// `path` is called `path_2` from now on.
    Rename = 5,
    /// The name `path` of a file is gone.
    Unlink = 6,
    /// The directory `path` is gone.
    Rmdir = 7,
    /// The directory `path` is made.
    Mkdir = 8,
    /// `path_2` is another name of the file `path`.
    Link = 9,
    /// A sync of `handle` begins; `a` is its number in this process.
    SyncBegin = 10,
    /// It has ended.
    SyncEnd = 11,
    /// Something that this recorder cannot describe; `path` says what. A replay refuses it.
    Unsupported = 12,
}

impl Kind {
    /// From the number.
    pub fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Write,
            3 => Self::Truncate,
            4 => Self::Allocate,
            5 => Self::Rename,
            6 => Self::Unlink,
            7 => Self::Rmdir,
            8 => Self::Mkdir,
            9 => Self::Link,
            10 => Self::SyncBegin,
            11 => Self::SyncEnd,
            12 => Self::Unsupported,
            _ => return None,
        })
    }
}

/// The fixed part of a record; `path`, `path_2` and `data` follow in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// [`Kind`].
    pub kind: u8,
    /// 0, or what the call failed with: then it had no effect, but for a write what `data` says.
    pub errno: u32,
    /// The process.
    pub pid: u32,
    /// `CLOCK_MONOTONIC` before the call, in ns.
    pub began_ns: u64,
    /// After the call, before its caller knows: nothing that the caller did because of it is earlier.
    pub ended_ns: u64,
    /// Which open file, unique in the process.
    pub handle: u64,
    /// See [`Kind`].
    pub a: u64,
    /// See [`Kind`].
    pub b: u64,
    /// Length of `path`, in bytes.
    pub path_len: u32,
    /// Length of `path_2`, in bytes.
    pub path_2_len: u32,
    /// Length of `data`, in bytes.
    pub data_len: u32,
}

/// The size of a head, in bytes.
pub const HEAD_BYTES: usize = 68;

/// What a head begins with.
const MAGIC: u32 = 0x5245_4331;

impl Head {
    /// As bytes, little endian.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        let fields = MAGIC
            .to_le_bytes()
            .into_iter()
            .chain(u32::from(self.kind).to_le_bytes())
            .chain(self.errno.to_le_bytes())
            .chain(self.pid.to_le_bytes())
            .chain(self.began_ns.to_le_bytes())
            .chain(self.ended_ns.to_le_bytes())
            .chain(self.handle.to_le_bytes())
            .chain(self.a.to_le_bytes())
            .chain(self.b.to_le_bytes())
            .chain(self.path_len.to_le_bytes())
            .chain(self.path_2_len.to_le_bytes())
            .chain(self.data_len.to_le_bytes());
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }

    /// From bytes; `None` where they are no head.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut number = |size: usize| {
            let (head, tail) = rest.split_at_checked(size)?;
            rest = tail;
            let value = head.iter().rev();
            Some(value.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
        };
        let mut four = || u32::try_from(number(4)?).ok();
        if four()? != MAGIC {
            return None;
        }
        let (kind, errno, pid) = (u8::try_from(four()?).ok()?, four()?, four()?);
        Some(Self {
            kind,
            errno,
            pid,
            began_ns: number(8)?,
            ended_ns: number(8)?,
            handle: number(8)?,
            a: number(8)?,
            b: number(8)?,
            path_len: u32::try_from(number(4)?).ok()?,
            path_2_len: u32::try_from(number(4)?).ok()?,
            data_len: u32::try_from(number(4)?).ok()?,
        })
    }
}

/// The size of the control file, in bytes.
pub const CONTROL_BYTES: usize = 4096;
/// Where the word is that stops every further operation, for ever, when it is not 0: before a kill, so
/// that nothing is done that is not recorded.
pub const CONTROL_HALT: usize = 0;
/// Where the count is of operations on their way.
pub const CONTROL_BUSY: usize = 4;
/// Where the rules begin.
pub const CONTROL_RULES: usize = 64;
/// The size of a rule, in bytes: six words (see [`rule`]), the pattern's length, the pattern.
pub const RULE_BYTES: usize = 128;
/// How many rules there are.
pub const RULES: usize = 16;
/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 96;

/// Which word of a rule is what.
pub mod rule {
    /// For which operations: a sum of [`super::op`]; 0: the rule is off.
    pub const OPS: usize = 0;
    /// With what the operation fails: an errno, or [`SHORT`].
    pub const ACTION: usize = 1;
    /// How many matching operations pass before.
    pub const SKIP: usize = 2;
    /// How many fail then; `u32::MAX`: all.
    pub const TIMES: usize = 3;
    /// Counted by the recorder: matching operations.
    pub const MATCHED: usize = 4;
    /// Counted by the recorder: operations that failed.
    pub const FAILED: usize = 5;
    /// The length of the pattern, a part of the path below the root; empty: every path.
    pub const PATTERN_LEN: usize = 6;
    /// As an action: half of the bytes are written, and that is what is returned.
    pub const SHORT: u32 = 10_000;
}

/// Operations that a rule can be for.
pub mod op {
    /// `open`, of an existing file or of a new one.
    pub const OPEN: u32 = 1;
    /// `write` and its variants.
    pub const WRITE: u32 = 2;
    /// `fsync`, `fdatasync`.
    pub const SYNC: u32 = 4;
    /// `rename`.
    pub const RENAME: u32 = 8;
    /// `unlink`, `rmdir`.
    pub const REMOVE: u32 = 16;
    /// `mkdir`.
    pub const MKDIR: u32 = 32;
    /// `ftruncate`, `fallocate`.
    pub const RESIZE: u32 = 64;
    /// `link`.
    pub const LINK: u32 = 128;
}
