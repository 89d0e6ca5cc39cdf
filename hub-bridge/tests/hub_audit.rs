//! Audits over a real database: what is proved is true, and what is not true is seen.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "helpers of tests: what they cannot do fails the test"
)]

mod support;

use std::time::Duration;

use hub_bridge::audit::{self, Audit, Outcome};
use hub_bridge::hub::database;
use hub_bridge::report;
use hub_bridge::report::settings::ReportSettings;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use support::fleet::{Relay, Says, Written, absent, arguments};
use support::hub::{config, config_text, store};
use support::postgres::Postgres;
use support::within;
use tokio_postgres::Client;

fn relay(village: &str, epoch: u32, count: i64) -> Relay {
    let mut relay = Relay::new(village, epoch);
    let start: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    for number in 0..count {
        let says = Says {
            topic: format!("m/{}", number % 3),
            meter: Some(format!("m-{}", number % 3)),
            energy_kwh: Some(f64::from(i32::try_from(number).unwrap()) / 100.0),
            ..Says::default()
        };
        relay.receive(start.checked_add((number * 5).minutes()).unwrap(), &says);
    }
    relay
}

async fn look(client: &mut Client, line: &str) -> (Outcome, Value) {
    let (audit, outcome) = audit_of(client, line).await;
    (outcome, serde_json::to_value(&audit).unwrap())
}

async fn audit_of(client: &mut Client, line: &str) -> (Audit, Outcome) {
    let settings = ReportSettings::default();
    let audit = audit::audit(client, &settings, &arguments(line), Timestamp::now())
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let outcome = audit.outcome;
    (audit, outcome)
}

fn only(audit: &Value) -> &Value {
    &audit["villages"][0]["epochs"][0]
}

fn ranges(epoch: &Value) -> String {
    let ranges = epoch["missing_ranges"].as_array().unwrap().iter();
    let tell = |r: &Value| {
        let reason = r["reason"]
            .as_str()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        format!(
            "{}-{} {}{reason}",
            r["first"],
            r["last"],
            r["cause"].as_str().unwrap()
        )
    };
    ranges.map(tell).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn what_is_whole_is_proved_and_said_with_status_0() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 1000);
    relay.store(&mut client, &store, |_| true).await;
    for through in [300, 700, 900] {
        relay.say(&client, &relay.account(through)).await;
    }
    for line in [
        "",
        "--deep",
        "--no-meters",
        "--village bamenda-01",
        "--silent-after 1day",
    ] {
        let (outcome, audit) = look(&mut client, line).await;
        let epoch = only(&audit);
        assert_eq!(epoch["verdict"], "complete", "{line}: {epoch}");
        assert_eq!((outcome, outcome.exit_code()), (Outcome::Fine, 0));
        assert_eq!(
            (&epoch["rows"], &epoch["rows_beyond"]),
            (&json!(1000), &json!(100))
        );
        assert_eq!(
            (&epoch["digest"], &epoch["missing"]),
            (&json!("equal"), &json!(0))
        );
        assert_eq!(
            (&epoch["account"]["through"], &epoch["account"]["accounts"]),
            (&json!(900), &json!(3))
        );
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_its_reason_or_as_unexplained() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 1000);
    let hole = |first: u64, last: u64, n: u64| (first..=last).contains(&n);
    relay
        .store(&mut client, &store, |reading| {
            let n = reading.sequence.0;
            !hole(101, 150, n) && !hole(400, 400, n) && !hole(980, 985, n)
        })
        .await;
    // Nobody gave an account.
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(
        (&only(&audit)["verdict"], outcome.exit_code()),
        (&json!("unproved"), 3)
    );
    assert_eq!(look(&mut client, "--allow-unproved").await.0, Outcome::Fine);

    let mut account = relay.account_without(900, 101, 150, "a segment was damaged");
    relay.say(&client, &account).await;
    let (outcome, audit) = look(&mut client, "").await;
    let epoch = only(&audit);
    assert_eq!(
        ranges(epoch),
        "101-150 lost (a segment was damaged), 400-400 unexplained"
    );
    assert_eq!(
        (&epoch["verdict"], outcome),
        (&json!("unexplained"), Outcome::Alarm)
    );
    assert_eq!(
        (&epoch["missing"], &epoch["unexplained"]),
        (&json!(51), &json!(1))
    );
    assert_eq!(epoch["digest"], "incomparable");
    // It was said a moment ago: it may still come.
    let (outcome, audit) = look(&mut client, "--grace 1h").await;
    assert_eq!(
        ranges(only(&audit)),
        "101-150 lost (a segment was damaged), 400-400 awaited"
    );
    assert_eq!(
        (&only(&audit)["verdict"], outcome),
        (&json!("explained"), Outcome::Fine)
    );

    account.refused.push(absent(400, 400, "packet too large"));
    relay.say(&client, &account).await;
    let (outcome, audit) = look(&mut client, "").await;
    let epoch = only(&audit);
    assert_eq!(
        ranges(epoch),
        "101-150 lost (a segment was damaged), 400-400 refused (packet too large)"
    );
    assert_eq!(
        (&epoch["verdict"], outcome),
        (&json!("explained"), Outcome::Fine)
    );

    // The refused one came after all: the rest is proved again.
    relay
        .store(&mut client, &store, |reading| reading.sequence.0 == 400)
        .await;
    let (_, audit) = look(&mut client, "").await;
    assert_eq!(ranges(only(&audit)), "101-150 lost (a segment was damaged)");
    assert_eq!(only(&audit)["digest"], "equal");
}

