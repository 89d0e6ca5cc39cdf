//! `[uplink]` to the policy's settings.

use hub_bridge::settings::{AtBudget, DaySpan, Forward, PolicySettings};

use super::one_of;
use crate::config::problem::Complaints;
use crate::config::sections;

pub(super) fn policy_settings(
    uplink: &sections::Uplink,
    complaints: &mut Complaints,
) -> Option<PolicySettings> {
    let allowed = "always, windows, live-first";
    let forward = one_of::<Forward>("uplink.forward", &uplink.forward, allowed, complaints);
    let allowed = "drain-only, go-on";
    let at_budget = one_of::<AtBudget>("uplink.at_budget", &uplink.at_budget, allowed, complaints);
    let windows: Vec<Option<DaySpan>> = uplink
        .windows
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| complaints.check("uplink.windows", text.parse()))
        .collect();
    Some(PolicySettings {
        forward: forward?,
        windows: windows.into_iter().collect::<Option<_>>()?,
        rate_limit_bytes_per_s: uplink.rate_limit.0.map(|rate| rate.bytes_per_s),
        monthly_budget_bytes: uplink.monthly_budget.0.map(|size| size.0),
        budget_alarm_permille: permille(uplink.budget_alarm_at),
        at_budget: at_budget?,
        month_begins: uplink.month_begins,
    })
}

/// 0, which is out of bounds, for what is no share.
fn permille(share: f64) -> u16 {
    if !(0.0..=1.0).contains(&share) {
        return 0;
    }
    // Within 0 to 1000.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let permille = (share * 1000.0).ceil() as u16;
    permille
}
