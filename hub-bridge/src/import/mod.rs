//! `hub-bridge import`: takes what was carried by hand, and hands back a receipt.
//!
//! Each file is judged on its own: one that was cut short, changed, or written by a village that is not known is refused
//! with its reason, and the others are taken all the same. Nothing is taken twice: what counts is the identity of each
//! reading, as over the link. The receipt says what is in the database, also what came over the link.
//!
//! What failure leaves behind: frames that were committed, which the next import of the same stick finds there already.

mod config;
mod database;
mod gather;
mod receipts;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::hub::config::HubConfig;
use crate::identity::VillageId;
use crate::stick::{HubIdentity, KeyError, Manifest, PublicKey, SigningKey, StickError, StickFile};
use crate::wire::frame::Frame;
use crate::wire::receipt::Receipt;

pub use config::ImportConfig;
pub use database::Database;
pub use report::{FileReport, Report, Taken, Verdict};

/// `hub-bridge import`
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Files of readings, or directories of them.
    #[arg(required_unless_present = "keys")]
    pub paths: Vec<PathBuf>,
    /// Where the receipt goes: a file, or a directory where the stick holds several villages; by default beside the
    /// readings.
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Show what villages must be told: the recipient to encrypt for, and the key that signs receipts. What is missing
    /// is made.
    #[arg(long)]
    pub keys: bool,
}

/// Why an import stopped, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A key of the hub's own.
    #[error("the hub's key: {0}")]
    Key(#[from] KeyError),
    /// What was named cannot be read.
    #[error(transparent)]
    Paths(#[from] std::io::Error),
    /// The database.
    #[error("the database: {0}")]
    Database(String),
    /// The receipt cannot be written.
    #[error("the receipt: {path}: {source}")]
    Receipt {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// One file for the receipts of several villages.
    #[error("--receipt names one file, and the stick holds {0} villages: name a directory")]
    OneReceipt(usize),
}

/// Where readings are stored.
#[allow(async_fn_in_trait)] // used in this crate only, on one task
pub trait Rows {
    /// Stores a frame, exactly once, in one transaction.
    ///
    /// # Errors
    /// The database, in words; then nothing of the frame is stored.
    async fn store(&mut self, frame: Frame) -> Result<Taken, String>;

    /// What is stored of a village, an epoch each.
    ///
    /// # Errors
    /// The database, in words.
    async fn receipts(&mut self, village: &VillageId) -> Result<Vec<Receipt>, String>;
}

/// Does what the arguments say, and prints what came of it. Whether every file was taken.
///
/// # Errors
/// [`ImportError`]: a key, a path or the database.
pub async fn run(args: &ImportArgs, config: &HubConfig) -> Result<bool, ImportError> {
    if args.keys {
        print!("{}", keys(&config.import)?);
        return Ok(true);
    }
    let mut database = Database::open(config).await?;
    let report = import(args, &config.import, &mut database).await?;
    println!("{report}");
    Ok(report.is_complete())
}

/// What villages must be told, as lines of their configuration. Makes what is missing.
///
/// # Errors
/// A key cannot be read or made.
pub fn keys(config: &ImportConfig) -> Result<String, KeyError> {
    let identity = HubIdentity::open_or_make(&config.identity_file)?;
    let signing = SigningKey::open_or_make(&config.receipt_key_file)?;
    let recipients = serde_json::to_string(&identity.recipients()).unwrap_or_default();
    let key = signing.public();
    Ok(format!(
        "# In each village's broker.toml:\n[stick]\nrecipients = {recipients}\nhub_key = \"{key}\"\n"
    ))
}

/// Takes what is at `args.paths` into `rows`, and writes the receipts.
///
/// # Errors
/// [`ImportError`]; what is wrong with single files is in the report.
pub async fn import(
    args: &ImportArgs,
    config: &ImportConfig,
    rows: &mut impl Rows,
) -> Result<Report, ImportError> {
    let identity = HubIdentity::open(&config.identity_file)?;
    let signing = SigningKey::open_or_make(&config.receipt_key_file)?;
    let gathered = gather::gather(&args.paths)?;
    let mut report = Report::default();
    let mut villages = BTreeSet::new();
    for path in &gathered.readings {
        let verdict = match take_file(path, config, &identity, rows).await {
            Ok((village, taken)) => {
                villages.insert(village);
                Verdict::Taken(taken)
            }
            Err(NotTaken::Refused(reason)) => Verdict::Refused(reason),
            Err(NotTaken::Database(reason)) => return Err(ImportError::Database(reason)),
        };
        report.files.push(FileReport {
            path: path.clone(),
            verdict,
        });
    }
    for path in gathered.parts {
        let reason = "not whole: the stick was pulled out while it was written".to_owned();
        let verdict = Verdict::Refused(reason);
        report.files.push(FileReport { path, verdict });
    }
    for path in &gathered.manifests {
        report.files.extend(missing(path, config));
    }
    report.unlisted = gathered.unlisted.into_iter().collect();
    for (village, path) in receipts::places(args, &gathered.readings, villages)? {
        let epochs = rows.receipts(&village).await;
        let epochs = epochs.map_err(ImportError::Database)?;
        receipts::write(&path, village, epochs, &signing)?;
        report.receipts.push(path);
    }
    Ok(report)
}

enum NotTaken {
    Refused(String),
    Database(String),
}

impl From<StickError> for NotTaken {
    fn from(error: StickError) -> Self {
        Self::Refused(error.to_string())
    }
}

async fn take_file(
    path: &Path,
    config: &ImportConfig,
    identity: &HubIdentity,
    rows: &mut impl Rows,
) -> Result<(VillageId, Taken), NotTaken> {
    let file = StickFile::read(path)?;
    let village = file.header().village.clone();
    let key = key_of(config, &village).map_err(NotTaken::Refused)?;
    file.verify(&key)?;
    let mut taken = Taken::default();
    for frame in file.frames(identity)? {
        let stored = rows.store(frame?).await.map_err(NotTaken::Database)?;
        taken.add(stored);
    }
    Ok((village, taken))
}

fn key_of(config: &ImportConfig, village: &VillageId) -> Result<PublicKey, String> {
    match config.key_of(village) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(format!(
            "the key of village {village} is not known here: `edge-relay backlog key` in the village shows it, and \
             [import.villages] takes it"
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// What a list names and the stick does not have.
fn missing(list: &Path, config: &ImportConfig) -> Vec<FileReport> {
    let refused = |path: PathBuf, reason: String| FileReport {
        path,
        verdict: Verdict::Refused(reason),
    };
    let manifest = match std::fs::read(list) {
        Ok(text) => Manifest::open(&text, |village| key_of(config, village).ok()),
        Err(error) => return vec![refused(list.to_owned(), error.to_string())],
    };
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(error) => return vec![refused(list.to_owned(), error.to_string())],
    };
    let dir = list.parent().unwrap_or(Path::new("."));
    let gone = manifest.files.iter().filter(|file| {
        // A name with a directory in it is no file of ours.
        let plain = Path::new(&file.name).file_name() == Some(file.name.as_ref());
        !(plain && dir.join(&file.name).is_file())
    });
    gone.map(|file| {
        let range = format!("{}-{} of epoch {}", file.first, file.last, file.epoch);
        let reason = format!("on the list ({range}), and not on the stick");
        refused(dir.join(&file.name), reason)
    })
    .collect()
}
