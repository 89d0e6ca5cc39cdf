//! `hub-bridge audit`: is every reading that was stored in a village a row here, and is it the same one?
//!
//! Per village and epoch three things are held beside each other: what the relay said of its own store (`accounts`), what the
//! receiver noted as stored (`progress`, out of which receipts are made), and the rows themselves, read one by one
//! (`digests`). `ranges` finds who named what is missing, `verdict` decides, and is pure. `meters` asks the counters of the
//! meters, which go on counting whether their readings arrive or not.
//!
//! Each village is read in one snapshot of the database, read only, and nothing is written anywhere. Not all of them in one:
//! the receiver's work of once a month, a new partition, waits for whoever reads. Memory is that of the holes and the
//! accounts, not of the rows.

pub mod accounts;
pub mod digests;
pub mod epoch;
pub mod meters;
mod output;
pub mod ranges;
pub mod verdict;
pub mod villages;

use std::collections::BTreeSet;
use std::io::BufWriter;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio_postgres::{Client, Transaction};

use crate::hub::config::DatabaseSettings;
use crate::hub::database::{DatabaseError, connect, words};
use crate::identity::{Epoch, VillageId};
use crate::report::settings::ReportSettings;
use crate::report::snapshot;
use crate::report::source::{self, Wanted};
use crate::report::write::{Format, Out, WriteError, document};

use digests::Depth;
use epoch::{EpochAudit, Rules};
use meters::Findings;
use verdict::Verdict;
use villages::Known;

/// `hub-bridge audit`.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct AuditArgs {
    /// Only this village; may be given again
    #[arg(long, value_name = "VILLAGE")]
    pub village: Vec<VillageId>,
    /// Only epochs that were heard of since this day (UTC), and counters since then
    #[arg(long, value_name = "DATE")]
    pub since: Option<Date>,
    /// Compute each digest anew from topic and payload
    #[arg(long)]
    pub deep: bool,
    /// Do not look at the counters of the meters
    #[arg(long)]
    pub no_meters: bool,
    /// A village that was not heard of for so long is an alarm, such as "3 days"
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub silent_after: Option<Duration>,
    /// What the relay first spoke of so lately may still come, such as "12 h"
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub grace: Duration,
    /// Rows that are gone were removed on purpose
    #[arg(long)]
    pub allow_removed: bool,
    /// Readings of which no relay gave an account are no alarm
    #[arg(long)]
    pub allow_unproved: bool,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub format: AuditFormat,
}

/// How an audit is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AuditFormat {
    /// For people.
    #[default]
    Table,
    /// One document.
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration such as \"3 days\""))
}

/// What a monitor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything is proved, or has its reason.
    Fine,
    /// Something is unexplained, unproved, contradicted, or silent.
    Alarm,
}

impl Outcome {
    /// The exit status: 0 or 3. 1 (the audit failed), 2 and 78 are as everywhere.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Alarm => 3,
        }
    }
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database.
    #[error("the database: {}", words(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The way to it.
    #[error("the database: {0}")]
    Connection(#[from] DatabaseError),
    /// What was to be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The name of an epoch is none.
    #[error("the database has an epoch {epoch:?} of {village}, and an epoch is eight hex digits")]
    Epoch {
        /// Of which village.
        village: String,
        /// What stands there.
        epoch: String,
    },
    /// An account that no receiver writes.
    #[error("an account of {village}/{epoch} has a {column} that is none")]
    Account {
        /// Of which village.
        village: String,
        /// And epoch.
        epoch: Epoch,
        /// Where.
        column: &'static str,
    },
    /// A row that no receiver writes.
    #[error("row {village}/{epoch}/{sequence} has a digest or sequence that is none")]
    Row {
        /// Of which village.
        village: String,
        /// And epoch.
        epoch: Epoch,
        /// Which.
        sequence: i64,
    },
    /// `--village` names one that the database has never heard of.
    #[error("the database knows no village {0}")]
    UnknownVillage(VillageId),
    /// `--since` names a day that has no instant.
    #[error("{0} is out of the calendar")]
    Since(Date),
}

