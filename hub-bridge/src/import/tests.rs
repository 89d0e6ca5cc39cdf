use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use super::*;
use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence, SequenceRange};
use crate::stick::{Listed, Recipients, StickReceipt, StickWriter, VERSION};
use crate::wire::frame::Carried;

/// Rows in memory, which fail on demand.
#[derive(Default)]
struct Table {
    rows: BTreeMap<(VillageId, Epoch), BTreeSet<u64>>,
    fails: bool,
}

impl Rows for Table {
    async fn store(&mut self, frame: Frame) -> Result<Taken, String> {
        if self.fails {
            return Err("away".to_owned());
        }
        let rows = self.rows.entry((frame.village, frame.epoch)).or_default();
        let mut taken = Taken::default();
        for reading in &frame.readings {
            if rows.insert(reading.sequence.0) {
                taken.new += 1;
            } else {
                taken.known += 1;
            }
        }
        Ok(taken)
    }

    async fn receipts(&mut self, village: &VillageId) -> Result<Vec<Receipt>, String> {
        let own = self.rows.iter().filter(|((v, _), _)| v == village);
        Ok(own
            .map(|((village, epoch), rows)| Receipt {
                village: village.clone(),
                epoch: *epoch,
                stored: rows
                    .iter()
                    .map(|s| SequenceRange::one(Sequence(*s)))
                    .collect(),
            })
            .collect())
    }
}

struct Stick {
    dir: tempfile::TempDir,
    config: ImportConfig,
    recipients: Recipients,
}

impl Stick {
    /// A hub that knows the villages a and b.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ImportConfig::default().at(dir.path());
        config.keys_dir = Some(dir.path().join("keys"));
        fs::create_dir(dir.path().join("keys")).unwrap();
        fs::create_dir(dir.path().join("stick")).unwrap();
        let told = keys(&config).unwrap();
        assert!(told.contains("recipients = [\"age1"), "{told}");
        let identity = HubIdentity::open(&config.identity_file).unwrap();
        let recipients = Recipients::parse(&identity.recipients()).unwrap();
        let mut stick = Self {
            dir,
            config,
            recipients,
        };
        let key = stick.key("a").public();
        stick.config.villages.insert("a".to_owned(), key);
        let key = stick.key("b").public();
        fs::write(stick.dir.path().join("keys/b.pub"), format!("{key}\n")).unwrap();
        stick
    }

    fn key(&self, village: &str) -> SigningKey {
        SigningKey::open_or_make(&self.dir.path().join(format!("{village}.key"))).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("stick")
    }

    /// Writes readings `first..=last` of a village, signed with the key of `signer`.
    fn export(&self, village: &str, signer: &str, first: u64, last: u64) -> Listed {
        let id: VillageId = village.parse().unwrap();
        let mut file = StickWriter::new(id.clone(), Epoch(1), &self.recipients).unwrap();
        let carried = |n| Carried {
            sequence: Sequence(n),
            topic: Arc::from("t"),
            client_id: Arc::from("c"),
            payload: bytes::Bytes::from_static(b"p"),
            qos: 1,
            retain: false,
            at: UnixMillis(0),
            clock: ClockQuality::Synchronised,
            properties: None,
            repeat_of: None,
        };
        let readings = (first..=last).map(carried).collect();
        let frame = Frame {
            village: id,
            epoch: Epoch(1),
            readings,
        };
        file.push(&frame).unwrap();
        let (header, bytes) = file.finish(&self.key(signer)).unwrap();
        fs::write(self.path().join(header.file_name()), &bytes).unwrap();
        Listed {
            name: header.file_name(),
            bytes: bytes.len() as u64,
            epoch: header.epoch,
            first: header.first,
            last: header.last,
            count: header.count,
        }
    }

    fn list(&self, village: &str, files: Vec<Listed>) {
        let id: VillageId = village.parse().unwrap();
        let name = Manifest::file_name(&id);
        let manifest = Manifest {
            version: VERSION,
            village: id,
            at: UnixMillis(0),
            clock: ClockQuality::Synchronised,
            files,
        };
        fs::write(self.path().join(name), manifest.seal(&self.key(village))).unwrap();
    }

    fn args(&self) -> ImportArgs {
        ImportArgs {
            paths: vec![self.path()],
            receipt: None,
            keys: false,
        }
    }

    async fn import(&self, table: &mut Table) -> Report {
        let report = import(&self.args(), &self.config, table).await.unwrap();
        println!("{report}");
        report
    }
}

