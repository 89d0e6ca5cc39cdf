//! What an import did, file by file.

use std::fmt;
use std::path::PathBuf;

/// What became of the readings of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Stored now.
    pub new: u64,
    /// Stored before.
    pub known: u64,
    /// Of those, with another content than is stored: kept beside, with an alarm.
    pub conflicts: u64,
    /// Taken by no table: kept among the dead letters, and in no receipt.
    pub dead: u64,
}

impl Taken {
    pub(super) fn add(&mut self, other: Self) {
        self.new += other.new;
        self.known += other.known;
        self.conflicts += other.conflicts;
        self.dead += other.dead;
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is in the database.
    Taken(Taken),
    /// Nothing of it was taken, and why.
    Refused(String),
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Which.
    pub path: PathBuf,
    /// What became of it.
    pub verdict: Verdict,
}

/// An import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Each file, those included that a list names and that are not there.
    pub files: Vec<FileReport>,
    /// Directories without a list: the export was not finished.
    pub unlisted: Vec<PathBuf>,
    /// The receipts that were written.
    pub receipts: Vec<PathBuf>,
}

impl Report {
    /// Whether every file was taken.
    pub fn is_complete(&self) -> bool {
        let taken = |file: &FileReport| matches!(file.verdict, Verdict::Taken(_));
        self.files.iter().all(taken)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sum = Taken::default();
        for file in &self.files {
            let path = file.path.display();
            match &file.verdict {
                Verdict::Taken(taken) => {
                    sum.add(*taken);
                    let (new, known) = (taken.new, taken.known);
                    write!(f, "taken    {path}: {new} new, {known} were here already")?;
                    if taken.conflicts > 0 {
                        write!(f, ", {} CONFLICTS with what is here", taken.conflicts)?;
                    }
                    if taken.dead > 0 {
                        write!(f, ", {} in no table (dead_letters)", taken.dead)?;
                    }
                    writeln!(f)?;
                }
                Verdict::Refused(reason) => writeln!(f, "REFUSED  {path}: {reason}")?,
            }
        }
        for dir in &self.unlisted {
            let dir = dir.display();
            writeln!(
                f,
                "no list  {dir}: the export was not finished; what is not here still waits in the village"
            )?;
        }
        for receipt in &self.receipts {
            writeln!(f, "receipt  {}", receipt.display())?;
        }
        let taken = |file: &&FileReport| matches!(file.verdict, Verdict::Taken(_));
        let taken = self.files.iter().filter(taken).count();
        let refused = self.files.len() - taken;
        write!(
            f,
            "{taken} files taken, {refused} not; {} readings new, {} were here already",
            sum.new, sum.known
        )
    }
}