/// What an audit found. Its JSON is documented in `docs/audit-and-report.md`.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// Of the document.
    pub version: u8,
    /// When it was made.
    pub made_at: Timestamp,
    /// Whether anything is an alarm.
    pub outcome: Outcome,
    /// The villages.
    pub villages: Vec<VillageAudit>,
    /// Messages that could not be read, and are of no village.
    pub dead_letters: u64,
    /// Epochs that more than one village has.
    pub shared_epochs: Vec<SharedEpoch>,
}

/// An epoch that more than one village has: a copied card, or a moved gateway.
#[derive(Debug, Clone, Serialize)]
pub struct SharedEpoch {
    /// Which.
    pub epoch: String,
    /// Whose.
    pub villages: String,
}

/// What an audit found of a village.
#[derive(Debug, Clone, Serialize)]
pub struct VillageAudit {
    /// Which.
    pub village: String,
    /// The worst of its epochs.
    pub verdict: Verdict,
    /// When it was heard of last.
    pub heard_at: Option<Timestamp>,
    /// How long ago, s.
    pub silent_s: Option<i64>,
    /// Longer than `--silent-after`.
    pub is_silent: bool,
    /// Messages of it that could not be read.
    pub dead_letters: u64,
    /// Its epochs.
    pub epochs: Vec<EpochAudit>,
    /// Its meters' counters; `None` with `--no-meters`.
    pub meters: Option<Findings>,
}

/// The command: connects, looks, and writes what it found to standard output. A reader that went away does not change the word.
///
/// # Errors
/// [`AuditError`]: exit status 1.
pub async fn command(
    database: &DatabaseSettings,
    settings: &ReportSettings,
    args: &AuditArgs,
) -> Result<Outcome, AuditError> {
    let mut client = connect(database).await?;
    let audit = audit(&mut client, settings, args, Timestamp::now()).await?;
    match write(
        &audit,
        args.format,
        Box::new(BufWriter::new(std::io::stdout())),
    ) {
        Err(error) if !error.is_broken_pipe() => Err(error.into()),
        _ => Ok(audit.outcome),
    }
}

/// Looks, and writes what it found to `out`.
///
/// # Errors
/// [`AuditError`]: nothing is known then, and that is no word on any village.
pub async fn run(
    client: &mut Client,
    settings: &ReportSettings,
    args: &AuditArgs,
    out: Out,
    now: Timestamp,
) -> Result<Outcome, AuditError> {
    let audit = audit(client, settings, args, now).await?;
    write(&audit, args.format, out)?;
    Ok(audit.outcome)
}

fn write(audit: &Audit, format: AuditFormat, out: Out) -> Result<(), WriteError> {
    match format {
        AuditFormat::Table => output::table(audit, document(Format::Table, out)?),
        AuditFormat::Json => output::json(audit, out),
    }
}

/// Looks.
///
/// # Errors
/// [`AuditError`].
pub async fn audit(
    client: &mut Client,
    settings: &ReportSettings,
    args: &AuditArgs,
    now: Timestamp,
) -> Result<Audit, AuditError> {
    let since = since(args)?;
    let transaction = snapshot(client).await?;
    let known = wanted(villages::epochs(&transaction).await?, args)?;
    let mut dead_letters = villages::dead_letters(&transaction).await?;
    let shared = villages::shared_epochs(&transaction).await?;
    transaction.rollback().await?;
    let mut villages = Vec::new();
    for epochs in known.chunk_by(|one, other| one.village == other.village) {
        let transaction = snapshot(client).await?;
        let looked_at = look(&transaction, settings, args, epochs, since, now).await?;
        if let Some(mut village) = looked_at {
            village.dead_letters = dead_letters.remove(&village.village).unwrap_or(0);
            villages.push(village);
        }
        transaction.rollback().await?;
    }
    let is_fine = |village: &VillageAudit| match village.verdict {
        Verdict::Complete | Verdict::Explained => !village.is_silent,
        Verdict::Unproved => args.allow_unproved && !village.is_silent,
        Verdict::Unexplained | Verdict::Contradicted => false,
    };
    Ok(Audit {
        version: 1,
        made_at: now,
        outcome: if villages.iter().all(is_fine) {
            Outcome::Fine
        } else {
            Outcome::Alarm
        },
        villages,
        dead_letters: dead_letters.remove("").unwrap_or(0),
        shared_epochs: shared
            .into_iter()
            .map(|(epoch, villages)| SharedEpoch { epoch, villages })
            .collect(),
    })
}

