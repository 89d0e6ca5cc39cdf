//! Which connection carries which publishing client.
//!
//! A hub's receive maximum limits what may be in flight on one connection, so a long link needs several of
//! them. Invariant: the readings of one client leave in the order they came. So a client stays on its lane
//! while anything of it is in flight, and is moved to another only in between.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Something of a publishing client that waits for its turn.
pub(crate) trait OfClient {
    /// The publishing client.
    fn client(&self) -> &Arc<str>;

    /// About how much memory it takes.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Lane<T> {
    queue: VecDeque<T>,
    in_flight: usize,
    slots: usize,
    clients: usize,
}

#[derive(Debug)]
struct Client<T> {
    lane: usize,
    queued: usize,
    in_flight: usize,
    moving: Option<(usize, VecDeque<T>)>,
}

impl<T> Client<T> {
    /// The lane that it is on, or is moving to.
    fn bound_for(&self) -> usize {
        self.moving
            .as_ref()
            .map_or(self.lane, |(target, _)| *target)
    }
}

/// The lanes of a link.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    rows: Vec<Lane<T>>,
    clients: HashMap<Arc<str>, Client<T>>,
    queued: usize,
    queued_bytes: usize,
}

impl<T: OfClient> Lanes<T> {
    /// No lanes yet.
    pub(crate) fn new() -> Self {
        Self {
            rows: Vec::new(),
            clients: HashMap::new(),
            queued: 0,
            queued_bytes: 0,
        }
    }

    /// How many lanes there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// A new lane with `slots` places in flight; it takes its share of clients from the others.
    pub(crate) fn add(&mut self, slots: usize) -> usize {
        let new = self.rows.len();
        self.rows.push(Lane {
            queue: VecDeque::new(),
            in_flight: 0,
            slots,
            clients: 0,
        });
        let share = self.clients.len() / self.rows.len();
        for _ in 0..share {
            let Some(crowded) = (0..new).max_by_key(|n| self.rows.get(*n).map_or(0, |l| l.clients))
            else {
                break;
            };
            // The first by name, so that a run can be repeated.
            let of_crowded = |(_, client): &(_, &Client<T>)| client.bound_for() == crowded;
            let found = self.clients.iter().filter(of_crowded);
            let Some(name) = found.map(|(name, _)| Arc::clone(name)).min() else {
                break;
            };
            self.begin_move(&name, new);
        }
        new
    }

    /// Puts an item at the end of its client's lane.
    pub(crate) fn push(&mut self, item: T) {
        let name = Arc::clone(item.client());
        if !self.clients.contains_key(&name) {
            let lane = self.least_loaded();
            if let Some(lane) = self.rows.get_mut(lane) {
                lane.clients += 1;
            }
            self.clients.insert(
                Arc::clone(&name),
                Client {
                    lane,
                    queued: 0,
                    in_flight: 0,
                    moving: None,
                },
            );
        }
        let Some(client) = self.clients.get_mut(&name) else {
            return;
        };
        client.queued += 1;
        self.queued += 1;
        self.queued_bytes += item.bytes();
        if let Some((_, held)) = &mut client.moving {
            held.push_back(item);
        } else if let Some(lane) = self.rows.get_mut(client.lane) {
            lane.queue.push_back(item);
        }
    }

