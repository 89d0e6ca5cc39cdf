//! Where receipts go, and how they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{ImportArgs, ImportError};
use crate::clock::UnixMillis;
use crate::identity::VillageId;
use crate::stick::{PART_SUFFIX, SigningKey, StickReceipt};
use crate::wire::receipt::Receipt;

/// A file for each village: as the arguments say, else beside the first of the readings.
pub(super) fn places(
    args: &ImportArgs,
    readings: &BTreeSet<PathBuf>,
    villages: BTreeSet<VillageId>,
) -> Result<BTreeMap<VillageId, PathBuf>, ImportError> {
    if let Some(file) = args.receipt.as_ref().filter(|path| !path.is_dir()) {
        if villages.len() > 1 {
            return Err(ImportError::OneReceipt(villages.len()));
        }
        let one = villages.into_iter().map(|village| (village, file.clone()));
        return Ok(one.collect());
    }
    let beside = readings.first().and_then(|path| path.parent());
    let dir = args.receipt.as_deref().or(beside).unwrap_or(Path::new("."));
    let each = villages.into_iter().map(|village| {
        let path = dir.join(StickReceipt::file_name(&village));
        (village, path)
    });
    Ok(each.collect())
}

/// Writes a village's receipt: whole, or not under this name.
pub(super) fn write(
    path: &Path,
    village: VillageId,
    epochs: Vec<Receipt>,
    key: &SigningKey,
) -> Result<(), ImportError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
    let receipt = StickReceipt {
        village,
        at: UnixMillis(at),
        epochs,
    };
    put(path, &receipt.seal(key)).map_err(|source| ImportError::Receipt {
        path: path.to_owned(),
        source,
    })
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(PART_SUFFIX);
    let part = PathBuf::from(part);
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    match File::open(parent.unwrap_or(Path::new(".")))?.sync_all() {
        // Some file systems of sticks know no sync of a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}
