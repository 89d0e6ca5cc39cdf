//! The files that a configuration names.

use std::path::{Path, PathBuf};

use hub_bridge::settings::Secret;

use crate::config::problem::Complaints;
use crate::config::{NamedFiles, read_small};

/// Where relative paths begin, and whether what they name must be there.
pub(super) struct Named<'a> {
    pub(super) base: &'a Path,
    pub(super) check: NamedFiles,
    pub(super) files: Vec<PathBuf>,
}

impl Named<'_> {
    /// The file's path. It may be missing: `user add` makes it.
    pub(super) fn path(&mut self, path: Option<&PathBuf>) -> Option<PathBuf> {
        let path = self.base.join(path?);
        self.files.push(path.clone());
        Some(path)
    }

    /// The file's path; complains where it must be there and cannot be read.
    pub(super) fn file(
        &mut self,
        key: &str,
        path: Option<&PathBuf>,
        complaints: &mut Complaints,
    ) -> Option<PathBuf> {
        let path = self.base.join(path?);
        if self.check == NamedFiles::Checked
            && let Err(error) = std::fs::File::open(&path)
        {
            complaints.add(key, format_args!("{}: {error}", path.display()));
        }
        self.files.push(path.clone());
        Some(path)
    }

    /// The file's first line, kept secret.
    pub(super) fn secret(
        &mut self,
        key: &str,
        path: Option<&PathBuf>,
        complaints: &mut Complaints,
    ) -> Option<Secret> {
        let path = self.base.join(path?);
        self.files.push(path.clone());
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(error) => {
                if self.check == NamedFiles::Checked {
                    complaints.add(key, format_args!("{}: {error}", path.display()));
                }
                return None;
            }
        };
        let line = text.lines().next().unwrap_or_default().trim();
        complaints.require(
            !line.is_empty(),
            key,
            "the file's first line is empty",
            "the secret in the first line",
        );
        Some(Secret::new(line.to_owned()))
    }
}
