//! A hub of raw sockets that lies, stalls and refuses as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the hub does with one PUBLISH.
pub enum Answer {
    /// PUBACK with this packet id and reason.
    PubAck(u16, u8),
    /// Nothing.
    Silence,
    /// Close the connection.
    Close,
    /// Raw bytes.
    Raw(Vec<u8>),
}

pub struct Publish {
    pub id: u16,
    pub topic: String,
    /// All after the topic and packet id: properties (MQTT 5) and payload.
    pub rest: Vec<u8>,
    /// Counted from 0 over all connections.
    pub connection: usize,
}

/// What the hub says to a CONNECT, given the protocol level (4 or 5) and the number of the connection.
pub type OnConnect = dyn Fn(u8, usize) -> Vec<u8> + Send + Sync;
pub type OnPublish = dyn FnMut(&Publish) -> Answer + Send;

pub struct FakeHub {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
    pub client_ids: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// A CONNACK that accepts, without properties.
pub fn accept(level: u8) -> Vec<u8> {
    if level == 5 {
        vec![0x20, 3, 0, 0, 0]
    } else {
        vec![0x20, 2, 0, 0]
    }
}

impl FakeHub {
    pub async fn start(
        on_connect: impl Fn(u8, usize) -> Vec<u8> + Send + Sync + 'static,
        on_publish: impl FnMut(&Publish) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let client_ids = Arc::new(Mutex::new(Vec::new()));
        let on_connect: Arc<OnConnect> = Arc::new(on_connect);
        let on_publish: Arc<Mutex<Box<OnPublish>>> = Arc::new(Mutex::new(Box::new(on_publish)));
        let counter = Arc::clone(&connections);
        let ids = Arc::clone(&client_ids);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let (connect, publish) = (Arc::clone(&on_connect), Arc::clone(&on_publish));
                tokio::spawn(serve(socket, number, connect, publish, Arc::clone(&ids)));
            }
        });
        Self {
            port,
            connections,
            client_ids,
            task,
        }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn packet(socket: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = socket.read_u8().await.ok()?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = socket.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

fn text(body: &[u8], at: usize) -> (String, usize) {
    let length = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let end = at + 2 + length;
    (
        String::from_utf8_lossy(&body[at + 2..end]).into_owned(),
        end,
    )
}

async fn serve(
    mut socket: TcpStream,
    connection: usize,
    on_connect: Arc<OnConnect>,
    on_publish: Arc<Mutex<Box<OnPublish>>>,
    client_ids: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let (first, body) = packet(&mut socket).await?;
    assert_eq!(first >> 4, 1, "CONNECT comes first");
    let level = body[6];
    let after_keep_alive = 10;
    let at = if level == 5 {
        after_keep_alive + 1 + usize::from(body[after_keep_alive])
    } else {
        after_keep_alive
    };
    client_ids.lock().unwrap().push(text(&body, at).0);
    let hello = on_connect(level, connection);
    if hello.is_empty() {
        return None;
    }
    socket.write_all(&hello).await.ok()?;
    loop {
        let (first, body) = packet(&mut socket).await?;
        match first >> 4 {
            3 => {
                let (topic, at) = text(&body, 0);
                let publish = Publish {
                    id: u16::from_be_bytes([body[at], body[at + 1]]),
                    topic,
                    rest: body[at + 2..].to_vec(),
                    connection,
                };
                let answer = on_publish.lock().unwrap()(&publish);
                match answer {
                    Answer::PubAck(id, reason) => {
                        let mut ack = vec![0x40, 2];
                        ack.extend(id.to_be_bytes());
                        if reason != 0 {
                            ack[1] = 3;
                            ack.push(reason);
                        }
                        socket.write_all(&ack).await.ok()?;
                    }
                    Answer::Silence => {}
                    Answer::Close => return None,
                    Answer::Raw(bytes) => socket.write_all(&bytes).await.ok()?,
                }
            }
            12 => socket.write_all(&[0xd0, 0]).await.ok()?,
            14 => return None,
            _ => {}
        }
    }
}
