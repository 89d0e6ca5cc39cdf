//! What is wrong with a configuration: all of it at once, each with its key, its place and what is allowed.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Environment(String),
    /// Nowhere: the key is missing, or its default is meant.
    Absent,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key with its section; empty where it is the file as a whole.
    pub key: String,
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong with it. Never a secret.
    pub reason: String,
    /// What would be right, where that can be said.
    pub allowed: Option<String>,
}

/// A configuration that cannot be used: each thing that is wrong with it, in order of line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(file: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match problem.origin {
            Origin::Line(line) => line,
            Origin::Environment(_) | Origin::Absent => usize::MAX,
        });
        Self {
            file: file.to_owned(),
            problems,
        }
    }

    pub(super) fn of_file(file: &Path, reason: String) -> Self {
        let problem = Problem {
            key: String::new(),
            origin: Origin::Absent,
            reason,
            allowed: None,
        };
        Self::new(file, vec![problem])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match &problem.origin {
                Origin::Line(line) => write!(f, "{}:{line}: ", self.file.display())?,
                Origin::Environment(name) => write!(f, "environment {name}: ")?,
                Origin::Absent => write!(f, "{}: ", self.file.display())?,
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.reason)?;
            if let Some(allowed) = &problem.allowed {
                write!(f, " (allowed: {allowed})")?;
            }
        }
        Ok(())
    }
}

/// A problem whose place is not known yet.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) key: String,
    pub(super) reason: String,
    pub(super) allowed: Option<String>,
}

/// Collects problems with the values of keys; where they stand is found afterwards.
#[derive(Debug, Default)]
pub(super) struct Complaints(pub(super) Vec<Complaint>);

impl Complaints {
    /// `key` is wrong; `allowed` would be right.
    pub(super) fn add(&mut self, key: &str, reason: impl fmt::Display, allowed: Option<&str>) {
        self.0.push(Complaint {
            key: key.to_owned(),
            reason: reason.to_string(),
            allowed: allowed.map(str::to_owned),
        });
    }

    /// Takes the value, or complains and gives nothing.
    pub(super) fn check<T, E: fmt::Display>(
        &mut self,
        key: &str,
        result: Result<T, E>,
        allowed: Option<&str>,
    ) -> Option<T> {
        result.map_err(|error| self.add(key, error, allowed)).ok()
    }

    /// Complains unless `holds`.
    pub(super) fn require(&mut self, holds: bool, key: &str, reason: &str, allowed: &str) {
        if !holds {
            self.add(key, reason, Some(allowed));
        }
    }
}
