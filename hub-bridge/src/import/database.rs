//! The database as an import sees it: the same store that takes what comes over the link.

use tokio_postgres::Client;

use super::{ImportError, Rows, Taken};
use crate::hub::config::HubConfig;
use crate::hub::{database, migrations};
use crate::identity::{Epoch, VillageId};
use crate::receive::store::{Incoming, RangeSet, Source, Store};
use crate::wire::frame::Frame;
use crate::wire::receipt::Receipt;

/// A connection to PostgreSQL.
pub struct Database {
    client: Client,
    store: Store,
}

impl Database {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// The server, or the way to it.
    pub async fn open(config: &HubConfig) -> Result<Self, ImportError> {
        let error = |words: String| ImportError::Database(words);
        let mut client = database::connect(&config.database)
            .await
            .map_err(|e| error(e.to_string()))?;
        migrations::migrate(&mut client)
            .await
            .map_err(|e| error(e.to_string()))?;
        Ok(Self {
            client,
            store: Store::new(config.mapping.clone()),
        })
    }
}

impl Rows for Database {
    async fn store(&mut self, frame: Frame) -> Result<Taken, String> {
        let Frame {
            village,
            epoch,
            readings,
        } = frame;
        let incoming = readings.into_iter().map(|reading| Incoming {
            village: village.clone(),
            epoch,
            reading,
            source: Source::Import,
        });
        let batch: Vec<Incoming> = incoming.collect();
        let stored = self.store.store_batch(&mut self.client, &batch).await;
        let stored = stored.map_err(|error| error.to_string())?;
        Ok(Taken {
            new: stored.new.len() as u64,
            known: stored.known,
            conflicts: stored.conflicts,
            dead: stored.dead,
        })
    }

    async fn receipts(&mut self, village: &VillageId) -> Result<Vec<Receipt>, String> {
        let sql = "SELECT epoch, stored::text FROM progress WHERE village = $1 ORDER BY changed_at, epoch";
        let rows = self.client.query(sql, &[&village.as_str()]).await;
        let rows = rows.map_err(|error| database::words(&error))?;
        let receipt = |row: &tokio_postgres::Row| {
            let epoch: Epoch = row.get::<_, &str>(0).parse().ok()?;
            let stored = RangeSet::from_multirange(row.get(1))?.ranges();
            Some(Receipt {
                village: village.clone(),
                epoch,
                stored,
            })
        };
        Ok(rows.iter().filter_map(receipt).collect())
    }
}
