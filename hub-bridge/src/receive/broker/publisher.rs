//! Publishing to the broker at quality of service 1, over one connection that comes back.
//!
//! Whoever publishes waits until the broker answered each message, over however many connections that takes. What the
//! broker refuses for good is counted and logged, and counts as answered: a republished reading is in the database.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::Access;
use crate::classify::Failure;
use crate::connection::{Connection, HubLimits, LaneEvent, Plan, Verdict};
use crate::inflight::Ticket;
use crate::packet::Outgoing;
use crate::platform::{Network, Tcp};
use crate::receive::pause::Pause;

/// In flight at most, whatever the broker allows.
const IN_FLIGHT_MAX: u16 = 1000;
/// Where the broker says nothing of how many it takes: MQTT 3.1.1.
const IN_FLIGHT_UNSAID: u16 = 100;
/// How many callers may wait.
const CALLERS_MAX: usize = 64;

struct Job {
    messages: Vec<Outgoing>,
    done: oneshot::Sender<()>,
}

/// A handle. The connection ends with the last.
#[derive(Clone)]
pub(in crate::receive) struct Publisher {
    jobs: mpsc::Sender<Job>,
    task: Arc<Task>,
}

struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Publisher {
    /// Connects as soon as there is something to publish. `refused` counts what the broker does not take.
    pub(in crate::receive) fn start(access: Access, client_id: String, refused: Counter) -> Self {
        let (jobs, asked) = mpsc::channel(CALLERS_MAX);
        let work = Work {
            access,
            client_id,
            asked,
            waiting: VecDeque::new(),
            in_flight: HashMap::new(),
            groups: HashMap::new(),
            next: 0,
            refused,
        };
        Self {
            jobs,
            task: Arc::new(Task(tokio::spawn(work.run()))),
        }
    }

    /// Returns when the broker answered all of them. Messages of one call arrive in order; dropping the future does not
    /// call them back.
    pub(in crate::receive) async fn publish(&self, messages: Vec<Outgoing>) {
        if messages.is_empty() || self.task.0.is_finished() {
            return;
        }
        let (done, answered) = oneshot::channel();
        if self.jobs.send(Job { messages, done }).await.is_ok() {
            let _ = answered.await;
        }
    }
}

/// A message that was the first in flight at so many losses of a connection in a row goes alone, and after so many not
/// at all: some brokers close on a topic that they do not like.
const LOSSES_BEFORE_CARE: u32 = 3;
const LOSSES_MAX: u32 = 6;

struct Waiting {
    ticket: Ticket,
    /// Connections that ended while it was the first in flight.
    losses: u32,
    group: u64,
    message: Outgoing,
}

struct Group {
    left: usize,
    done: oneshot::Sender<()>,
}

struct Work {
    access: Access,
    client_id: String,
    asked: mpsc::Receiver<Job>,
    waiting: VecDeque<Waiting>,
    in_flight: HashMap<Ticket, Waiting>,
    groups: HashMap<u64, Group>,
    next: u64,
    refused: Counter,
}

/// Why a connection is left.
enum Left {
    Failed(Failure),
    NobodyAsks,
}

