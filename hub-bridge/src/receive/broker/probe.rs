//! What the broker can do, found out and not believed.
//!
//! nats-server accepts a shared subscription and delivers nothing; RabbitMQ has none in MQTT. So two sessions of our
//! own share a filter with a wildcard, and messages are published to it: only where each comes to exactly one of them,
//! and both get some, are shared subscriptions used.

use std::collections::HashMap;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::Access;
use super::publisher::Publisher;
use super::session::{Heard, Identity, Session};
use crate::bridge::TimeFloor;
use crate::classify::{ErrorClass, Failure};
use crate::packet::Outgoing;
use crate::probe::knock;
use crate::settings::HubSettings;
use crate::version::Version;

/// How many messages are published: that one of two gets none of so many is no chance.
const MESSAGES: u32 = 24;
/// How long they may take.
const DELIVERY_MAX: Duration = Duration::from_secs(5);
/// How long is listened for a second copy.
const COPIES_MAX: Duration = Duration::from_millis(300);

/// The version that the broker takes: 3.1.1 only where it refuses 5.
pub(in crate::receive) async fn version(
    hub: &HubSettings,
    client_id: &str,
) -> Result<Version, Failure> {
    let clock = std::sync::Arc::new(super::ServerClock);
    let client_id = format!("{client_id}-asks-{:08x}", rand::random::<u32>());
    let welcome = knock(hub, &client_id, clock, TimeFloor::default()).await?;
    Ok(welcome.version)
}

/// Whether shared subscriptions work. An error means that it could not be found out.
pub(in crate::receive) async fn shares(access: &Access, client_id: &str) -> Result<bool, Failure> {
    let chance = format!("{:016x}", rand::random::<u64>());
    let filter = format!("$share/{chance}/relay/v1/+/probe/{chance}");
    let topic = format!("relay/v1/hub-bridge/probe/{chance}");
    let open = |n: u8| {
        let identity = Identity {
            client_id: format!("{client_id}-probe-{n}-{chance}"),
            persistent: false,
            queue_bytes_max: 1 << 20,
        };
        Session::open(access, identity, std::slice::from_ref(&filter))
    };
    let (mut one, mut two) = (open(1)?, open(2)?);
    for session in [&mut one, &mut two] {
        match session.next().await {
            Some(Heard::Subscribed) => {}
            Some(Heard::Down(failure)) if failure.class == ErrorClass::Refused => {
                debug!(%failure, "no shared subscriptions");
                return Ok(false);
            }
            Some(Heard::Down(failure)) => return Err(failure),
            Some(Heard::Message(_)) | None => return Ok(false),
        }
    }
    let publisher = Publisher::start(
        access.clone(),
        format!("{client_id}-probe-{chance}"),
        Counter::default(),
    );
    let messages = (0..MESSAGES).map(|n| Outgoing {
        topic: topic.clone(),
        retain: false,
        payload: n.to_string().into(),
        properties: None,
    });
    let sent = publisher.publish(messages.collect());
    let until = Instant::now() + DELIVERY_MAX;
    let _ = timeout_at(until, sent).await;
    let got = count(&mut one, &mut two, until).await?;
    let each_once = (0..MESSAGES).all(|n| got.copies.get(&n.to_string()) == Some(&1));
    debug!(?got, "what a shared subscription delivered");
    one.close().await;
    two.close().await;
    Ok(each_once && got.by_session.iter().all(|count| *count > 0))
}

#[derive(Debug, Default)]
struct Got {
    copies: HashMap<String, u32>,
    by_session: [u32; 2],
}

async fn count(one: &mut Session, two: &mut Session, until: Instant) -> Result<Got, Failure> {
    let mut got = Got::default();
    let mut until = until;
    loop {
        let next = async {
            tokio::select! {
                heard = one.next() => (0, heard),
                heard = two.next() => (1, heard),
            }
        };
        match timeout_at(until, next).await {
            Err(_) => return Ok(got),
            Ok((which, Some(Heard::Message(message)))) => {
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                *got.copies.entry(text).or_default() += 1;
                if let Some(count) = got.by_session.get_mut(which) {
                    *count += 1;
                }
                let session = if which == 0 { &*one } else { &*two };
                session.acknowledge(&message);
                if u32::try_from(got.copies.len()).unwrap_or(0) == MESSAGES {
                    until = until.min(Instant::now() + COPIES_MAX);
                }
            }
            Ok((_, Some(Heard::Down(failure)))) => return Err(failure),
            Ok((_, Some(Heard::Subscribed))) => {}
            Ok((_, None)) => return Err(Failure::new(ErrorClass::Connect, "a session ended")),
        }
    }
}
