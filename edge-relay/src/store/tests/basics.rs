//! Append, read, confirm, reopen.

use hub_bridge::backlog::{Backlog, BacklogError, Mark};
use hub_bridge::identity::Sequence;

use super::fixture::*;
use crate::store::EpochReason;

#[test]
fn what_was_appended_is_read_back_in_order_and_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open(&settings(dir.path()));
    assert_eq!(report.began, Some(EpochReason::NewStore));
    let mut sent = Vec::new();
    let sizes = [20, 200, 7_000, 9_000, 20_000, 256 * 1024, 21, 0x2000 - 100];
    for (n, size) in sizes.into_iter().enumerate() {
        let mut r = reading(n as u64, size);
        if n % 2 == 0 {
            r.properties = Some(Box::new(hub_bridge::reading::PublishProperties {
                payload_format_indicator: Some(1),
                content_type: Some("text/plain".into()),
                response_topic: Some("réponse/à".into()),
                correlation_data: Some(bytes::Bytes::from_static(b"\0\x01\xff")),
                user_properties: vec![("k".into(), "v".into()), ("k".into(), String::new())],
            }));
        }
        sent.push(r);
    }
    let committed = append(&store, sent.clone()).unwrap();
    assert_eq!(committed.range, range(1, sizes.len() as u64));
    let check = |store: &crate::store::Store| {
        let back = read_all(store, committed.epoch);
        assert_eq!(back.len(), sent.len());
        for ((sequence, sent), back) in (1..).zip(&sent).zip(&back) {
            assert_eq!(back.sequence, Sequence(sequence));
            assert_eq!(back.topic, sent.topic);
            assert_eq!(back.client_id, sent.client_id);
            assert!(back.payload == sent.payload);
            assert_eq!(
                (back.qos, back.retain, back.packet_id, back.received),
                (sent.qos, sent.retain, sent.packet_id, sent.received)
            );
            assert_eq!(back.properties, sent.properties);
            assert_eq!(back.repeat_of, None);
        }
    };
    check(&store);
    drop(store);
    let (store, report) = open(&settings(dir.path()));
    assert_eq!(report.began, None);
    assert!(report.closed_cleanly);
    assert_eq!(report.waiting_readings, sizes.len() as u64);
    check(&store);
}

#[test]
fn many_segments_are_read_confirmed_and_go_on_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 3000, 50, 200);
    assert!(store.segments().len() > 5, "{}", store.segments().len());
    assert_eq!(waiting_numbers(&store), (0..3000).collect::<Vec<_>>());
    let epoch = current(&store);
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 1000), range(1500, 1600)])
        .unwrap();
    let expected: Vec<u64> = (1000..1499).chain(1600..3000).collect();
    assert_eq!(waiting_numbers(&store), expected);
    drop(store);
    let (store, report) = open(&settings);
    assert_eq!(report.began, None);
    assert_eq!(waiting_numbers(&store), expected);
    assert_eq!(store.stats().readings, expected.len() as u64);
    let committed = append(&store, vec![reading(3000, 200)]).unwrap();
    assert_eq!(
        (committed.epoch, committed.range),
        (epoch, range(3001, 3001))
    );
}

#[test]
fn confirming_what_was_never_appended_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    fill(&store, 0, 10, 10, 50);
    let error = store.confirm(current(&store), Mark::Forwarded, &[range(5, 11)]);
    assert!(
        matches!(error, Err(BacklogError::NeverAppended { .. })),
        "{error:?}"
    );
    assert_eq!(store.stats().readings, 10);
}
