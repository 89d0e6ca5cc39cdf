//! From a publish that is kept to the queues of those who subscribed to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::exactly_once::Position;
use super::message::{Delivery, Message};
use super::record::{self, Key};
use super::retained::Stored;
use super::state::{Change, Durable};
use super::subscriptions::{Options, SessionKey};
use super::topic::parse_filter;
use super::{Broker, Core, Limits};

/// A publish to be routed.
#[derive(Debug, Clone)]
pub struct Publication {
    /// What is published.
    pub message: Arc<Message>,
    /// For `QoS` 2: the packet id to remember until it is released.
    pub received: Option<u16>,
}

/// How often an overflow is said in the log.
const OVERFLOW_SAID_EVERY: Duration = Duration::from_secs(10);

impl Broker {
    /// Gives publishes to all who subscribed, and keeps the retained ones. `origin`: the publisher's session.
    /// `stored`: up to where in the store they are.
    ///
    /// Returns what must be durable before the publishes are acknowledged; `None` where nothing must.
    pub fn route(
        &self,
        origin: Option<SessionKey>,
        publications: &[Publication],
        stored: Option<Position>,
    ) -> Option<Durable> {
        let now = self.clock.monotonic();
        let limits = self.limits.read().clone();
        let mut routed = Routed::default();
        let mut core = self.core.lock();
        for publication in publications {
            core.route_one(origin, publication, &limits, now, &mut routed);
        }
        let exactly_once = publications.iter().any(|p| p.received.is_some());
        if let (Some(origin), Some(stored), true) = (origin, stored, exactly_once) {
            core.settle(origin, stored, &mut routed);
        }
        if !routed.touched.is_empty() || !routed.changes.is_empty() {
            self.measure(&core);
        }
        self.routed(&mut core, &mut routed, now);
        if routed.must_wait {
            return Some(self.state.commit(routed.changes));
        }
        self.state.submit(routed.changes);
        None
    }
}

impl Broker {
    /// Wakes those who got something, and counts and says what did not fit.
    pub(super) fn routed(&self, core: &mut Core, routed: &mut Routed, now: Duration) {
        self.stats.queue_overflows_total.add(routed.overflows);
        self.stats
            .retained_refused_total
            .add(routed.retained_refused);
        if routed.overflows + routed.retained_refused > 0 {
            core.say_overflow(now, routed);
        }
        for key in std::mem::take(&mut routed.touched) {
            if let Some(link) = core.sessions.get(&key).and_then(|s| s.link.as_ref()) {
                link.wake.notify_one();
            }
        }
    }
}

/// What routing a batch came to.
#[derive(Default)]
pub(super) struct Routed {
    pub(super) changes: Vec<Change>,
    pub(super) touched: Vec<SessionKey>,
    pub(super) must_wait: bool,
    pub(super) overflows: u64,
    overflowed_client: Option<Arc<str>>,
    retained_refused: u64,
}

/// All the subscriptions of one session that a message matched, as one copy (MQTT 5, 3.3.4).
struct Copy {
    qos: u8,
    retain_as_published: bool,
    ids: Vec<u32>,
}

impl Core {
    fn route_one(
        &mut self,
        origin: Option<SessionKey>,
        publication: &Publication,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let message = &publication.message;
        if let (Some(id), Some(session)) = (publication.received, origin) {
            self.remember(session, id, routed);
        }
        if message.retain {
            self.retain(message, limits, now, routed);
        }
        let sessions = &self.sessions;
        let ready = |key| sessions.get(&key).is_some_and(|s| s.link.is_some());
        let found = self.subscriptions.matches(&message.topic, ready);
        let mut copies: BTreeMap<SessionKey, Copy> = BTreeMap::new();
        for (key, options) in found.plain {
            if !(options.no_local && self.is_client(key, &message.publisher)) {
                add_to_copy(&mut copies, key, options);
            }
        }
        for (key, copy) in copies {
            self.deliver(key, copy, message, limits, now, routed);
        }
        for (key, options, filter) in found.shared {
            self.share(key, options, filter, message, limits, now, routed);
        }
    }

    /// Gives a message to the member of a shared subscription whose turn it is.
    #[allow(clippy::too_many_arguments)] // as `deliver`, with the group
    fn share(
        &mut self,
        key: SessionKey,
        options: Options,
        filter: Arc<str>,
        message: &Arc<Message>,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let delivery = Delivery {
            message: message.clone(),
            qos: options.qos.min(message.qos),
            retain: message.retain && options.retain_as_published,
            subscription_ids: options.id.into_iter().collect(),
            share: Some(filter),
        };
        self.enqueue(key, delivery, 0, limits, now, routed);
    }

