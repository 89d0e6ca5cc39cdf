//! Opens, bounds and closes the link as the policy says, and counts what crossed.

use std::sync::Arc;

use jiff::tz::TimeZone;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Bridge;
use crate::clock::{ClockQuality, UnixMillis};
use crate::link::Policed;
use crate::policy::{self, Facts, Opening, Permit, Scope, Windows};
use crate::settings::BridgeSettings;
use crate::status::{BudgetStatus, PolicyStatus};
use crate::traffic::account::Account;
use crate::traffic::budget::BudgetState;
use crate::traffic::meter::Meter;
use crate::traffic::{Month, TrafficBook};
use crate::uplink::Event;

/// What the bridge needs to decide what may cross.
pub(super) struct Policing {
    windows: Windows,
    zone: TimeZone,
    account: Account,
    book: Arc<dyn TrafficBook>,
    permit: Permit,
    permits: watch::Sender<Permit>,
}

impl Policing {
    /// And what links are told by it.
    pub(super) fn new(settings: &BridgeSettings, book: Arc<dyn TrafficBook>) -> (Self, Policed) {
        let meter = Meter::default();
        let (permits, permit) = watch::channel(Permit::default());
        let mut policing = Self {
            windows: Windows::default(),
            zone: TimeZone::UTC,
            account: Account::new(meter.clone()),
            book,
            permit: Permit::default(),
            permits,
        };
        policing.apply(settings);
        (policing, Policed { meter, permit })
    }

    pub(super) fn apply(&mut self, settings: &BridgeSettings) {
        self.windows = Windows::new(&settings.policy, &settings.drain, &settings.village);
        // The settings were checked: there is such a zone.
        self.zone = TimeZone::get(&settings.drain.time_zone).unwrap_or(TimeZone::UTC);
    }

    fn policy_status(
        &self,
        settings: &BridgeSettings,
        now: UnixMillis,
        at: Opening,
    ) -> PolicyStatus {
        let trusted = at != Opening::Unknown;
        let known = |time: Option<UnixMillis>| time.filter(|_| trusted);
        PolicyStatus {
            forward: settings.policy.forward,
            permit: self.permit,
            window_open: trusted.then_some(at == Opening::Open),
            window_closes: known(self.windows.closes(now)),
            window_opens: known(self.windows.opens(now)),
        }
    }

    fn budget_status(&self, settings: &BridgeSettings, state: BudgetState) -> BudgetStatus {
        let usage = self.account.usage();
        let (now, month) = (usage.now(), usage.month());
        let before = usage.months().iter().filter(|(m, _)| Some(**m) != month);
        BudgetStatus {
            state,
            month,
            month_ends: month.and_then(|m| m.ends(&self.zone, settings.policy.month_begins)),
            budget_bytes: settings.policy.monthly_budget_bytes,
            used_bytes: now.total(),
            sent_bytes: now.sent,
            received_bytes: now.received,
            estimated_bytes: now.estimated,
            months: before.map(|(m, traffic)| (*m, traffic.total())).collect(),
        }
    }
}

impl Bridge {
    pub(super) async fn load_usage(&mut self) {
        let book = Arc::clone(&self.policing.book);
        let kept = self.blocking(move || book.load()).await.flatten();
        let now = self.now();
        self.policing
            .account
            .go_on_from(kept.unwrap_or_default(), now);
    }

    /// Takes over what the meter counted. Gives how near the budget is.
    pub(super) fn count(&mut self) -> BudgetState {
        let settings = Arc::clone(&self.parts.settings);
        let policy = &settings.policy;
        let (now, quality) = (self.parts.clock.wall(), self.parts.clock.quality());
        let trusted = quality == ClockQuality::Synchronised;
        let policing = &mut self.policing;
        let month = Month::of(now, &policing.zone, policy.month_begins).filter(|_| trusted);
        policing.account.count(month);
        let used = policing.account.usage().now().total();
        let (budget, alarm) = (policy.monthly_budget_bytes, policy.budget_alarm_permille);
        let state = BudgetState::of(used, budget, alarm);
        let shown = policing.budget_status(&settings, state);
        let before = self
            .parts
            .board
            .update(|board| std::mem::replace(&mut board.budget, shown).state);
        if state != before {
            warn_of_budget(state, used, budget);
        }
        state
    }

    /// Counts, decides anew what may cross, and acts where that is something else.
    pub(super) fn police(&mut self) {
        let budget = self.count();
        let settings = Arc::clone(&self.parts.settings);
        let (now, quality) = (self.parts.clock.wall(), self.parts.clock.quality());
        let policing = &mut self.policing;
        let window = policing.windows.opening(now, quality);
        let facts = Facts {
            draining: self.drain.is_some(),
            window,
            drains: self.schedule.is_some(),
            budget_reached: budget == BudgetState::Reached,
        };
        let permit = policy::decide(&settings.policy, facts);
        let before = std::mem::replace(&mut policing.permit, permit);
        let shown = policing.policy_status(&settings, now, window);
        self.parts.board.update(|board| board.policy = shown);
        if permit == before {
            return;
        }
        info!(?permit, ?before, "what may cross the uplink changed");
        policing.permits.send_replace(permit);
        match (before.scope, permit.scope) {
            (Scope::Nothing, Scope::Live | Scope::All) => self.step(Event::Open),
            (Scope::Live | Scope::All, Scope::Nothing) => self.step(Event::Close),
            _ => {}
        }
    }

    /// Writes down what crossed, where it is time, or `all` that is not written yet.
    pub(super) async fn keep_usage(&mut self, all: bool) {
        let now = self.now();
        let account = &mut self.policing.account;
        let budget = self.parts.settings.policy.monthly_budget_bytes;
        let usage = if all {
            account.unkept()
        } else {
            account.to_keep(budget, now)
        };
        let Some(usage) = usage else { return };
        // Also where it fails: a disk that is full is not asked four times a second.
        account.kept(now);
        let book = Arc::clone(&self.policing.book);
        let kept = self.blocking(move || book.keep(&usage)).await;
        if let Some(Err(error)) = kept {
            warn!(error, "the count of this month's bytes could not be kept");
        }
    }
}

fn warn_of_budget(state: BudgetState, used_bytes: u64, budget_bytes: Option<u64>) {
    match state {
        BudgetState::Alarm => warn!(used_bytes, budget_bytes, "the month's budget runs out"),
        BudgetState::Reached => warn!(used_bytes, budget_bytes, "the month's budget is used up"),
        BudgetState::Unlimited | BudgetState::Within => {}
    }
}
