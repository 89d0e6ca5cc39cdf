//! The hub: late, out of order, twice, never, for what it was not sent, with reasons and without.

use std::collections::BTreeMap;
use std::time::Duration;

use hub_bridge::settings::Forward;

use super::packets::{self, Packet};
use super::scene::{Scene, VILLAGE};
use super::store::{self, Fate, Poison};
use super::wire::Event;
use super::world::{Id, World};

/// What a CONNECT meets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Welcome {
    Accept,
    /// CONNACK with this reason.
    Refuse(u8),
    Silence,
    Close,
    /// No MQTT at all.
    Noise,
    /// CONNACK, and again.
    Twice,
}

/// How the hub is: probabilities for each publish.
#[derive(Debug, Clone, Copy)]
pub struct Mood {
    pub name: &'static str,
    pub welcome: Welcome,
    /// It thinks up to so long about each answer.
    pub thinks: Duration,
    /// So many answers are held back and then given out of order.
    pub holds: usize,
    pub refuses: f64,
    pub reason: u8,
    pub no_subscriber: f64,
    pub closes: f64,
    pub disconnects: f64,
    pub twice: f64,
    pub bogus: f64,
    pub forgets: f64,
}

impl Mood {
    pub const CALM: Self = Self {
        name: "calm",
        welcome: Welcome::Accept,
        thinks: Duration::ZERO,
        holds: 0,
        refuses: 0.0,
        reason: 0,
        no_subscriber: 0.0,
        closes: 0.0,
        disconnects: 0.0,
        twice: 0.0,
        bogus: 0.0,
        forgets: 0.0,
    };
}

/// What a connection's CONNACK allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub receive_maximum: Option<u16>,
    pub packet_bytes_max: Option<u32>,
}

/// A connection as the hub sees it.
#[derive(Debug, Default)]
pub struct Session {
    pub client_id: String,
    /// Of MQTT: 5, or 4 for 3.1.1.
    pub level: u8,
    pub limits: Limits,
    /// The CONNACK is there for the bridge to read.
    pub welcomed: bool,
    /// It takes nothing more over it.
    pub hung_up: bool,
    held: Vec<Vec<u8>>,
    /// The last readings of each meter that came over it.
    last: BTreeMap<u16, Newest>,
}

pub struct Hub {
    pub mood: Mood,
    pub receive_maximum: Option<u16>,
    packet_bytes_max: Option<u32>,
    /// How a hub answers MQTT 5 that knows 3.1.1 only; `None`: it knows 5.
    knows_no_5: Option<Welcome>,
    clients: BTreeMap<String, u32>,
    /// The newest readings of each meter that arrived for the first time.
    newest: BTreeMap<u16, Newest>,
    /// New readings may have gone before what waited, on this run.
    pub two_lanes: bool,
}

/// How far a meter's readings have come: age of the epoch, and sequence.
#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    first: Option<(usize, u64)>,
    /// Of those that were overtaken: in order among themselves.
    overtaken: Option<(usize, u64)>,
}

impl Newest {
    /// Whether a reading at `place` is in order.
    fn takes(&mut self, place: (usize, u64), two_lanes: bool) -> bool {
        let lane = if self.first.is_none_or(|before| before < place) || !two_lanes {
            &mut self.first
        } else {
            &mut self.overtaken
        };
        lane.replace(place).is_none_or(|before| before < place)
    }
}

impl Hub {
    pub fn new(scene: &Scene) -> Self {
        Self {
            mood: Mood::CALM,
            receive_maximum: scene.receive_maximum,
            packet_bytes_max: scene.packet_bytes_max,
            knows_no_5: scene.knows_no_5,
            clients: BTreeMap::new(),
            newest: BTreeMap::new(),
            two_lanes: scene.settings.policy.forward == Forward::LiveFirst,
        }
    }
}

impl World {
    pub fn hub_hears(&mut self, conn: u32, packet: &Packet) {
        if self.wire.conns.get(&conn).is_none_or(|c| c.session.hung_up) {
            return;
        }
        match packet.kind {
            packets::CONNECT => self.hub_connects(conn, packet),
            packets::PUBLISH => self.hub_publish(conn, packet),
            packets::PINGREQ if self.hub.mood.forgets < 1.0 => self.says(conn, vec![0xd0, 0]),
            _ => {}
        }
    }

    pub fn hub_forgets(&mut self, conn: u32) {
        self.hub.clients.retain(|_, open| *open != conn);
    }

    pub fn hub_forgets_all(&mut self) {
        self.hub.clients.clear();
    }