/// The relay lost its account of what it had forwarded and let go: the hub may have it, and that proves nothing.
#[tokio::test]
async fn what_a_relay_cannot_speak_of_contradicts_nothing_and_all_else_is_proved() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 1000);
    // Of the unknown ones some are rows and some are not.
    relay
        .store(&mut client, &store, |reading| {
            !(150..=160).contains(&reading.sequence.0)
        })
        .await;
    relay.say(&client, &relay.account(90)).await;
    let mut account = relay.account_without(900, 101, 200, "forwarded and let go");
    account.unknown = std::mem::take(&mut account.lost);
    account.tail_unknown_from = Some(hub_bridge::identity::Sequence(901));
    relay.say(&client, &account).await;
    for line in ["", "--deep"] {
        let (outcome, audit) = look(&mut client, line).await;
        let epoch = only(&audit);
        assert_eq!(
            (&epoch["verdict"], outcome),
            (&json!("explained"), Outcome::Fine),
            "{epoch}"
        );
        assert_eq!(epoch["digest"], "equal");
        assert_eq!(epoch["contradictions"], json!([]));
        assert_eq!(
            (&epoch["unknown"], &epoch["unknown_missing"]),
            (&json!(100), &json!(11))
        );
        assert_eq!(
            (&epoch["missing"], &epoch["unexplained"]),
            (&json!(0), &json!(0))
        );
        assert_eq!(ranges(epoch), "150-160 unknown (forwarded and let go)");
        assert_eq!(epoch["account"]["tail_unknown_from"], 901);
    }
    // Two contents of one that it cannot speak of: no digest settles which one is true.
    let mut other = self::relay("bamenda-01", 1, 1000);
    for reading in &mut other.readings {
        reading.payload = "{\"other\":1}".into();
    }
    other
        .store(&mut client, &store, |reading| reading.sequence.0 == 120)
        .await;
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(
        (&only(&audit)["contradictions"], outcome),
        (&json!(["120 came with two contents"]), Outcome::Alarm)
    );
    postgres.psql("DELETE FROM conflicts");

    // A row that is gone is one that was there, whatever the relay knows of it.
    postgres.psql("DELETE FROM readings WHERE sequence = 110");
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(
        ranges(only(&audit)),
        "110-110 removed, 150-160 unknown (forwarded and let go)"
    );
    assert_eq!(
        (&only(&audit)["verdict"], &only(&audit)["digest"], outcome),
        (&json!("unexplained"), &json!("equal"), Outcome::Alarm)
    );
    // Outside of what is unknown a missing row is missing.
    postgres.psql(
        "DELETE FROM readings WHERE sequence = 400; UPDATE progress SET stored = stored - '{[110,111),[400,401)}'::int8multirange",
    );
    let (outcome, audit) = look(&mut client, "").await;
    let epoch = only(&audit);
    assert_eq!(
        ranges(epoch),
        "110-110 unknown (forwarded and let go), 150-160 unknown (forwarded and let go), 400-400 unexplained"
    );
    assert_eq!(
        (&epoch["missing"], &epoch["unexplained"], &epoch["digest"]),
        (&json!(1), &json!(1), &json!("incomparable"))
    );
    assert_eq!(epoch["contradictions"], json!([]), "{epoch}");
    assert_eq!(
        (&epoch["verdict"], outcome),
        (&json!("unexplained"), Outcome::Alarm)
    );
    // And one that is another reading is found.
    relay
        .store(&mut client, &store, |reading| reading.sequence.0 == 400)
        .await;
    postgres.psql("UPDATE readings SET digest = '\\x00112233445566778899aabbccddeeff' WHERE sequence IN (130, 401)");
    let (outcome, audit) = look(&mut client, "").await;
    let epoch = only(&audit);
    assert_eq!(
        (&epoch["verdict"], outcome),
        (&json!("contradicted"), Outcome::Alarm)
    );
    assert_eq!(epoch["differs_in"], json!([{"first": 91, "last": 900}]));
    postgres.psql("UPDATE readings SET digest = substr(sha256(convert_to(topic, 'UTF8') || '\\x00'::bytea || payload), 1, 16) WHERE sequence = 401");
    assert_eq!(look(&mut client, "").await.0, Outcome::Fine);
}

