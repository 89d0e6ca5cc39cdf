//! A slot's work: from its session at the broker into the database, and acknowledged then.
//!
//! Per batch: read the messages, store them (a second sink gets the new ones before the commit), publish what is new as
//! plain readings, note whose receipts are due, acknowledge. A failure anywhere leaves the batch unacknowledged, and it
//! is tried again, here or after the broker delivered it again. Memory is bounded by the session's queue and one batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::arrival::{self, Arrival};
use super::broker::delivered::Delivered;
use super::broker::session::{Heard, Identity, Session};
use super::metrics::{Class, Kind};
use super::pause::Pause;
use super::store::{BeforeCommit, Incoming, StoreError, Stored, keep_account, keep_dead_letter};
use super::{Division, Receiver, republish};
use crate::classify::{ErrorClass, Failure};
use crate::hub::database::{self, DatabaseError};

/// Works `slot` until `stop`; what is in hand then is finished.
pub(super) async fn slot(receiver: Arc<Receiver>, slot: u16, stop: CancellationToken) {
    let mut pause = Pause::new();
    let mut database = None;
    while !stop.is_cancelled() {
        let name = receiver.session_name(&slot.to_string());
        let ended = connection(&receiver, slot, &name, &stop, &mut database, &mut pause).await;
        receiver.state.session(slot, false);
        let Err(failure) = ended else {
            return;
        };
        let class = failure.class.as_str();
        receiver
            .metrics
            .broker_errors
            .get_or_create(&Class { class })
            .inc();
        let wait = pause.failed(failure.class);
        warn!(slot, %failure, ?wait, "the session's connection ended");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One connection of the session; `Ok` where it was told to stop.
async fn connection(
    receiver: &Receiver,
    slot: u16,
    name: &str,
    stop: &CancellationToken,
    database: &mut Option<Client>,
    pause: &mut Pause,
) -> Result<(), Failure> {
    let identity = Identity {
        client_id: name.to_owned(),
        persistent: true,
        queue_bytes_max: receiver.config.receive.queue_bytes_max,
    };
    let mut session = Session::open(&receiver.access, identity, &receiver.filters(slot))?;
    loop {
        let gathered = tokio::select! {
            gathered = gather(receiver, slot, &mut session, pause) => gathered?,
            () = stop.cancelled() => break,
        };
        let Some(batch) = gathered else {
            continue;
        };
        let began = Instant::now();
        tokio::select! {
            () = settle(receiver, &batch, database) => {}
            () = abandoned(stop) => break,
        }
        receiver
            .metrics
            .batch_seconds
            .observe(began.elapsed().as_secs_f64());
        batch.acknowledge(&session);
    }
    info!(slot, "session closed");
    session.close().await;
    Ok(())
}

/// A batch in hand is finished, unless the database does not let it.
async fn abandoned(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
}

/// Messages that are settled together.
#[derive(Default)]
struct Batch {
    messages: Vec<Delivered>,
    readings: Vec<Incoming>,
    /// Which readings came in a message that the broker may have delivered before.
    again: Vec<bool>,
    beside: Vec<Arrival>,
    /// What the readings take in memory: a frame of a few bytes may unpack to many.
    unpacked_bytes: usize,
}

impl Batch {
    fn is_full(&self, receiver: &Receiver) -> bool {
        // Whatever is in them: acknowledgements are owed.
        self.readings.len() >= receiver.config.receive.batch_readings_max
            || self.messages.len() >= receiver.config.receive.batch_readings_max
            || self.unpacked_bytes >= receiver.config.receive.queue_bytes_max
    }

    fn add(&mut self, receiver: &Receiver, slot: u16, message: Delivered) {
        if receiver.is_of_slot(&message.topic, slot) {
            let arrival = arrival::read(&message, receiver.plain.as_ref());
            let kind = kind(&arrival);
            receiver
                .metrics
                .messages
                .get_or_create(&Kind { kind })
                .inc();
            match arrival {
                Arrival::Frame(readings) => self.take(readings, message.again),
                Arrival::Plain(reading) => self.take(vec![*reading], message.again),
                Arrival::Account(_) | Arrival::Dead(_) => self.beside.push(arrival),
                Arrival::Own | Arrival::Unidentified => {}
            }
        }
        self.messages.push(message);
    }

    fn take(&mut self, readings: Vec<Incoming>, again: bool) {
        let bytes = readings
            .iter()
            .map(|incoming| incoming.reading.size_bytes());
        self.unpacked_bytes += bytes.sum::<usize>();
        self.again
            .resize(self.readings.len() + readings.len(), again);
        self.readings.extend(readings);
    }

    /// In the order in which they came [MQTT-4.6.0-2].
    fn acknowledge(self, session: &Session) {
        for message in &self.messages {
            session.acknowledge(message);
        }
    }
}

fn kind(arrival: &Arrival) -> &'static str {
    match arrival {
        Arrival::Frame(_) => "frame",
        Arrival::Plain(_) => "plain",
        Arrival::Account(_) => "account",
        Arrival::Dead(_) => "dead",
        Arrival::Own => "own",
        Arrival::Unidentified => "unidentified",
    }
}

/// Waits for a message, and takes those that come with it: until the batch is full, the linger is over, or nothing came
/// for a tenth of it. `None`: nothing to settle.
async fn gather(
    receiver: &Receiver,
    slot: u16,
    session: &mut Session,
    pause: &mut Pause,
) -> Result<Option<Batch>, Failure> {
    let gone = || Failure::new(ErrorClass::Connect, "the session ended");
    let mut batch = Batch::default();
    match session.next().await.ok_or_else(gone)? {
        Heard::Subscribed => {
            subscribed(receiver, slot, pause);
            return Ok(None);
        }
        Heard::Down(failure) => return Err(failure),
        Heard::Message(message) => batch.add(receiver, slot, message),
    }
    let linger = receiver.config.receive.linger;
    let until = Instant::now() + linger;
    while !batch.is_full(receiver) {
        let idle = until.min(Instant::now() + linger / 10);
        match timeout_at(idle, session.next()).await {
            Ok(Some(Heard::Message(message))) => batch.add(receiver, slot, message),
            // What a session kept comes before the answer.
            Ok(Some(Heard::Subscribed)) => subscribed(receiver, slot, pause),
            // Nothing of it can be acknowledged any more.
            Ok(Some(Heard::Down(failure))) => return Err(failure),
            Ok(None) => return Err(gone()),
            Err(_) => break,
        }
    }
    Ok(Some(batch))
}

fn subscribed(receiver: &Receiver, slot: u16, pause: &mut Pause) {
    info!(slot, "subscribed");
    pause.over();
    receiver.state.session(slot, true);
}

/// Returns when everything in the batch is kept and published.
async fn settle(receiver: &Receiver, batch: &Batch, database: &mut Option<Client>) {
    let mut pause = Pause::new();
    let mut tried_before = false;
    let stored = loop {
        match keep(receiver, batch, database).await {
            Ok(stored) => break stored,
            Err(error) => {
                *database = None;
                tried_before = true;
                receiver.metrics.database_errors.inc();
                receiver.state.database_said(Some(error.to_string()));
                let wait = pause.failed(ErrorClass::Connect);
                warn!(%error, ?wait, "a batch is not stored yet");
                tokio::time::sleep(wait).await;
            }
        }
    };
    receiver.state.database_said(None);
    count(receiver, &stored);
    let due = |(at, _): &(usize, &Incoming)| {
        tried_before
            || batch.again.get(*at).copied().unwrap_or(false)
            || stored.new.binary_search(at).is_ok()
    };
    // Whatever becomes of the publishes, these are rows.
    receiver.receipts.due(stored.progress.into_keys());
    if let Some(template) = &receiver.config.republish {
        let readings = batch.readings.iter().enumerate().filter(due);
        let messages: Vec<_> = readings
            .filter_map(|(_, incoming)| republish::message(template, incoming, &receiver.access))
            .collect();
        let count = messages.len() as u64;
        receiver.publisher.publish(messages).await;
        receiver.metrics.republished.inc_by(count);
    }
}

async fn keep(
    receiver: &Receiver,
    batch: &Batch,
    database: &mut Option<Client>,
) -> Result<Stored, KeepError> {
    let client = match database {
        Some(client) if !client.is_closed() => client,
        other => other.insert(database::connect(&receiver.config.database).await?),
    };
    for beside in &batch.beside {
        match beside {
            Arrival::Account(account) => keep_account(client, account).await,
            Arrival::Dead(letter) => {
                warn!(topic = letter.topic, reason = letter.reason, "dead letter");
                receiver.metrics.dead_letters.inc();
                keep_dead_letter(client, letter).await
            }
            Arrival::Frame(_) | Arrival::Plain(_) | Arrival::Own | Arrival::Unidentified => Ok(()),
        }
        .map_err(StoreError::from)?;
    }
    let sink = receiver
        .kafka
        .as_ref()
        .map(|kafka| kafka as &dyn BeforeCommit);
    let stored = receiver
        .store
        .store_batch_with(client, &batch.readings, sink)
        .await?;
    debug!(new = stored.new.len(), known = stored.known, "batch stored");
    Ok(stored)
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Connect(#[from] DatabaseError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn count(receiver: &Receiver, stored: &Stored) {
    let metrics = &receiver.metrics;
    metrics.stored.inc_by(stored.new.len() as u64);
    metrics.known.inc_by(stored.known);
    metrics.conflicts.inc_by(stored.conflicts);
    metrics.improved.inc_by(stored.improved);
    metrics.dead_letters.inc_by(stored.dead);
    if !stored.new.is_empty() {
        receiver.state.stored_now(&metrics.last_stored);
    }
    receiver
        .state
        .conflicts
        .fetch_add(stored.conflicts, Ordering::Relaxed);
}

impl Receiver {
    /// Whether a slot works on this topic: with shared subscriptions whatever it gets, else its own villages'.
    fn is_of_slot(&self, topic: &str, slot: u16) -> bool {
        match self.division {
            Division::Shared => true,
            Division::Partitions => {
                let village = match crate::wire::village_of(topic) {
                    Some((village, _)) => Some(village),
                    None => self
                        .plain
                        .as_ref()
                        .and_then(|p| Some(p.read(topic)?.village)),
                };
                // What names no village is the first slot's, to be kept as a dead letter.
                let of = village.map_or(0, |v| {
                    super::partition_of(&v, self.config.receive.partitions)
                });
                of == slot
            }
        }
    }
}
