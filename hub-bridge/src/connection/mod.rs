//! One throw-away connection to the hub.
//!
//! The first error ends it, and what is not confirmed is sent again over the next: no packet id, no acknowledgement
//! and nothing pending outlives a connection. rumqttc's packets and codecs, over a loop of our own that writes and
//! reads in bulk (`docs/adr/0006-a-hub-connection-in-bulk.md`): `codec` is the packets, `conversation` the loop.

mod codec;
mod conversation;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::classify::{ErrorClass, Failure};
use crate::inflight::Ticket;
use crate::packet::Outgoing;
use crate::platform::Network;
use crate::settings::HubSettings;
use crate::version::Version;

use codec::{Codec, Hello};
use conversation::Opening;
pub use tls::TimeFloor;
pub(crate) use tls::{TlsConfig, load as load_tls};

/// What a connection is made of.
pub(crate) struct Plan<'a> {
    pub(crate) hub: &'a HubSettings,
    pub(crate) client_id: String,
    pub(crate) version: Version,
    pub(crate) tls: Option<TlsConfig>,
    /// At most so many publishes in flight, whatever the hub allows.
    pub(crate) in_flight_max: u16,
    /// Topic filters to subscribe to, with `QoS` 0.
    pub(crate) subscribe: Vec<String>,
    /// Where the byte stream comes from.
    pub(crate) network: &'a Arc<dyn Network>,
}

/// What the hub said in its CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HubLimits {
    /// How many publishes it lets be in flight; `None` where it did not say.
    pub(crate) receive_maximum: Option<u16>,
    /// The largest packet it takes, in bytes.
    pub(crate) packet_bytes_max: Option<u32>,
    /// Whether it keeps retained messages.
    pub(crate) retain: bool,
}

/// What the hub said to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has it.
    Taken,
    /// It has it, and nobody was there to get it (0x10).
    NoSubscriber,
    /// It will never take this one (0x90, 0x99).
    Never(&'static str),
    /// It does not take it now: the quota is used up (0x97).
    NotNow(&'static str),
    /// It does not say why (0x80, 0x83), or we may not (0x87).
    Unwanted(&'static str),
}

/// What a connection tells the one who opened it.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// The hub accepted it.
    Up { lane: usize, limits: HubLimits },
    /// The hub answered publishes.
    Answers {
        lane: usize,
        answers: Vec<(Ticket, Verdict)>,
    },
    /// A message on a topic that was subscribed to.
    Message {
        topic: String,
        payload: bytes::Bytes,
    },
    /// It ended; nothing follows.
    Down { lane: usize, failure: Failure },
}

/// What is asked of a connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // all but the last are the large one
enum Ask {
    Publish(Ticket, Outgoing),
    Goodbye,
}

/// A connection that is open or being opened. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Connection {
    asks: mpsc::Sender<Ask>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Begins to connect; what becomes of it is said through `events`.
    pub(crate) fn open(plan: Plan<'_>, lane: usize, events: mpsc::Sender<LaneEvent>) -> Self {
        let (asks, asked) = mpsc::channel(usize::from(plan.in_flight_max) + 2);
        let hub = plan.hub;
        let opening = Opening {
            network: Arc::clone(plan.network),
            host: hub.url.host.clone(),
            port: hub.url.port,
            tls: plan.tls,
            codec: Codec(plan.version),
            hello: Hello {
                client_id: plan.client_id,
                keep_alive: hub.keep_alive,
                credentials: hub.credentials(),
            },
            subscribe: plan.subscribe,
            connect_timeout: hub.connect_timeout,
        };
        let task = tokio::spawn(conversation::hold(opening, lane, asked, events));
        Self { asks, task }
    }

    /// Has a publish sent; the answer comes with `ticket`.
    pub(crate) fn publish(&self, ticket: Ticket, outgoing: Outgoing) -> Result<(), Failure> {
        // The queue is as long as the most that can be in flight.
        self.asks
            .try_send(Ask::Publish(ticket, outgoing))
            .map_err(|_| Failure::new(ErrorClass::Connect, "the connection ended"))
    }

    /// Says DISCONNECT, waits a moment for it to leave, and cuts the connection.
    pub(crate) async fn close(mut self) {
        if self.asks.try_send(Ask::Goodbye).is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(500), &mut self.task).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
