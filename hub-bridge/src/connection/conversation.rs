//! The conversation with the hub over one stream: CONNECT, then publishes and their answers until something breaks.
//!
//! Publishes that are there together leave in one write, and PUBACKs that are there together are told in one event: per
//! reading, what the kernel does for a small write costs more than everything else. How much is under way is not decided
//! here but in `pace`: the buffers hold what the link gave, and no more. Invariant: nothing is answered that was not
//! sent over this very stream.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::codec::{Codec, Heard, Hello};
use super::{Ask, HubLimits, LaneEvent, Verdict, tls};
use crate::classify::{self, ErrorClass, Failure, VersionHint};
use crate::inflight::{InFlight, InFlightError, Ticket};
use crate::platform::{Network, Stream};

/// So much is read at once: the PUBACKs of 4,096 publishes.
const READ_BYTES: usize = 16 * 1024;
/// How long is listened after an error for what came before it; longer than `bulk_tcp` rests.
const LAST_WORDS: Duration = Duration::from_millis(10);
/// While so much waits to be written, no more is taken from the link.
const WRITE_BYTES: usize = 256 * 1024;

/// What is needed to open a conversation.
pub(super) struct Opening {
    pub(super) network: std::sync::Arc<dyn Network>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<tls::TlsConfig>,
    pub(super) codec: Codec,
    pub(super) hello: Hello,
    pub(super) subscribe: Vec<String>,
    pub(super) connect_timeout: Duration,
}

/// Talks until the end, and says through `events` what became of it.
pub(super) async fn hold(
    opening: Opening,
    lane: usize,
    asked: mpsc::Receiver<Ask>,
    events: mpsc::Sender<LaneEvent>,
) {
    let limit = opening.connect_timeout;
    let mut offered = false;
    let opened = tokio::time::timeout(limit, open(opening, &mut offered)).await;
    let opened = opened.unwrap_or_else(|_| {
        let words = if offered {
            "no CONNACK in time"
        } else {
            "no connection in time"
        };
        let hint = if offered {
            VersionHint::Perhaps
        } else {
            VersionHint::None
        };
        Err(Failure::new(ErrorClass::Timeout, words).hint(hint))
    });
    let (talk, limits) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            // An error means that the link is gone, and with it who would want to know. So below.
            let _ = events.send(LaneEvent::Down { lane, failure }).await;
            return;
        }
    };
    if events.send(LaneEvent::Up { lane, limits }).await.is_ok() {
        let conversation = Conversation {
            lane,
            asked,
            events,
            talk,
            in_flight: InFlight::default(),
            asks: Vec::new(),
            answers: Vec::new(),
            messages: Vec::new(),
        };
        conversation.run().await;
    }
}

/// The stream broke after CONNECT went over it: a hub that does not know the version mostly closes. One that does not
/// like our certificate may say so only now, with TLS 1.3, and means no version.
fn cut(failure: Failure) -> Failure {
    if failure.class == ErrorClass::Connect {
        failure.hint(VersionHint::Perhaps)
    } else {
        failure
    }
}

async fn open(opening: Opening, offered: &mut bool) -> Result<(Talk, HubLimits), Failure> {
    let keep_alive = opening.hello.keep_alive;
    let connected = opening.network.connect(&opening.host, opening.port).await;
    let mut stream = connected.map_err(|error| classify::of_io(&error))?;
    if let Some(config) = opening.tls {
        stream = tls::handshake(config, &opening.host, stream).await?;
    }
    let (reading, writing) = tokio::io::split(stream);
    let mut talk = Talk {
        codec: opening.codec,
        reading,
        writing,
        incoming: BytesMut::new(),
        outgoing: BytesMut::new(),
        unflushed: false,
        keep_alive,
        said_at: Instant::now(),
        asked_for_pong: None,
    };
    talk.codec.connect(opening.hello, &mut talk.outgoing)?;
    *offered = true;
    talk.write_all().await.map_err(cut)?;
    loop {
        match talk.hear()? {
            Some(Heard::Accepted(limits, keep_alive)) => {
                // 0 asks for none at all; ours tells then whether the hub is still there.
                if let Some(theirs) = keep_alive.filter(|theirs| !theirs.is_zero()) {
                    talk.keep_alive = theirs;
                }
                if !opening.subscribe.is_empty() {
                    talk.codec
                        .subscribe(&opening.subscribe, &mut talk.outgoing)?;
                }
                return Ok((talk, limits));
            }
            Some(other) => {
                let words = format!("{other:?} before CONNACK");
                let failure = Failure::new(ErrorClass::Protocol, words);
                return Err(failure.hint(VersionHint::Perhaps));
            }
            None => talk.read().await.map_err(cut)?,
        }
    }
}

