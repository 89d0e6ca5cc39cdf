//! The fuzz function of what a hub sends: its bytes go through a real connection, over a stream in memory.
//!
//! Whatever they are, a publish is answered at most once, and only where the hub acknowledged the packet id under which
//! that publish left; taken for kept only where it said so. The connection ends with a reason when the hub goes, and what
//! it announces and never sends costs no memory.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuzz_harness::{Input, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::{Connection, LaneEvent, Plan, Verdict};
use crate::inflight::Ticket;
use crate::packet::Outgoing;
use crate::platform::{Connecting, Network, Stream};
use crate::settings::HubSettings;
use crate::version::Version;

const PATIENCE: Duration = Duration::from_secs(20);
const STEPS_MAX: usize = 60;

/// Gives out one stream.
struct OneStream(Mutex<Option<DuplexStream>>);

impl Network for OneStream {
    fn connect(&self, _: &str, _: u16) -> Connecting {
        let stream = self.0.lock().unwrap().take();
        Box::pin(async move {
            let stream = stream.ok_or_else(|| std::io::Error::other("no second one"))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

pub(crate) fn hub(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    within((1 << 20) + data.len() * 64, || {
        runtime.block_on(async {
            let talked = talk(Input::new(data));
            let stuck = tokio::time::timeout(PATIENCE, talked).await.is_err();
            assert!(!stuck, "the connection is stuck");
        });
    });
}

async fn talk(mut input: Input<'_>) {
    let version = if input.flag() {
        Version::V311
    } else {
        Version::V5
    };
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let network: Arc<dyn Network> = Arc::new(OneStream(Mutex::new(Some(theirs))));
    let settings = HubSettings::new("mqtt://hub".parse().unwrap());
    let plan = Plan {
        hub: &settings,
        client_id: "village-1".to_owned(),
        version,
        tls: None,
        in_flight_max: 64,
        subscribe: vec!["relay/v1/v/receipts/+".to_owned()],
        network: &network,
    };
    let (events, mut heard) = mpsc::channel(256);
    let connection = Connection::open(plan, 3, events);
    let (mut reader, mut hub) = tokio::io::split(ours);
    let mut said = Vec::new();
    let mut published = 0;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let step = input.byte();
        if step < 80 {
            let outgoing = reading(published, version);
            // Refused where the connection is over.
            let _ = connection.publish(Ticket(published), outgoing);
            published += 1;
        } else {
            let bytes = word(&mut input, step);
            let _ = hub.write_all(&bytes).await;
            said.extend(bytes);
        }
        for _ in 0..input.byte() & 3 {
            tokio::task::yield_now().await;
        }
    }
    let _ = hub.shutdown().await;
    let mut events = Vec::new();
    while let Some(event) = heard.recv().await {
        events.push(event);
    }
    let mut left = Vec::new();
    drop(connection);
    let _ = reader.read_to_end(&mut left).await;
    judge(&events, &tickets(&left, version), &acknowledged(&said));
}

/// A publish whose payload is its ticket.
fn reading(ticket: u64, version: Version) -> Outgoing {
    Outgoing {
        topic: "villages/v/m".to_owned(),
        retain: false,
        payload: ticket.to_be_bytes().to_vec().into(),
        properties: (version == Version::V5).then(Default::default),
    }
}

/// Something that a hub may say, or anything.
fn word(input: &mut Input<'_>, step: u8) -> Vec<u8> {
    match step {
        80..120 => {
            let id = [0, input.byte() % 12];
            match input.byte() {
                0..100 => vec![0x40, 2, id[0], id[1]],
                // Nobody was there to get it.
                100..128 => vec![0x40, 3, id[0], id[1], 0x10],
                other => vec![0x40, 3, id[0], id[1], other],
            }
        }
        120..150 => vec![0x20, 3, 0, 0, 0],
        150..160 => vec![0x20, 2, 0, input.byte() & 7],
        160..170 => vec![0x20, 13, 0, 0, 10, 0x21, 0, 5, 0x27, 0, 0, 0, 99, 0x25, 0],
        170..180 => vec![0xD0, 0],
        180..190 => vec![0xE0, 2, input.byte(), 0],
        190..200 => {
            let body = input.short();
            let mut bytes = vec![input.byte(), body.len().to_le_bytes()[0] & 0x7F];
            bytes.extend(body);
            bytes
        }
        200..215 => vec![0x90, 4, 0xFF, 0xFF, 0, input.byte()],
        215..235 => {
            let body = input.short();
            let mut bytes = vec![0x30, body.len().to_le_bytes()[0] & 0x3F, 0, 1, b't'];
            bytes.extend(body);
            bytes
        }
        _ => input.short().to_vec(),
    }
}

/// Each packet of `bytes`: first byte and body.
fn packets(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some((first, mut rest)) = bytes.split_first() {
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let Some((byte, after)) = rest.split_first() else {
                return found;
            };
            rest = after;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let Some((body, after)) = rest.split_at_checked(length) else {
            return found;
        };
        found.push((*first, body));
        bytes = after;
    }
    found
}

/// Under which packet ids which tickets left.
fn tickets(left: &[u8], version: Version) -> BTreeMap<u16, Vec<u64>> {
    let mut tickets: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for (first, body) in packets(left) {
        if first >> 4 != 3 {
            continue;
        }
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let id = u16::from_be_bytes([body[2 + topic], body[3 + topic]]);
        let ticket = u64::from_be_bytes(body[body.len() - 8..].try_into().unwrap());
        assert_eq!(first, 0x32, "QoS 1, not repeated");
        let properties = usize::from(version == Version::V5);
        assert_eq!(body.len(), 4 + topic + properties + 8);
        tickets.entry(id).or_default().push(ticket);
    }
    tickets
}

/// The packet ids that the hub acknowledged, and the reasons it gave.
fn acknowledged(said: &[u8]) -> BTreeMap<u16, BTreeSet<u8>> {
    let mut found: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
    for (first, body) in packets(said) {
        if let (0x40..0x50, [high, low, rest @ ..]) = (first, body) {
            let id = u16::from_be_bytes([*high, *low]);
            let reason = rest.first().copied().unwrap_or(0);
            found.entry(id).or_default().insert(reason);
        }
    }
    found
}

fn judge(
    events: &[LaneEvent],
    tickets: &BTreeMap<u16, Vec<u64>>,
    acknowledged: &BTreeMap<u16, BTreeSet<u8>>,
) {
    let mut answered = BTreeSet::new();
    let mut up = false;
    for (place, event) in events.iter().enumerate() {
        match event {
            LaneEvent::Up { lane, .. } => {
                assert!(*lane == 3 && place == 0);
                up = true;
            }
            LaneEvent::Answers { lane, answers } => {
                assert!(*lane == 3 && up);
                for (Ticket(ticket), verdict) in answers {
                    assert!(answered.insert(*ticket), "{ticket} is answered twice");
                    let id = tickets.iter().find(|(_, sent)| sent.contains(ticket));
                    let (id, _) = id.expect("an answer to what never left");
                    let reasons = acknowledged
                        .get(id)
                        .expect("an answer that the hub never gave");
                    if *verdict == Verdict::Taken {
                        assert!(reasons.contains(&0), "taken, for {reasons:?}");
                    }
                }
            }
            LaneEvent::Message { .. } => assert!(up),
            LaneEvent::Down { lane, failure } => {
                assert!(
                    *lane == 3 && place + 1 == events.len(),
                    "something follows the end"
                );
                assert!(!failure.to_string().is_empty());
            }
        }
    }
    assert!(
        matches!(events.last(), Some(LaneEvent::Down { .. })),
        "it never ends"
    );
}
