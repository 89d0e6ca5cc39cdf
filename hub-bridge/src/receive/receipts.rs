//! Receipts: what is stored of an epoch, retained at the broker, so that the village may forget it.
//!
//! Told that an epoch was touched, they are published within about a second, and not more often for each epoch. What
//! is published is read from the database right before, under a lock that replicas take in turn: an older state never
//! replaces a newer one. A receipt that could not be published is tried again; the next holds all of it anyway.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::Client;
use tracing::{debug, warn};

use super::Receiver;
use super::store::read_progress;
use crate::hub::database;
use crate::identity::{Epoch, VillageId};
use crate::packet::Outgoing;
use crate::wire;
use crate::wire::receipt::{RANGES_MAX, Receipt};

/// So often at most, for each epoch.
const EVERY: Duration = Duration::from_secs(1);
/// How long the broker may take with all of them.
const PUBLISH_MAX: Duration = Duration::from_secs(20);
/// So many at once.
const EPOCHS_MAX: usize = 500;
/// The locks' class.
const LOCK: i32 = 0x6875_6272;

type Key = (VillageId, Epoch);

/// Epochs whose receipts are due.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    due: Mutex<BTreeSet<Key>>,
    more: Notify,
}

impl Receipts {
    /// Something of these was stored, or came again.
    pub(super) fn due(&self, keys: impl Iterator<Item = Key>) {
        self.lock().extend(keys);
        self.more.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Key>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Key> {
        let mut due = self.lock();
        let first: Vec<Key> = due.iter().take(EPOCHS_MAX).cloned().collect();
        for key in &first {
            due.remove(key);
        }
        first
    }
}

/// Publishes until dropped.
pub(super) async fn publish(receiver: Arc<Receiver>) {
    let mut database = None;
    loop {
        let keys = receiver.receipts.take();
        if keys.is_empty() {
            receiver.receipts.more.notified().await;
            continue;
        }
        if let Err(error) = publish_some(&receiver, &mut database, &keys).await {
            warn!(error, "receipts are not published yet");
            database = None;
            receiver.receipts.due(keys.into_iter());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Publishes what is due, once: at the end, when no more is stored.
pub(super) async fn publish_the_last(receiver: &Receiver) {
    let mut database = None;
    loop {
        let keys = receiver.receipts.take();
        if keys.is_empty() || publish_some(receiver, &mut database, &keys).await.is_err() {
            return;
        }
    }
}

async fn publish_some(
    receiver: &Receiver,
    database: &mut Option<Client>,
    keys: &[Key],
) -> Result<(), String> {
    let client = if let Some(client) = database {
        client
    } else {
        let connected = database::connect(&receiver.config.database).await;
        database.insert(connected.map_err(|error| error.to_string())?)
    };
    let said = |error: tokio_postgres::Error| database::words(&error);
    let transaction = client.transaction().await.map_err(said)?;
    let mut locks: Vec<i32> = keys.iter().map(lock_of).collect();
    // In one order everywhere: two replicas never wait for each other in a circle.
    locks.sort_unstable();
    locks.dedup();
    let lock = "SELECT pg_advisory_xact_lock($1, n) FROM unnest($2::int4[]) AS n";
    transaction
        .query(lock, &[&LOCK, &locks])
        .await
        .map_err(said)?;
    let progress = read_progress(&transaction, keys).await.map_err(said)?;
    let messages: Vec<Outgoing> = progress
        .into_iter()
        .map(|((village, epoch), stored)| {
            let mut stored = stored.ranges();
            if stored.len() > RANGES_MAX {
                // Holes may be for good: the newest readings are receipted all the same.
                warn!(%village, %epoch, ranges = stored.len(), "a receipt says less than is stored");
                stored.drain(RANGES_MAX / 2..stored.len() - RANGES_MAX / 2);
            }
            Outgoing {
                topic: wire::receipts_topic(&village, epoch),
                retain: true,
                payload: Receipt {
                    village,
                    epoch,
                    stored,
                }
                .to_json()
                .into(),
                properties: None,
            }
        })
        .collect();
    let count = messages.len() as u64;
    timeout(PUBLISH_MAX, receiver.publisher.publish(messages))
        .await
        .map_err(|_| "the broker does not answer".to_owned())?;
    transaction.rollback().await.map_err(said)?;
    debug!(count, "receipts published");
    receiver.metrics.receipts.inc_by(count);
    Ok(())
}

fn lock_of((village, epoch): &Key) -> i32 {
    let hash = Sha256::digest(format!("{village}/{epoch}"));
    i32::from_be_bytes(hash.first_chunk::<4>().copied().unwrap_or_default())
}
