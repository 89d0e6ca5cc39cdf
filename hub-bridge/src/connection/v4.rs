//! MQTT 3.1.1 over rumqttc.

use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, TlsConfiguration,
    Transport,
};

use super::{HubLimits, Plan, Signal, Verdict};
use crate::classify::{self, Failure};
use crate::inflight::PacketId;

/// The largest packet that MQTT can carry, in bytes (MQTT 3.1.1, 2.2.3).
const PACKET_BYTES_MAX: usize = 268_435_455 + 5;
/// The largest packet taken from the hub: nothing is subscribed to.
const INCOMING_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Loop(EventLoop);

pub(super) fn open(plan: Plan<'_>) -> (AsyncClient, Loop) {
    let hub = plan.hub;
    let mut options = MqttOptions::new(plan.client_id, hub.url.host_in_address(), hub.url.port);
    options.set_keep_alive(hub.keep_alive);
    options.set_clean_session(true);
    options.set_inflight(plan.in_flight_max);
    options.set_max_packet_size(INCOMING_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some((username, password)) = hub.credentials() {
        options.set_credentials(username, password);
    }
    if let Some(tls) = plan.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let queue = usize::from(plan.in_flight_max) + 2;
    let (client, mut inner) = AsyncClient::new(options, queue);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(hub.connect_timeout.as_secs().max(1));
    inner.set_network_options(network);
    (client, Loop(inner))
}

impl super::EventLoop for Loop {
    async fn next(&mut self) -> Result<Signal, Failure> {
        match self.0.poll().await {
            Ok(event) => Ok(signal(&event)),
            Err(error) => Err(classify::of_v4(&error)),
        }
    }

    fn has_more(&self) -> bool {
        !self.0.state.events.is_empty()
    }

    fn leftover(&mut self) -> Option<Signal> {
        self.0.state.events.pop_front().as_ref().map(signal)
    }
}

fn signal(event: &Event) -> Signal {
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Signal::Sent(PacketId(*id)),
        Event::Outgoing(Outgoing::Disconnect) => Signal::Disconnected,
        Event::Incoming(Packet::PubAck(ack)) => {
            Signal::Answered(PacketId(ack.pkid), Verdict::Taken)
        }
        Event::Incoming(Packet::ConnAck(_)) => Signal::Accepted(HubLimits {
            receive_maximum: None,
            packet_bytes_max: None,
            retain: true,
        }),
        _ => Signal::Other,
    }
}
