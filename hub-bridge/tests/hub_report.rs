//! Reports over a real database: what is summed up is what was metered, whatever clocks, counters and links did.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "helpers of tests: what they cannot do fails the test"
)]

mod support;

use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::identity::Sequence;
use hub_bridge::report::settings::ReportSettings;
use hub_bridge::report::{self, ReportError};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use support::fleet::{Relay, Says, Written, arguments};
use support::hub::store;
use support::postgres::Postgres;
use tokio_postgres::Client;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

async fn write(client: &mut Client, settings: &str, line: &str, now: &str) -> Written {
    let out = Written::default();
    let settings: ReportSettings = toml::from_str(settings).unwrap();
    let args = arguments(line);
    report::run(client, &settings, &args, Box::new(out.clone()), at(now))
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    out
}

async fn rows(
    client: &mut Client,
    settings: &str,
    line: &str,
    now: &str,
) -> (Vec<Value>, Vec<Value>) {
    let json = write(client, settings, &format!("{line} --format json"), now)
        .await
        .json();
    let summaries = json.get("meters").or(json.get("villages")).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    (list(&json["periods"]), list(summaries))
}

fn close(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap_or(f64::NAN);
    assert!(
        (value - expected).abs() < 1e-5,
        "{value} and not {expected}"
    );
}

/// Time, kW and V of each row of the sample.
fn sample() -> Option<Vec<(Timestamp, f64, f64, f64)>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/household-2007-02.csv"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("skipped: {path} is not there");
        return None;
    };
    let number = |text: &str| text.parse::<f64>().unwrap();
    let rows = text.lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split(',').collect();
        let wh: f64 = columns[5..8].iter().map(|text| number(text)).sum();
        (
            at(columns[0]),
            number(columns[1]),
            number(columns[3]),
            wh / 1000.0,
        )
    });
    Some(rows.collect())
}

#[tokio::test]
async fn the_totals_of_a_real_meter_are_those_of_its_file() {
    let (Some(sample), Some(postgres)) = (sample(), Postgres::start()) else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let mut relay = Relay::new("bamenda-01", 1);
    let mut counted = 0.0;
    for (time, kw, _, kwh) in &sample {
        counted += kwh;
        // The house says its power only; three circuits of it have a counter.
        for (meter, power_kw, energy_kwh) in
            [("house", Some(*kw), None), ("rooms", None, Some(counted))]
        {
            let says = Says {
                topic: format!("m/{meter}"),
                meter: Some(meter.to_owned()),
                ts: Some(time.to_string()),
                power_kw,
                energy_kwh,
            };
            relay.receive(*time, &says);
        }
    }
    relay.store(&mut client, &store, |_| true).await;

    // Each day by itself, out of the file.
    for (zone, offset_s) in [("UTC", 0), ("Africa/Douala", 3600)] {
        let settings = format!("time_zone = \"{zone}\"");
        let line = "--from 2007-02-01 --to 2007-02-03 --per meter";
        let (periods, meters) = rows(&mut client, &settings, line, "2026-11-21T12:00:00Z").await;
        for (day, first_day) in ["2007-02-01", "2007-02-02"].iter().enumerate() {
            let start = at(&format!("{first_day}T00:00:00Z")).as_second() - offset_s;
            let within = |t: &Timestamp| (start..start + 86_400).contains(&t.as_second());
            let house: f64 = sample
                .windows(2)
                .filter(|pair| within(&pair[0].0))
                .map(|pair| f64::midpoint(pair[0].1, pair[1].1) / 60.0)
                .sum();
            // A count is of the minute before it.
            let rooms: f64 = sample
                .windows(2)
                .filter(|pair| within(&pair[0].0))
                .map(|pair| pair[1].3)
                .sum();
            let peak = sample
                .iter()
                .filter(|row| within(&row.0))
                .map(|row| row.1)
                .reduce(f64::max);
            let of = |meter: &str| {
                let own = |row: &&Value| row["meter"] == meter && row["first_day"] == *first_day;
                periods.iter().find(own).unwrap()
            };
            close(&of("house")["energy_kwh"], house);
            close(&of("house")["peak_kw"], peak.unwrap());
            assert_eq!(of("house")["method"], "power");
            close(&of("rooms")["energy_kwh"], rooms);
            assert_eq!(of("rooms")["method"], "counter");
            let readings = sample.iter().filter(|row| within(&row.0)).count();
            assert_eq!(of("house")["readings"], json!(readings), "day {day}");
            close(&of("house")["completeness_pct"], 100.0);
        }
        let total: f64 = sample
            .windows(2)
            .map(|pair| (pair[0].1 + pair[1].1) / 120.0)
            .sum();
        let house = meters.iter().find(|row| row["meter"] == "house").unwrap();
        close(&house["interval_s"], 60.0);
        if zone == "UTC" {
            close(&house["energy_kwh"], total);
        }
    }
}

