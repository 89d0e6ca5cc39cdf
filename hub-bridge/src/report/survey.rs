//! Goes through the villages: readings in, rows out.

use std::collections::{BTreeSet, VecDeque};

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Transaction;

use super::calendar::Calendar;
use super::column::Value;
use super::known;
use super::place::{Placed, Placer};
use super::rows::{self, AsOf, MeterName};
use super::settings::ReportSettings;
use super::source::{self, Readings, Wanted};
use super::sums::{Limits, MeterSum, MeterSums};
use super::village::VillageSums;
use super::write::{Document, WriteError};
use super::{Per, ReportArgs, ReportError};

/// What one run goes by, and the summaries that wait for the end of the rows.
pub(super) struct Survey<'a> {
    settings: &'a ReportSettings,
    args: &'a ReportArgs,
    range: (Date, Date),
    now: Timestamp,
    summaries: Vec<Vec<Value>>,
}

/// One village while its readings come.
struct Going<'a> {
    village: &'a str,
    calendar: &'a Calendar,
    as_of: AsOf<'a>,
    sums: VillageSums,
    seen: BTreeSet<String>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(
        settings: &'a ReportSettings,
        args: &'a ReportArgs,
        range: (Date, Date),
        now: Timestamp,
    ) -> Self {
        Self {
            settings,
            args,
            range,
            now,
            summaries: Vec::new(),
        }
    }

    pub(super) fn begin(&self, document: &mut dyn Document) -> Result<(), WriteError> {
        match (self.args.readings, self.args.summary, self.args.per) {
            (true, _, _) => document.table("readings", rows::READINGS),
            (false, true, _) => Ok(()),
            (false, false, Per::Village) => document.table("periods", rows::VILLAGE_PERIODS),
            (false, false, Per::Meter) => document.table("periods", rows::METER_PERIODS),
        }
    }

    pub(super) fn finish(self, document: &mut dyn Document) -> Result<(), WriteError> {
        if self.args.readings || !(self.args.summary || document.holds_many()) {
            return Ok(());
        }
        match self.args.per {
            Per::Village => document.table("villages", rows::VILLAGES)?,
            Per::Meter => document.table("meters", rows::METERS)?,
        }
        self.summaries.iter().try_for_each(|row| document.row(row))
    }

    pub(super) async fn village(
        &mut self,
        transaction: &Transaction<'_>,
        village: &str,
        document: &mut dyn Document,
    ) -> Result<(), ReportError> {
        let zone = self.settings.zone_of(village);
        let calendar = Calendar::new(self.range.0, self.range.1, self.args.by, &zone.0)?;
        let readings = self.readings(transaction, village, &calendar).await?;
        if self.args.readings {
            return self
                .each_reading(village, &calendar, readings, document)
                .await;
        }
        let mut going = Going {
            village,
            calendar: &calendar,
            as_of: AsOf {
                calendar: &calendar,
                until: self.now.min(calendar.end()),
            },
            sums: VillageSums::new(&calendar),
            seen: BTreeSet::new(),
        };
        self.meters(&mut going, readings, document).await?;
        self.silent(transaction, &mut going).await?;
        if self.args.per == Per::Village {
            if !self.args.summary {
                let mut periods = rows::village_periods(village, &going.sums, &calendar);
                periods.try_for_each(|row| document.row(&row))?;
            }
            let sequences = known::sequences(transaction, village).await?;
            let row = rows::village(village, zone.name(), &going.sums, sequences, going.as_of);
            self.summaries.push(row);
        }
        Ok(())
    }

    async fn readings(
        &self,
        transaction: &Transaction<'_>,
        village: &str,
        calendar: &Calendar,
    ) -> Result<Readings, ReportError> {
        let wanted = Wanted {
            village,
            start: calendar.start(),
            end: calendar.end(),
            oldest: self.settings.oldest(),
            now: self.now,
        };
        Ok(source::readings(transaction, wanted).await?)
    }

    async fn each_reading(
        &self,
        village: &str,
        calendar: &Calendar,
        mut readings: Readings,
        document: &mut dyn Document,
    ) -> Result<(), ReportError> {
        let roles = self.settings.roles();
        let (mut meter, mut placer) = (String::new(), Placer::default());
        let mut settled = VecDeque::new();
        while let Some(reading) = readings.try_next().await? {
            if reading.meter != meter {
                meter.clone_from(&reading.meter);
                placer = Placer::default();
            }
            placer.push(reading, &mut settled);
            for placed in settled.drain(..) {
                if calendar.index_of(placed.at).is_some() {
                    let role = roles.of(&placed.reading.topic, &meter);
                    document.row(&rows::reading(village, role, placed))?;
                }
            }
        }
        Ok(())
    }

    async fn meters(
        &mut self,
        going: &mut Going<'_>,
        mut readings: Readings,
        document: &mut dyn Document,
    ) -> Result<(), ReportError> {
        let calendar = going.calendar;
        let mut current: Option<(MeterName, Placer, MeterSum<'_>)> = None;
        let mut placed: VecDeque<Placed> = VecDeque::new();
        while let Some(reading) = readings.try_next().await? {
            let another = current
                .as_ref()
                .is_none_or(|(name, ..)| name.meter != reading.meter);
            if another {
                if let Some((name, _, sum)) = current.take() {
                    self.end_meter(going, name, sum, document)?;
                }
                let name = self.name(going.village, &reading.meter, &reading.topic);
                current = Some((
                    name,
                    Placer::default(),
                    MeterSum::new(calendar, self.limits()),
                ));
            }
            if let Some((_, placer, sum)) = &mut current {
                placer.push(reading, &mut placed);
                placed.drain(..).for_each(|placed| sum.push(&placed));
            }
        }
        if let Some((name, _, sum)) = current {
            self.end_meter(going, name, sum, document)?;
        }
        Ok(())
    }

    fn end_meter(
        &mut self,
        going: &mut Going<'_>,
        name: MeterName,
        sum: MeterSum<'_>,
        document: &mut dyn Document,
    ) -> Result<(), WriteError> {
        let sums = going.sums.add(name.role, sum);
        // One that was heard only at the edges, outside the range.
        if sums.newest.is_none()
            || sums
                .periods
                .iter()
                .all(|p| p.readings == 0 && p.kwh.is_none())
        {
            return Ok(());
        }
        if self.args.per == Per::Meter {
            if !self.args.summary {
                let mut periods = rows::meter_periods(&name, &sums, going.calendar);
                periods.try_for_each(|row| document.row(&row))?;
            }
            self.summaries.push(rows::meter(&name, &sums, going.as_of));
        }
        going.seen.insert(name.meter);
        Ok(())
    }

    /// Meters that sent nothing in the range: the ones that somebody should look at.
    async fn silent(
        &mut self,
        transaction: &Transaction<'_>,
        going: &mut Going<'_>,
    ) -> Result<(), ReportError> {
        let end = going.calendar.end();
        let silent = known::silent_meters(transaction, going.village, end, &going.seen).await?;
        for silent in silent {
            going.sums.meters_silent += 1;
            going.sums.newest = going.sums.newest.max(silent.newest);
            if self.args.per == Per::Meter {
                let name = self.name(going.village, &silent.meter, &silent.topic);
                let sums = MeterSums {
                    periods: Vec::new(),
                    interval_s: None,
                    newest: silent.newest,
                    oddities: super::sums::Oddities::default(),
                };
                self.summaries.push(rows::meter(&name, &sums, going.as_of));
            }
        }
        Ok(())
    }

    fn name(&self, village: &str, meter: &str, topic: &str) -> MeterName {
        MeterName {
            village: village.to_owned(),
            meter: meter.to_owned(),
            topic: topic.to_owned(),
            role: self.settings.roles().of(topic, meter),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            power_kw_max: self.settings.power_kw_max,
            power_gap_max: self.settings.power_gap_max,
            now: self.now,
        }
    }
}
