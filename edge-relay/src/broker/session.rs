//! What the broker keeps for one client (MQTT 5, 4.1): subscriptions, what waits to be sent, what was sent and
//! is not acknowledged, and the packet ids of `QoS` 2 publishes it sent us.
//!
//! Every `QoS` 1 or 2 delivery of a session has a number that only grows, and its packet id follows from it.
//! So a delivery keeps its packet id over a restart [MQTT-4.4.0-1] without a write when it is sent.
//!
//! Invariant: `sent` holds at most `window` deliveries, all numbered below those in `waiting`, and their
//! numbers span less than 65,535, so that no packet id is in use twice.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::exactly_once::{Position, Unsettled};
use super::message::Delivery;
use super::subscriptions::Options;

/// How many packet ids there are.
const PACKET_IDS: u64 = 65_535;

/// The packet id of delivery `number` (from 1).
fn packet_id(number: u64) -> u16 {
    u16::try_from(number.wrapping_sub(1) % PACKET_IDS + 1).unwrap_or(1)
}

/// The connection that serves a session.
#[derive(Debug, Clone)]
pub struct Link {
    /// Which connection, in this process.
    pub connection: u64,
    /// Wakes it when something waits.
    pub wake: Arc<Notify>,
    /// Cancelled when another connection takes the session.
    pub taken_over: CancellationToken,
    /// Cancelled when all that it published is stored, routed and acknowledged, or is not to be.
    pub through: CancellationToken,
    /// How many deliveries it takes unacknowledged.
    pub window: u16,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// PUBLISH was sent, or may have been before a restart.
    Published,
    /// `QoS` 2: PUBREC came, PUBREL was sent.
    Released,
}

#[derive(Debug)]
struct Sent {
    delivery: Delivery,
    progress: Progress,
    /// To be sent again on this connection.
    again: bool,
    /// Whether the next PUBLISH of it is a repetition.
    dup: bool,
}

/// What to write to the client next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A PUBLISH.
    Publish {
        /// What.
        delivery: Delivery,
        /// 0 for `QoS` 0.
        packet_id: u16,
        /// Whether it may have been sent before.
        dup: bool,
        /// Its number; `None` for `QoS` 0.
        number: Option<u64>,
    },
    /// A PUBREL with this packet id.
    Release(u16),
}

/// What came of an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub enum Acked {
    /// The delivery with this number is done.
    Done(u64),
    /// The delivery with this number was received by the subscriber: PUBREL is next.
    Released(u64),
    /// PUBREC again for one that was released before.
    ReleasedBefore,
    /// No such packet id is in flight, or not in that state.
    Unknown,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Its client.
    pub client_id: Arc<str>,
    /// Filter, as subscribed, to options.
    pub subscriptions: BTreeMap<String, Options>,
    /// How long it outlives its connection; zero: not at all.
    pub expiry: Duration,
    /// Its connection, if any.
    pub link: Option<Link>,
    /// When it lost its connection, on the monotonic clock.
    pub absent_since: Option<Duration>,
    /// Packet ids of `QoS` 2 publishes that were kept and are not released.
    pub received: HashSet<u16>,
    /// Up to where in the store its `QoS` 2 readings are in `received`, or released.
    pub settled: Option<Position>,
    /// `QoS` 2 readings beyond that, found in the store after a kill, by packet id: when they are published again they
    /// are not stored again.
    pub unsettled: HashMap<u16, Unsettled>,
    waiting: VecDeque<(Option<u64>, Delivery)>,
    sent: BTreeMap<u64, Sent>,
    next_number: u64,
    bytes: usize,
}

impl Session {
    /// A new one, without a connection.
    pub fn new(client_id: Arc<str>, expiry: Duration) -> Self {
        Self {
            client_id,
            subscriptions: BTreeMap::new(),
            expiry,
            link: None,
            absent_since: None,
            received: HashSet::new(),
            settled: None,
            unsettled: HashMap::new(),
            waiting: VecDeque::new(),
            sent: BTreeMap::new(),
            next_number: 1,
            bytes: 0,
        }
    }

