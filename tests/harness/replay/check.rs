//! The ledger over one state of the disk, with the relay's own code for its store and its broker's state, in this
//! process: thousands of states are looked at in the time that dozens of processes would take.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_relay::broker::exactly_once::Position;
use edge_relay::broker::session::Next;
use edge_relay::broker::{Attach, Broker, Sending};
use edge_relay::clock::SystemClock;
use edge_relay::config::{self, NamedFiles, Settings};
use edge_relay::listener::MqttStats;
use edge_relay::store::{Committed, EpochReason, NewReading, Store};
use hub_bridge::backlog::{Backlog, EpochState, Mark, ReadLimit};
use hub_bridge::clock::{Clock, ReceivedAt};
use hub_bridge::identity::Epoch;
use hub_bridge::reading::Reading;

use super::local::{self, KEPT, LocalEvent, LocalJournal, SESSIONS};
use super::recording::{DATA, Recording};
use crate::VILLAGE;
use crate::journal::{Event, Journal};
use crate::ledger::{Key, Ledger, payload};
use crate::packet::{Publish, Value, property};

/// The longest that a start may take.
const START_MAX: Duration = Duration::from_secs(30);

/// How many readings are fetched at a time.
const READ_AT_ONCE: ReadLimit = ReadLimit {
    count: 2_000,
    bytes: 8 << 20,
};

/// What a state turned out to hold.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Readings that wait for the hub.
    pub waiting: u64,
    /// Readings whose meters had seen the acknowledgement.
    pub acknowledged: u64,
    /// Publishes for local subscribers that had been acknowledged.
    pub local: u64,
    /// Why a new epoch began, if one did.
    pub began: Option<String>,
    /// Readings that the relay names as lost; none of them acknowledged.
    pub named_lost: u64,
    /// How long opening the store took.
    pub opened_in: Duration,
}

/// Opens what is below `root` as a relay would after the cut at `moment_ns`, and checks every rule.
///
/// # Errors
/// The first rule that does not hold.
pub fn check(root: &Path, recording: &Recording, moment_ns: u64) -> Result<Found, String> {
    let settings = settings(root, &recording.config)?;
    std::fs::create_dir_all(&settings.data_dir).map_err(|error| error.to_string())?;
    let mut found = store(&settings, recording, moment_ns)?;
    found.local = broker(&settings, &recording.local, moment_ns)?;
    Ok(found)
}

fn settings(root: &Path, text: &str) -> Result<Settings, String> {
    let data = root.join(DATA).display().to_string();
    let environment = [("EDGE_RELAY__DATA_DIR".to_owned(), data)].into();
    let file = root.join("broker.toml");
    let loaded = config::parse(&file, text, &environment, NamedFiles::Unchecked);
    loaded
        .map(|loaded| loaded.settings)
        .map_err(|error| error.to_string())
}

fn store(settings: &Settings, recording: &Recording, moment_ns: u64) -> Result<Found, String> {
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    let start = Instant::now();
    let (store, report) = Store::open(&settings.store, clock.clone())
        .map_err(|error| format!("the store does not open: {error}"))?;
    let opened_in = start.elapsed();
    if opened_in > START_MAX {
        return Err(format!("the store took {opened_in:?} to open"));
    }
    let mut topics = recording.topics.clone();
    topics.push("meters/after".to_owned());
    let ledger = Ledger::new(VILLAGE).as_of(&topics, &recording.journal, moment_ns);
    let acknowledged = ledger.sums().acknowledged;
    let mut waiting = 0;
    for state in store.epochs() {
        waiting += enter_waiting(&store, &state, &ledger)?;
    }
    let missing = ledger.missing();
    if !missing.is_empty() {
        let some: Vec<_> = missing.iter().take(10).collect();
        return Err(format!(
            "{} of {acknowledged} acknowledged readings are neither in the backlog nor at the hub, such as {some:?}; {report:?}",
            missing.len()
        ));
    }
    let given = append(&store, clock.as_ref(), &ledger, topics.len() - 1)?;
    let reused = seen_from(&recording.journal, moment_ns, given);
    if !reused.is_empty() {
        return Err(format!(
            "{given:?} goes below {reused:?}, which the hub has"
        ));
    }
    let violations = ledger.violations();
    if let Some(first) = violations.first() {
        return Err(format!(
            "{} violations, such as {first}; {report:?}",
            violations.len()
        ));
    }
    store.close();
    Ok(Found {
        waiting,
        acknowledged,
        local: 0,
        began: report
            .began
            .filter(|why| *why != EpochReason::NewStore)
            .map(|why| format!("{why:?}")),
        named_lost: report
            .lost
            .iter()
            .map(|(_, range)| range.last.0 - range.first.0 + 1)
            .sum(),
        opened_in,
    })
}

