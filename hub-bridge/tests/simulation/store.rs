//! The village's store: reads and confirms that fail or take long, marks that a kill sets back, ranges lost to damage.
//!
//! It is also half of the ledger: each reading knows what has become of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use hub_bridge::backlog::{Backlog, BacklogError, EpochState, Mark, ReadBatch, ReadLimit, Refusal};
use hub_bridge::clock::{BootId, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::platform::{Work, Workers};
use hub_bridge::reading::Reading;
use hub_bridge::traffic::{TrafficBook, Usage};
use tokio::sync::watch;

use super::dice::Rng;
use super::scene::VILLAGE;
use super::world::{Id, Note, Shared, World};

/// What the hub does with a reading for ever, whatever its mood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    None,
    /// It closes the connection.
    Close,
    /// It never answers.
    Silence,
    /// It refuses it with this reason.
    Reason(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Waiting,
    /// Confirmed; a kill may forget it.
    Confirmed,
    /// Confirmed, and on the disk.
    Settled,
    Refused,
    /// Damage took it, by name.
    Lost,
}

/// One reading, and what has become of it.
#[derive(Debug, Clone)]
pub struct Slot {
    pub meter: u16,
    pub bytes: u32,
    pub poison: Poison,
    pub fate: Fate,
    /// The hub's PUBACK for it, with a success, was there for the bridge to read.
    pub acknowledged: bool,
    /// It reached the hub.
    pub arrived: bool,
    /// The hub refused it, with any reason.
    pub refusals: u32,
    /// Connections that ended while it was in flight.
    pub losses: u32,
}

pub struct EpochBook {
    pub epoch: u32,
    pub slots: Vec<Slot>,
    /// Below it nothing waits.
    mark: usize,
}

/// The faults of the disk, each a probability.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFaults {
    pub read: f64,
    pub confirm: f64,
    pub refuse: f64,
    pub slow: f64,
}

pub struct Store {
    /// The bytes of each month, as written down last.
    pub usage: Option<Usage>,
    pub epochs: Vec<EpochBook>,
    pub faults: DiskFaults,
    appended: watch::Sender<u64>,
    alive: Arc<Alive>,
}

/// Payloads that the bridge holds.
#[derive(Default)]
struct Alive {
    count: AtomicI64,
}

struct Tracked {
    bytes: Vec<u8>,
    alive: Arc<Alive>,
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.alive.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of a reading: its identity, then filled up with something of its own.
pub fn payload(id: Id, bytes: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(bytes as usize);
    payload.extend(id.0.to_be_bytes());
    payload.extend(id.1.to_be_bytes());
    payload.resize((bytes as usize).max(12), id.1.to_be_bytes()[7]);
    payload
}

pub fn meter_name(meter: u16) -> Arc<str> {
    format!("meter-{meter}").into()
}

pub fn meter_topic(meter: u16) -> String {
    format!("m/{meter}/energy")
}

impl Store {
    pub fn new(rng: &mut Rng) -> Self {
        let mut store = Self {
            usage: None,
            epochs: Vec::new(),
            faults: DiskFaults::default(),
            appended: watch::channel(0).0,
            alive: Arc::default(),
        };
        store.begin_epoch(rng);
        store
    }

    pub fn begin_epoch(&mut self, rng: &mut Rng) {
        let epoch = u32::try_from(rng.next() >> 32).unwrap();
        self.epochs.push(EpochBook {
            epoch,
            slots: Vec::new(),
            mark: 0,
        });
    }

    pub fn slot(&mut self, id: Id) -> Option<&mut Slot> {
        let book = self.epochs.iter_mut().find(|book| book.epoch == id.0)?;
        book.slots
            .get_mut(usize::try_from(id.1).ok()?.checked_sub(1)?)
    }

    /// Readings that wait and why they might for ever.
    pub fn waiting(&self) -> impl Iterator<Item = &Slot> {
        let waits = |slot: &&Slot| slot.fate == Fate::Waiting;
        self.epochs
            .iter()
            .flat_map(move |book| book.slots[book.mark..].iter().filter(waits))
    }

    /// Each epoch and the sequence after its last.
    pub fn ends(&self) -> Vec<Id> {
        let end = |book: &EpochBook| (book.epoch, book.slots.len() as u64 + 1);
        self.epochs.iter().map(end).collect()
    }

    /// Whether nothing below these ends waits.
    pub fn all_done_below(&self, ends: &[Id]) -> bool {
        ends.iter().all(|(epoch, next)| {
            let book = self.epochs.iter().find(|book| book.epoch == *epoch);
            book.is_none_or(|book| book.mark as u64 + 1 >= *next)
        })
    }

    /// kill -9: some of what was confirmed and not synced is forgotten.
    pub fn forget(&mut self, rng: &mut Rng) {
        let forgets = rng.chance(0.7);
        for book in &mut self.epochs {
            for slot in &mut book.slots {
                if slot.fate == Fate::Confirmed {
                    let keeps = !forgets || rng.chance(0.3);
                    slot.fate = if keeps { Fate::Settled } else { Fate::Waiting };
                }
            }
            book.mark = 0;
            book.advance();
        }
    }

