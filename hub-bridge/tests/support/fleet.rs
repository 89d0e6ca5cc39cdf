//! Meters whose readings are made up, stored as the receiver stores them; and what the relay would say of them.

use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, VillageId};
use hub_bridge::receive::store::{Incoming, Source, Store, keep_account};
use hub_bridge::wire::account::{Absent, Account, VERSION};
use hub_bridge::wire::digest::{SetDigest, of_reading};
use hub_bridge::wire::frame::Carried;
use jiff::Timestamp;
use tokio_postgres::Client;

/// One village's relay: gives out sequences, and knows what it stored.
pub struct Relay {
    pub village: VillageId,
    pub epoch: Epoch,
    pub readings: Vec<Carried>,
}

/// What a meter says of itself.
#[derive(Clone, Default)]
pub struct Says {
    pub topic: String,
    pub meter: Option<String>,
    pub ts: Option<String>,
    pub power_kw: Option<f64>,
    pub energy_kwh: Option<f64>,
}

impl Says {
    pub fn payload(&self) -> String {
        let mut fields = serde_json::Map::new();
        let mut add = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        add("meter", self.meter.clone().map(Into::into));
        add("ts", self.ts.clone().map(Into::into));
        add("power_kw", self.power_kw.map(Into::into));
        add("energy_kwh", self.energy_kwh.map(Into::into));
        serde_json::Value::Object(fields).to_string()
    }
}

impl Relay {
    pub fn new(village: &str, epoch: u32) -> Self {
        Self {
            village: village.parse().unwrap(),
            epoch: Epoch(epoch),
            readings: Vec::new(),
        }
    }

    /// A reading that the relay receives at `at` by a clock that is to be trusted.
    pub fn receive(&mut self, at: Timestamp, says: &Says) -> &mut Carried {
        let sequence = Sequence(u64::try_from(self.readings.len()).unwrap() + 1);
        self.readings.push(Carried {
            sequence,
            topic: says.topic.as_str().into(),
            client_id: "client-1".into(),
            payload: says.payload().into(),
            qos: 1,
            retain: false,
            at: UnixMillis(at.as_millisecond()),
            clock: ClockQuality::Synchronised,
            properties: None,
            repeat_of: None,
        });
        self.readings.last_mut().unwrap()
    }

    /// Stores those that `keep` lets through.
    pub async fn store(&self, client: &mut Client, store: &Store, keep: impl Fn(&Carried) -> bool) {
        let kept: Vec<Incoming> = self
            .readings
            .iter()
            .filter(|reading| keep(reading))
            .map(|reading| Incoming {
                village: self.village.clone(),
                epoch: self.epoch,
                reading: reading.clone(),
                source: Source::Frame,
            })
            .collect();
        for batch in kept.chunks(5_000) {
            store.store_batch(client, batch).await.unwrap();
        }
    }

    /// What the relay says of the sequences 1 to `through`.
    pub fn account(&self, through: u64) -> Account {
        let mut sum = SetDigest::default();
        for reading in self.readings.iter().filter(|r| r.sequence.0 <= through) {
            let digest = of_reading(&reading.topic, &reading.payload);
            sum.toggle(self.epoch, reading.sequence, digest);
        }
        Account {
            version: VERSION,
            village: self.village.clone(),
            epoch: self.epoch,
            current: true,
            through: Sequence(through),
            stored: through,
            digest: sum.0,
            lost: Vec::new(),
            refused: Vec::new(),
            unknown: Vec::new(),
            tail_unknown_from: None,
            at: UnixMillis(i64::try_from(through).unwrap() * 1000),
            clock: ClockQuality::Synchronised,
        }
    }

    pub async fn say(&self, client: &Client, account: &Account) {
        keep_account(client, account).await.unwrap();
    }
}

impl Relay {
    /// An account of which damage took `first` to `last`.
    pub fn account_without(&self, through: u64, first: u64, last: u64, reason: &str) -> Account {
        let mut account = self.account(through);
        let mut sum = SetDigest(account.digest);
        for reading in &self.readings {
            if (first..=last).contains(&reading.sequence.0) {
                let digest = of_reading(&reading.topic, &reading.payload);
                sum.toggle(self.epoch, reading.sequence, digest);
            }
        }
        account.digest = sum.0;
        account.stored = through - (last - first + 1);
        account.lost.push(absent(first, last, reason));
        account
    }
}

pub fn absent(first: u64, last: u64, reason: &str) -> Absent {
    Absent {
        first: Sequence(first),
        last: Sequence(last),
        reason: reason.to_owned(),
    }
}

/// Where a writer wrote to.
#[derive(Clone, Default)]
pub struct Written(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Written {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes()).unwrap()
    }
}

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Arguments as on a command line.
pub fn arguments<A: clap::Args>(line: &str) -> A {
    let command = A::augment_args(clap::Command::new("test").no_binary_name(true));
    let matches = command.get_matches_from(line.split_whitespace());
    A::from_arg_matches(&matches).unwrap()
}