/// Hands what waits to the ledger, as the hub would see it.
fn enter_waiting(store: &Store, state: &EpochState, ledger: &Ledger) -> Result<u64, String> {
    let mut from = state.first_unconfirmed;
    let mut count = 0;
    while from < state.next {
        let batch = store
            .read(state.epoch, from, Mark::Forwarded, READ_AT_ONCE)
            .map_err(|error| format!("what waits cannot be read: {error}"))?;
        for reading in &batch.readings {
            ledger.arrived(&as_publish(
                reading,
                u32::from_str_radix(&state.epoch.to_string(), 16).unwrap(),
            ));
        }
        count += batch.readings.len() as u64;
        match batch.next {
            Some(next) if next > from => from = next,
            _ => return Err(format!("reading does not get past {from} of {state:?}")),
        }
    }
    Ok(count)
}

fn as_publish(reading: &Reading, epoch: u32) -> Publish {
    let topic = format!("villages/{VILLAGE}/{}", reading.topic);
    let mut publish = Publish::new(&topic, reading.payload.to_vec(), 1);
    let identity = format!("{epoch:08x}/{}", reading.sequence.0);
    publish
        .properties
        .push((property::USER, Value::Pair("id".to_owned(), identity)));
    publish
}

/// One more reading, as after any start; its identity.
fn append(
    store: &Store,
    clock: &SystemClock,
    ledger: &Ledger,
    meter: usize,
) -> Result<(u32, u64), String> {
    let key = Key {
        meter: u32::try_from(meter).unwrap(),
        number: 1,
    };
    let bytes = payload(key, 100);
    ledger.sending(key, &bytes);
    let reading = NewReading {
        topic: "meters/after".into(),
        client_id: "after".into(),
        payload: bytes.clone().into(),
        qos: 1,
        retain: false,
        dup: false,
        packet_id: 1,
        received: ReceivedAt {
            wall: clock.wall(),
            quality: clock.quality(),
            boot: clock.boot(),
            monotonic_ms: 1,
        },
        properties: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let permit = runtime.block_on(store.reserve(reading.size_bytes()));
    let appended = permit
        .map_err(|error| format!("no reading is taken: {error}"))?
        .append(vec![reading]);
    let committed: Committed = match appended.blocking_recv() {
        Ok(Ok(committed)) => committed,
        other => return Err(format!("no reading is kept: {other:?}")),
    };
    ledger.acknowledged(key);
    let epoch = u32::from_str_radix(&committed.epoch.to_string(), 16).unwrap();
    let identity = (epoch, committed.range.first.0);
    let mut publish = Publish::new(&format!("villages/{VILLAGE}/meters/after"), bytes, 1);
    let text = format!("{epoch:08x}/{}", identity.1);
    publish
        .properties
        .push((property::USER, Value::Pair("id".to_owned(), text)));
    ledger.arrived(&publish);
    Ok(identity)
}

/// Identities of the epoch of `given` from it on that the hub had before the cut: they would be given again.
fn seen_from(journal: &Journal, moment_ns: u64, given: (u32, u64)) -> Vec<(u32, u64)> {
    let before = journal.iter().filter(|(at, _)| *at < moment_ns);
    let seen = before.filter_map(|(_, event)| match event {
        Event::Arrived(_, identity) => *identity,
        _ => None,
    });
    seen.filter(|seen| seen.0 == given.0 && seen.1 >= given.1)
        .take(5)
        .collect()
}

/// What local subscribers were promised; how many publishes that is.
fn broker(settings: &Settings, journal: &LocalJournal, moment_ns: u64) -> Result<u64, String> {
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    // No QoS 2 is recorded, so nothing of the store's is unsettled.
    let stats = Arc::new(MqttStats::default());
    let broker = Broker::open(&settings.listener, clock, stats, &[], &[])
        .map_err(|error| format!("the broker's state does not open: {error}"))?;
    let promised = Promised::before(journal, moment_ns);
    for (session, (client, _)) in SESSIONS.iter().enumerate() {
        if promised.subscribed(session) {
            let (present, queued) = take(&broker, client, None)?;
            if !present {
                return Err(format!("the session {client} is gone"));
            }
            promised.check_queue(session, &queued)?;
        }
    }
    let (_, kept) = take(&broker, "reader", Some("kept/#"))?;
    promised.check_kept(&kept)?;
    broker.close();
    Ok(promised
        .acknowledged
        .values()
        .map(|numbers| numbers.len() as u64)
        .sum())
}

/// Topics with payloads.
type Publishes = Vec<(String, Vec<u8>)>;

/// What a client gets at once: whether its session was there, and topics with payloads.
fn take(broker: &Broker, client: &str, filter: Option<&str>) -> Result<(bool, Publishes), String> {
    let attach = Attach {
        client_id: client.into(),
        clean_start: filter.is_some(),
        expiry: if filter.is_some() {
            Duration::ZERO
        } else {
            Duration::from_hours(1)
        },
        window: 60_000,
        connection: 1,
        will: None,
        stored: Position {
            epoch: Epoch(0),
            sequence: 0,
        },
    };
    let attached = broker.attach(&attach).map_err(|error| error.to_string())?;
    if let Some(filter) = filter {
        let filter = rumqttd_filter(filter);
        broker.subscribe(attached.key, 1, &[filter], None);
    }
    let mut got = Vec::new();
    broker.send(attached.key, 1, |next, _| {
        if let Next::Publish { delivery, .. } = next {
            let message = &delivery.message;
            got.push((message.topic.to_string(), message.payload.to_vec()));
        }
        Sending::Sent { more: true }
    });
    Ok((attached.session_present, got))
}

fn rumqttd_filter(filter: &str) -> rumqttd::protocol::Filter {
    rumqttd::protocol::Filter {
        path: filter.to_owned(),
        qos: rumqttd::protocol::QoS::AtLeastOnce,
        nolocal: false,
        preserve_retain: false,
        retain_forward_rule: rumqttd::protocol::RetainForwardRule::OnEverySubscribe,
    }
}

/// What had been said before the cut.
#[derive(Debug, Default)]
pub(super) struct Promised {
    subscribed: BTreeSet<usize>,
    acknowledged: BTreeMap<usize, Vec<u64>>,
    delivered: BTreeMap<usize, BTreeSet<u64>>,
    last_sent: BTreeMap<usize, u64>,
}

impl Promised {
    pub(super) fn before(journal: &LocalJournal, moment_ns: u64) -> Self {
        let mut promised = Self::default();
        for (at, event) in journal {
            match *event {
                LocalEvent::Sent(topic, number) => {
                    promised.last_sent.insert(topic, number);
                }
                _ if *at >= moment_ns => {}
                LocalEvent::Subscribed(session) => {
                    promised.subscribed.insert(session);
                }
                LocalEvent::Acknowledged(topic, number) => {
                    promised.acknowledged.entry(topic).or_default().push(number);
                }
                LocalEvent::Delivered(session, number) => {
                    promised
                        .delivered
                        .entry(session)
                        .or_default()
                        .insert(number);
                }
            }
        }
        promised
    }

    /// Whether a session had its SUBACK.
    pub(super) fn subscribed(&self, session: usize) -> bool {
        self.subscribed.contains(&session)
    }

    /// What a session must still get.
    pub(super) fn due(&self, session: usize) -> Vec<u64> {
        let delivered = self.delivered.get(&session);
        let got = |number: &u64| delivered.is_some_and(|delivered| delivered.contains(number));
        let all = self.acknowledged(session).iter().copied();
        all.filter(|number| !got(number)).collect()
    }

    /// How many topics have a retained message for certain.
    pub(super) fn kept(&self) -> usize {
        let topics = SESSIONS.len()..local::TOPICS;
        topics
            .filter(|topic| !self.acknowledged(*topic).is_empty())
            .count()
    }

    fn acknowledged(&self, topic: usize) -> &[u64] {
        self.acknowledged.get(&topic).map_or(&[], Vec::as_slice)
    }

    fn number_of(&self, topic: usize, bytes: &[u8]) -> Result<u64, String> {
        let number = local::number(bytes)
            .ok_or_else(|| format!("{}: a payload nobody sent", local::topic(topic)))?;
        let last = self.last_sent.get(&topic).copied().unwrap_or_default();
        if number > last {
            return Err(format!("{}: {number} was never sent", local::topic(topic)));
        }
        Ok(number)
    }

    /// All that was acknowledged and not delivered, in order.
    pub(super) fn check_queue(
        &self,
        session: usize,
        queued: &[(String, Vec<u8>)],
    ) -> Result<(), String> {
        let topic = local::topic(session);
        let mut numbers = Vec::new();
        for (on, bytes) in queued {
            if on != topic {
                return Err(format!("{topic}: got one of {on}"));
            }
            numbers.push(self.number_of(session, bytes)?);
        }
        numbers.dedup();
        if !numbers.is_sorted() {
            return Err(format!("{topic}: out of order: {numbers:?}"));
        }
        let due = self.due(session).into_iter();
        let missing: Vec<u64> = due
            .filter(|number| numbers.binary_search(number).is_err())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{topic}: {} acknowledged messages are not in the queue of {}, such as {:?}",
            missing.len(),
            numbers.len(),
            &missing[..missing.len().min(5)]
        ))
    }

    /// The last that was acknowledged on each topic, or a later one.
    pub(super) fn check_kept(&self, kept: &[(String, Vec<u8>)]) -> Result<(), String> {
        for number in 0..KEPT.len() {
            let topic = SESSIONS.len() + number;
            let Some(last) = self.acknowledged(topic).last() else {
                continue;
            };
            let of_topic: Vec<_> = kept
                .iter()
                .filter(|(on, _)| on == local::topic(topic))
                .collect();
            let [(_, bytes)] = of_topic[..] else {
                return Err(format!(
                    "{} retained messages on {}, {last} was acknowledged",
                    of_topic.len(),
                    local::topic(topic)
                ));
            };
            let there = self.number_of(topic, bytes)?;
            if there < *last {
                return Err(format!(
                    "{}: {there} is retained, {last} was acknowledged",
                    local::topic(topic)
                ));
            }
        }
        Ok(())
    }
}