/// A meter that draws 1 kW, all through four days with a change of the clocks; `mend` breaks what it likes.
async fn steady(
    postgres: &Postgres,
    from: &str,
    mut mend: impl FnMut(i64, &mut f64, &mut Says) -> Option<()>,
) -> (Client, Relay) {
    let (mut client, store) = store(postgres).await;
    let mut relay = Relay::new("bamenda-01", 1);
    let mut counter = 5_000.0;
    for quarter in 0..4 * 96 {
        let time = at(from).checked_add((quarter * 15).minutes()).unwrap();
        let mut says = Says {
            topic: "m/1".to_owned(),
            meter: Some("m-1".to_owned()),
            ts: Some(time.to_string()),
            power_kw: None,
            energy_kwh: None,
        };
        let kept = mend(quarter, &mut counter, &mut says);
        says.energy_kwh = Some(counter);
        counter += 0.25;
        if kept.is_some() {
            relay.receive(time, &says);
        }
    }
    relay.store(&mut client, &store, |_| true).await;
    (client, relay)
}

const BERLIN: &str = "time_zone = \"Africa/Douala\"\n[time_zones]\nbamenda-01 = \"Europe/Berlin\"";

#[tokio::test]
async fn a_day_has_as_many_hours_as_it_has_there() {
    for (from, day, hours) in [
        ("2026-03-27T12:00:00Z", "2026-03-29", 23.0),
        ("2026-10-23T12:00:00Z", "2026-10-25", 25.0),
    ] {
        let Some(postgres) = Postgres::start() else {
            return;
        };
        let (mut client, _) = steady(&postgres, from, |_, _, _| Some(())).await;
        let line = format!("--from {day} --to {day}");
        let (periods, _) = rows(&mut client, BERLIN, &line, "2026-11-21T12:00:00Z").await;
        assert_eq!(periods.len(), 1);
        close(&periods[0]["hours"], hours);
        close(&periods[0]["consumption_kwh"], hours);
        close(&periods[0]["consumption_peak_kw"], 1.0);
        close(&periods[0]["expected"], hours * 4.0);
        close(&periods[0]["completeness_pct"], 100.0);
    }
}

