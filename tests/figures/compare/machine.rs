//! What a figure was taken on: processor, memory, kernel, and the disk below the data.

use std::fs;
use std::path::Path;
use std::process::Command;

/// One line of it.
pub(crate) fn line() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let memory_kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let date = Command::new("date").args(["-u", "+%F %H:%M"]).output();
    let date = date.map_or(String::new(), |o| {
        String::from_utf8_lossy(&o.stdout).trim().to_owned()
    });
    format!(
        "Taken {date} UTC on {cores} cores ({}), {} MiB, Linux {}; data on {}.\n",
        std::env::consts::ARCH,
        memory_kib / 1024,
        kernel.trim(),
        file_system(&std::env::temp_dir())
    )
}

/// Kind and options of the file system that holds `path`.
pub(crate) fn file_system(path: &Path) -> String {
    let columns = "FSTYPE,OPTIONS";
    let output = Command::new("findmnt")
        .args(["-n", "-r", "-o", columns, "--target"])
        .arg(path)
        .output();
    let text = output.map_or(String::new(), |o| {
        String::from_utf8_lossy(&o.stdout).trim().to_owned()
    });
    if text.is_empty() {
        return "an unknown file system".to_owned();
    }
    text
}
