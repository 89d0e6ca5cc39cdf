//! One throw-away connection to the hub.
//!
//! rumqttc reconnects by itself, and then may drop what was pending or yield acknowledgements of the
//! connection before, whose packet ids are in use again. So a client is used for one connection only: the
//! first error ends it, and what is not confirmed is sent again over the next. Its event loop runs in a task of
//! its own, since a poll that is dropped half-way can lose a packet.

mod client;
mod stream;
mod tls;
mod v4;
mod v5;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::classify::{ErrorClass, Failure, VersionHint};
use crate::inflight::{InFlight, PacketId, Ticket};
use crate::packet::Outgoing;
use crate::platform::Network;
use crate::settings::HubSettings;
use crate::version::Version;

use client::Client;
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
    /// Where the byte stream comes from; `None`: from rumqttc.
    pub(crate) network: Option<&'a Arc<dyn Network>>,
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
    /// It ended; nothing follows.
    Down { lane: usize, failure: Failure },
}

/// What an event loop yields, whatever the version.
#[derive(Debug, Clone, Copy)]
enum Signal {
    Accepted(HubLimits),
    Sent(PacketId),
    Answered(PacketId, Verdict),
    Disconnected,
    Other,
}

/// An event loop of rumqttc.
trait EventLoop: Send {
    fn next(&mut self) -> impl Future<Output = Result<Signal, Failure>> + Send;
    /// Whether the next signal is there already.
    fn has_more(&self) -> bool;
    /// A signal from before an error ended the loop.
    fn leftover(&mut self) -> Option<Signal>;
}

/// A connection that is open or being opened. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    submitted: mpsc::UnboundedSender<Ticket>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Begins to connect; what becomes of it is said through `events`.
    pub(crate) fn open(plan: Plan<'_>, lane: usize, events: mpsc::Sender<LaneEvent>) -> Self {
        // Bounded by the publishes in flight, which the link bounds.
        let (submitted, tickets) = mpsc::unbounded_channel();
        let timeout = plan.hub.connect_timeout;
        let driver = Driver {
            lane,
            tickets,
            in_flight: InFlight::default(),
            events,
        };
        let (client, task) = match plan.version {
            Version::V5 if let Some(network) = plan.network => {
                let (client, source) = stream::open(&plan, network);
                (
                    Client::Stream(client),
                    tokio::spawn(driver.run(source, timeout)),
                )
            }
            Version::V5 => {
                let (client, source) = v5::open(plan);
                (
                    Client::V5(client),
                    tokio::spawn(driver.run(source, timeout)),
                )
            }
            Version::V311 => {
                let (client, source) = v4::open(plan);
                (
                    Client::V4(client),
                    tokio::spawn(driver.run(source, timeout)),
                )
            }
        };
        Self {
            client,
            submitted,
            task,
        }
    }

    /// Gives a publish to the client; the answer comes with `ticket`.
    pub(crate) fn publish(&self, ticket: Ticket, outgoing: Outgoing) -> Result<(), Failure> {
        let gone = || Failure::new(ErrorClass::Connect, "the connection ended");
        // Before the publish, so that the ticket is there when the packet id comes.
        self.submitted.send(ticket).map_err(|_| gone())?;
        self.client.publish(outgoing)
    }

    /// Says DISCONNECT, waits a moment for it to leave, and cuts the connection.
    pub(crate) async fn close(mut self) {
        if self.client.disconnect().is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(500), &mut self.task).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    lane: usize,
    tickets: mpsc::UnboundedReceiver<Ticket>,
    in_flight: InFlight,
    events: mpsc::Sender<LaneEvent>,
}

impl Driver {
    async fn run(mut self, mut source: impl EventLoop, connect_timeout: Duration) {
        let first = tokio::time::timeout(connect_timeout, source.next()).await;
        let limits = match first {
            Ok(Ok(Signal::Accepted(limits))) => limits,
            Ok(Ok(other)) => {
                let words = format!("{other:?} before CONNACK");
                return self.down(Failure::new(ErrorClass::Protocol, words)).await;
            }
            Ok(Err(failure)) => return self.down(failure).await,
            Err(_) => {
                let failure = Failure::new(ErrorClass::Timeout, "no connection in time")
                    .hint(VersionHint::Perhaps);
                return self.down(failure).await;
            }
        };
        let lane = self.lane;
        if self
            .events
            .send(LaneEvent::Up { lane, limits })
            .await
            .is_err()
        {
            return;
        }
        self.drive(source).await;
    }

    async fn drive(&mut self, mut source: impl EventLoop) {
        let mut answers = Vec::new();
        loop {
            let failure = match source.next().await {
                Ok(Signal::Disconnected) => return,
                Ok(signal) => self.take(signal, &mut answers).err(),
                Err(failure) => {
                    let mut worst = failure;
                    while let Some(signal) = source.leftover() {
                        if let Err(lie) = self.take(signal, &mut answers) {
                            worst = lie;
                            break;
                        }
                    }
                    Some(worst)
                }
            };
            if let Some(failure) = failure {
                // A hub that breaks the rules is not believed about the last answers either.
                if failure.class != ErrorClass::Protocol && !answers.is_empty() {
                    self.tell(std::mem::take(&mut answers)).await;
                }
                return self.down(failure).await;
            }
            if !answers.is_empty()
                && !source.has_more()
                && !self.tell(std::mem::take(&mut answers)).await
            {
                return;
            }
        }
    }

    fn take(
        &mut self,
        signal: Signal,
        answers: &mut Vec<(Ticket, Verdict)>,
    ) -> Result<(), Failure> {
        let lie = |error: crate::inflight::InFlightError| {
            Failure::new(ErrorClass::Protocol, error.to_string())
        };
        match signal {
            Signal::Sent(id) => {
                while let Ok(ticket) = self.tickets.try_recv() {
                    self.in_flight.submit(ticket);
                }
                self.in_flight.sent(id).map_err(lie)?;
            }
            Signal::Answered(id, verdict) => {
                let ticket = self.in_flight.acknowledged(id).map_err(lie)?;
                answers.push((ticket, verdict));
            }
            Signal::Accepted(_) => {
                return Err(Failure::new(ErrorClass::Protocol, "a second CONNACK"));
            }
            Signal::Disconnected | Signal::Other => {}
        }
        Ok(())
    }

    async fn tell(&self, answers: Vec<(Ticket, Verdict)>) -> bool {
        let lane = self.lane;
        let event = LaneEvent::Answers { lane, answers };
        self.events.send(event).await.is_ok()
    }

    async fn down(&self, failure: Failure) {
        let lane = self.lane;
        // An error means that the link is gone, and with it who would want to know.
        let _ = self.events.send(LaneEvent::Down { lane, failure }).await;
    }
}
