//! A disk that loses its power: ext4 in a file on a loop device, mounted so that only what was
//! synced reaches the file.
//!
//! The cut: the writer is stopped, the filesystem is shut down without its log being flushed, and the
//! image is copied as it is. The copy is what a machine would find at its next start. The journal's
//! own commits are 300 s apart, so nothing gets there by the passing of time, and [`Disk::cut`] writes an
//! unsynced file first and checks that it is lost: a cut that loses nothing would prove nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::relay::Relay;

/// A mounted ext4 image.
#[derive(Debug)]
pub struct Disk {
    home: TempDir,
    generation: u32,
}

/// `EXT4_IOC_SHUTDOWN` of the kernel: the filesystem takes no more writes, at once.
mod shutdown {
    #![expect(
        unsafe_code,
        reason = "an ioctl that no library wraps; it reads one u32"
    )]
    use std::fs::File;
    use std::os::fd::AsRawFd;

    nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);

    /// Without flushing the log.
    const NO_LOG_FLUSH: u32 = 2;

    pub(super) fn shut_down(directory: &File) -> nix::Result<()> {
        let mut flags = NO_LOG_FLUSH;
        // SAFETY: the kernel reads four bytes at the pointer, which outlives the call.
        unsafe { ext4_shutdown(directory.as_raw_fd(), &raw mut flags) }.map(|_| ())
    }
}

impl Disk {
    /// A fresh disk of so many MiB; an error says why this machine cannot have one.
    pub fn new(mib: u64) -> Result<Self, String> {
        let home = crate::scratch("disk-");
        let disk = Self {
            home,
            generation: 0,
        };
        let image = File::create(disk.image()).map_err(|e| e.to_string())?;
        image.set_len(mib << 20).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &["-q", "-F", path(&disk.image())])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    fn image(&self) -> PathBuf {
        self.home.path().join(format!("image-{}", self.generation))
    }

    fn mount(&self) -> Result<(), String> {
        let point = self.mount_point();
        fs::create_dir_all(&point).map_err(|e| e.to_string())?;
        run(
            "mount",
            &["-o", "loop,commit=300", path(&self.image()), path(&point)],
        )
    }

    /// Cuts the power and starts the machine again: `writer` is halted where it stands and ended. What is mounted
    /// after this is what was on the disk at that moment.
    #[track_caller]
    pub fn cut(&mut self, mut writer: Option<&mut Relay>) {
        let canary = self.mount_point().join("canary");
        File::create(&canary)
            .unwrap()
            .write_all(&[7; 5000])
            .unwrap();
        if let Some(relay) = &writer {
            relay.freeze();
        }
        shutdown::shut_down(&File::open(self.mount_point()).unwrap()).unwrap();
        let before = self.image();
        self.generation += 1;
        run(
            "cp",
            &["--sparse=always", path(&before), path(&self.image())],
        )
        .unwrap();
        if let Some(relay) = &mut writer {
            relay.kill();
        }
        run("umount", &[path(&self.mount_point())]).unwrap();
        fs::remove_file(before).unwrap();
        self.mount().unwrap();
        let kept = fs::read(&canary).unwrap_or_default();
        assert!(
            kept.len() < 5000,
            "the cut lost nothing: this proves nothing"
        );
        let _ = fs::remove_file(canary);
    }

    /// Bytes free for unprivileged programs.
    pub fn free_bytes(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.mount_point()).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }

    /// Fills it but for `leave` bytes with a file that [`Disk::relieve`] takes away.
    pub fn fill(&self, leave: u64) {
        let ballast = File::create(self.mount_point().join("ballast")).unwrap();
        let bytes = self.free_bytes().saturating_sub(leave);
        let bytes = i64::try_from(bytes).unwrap();
        nix::fcntl::fallocate(&ballast, nix::fcntl::FallocateFlags::empty(), 0, bytes).unwrap();
    }

    /// Takes the ballast away, if it is there: after a cut nobody knows.
    pub fn relieve_if_full(&self) {
        let _ = fs::remove_file(self.mount_point().join("ballast"));
    }

    /// Takes the ballast away.
    pub fn relieve(&self) {
        fs::remove_file(self.mount_point().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", path(&self.mount_point())]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let search = format!(
        "/usr/sbin:/sbin:{}",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", search)
        .output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
