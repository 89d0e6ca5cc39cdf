//! The national hub of the demo: rumqttd as a whole, listening on a port of its own, and a subscriber
//! that enters what it gets into the ledger. It is deliberately another broker than the relay's.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ledger::Ledger;

const START_WITHIN: Duration = Duration::from_secs(10);
/// rumqttd's router keeps messages in memory and drops the oldest segment when it has all of them: with
/// this much room that cannot happen in a demo, whose readings come to a few megabytes.
const SEGMENT_BYTES: usize = 32 * 1024 * 1024;
const SEGMENTS: usize = 10;
const IN_FLIGHT: u16 = 100;

/// Starts the hub's broker and its subscriber, and returns the broker's address once the subscription
/// holds.
pub(super) async fn start(ledger: Arc<Ledger>) -> anyhow::Result<SocketAddr> {
    let address = free_address().await?;
    let mut broker = Broker::new(configuration(address));
    // Ends with the process; a listener that cannot start shows as a subscriber that cannot connect.
    std::thread::Builder::new()
        .name("demo-hub".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                eprintln!("demo: the hub's broker ended: {error}");
            }
        })?;

    let connected = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(START_WITHIN, connected)
        .await
        .context("the demo's hub broker did not start")?;

    let mut options = MqttOptions::new("hub-subscriber", address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(30));
    let (client, events) = AsyncClient::new(options, 10);
    client.subscribe("villages/#", QoS::AtLeastOnce).await?;
    let (subscribed, subscription) = oneshot::channel();
    tokio::spawn(receive(client, events, ledger, subscribed));
    match timeout(START_WITHIN, subscription).await {
        Ok(Ok(())) => Ok(address),
        _ => bail!("the hub's subscriber could not subscribe"),
    }
}

/// A loopback address with a port that nobody listens on.
pub(super) async fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await?
        .local_addr()
}

fn configuration(address: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1024 * 1024,
        max_inflight_count: IN_FLIGHT.into(),
        auth: None,
        external_auth: None,
        dynamic_filters: false,
    };
    let server = ServerSettings {
        name: "hub".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    Config {
        router,
        v5: Some(HashMap::from([("hub".to_owned(), server)])),
        ..Config::default()
    }
}

/// Takes what the hub delivers until the connection ends. The client is held so that it stays open.
async fn receive(
    _client: AsyncClient,
    mut events: EventLoop,
    ledger: Arc<Ledger>,
    subscribed: oneshot::Sender<()>,
) {
    let mut subscribed = Some(subscribed);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                if let Some(subscribed) = subscribed.take() {
                    let _ = subscribed.send(());
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                ledger.deliver(&publish.payload, identity(&publish));
            }
            Ok(_) => {}
            Err(error) => {
                eprintln!("demo: the hub's subscriber lost its connection: {error}");
                return;
            }
        }
    }
}

/// The relay's `id`: the last user property of that name, since a meter could have sent its own.
fn identity(publish: &Publish) -> Option<&str> {
    let properties = &publish.properties.as_ref()?.user_properties;
    properties
        .iter()
        .rev()
        .find(|(name, _)| name == "id")
        .map(|(_, id)| id.as_str())
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::PublishProperties;
    use tokio_util::task::AbortOnDropHandle;

    use super::super::solar::{Day, Device};
    use super::*;

    #[tokio::test]
    async fn the_subscriber_sees_each_message_with_its_id() {
        let ledger = Arc::new(Ledger::new(Day::new(1)));
        let address = start(Arc::clone(&ledger)).await.unwrap();
        let mut options = MqttOptions::new("village", address.ip().to_string(), address.port());
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, 10);
        for (step, id) in [(0, "0000000a/1"), (1, "0000000a/2"), (1, "0000000a/2")] {
            let payload = ledger.day().payload(Device::Battery, step);
            let properties = PublishProperties {
                user_properties: vec![
                    ("id".into(), "the meter's own".into()),
                    ("id".into(), id.into()),
                ],
                ..PublishProperties::default()
            };
            let topic = "villages/demo-01/meters/battery/reading";
            client
                .publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties)
                .await
                .unwrap();
        }
        let _polled =
            AbortOnDropHandle::new(tokio::spawn(
                async move { while events.poll().await.is_ok() {} },
            ));
        let arrive = async {
            while ledger.verdict().duplicates == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(START_WITHIN, arrive).await.unwrap();
        let verdict = ledger.verdict();
        assert_eq!(
            (verdict.at_hub, verdict.duplicates, verdict.foreign),
            (2, 1, 0)
        );
    }
}
