//! The schema, embedded, brought up to date at start.
//!
//! Each migration runs once, in order; all that are missing run in one transaction under an advisory lock, so that
//! replicas that start together do not race, and a failure leaves the schema as it was. A migration that was changed
//! after it ran is refused: what ran is what is written here.

use sha2::{Digest as _, Sha256};
use tokio_postgres::{Client, Transaction};
use tracing::info;

use super::database::words;

/// Taken while migrating. Any number that nobody else uses.
const LOCK: i64 = 0x6875_625f_6272_0001;
/// Multiranges came with 14.
const SERVER_VERSION_MIN: i32 = 140_000;

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "readings",
        sql: include_str!("../../migrations/0001-readings.sql"),
    },
    Migration {
        version: 2,
        name: "accounts-unknown",
        sql: include_str!("../../migrations/0002-accounts-unknown.sql"),
    },
];

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database.
    #[error("{}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// A migration failed; none of those that were missing ran.
    #[error("migration {version}: {}", words(.error))]
    Failed {
        /// Which one.
        version: i32,
        /// Why.
        error: tokio_postgres::Error,
    },
    /// It ran with another text.
    #[error("migration {0} ran with another text than this program has")]
    Changed(i32),
    /// A newer program was here.
    #[error("the schema is of version {0}, and this program knows {1}")]
    Newer(i32, i32),
    /// Texts of meters are UTF-8.
    #[error("the database is in {0}, and must be in UTF8")]
    Encoding(String),
    /// Too old.
    #[error("PostgreSQL {0} is too old: 14 or later is needed")]
    Server(i32),
}

impl MigrationError {
    /// Whether trying again may help without anybody changing anything.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.as_db_error().is_none())
    }
}

/// Brings the schema up to date; gives how many migrations ran.
///
/// # Errors
/// Where it could not; the schema is then as it was.
pub async fn migrate(client: &mut Client) -> Result<usize, MigrationError> {
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL client_min_messages = warning")
        .await?;
    check_server(&transaction).await?;
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&LOCK]).await?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version int PRIMARY KEY, name text NOT NULL, \
             checksum bytea NOT NULL, at timestamptz NOT NULL DEFAULT now())",
        )
        .await?;
    let missing = missing(&transaction).await?;
    for migration in &missing {
        run(&transaction, migration).await?;
    }
    transaction.commit().await?;
    Ok(missing.len())
}

async fn check_server(transaction: &Transaction<'_>) -> Result<(), MigrationError> {
    let sql =
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')";
    let row = transaction.query_one(sql, &[]).await?;
    let (version, encoding): (i32, String) = (row.get(0), row.get(1));
    if version < SERVER_VERSION_MIN {
        return Err(MigrationError::Server(version));
    }
    if encoding != "UTF8" {
        return Err(MigrationError::Encoding(encoding));
    }
    Ok(())
}

async fn missing(transaction: &Transaction<'_>) -> Result<Vec<&'static Migration>, MigrationError> {
    let sql = "SELECT version, checksum FROM schema_migrations ORDER BY version";
    let ran = transaction.query(sql, &[]).await?;
    let ran: Vec<(i32, Vec<u8>)> = ran.iter().map(|row| (row.get(0), row.get(1))).collect();
    let last_known = MIGRATIONS.last().map_or(0, |last| last.version);
    for (version, checksum) in &ran {
        let known = MIGRATIONS.iter().find(|m| m.version == *version);
        let known = known.ok_or(MigrationError::Newer(*version, last_known))?;
        if *checksum != known.checksum() {
            return Err(MigrationError::Changed(*version));
        }
    }
    let is_missing = |m: &&Migration| !ran.iter().any(|(version, _)| *version == m.version);
    Ok(MIGRATIONS.iter().filter(is_missing).collect())
}

async fn run(transaction: &Transaction<'_>, migration: &Migration) -> Result<(), MigrationError> {
    let version = migration.version;
    let result = transaction.batch_execute(migration.sql).await;
    result.map_err(|error| MigrationError::Failed { version, error })?;
    let sql = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)";
    let checksum = migration.checksum();
    transaction
        .execute(sql, &[&version, &migration.name, &checksum])
        .await?;
    info!(version, name = migration.name, "schema migrated");
    Ok(())
}

impl Migration {
    fn checksum(&self) -> Vec<u8> {
        Sha256::digest(self.sql).to_vec()
    }
}
