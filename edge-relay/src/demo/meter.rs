//! A meter: publishes a reading a step with `QoS` 1, keeps what is not acknowledged, and sends it again
//! after each reconnect, like any meter that takes MQTT at its word.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::ledger::Ledger;
use super::solar::{Device, STEPS};

/// Readings on the way to the relay at once.
const IN_FLIGHT: u16 = 10;
const RECONNECT_AFTER: Duration = Duration::from_millis(250);

/// When each step of the day takes place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    start: Instant,
    day: Duration,
}

impl Pace {
    /// A day that begins now and lasts that long.
    pub(super) fn new(day: Duration) -> Self {
        Self {
            start: Instant::now(),
            day,
        }
    }

    /// When that share of the day has passed, 0 to 1.
    pub(super) fn at(&self, share: f64) -> Instant {
        self.start + self.day.mul_f64(share)
    }

    fn due(&self, step: u32) -> Instant {
        self.at(f64::from(step) / f64::from(STEPS))
    }

    /// The step that is under way.
    pub(super) fn step(&self) -> u32 {
        (0..STEPS)
            .rev()
            .find(|step| self.due(*step) <= Instant::now())
            .unwrap_or_default()
    }
}

/// One device of the village.
pub(super) struct Meter {
    device: Device,
    relay: SocketAddr,
    pace: Pace,
    ledger: Arc<Ledger>,
    next: u32,
    unacknowledged: BTreeSet<u32>,
}

/// What the connection's event loop tells the meter.
enum Heard {
    Connected,
    Sent(u16),
    Acknowledged(u16),
}

impl Meter {
    /// A meter that has not published yet.
    pub(super) fn new(device: Device, relay: SocketAddr, pace: Pace, ledger: Arc<Ledger>) -> Self {
        Self {
            device,
            relay,
            pace,
            ledger,
            next: 0,
            unacknowledged: BTreeSet::new(),
        }
    }

    /// Lives through the day; returns when its last reading is acknowledged.
    pub(super) async fn run(mut self) {
        while !self.is_done() {
            self.connection().await;
            sleep(RECONNECT_AFTER).await;
        }
    }

    fn is_done(&self) -> bool {
        self.next == STEPS && self.unacknowledged.is_empty()
    }

    /// One connection, until it breaks or all is done. What it was about to hear is forgotten with it.
    async fn connection(&mut self) {
        let mut options = MqttOptions::new(
            self.device.name(),
            self.relay.ip().to_string(),
            self.relay.port(),
        );
        options
            .set_keep_alive(Duration::from_secs(5))
            .set_inflight(IN_FLIGHT);
        let (client, events) = AsyncClient::new(options, IN_FLIGHT.into());
        let (tell, mut heard) = mpsc::channel(64);
        let _polled = AbortOnDropHandle::new(tokio::spawn(poll(events, tell)));
        if !matches!(heard.recv().await, Some(Heard::Connected)) {
            return;
        }

        let mut again: VecDeque<u32> = self.unacknowledged.iter().copied().collect();
        let mut submitted = VecDeque::new();
        let mut in_flight = HashMap::new();
        while !self.is_done() {
            while submitted.len() + in_flight.len() < IN_FLIGHT.into() {
                let Some(step) = again.pop_front().or_else(|| self.take_due()) else {
                    break;
                };
                if client
                    .try_publish(self.topic(), QoS::AtLeastOnce, false, self.payload(step))
                    .is_err()
                {
                    return;
                }
                submitted.push_back(step);
            }
            tokio::select! {
                event = heard.recv() => match event {
                    None => return,
                    Some(Heard::Connected) => {}
                    Some(Heard::Sent(packet_id)) => {
                        in_flight.extend(submitted.pop_front().map(|step| (packet_id, step)));
                    }
                    Some(Heard::Acknowledged(packet_id)) => {
                        if let Some(step) = in_flight.remove(&packet_id) {
                            self.unacknowledged.remove(&step);
                            self.ledger.acknowledge(self.device, step);
                        }
                    }
                },
                () = sleep_until(self.pace.due(self.next)), if self.wakes_for_next(&submitted, &in_flight) => {}
            }
        }
    }

    /// Whether the next reading's time is what to wait for: not when the day is over or the window full.
    fn wakes_for_next(&self, submitted: &VecDeque<u32>, in_flight: &HashMap<u16, u32>) -> bool {
        self.next < STEPS && submitted.len() + in_flight.len() < IN_FLIGHT.into()
    }

    /// Takes the next reading if its time has come.
    fn take_due(&mut self) -> Option<u32> {
        let step = self.next;
        if step == STEPS || Instant::now() < self.pace.due(step) {
            return None;
        }
        self.next += 1;
        self.unacknowledged.insert(step);
        Some(step)
    }

    fn topic(&self) -> String {
        format!("meters/{}/reading", self.device.name())
    }

    fn payload(&self, step: u32) -> String {
        self.ledger.day().payload(self.device, step)
    }
}

/// Turns the event loop until the connection ends.
async fn poll(mut events: EventLoop, tell: mpsc::Sender<Heard>) {
    while let Ok(event) = events.poll().await {
        let heard = match event {
            Event::Incoming(Packet::ConnAck(_)) => Heard::Connected,
            Event::Outgoing(Outgoing::Publish(packet_id)) => Heard::Sent(packet_id),
            Event::Incoming(Packet::PubAck(acknowledged)) => Heard::Acknowledged(acknowledged.pkid),
            _ => continue,
        };
        if tell.send(heard).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, PubAck, Publish};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::solar::Day;
    use super::*;

    /// A relay that acknowledges `patience` publishes and then vanishes, the next one unanswered.
    async fn serve(mut meter: TcpStream, patience: usize) -> Vec<Publish> {
        let (mut bytes, mut answer, mut seen) = (BytesMut::new(), BytesMut::new(), Vec::new());
        loop {
            match Packet::read(&mut bytes, 4_096) {
                Ok(Packet::Connect(_)) => {
                    ConnAck::new(ConnectReturnCode::Success, false)
                        .write(&mut answer)
                        .unwrap();
                }
                Ok(Packet::Publish(publish)) => {
                    if seen.len() == patience {
                        seen.push(publish);
                        return seen;
                    }
                    PubAck::new(publish.pkid).write(&mut answer).unwrap();
                    seen.push(publish);
                }
                Ok(_) => {}
                Err(_) => {
                    if meter.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        return seen;
                    }
                }
            }
            if meter.write_all_buf(&mut answer).await.is_err() {
                return seen;
            }
        }
    }

    #[tokio::test]
    async fn a_meter_sends_again_what_was_not_acknowledged_and_counts_nothing_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = listener.local_addr().unwrap();
        let ledger = Arc::new(Ledger::new(Day::new(1)));
        let pace = Pace::new(Duration::from_millis(300));
        let meter = Meter::new(Device::Battery, relay, pace, Arc::clone(&ledger));
        let day = tokio::spawn(meter.run());

        let first = serve(listener.accept().await.unwrap().0, 20).await;
        assert_eq!(first.len(), 21);
        assert!(ledger.verdict().acknowledged <= 20);
        let second = serve(listener.accept().await.unwrap().0, usize::MAX).await;
        day.await.unwrap();
        assert!(
            second
                .iter()
                .any(|publish| publish.payload == first[20].payload)
        );
        for publish in first.iter().chain(&second) {
            ledger.deliver(&publish.payload, None);
        }
        let verdict = ledger.verdict();
        let all = usize::try_from(STEPS).unwrap();
        assert_eq!(
            (verdict.acknowledged, verdict.at_hub, verdict.missing),
            (all, all, 0)
        );
    }
}
