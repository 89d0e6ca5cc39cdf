//! CONNECT and CONNACK.

use std::time::Duration;

use crate::client::{Client, connect, expiry, packet, text};
use crate::relay::Relay;

/// Sends a CONNECT; returns the CONNACK, or none where the server closed.
async fn answer(relay: &Relay, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut client = Client::open(relay.addr).await;
    client.send(bytes).await;
    let (first, body) = client.try_packet().await?;
    assert_eq!(first, 0x20, "the first packet is a CONNACK");
    if body[1] != 0 {
        assert_eq!(body[0], 0, "no session is present where it is refused");
        assert_eq!(client.try_packet().await, None, "and then it closes");
    }
    Some(body)
}

/// The properties of a CONNACK of MQTT 5, as (identifier, bytes); all that are sent here.
fn properties(body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &body[3..];
    assert_eq!(usize::from(body[2]), rest.len());
    let mut found = Vec::new();
    while let Some((&id, value)) = rest.split_first() {
        let length = match id {
            36 | 37 | 40 | 41 | 42 => 1,
            19 | 33 | 34 => 2,
            17 | 39 => 4,
            18 | 21 | 26 | 28 | 31 => 2 + usize::from(u16::from_be_bytes([value[0], value[1]])),
            _ => panic!("property {id}"),
        };
        found.push((id, value[..length].to_vec()));
        rest = &value[length..];
    }
    found
}

fn value(body: &[u8], id: u8) -> Option<Vec<u8>> {
    let mut all = properties(body).into_iter();
    all.find(|(found, _)| *found == id).map(|(_, value)| value)
}

#[tokio::test]
async fn a_connect_whose_flags_and_fields_disagree_is_refused() {
    let relay = Relay::start().await;
    let will = [text("t"), text("m")].concat();
    let v5_will = [vec![0], will.clone()].concat();
    let user = text("u");
    let not_utf8 = vec![0, 2, 0xC3, 0x28];
    let surrogate = vec![0, 3, 0xED, 0xA0, 0x80];
    // Flags, and what follows the client id for 3.1.1 and for 5.
    let cases: Vec<(u8, Vec<u8>, Vec<u8>, &str)> = vec![
        (0x03, vec![], vec![], "the reserved flag"),
        (0x1E, will.clone(), v5_will.clone(), "will QoS 3"),
        (0x0A, vec![], vec![], "will QoS without a will"),
        (0x22, vec![], vec![], "will retain without a will"),
        (0x06, vec![], vec![], "a will flag without a will"),
        (0x02, will.clone(), v5_will, "a will without its flag"),
        (0x82, vec![], vec![], "a user name flag without one"),
        (
            0x02,
            user.clone(),
            user.clone(),
            "a user name without its flag",
        ),
        (
            0xC2,
            user.clone(),
            user.clone(),
            "a password flag without one",
        ),
        (
            0x82,
            [user.clone(), user.clone()].concat(),
            [user.clone(), user].concat(),
            "a password without its flag",
        ),
        (
            0x82,
            not_utf8.clone(),
            not_utf8.clone(),
            "a user name that is not UTF-8",
        ),
        (
            0x82,
            surrogate.clone(),
            surrogate,
            "a surrogate in the user name",
        ),
        (0x82, text("a\0"), text("a\0"), "NUL in the user name"),
        (
            0x06,
            [not_utf8.clone(), text("m")].concat(),
            [vec![0], not_utf8, text("m")].concat(),
            "a will topic that is not UTF-8",
        ),
        (
            0x06,
            [text("a/#"), text("m")].concat(),
            [vec![0], text("a/#"), text("m")].concat(),
            "a wildcard in the will topic",
        ),
    ];
    for (flags, v4, v5, what) in cases {
        let bytes = connect(4, flags, 0, &[], "a", &v4);
        assert_eq!(answer(&relay, &bytes).await, None, "{what}");
        let bytes = connect(5, flags, 0, &[], "a", &v5);
        let refused = answer(&relay, &bytes).await.unwrap();
        assert!(matches!(refused[1], 0x81 | 0x82 | 0x90), "{what}");
    }
    let password_alone = connect(4, 0x42, 0, &[], "a", &text("p"));
    assert_eq!(answer(&relay, &password_alone).await, None);
    assert_eq!(relay.stats.connects_total.get(), 0);
}

