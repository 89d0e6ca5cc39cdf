//! `drain`: asks for a full drain and waits for its end. Ending the command never stops the drain.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use hub_bridge::drain::{DrainOutcome, DrainRecord};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::client::{AdminClient, AskError};
use super::{AdminArgs, Ended};

/// How often the relay is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// How long a relay may be out of reach before the command gives up.
const UNREACHABLE_MAX: Duration = Duration::from_secs(60);

/// `drain`
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only ask for it, do not wait.
    #[arg(long)]
    no_wait: bool,
}

pub(super) fn drain(config: &Path, args: &DrainArgs) -> anyhow::Result<Ended> {
    let client = AdminClient::new(config, &args.admin)?;
    let begun = client.post("/drain")?;
    let record: DrainRecord =
        serde_json::from_value(begun.get("drain").cloned().unwrap_or_default())?;
    if begun.get("joined").and_then(Value::as_bool) == Some(true) {
        eprintln!("joined drain {}, which was running already", record.id);
    }
    if args.no_wait {
        println!("drain {} runs", record.id);
        return Ok(Ended::Done);
    }
    let ended = wait(&client, record)?;
    println!("{}", summary(&ended));
    Ok(match ended.outcome {
        Some(DrainOutcome::Done) => Ended::Done,
        _ => Ended::Failed,
    })
}

fn wait(client: &AdminClient, begun: DrainRecord) -> anyhow::Result<DrainRecord> {
    let bar = ProgressBar::new(begun.waiting_at_start.max(1));
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} readings  {elapsed}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let path = format!("/drain/{}", begun.id);
    let mut record = begun;
    let mut answered = Instant::now();
    while record.outcome.is_none() {
        std::thread::sleep(ASK_EVERY);
        match client.get(&path) {
            Ok(value) => {
                let now: DrainRecord = serde_json::from_value(value)?;
                anyhow::ensure!(
                    now.started == record.started,
                    "the relay was restarted, and the drain with it"
                );
                record = now;
                answered = Instant::now();
            }
            Err(AskError::Unreachable { .. }) if answered.elapsed() < UNREACHABLE_MAX => {}
            Err(error) => return Err(error.into()),
        }
        bar.set_length(record.waiting_at_start.max(record.readings).max(1));
        bar.set_position(record.readings);
        bar.set_message(format!("attempt {}", record.attempts));
    }
    bar.finish_and_clear();
    Ok(record)
}

fn summary(record: &DrainRecord) -> String {
    let outcome = match record.outcome {
        Some(DrainOutcome::Done) => "done",
        Some(DrainOutcome::Failed) => "failed",
        Some(DrainOutcome::WindowEnded) => "its window ended first",
        Some(DrainOutcome::Stopped) => "the relay was stopped",
        None => "runs",
    };
    let error = record
        .error
        .map_or_else(String::new, |class| format!(", last error: {class}"));
    format!(
        "drain {}: {outcome}, {} readings, {} bytes, {} attempts{error}",
        record.id, record.readings, record.bytes, record.attempts
    )
}
