//! `[import]` of `hub.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::VillageId;
use crate::stick::{KeyError, PublicKey};

/// `[import]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportConfig {
    /// The age identity that opens the files, as `age-keygen` makes it; made by `hub-bridge import --keys` where it is
    /// missing.
    pub identity_file: PathBuf,
    /// The key that receipts are signed with; made by `hub-bridge import --keys` where it is missing.
    pub receipt_key_file: PathBuf,
    /// Each village's public key, as `edge-relay backlog key` shows it.
    pub villages: BTreeMap<String, PublicKey>,
    /// A directory of files `VILLAGE.pub` with one key each, beside `villages`.
    pub keys_dir: Option<PathBuf>,
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            identity_file: PathBuf::from("stick-identity.txt"),
            receipt_key_file: PathBuf::from("stick-receipts.key"),
            villages: BTreeMap::new(),
            keys_dir: None,
        }
    }
}

impl ImportConfig {
    /// With relative paths beginning at `base`, the directory of the configuration file.
    #[must_use]
    pub fn at(mut self, base: &Path) -> Self {
        self.identity_file = base.join(&self.identity_file);
        self.receipt_key_file = base.join(&self.receipt_key_file);
        self.keys_dir = self.keys_dir.map(|dir| base.join(dir));
        self
    }

    /// The key of a village; `None` where none is known.
    ///
    /// # Errors
    /// Its file is there and holds no key.
    pub fn key_of(&self, village: &VillageId) -> Result<Option<PublicKey>, KeyError> {
        if let Some(key) = self.villages.get(village.as_str()) {
            return Ok(Some(*key));
        }
        let Some(dir) = &self.keys_dir else {
            return Ok(None);
        };
        let path = dir.join(format!("{village}.pub"));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let line = text.lines().next().unwrap_or_default();
                let key = line.trim().parse().map_err(|_| KeyError::NotAKey {
                    path,
                    reason: "the first line is not 64 hex digits".to_owned(),
                })?;
                Ok(Some(key))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyError::Io { path, source }),
        }
    }
}