/// A stream and the packets on it.
struct Talk {
    codec: Codec,
    reading: ReadHalf<Box<dyn Stream>>,
    writing: WriteHalf<Box<dyn Stream>>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Something was written that may still be in a buffer of the stream's.
    unflushed: bool,
    keep_alive: Duration,
    /// When something was written last.
    said_at: Instant,
    /// When a PINGREQ was written that is not answered.
    asked_for_pong: Option<Instant>,
}

impl Talk {
    async fn read(&mut self) -> Result<(), Failure> {
        self.incoming.reserve(READ_BYTES);
        let read = self.reading.read_buf(&mut self.incoming).await;
        read_result(read)
    }

    async fn write_all(&mut self) -> Result<(), Failure> {
        let written = self.writing.write_all_buf(&mut self.outgoing).await;
        written.map_err(|error| classify::of_io(&error))?;
        let flushed = self.writing.flush().await;
        self.said_at = Instant::now();
        self.unflushed = false;
        flushed.map_err(|error| classify::of_io(&error))
    }

    fn hear(&mut self) -> Result<Option<Heard>, Failure> {
        let heard = self.codec.take(&mut self.incoming)?;
        if heard == Some(Heard::Pong) {
            self.asked_for_pong = None;
        }
        Ok(heard)
    }

    /// When there is something to do about the keep alive.
    fn due(&self) -> Instant {
        self.asked_for_pong.unwrap_or(self.said_at) + self.keep_alive
    }

    /// Says PINGREQ where nothing else was said for the time of the keep alive.
    fn keep_alive(&mut self) -> Result<(), Failure> {
        if Instant::now() < self.due() {
            return Ok(());
        }
        if self.asked_for_pong.is_some() {
            let words = format!("no answer to a ping for {:?}", self.keep_alive);
            return Err(Failure::new(ErrorClass::Timeout, words));
        }
        self.asked_for_pong = Some(Instant::now());
        Codec::ping(&mut self.outgoing);
        Ok(())
    }
}

/// One write of what waits; where nothing does, what the stream itself still holds.
async fn send(
    writing: &mut WriteHalf<Box<dyn Stream>>,
    outgoing: &mut BytesMut,
) -> std::io::Result<()> {
    if outgoing.is_empty() {
        writing.flush().await
    } else {
        writing.write_buf(outgoing).await.map(drop)
    }
}

