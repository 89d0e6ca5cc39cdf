//! `backlog …`: asks the running relay; where none runs, opens the store itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use hub_bridge::clock::UnixMillis;
use hub_bridge::identity::{Epoch, Sequence};
use serde_json::Value;

use super::client::{AdminClient, AskError};
use super::{AdminArgs, Ended, load, stick};
use crate::admin::{BacklogRequest, answer_backlog};
use crate::clock::SystemClock;
use crate::store::Store;

/// `backlog …`
#[derive(Debug, Subcommand)]
pub(super) enum BacklogCommand {
    /// The segments on disk.
    List(Common),
    /// Show readings, payloads included.
    Peek {
        /// Of which epoch; by default the current one.
        #[arg(long)]
        epoch: Option<Epoch>,
        /// From which sequence; by default the first that waits.
        #[arg(long)]
        from: Option<u64>,
        /// How many at most, up to 1000.
        #[arg(long, default_value_t = 10)]
        count: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Check every checksum; exit 1 where something is missing.
    Verify(Common),
    /// Send again what was received in a span of time and is still on disk, under the same identities.
    Replay {
        /// The beginning, such as 2026-11-20T00:00+01:00 or, in the village's time zone, 2026-11-20T00:00.
        #[arg(long)]
        from: String,
        /// The end, itself left out.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        common: Common,
    },
    /// Readings that the hub never took.
    Refused(Common),
    /// Try a refused reading again.
    Retry {
        /// Which, as EPOCH/SEQUENCE.
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All of them.
        #[arg(long, conflicts_with = "id")]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Write what waits to a stick, signed and encrypted, to be carried to the hub by hand.
    Export(ExportArgs),
    /// Take the hub's receipt for what was carried by hand: readings that it names wait no more.
    Receipt {
        /// The file that `hub-bridge import` wrote.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Show the public key that this village signs with; it is made at its first use.
    Key(Common),
}

/// `backlog export`
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A directory on the stick; it must be there.
    pub(super) dir: PathBuf,
    /// Also what the hub has already, as far as it is still on disk.
    #[arg(long)]
    pub(super) all: bool,
    /// Go on from here, as EPOCH/SEQUENCE: where an export that found the stick full said that it stopped.
    #[arg(long)]
    pub(super) from: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Where, and how it is shown.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) admin: AdminArgs,
    /// As JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

impl BacklogCommand {
    fn common(&self) -> &Common {
        match self {
            Self::List(common)
            | Self::Verify(common)
            | Self::Refused(common)
            | Self::Key(common)
            | Self::Export(ExportArgs { common, .. })
            | Self::Receipt { common, .. }
            | Self::Peek { common, .. }
            | Self::Replay { common, .. }
            | Self::Retry { common, .. } => common,
        }
    }

    /// `None`: it is not one question with one answer (`stick.rs`).
    fn request(&self, config: &Path) -> anyhow::Result<Option<BacklogRequest>> {
        Ok(Some(match self {
            Self::Export(_) | Self::Receipt { .. } | Self::Key(_) => return Ok(None),
            Self::List(_) => BacklogRequest::Segments,
            Self::Peek {
                epoch, from, count, ..
            } => BacklogRequest::Peek {
                epoch: *epoch,
                from: from.map(Sequence),
                count: *count,
            },
            Self::Verify(_) => BacklogRequest::Verify,
            Self::Replay { from, to, .. } => BacklogRequest::Replay {
                from: moment(from, config)?,
                to: moment(to, config)?,
            },
            Self::Refused(_) => BacklogRequest::Refused,
            Self::Retry { id, .. } => BacklogRequest::Retry {
                one: id.as_deref().map(identity).transpose()?,
            },
        }))
    }
}

/// A time with its offset, or one in the village's time zone.
fn moment(text: &str, config: &Path) -> anyhow::Result<UnixMillis> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(UnixMillis(time.as_millisecond()));
    }
    let local: jiff::civil::DateTime = text.parse().with_context(|| {
        format!("{text:?} is not a time such as 2026-11-20T00:00+01:00 or 2026-11-20T00:00")
    })?;
    let loaded =
        load(config).context("a time without an offset needs the configuration's time zone")?;
    let zoned = local.in_tz(&loaded.settings.bridge.drain.time_zone)?;
    Ok(UnixMillis(zoned.timestamp().as_millisecond()))
}

