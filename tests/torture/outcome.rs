//! What a case, or all cases of a kind, came to.

use std::fmt::Write;

use serde_json::{Value, json};

/// Sums of one case or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Cases.
    pub(crate) cases: u64,
    /// Faults that were made: kills, cuts, damages.
    pub(crate) faults: u64,
    /// Readings that meters saw acknowledged.
    pub(crate) acknowledged: u64,
    /// Of these, what is not at the hub.
    pub(crate) lost: u64,
    /// Of the lost, what the relay names by sequence.
    pub(crate) named: u64,
    /// What the relay names as lost and nobody was told is kept.
    pub(crate) in_vain: u64,
    /// Arrivals of an identity that had arrived before.
    pub(crate) duplicates: u64,
    /// Longest time from the start of a process until a CONNECT was answered, in ms.
    pub(crate) listen_ms: u64,
    /// Cases that failed.
    pub(crate) failed: u64,
}

/// The columns of every table.
pub(crate) const COLUMNS: [&str; 9] = [
    "cases",
    "faults",
    "acknowledged",
    "lost",
    "of these named",
    "named in vain",
    "duplicates",
    "longest to listen, ms",
    "failed",
];

impl Outcome {
    /// The numbers in the order of [`COLUMNS`].
    pub(crate) fn numbers(&self) -> [u64; 9] {
        [
            self.cases,
            self.faults,
            self.acknowledged,
            self.lost,
            self.named,
            self.in_vain,
            self.duplicates,
            self.listen_ms,
            self.failed,
        ]
    }

    /// From numbers in the order of [`COLUMNS`].
    pub(crate) fn from_numbers(numbers: [u64; 9]) -> Self {
        let [
            cases,
            faults,
            acknowledged,
            lost,
            named,
            in_vain,
            duplicates,
            listen_ms,
            failed,
        ] = numbers;
        Self {
            cases,
            faults,
            acknowledged,
            lost,
            named,
            in_vain,
            duplicates,
            listen_ms,
            failed,
        }
    }

    /// Adds another one's sums.
    pub(crate) fn add(&mut self, other: &Self) {
        let mut sums = self.numbers();
        for (sum, number) in sums.iter_mut().zip(other.numbers()) {
            *sum += number;
        }
        let listen_ms = self.listen_ms.max(other.listen_ms);
        *self = Self::from_numbers(sums);
        self.listen_ms = listen_ms;
    }

    /// As one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        json!(self.numbers()).to_string()
    }

    /// From what [`Outcome::to_json`] made.
    pub(crate) fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let numbers: Option<Vec<u64>> = value.as_array()?.iter().map(Value::as_u64).collect();
        Some(Self::from_numbers(numbers?.try_into().ok()?))
    }
}

/// A table by kind, for the terminal.
pub(crate) fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a Outcome)>) -> String {
    let mut text = format!("{:<12}", "kind");
    for column in COLUMNS {
        let _ = write!(text, "  {column:>12}");
    }
    for (kind, outcome) in rows {
        let _ = write!(text, "\n{kind:<12}");
        for (number, column) in outcome.numbers().into_iter().zip(COLUMNS) {
            let _ = write!(text, "  {number:>width$}", width = column.len().max(12));
        }
    }
    text
}
