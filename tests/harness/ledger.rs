//! The ledger of every test: what meters published, what they saw acknowledged, what reached the hub.
//!
//! Rules: each publish that was acknowledged is at the hub; each reading at the hub was published, on
//! its topic, byte for byte; an identity belongs to one reading for ever; a reading has no more
//! identities than it was sent times; sequences keep the order of each meter.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::journal::{Event, Journal, now_ns};
use crate::packet::Publish;
use crate::wait::wait_for;

/// Which reading: the meter's number in the ledger and its own count, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Number of the meter.
    pub meter: u32,
    /// Number of the reading.
    pub number: u64,
}

/// `<epoch>/<sequence>` as the relay wrote it.
pub type Identity = (u32, u64);

#[derive(Debug, Clone, Default)]
struct Entry {
    digest: u64,
    sent: u32,
    acknowledged: bool,
    identities: Vec<Identity>,
    arrived: u32,
}

/// Sums, for a last line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Readings that meters sent at least once.
    pub published: u64,
    /// Readings that meters saw acknowledged.
    pub acknowledged: u64,
    /// Readings that arrived at the hub at least once.
    pub at_hub: u64,
    /// Readings acknowledged and not at the hub.
    pub missing: u64,
    /// Arrivals of an identity that had arrived before.
    pub duplicates: u64,
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "published {}, acknowledged {}, at the hub {}, missing {}, duplicates {}",
            self.published, self.acknowledged, self.at_hub, self.missing, self.duplicates
        )
    }
}

#[derive(Debug, Clone, Default)]
struct Books {
    topics: Vec<String>,
    entries: HashMap<Key, Entry>,
    identities: HashMap<Identity, Key>,
    sums: Sums,
    first_arrivals: Vec<(Key, Identity)>,
    epochs: Vec<u32>,
    violations: Vec<String>,
    strangers: HashSet<String>,
    journal: Journal,
}

/// Shared by all meters and hubs of a test; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    books: Arc<Mutex<Books>>,
    /// What stands before a meter's topic at the hub.
    prefix: String,
    /// Whether an arrival without identity is a violation.
    identities: bool,
}

impl Ledger {
    /// An empty ledger for `village`, with the default topic at the hub.
    pub fn new(village: &str) -> Self {
        Self {
            identities: true,
            ..Self::with_prefix(&format!("villages/{village}/"))
        }
    }

    /// The same ledger for a hub that is spoken to without identities (MQTT 3.1.1).
    #[must_use]
    pub fn without_identities(mut self) -> Self {
        self.identities = false;
        self
    }

    /// An empty ledger for a hub that has `prefix` before each meter's topic.
    pub fn with_prefix(prefix: &str) -> Self {
        Self {
            books: Arc::default(),
            prefix: prefix.to_owned(),
            identities: false,
        }
    }