/// EPOCH/SEQUENCE.
pub(super) fn identity(text: &str) -> anyhow::Result<(Epoch, Sequence)> {
    let (epoch, sequence) = text
        .split_once('/')
        .context("a reading is named EPOCH/SEQUENCE")?;
    let sequence = sequence.parse().context("the sequence is not a number")?;
    Ok((epoch.parse()?, Sequence(sequence)))
}

pub(super) fn backlog(config: &Path, command: &BacklogCommand) -> anyhow::Result<Ended> {
    let common = command.common();
    let Some(request) = command.request(config)? else {
        return stick::stick(config, command);
    };
    let client = AdminClient::new(config, &common.admin)?;
    let value = match ask(&client, request) {
        Err(AskError::Unreachable { .. }) if common.admin.is_default() => {
            let Some(loaded) = load(config) else {
                return Ok(Ended::NoConfig);
            };
            eprintln!("no relay runs here, opening its store");
            let clock = Arc::new(SystemClock::open(
                &loaded.settings.data_dir,
                loaded.settings.clock_trust,
            ));
            let (store, _) = Store::open(&loaded.settings.store, clock.clone())?;
            let answered = answer_backlog(&store, clock.as_ref(), request);
            store.close();
            answered?
        }
        asked => asked?,
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        show(request, &value);
    }
    let damaged = matches!(request, BacklogRequest::Verify) && is_damaged(&value);
    Ok(if damaged { Ended::Failed } else { Ended::Done })
}

fn ask(client: &AdminClient, request: BacklogRequest) -> Result<Value, AskError> {
    match request {
        BacklogRequest::Segments => client.get("/backlog/segments"),
        BacklogRequest::Peek { epoch, from, count } => {
            let epoch = epoch.map_or_else(String::new, |epoch| format!("&epoch={epoch}"));
            let from = from.map_or_else(String::new, |from| format!("&from={from}"));
            client.get(&format!("/backlog/peek?count={count}{epoch}{from}"))
        }
        BacklogRequest::Verify => client.post("/backlog/verify"),
        BacklogRequest::Replay { from, to } => {
            let (from, to) = (timestamp(from), timestamp(to));
            client.post(&format!("/backlog/replay?from={from}&to={to}"))
        }
        BacklogRequest::Refused => client.get("/backlog/refused"),
        BacklogRequest::Retry { one: None } => client.post("/backlog/retry"),
        BacklogRequest::Retry {
            one: Some((epoch, sequence)),
        } => client.post(&format!("/backlog/retry?epoch={epoch}&sequence={sequence}")),
    }
}

/// In UTC, so that no `+` needs to be encoded in a URL.
fn timestamp(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .unwrap_or_default()
        .to_string()
}

fn is_damaged(verified: &Value) -> bool {
    let segments = verified.as_array().into_iter().flatten();
    segments.into_iter().any(|segment| {
        let missing = segment
            .get("missing")
            .and_then(Value::as_array)
            .is_some_and(|ranges| !ranges.is_empty());
        missing || segment.get("error").is_some_and(Value::is_string)
    })
}

fn show(request: BacklogRequest, value: &Value) {
    let field = |entry: &Value, name: &str| match entry.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let entries: Vec<&Value> = value.as_array().into_iter().flatten().collect();
    let print = |names: &[&str]| {
        for entry in &entries {
            let words: Vec<String> = names
                .iter()
                .map(|name| format!("{name}={}", field(entry, name)))
                .collect();
            println!("{}", words.join("  "));
        }
    };
    match request {
        BacklogRequest::Segments => print(&[
            "epoch", "first", "end", "waiting", "bytes", "state", "damaged",
        ]),
        BacklogRequest::Peek { .. } => {
            print(&[
                "epoch",
                "sequence",
                "received_at",
                "clock",
                "client_id",
                "topic",
                "payload",
            ]);
        }
        BacklogRequest::Verify => print(&["path", "readings", "missing", "error"]),
        BacklogRequest::Refused => print(&["epoch", "sequence", "retried", "reason"]),
        BacklogRequest::Replay { .. } | BacklogRequest::Retry { .. } => {
            println!(
                "{} readings wait for the hub again",
                field(value, "readings")
            );
        }
    }
    if value.is_array() && entries.is_empty() {
        println!("none");
    }
}