#[tokio::test]
async fn a_row_that_is_another_reading_is_found_and_its_place_too() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 1000);
    relay.store(&mut client, &store, |_| true).await;
    for through in [300, 700, 900] {
        relay.say(&client, &relay.account(through)).await;
    }
    // The payload alone: only a deep audit looks.
    postgres.psql("UPDATE readings SET payload = '{}' WHERE sequence = 500");
    assert_eq!(look(&mut client, "").await.0, Outcome::Fine);
    let (outcome, audit) = look(&mut client, "--deep").await;
    let epoch = only(&audit);
    assert_eq!(
        (&epoch["verdict"], outcome.exit_code()),
        (&json!("contradicted"), 3)
    );
    assert_eq!(epoch["differs_in"], json!([{"first": 301, "last": 700}]));
    assert!(
        epoch["contradictions"].to_string().contains("row 500 "),
        "{epoch}"
    );
    // Digest and all.
    postgres.psql("UPDATE readings SET digest = substr(sha256(convert_to(topic, 'UTF8') || '\\x00'::bytea || payload), 1, 16) WHERE sequence = 500");
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(
        (&only(&audit)["digest"], outcome),
        (&json!("differs"), Outcome::Alarm)
    );
    assert_eq!(
        only(&audit)["differs_in"],
        json!([{"first": 301, "last": 700}])
    );
    // A hole elsewhere does not hide it.
    postgres.psql("DELETE FROM readings WHERE sequence = 800");
    let (_, audit) = look(&mut client, "--allow-removed").await;
    let epoch = only(&audit);
    assert_eq!(
        (&epoch["digest"], &epoch["verdict"]),
        (&json!("incomparable"), &json!("contradicted"))
    );
    assert_eq!(epoch["differs_in"], json!([{"first": 301, "last": 700}]));
}

#[tokio::test]
async fn rows_that_went_away_or_were_never_noted_are_seen() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 100);
    relay.store(&mut client, &store, |_| true).await;
    relay.say(&client, &relay.account(90)).await;
    postgres.psql("DELETE FROM readings WHERE sequence IN (20, 21, 95)");
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(ranges(only(&audit)), "20-21 removed, 95-95 removed");
    assert_eq!(
        (&only(&audit)["verdict"], outcome),
        (&json!("unexplained"), Outcome::Alarm)
    );
    let (outcome, audit) = look(&mut client, "--allow-removed").await;
    assert_eq!(
        (&only(&audit)["verdict"], outcome),
        (&json!("explained"), Outcome::Fine)
    );

    postgres
        .psql("UPDATE progress SET stored = stored - '{[20,22),[30,32),[95,96)}'::int8multirange");
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(ranges(only(&audit)), "20-21 unexplained");
    let said = only(&audit)["contradictions"].to_string();
    assert!(
        said.contains("rows 30-31 were never noted as stored"),
        "{said}"
    );
    assert_eq!(outcome, Outcome::Alarm);

    // The same identity in two partitions: no key of the database forbids it.
    postgres.psql(
        "UPDATE progress SET stored = '{[1,101)}'; DROP INDEX IF EXISTS x;
         INSERT INTO readings SELECT village, epoch, sequence, topic, client_id, '1999-01-01', 'unsynchronised', payload, digest, \
         qos, retain, repeat_of, properties, source FROM readings WHERE sequence = 50",
    );
    let (_, audit) = look(&mut client, "--allow-removed").await;
    let said = only(&audit)["contradictions"].to_string();
    assert!(said.contains("50 is more than one row"), "{said}");
}

