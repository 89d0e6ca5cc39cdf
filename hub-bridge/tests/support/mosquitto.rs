//! A real mosquitto as the hub, and a subscriber that keeps what it gets.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

pub struct Mosquitto {
    child: Child,
    pub port: u16,
    _dir: tempfile::TempDir,
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Mosquitto {
    /// Starts one, or says why not.
    pub fn start(extra: &str) -> Option<Self> {
        let port = free_port();
        Self::start_on(port, extra)
    }

    pub fn start_on(port: u16, extra: &str) -> Option<Self> {
        let program = "/usr/sbin/mosquitto";
        if !std::path::Path::new(program).exists() {
            eprintln!("skipped: {program} is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("mosquitto.conf");
        let mut file = std::fs::File::create(&config).unwrap();
        let anonymous = !extra.contains("allow_anonymous");
        writeln!(
            file,
            "listener {port} 127.0.0.1\n{}{extra}",
            if anonymous {
                "allow_anonymous true\n"
            } else {
                ""
            }
        )
        .unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                std::time::Instant::now() < until,
                "mosquitto does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self {
            child,
            port,
            _dir: dir,
        })
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone)]
pub struct Got {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub properties: PublishProperties,
}

impl Got {
    /// The sequence in the `id` user property.
    pub fn sequence(&self) -> Option<u64> {
        let id = self
            .properties
            .user_properties
            .iter()
            .rev()
            .find(|p| p.0 == "id")?;
        id.1.split_once('/')?.1.parse().ok()
    }
}

/// A subscriber to the villages' readings, or to another filter.
#[derive(Clone, Default)]
pub struct Subscriber(Arc<Mutex<Vec<Got>>>);

impl Subscriber {
    pub async fn connect(port: u16) -> Self {
        Self::connect_to(port, "villages/#").await
    }

    pub async fn connect_to(port: u16, filter: &'static str) -> Self {
        let mut options = MqttOptions::new(format!("sub-{port}"), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(Some(1 << 24));
        options.set_receive_maximum(Some(60_000));
        let (client, mut events) = AsyncClient::new(options, 10);
        let this = Self::default();
        let got = Arc::clone(&this.0);
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        tokio::spawn(async move {
            client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        if let Some(ready) = ready.take() {
                            ready.send(()).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        got.lock().unwrap().push(Got {
                            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                            payload: publish.payload.to_vec(),
                            retain: publish.retain,
                            properties: publish.properties.unwrap_or_default(),
                        });
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        subscribed.await.unwrap();
        this
    }

    pub fn got(&self) -> Vec<Got> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// How often each sequence came.
    pub fn counts(&self) -> HashMap<u64, usize> {
        let mut counts = HashMap::new();
        for got in self.got() {
            if let Some(sequence) = got.sequence() {
                *counts.entry(sequence).or_insert(0) += 1;
            }
        }
        counts
    }
}
