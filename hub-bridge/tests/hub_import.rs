//! What was carried by hand is in the database once, and the receipt says so.
#![cfg(feature = "hub")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: what they cannot do fails the test"
)]

mod support;

use std::path::Path;

use hub_bridge::hub::config::{self, HubConfig};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::import::{self, ImportArgs};
use hub_bridge::stick::{HubIdentity, Recipients, SigningKey, StickReceipt, StickWriter};
use support::hub::{batch, carried, config_text, frame, store};
use support::postgres::Postgres;

struct Hub {
    dir: tempfile::TempDir,
    config: HubConfig,
    village_key: SigningKey,
    recipients: Recipients,
}

impl Hub {
    fn new(postgres: &Postgres) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let village_key = SigningKey::open_or_make(&dir.path().join("village.key")).unwrap();
        let identity = HubIdentity::open_or_make(&dir.path().join("stick-identity.txt")).unwrap();
        let recipients = Recipients::parse(&identity.recipients()).unwrap();
        let known = format!(
            "[import.villages]\nbamenda-01 = \"{0}\"\n\"St.Jean-02\" = \"{0}\"\n",
            village_key.public()
        );
        let text = config_text(postgres, 1, &known);
        let file = dir.path().join("hub.toml");
        let config = config::parse(&file, &text, &config::Environment::new());
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        std::fs::create_dir(dir.path().join("stick")).unwrap();
        Self {
            dir,
            config,
            village_key,
            recipients,
        }
    }

    fn export(&self, village: &str, frames: &[hub_bridge::wire::frame::Frame]) {
        let village: VillageId = village.parse().unwrap();
        let mut file = StickWriter::new(village, Epoch(1), &self.recipients).unwrap();
        for frame in frames {
            file.push(frame).unwrap();
        }
        let (header, bytes) = file.finish(&self.village_key).unwrap();
        std::fs::write(self.stick().join(header.file_name()), bytes).unwrap();
    }

    fn stick(&self) -> std::path::PathBuf {
        self.dir.path().join("stick")
    }

    async fn import(&self) -> bool {
        let args = ImportArgs {
            paths: vec![self.stick()],
            receipt: None,
            keys: false,
        };
        import::run(&args, &self.config).await.unwrap()
    }

    fn receipt(&self, village: &str) -> StickReceipt {
        let key = self.dir.path().join("stick-receipts.key");
        let hub = SigningKey::open_or_make(&key).unwrap().public();
        let file = self.stick().join(format!("{village}.receipt"));
        StickReceipt::open(&std::fs::read(file).unwrap(), &hub).unwrap()
    }
}

fn range(first: u64, last: u64) -> SequenceRange {
    SequenceRange::new(Sequence(first), Sequence(last)).unwrap()
}

#[tokio::test]
async fn readings_by_hand_and_over_the_link_are_rows_once_and_the_receipt_names_both() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    // Over the link: what the stick has too, what it does not, and another epoch.
    let mut over_the_link = batch(1, 5..=14);
    over_the_link.extend(batch(1, 900..=901));
    over_the_link.extend(batch(2, 1..=3));
    store
        .store_batch(&mut client, &over_the_link)
        .await
        .unwrap();
    let hub = Hub::new(&postgres);
    hub.export(
        "bamenda-01",
        &[
            frame("bamenda-01", 1, 1..=400),
            frame("bamenda-01", 1, 401..=800),
        ],
    );
    hub.export("St.Jean-02", &[frame("St.Jean-02", 1, 1..=7)]);
    let rows = "SELECT count(*) FROM readings";
    for _ in 0..2 {
        assert!(hub.import().await);
        assert_eq!(postgres.count(rows), 800 + 2 + 3 + 7);
        let receipt = hub.receipt("bamenda-01");
        let epoch = |n| receipt.epochs.iter().find(|r| r.epoch == Epoch(n)).unwrap();
        assert_eq!(receipt.epochs.len(), 2);
        assert_eq!(epoch(1).stored, [range(1, 800), range(900, 901)]);
        assert_eq!(epoch(2).stored, [range(1, 3)]);
        let other = hub.receipt("St.Jean-02");
        assert_eq!(other.epochs[0].stored, [range(1, 7)]);
    }
    let by_source = "SELECT count(*) FROM readings WHERE source = 'import'";
    assert_eq!(postgres.count(by_source), 790 + 7);
}

#[tokio::test]
async fn the_same_identity_with_another_payload_is_kept_beside() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let (mut client, store) = store(&postgres).await;
    store
        .store_batch(&mut client, &batch(1, 1..=3))
        .await
        .unwrap();
    let hub = Hub::new(&postgres);
    let mut other = frame("bamenda-01", 1, 1..=3);
    other.readings[1] = hub_bridge::wire::frame::Carried {
        payload: "another".into(),
        ..carried(2)
    };
    hub.export("bamenda-01", &[other]);
    assert!(hub.import().await);
    assert_eq!(postgres.count("SELECT count(*) FROM readings"), 3);
    assert_eq!(postgres.count("SELECT count(*) FROM conflicts"), 1);
}

#[test]
fn a_key_that_is_none_is_named_with_its_place() {
    let text = "[broker]\nurl = \"mqtt://h\"\n[database]\nurl = \"postgres://u@h/d\"\n[import]\nkeys_dirr = 1\n\
                [import.villages]\na = \"12\"\n";
    let error = config::parse(Path::new("hub.toml"), text, &config::Environment::new());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("import.villages.a"), "{error}");
    assert!(error.contains("import.keys_dirr: no such key"), "{error}");
}