#[tokio::test]
async fn properties_of_a_connect_stand_once_with_a_value_they_may_have() {
    let relay = Relay::start().await;
    for (properties, reason) in [
        (vec![33, 0, 0], 0x82),
        (vec![39, 0, 0, 0, 0], 0x82),
        (vec![33, 0, 9, 33, 0, 9], 0x82),
        (vec![25, 2], 0x82),
        (vec![23, 2], 0x82),
        (vec![22, 0, 1, 1], 0x82),
        (vec![35, 0, 1], 0x81),
        (vec![99, 0], 0x81),
        (vec![17, 0, 0], 0x81),
    ] {
        let bytes = connect(5, 2, 0, &properties, "a", &[]);
        let refused = answer(&relay, &bytes).await.unwrap();
        assert_eq!(refused, [0, reason, 0], "{properties:?}");
    }
}

#[tokio::test]
async fn the_connack_says_what_the_relay_takes_and_nothing_that_it_does_not_do() {
    let relay = Relay::start().await;
    // Asks for response information, and for no problem information.
    let asked = [expiry(60), vec![25, 1, 23, 0, 34, 0, 9]].concat();
    let body = answer(&relay, &connect(5, 2, 0, &asked, "a", &[]))
        .await
        .unwrap();
    assert_eq!(body[..2], [0, 0]);
    let mut found = properties(&body);
    found.sort();
    // Receive maximum, topic alias maximum, maximum packet size. Without the others, all is available; without
    // 19 the client's keep alive counts, without 17 its session expiry.
    assert_eq!(
        found,
        [
            (33, vec![1, 0]),
            (34, vec![0, 32]),
            (39, 262_144u32.to_be_bytes().to_vec()),
        ]
    );
    let long = connect(5, 2, 0, &expiry(u32::MAX), "b", &[]);
    let body = answer(&relay, &long).await.unwrap();
    let week = (7u32 * 24 * 3600).to_be_bytes();
    assert_eq!(
        value(&body, 17),
        Some(week.to_vec()),
        "told where it is cut"
    );
}

#[tokio::test]
async fn an_empty_client_id_gets_one_of_its_own_and_others_are_taken_as_they_are() {
    let relay = Relay::start().await;
    let mut given = Vec::new();
    for flags in [0, 2, 2] {
        let body = answer(&relay, &connect(5, flags, 0, &[], "", &[]))
            .await
            .unwrap();
        given.push(value(&body, 18).expect("an assigned client id"));
    }
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 3);
    let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for id in [&all[..1], &all[..23], &all[20..43], all, "compteur é/#"] {
        for level in [4, 5] {
            let body = answer(&relay, &connect(level, 0, 0, &[], id, &[])).await;
            let body = body.expect(id);
            assert_eq!(body[1], 0, "{id}");
            assert!(level == 4 || value(&body, 18).is_none(), "{id}");
        }
    }
}

#[tokio::test]
async fn what_follows_a_refused_connect_is_not_acted_on() {
    let relay = Relay::start_with(|s| s.allow_anonymous = false).await;
    for (level, refusal) in [(4, vec![0, 5]), (5, vec![0, 0x87, 0])] {
        let mut client = Client::open(relay.addr).await;
        client.v5 = level == 5;
        let mut bytes = connect(level, 2, 0, &[], "a", &[]);
        bytes.extend(client.publish_bytes(3, "meters/1", 1, b"x"));
        client.send(&bytes).await;
        assert_eq!(client.packet().await, (0x20, refusal));
        assert_eq!(client.try_packet().await, None);
    }
    assert_eq!(relay.stats.publishes_received_total.get(), 0);
    assert_eq!(relay.readings(), []);
}