#[tokio::test]
async fn resets_glitches_gaps_and_1970_do_not_spoil_a_total() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let mend = |quarter: i64, counter: &mut f64, says: &mut Says| {
        match quarter {
            // From zero: what it shows next flowed since.
            150 => *counter = 0.25,
            // Nothing arrives for five hours; the counter goes on.
            200..220 => return None,
            // The meter's clock was never set, and the relay's is good.
            240..250 => says.ts = Some("1970-01-01T00:00:10Z".to_owned()),
            // A year ahead.
            260 => says.ts = Some("2027-10-26T00:00:00Z".to_owned()),
            _ => {}
        }
        Some(())
    };
    let (mut client, relay) = steady(&postgres, "2026-10-23T12:00:00Z", mend).await;
    // Single far off values, and a time that nobody knows: as the mapping would have them.
    for (sequence, change) in [
        (100, "energy_kwh = 0"),
        (110, "energy_kwh = 1e12"),
        (115, "energy_kwh = 'NaN'"),
        (
            120,
            "ts = NULL, clock = 'unsynchronised', received_at = '1970-01-01 00:10:00+00'",
        ),
        (
            121,
            "ts = NULL, clock = 'unsynchronised', received_at = '1970-01-01 00:25:00+00'",
        ),
        (125, "ts = 'infinity'"),
        (126, "repeat_of = 125, energy_kwh = 7777"),
    ] {
        postgres.psql(&format!(
            "UPDATE readings SET {change} WHERE sequence = {sequence}"
        ));
    }
    let line = "--from 2026-10-24 --to 2026-10-26 --per meter";
    let (periods, meters) = rows(&mut client, BERLIN, line, "2026-11-21T12:00:00Z").await;
    let kwh: Vec<f64> = periods
        .iter()
        .map(|row| row["energy_kwh"].as_f64().unwrap())
        .collect();
    assert_eq!(kwh, [24.0, 25.0, 24.0]);
    let meter = &meters[0];
    assert_eq!(
        (&meter["resets"], &meter["glitches"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(meter["method"], "counter");
    close(&meter["interval_s"], 900.0);
    // 20 never arrived and one is a repeat, of 73 hours.
    assert_eq!(
        (&meter["readings"], &meter["expected"]),
        (&json!(271), &json!(292))
    );
    close(&meter["completeness_pct"], 271.0 / 292.0 * 100.0);
    assert_eq!(relay.readings.len(), 364);

    let readings = write(
        &mut client,
        BERLIN,
        "--from 2026-10-24 --to 2026-10-24 --readings --format csv",
        "2026-11-21T12:00:00Z",
    )
    .await;
    let text = String::from_utf8(readings.bytes()).unwrap();
    let unknown: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("neighbours"))
        .collect();
    assert_eq!(unknown.len(), 2, "{text}");
    assert!(unknown[0].contains("2026-10-24T17:45:00Z"), "{unknown:?}");
    assert!(unknown[1].contains("2026-10-24T18:00:00Z"), "{unknown:?}");
}

#[tokio::test]
async fn generation_and_consumption_are_what_the_configuration_says() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let mut relay = Relay::new("bamenda-01", 0xa);
    let start = at("2026-06-01T23:00:00Z");
    // Two houses of 1 kW, more each day; PV of 3 kW; a meter of the whole village; one that sent before, and no more.
    for quarter in 0..5 * 96_i32 {
        let time = start.checked_add((quarter * 15).minutes()).unwrap();
        let day = f64::from(quarter / 96);
        let hours = f64::from(quarter) / 4.0;
        let mut send = |topic: &str, meter: Option<&str>, kw: Option<f64>, kwh: Option<f64>| {
            let says = Says {
                topic: topic.to_owned(),
                meter: meter.map(str::to_owned),
                ts: Some(time.to_string()),
                power_kw: kw,
                energy_kwh: kwh,
            };
            relay.receive(time, &says);
        };
        send("house/1", Some("h-1"), None, Some(hours));
        send("house/2", None, Some(1.0 + day), None);
        send("pv/roof", Some("inv-1"), Some(3.5), Some(hours * 3.0));
        send("total", Some("sum"), None, Some(hours * 9.0));
        if quarter < 10 {
            send("house/3", Some("h-3"), None, Some(hours));
        }
    }
    relay.store(&mut client, &store, |_| true).await;
    Relay::new("empty-01", 0xb)
        .say(&client, &Relay::new("empty-01", 0xb).account(0))
        .await;
    let settings = "generation = { topics = [\"pv/#\"] }\nother = { meters = [\"su*\"] }";
    let now = "2026-06-06T22:00:00Z";
    let (periods, villages) = rows(
        &mut client,
        settings,
        "--from 2026-06-04 --to 2026-06-06",
        now,
    )
    .await;
    let own: Vec<&Value> = periods
        .iter()
        .filter(|row| row["village"] == "bamenda-01")
        .collect();
    assert_eq!(own.len(), 3);
    close(&own[0]["generation_kwh"], 72.0);
    // At midnight the second house steps up, within a quarter of an hour.
    close(&own[0]["consumption_kwh"], 24.0 + 72.0 + 0.125);
    close(&own[0]["generation_peak_kw"], 3.0);
    close(&own[0]["consumption_peak_kw"], 4.5);
    assert_eq!(
        (&own[0]["meters"], &own[0]["method"]),
        (&json!(4), &json!("mixed"))
    );
    close(&own[1]["consumption_change_pct"], 24.0 / 96.125 * 100.0);
    close(&own[1]["generation_change_pct"], 0.0);
    assert_eq!(own[0]["consumption_change_pct"], Value::Null);
    let village = villages
        .iter()
        .find(|row| row["village"] == "bamenda-01")
        .unwrap();
    assert_eq!(
        (&village["meters"], &village["meters_silent"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(village["time_zone"], "Africa/Douala");
    assert_eq!(
        (&village["sequences"], &village["sequences_pct"]),
        (&json!(1930), &json!(100.0))
    );
    assert_eq!(village["newest_at"], "2026-06-06T22:45:00Z");
    let empty = villages
        .iter()
        .find(|row| row["village"] == "empty-01")
        .unwrap();
    assert_eq!(
        (&empty["age_s"], &empty["consumption_kwh"]),
        (&Value::Null, &Value::Null)
    );

    let later = "2026-06-07T01:45:00Z";
    let (_, meters) = rows(
        &mut client,
        settings,
        "--from 2026-06-02 --to 2026-06-06 --per meter",
        later,
    )
    .await;
    let of = |meter: &str| meters.iter().find(|row| row["meter"] == meter).unwrap();
    // 24.125, 48.125 … and a last quarter of an hour that is not over.
    close(&of("house/2")["trend_kwh"], 23.725);
    close(&of("inv-1")["peak_kw"], 3.5);
    assert_eq!(of("inv-1")["role"], "generation");
    assert_eq!(of("sum")["role"], "other");
    close(&of("h-1")["age_s"], 900.0);
    let (_, meters) = rows(
        &mut client,
        settings,
        "--from 2026-06-06 --to 2026-06-07 --per meter",
        later,
    )
    .await;
    let silent = meters.iter().find(|row| row["meter"] == "h-3").unwrap();
    assert_eq!(
        (&silent["readings"], &silent["newest_at"]),
        (&json!(0), &json!("2026-06-02T01:15:00Z"))
    );
}

#[tokio::test]
async fn a_meter_that_stopped_and_one_that_came_are_expected_while_they_should_send() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, _) = steady(&postgres, "2026-06-10T00:00:00Z", |quarter, _, _| {
        (quarter < 144).then_some(())
    })
    .await;
    let line = "--from 2026-06-09 --to 2026-06-12 --per meter";
    let (periods, _) = rows(
        &mut client,
        "time_zone = \"UTC\"",
        line,
        "2026-06-12T06:00:00Z",
    )
    .await;
    let expected: Vec<i64> = periods
        .iter()
        .map(|row| row["expected"].as_i64().unwrap())
        .collect();
    let readings: Vec<i64> = periods
        .iter()
        .map(|row| row["readings"].as_i64().unwrap())
        .collect();
    assert_eq!(expected, [0, 96, 96, 24]);
    assert_eq!(readings, [0, 96, 48, 0]);
    assert_eq!(periods[0]["completeness_pct"], Value::Null);
    close(&periods[2]["completeness_pct"], 50.0);
    close(&periods[3]["completeness_pct"], 0.0);
}

#[tokio::test]
async fn a_late_reading_counts_for_its_own_day() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let mut relay = Relay::new("bamenda-01", 1);
    // The meter's own memory: all of the 3rd arrives on the 20th of the month after, the last one first.
    for hour in (0..=24_i32).rev() {
        let time = at("2026-06-03T00:00:00Z")
            .checked_add(hour.hours())
            .unwrap();
        let says = Says {
            topic: "m".to_owned(),
            ts: Some(time.to_string()),
            energy_kwh: Some(100.0 + f64::from(hour)),
            ..Says::default()
        };
        relay.receive(at("2026-07-20T00:00:00Z"), &says);
    }
    // One that came in twice, and says so.
    let says = Says {
        topic: "m".to_owned(),
        energy_kwh: Some(9.0),
        ..Says::default()
    };
    relay.receive(at("2026-06-03T12:00:00Z"), &says).repeat_of = Some(Sequence(3));
    // The relay's clock stands where the last outage left it; the meter's is good.
    let says = Says {
        topic: "n".to_owned(),
        ts: Some("2026-06-03T12:00:00Z".to_owned()),
        energy_kwh: Some(1.0),
        ..Says::default()
    };
    let behind = relay.receive(at("2026-05-15T00:00:00Z"), &says);
    behind.clock = ClockQuality::Unsynchronised;
    behind.at = UnixMillis(behind.at.0);
    relay.store(&mut client, &store, |_| true).await;
    let line = "--from 2026-06-03 --to 2026-06-03 --per meter";
    let (periods, _) = rows(
        &mut client,
        "time_zone = \"UTC\"",
        line,
        "2026-08-01T00:00:00Z",
    )
    .await;
    close(&periods[0]["energy_kwh"], 24.0);
    assert_eq!(periods[0]["readings"], 24);
    assert_eq!(
        (&periods[1]["meter"], &periods[1]["readings"]),
        (&json!("n"), &json!(1))
    );
}

