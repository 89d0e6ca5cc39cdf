//! Which sessions this replica holds: slots, each with a PostgreSQL advisory lock.
//!
//! However many replicas there are, the sessions at the broker are the same few, each a slot with a client id of its
//! own, so that none is ever left behind with messages in it: a slot whose replica died is taken by another. Replicas
//! count each other by a shared lock, take their share of the slots, and let go of what is more. Invariant: a slot is
//! worked only while the connection that holds its lock answers; when it does not, the work is cut at once. (The server
//! may see the connection end before we do: then two may have the slot for moments. The broker lets one of two with the
//! same client id stay, and the database makes each reading one row.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Receiver;
use super::pause::Pause;
use super::work;
use crate::classify::ErrorClass;
use crate::hub::database::{self, words};

/// How often the locks and the number of replicas are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A lock's connection that does not answer for so long holds nothing.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a slot that is let go may finish its batch.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// The number that replicas share, beside the slots from 0.
const REPLICA: i32 = -1;

struct Slot {
    stop: CancellationToken,
    work: JoinHandle<()>,
}

/// Holds slots until `stop`, then lets all of them finish.
pub(super) async fn hold(receiver: Arc<Receiver>, stop: CancellationToken) {
    let mut pause = Pause::new();
    while !stop.is_cancelled() {
        let mut held = BTreeMap::new();
        let error = match database::connect(&receiver.config.database).await {
            Ok(client) => {
                let result = tokio::select! {
                    result = hold_over(&receiver, &client, &mut held, &mut pause) => result,
                    () = stop.cancelled() => Ok(()),
                };
                let Err(error) = result else {
                    // The locks are held until the sessions are closed.
                    finish(held).await;
                    return;
                };
                error
            }
            Err(error) => error.to_string(),
        };
        receiver.state.lock_is_there(false);
        warn!(error, "no locks: sessions are cut");
        for slot in held.into_values() {
            slot.work.abort();
        }
        receiver.metrics.slots_held.set(0);
        receiver.state.all_down();
        tokio::select! {
            () = tokio::time::sleep(pause.failed(ErrorClass::Connect)) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn finish(held: BTreeMap<u16, Slot>) {
    for slot in held.values() {
        slot.stop.cancel();
    }
    for (_, mut slot) in held {
        if timeout(FINISH_MAX, &mut slot.work).await.is_err() {
            slot.work.abort();
        }
    }
}

async fn hold_over(
    receiver: &Arc<Receiver>,
    client: &Client,
    held: &mut BTreeMap<u16, Slot>,
    pause: &mut Pause,
) -> Result<(), String> {
    let class = class(receiver);
    let shared = "SELECT pg_advisory_lock_shared($1, $2)";
    answer(client.execute(shared, &[&class, &REPLICA])).await?;
    receiver.state.lock_is_there(true);
    pause.over();
    loop {
        let replicas = replicas(client, class).await?;
        let slots = usize::from(receiver.config.receive.partitions);
        let target = slots.div_ceil(replicas.max(1));
        let_go(client, class, target, held).await?;
        take(receiver, client, class, target, held).await?;
        receiver
            .metrics
            .slots_held
            .set(i64::try_from(held.len()).unwrap_or(i64::MAX));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Unlocks slots whose work ended by itself, to take them anew, and what is more than `target`.
async fn let_go(
    client: &Client,
    class: i32,
    target: usize,
    held: &mut BTreeMap<u16, Slot>,
) -> Result<(), String> {
    let ended = held.iter().filter(|(_, slot)| slot.work.is_finished());
    let mut go: Vec<u16> = ended.map(|(slot, _)| *slot).collect();
    let more = held.keys().rev().filter(|slot| !go.contains(slot));
    let more = more.take((held.len() - go.len()).saturating_sub(target));
    let more: Vec<u16> = more.copied().collect();
    go.extend(more);
    for slot in go {
        if let Some(work) = held.remove(&slot) {
            info!(slot, "slot let go");
            finish(BTreeMap::from([(slot, work)])).await;
            let unlock = "SELECT pg_advisory_unlock($1, $2)";
            answer(client.execute(unlock, &[&class, &i32::from(slot)])).await?;
        }
    }
    Ok(())
}

async fn take(
    receiver: &Arc<Receiver>,
    client: &Client,
    class: i32,
    target: usize,
    held: &mut BTreeMap<u16, Slot>,
) -> Result<(), String> {
    let mut free: Vec<u16> = (0..receiver.config.receive.partitions)
        .filter(|slot| !held.contains_key(slot))
        .collect();
    // Each replica in an order of its own: they do not race for the same.
    free.shuffle(&mut rand::rng());
    for slot in free {
        if held.len() >= target {
            break;
        }
        let lock = "SELECT pg_try_advisory_lock($1, $2)";
        let slot_number = i32::from(slot);
        let row = answer(client.query_one(lock, &[&class, &slot_number])).await?;
        if !row.get::<_, bool>(0) {
            continue;
        }
        info!(slot, "slot taken");
        let stop = CancellationToken::new();
        let work = work::slot(Arc::clone(receiver), slot, stop.clone());
        let work = tokio::spawn(work);
        held.insert(slot, Slot { stop, work });
    }
    Ok(())
}

async fn replicas(client: &Client, class: i32) -> Result<usize, String> {
    let sql =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND classid = $1::int8::oid AND objid = $2::int8::oid";
    // PostgreSQL shows them as unsigned.
    let unsigned = |n: i32| i64::from(n.cast_unsigned());
    let parameters = (unsigned(class), unsigned(REPLICA));
    let row = answer(client.query_one(sql, &[&parameters.0, &parameters.1])).await?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(1))
}

async fn answer<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match timeout(ANSWER_MAX, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
    }
}

/// Receivers with other client ids, or another division, lock other slots.
fn class(receiver: &Receiver) -> i32 {
    let name = receiver.session_name("");
    let hash = Sha256::digest(name.as_bytes());
    let bytes = hash.first_chunk::<4>().copied().unwrap_or_default();
    i32::from_be_bytes(bytes)
}
