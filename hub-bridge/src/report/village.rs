//! What a village's meters come to together.

use jiff::Timestamp;

use super::calendar::Calendar;
use super::quarters::Quarters;
use super::roles::Role;
use super::sums::{MeterSum, MeterSums, Method};

/// One period of a village.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VillagePeriod {
    /// Of the meters that generate, kWh; `None` where none says anything.
    pub generation_kwh: Option<f64>,
    /// Of those that consume.
    pub consumption_kwh: Option<f64>,
    /// From what.
    pub method: Option<Method>,
    /// Meters with a reading in the period.
    pub meters: u64,
    /// Their readings.
    pub readings: u64,
    /// How many there would be without a hole.
    pub expected: Option<f64>,
    /// How many of those there are: [`MeterPeriod::kept`](super::sums::MeterPeriod::kept).
    pub kept: f64,
}

/// One village, all periods.
#[derive(Debug)]
pub struct VillageSums {
    /// Each period of the calendar.
    pub periods: Vec<VillagePeriod>,
    /// Generation in each quarter of an hour.
    pub generation_quarters: Quarters,
    /// Consumption in each quarter of an hour.
    pub consumption_quarters: Quarters,
    /// Meters with a reading in the range.
    pub meters: u64,
    /// Meters that the database knows, without a reading in the range.
    pub meters_silent: u64,
    /// The newest reading before the end of the range.
    pub newest: Option<Timestamp>,
}

impl VillageSums {
    /// Nothing yet.
    pub fn new(calendar: &Calendar) -> Self {
        Self {
            periods: vec![VillagePeriod::default(); calendar.periods().len()],
            generation_quarters: Quarters::default(),
            consumption_quarters: Quarters::default(),
            meters: 0,
            meters_silent: 0,
            newest: None,
        }
    }

    /// Ends a meter, and adds it.
    pub fn add(&mut self, role: Role, meter: MeterSum<'_>) -> MeterSums {
        let quarters = match role {
            Role::Generation => Some(&mut self.generation_quarters),
            Role::Consumption => Some(&mut self.consumption_quarters),
            Role::Other => None,
        };
        let sums = meter.finish(quarters);
        self.newest = self.newest.max(sums.newest);
        self.meters += u64::from(sums.periods.iter().any(|period| period.readings > 0));
        for (whole, own) in self.periods.iter_mut().zip(&sums.periods) {
            whole.meters += u64::from(own.readings > 0);
            whole.readings += own.readings;
            whole.kept += own.kept();
            if let Some(expected) = own.expected {
                *whole.expected.get_or_insert_default() += expected;
            }
            let kwh = match role {
                Role::Generation => &mut whole.generation_kwh,
                Role::Consumption => &mut whole.consumption_kwh,
                Role::Other => continue,
            };
            if let Some(more) = own.kwh {
                *kwh.get_or_insert_default() += more;
            }
            whole.method = own
                .method
                .map_or(whole.method, |m| Some(m.and(whole.method)));
        }
        sums
    }
}
