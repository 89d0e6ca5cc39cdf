//! `backlog export`, `backlog receipt`, `backlog key`: asks the running relay; where none runs, opens the store itself.
//!
//! The stick is written here and not by the relay. Each file is written under a temporary name, synced and renamed, and
//! the directory synced: what has its name is whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use hub_bridge::stick::{Header, Listed, Manifest, PART_SUFFIX};
use serde_json::{Value, json};

use super::backlog::{BacklogCommand, Common, ExportArgs, identity};
use super::client::{AdminClient, AskError};
use super::{Ended, load};
use crate::clock::SystemClock;
use crate::stick::{Confirmed, Desk, Waiting, Wanted};
use crate::store::Store;

/// No receipt is longer, in bytes.
const RECEIPT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Who gives out the files.
enum Bank {
    /// The relay that runs.
    Running(AdminClient),
    /// Its store, opened here.
    Stopped(Box<Desk>),
}

pub(super) fn stick(config: &Path, command: &BacklogCommand) -> anyhow::Result<Ended> {
    match command {
        BacklogCommand::Export(args) => {
            check_dir(&args.dir)?;
            with_bank(config, &args.common, |bank| export(bank, args))
        }
        BacklogCommand::Receipt { file, common } => {
            let text = read_receipt(file)?;
            with_bank(config, common, |bank| receipt(bank, &text, common.json))
        }
        BacklogCommand::Key(common) => with_bank(config, common, |bank| {
            let key = bank.key()?;
            let field = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
            if common.json {
                println!("{key}");
            } else {
                println!("{} = \"{}\"", field("village"), field("key"));
            }
            Ok(Ended::Done)
        }),
        _ => bail!("not about a stick"),
    }
}

/// Does `work` with the relay that runs, or with its store.
fn with_bank(
    config: &Path,
    common: &Common,
    work: impl FnOnce(&Bank) -> anyhow::Result<Ended>,
) -> anyhow::Result<Ended> {
    let client = AdminClient::new(config, &common.admin)?;
    match client.get("/backlog/stick/key") {
        Err(AskError::Unreachable { .. }) if common.admin.is_default() => {}
        // What is wrong with the key matters where it is used.
        _ => return work(&Bank::Running(client)),
    }
    let Some(loaded) = load(config) else {
        return Ok(Ended::NoConfig);
    };
    eprintln!("no relay runs here, opening its store");
    let settings = loaded.settings;
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    let (store, _) = Store::open(&settings.store, clock.clone())?;
    let bank = Bank::Stopped(Box::new(Desk {
        store: store.clone(),
        clock,
        village: settings.store.village,
        data_dir: settings.data_dir,
        settings: settings.stick,
    }));
    let done = work(&bank);
    store.close();
    done
}

impl Bank {
    fn key(&self) -> anyhow::Result<Value> {
        Ok(match self {
            Self::Running(client) => client.get("/backlog/stick/key")?,
            Self::Stopped(desk) => json!({ "village": desk.village, "key": desk.key()?.public() }),
        })
    }

    fn waiting(&self, all: bool) -> anyhow::Result<Vec<Waiting>> {
        Ok(match self {
            Self::Running(client) => {
                let epochs = client.get(&format!("/backlog/stick/epochs?all={all}"))?;
                serde_json::from_value(epochs)?
            }
            Self::Stopped(desk) => desk.waiting(all),
        })
    }

    fn file(&self, wanted: Wanted) -> anyhow::Result<Option<Vec<u8>>> {
        let Wanted {
            epoch,
            from,
            below,
            all,
        } = wanted;
        Ok(match self {
            Self::Running(client) => client.get_bytes(&format!(
                "/backlog/stick/file?epoch={epoch}&from={from}&below={below}&all={all}"
            ))?,
            Self::Stopped(desk) => desk.file(wanted)?,
        })
    }

    fn list(&self, files: Vec<Listed>) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Running(client) => {
                let body = serde_json::to_vec(&files)?;
                client.post_bytes("/backlog/stick/list", "application/json", &body)?
            }
            Self::Stopped(desk) => desk.list(files)?,
        })
    }

    fn take_receipt(&self, text: &[u8]) -> anyhow::Result<Confirmed> {
        Ok(match self {
            Self::Running(client) => {
                let kind = "application/octet-stream";
                let done = client.post_bytes("/backlog/stick/receipt", kind, text)?;
                serde_json::from_slice(&done)?
            }
            Self::Stopped(desk) => desk.take_receipt(text)?,
        })
    }
}

/// Where the stick is not mounted, its directory is missing or belongs to the card: only one that is there is taken.
fn check_dir(dir: &Path) -> anyhow::Result<()> {
    let there = fs::metadata(dir)
        .with_context(|| format!("{}: is the stick mounted there?", dir.display()))?;
    if !there.is_dir() {
        bail!("{} is not a directory", dir.display());
    }
    Ok(())
}

