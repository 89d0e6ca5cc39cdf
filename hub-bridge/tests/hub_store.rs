//! Each reading is one row, whatever comes twice, at the same time, or damaged.

mod support;

use bytes::Bytes;
use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::hub::{database, migrations};
use hub_bridge::identity::Sequence;
use hub_bridge::reading::PublishProperties;
use hub_bridge::receive::store::{DeadLetter, Incoming, keep_account, keep_dead_letter};
use hub_bridge::wire::account::Account;
use hub_bridge::wire::{digest, frame};
use support::hub::{TIME_MS, batch, carried, config, incoming, store};
use support::postgres::Postgres;

const ROWS: &str = "SELECT count(*) FROM readings";
const STORED: &str = "SELECT stored FROM progress";

#[tokio::test]
async fn what_comes_twice_is_one_row_also_at_the_same_time() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let stored = store
        .store_batch(&mut client, &batch(1, 1..=100))
        .await
        .unwrap();
    assert_eq!((stored.new.len(), stored.known), (100, 0));
    let again = store
        .store_batch(&mut client, &batch(1, 51..=150))
        .await
        .unwrap();
    assert_eq!((again.new, again.known), ((50..100).collect(), 50));
    let twice = batch(1, [200, 200, 7, 200]);
    let twice = store.store_batch(&mut client, &twice).await.unwrap();
    assert_eq!((twice.new, twice.known, twice.conflicts), (vec![0], 3, 0));
    assert_eq!(postgres.psql(STORED), "{[1,151),[200,201)}");

    let config = config(&postgres, 1, "");
    // Both epochs are there: nobody waits for who makes them.
    for epoch in [2, 3] {
        let first = batch(epoch, [9999]);
        store.store_batch(&mut client, &first).await.unwrap();
    }
    let together = std::sync::Arc::new(tokio::sync::Barrier::new(4));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4_u64 {
        let together = std::sync::Arc::clone(&together);
        let mut client = database::connect(&config.database).await.unwrap();
        tasks.spawn(async move {
            let store = hub_bridge::receive::store::Store::default();
            let mut new = 0;
            for step in 0..10 {
                // Of two epochs, in an order of their own.
                let mut mixed = batch(2, (1..=100).map(|n| n + step * 50));
                mixed.extend(batch(3, (1..=100).map(|n| n + step * 50)));
                mixed.rotate_left(usize::try_from(task).unwrap() * 31);
                // Of another month each: no primary key sees both.
                for incoming in &mut mixed {
                    incoming.reading.at.0 += i64::try_from(task).unwrap() * 31 * 86_400_000;
                }
                together.wait().await;
                let stored = store.store_batch(&mut client, &mixed).await.unwrap();
                new += stored.new.len();
            }
            new
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<usize>(), 2 * 550);
    let rows =
        "SELECT count(*), count(DISTINCT (epoch, sequence)) FROM readings WHERE epoch > '00000001'";
    assert_eq!(postgres.psql(rows), "1102|1102");
}

#[tokio::test]
async fn columns_payload_and_digest_are_what_the_meter_sent() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let mut reading = carried(5);
    reading.payload = Bytes::from_static(
        br#"{"meter":"m-5","ts":1780000000,"power_kw":"1.5","energy_kwh":12,"voltage_v":231.5}"#,
    );
    reading.retain = true;
    reading.repeat_of = Some(Sequence(4));
    reading.properties = Some(Box::new(PublishProperties {
        content_type: Some("application/json".to_owned()),
        ..PublishProperties::default()
    }));
    let one = [incoming(0xab, reading)];
    store.store_batch(&mut client, &one).await.unwrap();
    let row = "SELECT village, epoch, sequence, topic, client_id, received_at, clock, qos, retain, repeat_of, \
               properties->>'content_type', source, meter, ts, power_kw, energy_kwh, voltage_v, unmapped IS NULL, \
               digest = substr(sha256(convert_to(topic, 'UTF8') || '\\x00'::bytea || payload), 1, 16), tableoid::regclass \
               FROM readings";
    assert_eq!(
        postgres.psql(row),
        "bamenda-01|000000ab|5|m/5/energy|meter-01|2026-05-28 20:26:40.005+00|synchronised|1|t|4|application/json|frame|\
         m-5|2026-05-28 20:26:40+00|1.5|12|231.5|t|t|readings_2026_05"
    );
}

