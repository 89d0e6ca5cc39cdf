//! The running totals in a document: a table between two markers, one row a kind, to which each campaign adds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::case::KINDS;
use crate::outcome::{COLUMNS, Outcome};

const BEGIN: &str = "<!-- totals: written by `torture --totals`, do not edit -->";
const END: &str = "<!-- end of totals -->";

/// Adds `sums` to the table in `file`.
pub(crate) fn merge(file: &Path, sums: &BTreeMap<&'static str, Outcome>) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("the document has no place for totals")?;
    let (table, after) = rest.split_once(END).context("the totals have no end")?;
    let mut rows = parse(table);
    let stamp = stamp();
    for (kind, sum) in sums {
        let (row, last) = rows.entry((*kind).to_owned()).or_default();
        row.add(sum);
        last.clone_from(&stamp);
    }
    let text = format!("{before}{BEGIN}\n{}{END}{after}", shown(&rows));
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// Sums, and when and with what they were last added to.
type Rows = BTreeMap<String, (Outcome, String)>;

fn parse(table: &str) -> Rows {
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let kind = cells.next()?.trim_matches('`').to_owned();
        let numbers: Vec<u64> = cells
            .by_ref()
            .take(COLUMNS.len())
            .map_while(|cell| cell.replace(',', "").parse().ok())
            .collect();
        let sum = Outcome::from_numbers(numbers.try_into().ok()?);
        Some((kind, (sum, cells.next().unwrap_or_default().to_owned())))
    });
    rows.collect()
}

fn shown(rows: &Rows) -> String {
    let mut text = format!("| kind | {} | last run |\n", COLUMNS.join(" | "));
    let _ = writeln!(text, "|---|{}---|", "--:|".repeat(COLUMNS.len()));
    let place = |kind: &String| KINDS.iter().position(|k| k.name == kind);
    let mut ordered: Vec<_> = rows.iter().collect();
    ordered.sort_by_key(|(kind, _)| place(kind).unwrap_or(usize::MAX));
    for (kind, (sum, stamp)) in ordered {
        let numbers = sum.numbers().map(grouped).join(" | ");
        let _ = writeln!(text, "| `{kind}` | {numbers} | {stamp} |");
    }
    text
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Date, commit, build of the relay.
fn stamp() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.filter(|text| !text.is_empty())
            .unwrap_or_else(|| "?".to_owned())
    };
    let date = said("date", &["-u", "+%Y-%m-%d"]);
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    let relay = harness::relay::binary();
    let profile = relay.parent().and_then(Path::file_name).unwrap_or_default();
    format!("{date}, {commit}, {}", profile.to_string_lossy())
}