    /// Whether it outlives its connection, and so must survive a restart.
    pub fn persistent(&self) -> bool {
        !self.expiry.is_zero()
    }

    /// Whether it is at its end, now that it has no connection: it was to end with it [MQTT-3.1.2-6], or was absent
    /// for too long [MQTT-4.1.0-2].
    pub fn is_over(&self, now: Duration) -> bool {
        let absent = self
            .absent_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        absent >= self.expiry
    }

    /// Messages that wait or are not acknowledged.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    /// Whether nothing waits and nothing is unacknowledged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that the next `QoS` 1 or 2 delivery gets.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// For a session that comes back from disk.
    pub fn set_next_number(&mut self, number: u64) {
        self.next_number = self.next_number.max(number);
    }

    /// Queues a delivery; returns its number where it has one. The caller has checked the limits.
    pub fn push(&mut self, delivery: Delivery) -> Option<u64> {
        self.bytes += delivery.message.size_bytes();
        let number = (delivery.qos > 0).then(|| {
            let number = self.next_number;
            self.next_number += 1;
            number
        });
        self.waiting.push_back((number, delivery));
        number
    }

    /// Puts back what was on disk; in order of `number`. The first `in_flight_max` may have been sent before the
    /// restart, and what was released, was.
    pub fn restore(
        &mut self,
        number: u64,
        delivery: Delivery,
        released: bool,
        in_flight_max: usize,
    ) {
        self.bytes += delivery.message.size_bytes();
        self.set_next_number(number + 1);
        if !released && self.sent.len() >= in_flight_max {
            self.waiting.push_back((Some(number), delivery));
            return;
        }
        let progress = if released {
            Progress::Released
        } else {
            Progress::Published
        };
        self.sent.insert(
            number,
            Sent {
                delivery,
                progress,
                again: true,
                dup: true,
            },
        );
    }

    /// After a connection ended: what was sent is sent again on the next one, what has `QoS` 0 is not kept.
    pub fn disconnected(&mut self, now: Duration) {
        self.link = None;
        self.absent_since = Some(now);
        let mut freed = 0;
        self.waiting.retain(|(number, delivery)| {
            if number.is_none() {
                freed += delivery.message.size_bytes();
            }
            number.is_some()
        });
        self.bytes = self.bytes.saturating_sub(freed);
        for sent in self.sent.values_mut() {
            sent.again = true;
        }
    }

    /// What the connection writes next, within its window.
    pub fn next_to_send(&mut self) -> Option<Next> {
        if let Some(next) = self.repeat() {
            return Some(next);
        }
        let (number, _) = self.waiting.front()?;
        let number = *number;
        if let Some(number) = number
            && !self.window_open(number)
        {
            return None;
        }
        let (_, delivery) = self.waiting.pop_front()?;
        let Some(number) = number else {
            self.bytes = self.bytes.saturating_sub(delivery.message.size_bytes());
            return Some(Next::Publish {
                delivery,
                packet_id: 0,
                dup: false,
                number: None,
            });
        };
        self.sent.insert(
            number,
            Sent {
                delivery: delivery.clone(),
                progress: Progress::Published,
                again: false,
                dup: true,
            },
        );
        Some(Next::Publish {
            delivery,
            packet_id: packet_id(number),
            dup: false,
            number: Some(number),
        })
    }

    fn window_open(&self, number: u64) -> bool {
        let window = self.link.as_ref().map_or(0, |l| usize::from(l.window));
        let span_open = self
            .sent
            .first_key_value()
            .is_none_or(|(oldest, _)| number - oldest < PACKET_IDS);
        span_open && self.sent.len() < window
    }

    /// The first delivery that this connection must repeat [MQTT-4.4.0-1], in the order of the first sending
    /// [MQTT-4.6.0-1], no more than its window allows.
    fn repeat(&mut self) -> Option<Next> {
        let window = self.link.as_ref().map_or(0, |l| usize::from(l.window));
        let (number, sent) = self.sent.iter_mut().take(window).find(|(_, s)| s.again)?;
        sent.again = false;
        let id = packet_id(*number);
        if sent.progress == Progress::Released {
            return Some(Next::Release(id));
        }
        Some(Next::Publish {
            delivery: sent.delivery.clone(),
            packet_id: id,
            dup: sent.dup,
            number: Some(*number),
        })
    }