fn refused(report: &Report) -> Vec<String> {
    let reason = |file: &FileReport| match &file.verdict {
        Verdict::Refused(reason) => Some(reason.clone()),
        Verdict::Taken(_) => None,
    };
    report.files.iter().filter_map(reason).collect()
}

#[tokio::test]
async fn a_stick_that_is_read_twice_stores_nothing_twice_and_gives_the_same_receipt() {
    let stick = Stick::new();
    let files = vec![
        stick.export("a", "a", 1, 10),
        stick.export("a", "a", 11, 20),
    ];
    stick.list("a", files);
    let mut table = Table::default();
    // What came over the link is in the receipt too.
    let over_the_link = BTreeSet::from([21]);
    table
        .rows
        .insert(("a".parse().unwrap(), Epoch(1)), over_the_link);
    for new in [20, 0] {
        let report = stick.import(&mut table).await;
        assert!(report.is_complete() && report.unlisted.is_empty());
        let taken = report.files.iter().map(|file| match file.verdict {
            Verdict::Taken(taken) => taken.new,
            Verdict::Refused(_) => 0,
        });
        assert_eq!(taken.sum::<u64>(), new);
        assert_eq!(report.receipts, [stick.path().join("a.receipt")]);
        let text = fs::read(&report.receipts[0]).unwrap();
        let hub = SigningKey::open_or_make(&stick.config.receipt_key_file).unwrap();
        let receipt = StickReceipt::open(&text, &hub.public()).unwrap();
        assert_eq!(receipt.epochs[0].stored.len(), 21);
    }
}

#[tokio::test]
async fn what_is_damaged_or_of_strangers_is_refused_and_the_rest_is_taken() {
    let stick = Stick::new();
    stick.export("a", "a", 1, 10);
    stick.export("b", "b", 1, 5);
    let cut = stick.path().join(stick.export("a", "a", 11, 20).name);
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let changed = stick.path().join(stick.export("a", "a", 21, 30).name);
    let mut bytes = fs::read(&changed).unwrap();
    bytes[300] ^= 1;
    fs::write(&changed, &bytes).unwrap();
    stick.export("c", "c", 1, 5);
    stick.export("b", "a", 6, 9);
    fs::write(stick.path().join("x.readings.part"), b"relays").unwrap();
    fs::write(stick.path().join("holiday.readings"), b"jpeg").unwrap();
    let mut table = Table::default();
    let report = stick.import(&mut table).await;
    assert!(!report.is_complete());
    assert_eq!(report.unlisted, [stick.path()]);
    let reasons = refused(&report).join("\n");
    for words in [
        "cut short",
        "the signature is not that of a",
        "the signature is not that of b",
        "the key of village c is not known here",
        "not whole",
        "not a file of readings",
    ] {
        assert!(reasons.contains(words), "{words} in\n{reasons}");
    }
    assert_eq!(refused(&report).len(), 6);
    let counts: Vec<usize> = table.rows.values().map(BTreeSet::len).collect();
    assert_eq!(counts, [10, 5]);
    assert_eq!(report.receipts.len(), 2);
}

#[tokio::test]
async fn what_is_on_the_list_and_not_on_the_stick_is_named() {
    let stick = Stick::new();
    let files = vec![
        stick.export("a", "a", 1, 10),
        stick.export("a", "a", 11, 20),
    ];
    let gone = files[1].name.clone();
    stick.list("a", files);
    fs::remove_file(stick.path().join(gone)).unwrap();
    let report = stick.import(&mut Table::default()).await;
    assert!(!report.is_complete());
    assert_eq!(
        refused(&report),
        ["on the list (11-20 of epoch 00000001), and not on the stick"]
    );
}

#[tokio::test]
async fn a_database_that_is_away_is_an_error_and_no_receipt() {
    let stick = Stick::new();
    stick.export("a", "a", 1, 10);
    let mut table = Table {
        fails: true,
        ..Table::default()
    };
    let error = import(&stick.args(), &stick.config, &mut table)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the database: away");
    assert!(!stick.path().join("a.receipt").exists());
}

#[tokio::test]
async fn one_file_is_no_place_for_the_receipts_of_two_villages() {
    let stick = Stick::new();
    stick.export("a", "a", 1, 1);
    stick.export("b", "b", 1, 1);
    let args = ImportArgs {
        receipt: Some(stick.dir.path().join("receipt")),
        ..stick.args()
    };
    let error = import(&args, &stick.config, &mut Table::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("2 villages"), "{error}");
}