#[tokio::test]
async fn accounts_without_rows_conflicts_and_relays_that_know_less_are_seen() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let whole = relay("bamenda-01", 1, 50);
    whole.say(&client, &whole.account(50)).await;
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(ranges(only(&audit)), "1-50 unexplained");
    assert_eq!(
        (&only(&audit)["rows"], outcome),
        (&json!(0), Outcome::Alarm)
    );

    whole.store(&mut client, &store, |_| true).await;
    assert_eq!(look(&mut client, "").await.0, Outcome::Fine);
    // Another content under a sequence that is proved, and under one that is not.
    let mut other = relay("bamenda-01", 1, 60);
    other
        .store(&mut client, &store, |reading| reading.sequence.0 > 50)
        .await;
    for reading in &mut other.readings {
        reading.payload = "{\"other\":1}".into();
    }
    other
        .store(&mut client, &store, |reading| reading.sequence.0 == 7)
        .await;
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(
        (&only(&audit)["conflicts"], outcome),
        (&json!(1), Outcome::Fine),
        "settled by the digest"
    );
    assert_eq!(only(&audit)["unmapped"], 0);
    other
        .store(&mut client, &store, |reading| reading.sequence.0 == 55)
        .await;
    let (outcome, audit) = look(&mut client, "").await;
    assert_eq!(
        only(&audit)["contradictions"],
        json!(["55 came with two contents"])
    );
    assert_eq!(outcome, Outcome::Alarm);

    let back = relay("lagos-02", 2, 50);
    back.store(&mut client, &store, |_| true).await;
    back.say(&client, &back.account(50)).await;
    let mut less = back.account(40);
    less.at.0 += 100_000_000;
    back.say(&client, &less).await;
    let (outcome, audit) = look(&mut client, "--village lagos-02").await;
    assert_eq!(
        only(&audit)["contradictions"],
        json!(["an account of 40 sequences came after one of 50"])
    );
    assert_eq!(
        (&only(&audit)["verdict"], outcome),
        (&json!("contradicted"), Outcome::Alarm)
    );
}

