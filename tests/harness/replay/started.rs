//! The ledger over one state of the disk, with the real relay: it is started on it, and everything is drained to a hub.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::check::Promised;
use super::local::SESSIONS;
use super::recording::{DATA, Recording};
use crate::VILLAGE;
use crate::fake_hub::{FakeHub, Temper};
use crate::ledger::Ledger;
use crate::meter::{Habits, Meter};
use crate::packet::{self, Connect, Publish, Version, kind};
use crate::raw::Raw;
use crate::relay::Relay;

/// The longest that a start may take.
const START_MAX: Duration = Duration::from_secs(30);

/// How long a subscriber that got all that is due waits for more.
const QUIET: Duration = Duration::from_millis(100);

/// Starts a relay on what is below `root`, as after the cut at `moment_ns`, and checks every rule at the hub and at local
/// subscribers. Panics over what waits in vain, as the harness does.
///
/// # Errors
/// The first rule that does not hold.
pub fn check(root: &Path, recording: &Recording, moment_ns: u64) -> Result<(), String> {
    let topics = &recording.topics;
    let ledger = Ledger::new(VILLAGE).as_of(topics, &recording.journal, moment_ns);
    let hub = FakeHub::start(&ledger, Temper::Honest);
    let mut relay = relay(&hub, root, &recording.config);
    relay.write_config();
    relay.start_as_is();
    relay.wait_listening(START_MAX);
    let mut after = Meter::new(&ledger, "after", Habits::new(relay.mqtt));
    after
        .publish(5)
        .map_err(|error| format!("no reading is taken: {error}"))?;
    let promised = Promised::before(&recording.local, moment_ns);
    for (session, (client, _)) in SESSIONS.iter().enumerate() {
        if promised.subscribed(session) {
            let due = promised.due(session).len();
            let (present, queued) = subscriber(relay.mqtt, client, None, due)?;
            if !present {
                return Err(format!("the session {client} is gone"));
            }
            promised.check_queue(session, &queued)?;
        }
    }
    let (_, kept) = subscriber(relay.mqtt, "reader", Some("kept/#"), promised.kept())?;
    promised.check_kept(&kept)?;
    at_the_hub(&relay, &ledger)
}

/// A relay with the recording's configuration, but its own addresses and data.
fn relay(hub: &FakeHub, root: &Path, config: &str) -> Relay {
    let mut relay = Relay::new(hub.address);
    let own = [
        "village_id",
        "data_dir",
        "mqtt.listen",
        "admin.listen",
        "hub.url",
    ];
    let recorded: toml::Table = toml::from_str(config).unwrap();
    for (section, keys) in &recorded {
        for (key, value) in keys.as_table().into_iter().flatten() {
            let key = format!("{section}.{key}");
            if !own.contains(&key.as_str()) {
                relay.set(&key, value.clone());
            }
        }
    }
    relay.set("data_dir", root.join(DATA).to_str().unwrap());
    relay
}

/// What a client gets until `due` publishes are there and no more comes.
#[allow(clippy::type_complexity)] // session present; topics and payloads
fn subscriber(
    relay: SocketAddr,
    client: &str,
    filter: Option<&str>,
    due: usize,
) -> Result<(bool, Vec<(String, Vec<u8>)>), String> {
    let text = |error: std::io::Error| format!("{client}: {error}");
    let mut connect = Connect::new(Version::V4, client);
    connect.clean = filter.is_some();
    let (mut raw, present, _) = Raw::connect(relay, &connect).map_err(text)?;
    if let Some(filter) = filter {
        raw.send(&packet::subscribe(Version::V4, 1, filter, 1))
            .map_err(text)?;
    }
    let mut got = Vec::new();
    let start = Instant::now();
    while start.elapsed() < START_MAX {
        let patience = if got.len() < due {
            Duration::from_secs(5)
        } else {
            QUIET
        };
        let Ok(packet) = raw.receive_within(patience) else {
            break;
        };
        if packet.kind() == kind::PUBLISH {
            let publish = Publish::decode(&packet, Version::V4).map_err(text)?;
            let ack = packet::ack(kind::PUBACK, Version::V4, publish.packet_id, 0);
            raw.send(&ack).map_err(text)?;
            got.push((publish.topic, publish.payload));
        }
    }
    Ok((present, got))
}

/// All that was acknowledged gets to the hub, and nothing else does.
fn at_the_hub(relay: &Relay, ledger: &Ledger) -> Result<(), String> {
    let start = Instant::now();
    while ledger.sums().missing > 0 || relay.backlog() != Some(0) {
        if start.elapsed() > 2 * START_MAX {
            let missing = ledger.missing();
            return Err(format!(
                "{}; such as {:?}; {} wait in the relay",
                ledger.sums(),
                &missing[..missing.len().min(10)],
                relay.backlog().unwrap_or_default()
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    match ledger.violations().first() {
        Some(first) => Err(format!(
            "{} violations, such as {first}",
            ledger.violations().len()
        )),
        None => Ok(()),
    }
}
