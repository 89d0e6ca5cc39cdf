//! What of a session goes to the state database, and leaves it.
//!
//! Invariant: a session that outlives its connection is on disk whole, another one not at all.

use std::time::Duration;

use super::record::{self, Key};
use super::session::Session;
use super::state::Change;

/// The session's record as it is now.
pub(super) fn session_change(session: &Session) -> Change {
    let key = Key::Session(session.client_id.to_string());
    (key.encode(), Some(record::encode_session(session)))
}

/// All of the session that lies on disk goes.
pub(super) fn forget_session(session: &Session, changes: &mut Vec<Change>) {
    let client = session.client_id.to_string();
    changes.push((Key::Session(client.clone()).encode(), None));
    changes.push((Key::Settled(client.clone()).encode(), None));
    for id in &session.received {
        changes.push((Key::Received(client.clone(), *id).encode(), None));
    }
    for (number, _, _) in session.numbered() {
        changes.push((Key::Queued(client.clone(), number).encode(), None));
        changes.push((Key::Released(client.clone(), number).encode(), None));
    }
}

/// All of the session goes to disk.
fn keep_session(session: &Session, now: Duration, changes: &mut Vec<Change>) {
    let client = session.client_id.to_string();
    changes.push(session_change(session));
    if let Some(settled) = session.settled {
        let key = Key::Settled(client.clone());
        changes.push((key.encode(), Some(record::encode_position(settled))));
    }
    for id in &session.received {
        changes.push((
            Key::Received(client.clone(), *id).encode(),
            Some(Vec::new()),
        ));
    }
    for (number, delivery, released) in session.numbered() {
        let key = Key::Queued(client.clone(), number);
        changes.push((key.encode(), Some(record::encode_delivery(delivery, now))));
        if released {
            let key = Key::Released(client.clone(), number);
            changes.push((key.encode(), Some(Vec::new())));
        }
    }
}

/// A session that becomes persistent goes to disk whole, one that stops being so leaves it.
pub(super) fn change_expiry(
    session: &mut Session,
    expiry: Duration,
    now: Duration,
    changes: &mut Vec<Change>,
) {
    if session.expiry == expiry {
        return;
    }
    let was_persistent = session.persistent();
    session.expiry = expiry;
    match (was_persistent, session.persistent()) {
        (true, true) => changes.push(session_change(session)),
        (false, true) => keep_session(session, now, changes),
        (true, false) => forget_session(session, changes),
        (false, false) => {}
    }
}

/// The changes that forget a delivery of a session.
pub(super) fn forget(session: &Session, number: u64) -> Vec<Change> {
    if !session.persistent() {
        return Vec::new();
    }
    let client = session.client_id.to_string();
    vec![
        (Key::Queued(client.clone(), number).encode(), None),
        (Key::Released(client, number).encode(), None),
    ]
}