    /// A copy with books of its own: what happens from now on is entered in one of the two.
    #[must_use]
    pub fn fork(&self) -> Self {
        let books = self.books().clone();
        Self {
            books: Arc::new(Mutex::new(books)),
            prefix: self.prefix.clone(),
            identities: self.identities,
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Enters a meter that publishes on `topic`, and gives it its number.
    pub fn meter(&self, topic: &str) -> u32 {
        let mut books = self.books();
        books.topics.push(topic.to_owned());
        u32::try_from(books.topics.len()).unwrap() - 1
    }

    /// A meter is about to send a reading.
    pub fn sending(&self, key: Key, payload: &[u8]) {
        self.happened(Event::Sent(key, digest(payload)));
    }

    fn happened(&self, event: Event) {
        let mut books = self.books();
        books.journal.push((now_ns(), event));
        if let Err(violation) = books.enter(event) {
            books.violations.push(violation);
        }
    }

    /// What happened, in order.
    pub fn journal(&self) -> Journal {
        self.books().journal.clone()
    }

    /// The topics of the meters, by number.
    pub fn topics(&self) -> Vec<String> {
        self.books().topics.clone()
    }

    /// The books as a power cut at `moment_ns` leaves them to be checked: all that was ever sent, what meters had seen
    /// acknowledged before, and what the hub had before.
    #[must_use]
    pub fn as_of(&self, topics: &[String], journal: &Journal, moment_ns: u64) -> Self {
        let mut books = Books {
            topics: topics.to_vec(),
            ..Books::default()
        };
        for (at, event) in journal {
            let counts = *at < moment_ns || matches!(event, Event::Sent(..));
            if counts && let Err(violation) = books.enter(*event) {
                books.violations.push(violation);
            }
        }
        Self {
            books: Arc::new(Mutex::new(books)),
            prefix: self.prefix.clone(),
            identities: self.identities,
        }
    }

    /// A meter saw an acknowledgement that means success.
    pub fn acknowledged(&self, key: Key) {
        self.happened(Event::Acknowledged(key));
    }

    /// Something that no promise allows.
    pub fn violation(&self, what: String) {
        self.books().violations.push(what);
    }

    /// A publish reached the hub.
    pub fn arrived(&self, publish: &Publish) {
        let mut books = self.books();
        let Some(key) = read_tag(&publish.payload) else {
            books.strangers.insert(publish.topic.clone());
            return;
        };
        let identity = publish.user_property("id").map(read_identity);
        if self.identities && identity.is_none() {
            let nameless = format!("{key:?} arrived without an identity");
            books.violations.push(nameless);
        }
        if let Err(violation) = books.arrive(&self.prefix, key, identity, publish) {
            books.violations.push(violation);
        }
    }

    /// The sums now.
    pub fn sums(&self) -> Sums {
        self.books().sums
    }

    /// Topics at the hub whose payload no meter of this ledger made.
    pub fn strangers(&self) -> HashSet<String> {
        self.books().strangers.clone()
    }

    /// The epochs seen at the hub, in order of arrival.
    pub fn epochs(&self) -> Vec<u32> {
        self.books().epochs.clone()
    }

    /// Readings acknowledged and not at the hub, in order.
    pub fn missing(&self) -> Vec<Key> {
        let books = self.books();
        let missing = books
            .entries
            .iter()
            .filter(|(_, e)| e.acknowledged && e.arrived == 0);
        let mut keys: Vec<Key> = missing.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Waits until all that was acknowledged is at the hub, then checks every rule and prints the sums.
    #[track_caller]
    pub fn settle(&self, test: &str, deadline: Duration) -> Sums {
        self.wait_none_missing(deadline);
        self.check();
        let sums = self.sums();
        println!("{test}: {sums}");
        sums
    }

    #[track_caller]
    fn wait_none_missing(&self, deadline: Duration) {
        let start = std::time::Instant::now();
        while self.sums().missing > 0 {
            if start.elapsed() > deadline {
                let missing = self.missing();
                let some: Vec<_> = missing.iter().take(20).collect();
                panic!(
                    "{}; {} acknowledged readings are not at the hub, such as {some:?}",
                    self.sums(),
                    missing.len()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `count` different readings are at the hub.
    #[track_caller]
    pub fn wait_at_hub(&self, count: u64, deadline: Duration) {
        wait_for(&format!("{count} readings at the hub"), deadline, || {
            (self.sums().at_hub >= count).then_some(())
        });
    }

    /// Checks every rule but that nothing is missing.
    #[track_caller]
    pub fn check(&self) {
        let violations = self.violations();
        let some: Vec<_> = violations.iter().take(10).collect();
        assert!(
            violations.is_empty(),
            "{} violations: {some:#?}",
            violations.len()
        );
    }

    /// What no promise allows, so far; but not what is missing.
    pub fn violations(&self) -> Vec<String> {
        let books = self.books();
        let mut violations = books.violations.clone();
        violations.extend(books.order_violations());
        violations
    }

    /// Checks that each meter's readings first reached the hub in the order they were published.
    #[track_caller]
    pub fn check_arrival_order(&self) {
        let mut last: HashMap<u32, u64> = HashMap::new();
        let books = self.books();
        for (key, identity) in &books.first_arrivals {
            let before = last.insert(key.meter, key.number).unwrap_or(0);
            assert!(
                before < key.number,
                "{key:?} {identity:?} came after {before}"
            );
        }
    }
}

impl Books {
    fn arrive(
        &mut self,
        prefix: &str,
        key: Key,
        identity: Option<Result<Identity, String>>,
        publish: &Publish,
    ) -> Result<(), String> {
        let topic = self
            .topics
            .get(key.meter as usize)
            .cloned()
            .unwrap_or_default();
        let entry = self
            .entries
            .get_mut(&key)
            .ok_or(format!("{key:?} at the hub, never published"))?;
        if entry.digest != digest(&publish.payload) {
            return Err(format!(
                "{key:?} arrived changed: {} bytes",
                publish.payload.len()
            ));
        }
        if publish.topic != format!("{prefix}{topic}") {
            return Err(format!("{key:?} of {topic} arrived on {}", publish.topic));
        }
        let event = Event::Arrived(key, identity.transpose()?);
        self.journal.push((now_ns(), event));
        self.enter(event)
    }

    /// Enters what happened.
    fn enter(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Sent(key, digest) => {
                let entry = self.entries.entry(key).or_default();
                entry.digest = digest;
                entry.sent += 1;
                self.sums.published += u64::from(entry.sent == 1);
                Ok(())
            }
            Event::Acknowledged(key) => {
                let never_sent = format!("{key:?} acknowledged, never sent");
                let entry = self.entries.get_mut(&key).ok_or(never_sent)?;
                if !entry.acknowledged {
                    entry.acknowledged = true;
                    self.sums.acknowledged += 1;
                    self.sums.missing += u64::from(entry.arrived == 0);
                }
                Ok(())
            }
            Event::Arrived(key, identity) => self.has_arrived(key, identity),
        }
    }

    fn has_arrived(&mut self, key: Key, identity: Option<Identity>) -> Result<(), String> {
        let entry = self.entries.entry(key).or_default();
        entry.arrived += 1;
        if entry.arrived == 1 {
            self.sums.at_hub += 1;
            self.sums.missing -= u64::from(entry.acknowledged);
        }
        let Some(identity) = identity else {
            self.sums.duplicates += u64::from(entry.arrived > 1);
            return Ok(());
        };
        self.identify(key, identity)
    }

    fn identify(&mut self, key: Key, identity: Identity) -> Result<(), String> {
        match self.identities.insert(identity, key) {
            Some(owner) if owner == key => {
                self.sums.duplicates += 1;
                return Ok(());
            }
            Some(owner) => return Err(format!("{identity:?} was {owner:?} and is now {key:?}")),
            None => self.first_arrivals.push((key, identity)),
        }
        if !self.epochs.contains(&identity.0) {
            self.epochs.push(identity.0);
        }
        let entry = self.entries.entry(key).or_default();
        entry.identities.push(identity);
        if entry.identities.len() > entry.sent as usize {
            return Err(format!(
                "{key:?} sent {} times, is {:?}",
                entry.sent, entry.identities
            ));
        }
        Ok(())
    }

    /// Within an epoch, by sequence, the first identity of each reading of a meter keeps its order.
    fn order_violations(&self) -> Vec<String> {
        let mut firsts: BTreeMap<(u32, u32, u64), u64> = BTreeMap::new();
        for (key, entry) in &self.entries {
            if let Some(identity) = entry.identities.iter().min_by_key(|id| id.1) {
                firsts.insert((key.meter, identity.0, identity.1), key.number);
            }
        }
        let pairs = firsts.iter().zip(firsts.iter().skip(1));
        pairs
            .filter(|((a, before), (b, after))| (a.0, a.1) == (b.0, b.1) && before >= after)
            .map(|(a, b)| format!("order: {a:?} before {b:?}"))
            .collect()
    }
}

/// A payload of `size` bytes that says which reading it is and looks like noise after that.
pub fn payload(key: Key, size: usize) -> Vec<u8> {
    let mut bytes = format!("#{}:{};", key.meter, key.number).into_bytes();
    let mut state = u64::from(key.meter) << 40 ^ key.number ^ 0x9e37_79b9_7f4a_7c15;
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    let tag = bytes.iter().position(|b| *b == b';').unwrap_or(0) + 1;
    bytes.truncate(size.max(tag));
    bytes
}

/// Which reading a payload says it is.
pub fn read_tag(payload: &[u8]) -> Option<Key> {
    let end = payload.iter().take(40).position(|b| *b == b';')?;
    let text = std::str::from_utf8(payload.get(1..end)?).ok()?;
    let (meter, number) = text.split_once(':')?;
    (payload[0] == b'#').then_some(Key {
        meter: meter.parse().ok()?,
        number: number.parse().ok()?,
    })
}

fn read_identity(text: &str) -> Result<Identity, String> {
    let parts = text.split_once('/').filter(|(epoch, _)| epoch.len() == 8);
    parts
        .and_then(|(epoch, sequence)| {
            Some((u32::from_str_radix(epoch, 16).ok()?, sequence.parse().ok()?))
        })
        .ok_or(format!("{text:?} is not an identity"))
}

/// 64 bits of a payload, to compare with.
pub fn digest(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}
