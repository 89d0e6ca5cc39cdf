//! Opens connections: the first, and more where the hub's receive maximum starves the link.

use std::time::Duration;

use tracing::{info, warn};

use super::Link;
use crate::classify::{ErrorClass, Failure};
use crate::connection::{Connection, HubLimits, Plan};
use crate::inflight::Ticket;

/// Below this round trip a receive maximum does not starve a link.
const ROUND_TRIP_SHORT: Duration = Duration::from_millis(20);

impl Link {
    /// Opens one more connection; it carries nothing until the hub accepts it.
    pub(super) fn open_connection(&mut self) {
        let number = self.connections.len();
        let hub = &self.parts.settings.hub;
        // The hub's own limit is known once it accepted the first: no need of longer tables then.
        let in_flight_max = self
            .limits
            .receive_maximum
            .map_or(hub.in_flight_max, |max| max.min(hub.in_flight_max));
        let plan = Plan {
            hub,
            client_id: format!("{}-{number}", self.client_id),
            version: self.version,
            tls: self.tls.clone(),
            in_flight_max: in_flight_max.max(1),
            subscribe: if number == 0 {
                self.receipts.clone()
            } else {
                Vec::new()
            },
            network: &self.parts.platform.network,
        };
        let connection = Connection::open(plan, number, self.lane_events.clone());
        self.connections.push(Some(connection));
        self.lane_of_connection.push(None);
        self.opening += 1;
    }

    pub(super) fn connection_up(&mut self, connection: usize, limits: HubLimits) {
        self.opening = self.opening.saturating_sub(1);
        if !self.accepted {
            self.limits = limits;
            self.connected_in = Some(self.now().saturating_sub(self.progress_at));
        }
        // What the first said holds for all: a hub of several brokers may say something else each time.
        let of_first = self.limits;
        self.limits = HubLimits {
            packet_bytes_max: least(limits.packet_bytes_max, of_first.packet_bytes_max),
            retain: limits.retain && of_first.retain,
            ..of_first
        };
        let in_flight_max = self.parts.settings.hub.in_flight_max;
        let slots = least(limits.receive_maximum, of_first.receive_maximum)
            .map_or(in_flight_max, |max| max.min(in_flight_max));
        let lane = self.lanes.add(usize::from(slots.max(1)));
        self.connection_of_lane.push(connection);
        self.answered_to.push(Ticket(0));
        if let Some(entry) = self.lane_of_connection.get_mut(connection) {
            *entry = Some(lane);
        }
        let (open, version) = (self.lanes.len(), self.version);
        self.parts.board.update(|board| {
            board.connections = open;
            board.version = Some(version);
            board.receive_maximum = limits.receive_maximum;
        });
        info!(connection, slots, ?version, "the hub accepted a connection");
    }

    /// A connection ended. One that was in use ends the link; an extra one that the hub never accepted only ends the growing.
    pub(super) fn connection_down(
        &mut self,
        connection: usize,
        failure: Failure,
    ) -> Result<(), Failure> {
        let in_use = self.lane_of_connection.get(connection).copied().flatten();
        if connection == 0 || in_use.is_some() || failure.class == ErrorClass::TakenOver {
            return Err(failure);
        }
        self.opening = self.opening.saturating_sub(1);
        if let Some(entry) = self.connections.get_mut(connection) {
            *entry = None;
        }
        self.connections_max = self.lanes.len();
        warn!(%failure, connections = self.lanes.len(), "the hub does not accept more connections");
        Ok(())
    }

    /// More connections, three times as many again, when for a whole round trip readings waited for nothing but
    /// the hub's receive maximum.
    pub(super) fn grow_if_starved(&mut self) {
        let pace = &self.memory.pace;
        // Before the first acknowledgement: connecting took at least two round trips.
        let round_trip = pace.round_trip().or(self.connected_in.map(|long| long / 2));
        let long = round_trip.filter(|trip| *trip >= ROUND_TRIP_SHORT);
        let starved = self.opening == 0
            && self.care.is_off()
            && self.lanes.len() < self.connections_max
            && self.lanes.clients() > self.lanes.len()
            && pace.has_room()
            && self.lanes.starved();
        let (Some(round_trip), true) = (long, starved) else {
            self.starved_since = None;
            return;
        };
        let now = self.now();
        let since = *self.starved_since.get_or_insert(now);
        // A round trip that was measured is waited for; the first time only the start of one is seen.
        if self.lanes.len() > 1 && now.saturating_sub(since) < round_trip {
            return;
        }
        self.starved_since = None;
        let more = (self.lanes.len() * 3)
            .min(self.connections_max - self.lanes.len())
            .min(self.lanes.clients() - self.lanes.len());
        info!(
            more,
            "the hub's receive maximum starves the link: opening connections"
        );
        for _ in 0..more {
            self.open_connection();
        }
    }
}

/// The less of two limits, where there are any.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}
