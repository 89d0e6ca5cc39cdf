//! Publishes the relay's own account, retained: beside the readings, and never in their way.
//!
//! One message an epoch, one at a time, and only those that say something new. The hub's answer confirms no reading. A
//! refusal ends it until it is asked for again; a hub that breaks the connection over it is asked no more for a day.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use super::Link;
use crate::classify::{ErrorClass, Failure};
use crate::clock::UnixMillis;
use crate::connection::Verdict;
use crate::identity::Epoch;
use crate::inflight::Ticket;
use crate::packet::Outgoing;
use crate::platform::{Crashed, Job};
use crate::wire;
use crate::wire::account::Account;

/// An account that has changed goes again after so long, also without a drain.
const EVERY: Duration = Duration::from_secs(86_400);
/// So many connections are lost with an account in flight before it rests for [`EVERY`].
const STRIKES_MAX: u32 = 5;
/// Accounts go on the first connection.
const LANE: usize = 0;

/// How often the bridge wanted the account said: at the begin and at the end of each drain.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccountCalls(Arc<AtomicU64>);

impl AccountCalls {
    /// Has the account said.
    pub(crate) fn call(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is remembered from link to link.
#[derive(Debug, Default)]
pub(crate) struct Said {
    accounts: HashMap<Epoch, Account>,
    at: Option<Duration>,
    calls: u64,
    strikes: u32,
}

impl Said {
    fn is_due(&self, calls: u64, now: Duration) -> bool {
        let rested = self.at.is_none_or(|at| now.saturating_sub(at) >= EVERY);
        rested || (calls != self.calls && self.strikes < STRIKES_MAX)
    }

    fn is_news(&self, account: &Account) -> bool {
        let timeless = |account: &Account| Account {
            at: UnixMillis(0),
            clock: crate::clock::ClockQuality::Synchronised,
            ..account.clone()
        };
        let said = self.accounts.get(&account.epoch);
        said.is_none_or(|said| timeless(said) != timeless(account))
    }
}

/// An account under way.
#[derive(Debug)]
pub(super) struct Flying {
    ticket: Ticket,
    account: Account,
    since: Duration,
}

/// What a link does about it.
#[derive(Debug, Default)]
pub(super) enum Saying {
    /// Nothing.
    #[default]
    Idle,
    /// The backlog is asked.
    Asked(Job<Vec<Account>>),
    /// These go, one after the other.
    Going {
        /// Not sent yet.
        left: VecDeque<Account>,
        /// Sent, and not answered.
        flying: Option<Box<Flying>>,
    },
}

impl Saying {
    /// What the backlog says; for ever where it is not asked.
    pub(super) async fn drawn_up(&mut self) -> Result<Vec<Account>, Crashed> {
        match self {
            Self::Asked(job) => job.await,
            _ => std::future::pending().await,
        }
    }

    fn in_flight(&self) -> Option<Ticket> {
        match self {
            Self::Going {
                flying: Some(flying),
                ..
            } => Some(flying.ticket),
            _ => None,
        }
    }
}

impl Link {
    /// Asks the backlog where an account is due, and sends the next that waits.
    pub(super) fn tend_accounts(&mut self) -> Result<(), Failure> {
        if !self.accepted || self.ask_only || !self.care.is_off() {
            return Ok(());
        }
        let (calls, now) = (self.parts.account_calls.count(), self.now());
        if matches!(self.saying, Saying::Idle) && self.memory.said.is_due(calls, now) {
            (self.memory.said.calls, self.memory.said.at) = (calls, Some(now));
            let backlog = Arc::clone(&self.parts.backlog);
            let job = (self.parts.platform).offload(move || backlog.accounts());
            self.saying = Saying::Asked(job);
        }
        self.send_account()?;
        self.watch_account()
    }

    /// Where nothing else is in flight, nobody else would see that the hub never answers.
    fn watch_account(&self) -> Result<(), Failure> {
        let Saying::Going {
            flying: Some(flying),
            ..
        } = &self.saying
        else {
            return Ok(());
        };
        let limit = self.parts.settings.hub.progress_timeout;
        if self.flying.is_empty() && self.now().saturating_sub(flying.since) >= limit {
            let words = format!("no answer to the relay's account within {limit:?}");
            return Err(Failure::new(ErrorClass::Timeout, words).of_no_reading());
        }
        Ok(())
    }

    pub(super) fn take_accounts(&mut self, drawn_up: Result<Vec<Account>, Crashed>) {
        let all = drawn_up.unwrap_or_else(|error| {
            warn!(%error, "the account");
            Vec::new()
        });
        let news = all.into_iter().filter(|a| self.memory.said.is_news(a));
        let left: VecDeque<Account> = news.collect();
        self.saying = if left.is_empty() {
            Saying::Idle
        } else {
            Saying::Going { left, flying: None }
        };
    }

    fn send_account(&mut self) -> Result<(), Failure> {
        let Saying::Going { left, flying: None } = &mut self.saying else {
            return Ok(());
        };
        let Some(account) = left.front() else {
            self.saying = Saying::Idle;
            return Ok(());
        };
        let outgoing = Outgoing {
            topic: wire::account_topic(&account.village, account.epoch),
            retain: self.limits.retain,
            payload: account.to_json().into(),
            properties: None,
        };
        let (bytes, epoch) = (outgoing.size_bytes(), account.epoch);
        let max = self.limits.packet_bytes_max;
        if max.is_some_and(|max| bytes > usize::try_from(max).unwrap_or(usize::MAX)) {
            warn!(%epoch, bytes, ?max, "the account is larger than the hub takes");
            left.pop_front();
            return Ok(());
        }
        let lane = self.connection_of_lane.get(LANE);
        let connection = lane.and_then(|n| self.connections.get(*n));
        let Some(connection) = connection.and_then(Option::as_ref) else {
            return Ok(());
        };
        // A place among what the hub lets be in flight.
        if !self.lanes.occupy(LANE) {
            return Ok(());
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let since = self.parts.began.elapsed();
        connection.publish(ticket, outgoing)?;
        if let Some(account) = left.pop_front() {
            self.saying = Saying::Going {
                left: std::mem::take(left),
                flying: Some(Box::new(Flying {
                    ticket,
                    account,
                    since,
                })),
            };
        }
        Ok(())
    }

    /// Whether `ticket` is that of an account: then its answer is heard here, and is none to a reading.
    pub(super) fn account_answered(&mut self, ticket: Ticket, verdict: Verdict) -> bool {
        if self.saying.in_flight() != Some(ticket) {
            return false;
        }
        self.lanes.vacate(LANE);
        let Saying::Going { left, flying } = std::mem::take(&mut self.saying) else {
            return true;
        };
        self.memory.said.strikes = 0;
        match verdict {
            Verdict::Taken | Verdict::NoSubscriber => {
                if let Some(Flying { account, .. }) = flying.map(|flying| *flying) {
                    self.memory.said.accounts.insert(account.epoch, account);
                }
                self.saying = Saying::Going { left, flying: None };
            }
            Verdict::Never(reason) | Verdict::NotNow(reason) | Verdict::Unwanted(reason) => {
                info!(reason, "the hub does not take the relay's account");
            }
        }
        true
    }

    /// The link is told to end: what was not answered goes again over the next one.
    pub(super) fn stop_accounts(&mut self) {
        if !matches!(self.saying, Saying::Idle) {
            self.memory.said.at = None;
        }
        self.saying = Saying::Idle;
    }

    /// The connection was lost; whether an account was in flight, which may be why.
    pub(super) fn account_lost(&mut self) -> bool {
        let lost = self.saying.in_flight().is_some();
        self.memory.said.strikes += u32::from(lost);
        let at = self.memory.said.at;
        self.stop_accounts();
        if self.memory.said.strikes >= STRIKES_MAX {
            self.memory.said.at = at;
        }
        lost
    }
}
