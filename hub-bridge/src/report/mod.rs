//! `hub-bridge report`: generation and consumption by day, week or month, completeness, freshness and trend.
//!
//! The path of a reading: `source` streams it out of the database in order, `place` gives it a time where it has none,
//! `sums` adds it to its meter's periods (`counter`, `power`), `village` adds up the meters, `rows` makes figures
//! into rows, and `write` writes them. In memory are the sums of one meter and one village, and one row of summary a meter.
//!
//! Each village is read in one snapshot of the database, read only. Not all of them in one: the receiver's work of once a
//! month, a new partition, waits for whoever reads. What fails leaves nothing behind; a file appears under its name when it
//! is whole.

pub mod calendar;
pub mod column;
pub mod counter;
pub mod interval;
mod known;
mod output;
pub mod place;
pub mod power;
pub mod quarters;
pub mod roles;
pub mod rows;
pub mod segment;
pub mod settings;
pub mod source;
pub mod sums;
mod survey;
pub mod trend;
mod village;
pub mod write;

use std::io::BufWriter;
use std::path::PathBuf;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::hub::config::DatabaseSettings;
use crate::hub::database::{DatabaseError, connect, words};
use crate::identity::VillageId;

use calendar::{By, CalendarError};
use column::Value;
use settings::ReportSettings;
use survey::Survey;
use write::{Document, Format, Out, WriteError};

use known::villages;

/// Days of a report that is given no `--from`, the last one included.
const DAYS: i32 = 30;

/// `hub-bridge report`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// The first day, in each village's time zone [default: 29 days before the last]
    #[arg(long, value_name = "DATE")]
    pub from: Option<Date>,
    /// The last day, itself included [default: today]
    #[arg(long, value_name = "DATE")]
    pub to: Option<Date>,
    /// What a row covers
    #[arg(long, value_enum, default_value_t)]
    pub by: By,
    /// Only this village; may be given again
    #[arg(long, value_name = "VILLAGE")]
    pub village: Vec<VillageId>,
    /// Whose rows
    #[arg(long, value_enum, default_value_t)]
    pub per: Per,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Where to [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// One row each over the whole range, with trend and freshness; table and JSON have both without it
    #[arg(long)]
    pub summary: bool,
    /// The readings themselves, with role and time settled
    #[arg(long, conflicts_with_all = ["summary", "per", "by"])]
    pub readings: bool,
}

/// Whose rows a report has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Per {
    /// Of each village.
    #[default]
    Village,
    /// Of each meter.
    Meter,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The database.
    #[error("the database: {}", words(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The way to it.
    #[error("the database: {0}")]
    Connection(#[from] DatabaseError),
    /// The range.
    #[error(transparent)]
    Range(#[from] CalendarError),
    /// What was to be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The file.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// `--village` names one that the database has never heard of.
    #[error("the database knows no village {0}")]
    UnknownVillage(VillageId),
}

/// All that is read in it is of one instant. A statement takes the time it takes: what limits a receiver's statements
/// would end every long one.
pub(crate) async fn snapshot(
    client: &mut Client,
) -> Result<Transaction<'_>, tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .read_only(true)
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .await?;
    transaction
        .batch_execute("SET LOCAL statement_timeout = 0")
        .await?;
    Ok(transaction)
}

/// The command: connects, and writes a report to `args.output`, else to standard output. A reader that went away, as `head`
/// does, is no failure.
///
/// # Errors
/// [`ReportError`].
pub async fn command(
    database: &DatabaseSettings,
    settings: &ReportSettings,
    args: &ReportArgs,
) -> Result<(), ReportError> {
    let mut client = connect(database).await?;
    let out = Box::new(BufWriter::new(std::io::stdout()));
    match run(&mut client, settings, args, out, Timestamp::now()).await {
        Err(ReportError::Write(error)) if error.is_broken_pipe() => Ok(()),
        other => other,
    }
}

/// Writes a report: to `args.output`, else to `out`.
///
/// # Errors
/// [`ReportError`].
pub async fn run(
    client: &mut Client,
    settings: &ReportSettings,
    args: &ReportArgs,
    out: Out,
    now: Timestamp,
) -> Result<(), ReportError> {
    let villages = {
        let transaction = snapshot(client).await?;
        villages(&transaction, &args.village).await?
    };
    let unknown = args
        .village
        .iter()
        .find(|id| !villages.iter().any(|v| v == id.as_str()));
    if let Some(unknown) = unknown {
        return Err(ReportError::UnknownVillage(unknown.clone()));
    }
    let range = range(settings, args, now)?;
    match &args.output {
        None => {
            let mut document = write::document(args.format, out)?;
            fill(
                client,
                settings,
                args,
                range,
                now,
                &villages,
                document.as_mut(),
            )
            .await?;
            document.finish()?;
        }
        Some(path) => {
            let (file, out) = output::begin(path)?;
            let mut document = write::document(args.format, out)?;
            fill(
                client,
                settings,
                args,
                range,
                now,
                &villages,
                document.as_mut(),
            )
            .await?;
            document.finish()?;
            output::end(&file, path)?;
        }
    }
    Ok(())
}

async fn fill(
    client: &mut Client,
    settings: &ReportSettings,
    args: &ReportArgs,
    (from, to): (Date, Date),
    now: Timestamp,
    villages: &[String],
    document: &mut dyn Document,
) -> Result<(), ReportError> {
    for (name, value) in [
        ("from", Value::Day(from)),
        ("to", Value::Day(to)),
        ("by", Value::text(format!("{:?}", args.by).to_lowercase())),
        ("made_at", Value::Instant(now)),
    ] {
        document.field(name, &value)?;
    }
    let mut survey = Survey::new(settings, args, (from, to), now);
    survey.begin(document)?;
    for village in villages {
        let transaction = snapshot(client).await?;
        survey.village(&transaction, village, document).await?;
        transaction.rollback().await?;
    }
    survey.finish(document)?;
    Ok(())
}

fn range(
    settings: &ReportSettings,
    args: &ReportArgs,
    now: Timestamp,
) -> Result<(Date, Date), CalendarError> {
    let to = args
        .to
        .unwrap_or_else(|| now.to_zoned(settings.time_zone.0.clone()).date());
    let before = to.checked_sub((DAYS - 1).days());
    let from = match args.from {
        Some(from) => from,
        None => before.map_err(|_| CalendarError::OutOfRange(to))?,
    };
    Ok((from, to))
}
