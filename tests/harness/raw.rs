//! A connection that sends the bytes it is told to, right or wrong.

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::packet::{Connect, Packet, kind};

/// A TCP connection to a broker.
#[derive(Debug)]
pub struct Raw {
    reader: BufReader<TcpStream>,
}

impl Raw {
    /// TCP only.
    pub fn open(broker: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&broker, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// TCP and CONNECT; the CONNACK's session present and code.
    pub fn connect(broker: SocketAddr, connect: &Connect) -> io::Result<(Self, bool, u8)> {
        let mut raw = Self::open(broker)?;
        raw.send(&connect.encode())?;
        let connack = raw.receive()?;
        if connack.kind() != kind::CONNACK {
            return Err(io::Error::other(format!("not a CONNACK: {connack:02x?}")));
        }
        Ok((raw, connack.body[0] & 1 != 0, connack.body[1]))
    }

    /// Writes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The next packet, within 10 s.
    pub fn receive(&mut self) -> io::Result<Packet> {
        self.receive_within(Duration::from_secs(10))
    }

    /// The next packet; `WouldBlock` after `patience`.
    pub fn receive_within(&mut self, patience: Duration) -> io::Result<Packet> {
        self.reader.get_mut().set_read_timeout(Some(patience))?;
        Packet::read(&mut self.reader)
    }

    /// The next packet of that kind, within 10 s.
    pub fn receive_kind(&mut self, kind: u8) -> io::Result<Packet> {
        loop {
            let packet = self.receive()?;
            if packet.kind() == kind {
                return Ok(packet);
            }
        }
    }

    /// Reads until the broker closes: what it said before. `TimedOut` where it does not close.
    pub fn until_closed(&mut self, patience: Duration) -> io::Result<Vec<Packet>> {
        let start = Instant::now();
        let mut packets = Vec::new();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            match self.receive_within(left) {
                Ok(packet) => packets.push(packet),
                Err(error) => match error.kind() {
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => return Ok(packets),
                    ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                    _ => return Err(error),
                },
            }
        }
    }
}
