//! A backlog in memory that can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hub_bridge::backlog::{Backlog, BacklogError, EpochState, Mark, ReadBatch, ReadLimit, Refusal};
use hub_bridge::clock::{BootId, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::reading::{PublishProperties, Reading};
use hub_bridge::wire::account::Account;
use tokio::sync::watch;

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<u64, Arc<Reading>>,
    next: u64,
    /// Forwarded, and not confirmed: with `Mark::Stored` confirming.
    forwarded: BTreeSet<u64>,
    refused: Vec<(u64, String)>,
    confirmed: u64,
}

pub struct MemoryBacklog {
    pub epoch: Epoch,
    village: VillageId,
    confirming: Mark,
    inner: Mutex<Inner>,
    appended: watch::Sender<u64>,
    pub fail_reads: AtomicBool,
    pub fail_confirms: AtomicBool,
    pub accounts: Mutex<Vec<Account>>,
}

impl MemoryBacklog {
    pub fn new(village: &str) -> Arc<Self> {
        Self::confirmed_by(Mark::Forwarded, village)
    }

    /// One whose readings go when they have this mark.
    pub fn confirmed_by(confirming: Mark, village: &str) -> Arc<Self> {
        Arc::new(Self {
            confirming,
            epoch: Epoch(0x5eed_0001),
            village: village.parse().unwrap(),
            inner: Mutex::new(Inner {
                next: 1,
                ..Inner::default()
            }),
            appended: watch::channel(0).0,
            fail_reads: AtomicBool::new(false),
            fail_confirms: AtomicBool::new(false),
            accounts: Mutex::default(),
        })
    }

    /// Appends a reading of meter `client` and gives its sequence.
    pub fn append(&self, client: &str, topic: &str, payload: impl Into<Vec<u8>>) -> u64 {
        self.append_reading(client, topic, payload.into(), false, None)
    }

    pub fn append_reading(
        &self,
        client: &str,
        topic: &str,
        payload: Vec<u8>,
        retain: bool,
        properties: Option<PublishProperties>,
    ) -> u64 {
        let mut inner = self.inner.lock().unwrap();
        let sequence = inner.next;
        inner.next += 1;
        let reading = Reading {
            sequence: Sequence(sequence),
            topic: topic.into(),
            client_id: client.into(),
            payload: payload.into(),
            qos: 1,
            retain,
            packet_id: 1,
            received: ReceivedAt {
                wall: UnixMillis(1_780_000_000_000 + i64::try_from(sequence).unwrap()),
                quality: ClockQuality::Synchronised,
                boot: BootId(1),
                monotonic_ms: sequence,
            },
            properties: properties.map(Box::new),
            repeat_of: None,
        };
        inner.waiting.insert(sequence, Arc::new(reading));
        drop(inner);
        self.appended.send_modify(|n| *n += 1);
        sequence
    }

    /// `count` readings of `clients` meters in turn, `size` bytes each.
    pub fn fill(&self, clients: u64, count: u64, size: usize) {
        for n in 0..count {
            let meter = n % clients;
            let mut payload = format!("{n} ").into_bytes();
            payload.resize(size.max(payload.len()), b'x');
            self.append(
                &format!("meter-{meter}"),
                &format!("m/{meter}/energy"),
                payload,
            );
        }
    }

    pub fn waiting(&self) -> u64 {
        self.inner.lock().unwrap().waiting.len() as u64
    }

    pub fn confirmed(&self) -> u64 {
        self.inner.lock().unwrap().confirmed
    }

    pub fn refused(&self) -> Vec<(u64, String)> {
        self.inner.lock().unwrap().refused.clone()
    }

    /// Brings a confirmed reading back, as a replay does.
    pub fn bring_back(&self, reading: Arc<Reading>) {
        let mut inner = self.inner.lock().unwrap();
        inner.waiting.insert(reading.sequence.0, reading);
        drop(inner);
        self.appended.send_modify(|n| *n += 1);
    }

    pub fn get(&self, sequence: u64) -> Option<Arc<Reading>> {
        self.inner.lock().unwrap().waiting.get(&sequence).cloned()
    }
}

impl Backlog for MemoryBacklog {
    fn epochs(&self) -> Vec<EpochState> {
        let inner = self.inner.lock().unwrap();
        let first = inner.waiting.keys().next().copied().unwrap_or(inner.next);
        vec![EpochState {
            epoch: self.epoch,
            village: self.village.clone(),
            first_unconfirmed: Sequence(first),
            next: Sequence(inner.next),
        }]
    }

    fn read(
        &self,
        epoch: Epoch,
        from: Sequence,
        mark: Mark,
        limit: ReadLimit,
    ) -> Result<ReadBatch, BacklogError> {
        assert_eq!(epoch, self.epoch);
        if self.fail_reads.load(Ordering::Relaxed) {
            return Err(BacklogError::Storage("told to fail".to_owned()));
        }
        let inner = self.inner.lock().unwrap();
        let mut batch = ReadBatch::default();
        let mut bytes = 0;
        for (sequence, reading) in inner.waiting.range(from.0..) {
            if mark == Mark::Forwarded && inner.forwarded.contains(sequence) {
                continue;
            }
            let size = reading.size_bytes();
            let full = batch.readings.len() >= limit.count || bytes + size > limit.bytes;
            if full && !batch.readings.is_empty() {
                break;
            }
            bytes += size;
            batch.readings.push(Arc::clone(reading));
            batch.next = Some(Sequence(sequence + 1));
        }
        Ok(batch)
    }

    fn confirm(
        &self,
        epoch: Epoch,
        mark: Mark,
        ranges: &[SequenceRange],
    ) -> Result<(), BacklogError> {
        assert_eq!(epoch, self.epoch);
        if self.fail_confirms.load(Ordering::Relaxed) {
            return Err(BacklogError::Storage("told to fail".to_owned()));
        }
        let mut inner = self.inner.lock().unwrap();
        for range in ranges {
            if range.last.0 >= inner.next {
                let (range, next) = (*range, Sequence(inner.next));
                return Err(BacklogError::NeverAppended { epoch, range, next });
            }
        }
        for range in ranges {
            for sequence in range.first.0..=range.last.0 {
                if mark != self.confirming && mark == Mark::Forwarded {
                    inner.forwarded.insert(sequence);
                } else if inner.waiting.remove(&sequence).is_some() {
                    inner.confirmed += 1;
                }
            }
        }
        Ok(())
    }

    fn refuse(
        &self,
        epoch: Epoch,
        sequence: Sequence,
        refusal: &Refusal,
    ) -> Result<(), BacklogError> {
        assert_eq!(epoch, self.epoch);
        let mut inner = self.inner.lock().unwrap();
        inner.waiting.remove(&sequence.0);
        inner.refused.push((sequence.0, refusal.reason.clone()));
        Ok(())
    }

    fn accounts(&self) -> Vec<Account> {
        self.accounts.lock().unwrap().clone()
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }
}
