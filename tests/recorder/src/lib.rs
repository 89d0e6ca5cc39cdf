//! Preloaded into the relay's process: records what it writes and syncs below a directory, and makes
//! chosen operations fail.
//!
//! Every call of the C library that changes a file system is replaced (`calls.rs`) by one that does the same by a system call
//! of its own and appends a record with its bytes to a file outside of the directory (`record.rs`, `format.rs`). Which
//! operations fail, and how, stands in a small file that both sides map or write (`control.rs`).
//!
//! Invariant: but for the syncs, operations below the directory are done and recorded under one lock, so that the order of the
//! records is the order in which they took effect. A sync has two records: what was recorded before the first is
//! on stable storage when the second says 0.
//!
//! What it does not see: system calls that bypass the C library, and writes through a shared mapping. The first are noticed
//! by the harness, which compares the directory with what the records say; the second are recorded as unsupported.

// The one crate where it is: it replaces functions of the C library in a process that is under test.
#![allow(unsafe_code)]

mod calls;
mod control;
pub mod format;
mod record;
mod table;
