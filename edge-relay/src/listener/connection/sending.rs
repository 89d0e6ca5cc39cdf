//! What the session has to send to the client.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::codec::write::{self, PUBREL, PublishHeader};
use super::{Connection, OUTPUT_BYTES_ENOUGH};
use crate::broker::Sending;
use crate::broker::session::Next;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Takes what the session has to send, while there is room.
    pub(super) fn take_deliveries(&mut self) {
        if !self.has_more || self.end.is_some() || self.output.len() >= OUTPUT_BYTES_ENOUGH {
            return;
        }
        let stats = self.shared.stats.clone();
        let (version, bytes_max) = (self.client.version, self.client.packet_bytes_max);
        let output = &mut self.output;
        let mut all = true;
        let take = |next: &Next, now: Duration| {
            let sent = match next {
                Next::Release(id) => {
                    write::acknowledgement(output, version, PUBREL, *id, 0);
                    true
                }
                Next::Publish {
                    delivery,
                    packet_id,
                    dup,
                    ..
                } => {
                    let life = delivery.message.expires_at.map(|at| at.saturating_sub(now));
                    if !dup && life.is_some_and(|left| left.is_zero()) {
                        stats.messages_expired_total.one();
                        return Sending::Skipped;
                    }
                    let header = PublishHeader {
                        version,
                        id: *packet_id,
                        dup: *dup,
                        expiry_s: life.map(seconds_up),
                    };
                    write::publish(output, header, delivery, bytes_max)
                }
            };
            if !sent {
                return Sending::Skipped;
            }
            stats
                .publishes_sent_total
                .add(u64::from(matches!(next, Next::Publish { .. })));
            all = output.len() < OUTPUT_BYTES_ENOUGH;
            Sending::Sent { more: all }
        };
        self.shared
            .broker
            .send(self.client.key, self.client.connection, take);
        self.has_more = !all;
    }
}

/// A message that is alive has at least a second to live.
fn seconds_up(life: Duration) -> u32 {
    let seconds = life.as_secs() + u64::from(life.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
