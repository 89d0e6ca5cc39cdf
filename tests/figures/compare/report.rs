//! What a part found, as Markdown: targets, tables, settings.

use std::fmt::Write;

use super::servers::Kind;

/// A figure beside what it must at least (or at most) be.
#[derive(Debug)]
pub(crate) struct Target {
    what: String,
    bound: f64,
    at_most: bool,
    measured: Option<f64>,
    unit: &'static str,
    note: String,
}

impl Target {
    /// Met from `bound` up.
    pub(crate) fn at_least(
        what: &str,
        bound: f64,
        measured: Option<f64>,
        unit: &'static str,
    ) -> Self {
        Self {
            what: what.to_owned(),
            bound,
            at_most: false,
            measured,
            unit,
            note: String::new(),
        }
    }

    /// Met up to `bound`.
    pub(crate) fn at_most(
        what: &str,
        bound: f64,
        measured: Option<f64>,
        unit: &'static str,
    ) -> Self {
        Self {
            at_most: true,
            ..Self::at_least(what, bound, measured, unit)
        }
    }

    /// More to say of it.
    pub(crate) fn note(self, note: &str) -> Self {
        Self {
            note: note.to_owned(),
            ..self
        }
    }

    fn line(&self) -> String {
        let sign = if self.at_most { "≤" } else { "≥" };
        let met = self.measured.map(|m| {
            let reached = if self.at_most {
                m <= self.bound
            } else {
                m >= self.bound
            };
            if reached { "met" } else { "**missed**" }
        });
        let measured = self.measured.map_or("not measured".to_owned(), |m| {
            format!("**{m:.2} {}**", self.unit)
        });
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.note)
        };
        format!(
            "| {} | {sign} {} {} | {measured}{note} | {} |",
            self.what,
            self.bound,
            self.unit,
            met.unwrap_or("")
        )
    }
}

/// One part of the comparison.
#[derive(Debug)]
pub(crate) struct Part {
    /// As it is called on the command line, and between the marks in a document.
    pub(crate) name: &'static str,
    targets: Vec<Target>,
    text: String,
}

impl Part {
    /// Without figures yet; `how` they are taken.
    pub(crate) fn new(name: &'static str, how: &str) -> Self {
        Self {
            name,
            targets: Vec::new(),
            text: format!("{how}.\n"),
        }
    }

    /// Says versions and settings of what is compared.
    pub(crate) fn kinds(&mut self, kinds: &[Kind]) {
        self.text.push('\n');
        for kind in kinds {
            let version = kind.version().unwrap_or_default();
            let _ = writeln!(
                self.text,
                "- {} ({version}): {}",
                kind.name(),
                kind.settings()
            );
        }
    }

    /// Begins a table.
    pub(crate) fn table(&mut self, title: &str, columns: &[&str]) {
        let _ = write!(self.text, "\n**{title}**\n\n| {} |\n|", columns.join(" | "));
        for _ in columns {
            self.text.push_str("---|");
        }
        self.text.push('\n');
    }

    /// A row of the table begun last.
    pub(crate) fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// A figure with a bound.
    pub(crate) fn target(&mut self, target: Target) {
        self.targets.push(target);
    }

    /// All of it.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.targets.is_empty() {
            text.push_str("| what | bound | measured | |\n|---|---|---|---|\n");
            for target in &self.targets {
                let _ = writeln!(text, "{}", target.line());
            }
            text.push('\n');
        }
        text + &self.text
    }
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as milliseconds.
pub(crate) fn ms(seconds: f64) -> String {
    format!("{:.2}", seconds * 1e3)
}
