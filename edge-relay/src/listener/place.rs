//! The places that connections take, and how one that is gone without a word gives its own back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// A connection that is silent for so long is asked by the kernel whether it is still there, ...
const PROBE_AFTER: std::time::Duration = std::time::Duration::from_secs(60);
/// ... so often, ...
const PROBE_EVERY: std::time::Duration = std::time::Duration::from_secs(15);
/// ... and is closed after so many questions without an answer.
const PROBES: u32 = 4;

/// How many connections there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<AtomicUsize>);

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Places {
    /// A place, unless `max` are taken. One task only takes places.
    pub(super) fn take(&self, max: usize) -> Option<Place> {
        if self.0.load(Ordering::Relaxed) >= max {
            return None;
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Some(Place(self.0.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A meter that asked for no MQTT keep alive and lost its power would hold its place for ever.
pub(super) fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}