#[tokio::test]
async fn silence_dead_letters_clocks_and_counters_are_counted() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let mut relay = relay("bamenda-01", 1, 600);
    for reading in &mut relay.readings {
        let n = reading.sequence.0;
        if (31..=40).contains(&n) {
            reading.clock = hub_bridge::clock::ClockQuality::Unsynchronised;
        }
        if n == 50 {
            reading.payload = "not JSON".into();
        }
    }
    // Meter m-0 sends each 15 minutes; its readings between the 301st and the 331st never came to the relay.
    relay
        .store(&mut client, &store, |reading| {
            !(302..331).contains(&reading.sequence.0)
        })
        .await;
    relay
        .say(
            &client,
            &relay.account_without(600, 302, 330, "the disk was full"),
        )
        .await;
    postgres.psql(
        "UPDATE readings SET energy_kwh = energy_kwh - 4.5 WHERE sequence > 450 AND meter = 'm-1';
         INSERT INTO dead_letters (digest, topic, reason, payload, times) VALUES
             ('\\x01', 'relay/v1/bamenda-01/frames', 'not a frame', '', 3), ('\\x02', 'what', 'no topic', '', 1),
             ('\\x03', 'relay/v1/bamenda-01/frames', 'not a frame', '', 1)",
    );
    let (outcome, audit) = look(&mut client, "").await;
    let village = &audit["villages"][0];
    assert_eq!(outcome, Outcome::Fine, "{village}");
    assert_eq!(
        (&village["dead_letters"], &audit["dead_letters"]),
        (&json!(2), &json!(1))
    );
    let epoch = &village["epochs"][0];
    assert_eq!(
        (&epoch["unsynchronised"], &epoch["unmapped"]),
        (&json!(10), &json!(1))
    );
    let meters = &village["meters"];
    assert_eq!(
        (&meters["resets"], &meters["gaps"]),
        (&json!(1), &json!(3)),
        "{meters}"
    );
    let gaps = meters["named"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["kind"] == "gap");
    let hours = gaps.map(|f| {
        f["to"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .unwrap()
            .duration_since(f["from"].as_str().unwrap().parse().unwrap())
            .as_secs()
            / 60
    });
    assert!(
        hours.clone().all(|minutes| (150..=165).contains(&minutes)),
        "{:?}",
        hours.collect::<Vec<_>>()
    );

    postgres.psql("UPDATE progress SET changed_at = now() - interval '4 days'; UPDATE accounts SET heard_at = now() - interval '3 days 1 hour'");
    let (outcome, audit) = look(&mut client, "--silent-after 3days").await;
    assert_eq!(
        (&audit["villages"][0]["is_silent"], outcome),
        (&json!(true), Outcome::Alarm)
    );
    assert_eq!(
        look(&mut client, "--silent-after 4days").await.0,
        Outcome::Fine
    );
    let since = Timestamp::now()
        .checked_sub(Duration::from_secs(86_400))
        .unwrap();
    let line = format!("--since {}", since.strftime("%Y-%m-%d"));
    let (_, audit) = look(&mut client, &line).await;
    assert_eq!(audit["villages"], json!([]));

    let settings = ReportSettings::default();
    for (line, part) in [
        ("", "the disk was full"),
        ("--format json", "\"outcome\": \"fine\""),
    ] {
        let out = Written::default();
        let args = arguments(line);
        let outcome = audit::run(
            &mut client,
            &settings,
            &args,
            Box::new(out.clone()),
            Timestamp::now(),
        )
        .await
        .unwrap();
        assert_eq!(outcome, Outcome::Fine);
        let text = String::from_utf8(out.bytes()).unwrap();
        assert!(text.contains(part), "{text}");
    }
    let error = audit::audit(
        &mut client,
        &settings,
        &arguments("--village nobody"),
        Timestamp::now(),
    )
    .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "the database knows no village nobody"
    );
}

#[tokio::test]
async fn what_limits_a_receivers_statements_does_not_end_an_audit() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 10);
    relay.store(&mut client, &store, |_| true).await;
    relay.say(&client, &relay.account(10)).await;
    let settings = config(&postgres, 1, "").database;
    let other = database::connect(&settings).await.unwrap();
    client
        .batch_execute("SET statement_timeout = '500ms'")
        .await
        .unwrap();
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted
                  AND relation = 'readings_undated'::regclass";
    let holding = tokio::spawn(async move {
        let hold = "BEGIN; LOCK TABLE readings_undated; SELECT pg_sleep(1.5); COMMIT";
        other.batch_execute(hold).await
    });
    within(Duration::from_secs(20), "the lock", || async {
        (postgres.count(locked) == 1).then_some(())
    })
    .await;
    assert_eq!(look(&mut client, "").await.0, Outcome::Fine);
    holding.await.unwrap().unwrap();
}

/// Runs the program; its exit status, and what it said.
fn command(config: &std::path::Path, line: &str) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hub-bridge"))
        .arg("--config")
        .arg(config)
        .args(line.split_whitespace())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_monitor_is_told_by_the_exit_status() {
    let Some(mut postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let relay = relay("bamenda-01", 1, 100);
    relay.store(&mut client, &store, |_| true).await;
    relay.say(&client, &relay.account(100)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.toml");
    let text = config_text(&postgres, 1, "[report]\ntime_zone = \"UTC\"");
    std::fs::write(&file, text).unwrap();
    let (status, said) = command(&file, "audit");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("everything is proved"), "{said}");
    let (status, said) = command(
        &file,
        "report --from 2026-06-01 --to 2026-06-01 --format csv",
    );
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("bamenda-01,2026-06-01,2026-06-01,24,"),
        "{said}"
    );
    assert_eq!(command(&file, "audit --grace soon").0, Some(2));
    assert_eq!(command(&file, "audit --village nobody").0, Some(1));
    postgres.psql("DELETE FROM readings WHERE sequence = 7");
    let (status, said) = command(&file, "audit --format json");
    assert_eq!(status, Some(3), "{said}");
    postgres.stop_immediately();
    let (status, said) = command(&file, "audit");
    assert_eq!(status, Some(1), "{said}");
    std::fs::write(&file, "[report]\ntime_zone = \"Mars/Base\"").unwrap();
    let (status, said) = command(&file, "audit");
    assert_eq!(status, Some(78), "{said}");
    assert!(
        said.contains("hub.toml:2: report.time_zone: \"Mars/Base\" is not a time zone"),
        "{said}"
    );
}

