//! What `hub-bridge receive` does, without a database: takes frames, and says by receipts what it has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hub_bridge::identity::{Epoch, Sequence, VillageId};
use hub_bridge::ranges::Ranges;
use hub_bridge::wire::frame::{self, Carried, Frame};
use hub_bridge::wire::receipt::Receipt;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

#[derive(Default)]
pub struct Stored {
    pub readings: BTreeMap<u64, Carried>,
    pub frames: Vec<usize>,
    pub frame_bytes: usize,
    pub repeated: usize,
}

#[derive(Clone)]
pub struct Receiver {
    pub stored: Arc<Mutex<Stored>>,
    client: AsyncClient,
}

impl Receiver {
    /// `keep` says whether a frame is stored; `receipts`, whether receipts are sent.
    pub async fn connect(
        port: u16,
        receipts: bool,
        mut keep: impl FnMut(usize, &Frame) -> bool + Send + 'static,
    ) -> Self {
        let mut options = MqttOptions::new(format!("receiver-{port}"), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(Some(1 << 24));
        let (client, mut events) = AsyncClient::new(options, 10);
        let this = Self {
            stored: Arc::default(),
            client: client.clone(),
        };
        let stored = Arc::clone(&this.stored);
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        tokio::spawn(async move {
            let filter = "relay/v1/+/frames";
            client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
            let mut number = 0;
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        if let Some(ready) = ready.take() {
                            ready.send(()).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let frame = frame::decode(&publish.payload).unwrap();
                        number += 1;
                        if !keep(number, &frame) {
                            continue;
                        }
                        let receipt = store(&stored, &frame, publish.payload.len());
                        if receipts {
                            say(&client, &receipt).await;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        subscribed.await.unwrap();
        this
    }

    /// Publishes a receipt of one's own making.
    pub async fn lie(&self, village: &VillageId, epoch: Epoch, first: u64, last: u64) {
        let range = hub_bridge::identity::SequenceRange::new(Sequence(first), Sequence(last));
        let receipt = Receipt {
            village: village.clone(),
            epoch,
            stored: vec![range.unwrap()],
        };
        say(&self.client, &receipt).await;
    }
}

async fn say(client: &AsyncClient, receipt: &Receipt) {
    let topic = hub_bridge::wire::receipts_topic(&receipt.village, receipt.epoch);
    let payload = receipt.to_json();
    let said = client.publish(topic, QoS::AtLeastOnce, true, payload);
    said.await.unwrap();
}

fn store(stored: &Mutex<Stored>, frame: &Frame, bytes: usize) -> Receipt {
    let mut stored = stored.lock().unwrap();
    stored.frames.push(frame.readings.len());
    stored.frame_bytes += bytes;
    for reading in &frame.readings {
        if stored
            .readings
            .insert(reading.sequence.0, reading.clone())
            .is_some()
        {
            stored.repeated += 1;
        }
    }
    let ranges: Ranges = stored.readings.keys().copied().map(Sequence).collect();
    Receipt {
        village: frame.village.clone(),
        epoch: frame.epoch,
        stored: ranges.iter().collect(),
    }
}
