//! What a seed chooses before the run begins, and what follows from it: settings, link, bounds, the night's windows.

use std::time::Duration;

use hub_bridge::clock::UnixMillis;
use hub_bridge::settings::{
    AtBudget, BridgeSettings, DaySpan, DrainSettings, Forward, PolicySettings, ProtocolChoice,
    TimeOfDay,
};
use hub_bridge::window::stagger_of;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::dice::Rng;
use super::hub::Welcome;

pub const VILLAGE: &str = "bamenda-01";

const ZONES: [&str; 6] = [
    "Africa/Douala",
    "Europe/Berlin",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/New_York",
];
/// Nights around which daylight saving begins or ends in one of the zones.
const TRANSITIONS: [&str; 8] = [
    "2026-03-28T12:00:00Z",
    "2026-10-24T12:00:00Z",
    "2026-03-07T20:00:00Z",
    "2026-10-31T20:00:00Z",
    "2026-04-04T12:00:00Z",
    "2026-09-05T12:00:00Z",
    "2026-10-03T12:00:00Z",
    "2026-02-14T12:00:00Z",
];

pub struct Scene {
    pub settings: BridgeSettings,
    pub meters: u64,
    pub reading_bytes_max: f64,
    /// How likely a reading is one that the hub never takes.
    pub poison: f64,
    pub bytes_per_s: f64,
    pub delay: Duration,
    pub receive_maximum: Option<u16>,
    pub packet_bytes_max: Option<u32>,
    /// How a hub answers MQTT 5 that knows 3.1.1 only; `None`: it knows 5.
    pub knows_no_5: Option<Welcome>,
    /// Storms before the run ends.
    pub storms: u64,
    pub storm_actions: u64,
}

fn time_of_day(rng: &mut Rng) -> TimeOfDay {
    let hour = u8::try_from(rng.between(0, 23)).unwrap();
    let minute = u8::try_from(rng.between(0, 59)).unwrap();
    TimeOfDay::new(hour, minute).unwrap()
}

impl Scene {
    pub fn of(rng: &mut Rng) -> Self {
        let receive_maximum = match rng.between(0, 5) {
            0 => None,
            1 => Some(1),
            2 => Some(65_535),
            _ => Some(rng.log_between(2.0, 2000.0) as u16),
        };
        let poisoned = rng.chance(0.4);
        let poison = rng.log_between(0.0003, 0.01);
        let protocol = *rng.pick(&[
            ProtocolChoice::V5,
            ProtocolChoice::V5,
            ProtocolChoice::V5,
            ProtocolChoice::Auto,
            ProtocolChoice::V311,
        ]);
        let knows_no_5 = (protocol == ProtocolChoice::Auto && rng.chance(0.5))
            .then(|| *rng.pick(&[Welcome::Close, Welcome::Refuse(0x84)]));
        let mut settings = settings(rng);
        settings.hub.protocol = protocol;
        Self {
            settings,
            knows_no_5,
            meters: rng.between(1, 12),
            reading_bytes_max: rng.log_between(30.0, 4000.0),
            poison: if poisoned { poison } else { 0.0 },
            bytes_per_s: rng.log_between(2e3, 1e7),
            delay: rng.log_seconds(0.001, 0.8),
            receive_maximum,
            packet_bytes_max: rng.chance(0.15).then(|| rng.between(150, 5000) as u32),
            storms: rng.between(1, 4),
            storm_actions: rng.between(5, 60),
        }
    }

    /// The most readings that may be in flight at once: what all connections hold, or what the bytes allow.
    pub fn flight_max(&self) -> usize {
        let hub = &self.settings.hub;
        let connections = usize::from(hub.connections_max);
        let least_packet = 60;
        (connections * usize::from(hub.in_flight_max))
            .min(hub.in_flight_bytes_max / least_packet + connections)
    }