fn read_result(read: std::io::Result<usize>) -> Result<(), Failure> {
    match read {
        Ok(0) => Err(Failure::new(
            ErrorClass::Connect,
            "the hub closed the connection",
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(classify::of_io(&error)),
    }
}

/// What one wait ended with.
enum Woken {
    Asked,
    Wrote,
    Read,
    Due,
}

struct Conversation {
    lane: usize,
    asked: mpsc::Receiver<Ask>,
    events: mpsc::Sender<LaneEvent>,
    talk: Talk,
    in_flight: InFlight,
    asks: Vec<Ask>,
    answers: Vec<(Ticket, Verdict)>,
    messages: Vec<(String, bytes::Bytes)>,
}

impl Conversation {
    async fn run(mut self) {
        let failure = match self.talk().await {
            Ok(()) => return,
            Err(failure) => self.last_words(failure).await,
        };
        // A hub that breaks the rules is not believed about the last answers either; one that says that we do is.
        if failure.class != ErrorClass::Protocol || failure.was_said {
            self.tell().await;
        }
        let lane = self.lane;
        let _ = self.events.send(LaneEvent::Down { lane, failure }).await;
    }

    /// Returns when we were told to say goodbye and did, or nobody listens any more.
    async fn talk(&mut self) -> Result<(), Failure> {
        // What came with the CONNACK.
        self.hear()?;
        loop {
            match self.wait().await? {
                Woken::Asked => {
                    if self.say()? {
                        return self.talk.write_all().await;
                    }
                }
                Woken::Wrote => {}
                Woken::Read => {
                    self.hear()?;
                    if !self.tell().await {
                        return Ok(());
                    }
                }
                Woken::Due => self.talk.keep_alive()?,
            }
        }
    }

    /// Waits for the first of what can be done. What was asked comes first, so that all of it leaves in one write.
    async fn wait(&mut self) -> Result<Woken, Failure> {
        let due = self.talk.due();
        let talk = &mut self.talk;
        let (to_write, to_flush) = (!talk.outgoing.is_empty(), talk.unflushed);
        talk.incoming.reserve(READ_BYTES);
        tokio::select! {
            biased;
            count = self.asked.recv_many(&mut self.asks, usize::from(u16::MAX)), if talk.outgoing.len() < WRITE_BYTES => {
                if count == 0 {
                    // Who opened the connection is gone.
                    self.asks.push(Ask::Goodbye);
                }
                Ok(Woken::Asked)
            }
            sent = send(&mut talk.writing, &mut talk.outgoing), if to_write || to_flush => {
                sent.map_err(|error| classify::of_io(&error))?;
                talk.unflushed = to_write;
                talk.said_at = Instant::now();
                Ok(Woken::Wrote)
            }
            read = talk.reading.read_buf(&mut talk.incoming) => read_result(read).map(|()| Woken::Read),
            () = tokio::time::sleep_until(due) => Ok(Woken::Due),
        }
    }

    /// Encodes what was asked; `true`: the last of it is DISCONNECT.
    fn say(&mut self) -> Result<bool, Failure> {
        for ask in self.asks.drain(..) {
            match ask {
                Ask::Publish(ticket, outgoing) => {
                    let id = self.in_flight.depart(ticket).map_err(lie)?;
                    self.talk
                        .codec
                        .publish(id, outgoing, &mut self.talk.outgoing)?;
                }
                Ask::Goodbye => {
                    Codec::disconnect(&mut self.talk.outgoing);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes what the hub said so far.
    fn hear(&mut self) -> Result<(), Failure> {
        while let Some(heard) = self.talk.hear()? {
            match heard {
                Heard::Answered(id, verdict) => {
                    let ticket = self.in_flight.acknowledged(id).map_err(lie)?;
                    self.answers.push((ticket, verdict));
                }
                Heard::Accepted(..) => {
                    let failure = Failure::new(ErrorClass::Protocol, "a second CONNACK");
                    return Err(failure.of_no_reading());
                }
                Heard::Pong | Heard::Subscribed => {}
                Heard::Message { topic, payload } => self.messages.push((topic, payload)),
            }
        }
        Ok(())
    }

    async fn tell(&mut self) -> bool {
        for (topic, payload) in std::mem::take(&mut self.messages) {
            let event = LaneEvent::Message { topic, payload };
            if self.events.send(event).await.is_err() {
                return false;
            }
        }
        if self.answers.is_empty() {
            return true;
        }
        let answers = std::mem::take(&mut self.answers);
        let lane = self.lane;
        let event = LaneEvent::Answers { lane, answers };
        self.events.send(event).await.is_ok()
    }

    /// Where writing failed, the hub may have said why before, and answered more: what has come is heard.
    async fn last_words(&mut self, failure: Failure) -> Failure {
        if failure.class != ErrorClass::Connect {
            return failure;
        }
        loop {
            if let Err(said) = self.hear() {
                return said;
            }
            match tokio::time::timeout(LAST_WORDS, self.talk.read()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return failure,
            }
        }
    }
}

fn lie(error: InFlightError) -> Failure {
    Failure::new(ErrorClass::Protocol, error.to_string()).of_no_reading()
}
