//! The backlog's own commands, over the admin API and, while no relay runs, by the command line itself.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use hub_bridge::backlog::BacklogError;
use hub_bridge::clock::{Clock, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence};
use hub_bridge::reading::Reading;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Refused, blocking};
use crate::store::Store;

/// At most so many readings in one peek: they are held in memory.
const PEEK_MAX: usize = 1000;
/// With so many bytes of payload, a peek shows no more.
const PEEK_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Readings that are fetched at a time.
const PEEK_STEP: usize = 8;

/// What can be asked of a backlog.
#[derive(Debug, Clone, Copy)]
pub enum BacklogRequest {
    /// The segments on disk.
    Segments,
    /// Readings of an epoch (the current one where none is given), from a sequence on.
    Peek {
        /// Which epoch.
        epoch: Option<Epoch>,
        /// From here; from the first that waits where not given.
        from: Option<Sequence>,
        /// At most so many.
        count: usize,
    },
    /// Check every frame of every closed segment.
    Verify,
    /// Send again what was received from `from` until before `to`.
    Replay {
        /// The beginning.
        from: UnixMillis,
        /// The end, itself left out.
        to: UnixMillis,
    },
    /// Readings that the hub never took.
    Refused,
    /// Try one of them again, or all.
    Retry {
        /// Which; all where not given.
        one: Option<(Epoch, Sequence)>,
    },
}

/// Does what is asked and answers it as JSON. Blocks on the disk.
///
/// # Errors
/// [`BacklogError`]: no such epoch, or the disk failed.
pub fn answer(
    store: &Store,
    clock: &dyn Clock,
    request: BacklogRequest,
) -> Result<Value, BacklogError> {
    let value = match request {
        BacklogRequest::Segments => json!(store.segments()),
        BacklogRequest::Peek { epoch, from, count } => {
            let stats = store.stats();
            let epoch = epoch.unwrap_or(stats.epoch);
            let first = if epoch == stats.epoch {
                stats.first_sequence
            } else {
                Sequence::FIRST
            };
            let readings = peek_some(store, epoch, from.unwrap_or(first), count.min(PEEK_MAX))?;
            let shown = readings.iter().map(|reading| shown(epoch, reading, clock));
            Value::Array(shown.collect())
        }
        BacklogRequest::Verify => json!(store.verify()),
        BacklogRequest::Replay { from, to } => json!({ "readings": store.replay(from, to)? }),
        BacklogRequest::Refused => json!(store.refused()),
        BacklogRequest::Retry { one } => json!({ "readings": retry_all(store, one)? }),
    };
    Ok(value)
}

/// At most `count`, and no more once they have [`PEEK_BYTES_MAX`].
fn peek_some(
    store: &Store,
    epoch: Epoch,
    from: Sequence,
    count: usize,
) -> Result<Vec<Arc<Reading>>, BacklogError> {
    let (mut found, mut bytes, mut at) = (Vec::new(), 0, from);
    while found.len() < count && bytes < PEEK_BYTES_MAX {
        let more = store.peek(epoch, at, PEEK_STEP.min(count - found.len()))?;
        let Some(last) = more.last() else {
            break;
        };
        at = Sequence(last.sequence.0 + 1);
        bytes += more.iter().map(|r| r.payload.len()).sum::<usize>();
        found.extend(more);
    }
    Ok(found)
}

fn retry_all(store: &Store, one: Option<(Epoch, Sequence)>) -> Result<u64, BacklogError> {
    let waiting = || {
        let refused = store.refused().into_iter().filter(|entry| !entry.retried);
        refused.map(|entry| (entry.epoch, entry.sequence)).collect()
    };
    let which: Vec<(Epoch, Sequence)> = one.map_or_else(waiting, |one| vec![one]);
    let mut back = 0;
    for (epoch, sequence) in which {
        back += u64::from(store.retry(epoch, sequence)?);
    }
    Ok(back)
}

fn shown(epoch: Epoch, reading: &Reading, clock: &dyn Clock) -> Value {
    let (at, quality) = clock.best_time_of(&reading.received);
    let (encoding, payload) = match std::str::from_utf8(&reading.payload) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("hex", hex(&reading.payload)),
    };
    json!({
        "epoch": epoch,
        "sequence": reading.sequence,
        "topic": reading.topic,
        "client_id": reading.client_id,
        "qos": reading.qos,
        "retain": reading.retain,
        "received_at": in_words(at),
        "clock": quality,
        "repeat_of": reading.repeat_of,
        "payload_bytes": reading.payload.len(),
        "payload_encoding": encoding,
        "payload": payload,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// RFC 3339, in UTC.
pub(super) fn in_words(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.to_string(), |time| time.to_string())
}

/// `?epoch&from&count`
#[derive(Debug, Deserialize)]
pub(super) struct PeekQuery {
    epoch: Option<Epoch>,
    from: Option<Sequence>,
    count: Option<usize>,
}

/// `?from&to`: RFC 3339 times.
#[derive(Debug, Deserialize)]
pub(super) struct ReplayQuery {
    from: jiff::Timestamp,
    to: jiff::Timestamp,
}

/// `?epoch&sequence`: both or neither.
#[derive(Debug, Deserialize)]
pub(super) struct RetryQuery {
    epoch: Option<Epoch>,
    sequence: Option<Sequence>,
}

type Answer = Result<Json<Value>, Refused>;

async fn reply(admin: Arc<Admin>, request: BacklogRequest) -> Answer {
    let answered = blocking(move || answer(&admin.store, admin.clock.as_ref(), request)).await?;
    answered.map(Json).map_err(|error| {
        let status = match error {
            BacklogError::UnknownEpoch(_) => StatusCode::NOT_FOUND,
            BacklogError::NeverAppended { .. } => StatusCode::BAD_REQUEST,
            BacklogError::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refused::new(status, error)
    })
}

pub(super) async fn segments(State(admin): State<Arc<Admin>>) -> Answer {
    reply(admin, BacklogRequest::Segments).await
}

pub(super) async fn peek(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<PeekQuery>,
) -> Answer {
    let request = BacklogRequest::Peek {
        epoch: query.epoch,
        from: query.from,
        count: query.count.unwrap_or(10),
    };
    reply(admin, request).await
}

pub(super) async fn verify(State(admin): State<Arc<Admin>>) -> Answer {
    reply(admin, BacklogRequest::Verify).await
}

pub(super) async fn replay(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<ReplayQuery>,
) -> Answer {
    let request = BacklogRequest::Replay {
        from: UnixMillis(query.from.as_millisecond()),
        to: UnixMillis(query.to.as_millisecond()),
    };
    reply(admin, request).await
}

pub(super) async fn refused(State(admin): State<Arc<Admin>>) -> Answer {
    reply(admin, BacklogRequest::Refused).await
}

pub(super) async fn retry(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<RetryQuery>,
) -> Answer {
    let one = match (query.epoch, query.sequence) {
        (Some(epoch), Some(sequence)) => Some((epoch, sequence)),
        (None, None) => None,
        _ => {
            return Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "epoch and sequence: both, or neither for all",
            ));
        }
    };
    reply(admin, BacklogRequest::Retry { one }).await
}
