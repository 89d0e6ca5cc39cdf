//! What is on a stick.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::stick::{MANIFEST_SUFFIX, PART_SUFFIX, READINGS_SUFFIX};

/// The files of some paths.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gathered {
    /// Files of readings, by name; a file that is named is taken for one whatever its name.
    pub(super) readings: BTreeSet<PathBuf>,
    /// Lists of files.
    pub(super) manifests: BTreeSet<PathBuf>,
    /// What was still being written when the stick was pulled out.
    pub(super) parts: BTreeSet<PathBuf>,
    /// Directories that hold files of readings and no list of them.
    pub(super) unlisted: BTreeSet<PathBuf>,
}

/// Looks at files, and into directories, not deeper.
pub(super) fn gather(paths: &[PathBuf]) -> io::Result<Gathered> {
    let mut gathered = Gathered::default();
    for path in paths {
        if fs::metadata(path).map_err(|e| named(path, &e))?.is_dir() {
            look_into(path, &mut gathered).map_err(|e| named(path, &e))?;
        } else if is(path, MANIFEST_SUFFIX) {
            gathered.manifests.insert(path.clone());
        } else {
            gathered.readings.insert(path.clone());
        }
    }
    Ok(gathered)
}

fn look_into(dir: &Path, gathered: &mut Gathered) -> io::Result<()> {
    let (mut any, mut listed) = (false, false);
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is(&path, READINGS_SUFFIX) {
            any = true;
            gathered.readings.insert(path);
        } else if is(&path, MANIFEST_SUFFIX) {
            listed = true;
            gathered.manifests.insert(path);
        } else if is(&path, PART_SUFFIX) {
            any = true;
            gathered.parts.insert(path);
        }
    }
    if any && !listed {
        gathered.unlisted.insert(dir.to_owned());
    }
    Ok(())
}

fn is(path: &Path, suffix: &str) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.ends_with(suffix))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
