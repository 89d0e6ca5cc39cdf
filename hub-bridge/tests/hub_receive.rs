//! From the broker into the database: once, receipted, republished, and never lost to a crash.

mod support;

use std::process::Command;

use hub_bridge::identity::Epoch;
use hub_bridge::wire::account_topic;
use hub_bridge::wire::receipt::Receipt;
use rumqttc::v5::mqttbytes::v5::Publish;
use support::hub::{MAPPING, TIME_MS, frame, village};
use support::mosquitto::Mosquitto;
use support::postgres::Postgres;
use support::receiver::{KEEPING, Listener, Message, Receiver, counts, eventually, publish};

const ROWS: &str = "SELECT count(*) FROM readings";
const REPUBLISH: &str = "[republish]\ntopic = \"villages/{village_id}/{topic}\"\n";

fn plain(sequence: u64) -> Message {
    let id = format!("0000000b/{sequence}");
    let at = (TIME_MS + 1).to_string();
    Message::new("villages/bamenda-01/m/1", "{}").with(&[("id", &id), ("at", &at)])
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_plain_readings_become_rows_receipts_and_plain_readings() {
    let Some((postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let mut receiver = Receiver::start(&postgres, mosquitto.port, &format!("{REPUBLISH}{MAPPING}"));
    receiver.ready_with(4);
    assert_eq!(receiver.status().unwrap()["broker"]["division"], "shared");
    let mut listener = Listener::start(&mosquitto, "villages/#").await;
    let messages = vec![
        Message::frame(&frame("bamenda-01", 10, 1..=100)),
        Message::frame(&frame("bamenda-01", 10, 51..=150)),
        plain(1),
        Message::new("villages/bamenda-01/m/1", "no identity"),
    ];
    publish(&mosquitto, messages).await;
    let republished = listener.until(|got| got.len() == 152).await;
    counts(&postgres, ROWS, 151);
    let mapped = "SELECT count(*) FROM readings WHERE meter IS NOT NULL AND energy_kwh = sequence";
    assert_eq!(postgres.count(mapped), 150);
    let sources = "SELECT source, count(*) FROM readings GROUP BY 1 ORDER BY 1";
    assert_eq!(postgres.psql(sources), "frame|150\nplain|1");

    // Ours: the identity, and last of all the mark.
    let ours: Vec<_> = republished
        .iter()
        .filter_map(|publish| {
            let user = &publish.properties.as_ref()?.user_properties;
            let (last, before) = user.split_last()?;
            (last.0 == "relayed" && last.1 == "hub-bridge").then(|| before.to_vec())
        })
        .collect();
    assert_eq!(ours.len(), 150, "each new reading once");
    assert!(
        ours.iter()
            .all(|user| user[0].0 == "id" && user[1].0 == "at")
    );
    eventually("its own came back and are no readings", || {
        let own = receiver.metric("hub_bridge_messages_total");
        (own >= 154.0).then_some(()).ok_or(own)
    });
    assert_eq!(postgres.count(ROWS), 151);

    // The last state of both, and retained.
    let last = |got: &[Publish], epoch| {
        let receipts = got.iter().map(|p| Receipt::from_json(&p.payload).unwrap());
        let of_epoch = receipts.filter(|receipt| receipt.epoch == Epoch(epoch));
        let stored = of_epoch.last()?.stored;
        Some(
            stored
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
        )
    };
    let all = |got: &[Publish]| {
        (last(got, 10), last(got, 11)) == (Some("1-150".to_owned()), Some("1".to_owned()))
    };
    let mut listener = Listener::start(&mosquitto, "relay/v1/+/receipts/+").await;
    listener.until(all).await;
    let mut listener = Listener::start(&mosquitto, "relay/v1/+/receipts/+").await;
    let retained = listener.until(|got| got.len() == 2).await;
    assert!(all(retained) && retained.iter().all(|publish| publish.retain));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_receiver_and_a_crashed_database_lose_and_double_nothing() {
    let Some((mut postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let mut receiver = Receiver::start(&postgres, mosquitto.port, REPUBLISH);
    receiver.ready_with(4);
    let mut sent = 0;
    for round in 0..6_u64 {
        let frames = (0..30).map(|n| {
            let first = sent + n * 20 + 1;
            Message::frame(&frame(&format!("v-{}", n % 5), 1, first..=first + 19))
        });
        publish(&mosquitto, frames.collect()).await;
        sent += 600;
        if round % 2 == 0 {
            receiver.kill();
            receiver.start_again();
        } else {
            postgres.restart_immediately();
        }
    }
    counts(&postgres, ROWS, i64::try_from(sent).unwrap());
    let distinct = "SELECT count(DISTINCT (village, epoch, sequence)) FROM readings";
    assert_eq!(postgres.count(distinct), i64::try_from(sent).unwrap());
    receiver.ready_with(4);
    // The broker has nothing left to deliver: everything was acknowledged.
    assert_eq!(receiver.stop(), Some(0));
    receiver.start_again();
    receiver.ready_with(4);
    publish(&mosquitto, vec![Message::frame(&frame("v-9", 1, 1..=1))]).await;
    counts(&postgres, ROWS, i64::try_from(sent).unwrap() + 1);
    let again = receiver.metric("hub_bridge_readings_known_total");
    assert!(
        again.abs() < 0.5,
        "{again} came again after a graceful stop"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_kept_with_its_bytes_and_blocks_nothing() {
    let Some((postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let mut receiver = Receiver::start(&postgres, mosquitto.port, "");
    receiver.ready_with(4);
    let mut foreign = Message::frame(&frame("bamenda-02", 1, 1..=3));
    foreign.topic = "relay/v1/bamenda-01/frames".to_owned();
    let account = account_topic(&village(), Epoch(1));
    let mut said = Message::new(
        &account,
        r#"{"version":1,"village":"bamenda-01","epoch":"00000001","current":true,"through":7,"stored":7,
            "digest":"000102030405060708090a0b0c0d0e0f","lost":[],"refused":[],"at":0,"clock":"unsynchronised"}"#,
    );
    said.retain = true;
    let messages = vec![
        foreign,
        Message::new("relay/v1/bamenda-01/frames", "nonsense"),
        Message::new(&account, "nonsense"),
        said,
        Message::frame(&frame("bamenda-01", 1, 1..=7)),
    ];
    publish(&mosquitto, messages).await;
    counts(&postgres, ROWS, 7);
    counts(&postgres, "SELECT count(*) FROM dead_letters", 3);
    let reasons = "SELECT topic FROM dead_letters WHERE reason LIKE '%bamenda-02%' \
                   UNION ALL SELECT convert_from(payload, 'UTF8') FROM dead_letters WHERE length(payload) = 8";
    assert_eq!(
        postgres.psql(reasons),
        "relay/v1/bamenda-01/frames\nnonsense\nnonsense"
    );
    counts(&postgres, "SELECT through FROM accounts", 7);
    assert!(receiver.metric("hub_bridge_dead_letters_total") > 2.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_mqtt_311_is_served_too() {
    let Some((postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let mut receiver = Receiver::start_with(
        &postgres,
        mosquitto.port,
        REPUBLISH,
        &[("HUB_BRIDGE__BROKER__PROTOCOL", "3.1.1")],
    );
    receiver.ready_with(4);
    assert_eq!(receiver.status().unwrap()["broker"]["protocol"], "3.1.1");
    let mut listener = Listener::start(&mosquitto, "villages/#").await;
    publish(
        &mosquitto,
        vec![Message::frame(&frame("bamenda-01", 1, 1..=5))],
    )
    .await;
    listener.until(|got| got.len() == 5).await;
    counts(&postgres, ROWS, 5);
    let mut listener = Listener::start(&mosquitto, "relay/v1/+/receipts/+").await;
    let receipts = listener.until(|got| !got.is_empty()).await;
    let receipt = Receipt::from_json(&receipts[0].payload).unwrap();
    assert_eq!(receipt.stored[0].to_string(), "1-5");
}

#[test]
fn exit_codes_say_what_happened() {
    let run = |arguments: &[&str], config: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.toml");
        std::fs::write(&file, config).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_hub-bridge"))
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = run(&["receive"], "[broker]\nurl = \"nowhere\"\n");
    assert_eq!(code, Some(78));
    assert!(said.contains("hub.toml:2: broker.url:"), "{said}");
    assert!(said.contains("database.url"), "{said}");
    assert_eq!(run(&["conceive"], "").0, Some(2));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let config = format!(
        "[broker]\nurl = \"mqtt://127.0.0.1\"\n[database]\nurl = \"postgres://h@127.0.0.1/d\"\n[admin]\nlisten = \"{listen}\"\n"
    );
    let (code, said) = run(&["receive"], &config);
    assert_eq!(code, Some(1));
    assert!(said.contains("admin.listen"), "{said}");
}