#[tokio::test]
async fn what_follows_a_connect_at_once_is_answered_after_the_connack() {
    let relay = Relay::start().await;
    let mut client = Client::open(relay.addr).await;
    let mut bytes = connect(4, 2, 0, &[], "a", &[]);
    bytes.extend(client.publish_bytes(2, "meters/1", 1, b"x"));
    bytes.extend([0xC0, 0]);
    client.send(&bytes).await;
    assert_eq!(client.packet().await, (0x20, vec![0, 0]));
    let mut answers = [client.packet().await.0, client.packet().await.0];
    answers.sort_unstable();
    assert_eq!(answers, [0x40, 0xD0]);
    client.quiet().await;
}

#[tokio::test]
async fn no_packet_exceeds_the_clients_maximum_packet_size() {
    let relay = Relay::start().await;
    let maximum = |bytes: u32| [vec![39], bytes.to_be_bytes().to_vec()].concat();
    let tiny = connect(5, 2, 0, &maximum(12), "a", &[]);
    assert_eq!(answer(&relay, &tiny).await, Some(vec![0, 0x95, 0]));
    let (mut client, _) = Client::v5(relay.addr, "a", true, &maximum(40)).await;
    let names: Vec<String> = (0..50).map(|n| format!("f/{n}")).collect();
    let filters: Vec<(&str, u8)> = names.iter().map(|n| (n.as_str(), 0)).collect();
    client.subscribe(&filters[..20]).await;
    let many = client.subscribe_bytes(9, &filters, &[]);
    client.send(&many).await;
    client.closed(0x95).await;
}

#[tokio::test]
async fn a_keep_alive_of_0_is_none_unless_the_relay_says_another() {
    let relay = Relay::start_with(|s| s.idle_timeout = Some(Duration::from_secs(1))).await;
    let mut told = Client::open(relay.addr).await;
    told.v5 = true;
    told.send(&connect(5, 2, 0, &[], "told", &[])).await;
    let body = told.packet().await.1;
    assert_eq!(value(&body, 19), Some(vec![0, 1]));
    let own = connect(5, 2, 300, &[], "own", &[]);
    let body = answer(&relay, &own).await.unwrap();
    assert_eq!(value(&body, 19), None, "its own keep alive counts");
    told.closed(0x8D).await;
    let relay = Relay::start().await;
    let body = answer(&relay, &connect(5, 2, 0, &[], "none", &[])).await;
    assert_eq!(value(&body.unwrap(), 19), None);
}

#[tokio::test]
async fn a_silent_client_of_3_1_1_is_closed_and_its_will_published() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("t", 0)]).await;
    let will = [text("t"), text("gone")].concat();
    let mut silent = Client::open(relay.addr).await;
    silent
        .send(&connect(4, 0x06, 1, &[], "silent", &will))
        .await;
    assert_eq!(silent.packet().await, (0x20, vec![0, 0]));
    let since = std::time::Instant::now();
    silent.closed(0).await;
    assert!(
        since.elapsed() > Duration::from_millis(1300),
        "one and a half times"
    );
    assert_eq!(reader.published().await.payload, b"gone");
}

#[tokio::test]
async fn enhanced_authentication_is_refused_and_no_auth_is_ever_sent() {
    let relay = Relay::start().await;
    let method = [vec![21], text("SCRAM-SHA-1")].concat();
    let asked = connect(5, 2, 0, &method, "a", &[]);
    assert_eq!(answer(&relay, &asked).await, Some(vec![0, 0x8C, 0]));
    for (auth, reason) in [(packet(0xF0, &[]), 0x82), (packet(0xF1, &[]), 0x81)] {
        let mut client = relay.v5("a").await;
        client.send(&auth).await;
        client.closed(reason).await;
    }
}