impl Work {
    async fn run(mut self) {
        let mut pause = Pause::new();
        loop {
            if self.waiting.is_empty() && self.in_flight.is_empty() {
                let Some(job) = self.asked.recv().await else {
                    return;
                };
                self.take(job);
            }
            match self.connected(&mut pause).await {
                Left::NobodyAsks => return,
                Left::Failed(failure) => {
                    let wait = pause.failed(failure.class);
                    warn!(%failure, ?wait, "cannot publish to the broker");
                    self.send_again();
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// One connection, until it fails or nobody asks any more.
    async fn connected(&mut self, pause: &mut Pause) -> Left {
        let tls = match self.access.tls() {
            Ok(tls) => tls,
            Err(failure) => return Left::Failed(failure),
        };
        let network: Arc<dyn Network> = Arc::new(Tcp);
        let plan = Plan {
            hub: &self.access.hub,
            client_id: self.client_id.clone(),
            version: self.access.version,
            tls,
            in_flight_max: IN_FLIGHT_MAX,
            subscribe: Vec::new(),
            network: &network,
        };
        let (events, mut said) = mpsc::channel(64);
        let connection = Connection::open(plan, 0, events);
        let mut limits = None;
        loop {
            if let Some(limits) = &limits
                && let Err(failure) = self.send(&connection, limits)
            {
                return Left::Failed(failure);
            }
            let room = self.waiting.len() < usize::from(IN_FLIGHT_MAX);
            tokio::select! {
                event = said.recv() => match event {
                    Some(LaneEvent::Up { limits: said, .. }) => {
                        debug!(?said, "publishing");
                        pause.over();
                        limits = Some(said);
                    }
                    Some(LaneEvent::Answers { answers, .. }) => {
                        for (ticket, verdict) in answers {
                            self.answered(ticket, verdict);
                        }
                    }
                    Some(LaneEvent::Down { failure, .. }) => return Left::Failed(failure),
                    // Nothing was subscribed to.
                    Some(LaneEvent::Message { .. }) => {}
                    None => {
                        let class = crate::classify::ErrorClass::Connect;
                        return Left::Failed(Failure::new(class, "the connection ended"));
                    }
                },
                job = self.asked.recv(), if room => {
                    let Some(job) = job else {
                        connection.close().await;
                        return Left::NobodyAsks;
                    };
                    self.take(job);
                }
            }
        }
    }

    fn take(&mut self, job: Job) {
        self.next += 1;
        let group = self.next;
        let left = job.messages.len();
        self.groups.insert(
            group,
            Group {
                left,
                done: job.done,
            },
        );
        for message in job.messages {
            self.next += 1;
            self.waiting.push_back(Waiting {
                ticket: Ticket(self.next),
                losses: 0,
                group,
                message,
            });
        }
    }

    fn send(&mut self, connection: &Connection, limits: &HubLimits) -> Result<(), Failure> {
        let allowed = limits.receive_maximum.unwrap_or(IN_FLIGHT_UNSAID);
        let allowed = usize::from(allowed.min(IN_FLIGHT_MAX));
        let careful = |waiting: &Waiting| waiting.losses >= LOSSES_BEFORE_CARE;
        while self.in_flight.len() < allowed {
            let alone =
                self.in_flight.values().any(careful) || self.waiting.front().is_some_and(careful);
            if alone && !self.in_flight.is_empty() {
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            let message = &waiting.message;
            let max = limits.packet_bytes_max.unwrap_or(u32::MAX);
            let fits = message.size_bytes() <= usize::try_from(max).unwrap_or(usize::MAX);
            let valid = !message.topic.is_empty()
                && u16::try_from(message.topic.len()).is_ok()
                && !message.topic.contains(['+', '#', '\0']);
            if !fits || !valid {
                self.refused(&waiting, "too large, or a topic that no broker takes");
                continue;
            }
            let mut message = message.clone();
            message.retain &= limits.retain;
            connection.publish(waiting.ticket, message)?;
            self.in_flight.insert(waiting.ticket, waiting);
        }
        Ok(())
    }

    fn answered(&mut self, ticket: Ticket, verdict: Verdict) {
        let Some(waiting) = self.in_flight.remove(&ticket) else {
            return;
        };
        match verdict {
            Verdict::Taken | Verdict::NoSubscriber => {
                self.finished(waiting.group);
            }
            Verdict::Never(why) | Verdict::Unwanted(why) | Verdict::NotNow(why) => {
                self.refused(&waiting, why);
            }
        }
    }

    fn refused(&mut self, waiting: &Waiting, why: &str) {
        self.refused.inc();
        warn!(
            topic = waiting.message.topic,
            why, "the broker does not take a publish"
        );
        self.finished(waiting.group);
    }

    fn finished(&mut self, group: u64) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        entry.left -= 1;
        if entry.left == 0
            && let Some(group) = self.groups.remove(&group)
        {
            let _ = group.done.send(());
        }
    }

    /// What was in flight goes first again, in its order.
    fn send_again(&mut self) {
        let mut again: Vec<Waiting> = self.in_flight.drain().map(|(_, waiting)| waiting).collect();
        again.sort_by_key(|waiting| waiting.ticket);
        if let Some(first) = again.first_mut() {
            first.losses += 1;
        }
        if again
            .first()
            .is_some_and(|first| first.losses >= LOSSES_MAX)
        {
            let first = again.remove(0);
            self.refused(&first, "each connection ends over it");
        }
        for waiting in again.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }
}
