//! Up to three connections at a time, whose packets are mostly right: sessions, deliveries and takeovers.

use fuzz_harness::Input;

use super::answers::{Answers, Stored, assert_kept};
use super::rig::{Rig, Wire, with_rig};
use super::said::Said;

const CLIENTS: usize = 3;
const TOPICS: [&str; 7] = ["m/a", "m/é", "x/é", "local", "$SYS/x", "a/b/c", "🔋"];
const FILTERS: [&str; 9] = [
    "#",
    "m/+",
    "+/é",
    "local",
    "$share/g/#",
    "$SYS/#",
    "a/#",
    "m/#/x",
    "$share//x",
];
const STEPS_MAX: usize = 60;

pub(crate) fn mqtt_session(data: &[u8]) {
    with_rig(async |rig| converse(rig, Input::new(data)).await);
}

async fn converse(rig: &mut Rig, mut input: Input<'_>) {
    let settings = rig.shared.settings();
    let mut clients: [Option<Client>; CLIENTS] = [const { None }; CLIENTS];
    let mut over: Vec<(Said, Answers)> = Vec::new();
    let mut steps = 0;
    while !input.is_empty() && steps < STEPS_MAX {
        steps += 1;
        let place = &mut clients[input.below(CLIENTS)];
        let step = input.byte();
        match place {
            None => *place = Some(Client::hello(rig, &mut input).await),
            Some(client) if step < 0xF0 && !client.wire.is_over() => {
                let packet = packet(&mut input, client.version, step);
                client.send(packet, &mut input).await;
            }
            Some(_) => {
                if let Some(client) = place.take() {
                    over.push(client.leave(settings.packet_bytes_max as usize).await);
                }
            }
        }
    }
    for client in clients.into_iter().flatten() {
        over.push(client.leave(settings.packet_bytes_max as usize).await);
    }
    let stored = rig.stored();
    let mut promised = Stored::new();
    for (said, answers) in &over {
        answers.assert_answer(said);
        // Of QoS 2, a packet id that an earlier connection used is a repeat.
        for (reading, count) in answers.promised(said, &settings, 1) {
            *promised.entry(reading).or_insert(0) += count;
        }
    }
    assert_kept(&promised, &stored);
}

struct Client {
    wire: Wire,
    version: u8,
    sent: Vec<u8>,
}

impl Client {
    async fn hello(rig: &Rig, input: &mut Input<'_>) -> Self {
        let mut client = Self {
            wire: rig.connect(),
            version: *input.pick(&[4, 5, 5, 3]),
            sent: Vec::new(),
        };
        let packet = connect(input, client.version);
        client.send(packet, input).await;
        client
    }

    /// Sends it, perhaps with a byte that is another, perhaps in two parts.
    async fn send(&mut self, mut packet: Vec<u8>, input: &mut Input<'_>) {
        let how = input.byte();
        let at = usize::from(how & 0x1F) % packet.len();
        match how >> 5 {
            6 => {
                let (one, two) = packet.split_at(at);
                self.wire.write(one).await;
                self.wire.write(two).await;
            }
            7 => {
                packet[at] = input.byte();
                self.wire.write(&packet).await;
            }
            _ => self.wire.write(&packet).await,
        }
        self.sent.extend(packet);
    }

    async fn leave(self, bytes_max: usize) -> (Said, Answers) {
        let said = Said::read(&self.sent, bytes_max);
        let output = if said.must_end {
            self.wire.cut_off().await
        } else {
            self.wire.end().await
        };
        let answers = Answers::read(said.version, &output);
        (said, answers)
    }
}

fn text(text: impl AsRef<str>) -> Vec<u8> {
    let text = text.as_ref();
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        bytes.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    bytes.push(length.to_le_bytes()[0]);
    bytes.extend(body);
    bytes
}

fn connect(input: &mut Input<'_>, version: u8) -> Vec<u8> {
    let choice = input.byte();
    let (clean, will) = (choice & 1, choice & 2 != 0);
    let mut body = text("MQTT");
    let will_flags = if will {
        0x04 | (choice & 0x08) | (choice & 0x20)
    } else {
        0
    };
    body.extend([version, clean << 1 | will_flags, 0, choice >> 6]);
    if version == 5 {
        let mut properties = Vec::new();
        if choice & 0x04 != 0 {
            properties.extend([17, 0, 0, 1, 0]);
        }
        if choice & 0x10 != 0 {
            properties.extend([33, 0, 1, 39, 0, 0, 0, 40]);
        }
        body.push(properties.len().to_le_bytes()[0]);
        body.extend(properties);
    }
    body.extend(text(input.pick(&["one", "two", ""])));
    if will {
        if version == 5 {
            let delay = input.byte() & 1;
            body.extend([5, 24, 0, 0, 0, delay]);
        }
        body.extend(text(input.pick(&TOPICS)));
        body.extend(text("will"));
    }
    framed(0x10, &body)
}

fn packet(input: &mut Input<'_>, version: u8, step: u8) -> Vec<u8> {
    let id = [0, 1 + input.byte() % 6];
    match step % 12 {
        0..4 => publish(input, version, id),
        4 => framed(0x40, &id),
        5 => framed(0x50, &id),
        6 => framed(0x62, &id),
        7 => framed(0x70, &id),
        8 | 9 => {
            let mut body = id.to_vec();
            if version == 5 {
                body.extend(*input.pick(&[&[0][..], &[2, 11, 7]]));
            }
            for _ in 0..=input.below(2) {
                body.extend(text(input.pick(&FILTERS)));
                let options = input.byte();
                body.push(
                    if version == 5 {
                        options & 0x2D
                    } else {
                        options & 1
                    } | (options & 2),
                );
            }
            framed(0x82, &body)
        }
        10 => {
            let mut body = id.to_vec();
            if version == 5 {
                body.push(0);
            }
            body.extend(text(input.pick(&FILTERS)));
            framed(0xA2, &body)
        }
        _ => match input.byte() & 3 {
            0 => framed(0xE0, &[]),
            1 if version == 5 => framed(0xE0, &[4]),
            _ => framed(0xC0, &[]),
        },
    }
}

fn publish(input: &mut Input<'_>, version: u8, id: [u8; 2]) -> Vec<u8> {
    let choice = input.byte();
    let qos = [0, 1, 1, 2][usize::from(choice & 3)];
    let dup = if qos > 0 { choice & 0x08 } else { 0 };
    let mut body = text(input.pick(&TOPICS));
    if qos > 0 {
        body.extend(id);
    }
    if version == 5 {
        let lists: [&[u8]; 5] = [
            &[0],
            &[0],
            &[3, 35, 0, 1],
            &[5, 2, 0, 0, 0, 1],
            &[7, 38, 0, 1, b'k', 0, 1, b'v'],
        ];
        body.extend(*input.pick(&lists));
    }
    body.extend(input.take(usize::from(choice >> 5)));
    framed(0x30 | dup | qos << 1 | (choice >> 4) & 1, &body)
}
