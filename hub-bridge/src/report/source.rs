//! The readings of a village out of the database: meter after meter, each in the order of time, streamed.
//!
//! A reading's time is the meter's own where it can be true, else the relay's where that was synchronised; else it has none,
//! and comes after the reading of its meter that the relay received before it, to be placed by its neighbours. The database
//! sorts (on its disk where it must); nothing here holds more than a row.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, RowStream, Transaction};

/// How far beyond its range a report looks: for the counters' values at its edges.
const EDGE: SignedDuration = SignedDuration::from_hours(2 * 24);
/// A meter's time may be so far before the time that the relay's clock showed: that clock may stand where the last outage left
/// it, and partitions before this are not looked into.
const CLOCK_BEHIND: SignedDuration = SignedDuration::from_hours(62 * 24);

const READINGS: &str = "
WITH bounds AS (
    SELECT epoch_of.zero + $2::bigint * us.one AS pruned, epoch_of.zero + $3::bigint * us.one AS low,
           epoch_of.zero + $4::bigint * us.one AS high, epoch_of.zero + $5::bigint * us.one AS oldest,
           epoch_of.zero + $6::bigint * us.one AS now
    FROM (SELECT timestamptz 'epoch' AS zero) epoch_of, (SELECT interval '1 microsecond' AS one) us
), picked AS (
    SELECT r.*, CASE
        WHEN r.ts >= b.oldest
             AND r.ts <= CASE r.clock WHEN 'synchronised' THEN r.received_at ELSE b.now END + interval '2 days' THEN r.ts
        WHEN r.clock = 'synchronised' AND r.received_at >= b.oldest AND r.received_at <= b.now + interval '2 days'
             THEN r.received_at
        END AS at
    FROM bounds b, (
        SELECT epoch, sequence, topic, client_id, received_at, clock, coalesce(meter, topic) AS device, ts,
               power_kw, energy_kwh, voltage_v
        FROM readings
        WHERE village = $1 AND repeat_of IS NULL
              AND received_at >= timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
        UNION ALL
        SELECT epoch, sequence, topic, client_id, received_at, clock, coalesce(meter, topic) AS device, ts,
               power_kw, energy_kwh, voltage_v
        FROM readings_undated
        WHERE village = $1 AND repeat_of IS NULL
              AND received_at < timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
    ) r
), within AS (
    SELECT p.*, count(at) OVER (PARTITION BY device, epoch ORDER BY sequence) AS after
    FROM picked p, bounds b WHERE at IS NULL OR (at >= b.low AND at < b.high)
), placed AS (
    SELECT w.*, first_value(at) OVER (PARTITION BY device, epoch, after ORDER BY sequence) AS place FROM within w
)
SELECT device, topic, client_id, epoch, sequence, clock,
       (extract(epoch FROM received_at) * 1000000)::bigint AS received_us,
       CASE WHEN isfinite(ts) THEN (extract(epoch FROM ts) * 1000000)::bigint END AS ts_us,
       (extract(epoch FROM at) * 1000000)::bigint AS at_us,
       power_kw, energy_kwh, voltage_v
FROM placed WHERE place IS NOT NULL
ORDER BY device, place, epoch, sequence";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The village.
    pub village: &'a str,
    /// The first instant.
    pub start: Timestamp,
    /// The first instant after the last.
    pub end: Timestamp,
    /// Times before it are not believed.
    pub oldest: Timestamp,
    /// Times more than two days after it are not believed.
    pub now: Timestamp,
}

/// A reading, as it is in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The mapped meter; where the mapping found none, the topic.
    pub meter: String,
    /// The topic that it was published to.
    pub topic: String,
    /// The client that published it.
    pub client_id: String,
    /// Its epoch.
    pub epoch: String,
    /// Its sequence.
    pub sequence: i64,
    /// Whether the relay's clock was synchronised.
    pub clock: String,
    /// When the relay received it, by that clock.
    pub received_at: Option<Timestamp>,
    /// The meter's own time.
    pub ts: Option<Timestamp>,
    /// The one of the two that is believed.
    pub at: Option<Timestamp>,
    /// Power, kW.
    pub power_kw: Option<f64>,
    /// What the counter shows, kWh.
    pub energy_kwh: Option<f64>,
    /// Voltage, V.
    pub voltage_v: Option<f64>,
}

/// Readings, in order.
pub struct Readings(Pin<Box<RowStream>>);

/// Asks for the readings of a village.
///
/// # Errors
/// Where the database fails.
pub async fn readings(
    transaction: &Transaction<'_>,
    wanted: Wanted<'_>,
) -> Result<Readings, tokio_postgres::Error> {
    let low = wanted.start.saturating_sub(EDGE).unwrap_or(Timestamp::MIN);
    let high = wanted.end.saturating_add(EDGE).unwrap_or(Timestamp::MAX);
    let pruned = low.saturating_sub(CLOCK_BEHIND).unwrap_or(Timestamp::MIN);
    let micros = [pruned, low, high, wanted.oldest, wanted.now].map(Timestamp::as_microsecond);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&wanted.village];
    parameters.extend(micros.iter().map(|micros| micros as &(dyn ToSql + Sync)));
    let rows = transaction.query_raw(READINGS, parameters).await?;
    Ok(Readings(Box::pin(rows)))
}

impl Stream for Readings {
    type Item = Result<Reading, tokio_postgres::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let row = self.0.as_mut().poll_next(cx);
        row.map(|row| row.map(|row| row.and_then(|row| reading(&row))))
    }
}

fn reading(row: &Row) -> Result<Reading, tokio_postgres::Error> {
    let instant = |name: &str| -> Result<Option<Timestamp>, tokio_postgres::Error> {
        let micros: Option<i64> = row.try_get(name)?;
        Ok(micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
    };
    let number = |name: &str| -> Result<Option<f64>, tokio_postgres::Error> {
        let number: Option<f64> = row.try_get(name)?;
        Ok(number.filter(|number| number.is_finite()))
    };
    Ok(Reading {
        meter: row.try_get("device")?,
        topic: row.try_get("topic")?,
        client_id: row.try_get("client_id")?,
        epoch: row.try_get("epoch")?,
        sequence: row.try_get("sequence")?,
        clock: row.try_get("clock")?,
        received_at: instant("received_us")?,
        ts: instant("ts_us")?,
        at: instant("at_us")?,
        power_kw: number("power_kw")?,
        energy_kwh: number("energy_kwh")?,
        voltage_v: number("voltage_v")?,
    })
}
