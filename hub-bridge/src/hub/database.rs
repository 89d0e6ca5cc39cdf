//! Connections to PostgreSQL.
//!
//! TLS is used where the URL says `sslmode=require` or an authority's file is configured, and the server is then always
//! verified. A connection never acknowledges what is not on the server's disk: `synchronous_commit` is not left off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use super::config::DatabaseSettings;

/// How long a connection may take in all, beside the configured time for TCP.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The server, or the way to it. With the cause, which `tokio-postgres` leaves out of its words.
    #[error("{}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Nothing came back.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The authority's file.
    #[error("{file}: {reason}")]
    Authority {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// An error of the server with what it says of it.
pub fn words(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map_or(String::new(), |d| format!(" ({d})"));
        return format!("{} {}{detail}", said.code().code(), said.message());
    }
    let cause = std::error::Error::source(error);
    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Opens a connection; a task of its own drives it until the client is dropped or the server is gone.
///
/// # Errors
/// Where there is none in time.
pub async fn connect(settings: &DatabaseSettings) -> Result<Client, DatabaseError> {
    let limit = settings.config.get_connect_timeout().copied();
    let limit = limit.unwrap_or_default() + HANDSHAKE_MAX;
    tokio::time::timeout(limit, open(settings))
        .await
        .map_err(|_| DatabaseError::Timeout(limit))?
}

async fn open(settings: &DatabaseSettings) -> Result<Client, DatabaseError> {
    let mut config = settings.config.clone();
    let wanted = config.get_ssl_mode() == SslMode::Require || settings.ca_file.is_some();
    let client = if wanted {
        config.ssl_mode(SslMode::Require);
        over_tls(&config, settings.ca_file.as_deref()).await?
    } else {
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await?;
        drive(connection);
        client
    };
    // "On the disk" is what the broker and the village are told.
    client
        .batch_execute(
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off'",
        )
        .await?;
    Ok(client)
}

async fn over_tls(config: &Config, ca_file: Option<&Path>) -> Result<Client, DatabaseError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    drive(connection);
    Ok(client)
}

fn drive<C>(connection: C)
where
    C: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(error = words(&error), "a database connection ended");
        }
    });
}

fn roots(ca_file: Option<&Path>) -> Result<rustls::RootCertStore, DatabaseError> {
    let mut roots = rustls::RootCertStore::empty();
    let Some(file) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let wrong = |reason: String| DatabaseError::Authority {
        file: file.to_owned(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(roots)
}
