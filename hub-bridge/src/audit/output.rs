//! An audit for people and for programs.

use crate::identity::SequenceRange;
use crate::report::column::Kind::{Instant, Integer, Number, Text};
use crate::report::column::{Column, Value, column};
use crate::report::write::{Document, Out, WriteError};

use super::epoch::{EpochAudit, MissingRange};
use super::meters::{Finding, seconds};
use super::{Audit, Outcome, VillageAudit};

const EPOCHS: &[Column] = &[
    column("village", Text),
    column("epoch", Text),
    column("verdict", Text),
    column("said", Integer),
    column("rows", Integer),
    column("beyond", Integer),
    column("missing", Integer),
    column("unexplained", Integer),
    column("unknown", Integer),
    column("digest", Text),
    column("conflicts", Integer),
    column("unsynchronised", Integer),
    column("unmapped", Integer),
    column("heard_at", Instant),
];

const MISSING: &[Column] = &[
    column("village", Text),
    column("epoch", Text),
    column("first", Integer),
    column("last", Integer),
    column("cause", Text),
    column("reason", Text),
];

const CONTRADICTIONS: &[Column] = &[
    column("village", Text),
    column("epoch", Text),
    column("what", Text),
];

const VILLAGES: &[Column] = &[
    column("village", Text),
    column("verdict", Text),
    column("heard_at", Instant),
    column("silent", Text),
    column("dead_letters", Integer),
    column("resets", Integer),
    column("glitches", Integer),
    column("jumps", Integer),
    column("gaps", Integer),
    column("gaps_kwh", Number),
];

const METERS: &[Column] = &[
    column("village", Text),
    column("meter", Text),
    column("what", Text),
    column("from", Instant),
    column("to", Instant),
    column("hours", Number),
    column("kwh", Number),
];

pub(super) fn json(audit: &Audit, mut out: Out) -> Result<(), WriteError> {
    serde_json::to_writer_pretty(&mut out, audit)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

pub(super) fn table(audit: &Audit, mut document: Box<dyn Document>) -> Result<(), WriteError> {
    let outcome = match audit.outcome {
        Outcome::Fine => "everything is proved, or has its reason",
        Outcome::Alarm => "something is unexplained, unproved, contradicted, or silent",
    };
    document.field("made_at", &Value::Instant(audit.made_at))?;
    document.field("outcome", &Value::text(outcome))?;
    if audit.dead_letters > 0 {
        document.field(
            "dead_letters_of_no_village",
            &Value::count(audit.dead_letters),
        )?;
    }
    for shared in &audit.shared_epochs {
        let text = format!("{}: {}", shared.epoch, shared.villages);
        document.field("one_epoch_in_several_villages", &Value::Text(text))?;
    }
    let epochs = || {
        let villages = audit.villages.iter();
        villages.flat_map(|village| village.epochs.iter().map(move |epoch| (village, epoch)))
    };
    let all = epochs().map(|(village, epoch)| epoch_row(village, epoch));
    fill(document.as_mut(), "epochs", EPOCHS, all)?;
    let missing = epochs().flat_map(|(village, epoch)| {
        let ranges = epoch.missing_ranges.iter();
        ranges.map(move |missing| missing_row(village, epoch, missing))
    });
    fill(document.as_mut(), "missing", MISSING, missing)?;
    let contradictions = epochs().flat_map(|(village, epoch)| {
        let places = epoch.differs_in.iter().map(place);
        let said = epoch.contradictions.iter().cloned().chain(places);
        said.map(move |what| vec![name(village), epoch_name(epoch), Value::Text(what)])
    });
    fill(
        document.as_mut(),
        "contradictions",
        CONTRADICTIONS,
        contradictions,
    )?;
    let villages = audit.villages.iter().map(village_row);
    fill(document.as_mut(), "villages", VILLAGES, villages)?;
    let meters = audit.villages.iter().flat_map(|village| {
        let named = village.meters.iter().flat_map(|meters| &meters.named);
        named.map(move |finding| meter_row(village, finding))
    });
    fill(document.as_mut(), "counters", METERS, meters)?;
    document.finish()
}

/// A table, unless it is empty.
fn fill(
    document: &mut dyn Document,
    name: &'static str,
    columns: &'static [Column],
    rows: impl Iterator<Item = Vec<Value>>,
) -> Result<(), WriteError> {
    let mut rows = rows.peekable();
    if rows.peek().is_some() {
        document.table(name, columns)?;
    }
    rows.try_for_each(|row| document.row(&row))
}

fn place(range: &SequenceRange) -> String {
    format!("the difference lies in {range}")
}

fn name(village: &VillageAudit) -> Value {
    Value::text(&village.village)
}

fn epoch_name(epoch: &EpochAudit) -> Value {
    Value::text(epoch.epoch.to_string())
}

fn epoch_row(village: &VillageAudit, epoch: &EpochAudit) -> Vec<Value> {
    let account = epoch.account.as_ref();
    vec![
        name(village),
        epoch_name(epoch),
        Value::text(epoch.verdict.as_str()),
        account.map_or(Value::Nothing, |account| Value::count(account.through.0)),
        Value::count(epoch.rows),
        Value::count(epoch.rows_beyond),
        Value::count(epoch.missing),
        Value::count(epoch.unexplained),
        Value::count(epoch.unknown),
        epoch.digest.map(str::to_owned).into(),
        Value::count(epoch.conflicts),
        Value::count(epoch.unsynchronised),
        Value::count(epoch.unmapped),
        epoch.heard_at.into(),
    ]
}

fn missing_row(village: &VillageAudit, epoch: &EpochAudit, missing: &MissingRange) -> Vec<Value> {
    vec![
        name(village),
        epoch_name(epoch),
        Value::count(missing.first.0),
        Value::count(missing.last.0),
        Value::text(missing.cause),
        missing.reason.clone().into(),
    ]
}

fn village_row(village: &VillageAudit) -> Vec<Value> {
    let meters = village.meters.as_ref();
    let count = |of: fn(&super::Findings) -> u64| {
        meters.map_or(Value::Nothing, |meters| Value::count(of(meters)))
    };
    vec![
        name(village),
        Value::text(village.verdict.as_str()),
        village.heard_at.into(),
        Value::text(if village.is_silent { "silent" } else { "" }),
        Value::count(village.dead_letters),
        count(|meters| meters.resets),
        count(|meters| meters.glitches),
        count(|meters| meters.jumps),
        count(|meters| meters.gaps),
        Value::number(meters.map(|meters| meters.gaps_kwh)),
    ]
}

fn meter_row(village: &VillageAudit, finding: &Finding) -> Vec<Value> {
    vec![
        name(village),
        Value::text(&finding.meter),
        Value::text(finding.kind.as_str()),
        Value::Instant(finding.from),
        Value::Instant(finding.to),
        Value::number(seconds(finding) / 3600.0),
        Value::number(finding.kwh),
    ]
}