    /// Within so long a calm link must have carried `readings` of `bytes` in all, with `poisoned` among them.
    pub fn patience(&self, readings: usize, bytes: u64, poisoned: u32) -> Duration {
        let hub = &self.settings.hub;
        let retry = &self.settings.retry;
        let round_trip = self.delay * 2;
        // What waits out the storm: one wait of each kind, one look at a silent link.
        // A guess at the version is looked at again after ten minutes.
        let versions = if hub.protocol == ProtocolChoice::Auto {
            Duration::from_secs(700)
        } else {
            Duration::ZERO
        };
        let aftermath = retry.max_rejected * 2 + retry.max * 2 + hub.progress_timeout * 2;
        // A receive maximum of one, or one reading at a time: each may take a round trip, its rest and its share.
        let one_by_one =
            (round_trip + Duration::from_millis(70)) * u32::try_from(readings).unwrap();
        let carried = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s * 4.0);
        let largest = Duration::from_secs_f64(self.reading_bytes_max / 2_000.0);
        // Eight connections are lost to it, each with its timeout and its wait; it may be taken for the village's fault.
        let each =
            hub.progress_timeout + hub.connect_timeout + retry.max + retry.max_rejected + largest;
        let suspects = (each + round_trip * 40) * 10 * poisoned;
        aftermath + one_by_one * 2 + carried + suspects + Duration::from_secs(120) + versions
    }

    fn zone(&self) -> TimeZone {
        TimeZone::get(&self.settings.drain.time_zone).unwrap()
    }

    /// The first moment of `date` in the village at which the day's clock shows `time` or later: looked for minute by
    /// minute, so that it owes nothing to the way the bridge computes it.
    fn first_moment(zone: &TimeZone, date: Date, time: TimeOfDay) -> Option<i64> {
        let wanted = i32::from(time.hour()) * 60 + i32::from(time.minute());
        let noon = date.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).ok()?;
        let mut at = noon.timestamp().as_millisecond() - 40 * 3_600_000;
        for _ in 0..80 * 60 {
            let local = zone.to_datetime(Timestamp::from_millisecond(at).ok()?);
            let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
            if local.date() == date && minute >= wanted {
                return Some(at);
            }
            at += 60_000;
        }
        None
    }

    /// The window of the night that belongs to `date`: when its drain begins, and when it is ended.
    fn window_of(&self, date: Date) -> Option<(i64, i64)> {
        let drain = &self.settings.drain;
        let span = DaySpan {
            from: drain.at,
            to: drain.until,
        };
        self.span_of(date, span, drain.stagger)
    }

    fn span_of(&self, date: Date, span: DaySpan, stagger: Duration) -> Option<(i64, i64)> {
        let zone = self.zone();
        let last_day = if span.to > span.from {
            date
        } else {
            date.checked_add(1.day()).ok()?
        };
        let village = VILLAGE.parse().unwrap();
        let stagger = stagger_of(&village, stagger).as_millis();
        let start = Self::first_moment(&zone, date, span.from)? + i64::try_from(stagger).unwrap();
        let end = Self::first_moment(&zone, last_day, span.to)?;
        Some((start, end.max(start + 60_000)))
    }

    /// Whether any window of the policy is open at `now`, or was or will be within `margin` ms.
    pub fn window_near(&self, now: UnixMillis, margin: i64) -> bool {
        let drain = &self.settings.drain;
        let nights = drain.enabled.then_some(DaySpan {
            from: drain.at,
            to: drain.until,
        });
        let own = self.settings.policy.windows.iter();
        let spans = nights.map(|span| (span, drain.stagger)).into_iter();
        let mut spans = spans.chain(own.map(|s| (*s, drain.stagger.min(s.long() / 2))));
        let Ok(moment) = Timestamp::from_millisecond(now.0) else {
            return true;
        };
        let today = self.zone().to_datetime(moment).date();
        spans.any(|(span, stagger)| {
            (-2..=1).any(|days| {
                let date = today.checked_add(i64::from(days).days()).unwrap();
                let window = self.span_of(date, span, stagger);
                window.is_none_or(|(start, end)| start - margin <= now.0 && now.0 < end + margin)
            })
        })
    }

    /// The windows of the days around `now`, in order.
    pub fn windows_around(&self, now: UnixMillis) -> Vec<(i64, i64)> {
        let Ok(moment) = Timestamp::from_millisecond(now.0) else {
            return Vec::new();
        };
        let today = self.zone().to_datetime(moment).date();
        (-2..=1)
            .filter_map(|days| self.window_of(today.checked_add(i64::from(days).days()).ok()?))
            .collect()
    }

    /// The start of the next window, or of one around a change to or from daylight saving.
    pub fn window_start_after(&self, now: UnixMillis, transition: bool) -> Option<UnixMillis> {
        let from = if transition {
            let n = usize::try_from(now.0.unsigned_abs() % TRANSITIONS.len() as u64).unwrap();
            UnixMillis(TRANSITIONS[n].parse::<Timestamp>().ok()?.as_millisecond())
        } else {
            now
        };
        let windows = self.windows_around(from);
        let start = windows.iter().map(|w| w.0).find(|start| *start > from.0)?;
        Some(UnixMillis(start))
    }
}

