//! The record file as it is read, and the control file as it is written (`tests/recorder`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::{wait_for, within};

#[allow(dead_code, unreachable_pub)] // each side uses its half of it
#[path = "../../recorder/src/format.rs"]
mod format;

pub use format::{Head, Kind, op, rule::SHORT};

/// One recorded operation.
#[derive(Debug, Clone)]
pub struct Record {
    /// What, when and how.
    pub head: Head,
    /// What was done.
    pub kind: Kind,
    /// Below the root, without a leading slash; empty for the root itself.
    pub path: String,
    /// The second path of a rename or link.
    pub path_2: String,
    /// Where the bytes of a write are in [`Log::bytes`].
    pub data: std::ops::Range<usize>,
}

/// All that was recorded, in order.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The operations.
    pub records: Vec<Record>,
    /// The record file.
    pub bytes: Vec<u8>,
}

impl Log {
    /// Reads the record file of a recording below `root`.
    ///
    /// # Errors
    /// A file that is not one, or that ends within a record.
    pub fn read(file: &Path, root: &Path) -> Result<Self, String> {
        let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut records = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let record = read_one(&bytes, &mut at, root);
            records.push(record.ok_or(format!("no record at byte {at}"))?);
        }
        Ok(Self { records, bytes })
    }

    /// The bytes of a write.
    pub fn data(&self, record: &Record) -> &[u8] {
        &self.bytes[record.data.clone()]
    }
}

fn read_one(bytes: &[u8], at: &mut usize, root: &Path) -> Option<Record> {
    let head = Head::decode(bytes.get(*at..)?)?;
    let mut next = *at + format::HEAD_BYTES;
    let mut part = |length: u32| {
        let range = next..next + length as usize;
        next = range.end;
        bytes.get(range.clone()).map(|_| range)
    };
    let (path, path_2, data) = (
        part(head.path_len)?,
        part(head.path_2_len)?,
        part(head.data_len)?,
    );
    *at = next;
    let kind = Kind::of(head.kind)?;
    let text = |range: std::ops::Range<usize>| {
        let text = std::str::from_utf8(&bytes[range]).ok()?;
        let below = Path::new(text).strip_prefix(root);
        Some(below.map_or(text.to_owned(), |below| below.display().to_string()))
    };
    Some(Record {
        kind,
        path: text(path)?,
        path_2: text(path_2)?,
        data,
        head,
    })
}

/// The recorder's library. The one with debug assertions is taken first, whatever the tests are built with: only it is
/// tried in every test run.
///
/// # Errors
/// It was not built.
pub fn library() -> Result<PathBuf, String> {
    let name = "librelay_recorder.so";
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let debug = own.ancestors().map(|dir| dir.join("debug").join(name));
    let beside = own.ancestors().map(|dir| dir.join(name));
    let found = debug.chain(beside).find(|path| path.is_file());
    found.ok_or_else(|| {
        format!(
            "no {name} above {}: run `cargo build -p relay-recorder` first",
            own.display()
        )
    })
}

/// Where a process that is recorded writes to, and how its operations are made to fail.
#[derive(Debug)]
pub struct Recorder {
    root: PathBuf,
    record: PathBuf,
    control_path: PathBuf,
    control: File,
}

/// Which operations are to fail, and how.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// A sum of [`op`].
    pub ops: u32,
    /// A part of the path below the root; empty: every path.
    pub path: &'a str,
    /// An errno, or [`SHORT`].
    pub action: u32,
    /// How many matching operations pass before.
    pub skip: u32,
    /// How many fail then; `u32::MAX`: all, until told otherwise.
    pub times: u32,
}

impl Recorder {
    /// A recorder of what is done below `root`, which must exist; its files are put in `home`, outside of it.
    pub fn new(root: &Path, home: &Path) -> io::Result<Self> {
        let control_path = home.join("control");
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&control_path)?;
        control.set_len(format::CONTROL_BYTES as u64)?;
        Ok(Self {
            root: root.canonicalize()?,
            record: home.join("record"),
            control_path,
            control,
        })
    }

    /// The environment of a process that is to be recorded.
    pub fn environment(&self) -> Result<Vec<(String, String)>, String> {
        let text = |path: &Path| path.display().to_string();
        Ok(vec![
            ("LD_PRELOAD".to_owned(), text(&library()?)),
            (format::ENV_ROOT.to_owned(), text(&self.root)),
            (format::ENV_RECORD.to_owned(), text(&self.record)),
            (format::ENV_CONTROL.to_owned(), text(&self.control_path)),
        ])
    }

    /// What has been recorded.
    pub fn log(&self) -> Result<Log, String> {
        Log::read(&self.record, &self.root)
    }

    /// The record file.
    pub fn record_file(&self) -> &Path {
        &self.record
    }

    fn set(&self, at: usize, word: u32) {
        self.control
            .write_all_at(&word.to_ne_bytes(), at as u64)
            .unwrap();
    }

    fn get(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        self.control.read_exact_at(&mut word, at as u64).unwrap();
        u32::from_ne_bytes(word)
    }

    /// Stops every further operation of the process, and waits until none is on its way: before a kill. Syncs that are
    /// on their way stay so, and end without a record.
    pub fn halt(&self) {
        self.set(format::CONTROL_HALT, 1);
        wait_for("no operation is on its way", within(20), || {
            (self.get(format::CONTROL_BUSY) == 0).then_some(())
        });
    }

    /// Takes [`Recorder::halt`] back, for the next process.
    pub fn go_on(&self) {
        self.set(format::CONTROL_HALT, 0);
    }

    /// Sets rule `number` (below 16).
    pub fn fail(&self, number: usize, rule: Rule<'_>) {
        assert!(number < format::RULES && rule.path.len() <= format::PATTERN_BYTES_MAX);
        let base = format::CONTROL_RULES + number * format::RULE_BYTES;
        let word = |word: usize, value: u32| self.set(base + word * 4, value);
        word(format::rule::OPS, 0);
        word(format::rule::ACTION, rule.action);
        word(format::rule::SKIP, rule.skip);
        word(format::rule::TIMES, rule.times);
        word(format::rule::MATCHED, 0);
        word(format::rule::FAILED, 0);
        word(
            format::rule::PATTERN_LEN,
            u32::try_from(rule.path.len()).unwrap(),
        );
        let pattern_at = base + (format::rule::PATTERN_LEN + 1) * 4;
        self.control
            .write_all_at(rule.path.as_bytes(), pattern_at as u64)
            .unwrap();
        word(format::rule::OPS, rule.ops);
    }

    /// How many operations rule `number` has made fail.
    pub fn failed(&self, number: usize) -> u32 {
        self.get(format::CONTROL_RULES + number * format::RULE_BYTES + format::rule::FAILED * 4)
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        for number in 0..format::RULES {
            self.set(format::CONTROL_RULES + number * format::RULE_BYTES, 0);
        }
    }

    /// Waits until rule `number` has made an operation fail.
    #[track_caller]
    pub fn wait_failed(&self, number: usize, deadline: Duration) {
        wait_for("an operation failed", deadline, || {
            (self.failed(number) > 0).then_some(())
        });
    }
}
