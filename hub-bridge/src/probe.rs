//! One MQTT connection to the hub that carries nothing: whether it would let us in.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::bridge::TimeFloor;
use crate::classify::{ErrorClass, Failure, VersionHint};
use crate::clock::Clock;
use crate::connection::{Connection, LaneEvent, Plan, load_tls};
use crate::platform::{Network, Tcp};
use crate::settings::{HubSettings, ProtocolChoice};
use crate::version::Version;

/// What a hub said that let us in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// The version it took.
    pub version: Version,
    /// How many publishes it lets be in flight; `None` where it did not say.
    pub receive_maximum: Option<u16>,
    /// The largest packet it takes, in bytes; `None` where it did not say.
    pub packet_bytes_max: Option<u32>,
}

/// Connects as `client_id` with the settings' TLS and credentials, and says goodbye. Blocks on the certificates'
/// files. With `protocol = "auto"`, 3.1.1 is tried where the failure of 5 may be for its version.
///
/// # Errors
/// Why it did not let us in; holds no secrets.
pub async fn knock(
    hub: &HubSettings,
    client_id: &str,
    clock: Arc<dyn Clock>,
    floor: TimeFloor,
) -> Result<Welcome, Failure> {
    let tls = load_tls(hub, clock, floor)?;
    let network: Arc<dyn Network> = Arc::new(Tcp);
    let once = async |version| {
        let plan = Plan {
            hub,
            client_id: client_id.to_owned(),
            version,
            tls: tls.clone(),
            in_flight_max: 1,
            subscribe: Vec::new(),
            network: &network,
        };
        knock_once(plan, version).await
    };
    match hub.protocol {
        ProtocolChoice::V5 => once(Version::V5).await,
        ProtocolChoice::V311 => once(Version::V311).await,
        ProtocolChoice::Auto => match once(Version::V5).await {
            Err(failure) if failure.version != VersionHint::None => {
                once(Version::V311).await.map_err(|_| failure)
            }
            other => other,
        },
    }
}

async fn knock_once(plan: Plan<'_>, version: Version) -> Result<Welcome, Failure> {
    let (events, mut said) = mpsc::channel(4);
    let connection = Connection::open(plan, 0, events);
    let result = match said.recv().await {
        Some(LaneEvent::Up { limits, .. }) => Ok(Welcome {
            version,
            receive_maximum: limits.receive_maximum,
            packet_bytes_max: limits.packet_bytes_max,
        }),
        Some(LaneEvent::Down { failure, .. }) => Err(failure),
        Some(LaneEvent::Answers { .. } | LaneEvent::Message { .. }) | None => Err(Failure::new(
            ErrorClass::Connect,
            "the connection ended at once",
        )),
    };
    connection.close().await;
    result
}
