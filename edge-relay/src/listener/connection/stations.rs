//! The stations of a batch of publishes: a place in the store's queue, its commit, the broker's state, and then what
//! is owed to the client.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::codec::Violation;
use super::super::codec::write::{self, PUBREC};
use super::super::inbound::Batch;
use super::ending::End;
use super::{Connection, Owed, Reply, Reserving};
use crate::broker::Durable;
use crate::broker::exactly_once::Position;
use crate::store::{AppendError, AppendPermit, Appended, Committed};

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends a batch on its way: to the store, or where nothing of it is a reading, behind those that are there.
    pub(super) fn submit(&mut self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        if batch.readings.is_empty() {
            if self.appending.is_empty() {
                self.route(batch);
            } else {
                self.appending.push_back((None, batch));
            }
            return;
        }
        let store = self.shared.store.clone();
        let bytes = batch.bytes;
        let reserving = Box::pin(async move { store.reserve(bytes).await });
        self.reserving = Some((reserving, batch));
    }

    pub(super) fn reserved(&mut self, result: Result<AppendPermit, AppendError>) {
        let Some((_, mut batch)) = self.reserving.take() else {
            return;
        };
        match result {
            Ok(permit) => {
                let appended = permit.append(std::mem::take(&mut batch.readings));
                self.appending.push_back((Some(appended), batch));
            }
            Err(error) => self.withhold(&batch, &error),
        }
    }

    /// The oldest batch is on disk, or is not; those behind it that are ready follow.
    pub(super) fn appended(&mut self, result: Result<Option<Committed>, AppendError>) {
        let mut result = result;
        loop {
            let Some((_, mut batch)) = self.appending.pop_front() else {
                return;
            };
            match result {
                Ok(committed) => {
                    if let Some(committed) = committed {
                        batch.stored = Some(Position {
                            epoch: committed.epoch,
                            sequence: committed.range.last.0,
                        });
                    }
                    self.route(batch);
                }
                Err(error) => self.withhold(&batch, &error),
            }
            result = match self.appending.front_mut() {
                Some((None, _)) => Ok(None),
                Some((Some(appended), _)) => match appended.try_recv() {
                    Ok(done) => done.map(Some),
                    Err(_) => return,
                },
                None => return,
            };
        }
    }

    /// To the local subscribers; then the acknowledgements are owed.
    fn route(&mut self, batch: Batch) {
        let durable =
            self.shared
                .broker
                .route(Some(self.client.key), &batch.publications, batch.stored);
        self.owe(durable, Reply::Acks(batch.acks));
    }

    fn withhold(&mut self, batch: &Batch, error: &AppendError) {
        let promised = batch.acks.len() as u64;
        self.shared.stats.publishes_withheld_total.add(promised);
        self.shared
            .stats
            .publishes_dropped_total
            .add(batch.unpromised);
        if promised == 0 {
            tracing::debug!(%error, "publishes of QoS 0 could not be kept");
            return;
        }
        if let Some(publishes) = self.shared.withheld.add(promised, Instant::now()) {
            tracing::warn!(%error, publishes, "not acknowledged: could not be kept");
        }
        self.ends(End::Withheld);
    }

    pub(super) fn owe(&mut self, durable: Option<Durable>, reply: Reply) {
        if durable.is_none() && self.settling.is_empty() {
            self.pay(reply);
        } else {
            self.settling.push_back(Owed { durable, reply });
        }
    }

    pub(super) fn settled(&mut self, durable: bool) {
        let Some(owed) = self.settling.pop_front() else {
            return;
        };
        if durable {
            self.pay(owed.reply);
        } else {
            if let Reply::Acks(acks) = &owed.reply {
                self.shared
                    .stats
                    .publishes_withheld_total
                    .add(acks.len() as u64);
            }
            if let Some(publishes) = self.shared.withheld.add(1, Instant::now()) {
                tracing::warn!(
                    publishes,
                    "not acknowledged: the broker's state could not be kept"
                );
            }
            self.ends(End::Withheld);
        }
    }

    /// Writes what is owed. After a publish that could not be kept, nothing is acknowledged any more: the client
    /// must not take a later PUBACK for the earlier one's.
    fn pay(&mut self, reply: Reply) {
        let mute = self.broken || self.end == Some(End::Withheld);
        match reply {
            Reply::Packet(bytes) if bytes.len() > self.client.packet_bytes_max => {
                // A SUBACK or UNSUBACK of many filters: it cannot be sent [MQTT-3.1.2-24].
                self.ends(End::Violation(Violation::too_large()));
            }
            Reply::Packet(bytes) if !mute => self.output.extend_from_slice(&bytes),
            Reply::Packet(_) => {}
            Reply::Acks(acks) => {
                for ack in acks {
                    self.unacknowledged = self.unacknowledged.saturating_sub(1);
                    if ack.first_byte == PUBREC {
                        self.unreceived.retain(|id| *id != ack.id);
                        if ack.reason < 0x80 {
                            self.unreleased.insert(ack.id);
                        }
                    }
                    if !mute {
                        let version = self.client.version;
                        let accepted = u64::from(ack.reason < 0x80);
                        self.shared.stats.publishes_acknowledged_total.add(accepted);
                        write::acknowledgement(
                            &mut self.output,
                            version,
                            ack.first_byte,
                            ack.id,
                            ack.reason,
                        );
                    }
                }
            }
        }
    }
}

pub(super) async fn reserved(
    reserving: &mut Option<(Reserving, Batch)>,
) -> Result<AppendPermit, AppendError> {
    match reserving {
        Some((future, _)) => future.await,
        None => std::future::pending().await,
    }
}

pub(super) async fn appended(
    appending: &mut VecDeque<(Option<Appended>, Batch)>,
) -> Result<Option<Committed>, AppendError> {
    match appending.front_mut() {
        Some((Some(appended), _)) => match appended.await {
            Ok(result) => result.map(Some),
            Err(_) => Err(AppendError::Closed),
        },
        Some((None, _)) => Ok(None),
        None => std::future::pending().await,
    }
}

pub(super) async fn settled(settling: &mut VecDeque<Owed>) -> bool {
    match settling.front_mut() {
        Some(Owed {
            durable: Some(durable),
            ..
        }) => matches!(durable.await, Ok(Ok(()))),
        Some(Owed { durable: None, .. }) => true,
        None => std::future::pending().await,
    }
}
