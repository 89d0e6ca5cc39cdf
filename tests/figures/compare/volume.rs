//! A file system of its own on a loop device, whose written sectors the kernel counts: data, journal and write-back alike.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::syncfs;
use tempfile::TempDir;

/// Mounted ext4, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    home: TempDir,
    device: String,
}

impl Volume {
    /// A fresh one of so many MiB, its tables written beforehand; `options` of mount. An error says why this machine
    /// cannot have one.
    pub(crate) fn new(mib: u64, options: &str) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("volume-").tempdir()?;
        let image = home.path().join("image");
        File::create(&image)?.set_len(mib << 20)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&image))?;
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(&image))?;
        let volume = Self {
            home,
            device: device.trim().to_owned(),
        };
        fs::create_dir(volume.path())?;
        let mut mount = Command::new("mount");
        if !options.is_empty() {
            mount.args(["-o", options]);
        }
        run(mount.arg(&volume.device).arg(volume.path()))?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Bytes written to the device so far.
    pub(crate) fn written(&self) -> Result<u64> {
        let name = Path::new(&self.device).file_name().context("no device")?;
        let stat = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
        // Documentation/block/stat.rst: the seventh is sectors written, always of 512 bytes.
        let sectors: u64 = stat
            .split_whitespace()
            .nth(6)
            .context("no sectors in stat")?
            .parse()?;
        Ok(sectors * 512)
    }

    /// Writes back what waits, file data and metadata in place; returns what was written in all until then.
    pub(crate) fn settle(&self) -> Result<u64> {
        syncfs(File::open(self.path())?)?;
        self.written()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.path()));
        let _ = run(Command::new("losetup").arg("-d").arg(&self.device));
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