fn export(bank: &Bank, args: &ExportArgs) -> anyhow::Result<Ended> {
    let from = args.from.as_deref().map(identity).transpose()?;
    let mut epochs = bank.waiting(args.all)?;
    if let Some((epoch, sequence)) = from {
        let at = epochs.iter().position(|w| w.epoch == epoch);
        let at = at.with_context(|| format!("epoch {epoch} has nothing to carry"))?;
        epochs.drain(..at);
        if let Some(first) = epochs.first_mut() {
            first.first = first.first.max(sequence);
        }
    }
    clear_parts(&args.dir);
    let mut files = Vec::new();
    for waiting in &epochs {
        export_epoch(bank, args, waiting, &mut files)?;
    }
    let readings: u64 = files.iter().map(|f| f.count).sum();
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    let (count, village) = (files.len(), village_of(bank)?);
    if count > 0 {
        let list = bank.list(files)?;
        let name = Manifest::file_name(&village);
        put(&args.dir, &name, &list).with_context(|| format!("the list {name}"))?;
    }
    if args.common.json {
        println!(
            "{}",
            json!({ "readings": readings, "files": count, "bytes": bytes })
        );
    } else if count == 0 {
        println!("nothing waits");
    } else {
        println!("{readings} readings in {count} files, {bytes} bytes: the stick can be taken out");
        println!(
            "they wait here until the hub's receipt is taken (edge-relay backlog receipt FILE)"
        );
    }
    Ok(Ended::Done)
}

fn village_of(bank: &Bank) -> anyhow::Result<hub_bridge::identity::VillageId> {
    let key = bank.key()?;
    let village = key.get("village").and_then(Value::as_str);
    Ok(village
        .context("the relay does not say its village")?
        .parse()?)
}

fn export_epoch(
    bank: &Bank,
    args: &ExportArgs,
    waiting: &Waiting,
    files: &mut Vec<Listed>,
) -> anyhow::Result<()> {
    let mut at = waiting.first;
    while at < waiting.next {
        let wanted = Wanted {
            epoch: waiting.epoch,
            from: at,
            below: waiting.next,
            all: args.all,
        };
        let Some(bytes) = bank.file(wanted)? else {
            return Ok(());
        };
        let (header, _) = Header::parse(&bytes)?;
        put(&args.dir, &header.file_name(), &bytes)
            .map_err(|error| stopped(&error, &args.dir, &header, files))?;
        if !args.common.json {
            println!("{}  {} readings", header.file_name(), header.count);
        }
        files.push(Listed {
            name: header.file_name(),
            bytes: bytes.len() as u64,
            epoch: header.epoch,
            first: header.first,
            last: header.last,
            count: header.count,
        });
        at = header.last.next();
    }
    Ok(())
}

/// What to tell who has a full stick in hand.
fn stopped(error: &io::Error, dir: &Path, next: &Header, files: &[Listed]) -> anyhow::Error {
    let readings: u64 = files.iter().map(|f| f.count).sum();
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    let what = if full {
        "the stick is full".to_owned()
    } else {
        error.to_string()
    };
    let (epoch, first) = (next.epoch, next.first);
    anyhow!(
        "{}: {what}. {} whole files with {readings} readings are on it and can be imported; take another stick and go \
         on with --from {epoch}/{first}",
        dir.display(),
        files.len(),
    )
}

/// Writes a file so that its name stands for all of it, also after the stick was pulled out.
fn put(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = dir.join(format!("{name}{PART_SUFFIX}"));
    let written = write_synced(&part, bytes).and_then(|()| fs::rename(&part, dir.join(name)));
    if let Err(error) = written {
        // Space for another file; where the stick is gone, so is this.
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    match File::open(dir)?.sync_all() {
        // Some file systems of sticks know no sync of a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    // It is encrypted: whoever carries it may read it. Sticks often know no such rights.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
    file.write_all(bytes)?;
    file.sync_all()
}

/// What an export that was pulled out left behind.
fn clear_parts(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let parts = entries.map(|entry| entry.path()).filter(|path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| {
            name.ends_with(&format!(
                "{}{PART_SUFFIX}",
                hub_bridge::stick::READINGS_SUFFIX
            )) || name.ends_with(&format!(
                "{}{PART_SUFFIX}",
                hub_bridge::stick::MANIFEST_SUFFIX
            ))
        })
    });
    for part in parts {
        let _ = fs::remove_file(part);
    }
}

fn read_receipt(file: &Path) -> anyhow::Result<Vec<u8>> {
    use io::Read as _;
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    let mut text = Vec::new();
    opened
        .take(RECEIPT_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .with_context(|| file.display().to_string())?;
    if text.len() as u64 > RECEIPT_BYTES_MAX {
        bail!("{}: too long for a receipt", file.display());
    }
    Ok(text)
}

fn receipt(bank: &Bank, text: &[u8], as_json: bool) -> anyhow::Result<Ended> {
    let done = bank.take_receipt(text)?;
    if as_json {
        println!("{}", serde_json::to_string(&done)?);
        return Ok(Ended::Done);
    }
    for epoch in &done.epochs {
        let here = if epoch.here {
            ""
        } else {
            ", not kept here any more"
        };
        println!(
            "epoch {}: {} readings at the hub{here}",
            epoch.epoch, epoch.stored
        );
    }
    let (before, after) = (done.waited_before, done.waiting);
    println!("{before} readings waited, {after} wait now");
    Ok(Ended::Done)
}
