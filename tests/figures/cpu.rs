//! Processor time, user and system, of this thread and of other processes.

use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// What this thread has used so far.
pub(crate) fn own_thread() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let used = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(used)?))
}

/// What a process has used so far, all its threads. The kernel's own threads (write-back, the journal) are in nobody's
/// account.
pub(crate) fn of_process(pid: Pid) -> Result<Duration> {
    let clock: ClockId = clock_getcpuclockid(pid)?;
    Ok(Duration::from(clock.now()?))
}