#[tokio::test]
async fn the_same_identity_with_another_content_is_a_conflict_and_never_silently_away() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let other = |sequence, payload: &'static str| {
        let mut reading = carried(sequence);
        reading.payload = Bytes::from_static(payload.as_bytes());
        incoming(1, reading)
    };
    store
        .store_batch(&mut client, &batch(1, 1..=10))
        .await
        .unwrap();
    let mut mixed = batch(1, 5..=12);
    mixed.push(other(3, "{}"));
    mixed.push(other(12, "[]"));
    let stored = store.store_batch(&mut client, &mixed).await.unwrap();
    assert_eq!((stored.new.len(), stored.conflicts), (2, 2));
    let again = store.store_batch(&mut client, &mixed).await.unwrap();
    assert_eq!((again.new.len(), again.conflicts), (0, 0), "kept once");
    let kept = "SELECT sequence, convert_from(payload, 'UTF8') FROM conflicts ORDER BY sequence";
    assert_eq!(postgres.psql(kept), "3|{}\n12|[]");
    assert_eq!(postgres.psql(ROWS), "12");
    let first = "SELECT payload LIKE '%energy%' FROM readings WHERE sequence = 3";
    assert_eq!(postgres.psql(first), "t", "what was stored first stays");
}

#[tokio::test]
async fn a_better_clock_improves_the_time_and_a_worse_one_does_not() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let at = |sequence, at, clock| {
        let mut reading = carried(sequence);
        (reading.at, reading.clock) = (UnixMillis(at), clock);
        incoming(1, reading)
    };
    let (good, bad) = (ClockQuality::Synchronised, ClockQuality::Unsynchronised);
    let first = [at(1, 77_000, bad), at(2, 77_000, bad), at(2, TIME_MS, good)];
    store.store_batch(&mut client, &first).await.unwrap();
    let rows =
        "SELECT sequence, clock, received_at, tableoid::regclass FROM readings ORDER BY sequence";
    let two = "2|synchronised|2026-05-28 20:26:40+00|readings_2026_05";
    assert_eq!(
        postgres.psql(rows),
        format!("1|unsynchronised|1970-01-01 00:01:17+00|readings_undated\n{two}")
    );
    let better = [at(1, TIME_MS, good)];
    let stored = store.store_batch(&mut client, &better).await.unwrap();
    assert_eq!((stored.improved, stored.conflicts), (1, 0));
    let worse = [at(1, 99_000, bad), at(1, TIME_MS + 5000, good)];
    let stored = store.store_batch(&mut client, &worse).await.unwrap();
    assert_eq!((stored.improved, stored.conflicts, stored.known), (0, 0, 2));
    let one = two.replacen('2', "1", 1);
    assert_eq!(postgres.psql(rows), format!("{one}\n{two}"));
}

#[tokio::test]
async fn one_bad_reading_never_fails_its_batch_and_is_never_dropped() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let mut many = batch(1, 1..=40);
    let change = |many: &mut Vec<Incoming>, at: usize, f: &dyn Fn(&mut frame::Carried)| {
        f(&mut many[at - 1].reading);
    };
    change(&mut many, 3, &|r| r.topic = "a\0b".into());
    change(&mut many, 4, &|r| r.client_id = "a\0b".into());
    change(&mut many, 5, &|r| r.at = UnixMillis(i64::MAX));
    change(&mut many, 6, &|r| r.at = UnixMillis(i64::MIN));
    change(&mut many, 7, &|r| r.payload = vec![0xff, 0, 0xfe].into());
    change(&mut many, 8, &|r| {
        r.payload = r#"{"energy_kwh":1e999}"#.into();
    });
    change(&mut many, 9, &|r| {
        r.payload = format!(r#"{{"meter":"{}"}}"#, "é".repeat(9000)).into();
    });
    change(&mut many, 10, &|r| r.repeat_of = Some(Sequence(u64::MAX)));
    change(&mut many, 11, &|r| {
        r.properties = Some(Box::new(PublishProperties {
            user_properties: vec![("a\0".to_owned(), "b".to_owned())],
            ..PublishProperties::default()
        }));
    });
    change(&mut many, 12, &|r| r.sequence = Sequence(0));
    change(&mut many, 13, &|r| r.sequence = Sequence(u64::MAX));
    change(&mut many, 14, &|r| r.sequence = Sequence(i64::MAX as u64));
    change(&mut many, 15, &|r| r.topic = "x".repeat(65_535).into());
    change(&mut many, 16, &|r| r.at = UnixMillis(253_402_300_800_000));
    let stored = store.store_batch(&mut client, &many).await.unwrap();
    assert_eq!((stored.new.len(), stored.dead), (37, 3));
    assert_eq!(postgres.psql(ROWS), "37");
    let marked = "SELECT string_agg(sequence::text, ',' ORDER BY sequence) FROM readings WHERE unmapped IS NOT NULL";
    assert_eq!(postgres.psql(marked), "3,4,5,6,7,8,9,11,16");
    let whole = "SELECT encode(payload, 'hex') FROM readings WHERE sequence = 7";
    assert_eq!(postgres.psql(whole), "ff00fe");
    let dead = "SELECT count(*) FROM dead_letters WHERE reason LIKE '%no table holds%'";
    assert_eq!(postgres.psql(dead), "3");
}

