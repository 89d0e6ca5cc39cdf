//! The broker's side: sessions that acknowledge only when told to, what the broker can do, and publishing to it.

pub(super) mod delivered;
pub(super) mod probe;
pub(super) mod publisher;
pub(super) mod session;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::classify::Failure;
use crate::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use crate::connection::{TimeFloor, TlsConfig, load_tls};
use crate::settings::HubSettings;
use crate::version::Version;

/// How the broker is spoken to, once that is known.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) hub: HubSettings,
    pub(super) version: Version,
    pub(super) packet_bytes_max: u32,
    /// At most so many messages of a session wait for their acknowledgement (MQTT 5 only).
    pub(super) receive_maximum: u16,
}

impl Access {
    /// Read at every connection, so that a renewed certificate counts without a restart. Blocks on the disk.
    pub(super) fn tls(&self) -> Result<Option<TlsConfig>, Failure> {
        load_tls(&self.hub, Arc::new(ServerClock), TimeFloor::default())
    }
}

/// A server's clock: there is nothing better to correct it by.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerClock;

impl Clock for ServerClock {
    fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        UnixMillis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn boot(&self) -> BootId {
        BootId(0)
    }

    fn quality(&self) -> ClockQuality {
        ClockQuality::Synchronised
    }

    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}