#[tokio::test]
async fn every_format_has_the_same_rows_and_a_file_is_whole() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, _) = steady(&postgres, "2026-06-10T00:00:00Z", |_, _, _| Some(())).await;
    let dir = tempfile::tempdir().unwrap();
    let range = "--from 2026-06-10 --to 2026-06-13 --by week --per meter";
    let now = "2026-06-20T00:00:00Z";
    let csv = write(&mut client, "", &format!("{range} --format csv"), now).await;
    let text = String::from_utf8(csv.bytes()).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.lines()
            .nth(1)
            .unwrap()
            .starts_with("bamenda-01,m-1,consumption,2026-06-10,2026-06-13,96,95,,counter,1,380,"),
        "{text}"
    );
    let table = write(&mut client, "", range, now).await;
    let text = String::from_utf8(table.bytes()).unwrap();
    for part in ["95.000", "m-1", "by: week", "interval_s", "900.000"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let file = dir.path().join("report.csv");
    let line = format!("{range} --summary --format csv --output {}", file.display());
    let out = write(&mut client, "", &line, now).await;
    assert!(out.bytes().is_empty());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("village,meter,role,topic,energy_kwh,"),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    let settings = ReportSettings::default();
    for (line, is) in [
        ("--village nobody", "the database knows no village nobody"),
        (
            "--from 2026-06-10 --to 2026-06-09",
            "the range ends (2026-06-09) before it begins (2026-06-10)",
        ),
        ("--output /nowhere/at/all.csv", "/nowhere/at/all.csv"),
    ] {
        let args = arguments(line);
        let out = Box::new(Written::default());
        let error = report::run(&mut client, &settings, &args, out, at(now))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(is), "{error}");
    }
    let line = format!("--output {}/half.csv --format csv", dir.path().display());
    postgres.psql("ALTER TABLE readings_undated RENAME TO away");
    let out = Box::new(Written::default());
    let error = report::run(&mut client, &settings, &arguments(&line), out, at(now))
        .await
        .unwrap_err();
    assert!(matches!(error, ReportError::Database(_)), "{error}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "half a report is left"
    );
}

#[cfg(feature = "parquet")]
#[tokio::test]
async fn parquet_has_the_readings_for_those_who_train_models() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, relay) = steady(&postgres, "2026-06-10T00:00:00Z", |_, _, _| Some(())).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("readings.parquet");
    let line = format!(
        "--from 2026-06-01 --to 2026-06-30 --readings --format parquet --output {}",
        file.display()
    );
    write(&mut client, "", &line, "2026-07-01T00:00:00Z").await;
    let reader = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), relay.readings.len());
    for (row, reading) in rows.iter().zip(&relay.readings) {
        assert_eq!(row.get_string(0).unwrap(), "bamenda-01");
        assert_eq!(row.get_timestamp_micros(3).unwrap(), reading.at.0 * 1000);
        let sequence = u64::try_from(row.get_long(12).unwrap()).unwrap();
        assert_eq!(sequence, reading.sequence.0);
        let counter = 5_000.0 + 0.25 * f64::from(i32::try_from(sequence - 1).unwrap());
        assert!((row.get_double(6).unwrap() - counter).abs() < 1e-9);
    }
}