#[tokio::test]
async fn what_the_database_itself_refuses_is_found_by_halving() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    postgres.psql(
        "ALTER TABLE readings ADD CHECK (meter <> 'm-3' OR sequence <> 31);
         ALTER TABLE readings ADD CHECK (sequence <> 50)",
    );
    // A row that somebody put there by hand.
    store
        .store_batch(&mut client, &batch(1, 77..=77))
        .await
        .unwrap();
    postgres.psql("UPDATE progress SET stored = '{}'");
    let stored = store
        .store_batch(&mut client, &batch(1, 1..=100))
        .await
        .unwrap();
    assert_eq!((stored.new.len(), stored.known, stored.dead), (98, 1, 1));
    assert_eq!(postgres.psql(ROWS), "99");
    assert_eq!(postgres.psql(STORED), "{[1,50),[51,101)}");
    let marked = "SELECT sequence, meter IS NULL FROM readings WHERE unmapped LIKE 'stored without its columns: 23514%'";
    assert_eq!(postgres.psql(marked), "31|t");
    // The dead one is a frame of one.
    let bytes = postgres.psql("SELECT encode(payload, 'hex') FROM dead_letters");
    let bytes: Vec<u8> = (0..bytes.len() / 2)
        .map(|i| u8::from_str_radix(&bytes[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    assert_eq!(frame::decode(&bytes).unwrap().readings, [carried(50)]);
}

#[tokio::test]
async fn an_implausible_time_makes_no_partition_and_its_month_takes_the_row_later() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    let at = |sequence, at, clock| {
        let mut reading = carried(sequence);
        (reading.at, reading.clock) = (UnixMillis(at), clock);
        incoming(1, reading)
    };
    let (good, bad) = (ClockQuality::Synchronised, ClockQuality::Unsynchronised);
    let odd = [
        at(1, 4_000_000_000_000, good),
        at(2, 1_000_000_000_000, good),
        at(3, TIME_MS, bad),
    ];
    store.store_batch(&mut client, &odd).await.unwrap();
    let tables = "SELECT tableoid::regclass, count(*) FROM readings GROUP BY 1 ORDER BY 1";
    assert_eq!(postgres.psql(tables), "readings_undated|3");
    store
        .store_batch(&mut client, &[at(4, TIME_MS, good)])
        .await
        .unwrap();
    assert_eq!(
        postgres.psql(tables),
        "readings_undated|2\nreadings_2026_05|2"
    );
    let again = store.store_batch(&mut client, &odd).await.unwrap();
    assert_eq!((again.known, again.conflicts), (3, 0));
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once_and_a_changed_migration_is_refused() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let config = config(&postgres, 1, "");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let settings = config.database.clone();
        tasks.spawn(async move {
            let mut client = database::connect(&settings).await.unwrap();
            migrations::migrate(&mut client).await.unwrap()
        });
    }
    let ran: usize = tasks.join_all().await.iter().sum();
    let known = postgres.count("SELECT count(*) FROM schema_migrations");
    assert_eq!(i64::try_from(ran).unwrap(), known);
    postgres.psql("UPDATE schema_migrations SET checksum = '' WHERE version = 1");
    let mut client = database::connect(&config.database).await.unwrap();
    let error = migrations::migrate(&mut client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "migration 1 ran with another text than this program has"
    );
}

#[tokio::test]
async fn dead_letters_are_counted_and_accounts_replaced() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (client, _) = store(&postgres).await;
    let letter = DeadLetter {
        topic: "relay/v1/x/frames".to_owned(),
        reason: "not a frame".to_owned(),
        payload: vec![0, 1, 2],
    };
    keep_dead_letter(&client, &letter).await.unwrap();
    keep_dead_letter(&client, &letter).await.unwrap();
    let kept = "SELECT topic, reason, times, encode(payload, 'hex') FROM dead_letters";
    assert_eq!(
        postgres.psql(kept),
        "relay/v1/x/frames|not a frame|2|000102"
    );

    let mut account = Account {
        version: 1,
        village: support::hub::village(),
        epoch: hub_bridge::identity::Epoch(7),
        current: true,
        through: Sequence(100),
        stored: 99,
        digest: digest::of_reading("a", b"b"),
        lost: vec![hub_bridge::wire::account::Absent {
            first: Sequence(5),
            last: Sequence(5),
            reason: "a NUL \0 in it".to_owned(),
        }],
        refused: Vec::new(),
        unknown: Vec::new(),
        tail_unknown_from: None,
        at: UnixMillis(TIME_MS),
        clock: ClockQuality::Synchronised,
    };
    keep_account(&client, &account).await.unwrap();
    account.stored = 97;
    account.unknown = vec![hub_bridge::wire::account::Absent {
        first: Sequence(7),
        last: Sequence(8),
        reason: "let go".to_owned(),
    }];
    account.tail_unknown_from = Some(Sequence(101));
    keep_account(&client, &account).await.unwrap();
    let kept = "SELECT village, epoch, through, stored, lost->0->>'first', refused, unknown->0->>'last', tail_unknown_from,
                       said_at FROM accounts";
    assert_eq!(
        postgres.psql(kept),
        "bamenda-01|00000007|100|97|5|[]|8|101|2026-05-28 20:26:40+00"
    );
}
