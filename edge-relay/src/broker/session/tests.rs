use bytes::Bytes;

use super::super::message::Message;
use super::*;

fn delivery(qos: u8) -> Delivery {
    Delivery {
        message: Arc::new(Message {
            topic: "t".into(),
            payload: Bytes::from_static(b"p"),
            qos,
            retain: false,
            publisher: "m".into(),
            properties: None,
            expires_at: None,
        }),
        qos,
        retain: false,
        subscription_ids: Vec::new(),
        share: None,
    }
}

fn linked(window: u16) -> Session {
    let mut session = Session::new("s".into(), Duration::from_secs(9));
    session.link = Some(link(window));
    session
}

fn link(window: u16) -> Link {
    Link {
        connection: 1,
        wake: Arc::new(Notify::new()),
        taken_over: CancellationToken::new(),
        through: CancellationToken::new(),
        window,
    }
}

fn next_id(session: &mut Session) -> Option<(u16, bool)> {
    match session.next_to_send()? {
        Next::Publish { packet_id, dup, .. } => Some((packet_id, dup)),
        Next::Release(id) => Some((id, false)),
    }
}

#[test]
fn the_window_bounds_what_is_in_flight_and_acks_may_come_out_of_order() {
    let mut session = linked(2);
    for _ in 0..4 {
        session.push(delivery(1));
    }
    assert_eq!(next_id(&mut session), Some((1, false)));
    assert_eq!(next_id(&mut session), Some((2, false)));
    assert_eq!(next_id(&mut session), None);
    assert_eq!(session.puback(2), Acked::Done(2));
    assert_eq!(session.puback(2), Acked::Unknown);
    assert_eq!(next_id(&mut session), Some((3, false)));
    assert_eq!(session.puback(1), Acked::Done(1));
    assert_eq!(session.puback(3), Acked::Done(3));
    assert_eq!(next_id(&mut session), Some((4, false)));
}

#[test]
fn what_was_not_acknowledged_is_sent_again_with_its_id_and_dup() {
    let mut session = linked(10);
    session.push(delivery(1));
    session.push(delivery(2));
    session.push(delivery(0));
    session.push(delivery(1));
    assert_eq!(next_id(&mut session), Some((1, false)));
    assert_eq!(next_id(&mut session), Some((2, false)));
    assert_eq!(session.pubrec(2, false), Acked::Released(2));
    session.disconnected(Duration::ZERO);
    assert_eq!(session.len(), 3, "QoS 0 is not kept for the absent");
    session.link = Some(link(10));
    assert_eq!(next_id(&mut session), Some((1, true)));
    assert_eq!(session.next_to_send(), Some(Next::Release(2)));
    assert_eq!(next_id(&mut session), Some((3, false)));
    assert_eq!(session.pubcomp(2), Acked::Done(2));
}

#[test]
fn no_packet_id_is_used_twice_at_a_time() {
    let mut session = linked(u16::MAX);
    session.push(delivery(1));
    assert_eq!(next_id(&mut session), Some((1, false)));
    for number in 2..=65_535u64 {
        session.push(delivery(1));
        let (id, _) = next_id(&mut session).unwrap();
        assert_eq!(session.puback(id), Acked::Done(number));
    }
    session.push(delivery(1));
    assert_eq!(next_id(&mut session), None, "id 1 is still in flight");
    assert_eq!(session.puback(1), Acked::Done(1));
    assert_eq!(next_id(&mut session), Some((1, false)));
}

#[test]
fn bytes_return_to_zero() {
    let mut session = linked(10);
    for qos in [0, 1, 2] {
        session.push(delivery(qos));
        next_id(&mut session);
    }
    session.puback(1);
    session.pubrec(2, false);
    session.pubcomp(2);
    assert_eq!((session.bytes(), session.len()), (0, 0));
}