    /// Gives what an ended session was owed by its shared subscriptions to other members, where there are some.
    pub(super) fn hand_on(
        &mut self,
        left: Vec<Delivery>,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        for delivery in left {
            let Some(filter) = delivery.share else {
                continue;
            };
            let sessions = &self.sessions;
            let ready = |key| sessions.get(&key).is_some_and(|s| s.link.is_some());
            let member = parse_filter(&filter)
                .ok()
                .and_then(|parsed| self.subscriptions.member(parsed, ready));
            if let Some((key, options)) = member {
                self.share(key, options, filter, &delivery.message, limits, now, routed);
            }
        }
    }

    fn is_client(&self, key: SessionKey, client_id: &str) -> bool {
        let session = self.sessions.get(&key);
        session.is_some_and(|session| &*session.client_id == client_id)
    }

    fn deliver(
        &mut self,
        key: SessionKey,
        copy: Copy,
        message: &Arc<Message>,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let delivery = Delivery {
            message: message.clone(),
            qos: copy.qos.min(message.qos),
            retain: message.retain && copy.retain_as_published,
            subscription_ids: copy.ids,
            share: None,
        };
        self.enqueue(key, delivery, 0, limits, now, routed);
    }

    /// Puts a delivery in a session's queue, if it fits. `extra`: how many more than the limit may wait.
    pub(super) fn enqueue(
        &mut self,
        key: SessionKey,
        delivery: Delivery,
        extra: usize,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if delivery.qos == 0 && session.link.is_none() {
            return;
        }
        let bytes = delivery.message.size_bytes();
        let fits = session.len() < limits.queue_messages_max.saturating_add(extra)
            && (session.bytes() + bytes <= limits.queue_bytes_max
                || session.is_empty()
                || extra > 0)
            && self.queued_bytes + bytes <= limits.queues_bytes_max;
        if !fits {
            routed.overflows += 1;
            routed.overflowed_client = Some(session.client_id.clone());
            return;
        }
        self.queued_bytes += bytes;
        let persistent = session.persistent();
        let value =
            (persistent && delivery.qos > 0).then(|| record::encode_delivery(&delivery, now));
        let number = session.push(delivery);
        if let (Some(number), Some(value)) = (number, value) {
            let key = Key::Queued(session.client_id.to_string(), number);
            routed.changes.push((key.encode(), Some(value)));
            routed.must_wait = true;
        }
        if routed.touched.last() != Some(&key) {
            routed.touched.push(key);
        }
    }

    fn retain(
        &mut self,
        message: &Arc<Message>,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let key = || Key::Retained(message.topic.to_string()).encode();
        let stored = self
            .retained
            .store(message, limits.retained_max, limits.retained_bytes_max);
        let change = match stored {
            Stored::Kept => (key(), Some(record::encode_message(message, now))),
            Stored::Removed(true) => (key(), None),
            Stored::Removed(false) => return,
            Stored::Full(had) => {
                routed.retained_refused += 1;
                if !had {
                    return;
                }
                (key(), None)
            }
        };
        routed.changes.push(change);
        routed.must_wait |= message.qos > 0;
    }

    fn say_overflow(&mut self, now: Duration, routed: &Routed) {
        let due = self
            .overflow_said
            .is_none_or(|said| now.saturating_sub(said) >= OVERFLOW_SAID_EVERY);
        if due {
            self.overflow_said = Some(now);
            if routed.overflows > 0 {
                tracing::warn!(
                    client_id = routed.overflowed_client.as_deref(),
                    messages = routed.overflows,
                    "a subscriber's queue is full, it does not get these messages"
                );
            }
            if routed.retained_refused > 0 {
                tracing::warn!(
                    messages = routed.retained_refused,
                    "no room for retained messages: their topics have none now"
                );
            }
        }
    }
}

fn add_to_copy(copies: &mut BTreeMap<SessionKey, Copy>, key: SessionKey, options: Options) {
    let copy = copies.entry(key).or_insert(Copy {
        qos: 0,
        retain_as_published: false,
        ids: Vec::new(),
    });
    copy.qos = copy.qos.max(options.qos);
    copy.retain_as_published |= options.retain_as_published;
    copy.ids.extend(options.id);
}