fn wanted(mut known: Vec<Known>, args: &AuditArgs) -> Result<Vec<Known>, AuditError> {
    let names: BTreeSet<&str> = known.iter().map(|known| known.village.as_str()).collect();
    let unknown = args.village.iter().find(|id| !names.contains(id.as_str()));
    if let Some(unknown) = unknown {
        return Err(AuditError::UnknownVillage(unknown.clone()));
    }
    if !args.village.is_empty() {
        known.retain(|known| args.village.iter().any(|id| id.as_str() == known.village));
    }
    Ok(known)
}

fn since(args: &AuditArgs) -> Result<Option<Timestamp>, AuditError> {
    let instant = |day: Date| {
        day.to_zoned(TimeZone::UTC)
            .map_err(|_| AuditError::Since(day))
    };
    let since = args.since.map(instant).transpose()?;
    Ok(since.map(|zoned| zoned.timestamp()))
}

/// One village, all its epochs; `None` where it was not heard of since `since` and is not silent either.
async fn look(
    transaction: &Transaction<'_>,
    settings: &ReportSettings,
    args: &AuditArgs,
    known: &[Known],
    since: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<VillageAudit>, AuditError> {
    let Some(village) = known.first().map(|known| known.village.clone()) else {
        return Ok(None);
    };
    let rules = Rules {
        depth: if args.deep {
            Depth::Payloads
        } else {
            Depth::Digests
        },
        spoken_before: now.saturating_sub(args.grace).unwrap_or(Timestamp::MIN),
        allow_removed: args.allow_removed,
    };
    let mut epochs = Vec::new();
    for known in known {
        if since.is_none_or(|since| known.heard_at.is_none_or(|heard| since <= heard)) {
            epochs.push(epoch::audit(transaction, known, rules).await?);
        }
    }
    let heard_at = known.iter().filter_map(|known| known.heard_at).max();
    let silent_s = heard_at.map(|heard| now.duration_since(heard).as_secs().max(0));
    let is_silent = args.silent_after.is_some_and(|after| {
        silent_s.is_none_or(|seconds| seconds.unsigned_abs() > after.as_secs())
    });
    if epochs.is_empty() && !is_silent {
        return Ok(None);
    }
    let meters = if args.no_meters {
        None
    } else {
        Some(counters(transaction, settings, &village, since, now).await?)
    };
    let verdicts = epochs.iter().map(|epoch| epoch.verdict);
    Ok(Some(VillageAudit {
        verdict: verdicts.max().unwrap_or(Verdict::Complete),
        village,
        heard_at,
        silent_s,
        is_silent,
        dead_letters: 0,
        epochs,
        meters,
    }))
}

async fn counters(
    transaction: &Transaction<'_>,
    settings: &ReportSettings,
    village: &str,
    since: Option<Timestamp>,
    now: Timestamp,
) -> Result<Findings, AuditError> {
    let wanted = Wanted {
        village,
        start: since.unwrap_or(settings.oldest()),
        end: now,
        oldest: settings.oldest(),
        now,
    };
    let readings = source::readings(transaction, wanted).await?;
    Ok(meters::find(readings, settings.power_kw_max).await?)
}