    /// The lane whose next item may leave, if any: the one whose turn it is by `order` of its first item.
    pub(crate) fn ready<K: Ord>(&self, order: impl Fn(&T) -> K) -> Option<usize> {
        self.rows
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.in_flight < lane.slots)
            .filter_map(|(n, lane)| lane.queue.front().map(|item| (order(item), n)))
            .min_by(|a, b| a.0.cmp(&b.0))
            .map(|(_, n)| n)
    }

    /// Whether items wait that only a full lane keeps from leaving.
    pub(crate) fn starved(&self) -> bool {
        self.rows
            .iter()
            .any(|lane| !lane.queue.is_empty() && lane.in_flight >= lane.slots)
    }

    /// Takes the next item of a lane; it is in flight from now on.
    pub(crate) fn take(&mut self, lane: usize) -> Option<T> {
        let lane = self.rows.get_mut(lane)?;
        let item = lane.queue.pop_front()?;
        lane.in_flight += 1;
        self.departs(&item);
        Some(item)
    }

    /// Takes another item of a lane out of turn, passing over `skip` that would do: not one that `is_suspect`, nor
    /// one of the same client behind it. `None` where nothing else waits.
    pub(crate) fn take_other(
        &mut self,
        lane: usize,
        is_suspect: impl Fn(&T) -> bool,
        skip: usize,
    ) -> Option<T> {
        let lane = self.rows.get_mut(lane)?;
        let suspect = lane.queue.iter().find(|item| is_suspect(item));
        let client = suspect.map(|item| Arc::clone(item.client()));
        let mut seen: Vec<&Arc<str>> = Vec::new();
        // The first of a client only: its readings keep their order.
        let mut place = lane.queue.iter().enumerate().filter(|(_, item)| {
            let first = !seen.contains(&item.client());
            seen.push(item.client());
            first && Some(item.client()) != client.as_ref()
        });
        let (place, _) = place.nth(skip)?;
        let item = lane.queue.remove(place)?;
        lane.in_flight += 1;
        self.departs(&item);
        Some(item)
    }

    fn departs(&mut self, item: &T) {
        self.queued = self.queued.saturating_sub(1);
        self.queued_bytes = self.queued_bytes.saturating_sub(item.bytes());
        if let Some(client) = self.clients.get_mut(item.client()) {
            client.queued = client.queued.saturating_sub(1);
            client.in_flight += 1;
        }
    }

    /// An item of `client` on `lane` is no longer in flight.
    pub(crate) fn landed(&mut self, lane: usize, client: &Arc<str>) {
        if let Some(lane) = self.rows.get_mut(lane) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        let Some(found) = self.clients.get_mut(client) else {
            return;
        };
        found.in_flight = found.in_flight.saturating_sub(1);
        if found.in_flight > 0 {
            return;
        }
        if let Some((target, held)) = found.moving.take() {
            found.lane = target;
            if let Some(lane) = self.rows.get_mut(target) {
                lane.queue.extend(held);
            }
        }
        if found.queued == 0 {
            let lane = found.lane;
            self.clients.remove(client);
            if let Some(lane) = self.rows.get_mut(lane) {
                lane.clients = lane.clients.saturating_sub(1);
            }
        }
    }

    /// Takes a place in flight on a lane for what is no item; whether there was one.
    pub(crate) fn occupy(&mut self, lane: usize) -> bool {
        let lane = self.rows.get_mut(lane);
        lane.filter(|lane| lane.in_flight < lane.slots)
            .map(|lane| lane.in_flight += 1)
            .is_some()
    }

    /// Gives a place back that [`occupy`](Self::occupy) took.
    pub(crate) fn vacate(&mut self, lane: usize) {
        if let Some(lane) = self.rows.get_mut(lane) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
    }

    /// How many items wait.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// How many bytes wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// How many clients have items that wait or are in flight.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    fn least_loaded(&self) -> usize {
        (0..self.rows.len())
            .min_by_key(|n| {
                self.rows.get(*n).map_or((usize::MAX, 0), |l| {
                    (l.clients, l.queue.len() + l.in_flight)
                })
            })
            .unwrap_or(0)
    }

    fn begin_move(&mut self, name: &Arc<str>, target: usize) {
        let Some(client) = self.clients.get_mut(name) else {
            return;
        };
        let left = client.bound_for();
        if let Some(lane) = self.rows.get_mut(left) {
            lane.clients = lane.clients.saturating_sub(1);
        }
        if let Some(lane) = self.rows.get_mut(target) {
            lane.clients += 1;
        }
        if let Some((moving_to, _)) = &mut client.moving {
            *moving_to = target;
            return;
        }
        let Some(from) = self.rows.get_mut(client.lane) else {
            return;
        };
        let queue = std::mem::take(&mut from.queue);
        let (own, rest): (VecDeque<T>, VecDeque<T>) =
            queue.into_iter().partition(|item| item.client() == name);
        from.queue = rest;
        if client.in_flight > 0 {
            client.moving = Some((target, own));
        } else if let Some(to) = self.rows.get_mut(target) {
            client.lane = target;
            to.queue.extend(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Item {
        client: Arc<str>,
        number: u64,
    }

    impl OfClient for Item {
        fn client(&self) -> &Arc<str> {
            &self.client
        }

        fn bytes(&self) -> usize {
            7
        }
    }

    proptest! {
        /// Whatever is pushed, taken, landed and added: the readings of one client leave in their order, none
        /// is lost or doubled, a client is on one lane at a time, and no lane is over its slots.
        #[test]
        fn the_order_of_a_client_is_kept(steps in prop::collection::vec((0u8..8, any::<usize>()), 0..600)) {
            let mut lanes = Lanes::new();
            lanes.add(3);
            let mut pushed = 0u64;
            let mut flying: Vec<(usize, Item)> = Vec::new();
            let mut left: HashMap<Arc<str>, u64> = HashMap::new();
            let mut taken = 0u64;
            for (step, pick) in steps {
                match step {
                    0..=2 => {
                        pushed += 1;
                        let client: Arc<str> = format!("m{}", pick % 5).into();
                        lanes.push(Item { client, number: pushed });
                    }
                    3..=4 => if let Some(lane) = lanes.ready(|item: &Item| item.number) {
                        let item = lanes.take(lane).unwrap();
                        prop_assert!(left.get(&item.client).copied().unwrap_or(0) < item.number);
                        left.insert(Arc::clone(&item.client), item.number);
                        prop_assert!(flying.iter().all(|(l, i)| i.client != item.client || *l == lane));
                        taken += 1;
                        flying.push((lane, item));
                        prop_assert!(flying.iter().filter(|(l, _)| *l == lane).count() <= 3);
                    }
                    5..=6 if !flying.is_empty() => {
                        let (lane, item) = flying.swap_remove(pick % flying.len());
                        lanes.landed(lane, &item.client);
                    }
                    7 if lanes.len() < 6 => { lanes.add(3); }
                    _ => {}
                }
            }
            loop {
                while let Some(lane) = lanes.ready(|item: &Item| item.number) {
                    let item = lanes.take(lane).unwrap();
                    prop_assert!(left.get(&item.client).copied().unwrap_or(0) < item.number);
                    left.insert(Arc::clone(&item.client), item.number);
                    taken += 1;
                    flying.push((lane, item));
                }
                let Some((lane, item)) = flying.pop() else { break };
                lanes.landed(lane, &item.client);
            }
            prop_assert_eq!(taken, pushed);
            prop_assert!(lanes.clients.is_empty());
            prop_assert_eq!((lanes.queued(), lanes.queued_bytes()), (0, 0));
            prop_assert!(lanes.rows.iter().all(|lane| lane.clients == 0 && lane.in_flight == 0));
        }
    }
}
