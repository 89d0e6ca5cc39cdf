//! SUBSCRIBE and UNSUBSCRIBE, and the retained messages that a subscription brings.
//!
//! Invariant: a subscription stands in its session and in the tree, or in neither; for a session that outlives its
//! connection it is on disk before the SUBACK.

use std::time::Duration;

use rumqttd::protocol::{Filter, RetainForwardRule, SubscribeReasonCode, UnsubAckReason};

use super::keeping::session_change;
use super::message::Delivery;
use super::routing::Routed;
use super::state::Durable;
use super::subscriptions::{Options, SessionKey};
use super::topic;
use super::{Broker, Core, Limits};

impl Broker {
    /// SUBSCRIBE: one code a filter, and what must be durable before the SUBACK.
    pub fn subscribe(
        &self,
        key: SessionKey,
        connection: u64,
        filters: &[Filter],
        id: Option<u32>,
    ) -> (Vec<SubscribeReasonCode>, Option<Durable>) {
        let limits = self.limits.read().clone();
        let now = self.clock.monotonic();
        let mut core = self.core.lock();
        let mut routed = Routed::default();
        let owned = core.with_session(key, connection, |_| ()).is_some();
        let codes = filters
            .iter()
            .map(|filter| {
                if owned {
                    core.subscribe_one(key, filter, id, &limits, now, &mut routed)
                } else {
                    SubscribeReasonCode::Unspecified
                }
            })
            .collect();
        self.routed(&mut core, &mut routed, now);
        let session = core.sessions.get(&key).filter(|s| owned && s.persistent());
        let durable = session.map(|session| {
            routed.changes.push(session_change(session));
            self.state.commit(std::mem::take(&mut routed.changes))
        });
        self.measure(&core);
        if let Some(link) = core.sessions.get(&key).and_then(|s| s.link.as_ref()) {
            link.wake.notify_one();
        }
        (codes, durable)
    }

    /// UNSUBSCRIBE: one reason a filter, and what must be durable before the UNSUBACK.
    pub fn unsubscribe(
        &self,
        key: SessionKey,
        connection: u64,
        filters: &[String],
    ) -> (Vec<UnsubAckReason>, Option<Durable>) {
        let mut core = self.core.lock();
        let owned = core.with_session(key, connection, |_| ()).is_some();
        let reasons = filters
            .iter()
            .map(|filter| match topic::parse_filter(filter) {
                Err(_) => UnsubAckReason::TopicFilterInvalid,
                Ok(parsed) if owned && core.subscriptions.remove(parsed, key) => {
                    if let Some(session) = core.sessions.get_mut(&key) {
                        session.subscriptions.remove(filter);
                    }
                    UnsubAckReason::Success
                }
                Ok(_) => UnsubAckReason::NoSubscriptionExisted,
            })
            .collect();
        let session = core.sessions.get(&key).filter(|s| owned && s.persistent());
        let durable = session.map(|session| self.state.commit(vec![session_change(session)]));
        self.measure(&core);
        (reasons, durable)
    }
}

impl Core {
    fn subscribe_one(
        &mut self,
        key: SessionKey,
        filter: &Filter,
        id: Option<u32>,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) -> SubscribeReasonCode {
        let Ok(parsed) = topic::parse_filter(&filter.path) else {
            return SubscribeReasonCode::TopicFilterInvalid;
        };
        let Some(session) = self.sessions.get_mut(&key) else {
            return SubscribeReasonCode::Unspecified;
        };
        let is_new = !session.subscriptions.contains_key(&filter.path);
        if is_new && session.subscriptions.len() >= limits.subscriptions_max {
            return SubscribeReasonCode::QuotaExceeded;
        }
        let options = Options {
            qos: filter.qos as u8,
            no_local: filter.nolocal,
            retain_as_published: filter.preserve_retain,
            id,
        };
        session.subscriptions.insert(filter.path.clone(), options);
        self.subscriptions.insert(parsed, key, options);
        let wants_retained = match filter.retain_forward_rule {
            RetainForwardRule::OnEverySubscribe => true,
            RetainForwardRule::OnNewSubscribe => is_new,
            RetainForwardRule::Never => false,
        };
        if wants_retained && parsed.share.is_none() {
            self.send_retained(key, parsed.pattern, options, limits, now, routed);
        }
        SubscribeReasonCode::Success(filter.qos)
    }

    fn send_retained(
        &mut self,
        key: SessionKey,
        pattern: &str,
        options: Options,
        limits: &Limits,
        now: Duration,
        routed: &mut Routed,
    ) {
        let messages: Vec<_> = self.retained.matching(pattern, now).collect();
        let extra = self.retained.len();
        for message in messages {
            let delivery = Delivery {
                qos: options.qos.min(message.qos),
                retain: true,
                subscription_ids: options.id.into_iter().collect(),
                share: None,
                message,
            };
            self.enqueue(key, delivery, extra, limits, now, routed);
        }
    }
}