    /// What the disk's next sync makes durable.
    pub fn sync(&mut self) {
        let slots = self.epochs.iter_mut().flat_map(|book| &mut book.slots);
        for slot in slots.filter(|slot| slot.fate == Fate::Confirmed) {
            slot.fate = Fate::Settled;
        }
    }

    pub fn alive(&self) -> usize {
        usize::try_from(self.alive.count.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub fn wake(&self) {
        self.appended.send_modify(|n| *n += 1);
    }

    fn reading(&self, id: Id, slot: &Slot) -> Arc<Reading> {
        let bytes = payload(id, slot.bytes);
        self.alive.count.fetch_add(1, Ordering::Relaxed);
        let alive = Arc::clone(&self.alive);
        Arc::new(Reading {
            sequence: Sequence(id.1),
            topic: meter_topic(slot.meter).into(),
            client_id: meter_name(slot.meter),
            payload: Bytes::from_owner(Tracked { bytes, alive }),
            qos: 1,
            retain: slot.meter == 0,
            packet_id: 1,
            received: ReceivedAt {
                wall: UnixMillis(1_780_000_000_000),
                quality: ClockQuality::Synchronised,
                boot: BootId(1),
                monotonic_ms: id.1,
            },
            properties: None,
            repeat_of: None,
        })
    }
}

impl EpochBook {
    fn advance(&mut self) {
        while let Some(slot) = self.slots.get(self.mark) {
            if slot.fate == Fate::Waiting {
                break;
            }
            self.mark += 1;
        }
    }
}

impl World {
    /// A count of the same month never goes down.
    fn keep_usage(&mut self, usage: &Usage) -> Result<(), String> {
        let fails = self.store.faults.confirm;
        if self.rng.chance(fails) {
            return Err("told to fail".to_owned());
        }
        if let Some(before) = self.store.usage.replace(usage.clone()) {
            let same = before.month() == usage.month();
            let (before, now) = (before.now(), usage.now());
            self.holds(!same || now.total() >= before.total(), || {
                format!("the month's count went down from {before:?} to {now:?}")
            });
        }
        Ok(())
    }

    pub fn append(&mut self) {
        let meter = u16::try_from(self.rng.between(0, self.scene.meters - 1)).unwrap();
        let most = self.scene.reading_bytes_max;
        let bytes = self.rng.log_between(12.0, most) as u32;
        let poison = if self.rng.chance(self.scene.poison) {
            *self.rng.pick(&[
                Poison::Close,
                Poison::Silence,
                Poison::Reason(0x90),
                Poison::Reason(0x99),
                Poison::Reason(0x80),
                Poison::Reason(0x87),
            ])
        } else {
            Poison::None
        };
        let book = self.store.epochs.last_mut().expect("an epoch");
        book.slots.push(Slot {
            meter,
            bytes,
            poison,
            fate: Fate::Waiting,
            acknowledged: false,
            arrived: false,
            refusals: 0,
            losses: 0,
        });
        let id = (book.epoch, book.slots.len() as u64);
        self.totals.appended += 1;
        self.step(Note::Append { id, meter, bytes });
    }

    /// Damage takes a few readings that wait; the store names them.
    pub fn lose_some(&mut self) {
        let Some(book) = self.store.epochs.last_mut() else {
            return;
        };
        let from = book.mark + 3;
        for slot in book.slots.iter_mut().skip(from).take(5) {
            if slot.fate == Fate::Waiting {
                slot.fate = Fate::Lost;
            }
        }
    }

    fn read(&mut self, epoch: u32, from: u64, limit: ReadLimit) -> Result<ReadBatch, BacklogError> {
        if self.rng.chance(self.store.faults.read) {
            self.step(Note::ReadFails);
            return Err(BacklogError::Storage("a read that fails".to_owned()));
        }
        let count = if self.rng.chance(0.1) { 7 } else { limit.count };
        let mut batch = ReadBatch::default();
        let mut bytes = 0;
        let Some(book) = self.store.epochs.iter().find(|book| book.epoch == epoch) else {
            return Err(BacklogError::UnknownEpoch(Epoch(epoch)));
        };
        let skip = usize::try_from(from.saturating_sub(1)).unwrap();
        for (n, slot) in book.slots.iter().enumerate().skip(skip) {
            let sequence = n as u64 + 1;
            if slot.fate != Fate::Waiting {
                batch.next = Some(Sequence(sequence + 1));
                continue;
            }
            let size = slot.bytes as usize + 80;
            let full = batch.readings.len() >= count || bytes + size > limit.bytes;
            if full && !batch.readings.is_empty() {
                break;
            }
            bytes += size;
            batch.next = Some(Sequence(sequence + 1));
            let reading = self.store.reading((epoch, sequence), slot);
            batch.readings.push(reading);
        }
        let count = batch.readings.len();
        self.step(Note::Read { epoch, from, count });
        self.check_memory();
        Ok(batch)
    }

    fn confirm(&mut self, epoch: u32, ranges: &[SequenceRange]) -> Result<(), BacklogError> {
        let fails = self.rng.chance(self.store.faults.confirm);
        // An error may come before or after the deed.
        if fails && self.rng.chance(0.5) {
            self.step(Note::ConfirmFails);
            return Err(BacklogError::Storage("a confirm that fails".to_owned()));
        }
        for range in ranges {
            let (first, last) = (range.first.0, range.last.0);
            self.step(Note::Confirm { epoch, first, last });
            for sequence in first..=last {
                self.confirm_one((epoch, sequence));
            }
        }
        if let Some(book) = self.store.epochs.iter_mut().find(|b| b.epoch == epoch) {
            book.advance();
        }
        if fails {
            self.step(Note::ConfirmFails);
            return Err(BacklogError::Storage("done, and then it failed".to_owned()));
        }
        Ok(())
    }

    fn confirm_one(&mut self, id: Id) {
        let Some(slot) = self.store.slot(id) else {
            return self.violated(format!("{id:?} was confirmed and never appended"));
        };
        let slot_acknowledged = slot.acknowledged;
        match slot.fate {
            Fate::Waiting => slot.fate = Fate::Confirmed,
            Fate::Confirmed | Fate::Settled | Fate::Lost => {}
            Fate::Refused => slot.fate = Fate::Settled,
        }
        self.holds(slot_acknowledged, || {
            format!("{id:?} was confirmed, and the hub never acknowledged it")
        });
    }

    fn refuse(&mut self, id: Id, reason: &str) -> Result<(), BacklogError> {
        if self.rng.chance(self.store.faults.refuse) {
            self.step(Note::RefuseFails);
            return Err(BacklogError::Storage("a refusal that fails".to_owned()));
        }
        let reason = reason.to_owned();
        let named = !reason.is_empty();
        self.step(Note::Refuse { id, reason });
        let Some(slot) = self.store.slot(id) else {
            self.violated(format!("{id:?} was refused and never appended"));
            return Ok(());
        };
        if slot.fate == Fate::Waiting {
            slot.fate = Fate::Refused;
        }
        let hub_takes = self.scene.packet_bytes_max;
        let too_large = hub_takes.is_some_and(|max| slot.bytes + 200 > max);
        let evidence = slot.refusals > 0 || slot.losses >= 3 || too_large;
        let innocent = slot.poison == Poison::None && !too_large;
        let slot = slot.clone();
        self.holds(named && evidence, || {
            format!("{id:?} was put aside without evidence: {slot:?}")
        });
        self.totals.refused += 1;
        self.totals.refused_innocent += u64::from(innocent);
        if let Some(book) = self.store.epochs.iter_mut().find(|b| b.epoch == id.0) {
            book.advance();
        }
        Ok(())
    }
}

/// The store as one life of the bridge sees it.
pub struct SimBacklog(pub Shared);

impl Backlog for SimBacklog {
    fn epochs(&self) -> Vec<EpochState> {
        let world = self.0.lock();
        let current = world.store.epochs.len() - 1;
        let village: VillageId = VILLAGE.parse().expect("a village");
        let books = world.store.epochs.iter().enumerate();
        books
            .filter(|(n, book)| *n == current || book.mark < book.slots.len())
            .map(|(_, book)| EpochState {
                epoch: Epoch(book.epoch),
                village: village.clone(),
                first_unconfirmed: Sequence(book.mark as u64 + 1),
                next: Sequence(book.slots.len() as u64 + 1),
            })
            .collect()
    }

    fn read(
        &self,
        epoch: Epoch,
        from: Sequence,
        _mark: Mark,
        limit: ReadLimit,
    ) -> Result<ReadBatch, BacklogError> {
        self.0.lock().read(epoch.0, from.0, limit)
    }

    fn confirm(
        &self,
        epoch: Epoch,
        mark: Mark,
        ranges: &[SequenceRange],
    ) -> Result<(), BacklogError> {
        assert_eq!(mark, Mark::Forwarded);
        self.0.lock().confirm(epoch.0, ranges)
    }

    fn refuse(
        &self,
        epoch: Epoch,
        sequence: Sequence,
        refusal: &Refusal,
    ) -> Result<(), BacklogError> {
        self.0.lock().refuse((epoch.0, sequence.0), &refusal.reason)
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.0.lock().store.appended.subscribe()
    }
}

/// The count of bytes, which a kill never sets back further than it was written.
pub struct SimTraffic(pub Shared);

impl TrafficBook for SimTraffic {
    fn load(&self) -> Option<Usage> {
        self.0.lock().store.usage.clone()
    }

    fn keep(&self, usage: &Usage) -> Result<(), String> {
        self.0.lock().keep_usage(usage)
    }
}

/// Work on the disk, as long as this disk takes.
pub struct SimWorkers(pub Shared);

impl Workers for SimWorkers {
    fn run(&self, work: Work) {
        let latency = {
            let mut world = self.0.lock();
            let slow = world.store.faults.slow;
            if world.rng.chance(slow) {
                world.rng.log_seconds(0.05, 3.0)
            } else if world.rng.chance(0.3) {
                std::time::Duration::from_millis(world.rng.between(1, 8))
            } else {
                std::time::Duration::ZERO
            }
        };
        drop(tokio::spawn(async move {
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            work();
        }));
    }
}
