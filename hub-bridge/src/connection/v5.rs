//! MQTT 5 over rumqttc.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAck, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport};

use super::{HubLimits, Plan, Signal, Verdict};
use crate::classify::{self, Failure};
use crate::inflight::PacketId;

pub(super) struct Loop {
    inner: EventLoop,
    keep_alive: Duration,
}

pub(super) fn open(plan: Plan<'_>) -> (AsyncClient, Loop) {
    let hub = plan.hub;
    let mut options = MqttOptions::new(plan.client_id, hub.url.host_in_address(), hub.url.port);
    options.set_keep_alive(hub.keep_alive);
    options.set_clean_start(true);
    options.set_outgoing_inflight_upper_limit(plan.in_flight_max);
    options.set_connection_timeout(hub.connect_timeout.as_secs().max(1));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some((username, password)) = hub.credentials() {
        options.set_credentials(username, password);
    }
    if let Some(tls) = plan.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let queue = usize::from(plan.in_flight_max) + 2;
    let (client, inner) = AsyncClient::new(options, queue);
    let keep_alive = hub.keep_alive;
    (client, Loop { inner, keep_alive })
}

impl super::EventLoop for Loop {
    async fn next(&mut self) -> Result<Signal, Failure> {
        match self.inner.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                // A server keep alive below rumqttc's least (0 means none) would make it ping without pause.
                if self.inner.options.keep_alive() < Duration::from_secs(5) {
                    self.inner.options.set_keep_alive(self.keep_alive);
                }
                Ok(Signal::Accepted(limits(&connack)))
            }
            Ok(event) => Ok(signal(event)),
            Err(error) => Err(classify::of_v5(&error)),
        }
    }

    fn has_more(&self) -> bool {
        !self.inner.state.events.is_empty()
    }

    fn leftover(&mut self) -> Option<Signal> {
        self.inner.state.events.pop_front().map(signal)
    }
}

pub(super) fn limits(connack: &ConnAck) -> HubLimits {
    let properties = connack.properties.as_ref();
    HubLimits {
        receive_maximum: properties.and_then(|p| p.receive_max),
        packet_bytes_max: properties.and_then(|p| p.max_packet_size),
        retain: properties.and_then(|p| p.retain_available) != Some(0),
    }
}

fn signal(event: Event) -> Signal {
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Signal::Sent(PacketId(id)),
        Event::Outgoing(Outgoing::Disconnect) => Signal::Disconnected,
        Event::Incoming(Packet::PubAck(ack)) => answered(&ack),
        Event::Incoming(Packet::ConnAck(connack)) => Signal::Accepted(limits(&connack)),
        _ => Signal::Other,
    }
}

pub(super) fn answered(ack: &PubAck) -> Signal {
    Signal::Answered(PacketId(ack.pkid), verdict(ack.reason))
}

fn verdict(reason: PubAckReason) -> Verdict {
    match reason {
        PubAckReason::Success => Verdict::Taken,
        PubAckReason::NoMatchingSubscribers => Verdict::NoSubscriber,
        PubAckReason::TopicNameInvalid => Verdict::Never("topic name invalid (0x90)"),
        PubAckReason::PayloadFormatInvalid => Verdict::Never("payload format invalid (0x99)"),
        PubAckReason::QuotaExceeded => Verdict::NotNow("quota exceeded (0x97)"),
        PubAckReason::PacketIdentifierInUse => Verdict::NotNow("packet id in use (0x91)"),
        PubAckReason::UnspecifiedError => Verdict::Unwanted("unspecified error (0x80)"),
        PubAckReason::ImplementationSpecificError => {
            Verdict::Unwanted("implementation specific error (0x83)")
        }
        PubAckReason::NotAuthorized => Verdict::Unwanted("not authorized (0x87)"),
    }
}
