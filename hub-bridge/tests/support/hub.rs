//! The hub's side under test: its configuration, its database, readings for it.

use std::path::Path;

use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::hub::config::{self, HubConfig};
use hub_bridge::hub::{database, migrations};
use hub_bridge::identity::{Epoch, Sequence, VillageId};
use hub_bridge::receive::store::{Incoming, Source, Store};
use hub_bridge::wire::frame::{Carried, Frame};
use tokio_postgres::Client;

use super::postgres::Postgres;

/// 2026-05-28T20:26:40Z.
pub const TIME_MS: i64 = 1_780_000_000_000;

/// A configuration with this database and `extra` sections; the broker on `port`.
pub fn config_text(postgres: &Postgres, port: u16, extra: &str) -> String {
    format!(
        "[broker]\nurl = \"mqtt://127.0.0.1:{port}\"\n[database]\nurl = \"{}\"\n{extra}\n",
        postgres.url()
    )
}

pub fn config(postgres: &Postgres, port: u16, extra: &str) -> HubConfig {
    let text = config_text(postgres, port, extra);
    config::parse(Path::new("hub.toml"), &text, &config::Environment::new())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The mapping that the shipped file has.
pub const MAPPING: &str = "[mapping]\nmeter = \"/meter\"\nts = \"/ts\"\npower_kw = \"/power_kw\"\n\
                           energy_kwh = \"/energy_kwh\"\nvoltage_v = \"/voltage_v\"\n";

/// A migrated database, a connection to it, and a store that maps.
pub async fn store(postgres: &Postgres) -> (Client, Store) {
    let config = config(postgres, 1, MAPPING);
    let mut client = database::connect(&config.database).await.unwrap();
    migrations::migrate(&mut client).await.unwrap();
    (client, Store::new(config.mapping))
}

pub fn village() -> VillageId {
    "bamenda-01".parse().unwrap()
}

pub fn carried(sequence: u64) -> Carried {
    let payload = format!(
        r#"{{"meter":"m-{}","energy_kwh":{sequence}}}"#,
        sequence % 7
    );
    Carried {
        sequence: Sequence(sequence),
        topic: format!("m/{}/energy", sequence % 7).into(),
        client_id: "meter-01".into(),
        payload: payload.into(),
        qos: 1,
        retain: false,
        at: UnixMillis(TIME_MS + i64::try_from(sequence).unwrap()),
        clock: ClockQuality::Synchronised,
        properties: None,
        repeat_of: None,
    }
}

pub fn incoming(epoch: u32, reading: Carried) -> Incoming {
    Incoming {
        village: village(),
        epoch: Epoch(epoch),
        reading,
        source: Source::Frame,
    }
}

pub fn batch(epoch: u32, sequences: impl IntoIterator<Item = u64>) -> Vec<Incoming> {
    let readings = sequences.into_iter().map(carried);
    readings.map(|reading| incoming(epoch, reading)).collect()
}

pub fn frame(village: &str, epoch: u32, sequences: impl IntoIterator<Item = u64>) -> Frame {
    Frame {
        village: village.parse().unwrap(),
        epoch: Epoch(epoch),
        readings: sequences.into_iter().map(carried).collect(),
    }
}