    /// Says it after thinking.
    fn says(&mut self, conn: u32, bytes: Vec<u8>) {
        let most = u64::try_from(self.hub.mood.thinks.as_millis()).unwrap();
        let thinks = Duration::from_millis(self.rng.between(0, most));
        let at = self.now() + thinks;
        self.at(at, Event::HubSays(conn, bytes));
    }

    fn hangs_up(&mut self, conn: u32) {
        if let Some(open) = self.wire.conns.get_mut(&conn) {
            open.session.hung_up = true;
        }
        self.hub_forgets(conn);
        let at = self.now();
        self.at(at, Event::HubHangsUp(conn));
    }

    fn disconnects(&mut self, conn: u32, reason: u8) {
        let now = self.now();
        if self
            .wire
            .conns
            .get(&conn)
            .is_some_and(|c| c.session.level == 5)
        {
            self.at(now, Event::HubSays(conn, packets::disconnect(reason)));
        }
        self.hangs_up(conn);
    }

    /// DISCONNECT with a reason to everyone.
    pub fn hub_disconnects_all(&mut self, reason: u8) {
        let conns: Vec<u32> = self.hub.clients.values().copied().collect();
        for conn in conns {
            self.disconnects(conn, reason);
        }
    }

    fn hub_connects(&mut self, conn: u32, packet: &Packet) {
        let Some(connect) = &packet.connect else {
            return;
        };
        let client_id = connect.client_id.clone();
        self.holds(client_id.starts_with(VILLAGE), || {
            format!("a CONNECT of {client_id:?}")
        });
        if let Some(other) = self.hub.clients.insert(client_id.clone(), conn) {
            self.disconnects(other, 0x8e);
            self.hub.clients.insert(client_id.clone(), conn);
        }
        let five = connect.level == 5;
        let limits = Limits {
            receive_maximum: self.hub.receive_maximum.filter(|_| five),
            packet_bytes_max: self.hub.packet_bytes_max.filter(|_| five),
        };
        if let Some(open) = self.wire.conns.get_mut(&conn) {
            open.session.client_id = client_id;
            open.session.limits = limits;
        }
        let connack = |code| match code {
            _ if !five => packets::connack_311(code),
            0 => packets::connack(0, limits.receive_maximum, limits.packet_bytes_max),
            _ => packets::connack(code, None, None),
        };
        let hello = connack(0);
        let welcome = match self.hub.knows_no_5 {
            Some(welcome) if five => welcome,
            _ => self.hub.mood.welcome,
        };
        match welcome {
            Welcome::Accept => self.says(conn, hello),
            Welcome::Refuse(code) => {
                self.says(conn, connack(code));
                self.hangs_up(conn);
            }
            Welcome::Silence => {}
            Welcome::Close => self.hangs_up(conn),
            Welcome::Noise => self.says(conn, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Welcome::Twice => {
                let twice = [hello.clone(), hello].concat();
                self.says(conn, twice);
            }
        }
    }

    fn hub_publish(&mut self, conn: u32, packet: &Packet) {
        let Some(publish) = &packet.publish else {
            return;
        };
        let (id, packet_id) = (publish.id, publish.packet_id);
        self.arrived(conn, id);
        let mood = self.hub.mood;
        let five = self
            .wire
            .conns
            .get(&conn)
            .is_some_and(|c| c.session.level == 5);
        match self.store.slot(id).map_or(Poison::None, |slot| slot.poison) {
            Poison::None => {}
            Poison::Close => return self.hangs_up(conn),
            Poison::Silence => return,
            // 3.1.1 has no way to say so.
            Poison::Reason(_) if !five => return self.hangs_up(conn),
            Poison::Reason(code) => return self.says(conn, packets::puback(packet_id, code)),
        }
        if self.rng.chance(mood.forgets) {
            return;
        }
        if self.rng.chance(mood.closes) {
            return self.hangs_up(conn);
        }
        if self.rng.chance(mood.disconnects) {
            let reason = *self
                .rng
                .pick(&[0x00, 0x82, 0x87, 0x89, 0x8b, 0x8d, 0x93, 0x97]);
            if five {
                self.says(conn, packets::disconnect(reason));
            }
            return self.hangs_up(conn);
        }
        let mut answer = if !five {
            packets::puback(packet_id, 0)
        } else if self.rng.chance(mood.refuses) {
            packets::puback(packet_id, mood.reason)
        } else if self.rng.chance(mood.no_subscriber) {
            packets::puback(packet_id, 0x10)
        } else {
            packets::puback(packet_id, 0)
        };
        if self.rng.chance(mood.twice) {
            answer = answer.repeat(2);
        }
        if self.rng.chance(mood.bogus) {
            let lie = packets::puback(packet_id.wrapping_add(700).max(1), 0);
            answer.extend(lie);
        }
        self.answers(conn, answer, mood.holds);
    }

    /// Gives the answer, or holds it back and gives all that it held in another order.
    fn answers(&mut self, conn: u32, answer: Vec<u8>, holds: usize) {
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        open.session.held.push(answer);
        // More would wait for publishes that the receive maximum keeps from coming.
        let most = usize::from(open.session.limits.receive_maximum.unwrap_or(1).min(16));
        if open.session.held.len() < holds.min(most) {
            return;
        }
        let mut held = std::mem::take(&mut open.session.held);
        while !held.is_empty() {
            let n = usize::try_from(self.rng.between(0, held.len() as u64 - 1)).unwrap();
            self.says(conn, held.swap_remove(n));
        }
    }

    /// A hub that calms down gives the answers that it held back.
    pub fn hub_calms(&mut self) {
        self.hub.mood = Mood::CALM;
        let conns: Vec<u32> = self.wire.conns.keys().copied().collect();
        for conn in conns {
            let open = self.wire.conns.get_mut(&conn);
            let held = open.map_or_else(Vec::new, |open| std::mem::take(&mut open.session.held));
            for answer in held {
                self.says(conn, answer);
            }
        }
    }

    /// Readings of one meter arrive for the first time in their order, whatever happens to links and lanes.
    fn arrived(&mut self, conn: u32, id: Id) {
        if id == (0, 0) {
            return;
        }
        let age = self.store.epochs.iter().position(|book| book.epoch == id.0);
        let (Some(age), Some(slot)) = (age, self.store.slot(id)) else {
            return;
        };
        let (meter, refused) = (slot.meter, slot.refusals > 0);
        let first = !std::mem::replace(&mut slot.arrived, true);
        let place = (age, id.1);
        if first {
            let two_lanes = self.hub.two_lanes;
            let newest = self.hub.newest.entry(meter).or_default();
            let before = *newest;
            let in_order = newest.takes(place, two_lanes);
            self.holds(in_order, || {
                format!("{id:?} of meter {meter} arrived after {before:?}")
            });
        }
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        let last = open.session.last.entry(meter).or_default();
        let before = *last;
        let in_order = last.takes(place, self.hub.two_lanes);
        self.holds(refused || in_order, || {
            format!("{id:?} of meter {meter} came after {before:?} on connection {conn}")
        });
    }

    /// What must hold of each publish that leaves the bridge.
    pub fn judge_publish(&mut self, conn: u32, packet: &Packet, in_flight: usize, limits: Limits) {
        let Some(publish) = &packet.publish else {
            return;
        };
        let id = publish.id;
        let welcomed = self
            .wire
            .conns
            .get(&conn)
            .is_some_and(|open| open.session.welcomed);
        self.holds(welcomed, || {
            format!("{id:?} left before the CONNACK of connection {conn}")
        });
        let most = limits.receive_maximum.unwrap_or(u16::MAX);
        self.holds(in_flight <= usize::from(most), || {
            format!("{in_flight} in flight on connection {conn}, and the receive maximum is {most}")
        });
        let size = packet.size;
        let takes = limits
            .packet_bytes_max
            .map_or(usize::MAX, |max| max as usize);
        self.holds(size <= takes, || {
            format!("a packet of {size} bytes, and the hub takes {takes}")
        });
        self.holds(publish.qos == 1, || {
            format!("{id:?} went with QoS {}", publish.qos)
        });
        if id == (0, 0) {
            return;
        }
        let Some(slot) = self.store.slot(id) else {
            return self.violated(format!("{id:?} left and was never appended"));
        };
        let confirmed = matches!(slot.fate, Fate::Confirmed | Fate::Settled);
        let whole = store::payload(id, slot.bytes) == publish.payload;
        let topic = format!("villages/{VILLAGE}/{}", store::meter_topic(slot.meter));
        let identity = format!("{:08x}/{}", id.0, id.1);
        let five = self
            .wire
            .conns
            .get(&conn)
            .is_some_and(|c| c.session.level == 5);
        let named = publish.identity.as_ref() == five.then_some(&identity);
        let same = whole && topic == publish.topic && named;
        self.holds(same, || format!("{id:?} left as another: {publish:?}"));
        self.holds(!confirmed, || {
            format!("{id:?} goes again after it was confirmed")
        });
    }
}
