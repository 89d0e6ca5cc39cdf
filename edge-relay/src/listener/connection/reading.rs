//! From the client's bytes to packets, and when no more of them are taken.

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::codec::{Version, packet, wire};
use super::super::inbound::Batch;
use super::ending::End;
use super::{Connection, READ_BYTES};

/// With so much waiting to be written, nothing more is read or taken from the session.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// The most publishes in one batch.
const BATCH_MAX: usize = 512;
/// The most bytes of readings in one batch, before the last one.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// The most batches on their way.
const BATCHES_MAX: usize = 64;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn wants_input(&self) -> bool {
        self.end.is_none()
            && self.takes_packets()
            && self.input.len() < self.packet_bytes_max + READ_BYTES
    }

    /// Whether there is room for what packets may bring.
    pub(super) fn takes_packets(&self) -> bool {
        self.reserving.is_none()
            && self.appending.len() + self.settling.len() < BATCHES_MAX
            && self.output.len() < OUTPUT_BYTES_MAX
            && (self.client.version == Version::V5 || self.unacknowledged < self.in_flight_max)
    }

    /// A whole packet waits in the input.
    pub(super) fn can_read_packets(&self) -> bool {
        matches!(wire::frame(&self.input, self.packet_bytes_max), Ok(Some(_)))
    }

    /// Acts on the packets that are in the input, as far as there is room; publishes become one batch.
    pub(super) fn read_packets(&mut self) {
        if !matches!(self.end, None | Some(End::Gone)) || self.input.is_empty() {
            return;
        }
        let settings = self.shared.settings();
        self.inbound.set_forward(&settings.forward);
        let bytes_max = self.packet_bytes_max;
        let mut batch = Batch::default();
        let mut input = std::mem::take(&mut self.input);
        while self.takes_packets()
            && batch.publications.len() < BATCH_MAX
            && batch.bytes < BATCH_BYTES_MAX
        {
            let act = match wire::frame(&input, bytes_max) {
                Ok(None) => break,
                Ok(Some(frame)) => packet::read(self.client.version, frame, &input)
                    .and_then(|packet| self.act(packet, &mut batch))
                    .map(|()| frame.end),
                Err(violation) => Err(violation),
            };
            match act {
                Ok(end) => input.advance(end),
                Err(violation) => {
                    self.ends(End::Violation(violation));
                    input.clear();
                }
            }
            if self.end.is_some_and(|end| end != End::Gone) {
                break;
            }
        }
        self.input = input;
        self.submit(batch);
    }
}