/// `RELAY_TEST_ROWS=1000000` for more of them; prints what it took.
#[tokio::test]
async fn many_rows_are_streamed_and_sql_makes_the_same_digest_of_them() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, _) = store(&postgres).await;
    let rows: u64 = std::env::var("RELAY_TEST_ROWS").map_or(20_000, |text| text.parse().unwrap());
    // 500 meters, a reading each 15 minutes; one that is not there. The account's digest is PostgreSQL's own work.
    postgres.psql(&format!(
        "INSERT INTO readings (village, epoch, sequence, topic, client_id, received_at, clock, payload, digest, source, meter, ts,
                               power_kw, energy_kwh)
         SELECT 'bamenda-01', '0000000a', n, 'm/' || n % 500, 'c', t, 'synchronised', p,
                substr(sha256(convert_to('m/' || n % 500, 'UTF8') || '\\x00'::bytea || p), 1, 16), 'frame', 'm-' || n % 500, t,
                1.0, (n / 500) * 0.25
         FROM generate_series(1, {rows}) n, LATERAL (
             SELECT '2026-06-01 00:00:00+00'::timestamptz + n / 500 * interval '15 minutes' AS t,
                    convert_to('{{\"reading\":' || n || '}}', 'UTF8') AS p
         ) made
         WHERE n <> 7777;
         INSERT INTO progress (village, epoch, stored)
         VALUES ('bamenda-01', '0000000a', int8multirange(int8range(1, 7777), int8range(7778, {rows} + 1)));
         INSERT INTO accounts (village, epoch, through, is_current, stored, digest, lost, refused, said_at, clock)
         SELECT 'bamenda-01', '0000000a', {rows}, true, {rows} - 1,
                decode(lpad(to_hex(high::bigint), 16, '0') || lpad(to_hex(low::bigint), 16, '0'), 'hex'),
                '[{{\"first\": 7777, \"last\": 7777, \"reason\": \"damage\"}}]', '[]', now(), 'synchronised'
         FROM (
             SELECT bit_xor(('x' || encode(substr(term, 1, 8), 'hex'))::bit(64)) AS high,
                    bit_xor(('x' || encode(substr(term, 9, 8), 'hex'))::bit(64)) AS low
             FROM readings, LATERAL (SELECT sha256(int4send(10) || int8send(sequence) || digest) AS term) made
         ) sums;
         ANALYZE"
    ));
    let before = resident_kib();
    for line in ["--no-meters", "--no-meters --deep", ""] {
        let begun = std::time::Instant::now();
        let (outcome, audit) = look(&mut client, line).await;
        let epoch = only(&audit);
        assert_eq!(
            (&epoch["digest"], &epoch["rows"]),
            (&json!("equal"), &json!(rows - 1)),
            "{epoch}"
        );
        assert_eq!(
            (&epoch["verdict"], outcome),
            (&json!("explained"), Outcome::Fine)
        );
        eprintln!("audit {line:19} {rows} rows in {:?}", begun.elapsed());
    }
    for line in [
        "--format csv",
        "--per meter --format csv",
        "--readings --format csv",
    ] {
        let begun = std::time::Instant::now();
        let args = arguments(&format!("--from 2026-05-31 --to 2027-06-30 {line}"));
        let settings = ReportSettings::default();
        let now = "2027-07-01T00:00:00Z".parse().unwrap();
        report::run(
            &mut client,
            &settings,
            &args,
            Box::new(std::io::sink()),
            now,
        )
        .await
        .unwrap();
        eprintln!("report {line:24} {rows} rows in {:?}", begun.elapsed());
    }
    let more = resident_kib().saturating_sub(before);
    eprintln!("{more} KiB more than before");
    assert!(more < 32 * 1024, "{more} KiB more: rows are kept in memory");
}

/// The most memory that this process ever had.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
