//! What TCP and IP put around the bytes of a stream: an estimate.
//!
//! The bill of a mobile operator counts IP packets. Each segment has 20 bytes of IPv4, 20 of TCP and 12 of the timestamps
//! that Linux always sends: 52; a full one carries the rest of 1,500. Each SYN has 60 (its options are longer). What a
//! receiver has nothing else to say to is acknowledged alone (52 bytes) at every second segment, or after 40 ms (RFC 9293,
//! 3.8.6.3, as Linux does it). A name that is looked up costs two questions and two answers, where nothing near keeps them.
//!
//! Not counted, since a program does not see it: what TCP sends again, and the link's own frames. IPv6 takes 20 bytes more a
//! segment. Checked against the packets of a real link in `hub-bridge/tests/metering.rs`.

use std::time::Duration;

/// Payload of a full segment.
const SEGMENT_BYTES: u64 = 1448;
/// IPv4, TCP, timestamps.
const HEADER_BYTES: u64 = 52;
/// The same with the options of a SYN.
const SYN_BYTES: u64 = 60;
/// A segment with RST has no options.
const RESET_BYTES: u64 = 40;
/// How long a receiver waits for something to say before it acknowledges alone.
const ACK_DELAY: Duration = Duration::from_millis(40);
/// IPv4, UDP, the header and the fixed part of a question; an answer has one address more, on average.
const QUESTION_BYTES: u64 = 46;
const ANSWER_BYTES: u64 = QUESTION_BYTES + 22;

/// Header bytes in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Headers {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// The segments of one connection, as far as they can be told from what is written and read.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Came, and was not acknowledged yet by anything we sent.
    unanswered: u64,
    /// When the last of them came.
    came_at: Duration,
    /// Sent, and not acknowledged alone yet.
    unheard: u64,
}

impl Segments {
    /// `bytes` were written in one piece.
    pub(super) fn wrote(&mut self, bytes: u64, now: Duration) -> Headers {
        let late = self.acknowledged_alone(now);
        let segments = bytes.div_ceil(SEGMENT_BYTES);
        // What leaves acknowledges what came.
        self.unanswered = 0;
        self.unheard += segments;
        // The hub acknowledges every second at once; the rest with what it answers.
        let heard = self.unheard / 2;
        self.unheard %= 2;
        // One segment is answered by what it asks for; only a row of them is acknowledged alone.
        let alone = if segments > 1 { heard } else { 0 };
        Headers {
            sent: late + segments * HEADER_BYTES,
            received: alone * HEADER_BYTES,
        }
    }

    /// `bytes` were read in one piece.
    pub(super) fn read(&mut self, bytes: u64, now: Duration) -> Headers {
        let late = self.acknowledged_alone(now);
        let segments = bytes.div_ceil(SEGMENT_BYTES);
        self.unheard = 0;
        self.unanswered += segments;
        self.came_at = now;
        let alone = self.unanswered / 2;
        self.unanswered %= 2;
        Headers {
            sent: late + alone * HEADER_BYTES,
            received: segments * HEADER_BYTES,
        }
    }

    /// The connection ends: FIN and its acknowledgement, each way.
    pub(super) fn closed(&mut self, now: Duration) -> Headers {
        Headers {
            sent: self.acknowledged_alone(now) + 2 * HEADER_BYTES,
            received: 2 * HEADER_BYTES,
        }
    }

    /// What came and was not answered within the delay went off as an acknowledgement alone.
    fn acknowledged_alone(&mut self, now: Duration) -> u64 {
        let alone = self.unanswered > 0 && now.saturating_sub(self.came_at) >= ACK_DELAY;
        if alone {
            self.unanswered = 0;
        }
        u64::from(alone) * HEADER_BYTES
    }
}

/// What came of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialled {
    Connected,
    /// The other side said no.
    Refused,
    /// Nothing came back.
    Silence,
    /// Nothing left: there is no way, or no such name.
    NoWay,
}

/// The packets of an attempt that took `long`.
pub(super) fn dialling(dialled: Dialled, long: Duration) -> Headers {
    match dialled {
        Dialled::Connected => Headers {
            sent: SYN_BYTES + HEADER_BYTES,
            received: SYN_BYTES,
        },
        Dialled::Refused => Headers {
            sent: SYN_BYTES,
            received: RESET_BYTES,
        },
        // Again after 1, 3, 7, 15 ... seconds (RFC 6298).
        Dialled::Silence => Headers {
            sent: SYN_BYTES * u64::from((long.as_secs() + 1).ilog2() + 1),
            received: 0,
        },
        Dialled::NoWay => Headers::default(),
    }
}

/// A look-up of `host`: nothing where it is an address.
pub(super) fn looking_up(host: &str) -> Headers {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return Headers::default();
    }
    let name = host.len() as u64;
    Headers {
        sent: 2 * (QUESTION_BYTES + name),
        received: 2 * (ANSWER_BYTES + name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn headers(sent: u64, received: u64) -> Headers {
        Headers { sent, received }
    }

    #[test]
    fn a_publish_and_its_puback_acknowledge_each_other() {
        let mut segments = Segments::default();
        assert_eq!(segments.wrote(228, 10 * MS), headers(52, 0));
        assert_eq!(segments.read(4, 30 * MS), headers(0, 52));
        assert_eq!(segments.wrote(228, 31 * MS), headers(52, 0));
    }

    #[test]
    fn what_is_answered_too_late_was_acknowledged_alone() {
        let mut segments = Segments::default();
        segments.read(4, Duration::ZERO);
        assert_eq!(segments.wrote(228, 500 * MS), headers(104, 0));
        segments.read(4, 600 * MS);
        assert_eq!(segments.closed(900 * MS), headers(52 + 104, 104));
    }

    #[test]
    fn a_long_write_is_acknowledged_at_every_second_segment() {
        let mut segments = Segments::default();
        assert_eq!(segments.wrote(14_480, Duration::ZERO), headers(520, 260));
        assert_eq!(segments.read(14_480, MS), headers(260, 520));
    }

    #[test]
    fn an_attempt_that_fails_costs_its_syns() {
        let silence = |seconds| dialling(Dialled::Silence, Duration::from_secs(seconds)).sent / 60;
        assert_eq!(
            [silence(0), silence(1), silence(3), silence(15)],
            [1, 2, 3, 5]
        );
        assert_eq!(dialling(Dialled::NoWay, MS), headers(0, 0));
        assert_eq!(dialling(Dialled::Refused, MS), headers(60, 40));
    }

    #[test]
    fn an_address_is_not_looked_up() {
        assert_eq!(looking_up("127.0.0.1"), headers(0, 0));
        assert_eq!(looking_up("::1"), headers(0, 0));
        assert_eq!(looking_up("hub.example"), headers(114, 158));
    }
}
