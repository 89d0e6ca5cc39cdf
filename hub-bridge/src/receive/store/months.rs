//! Partitions of `readings`, a month each, made when a reading of that month comes.
//!
//! Only a time that is to be trusted makes one, and only within 2020 to two months from now: a relay that is mad, or
//! lies, cannot fill the catalogue. What has no partition is in `readings_undated`, and moves when its month is made.

use std::collections::BTreeSet;

use jiff::civil::{Date, date};
use jiff::{Timestamp, ToSpan as _};
use parking::Mutex;
use tokio_postgres::Client;
use tracing::info;

use super::row::Row;
use crate::clock::ClockQuality;

/// Before this there is nothing to receive.
const FIRST: Date = date(2020, 1, 1);
/// Replicas make the same month one after the other.
const LOCK: i64 = 0x6875_625f_6272_0002;

/// The months that are known to be there, by their first day.
#[derive(Debug, Default)]
pub(super) struct Months(Mutex<BTreeSet<Date>>);

impl Months {
    /// Makes the partitions of `rows` that are not there.
    pub(super) async fn ensure(
        &self,
        client: &mut Client,
        rows: &[Row<'_>],
    ) -> Result<(), tokio_postgres::Error> {
        let wanted = wanted(rows, Timestamp::now());
        let missing: Vec<Date> = {
            let known = self.0.lock();
            wanted.difference(&known).copied().collect()
        };
        for month in missing {
            make(client, month).await?;
            self.0.lock().insert(month);
        }
        Ok(())
    }
}

fn wanted(rows: &[Row<'_>], now: Timestamp) -> BTreeSet<Date> {
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let last = now.saturating_add(2.months()).first_of_month();
    let mut months = BTreeSet::new();
    // Rows come in order of time, mostly: the same month over and over.
    let mut span = 0..0;
    for row in rows {
        let trusted = row.clock == ClockQuality::Synchronised;
        if !trusted || span.contains(&row.received_us) {
            continue;
        }
        let Ok(time) = Timestamp::from_microsecond(row.received_us) else {
            continue;
        };
        let month = time
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date()
            .first_of_month();
        if (FIRST..=last).contains(&month) {
            months.insert(month);
            span = micros(month)..micros(month.saturating_add(1.month()));
        }
    }
    months
}

fn micros(day: Date) -> i64 {
    let midnight = day.to_zoned(jiff::tz::TimeZone::UTC);
    midnight.map_or(0, |midnight| midnight.timestamp().as_microsecond())
}

/// Attached ready-made: unlike `CREATE TABLE … PARTITION OF` that leaves the others readable and writable.
async fn make(client: &mut Client, month: Date) -> Result<(), tokio_postgres::Error> {
    let next = month.saturating_add(1.month());
    let name = format!("readings_{:04}_{:02}", month.year(), month.month());
    let transaction = client.transaction().await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    let there = "SELECT to_regclass($1) IS NOT NULL";
    if transaction.query_one(there, &[&name]).await?.get(0) {
        return Ok(());
    }
    let bounds =
        format!("received_at >= '{month} 00:00:00+00' AND received_at < '{next} 00:00:00+00'");
    let sql = format!(
        "CREATE TABLE {name} (LIKE readings INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
         ALTER TABLE {name} ADD PRIMARY KEY (village, epoch, sequence);
         LOCK TABLE readings_undated IN ACCESS EXCLUSIVE MODE;
         WITH moved AS (DELETE FROM readings_undated WHERE {bounds} RETURNING *)
             INSERT INTO {name} SELECT * FROM moved;
         ALTER TABLE readings ATTACH PARTITION {name}
             FOR VALUES FROM ('{month} 00:00:00+00') TO ('{next} 00:00:00+00');"
    );
    transaction.batch_execute(&sql).await?;
    transaction.commit().await?;
    info!(partition = name, "partition made");
    Ok(())
}

/// The standard library's lock, whose poisoning means nothing for a set that only grows.
mod parking {
    #[derive(Debug, Default)]
    pub(super) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
            let locked = self.0.lock();
            locked.unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}
