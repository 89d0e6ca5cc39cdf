//! rumqttc, for both versions: an event loop on a thread of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::peer::{Message, Options, Peer, Said};

/// Payloads that were handed over, in their order, until they have a packet id.
type Queue = Arc<Mutex<VecDeque<String>>>;

enum Client {
    V4(rumqttc::Client),
    V5(rumqttc::v5::Client),
}

/// See the module.
pub(crate) struct Rumqtt {
    client: Client,
    queue: Queue,
    gone: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    said: Receiver<Said>,
}

/// What happened, in the terms that both versions share.
enum Event {
    Connected(bool),
    Subscribed,
    Sent(u16),
    Acknowledged(u16),
    Message(Message),
    Disconnected,
}

impl Rumqtt {
    /// Connects, and reconnects until it is gone.
    pub(crate) fn start(options: &Options) -> Self {
        let (say, said) = channel();
        let (queue, gone) = (Queue::default(), Arc::new(AtomicBool::new(false)));
        let mut teller = Teller {
            say,
            queue: queue.clone(),
            sent: HashMap::new(),
        };
        let stop = gone.clone();
        let (client, thread) = if options.version == 5 {
            let (client, mut connection) = rumqttc::v5::Client::new(v5(options), 1_000);
            let run = move || {
                while !stop.load(Ordering::Relaxed) {
                    match connection.recv_timeout(Duration::from_millis(20)) {
                        Ok(Ok(event)) => match of_v5(event) {
                            Some(Event::Disconnected) => break,
                            event => teller.tell(event),
                        },
                        Ok(Err(_)) => std::thread::sleep(Duration::from_millis(50)),
                        Err(_) => {}
                    }
                }
                drop(connection);
                teller.ended();
            };
            (Client::V5(client), std::thread::spawn(run))
        } else {
            let (client, mut connection) = rumqttc::Client::new(v4(options), 1_000);
            let run = move || {
                while !stop.load(Ordering::Relaxed) {
                    match connection.recv_timeout(Duration::from_millis(20)) {
                        Ok(Ok(event)) => match of_v4(event) {
                            Some(Event::Disconnected) => break,
                            event => teller.tell(event),
                        },
                        Ok(Err(_)) => std::thread::sleep(Duration::from_millis(50)),
                        Err(_) => {}
                    }
                }
                drop(connection);
                teller.ended();
            };
            (Client::V4(client), std::thread::spawn(run))
        };
        Self {
            client,
            queue,
            gone,
            thread: Some(thread),
            said,
        }
    }
}

fn v4(options: &Options) -> rumqttc::MqttOptions {
    let relay = options.relay;
    let mut set = rumqttc::MqttOptions::new(&options.id, relay.ip().to_string(), relay.port());
    set.set_clean_session(options.clean)
        .set_inflight(10)
        .set_keep_alive(Duration::from_secs(5));
    if let Some((topic, payload)) = &options.will {
        let qos = rumqttc::QoS::AtLeastOnce;
        set.set_last_will(rumqttc::LastWill::new(
            topic,
            payload.as_bytes(),
            qos,
            false,
        ));
    }
    set
}

fn v5(options: &Options) -> rumqttc::v5::MqttOptions {
    let relay = options.relay;
    let mut set = rumqttc::v5::MqttOptions::new(&options.id, relay.ip().to_string(), relay.port());
    set.set_clean_start(options.clean)
        .set_outgoing_inflight_upper_limit(10)
        .set_keep_alive(Duration::from_secs(5));
    if !options.clean {
        set.set_session_expiry_interval(Some(3600));
    }
    if let Some((topic, payload)) = &options.will {
        let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
        let payload = payload.as_bytes().to_vec();
        let will = rumqttc::v5::mqttbytes::v5::LastWill::new(topic, payload, qos, false, None);
        set.set_last_will(will);
    }
    set
}

