//! `quarantine/`: what was found damaged, as it was found, for those who want to look.
//!
//! A segment that is damaged goes on being read, so its files are linked, not copied: a closed segment is never
//! written again, and a link costs no space while the segment is there. Where the file system has no links
//! (FAT), the segment itself is moved here when its time is over.
//!
//! Bounded: beyond [`BYTES_MAX`] the oldest go, and all of it before a reading is turned away for want of space.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;

/// At most so many bytes are kept aside, and the newest one whatever its size.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("quarantine")
}

fn target(data_dir: &Path, path: &Path, n: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    dir(data_dir).join(format!("{name}.{n}"))
}

/// Whether there is a copy of `path` already.
pub(super) fn holds(data_dir: &Path, path: &Path) -> bool {
    target(data_dir, path, 0).exists()
}

/// Moves a damaged file or directory here.
pub(super) fn put_aside(data_dir: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(dir(data_dir))?;
    let target = (0..1000)
        .map(|n| target(data_dir, path, n))
        .find(|t| !t.exists())
        .ok_or_else(|| io::Error::other("quarantine is full of this name"))?;
    fs::rename(path, &target)?;
    durable::sync_dir(&dir(data_dir)).map_err(io::Error::other)?;
    trim(data_dir, &target);
    Ok(())
}

/// Links all files of a damaged segment here; whether that was new.
pub(super) fn link_aside(data_dir: &Path, segment: &Path) -> io::Result<bool> {
    if holds(data_dir, segment) {
        return Ok(false);
    }
    fs::create_dir_all(dir(data_dir))?;
    let target = target(data_dir, segment, 0);
    // Under another name until it is whole, and over what a cut left of that.
    let unfinished = target.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    if let Err(error) = link_tree(segment, &unfinished) {
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    fs::rename(&unfinished, &target)?;
    durable::sync_dir(&dir(data_dir)).map_err(io::Error::other)?;
    trim(data_dir, &target);
    Ok(true)
}

fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else {
            fs::hard_link(entry.path(), target)?;
        }
    }
    durable::sync_dir(to).map_err(io::Error::other)
}

/// Lets the oldest go until the rest is within the bound; `newest` stays.
fn trim(data_dir: &Path, newest: &Path) {
    let kept = oldest_first(data_dir);
    let mut total: u64 = kept.iter().map(|p| size_of_tree(p)).sum();
    for oldest in kept {
        if total <= BYTES_MAX || oldest == newest {
            break;
        }
        total = total.saturating_sub(size_of_tree(&oldest));
        remove(&oldest);
    }
}

/// Lets the oldest go, for its space; whether there was one.
pub(super) fn remove_oldest(data_dir: &Path) -> bool {
    oldest_first(data_dir)
        .first()
        .is_some_and(|oldest| remove(oldest))
}

fn remove(path: &Path) -> bool {
    fs::remove_dir_all(path)
        .or_else(|_| fs::remove_file(path))
        .is_ok()
}

fn oldest_first(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir(data_dir)).into_iter().flatten().flatten();
    let mut kept: Vec<_> = entries
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    kept.sort();
    kept.into_iter().map(|(_, path)| path).collect()
}

fn size_of_tree(path: &Path) -> u64 {
    let Ok(metadata) = fs::metadata(path) else {
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| size_of_tree(&e.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_beyond_the_bound_and_the_newest_stays() {
        let data = tempfile::tempdir().unwrap();
        let segment = |n: u32, bytes: u64| {
            let dir = data.path().join(format!("segment-{n}"));
            fs::create_dir(&dir).unwrap();
            let file = fs::File::create(dir.join("db")).unwrap();
            file.set_len(bytes).unwrap();
            dir
        };
        for n in 0..5 {
            assert!(link_aside(data.path(), &segment(n, BYTES_MAX / 3)).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let kept = || oldest_first(data.path()).len();
        assert_eq!(kept(), 3);
        let large = segment(9, BYTES_MAX * 2);
        assert!(link_aside(data.path(), &large).unwrap());
        assert!(!link_aside(data.path(), &large).unwrap());
        assert_eq!(kept(), 1);
        assert!(holds(data.path(), &large));
        assert!(remove_oldest(data.path()) && !remove_oldest(data.path()));
        assert!(large.join("db").exists());
    }
}
