//! Rows a second into PostgreSQL beside `COPY` of the same rows from a file, in one run.
//!
//! `cargo test --release -p hub-bridge --features hub --test hub_figures -- --ignored --nocapture`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what cannot go on fails the test"
)]

mod support;

use std::time::Instant;

use hub_bridge::clock::UnixMillis;
use hub_bridge::identity::Sequence;
use hub_bridge::receive::store::Incoming;
use support::hub::{TIME_MS, carried, incoming, store};
use support::postgres::Postgres;

const ROWS: u64 = 200_000;
/// The default of `receive.batch_readings_max`.
const BATCH: usize = 5000;
const ROUNDS: u32 = 3;

/// Readings of about 200 bytes, of 500 meters, with all the mapped fields.
fn readings() -> Vec<Incoming> {
    let of = |n: u64| {
        let mut reading = carried(n);
        let (meter, hour) = (n % 500, n / 500);
        reading.sequence = Sequence(n);
        reading.topic = format!("meters/{meter:03}/energy").into();
        reading.client_id = format!("meter-{meter:03}").into();
        reading.at = UnixMillis(TIME_MS + i64::try_from(n).unwrap());
        reading.payload = format!(
            r#"{{"meter":"meter-{meter:03}","ts":{},"power_kw":{}.{},"energy_kwh":{hour}.{},"voltage_v":23{}.{},"battery_v":51.2,"battery_soc":87,"state":"ok","fault":null,"tariff":"day","site":"bamenda-01"}}"#,
            reading.at, n % 5, n % 97, n % 89, n % 9, n % 7
        )
        .into();
        incoming(1, reading)
    };
    (1..=ROWS).map(of).collect()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn rows_a_second_beside_copy_from_a_file() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let readings = readings();
    let bytes: usize = readings.iter().map(|r| r.reading.payload.len()).sum();
    println!(
        "{ROWS} rows, payloads of {} bytes, batches of {BATCH}, fsync on",
        bytes / readings.len()
    );
    let file = postgres.dir().join("data").join("rows.copy");
    let file = file.display();
    let empty = "TRUNCATE readings, progress; CHECKPOINT";
    let (mut stored, mut copied) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        postgres.psql(empty);
        let began = Instant::now();
        for batch in readings.chunks(BATCH) {
            let outcome = store.store_batch(&mut client, batch).await.unwrap();
            assert_eq!(outcome.new.len(), batch.len());
        }
        stored.push(began.elapsed().as_secs_f64());
        if round == 0 {
            postgres.psql(&format!("COPY (SELECT * FROM readings) TO '{file}'"));
        }
        postgres.psql(empty);
        let began = Instant::now();
        let sql = format!("COPY readings FROM '{file}'");
        client.batch_execute(&sql).await.unwrap();
        copied.push(began.elapsed().as_secs_f64());
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = |seconds: &[f64]| ROWS as f64 * f64::from(ROUNDS) / seconds.iter().sum::<f64>();
    let (ours, theirs) = (rate(&stored), rate(&copied));
    println!(
        "store_batch: {ours:.0} rows/s {stored:.2?}\nCOPY FROM file: {theirs:.0} rows/s {copied:.2?}"
    );
    println!("ratio: {:.2}", ours / theirs);
    assert!(ours / theirs >= 0.5, "the figure to reach is 0.5");
}