fn of_v4(event: rumqttc::Event) -> Option<Event> {
    use rumqttc::{Outgoing, Packet};
    Some(match event {
        rumqttc::Event::Incoming(Packet::ConnAck(ack)) => Event::Connected(ack.session_present),
        rumqttc::Event::Incoming(Packet::SubAck(_)) => Event::Subscribed,
        rumqttc::Event::Incoming(Packet::PubAck(ack)) => Event::Acknowledged(ack.pkid),
        rumqttc::Event::Incoming(Packet::PubComp(ack)) => Event::Acknowledged(ack.pkid),
        rumqttc::Event::Incoming(Packet::Publish(publish)) => Event::Message(Message {
            topic: publish.topic,
            payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
            qos: publish.qos as u8,
            retain: publish.retain,
        }),
        rumqttc::Event::Outgoing(Outgoing::Publish(id)) => Event::Sent(id),
        rumqttc::Event::Outgoing(Outgoing::Disconnect) => Event::Disconnected,
        _ => return None,
    })
}

fn of_v5(event: rumqttc::v5::Event) -> Option<Event> {
    use rumqttc::Outgoing;
    use rumqttc::v5::mqttbytes::v5::Packet;
    Some(match event {
        rumqttc::v5::Event::Incoming(Packet::ConnAck(ack)) => Event::Connected(ack.session_present),
        rumqttc::v5::Event::Incoming(Packet::SubAck(_)) => Event::Subscribed,
        rumqttc::v5::Event::Incoming(Packet::PubAck(ack)) => Event::Acknowledged(ack.pkid),
        rumqttc::v5::Event::Incoming(Packet::PubComp(ack)) => Event::Acknowledged(ack.pkid),
        rumqttc::v5::Event::Incoming(Packet::Publish(publish)) => Event::Message(Message {
            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
            payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
            qos: publish.qos as u8,
            retain: publish.retain,
        }),
        rumqttc::v5::Event::Outgoing(Outgoing::Publish(id)) => Event::Sent(id),
        rumqttc::v5::Event::Outgoing(Outgoing::Disconnect) => Event::Disconnected,
        _ => return None,
    })
}

struct Teller {
    say: Sender<Said>,
    queue: Queue,
    /// Payloads by packet id, until they are acknowledged.
    sent: HashMap<u16, String>,
}

impl Teller {
    fn ended(&self) {
        let _ = self.say.send(Said::Disconnected);
    }

    fn tell(&mut self, event: Option<Event>) {
        let said = match event {
            Some(Event::Connected(present)) => Said::Connected(Some(present)),
            Some(Event::Subscribed) => Said::Subscribed,
            Some(Event::Message(message)) => Said::Message(message),
            Some(Event::Sent(id)) => {
                // One that is sent again has its packet id already.
                if id != 0 && !self.sent.contains_key(&id) {
                    let payload = self.queue.lock().unwrap().pop_front();
                    self.sent.insert(id, payload.unwrap_or_default());
                }
                return;
            }
            Some(Event::Acknowledged(id)) => match self.sent.remove(&id) {
                Some(payload) => Said::Acknowledged(payload),
                None => return,
            },
            Some(Event::Disconnected) | None => return,
        };
        let _ = self.say.send(said);
    }
}

impl Peer for Rumqtt {
    fn subscribe(&mut self, filter: &str, qos: u8) {
        match &self.client {
            Client::V4(client) => {
                let qos = rumqttc::qos(qos).unwrap();
                client.subscribe(filter, qos).unwrap();
            }
            Client::V5(client) => {
                let qos = rumqttc::v5::mqttbytes::qos(qos).unwrap();
                client.subscribe(filter, qos).unwrap();
            }
        }
    }

    fn publish(&mut self, topic: &str, payloads: &[String], qos: u8, retain: bool) {
        for payload in payloads {
            if qos > 0 {
                self.queue.lock().unwrap().push_back(payload.clone());
            }
            let bytes = payload.clone().into_bytes();
            match &self.client {
                Client::V4(client) => {
                    let qos = rumqttc::qos(qos).unwrap();
                    client.publish(topic, qos, retain, bytes).unwrap();
                }
                Client::V5(client) => {
                    let qos = rumqttc::v5::mqttbytes::qos(qos).unwrap();
                    client.publish(topic, qos, retain, bytes).unwrap();
                }
            }
        }
    }

    fn disconnect(&mut self) {
        match &self.client {
            Client::V4(client) => client.disconnect().unwrap(),
            Client::V5(client) => client.disconnect().unwrap(),
        }
    }

    fn vanish(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn said(&mut self, within: Duration) -> Option<Said> {
        self.said.recv_timeout(within).ok()
    }
}

impl Drop for Rumqtt {
    fn drop(&mut self) {
        self.vanish();
    }
}
