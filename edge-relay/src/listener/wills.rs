//! Publishes wills: on a forwarded topic a will is a reading like any other.

use std::sync::Arc;

use crate::broker::Publication;
use crate::broker::message::Message;
use crate::broker::topic;
use crate::broker::will::Will;
use crate::store::{AppendError, NewReading};

use super::Shared;

/// Publishes them one after the other.
pub(super) async fn publish_all(shared: &Shared, wills: Vec<Will>) {
    for will in wills {
        let (client_id, connection) = (will.client_id.clone(), will.connection);
        match publish(shared, will).await {
            Ok(()) => shared.broker.forget_will(&client_id, connection),
            Err(error) => tracing::warn!(%client_id, %error, "a will could not be kept"),
        }
    }
}

async fn publish(shared: &Shared, will: Will) -> Result<(), AppendError> {
    let settings = shared.settings();
    if topic::is_forwarded(&will.topic, &settings.forward) {
        let reading = reading(shared, &will);
        let permit = shared.store.reserve(reading.size_bytes()).await?;
        permit
            .append(vec![reading])
            .await
            .unwrap_or(Err(AppendError::Closed))?;
    }
    let message = Message {
        topic: will.topic,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        publisher: will.client_id,
        properties: will.properties,
        expires_at: will.expiry.map(|expiry| shared.clock.monotonic() + expiry),
    };
    let publication = Publication {
        message: Arc::new(message),
        received: None,
    };
    if let Some(durable) = shared.broker.route(None, &[publication], None)
        && !matches!(durable.await, Ok(Ok(())))
    {
        return Err(AppendError::Disk("the broker's state".to_owned()));
    }
    Ok(())
}

fn reading(shared: &Shared, will: &Will) -> NewReading {
    NewReading {
        topic: will.topic.clone(),
        client_id: will.client_id.clone(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        dup: false,
        packet_id: 0,
        received: shared.clock.stamp(),
        properties: will.properties.clone(),
    }
}
