//! A reading as a frame carries it.

use hub_bridge::clock::Clock;
use hub_bridge::reading::Reading;
use hub_bridge::wire::frame::Carried;

/// With the best time that is known of it by now.
pub(super) fn carried(reading: &Reading, clock: &dyn Clock) -> Carried {
    let (at, quality) = clock.best_time_of(&reading.received);
    Carried {
        sequence: reading.sequence,
        topic: reading.topic.clone(),
        client_id: reading.client_id.clone(),
        payload: reading.payload.clone(),
        qos: reading.qos,
        retain: reading.retain,
        at,
        clock: quality,
        properties: reading.properties.clone(),
        repeat_of: reading.repeat_of,
    }
}
