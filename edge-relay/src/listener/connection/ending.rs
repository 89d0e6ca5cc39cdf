//! How a connection ends, and what is said and left behind.
//!
//! Invariant: the first reason counts. After the end nothing more is read; what was read before is committed and, where
//! it can be written to, acknowledged.

use std::time::Duration;

use rumqttd::protocol::DisconnectReasonCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::super::codec::{Violation, write};
use super::super::{Shared, wills};
use super::{Client, Connection};
use crate::broker::Left;

/// How long a client of a store that takes nothing waits for its end, so that it does not come back at once.
const WITHHELD_PAUSE: Duration = Duration::from_secs(1);
/// How long the last words may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// DISCONNECT, perhaps with its will wanted and another session expiry.
    Disconnect {
        with_will: bool,
        expiry: Option<Duration>,
    },
    /// It closed its side, or the socket is broken.
    Gone,
    /// It broke the rules.
    Violation(Violation),
    /// A publish of it could not be kept.
    Withheld,
    /// It was silent for too long.
    Silent,
    /// It took nothing for too long.
    Stuck,
    /// Another connection has its session.
    TakenOver,
    /// The relay stops.
    Shutdown,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// What cannot be written to any more.
    pub(super) fn breaks(&mut self, end: End) {
        self.broken = true;
        self.output.clear();
        self.stuck_since = None;
        self.ends(end);
    }

    /// The first reason counts.
    pub(super) fn ends(&mut self, end: End) {
        if self.end.is_none() {
            if let End::Violation(violation) = end {
                self.shared.stats.protocol_errors_total.one();
                let now = std::time::Instant::now();
                if let Some(connections) = self.shared.violations.add(1, now) {
                    tracing::info!(%violation, connections, "closed for a packet that breaks the standard");
                }
            }
            self.end = Some(end);
        }
    }

    /// What is left to write, and for MQTT 5 why the connection ends.
    pub(super) async fn say_goodbye(&mut self, end: End) {
        let reason = match end {
            End::Disconnect { .. } | End::Gone | End::Stuck => None,
            End::Violation(violation) => Some(violation.reason),
            End::Withheld => {
                tokio::select! {
                    () = tokio::time::sleep(WITHHELD_PAUSE) => {}
                    () = self.ending.cancelled() => {}
                }
                Some(DisconnectReasonCode::QuotaExceeded)
            }
            End::Silent => Some(DisconnectReasonCode::KeepAliveTimeout),
            End::TakenOver => Some(DisconnectReasonCode::SessionTakenOver),
            End::Shutdown => Some(DisconnectReasonCode::ServerShuttingDown),
        };
        if let Some(reason) = reason {
            write::disconnect(&mut self.output, self.client.version, reason);
        }
        let last_words = async {
            if !self.broken && !self.output.is_empty() {
                let _ = self.writer.write_all_buf(&mut self.output).await;
            }
            let _ = self.writer.shutdown().await;
        };
        let _ = tokio::time::timeout(LAST_WORDS_MAX, last_words).await;
    }
}

/// The session is left, ended or somebody else's; the will is published, waits, or is forgotten.
pub(super) async fn leave(shared: &Shared, client: Client, end: End) {
    let expiry = match end {
        End::Disconnect { expiry, .. } => expiry,
        _ => None,
    };
    let mut will = client.will;
    if let End::Disconnect {
        with_will: false, ..
    } = end
    {
        will = None;
    }
    let due = shared.broker.leave(Left {
        client_id: client.id,
        key: client.key,
        connection: client.connection,
        expiry,
        will,
        stopping: end == End::Shutdown,
    });
    tracing::debug!(?end, "connection ended");
    wills::publish_all(shared, due.into_iter().collect()).await;
}
