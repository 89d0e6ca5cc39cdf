//! A solar day of a small mini-grid, computed once: PV production, household loads, the battery
//! between them, and the reading that each device would publish at each step.
//!
//! A reading is a pure function of (device, step), so that the hub's side can tell whether what
//! arrives is byte for byte what was published.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Readings of each device in a day, one every five minutes.
pub(super) const STEPS: u32 = 288;
const MINUTES_A_STEP: u32 = 5;
const PV_PEAK_W: f64 = 6_000.0;
const BATTERY_WH: f64 = 24_000.0;
const BATTERY_START_WH: f64 = 12_000.0;
const SEED: u64 = 20_260_301;

/// What publishes readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Device {
    /// A customer's meter, counted from 1.
    Household(u32),
    /// The PV inverter.
    Inverter,
    /// The battery monitor.
    Battery,
}

impl Device {
    /// The inverter, the battery and `households` meters.
    pub(super) fn all(households: u32) -> Vec<Self> {
        let mut devices = vec![Self::Inverter, Self::Battery];
        devices.extend((1..=households).map(Self::Household));
        devices
    }

    /// The device's name: its client id, and a level of its topic.
    pub(super) fn name(self) -> String {
        match self {
            Self::Household(number) => format!("meter-{number:02}"),
            Self::Inverter => "inverter".to_owned(),
            Self::Battery => "battery".to_owned(),
        }
    }

    /// The device of that name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "inverter" => Some(Self::Inverter),
            "battery" => Some(Self::Battery),
            _ => name
                .strip_prefix("meter-")?
                .parse()
                .ok()
                .map(Self::Household),
        }
    }
}

/// The site at one step.
#[derive(Debug, Clone, Default)]
pub(super) struct Site {
    /// PV production in watts.
    pub(super) pv_w: f64,
    /// The sum of the households in watts.
    pub(super) load_w: f64,
    /// Battery state of charge, 0 to 100.
    pub(super) battery_percent: f64,
    /// PV energy since midnight in watt hours.
    pv_wh: f64,
    /// Power and energy since midnight of each household.
    households: Vec<(f64, f64)>,
}

/// A whole day, step by step.
#[derive(Debug)]
pub(super) struct Day {
    sites: Vec<Site>,
}

impl Day {
    /// Computes the day of a village with `households` customers. The same every time.
    pub(super) fn new(households: u32) -> Self {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut sites: Vec<Site> = Vec::new();
        let mut battery_wh = BATTERY_START_WH;
        let mut cloud: f64 = 0.8;
        for step in 0..STEPS {
            let hour = f64::from(step * MINUTES_A_STEP) / 60.0;
            let hours = f64::from(MINUTES_A_STEP) / 60.0;
            cloud = (cloud + random.random_range(-0.1..0.1)).clamp(0.35, 1.0);
            let pv_w = PV_PEAK_W * sun(hour) * cloud;
            let before = sites.last();
            let mut load_w = 0.0;
            let mut meters = Vec::new();
            for household in 1..=households {
                let power_w = household_w(household, hour) * random.random_range(0.7..1.3);
                let index = usize::try_from(household - 1).unwrap_or_default();
                let energy_wh = before
                    .and_then(|site| site.households.get(index))
                    .map_or(0.0, |(_, energy)| *energy);
                load_w += power_w;
                meters.push((power_w, energy_wh + power_w * hours));
            }
            battery_wh = (battery_wh + (pv_w - load_w) * hours).clamp(0.0, BATTERY_WH);
            let pv_wh = before.map_or(0.0, |site| site.pv_wh) + pv_w * hours;
            let battery_percent = 100.0 * battery_wh / BATTERY_WH;
            sites.push(Site {
                pv_w,
                load_w,
                battery_percent,
                pv_wh,
                households: meters,
            });
        }
        Self { sites }
    }

    /// The site at a step; the last one for a step past the day.
    pub(super) fn site(&self, step: u32) -> Site {
        let index = usize::try_from(step.min(STEPS - 1)).unwrap_or_default();
        self.sites.get(index).cloned().unwrap_or_default()
    }