    /// The number in flight that has packet id `id`.
    fn number_of(&self, id: u16) -> Option<u64> {
        let (oldest, _) = self.sent.first_key_value()?;
        let offset = (u64::from(id) + PACKET_IDS - u64::from(packet_id(*oldest))) % PACKET_IDS;
        let number = oldest + offset;
        self.sent.contains_key(&number).then_some(number)
    }

    /// PUBACK.
    pub fn puback(&mut self, id: u16) -> Acked {
        self.finish(id, 1, Progress::Published)
    }

    /// PUBCOMP.
    pub fn pubcomp(&mut self, id: u16) -> Acked {
        self.finish(id, 2, Progress::Released)
    }

    /// PUBREC; one with an error ends the delivery [MQTT-4.4.0-2].
    pub fn pubrec(&mut self, id: u16, failed: bool) -> Acked {
        if failed {
            return self.finish(id, 2, Progress::Published);
        }
        let Some(number) = self.number_of(id) else {
            return Acked::Unknown;
        };
        match self.sent.get_mut(&number) {
            Some(sent) if sent.delivery.qos == 2 => {
                sent.again = false;
                match std::mem::replace(&mut sent.progress, Progress::Released) {
                    Progress::Published => Acked::Released(number),
                    Progress::Released => Acked::ReleasedBefore,
                }
            }
            _ => Acked::Unknown,
        }
    }

    fn finish(&mut self, id: u16, qos: u8, progress: Progress) -> Acked {
        let Some(number) = self.number_of(id) else {
            return Acked::Unknown;
        };
        match self.sent.get(&number) {
            Some(sent) if sent.delivery.qos == qos && sent.progress == progress => {
                self.drop_sent(number);
                Acked::Done(number)
            }
            _ => Acked::Unknown,
        }
    }

    /// Forgets a delivery that was given out by [`Self::next_to_send`] and cannot be sent (too large, expired).
    pub fn drop_sent(&mut self, number: u64) {
        if let Some(sent) = self.sent.remove(&number) {
            self.bytes = self
                .bytes
                .saturating_sub(sent.delivery.message.size_bytes());
        }
    }

    /// The numbered deliveries, in order, with whether they were released.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &Delivery, bool)> {
        let sent = self
            .sent
            .iter()
            .map(|(number, s)| (*number, &s.delivery, s.progress == Progress::Released));
        let waiting = self
            .waiting
            .iter()
            .filter_map(|(number, delivery)| number.map(|n| (n, delivery, false)));
        sent.chain(waiting)
    }

    /// What another member of a shared subscription should get, now that this session ends (MQTT 5, 4.8.2): all that
    /// was not sent, and what has `QoS` 1 and is not acknowledged. What has `QoS` 2 and was sent must not [MQTT-4.8.2-5].
    pub fn left_to_share(&self) -> Vec<Delivery> {
        let sent = self
            .sent
            .values()
            .filter(|s| s.delivery.qos == 1)
            .map(|s| &s.delivery);
        let waiting = self
            .waiting
            .iter()
            .filter(|(number, _)| number.is_some())
            .map(|(_, delivery)| delivery);
        let all = sent.chain(waiting);
        all.filter(|d| d.share.is_some()).cloned().collect()
    }

    /// Removes what has expired and was never sent; returns the numbers.
    pub fn expire(&mut self, now: Duration) -> Vec<Option<u64>> {
        let mut expired = Vec::new();
        let mut freed = 0;
        self.waiting.retain(|(number, delivery)| {
            let gone = delivery.message.expired(now);
            if gone {
                freed += delivery.message.size_bytes();
                expired.push(*number);
            }
            !gone
        });
        self.bytes = self.bytes.saturating_sub(freed);
        expired
    }
}

#[cfg(test)]
mod tests;
