//! What is wrong with a configuration: all of it at once, each with its key, its place and what is allowed.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A line of the configuration file, from 1.
    Line(usize),
    /// An environment variable.
    Environment(String),
    /// Nowhere: the key is missing, or its default is meant.
    Absent,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key with its section, such as `hub.url`; empty where the file could not be parsed.
    pub key: String,
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong with it.
    pub reason: String,
    /// What would be right, where that can be said.
    pub allowed: Option<String>,
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The configuration file.
    pub file: PathBuf,
    /// At least one, in order of line.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems of `file`, in order of line; those without a line last.
    pub fn new(file: PathBuf, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match problem.origin {
            Origin::Line(line) => line,
            Origin::Environment(_) | Origin::Absent => usize::MAX,
        });
        Self { file, problems }
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

/// Collects problems with the values of keys; where they stand is found afterwards.
#[derive(Debug, Default)]
pub(super) struct Complaints(pub(super) Vec<Complaint>);

/// A problem whose place is not known yet.
#[derive(Debug)]
pub(super) struct Complaint {
    /// The key with its section.
    pub(super) key: String,
    /// What is wrong with it.
    pub(super) reason: String,
    /// What would be right.
    pub(super) allowed: Option<String>,
}

impl Complaints {
    /// `key` is wrong, and no more can be said of what would be right.
    pub(super) fn add(&mut self, key: &str, reason: impl fmt::Display) {
        self.push(key, reason, None);
    }

    /// `key` is wrong, and `allowed` would be right.
    pub(super) fn add_allowed(&mut self, key: &str, reason: impl fmt::Display, allowed: &str) {
        self.push(key, reason, Some(allowed.to_owned()));
    }

    /// Takes the value, or complains and gives nothing.
    pub(super) fn check<T, E: fmt::Display>(
        &mut self,
        key: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.add(key, error)).ok()
    }

    /// Complains unless `holds`.
    pub(super) fn require(&mut self, holds: bool, key: &str, reason: &str, allowed: &str) {
        if !holds {
            self.add_allowed(key, reason, allowed);
        }
    }

    fn push(&mut self, key: &str, reason: impl fmt::Display, allowed: Option<String>) {
        self.0.push(Complaint {
            key: key.to_owned(),
            reason: reason.to_string(),
            allowed,
        });
    }
}