    /// The payload that a device publishes at a step, about 200 bytes of JSON.
    pub(super) fn payload(&self, device: Device, step: u32) -> String {
        let site = self.site(step);
        let head = format!(
            r#"{{"device":"{}","n":{step},"interval_start":"2026-03-01T{}:00+01:00""#,
            device.name(),
            time_of_day(step)
        );
        match device {
            Device::Household(number) => {
                let index = usize::try_from(number.saturating_sub(1)).unwrap_or_default();
                let (power_w, energy_wh) = site.households.get(index).copied().unwrap_or_default();
                let voltage_v = 231.0 - site.load_w / 1_000.0;
                format!(
                    r#"{head},"power_w":{power_w:.1},"interval_wh":{:.2},"energy_kwh":{:.4},"voltage_v":{voltage_v:.1},"current_a":{:.3},"power_factor":0.96,"state":"on"}}"#,
                    power_w * f64::from(MINUTES_A_STEP) / 60.0,
                    energy_wh / 1_000.0,
                    power_w / voltage_v / 0.96,
                )
            }
            Device::Inverter => format!(
                r#"{head},"pv_power_w":{:.1},"energy_kwh":{:.4},"dc_voltage_v":{:.1},"frequency_hz":50.0,"heat_sink_c":{:.1},"state":"{}"}}"#,
                site.pv_w,
                site.pv_wh / 1_000.0,
                340.0 + site.pv_w / 100.0,
                24.0 + site.pv_w / 200.0,
                if site.pv_w > 0.0 { "mppt" } else { "night" },
            ),
            Device::Battery => format!(
                r#"{head},"state_of_charge":{:.2},"power_w":{:.1},"voltage_v":{:.2},"temperature_c":27.5,"cells_min_v":3.21,"cells_max_v":3.27,"state":"{}"}}"#,
                site.battery_percent,
                site.pv_w - site.load_w,
                46.0 + 8.0 * site.battery_percent / 100.0,
                if site.pv_w > site.load_w {
                    "charging"
                } else {
                    "discharging"
                },
            ),
        }
    }
}

/// The village's time at a step, as `HH:MM`.
pub(super) fn time_of_day(step: u32) -> String {
    let minutes = step * MINUTES_A_STEP;
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// The sun's share of its height at noon, for a day from six to six.
fn sun(hour: f64) -> f64 {
    if !(6.0..18.0).contains(&hour) {
        return 0.0;
    }
    (std::f64::consts::PI * (hour - 6.0) / 12.0).sin().powf(1.3)
}

/// What a household draws on average: phones and a radio, light and television in the evening, a
/// refrigerator in some, a mill or a welder at work in a few.
fn household_w(household: u32, hour: f64) -> f64 {
    let evening = if (18.0..22.5).contains(&hour) {
        75.0
    } else {
        0.0
    };
    let morning = if (5.5..7.5).contains(&hour) {
        30.0
    } else {
        0.0
    };
    let refrigerator = if household.is_multiple_of(4) {
        45.0
    } else {
        0.0
    };
    let workshop = if household.is_multiple_of(13) && (9.0..16.0).contains(&hour) {
        550.0
    } else {
        0.0
    };
    8.0 + evening + morning + refrigerator + workshop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_a_function_of_device_and_step() {
        let (one, other) = (Day::new(40), Day::new(40));
        for device in Device::all(40) {
            for step in [0, 100, STEPS - 1] {
                let payload = one.payload(device, step);
                assert_eq!(payload, other.payload(device, step));
                assert!(
                    (150..260).contains(&payload.len()),
                    "{} bytes: {payload}",
                    payload.len()
                );
                let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
                assert_eq!(
                    Device::from_name(value["device"].as_str().unwrap()),
                    Some(device)
                );
                assert_eq!(value["n"], step);
            }
        }
    }

    #[test]
    fn the_day_has_a_night_a_noon_and_an_evening() {
        let day = Day::new(40);
        let site = |hour: u32| day.site(hour * 60 / MINUTES_A_STEP);
        assert!(site(2).pv_w == 0.0 && site(12).pv_w > 1_000.0);
        assert!(site(20).load_w > 2.0 * site(3).load_w);
        assert!(site(16).battery_percent > site(6).battery_percent);
        assert!(site(23).battery_percent < site(18).battery_percent);
    }
}
