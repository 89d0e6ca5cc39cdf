//! The second sink: each new reading to a Kafka topic, its identity as the key.
//!
//! At least once: it is delivered to Kafka, by an idempotent producer and to all in-sync replicas, within the database's
//! transaction and before its commit. So a row is never without its Kafka message; a crash between the two makes the
//! message come twice, and consumers tell by the key. Readings that the database knows already are not produced again.

use std::pin::Pin;
use std::time::Duration;

use futures_util::future::try_join_all;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tracing::error;

use super::store::{BeforeCommit, Incoming};
use crate::clock::ClockQuality;
use crate::hub::config::KafkaSettings;

/// How long the cluster may take; the transaction waits for it.
const DELIVERY_MS_MAX: &str = "30000";

/// A producer.
pub(super) struct Kafka {
    producer: FutureProducer,
    topic: String,
}

impl Kafka {
    /// Connects by itself, as soon as there is something to produce.
    ///
    /// # Errors
    /// Where librdkafka does not take the settings.
    pub(super) fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("client.id", "hub-bridge")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", DELIVERY_MS_MAX)
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .create()?;
        Ok(Self {
            producer,
            topic: settings.topic.clone(),
        })
    }

    async fn produce(&self, incoming: &Incoming) -> Result<(), String> {
        let reading = &incoming.reading;
        let key = format!(
            "{}/{}/{}",
            incoming.village, incoming.epoch, reading.sequence
        );
        let at = reading.at.to_string();
        let clock = match reading.clock {
            ClockQuality::Synchronised => "synchronised",
            ClockQuality::Unsynchronised => "unsynchronised",
        };
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        let headers = OwnedHeaders::new_with_capacity(4)
            .insert(header("topic", reading.topic.as_bytes()))
            .insert(header("client_id", reading.client_id.as_bytes()))
            .insert(header("at", at.as_bytes()))
            .insert(header("clock", clock.as_bytes()));
        let record = FutureRecord::to(&self.topic)
            .key(&key)
            .payload(&*reading.payload)
            .headers(headers);
        // A full queue is waited for: the deadline is the message's own.
        let sent = self.producer.send(record, Duration::from_secs(30)).await;
        match sent {
            Ok(_) => Ok(()),
            Err((error, _)) if is_its_own_fault(&error) => {
                error!(key, %error, "Kafka never takes this reading: it is in the database only");
                Ok(())
            }
            Err((error, _)) => Err(format!("Kafka: {error}")),
        }
    }
}

/// Whether the reading is to blame: it must not block all others.
fn is_its_own_fault(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize)
    )
}

impl BeforeCommit for Kafka {
    fn take<'a>(
        &'a self,
        new: &'a [&'a Incoming],
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            try_join_all(new.iter().map(|incoming| self.produce(incoming))).await?;
            Ok(())
        })
    }
}