fn settings(rng: &mut Rng) -> BridgeSettings {
    let url = "mqtt://hub-0.example:1883".parse().unwrap();
    let mut settings = BridgeSettings::new(VILLAGE.parse().unwrap(), url);
    change(&mut settings, rng);
    settings.drain.time_zone = (*rng.pick(&ZONES)).to_owned();
    settings
}

/// Another valid edit of the settings.
pub fn change(settings: &mut BridgeSettings, rng: &mut Rng) {
    let hub = &mut settings.hub;
    hub.keep_alive = Duration::from_secs(rng.between(5, 120));
    hub.connect_timeout = Duration::from_secs(rng.between(5, 30));
    hub.progress_timeout = Duration::from_secs(rng.between(5, 60));
    hub.connections_max = rng.log_between(1.0, 17.0) as u16;
    hub.in_flight_max = rng.log_between(1.0, 5000.0) as u16;
    hub.in_flight_bytes_max = rng.log_between(4096.0, 3e6) as usize;
    let retry = &mut settings.retry;
    retry.first = Duration::from_millis(rng.between(50, 1000));
    retry.max = Duration::from_secs(rng.between(1, 60));
    retry.max_rejected = Duration::from_secs(rng.between(1, 900));
    let drain = &mut settings.drain;
    drain.enabled = rng.chance(0.8);
    drain.at = time_of_day(rng);
    drain.until = time_of_day(rng);
    if drain.at == drain.until {
        drain.until = TimeOfDay::new(23 - u8::try_from(drain.at.hour()).unwrap(), 31).unwrap();
    }
    drain.stagger = rng.log_seconds(1.0, 3600.0);
    drain.attempts_max = rng.between(1, 6) as u32;
    drain.attempt_timeout = Duration::from_secs(rng.between(5, 60));
    drain.attempt_wait = Duration::from_secs(rng.between(0, 30));
    drain.untrusted_interval = rng.log_seconds(600.0, 86_400.0);
    settings.policy = policy(&settings.drain, rng);
}

fn policy(drain: &DrainSettings, rng: &mut Rng) -> PolicySettings {
    if rng.chance(0.4) {
        return PolicySettings::default();
    }
    let mut windows = Vec::new();
    while windows.len() < 2 && (rng.chance(0.3) || (!drain.enabled && windows.is_empty())) {
        let (from, to) = (time_of_day(rng), time_of_day(rng));
        if from != to {
            windows.push(DaySpan { from, to });
        }
    }
    let forward = *rng.pick(&[Forward::Always, Forward::Windows, Forward::LiveFirst]);
    let rate = rng.log_between(1000.0, 1e6) as u64;
    let budget = rng.log_between(1e6, 1e8) as u64;
    PolicySettings {
        forward,
        windows,
        rate_limit_bytes_per_s: rng.chance(0.4).then_some(rate),
        monthly_budget_bytes: rng.chance(0.3).then_some(budget),
        at_budget: *rng.pick(&[AtBudget::DrainOnly, AtBudget::GoOn]),
        month_begins: rng.between(1, 28) as u8,
        ..PolicySettings::default()
    }
}
