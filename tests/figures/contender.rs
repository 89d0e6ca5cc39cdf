//! The two that are compared: the relay, and mosquitto with its bridge.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use harness::{Hub, Relay, VILLAGE, within};

/// A village broker that carries what it takes to a hub.
pub(crate) trait Contender {
    /// For the output.
    fn name(&self) -> &'static str;
    /// Where meters connect.
    fn broker(&self) -> SocketAddr;
    /// Peak memory so far, in KiB.
    fn peak_kib(&self) -> u64;
    /// kill -9 and start again; returns when it accepts connections.
    fn kill_and_start(&mut self);
    /// Where its data is.
    fn data_dir(&self) -> PathBuf;
}

impl Contender for Relay {
    fn name(&self) -> &'static str {
        "edge-relay"
    }

    fn broker(&self) -> SocketAddr {
        self.mqtt
    }

    fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM")
    }

    fn kill_and_start(&mut self) {
        self.kill();
        self.start_as_is();
        self.wait_listening(within(60));
    }

    fn data_dir(&self) -> PathBuf {
        Relay::data_dir(self)
    }
}

impl Contender for Hub {
    fn name(&self) -> &'static str {
        "mosquitto bridge"
    }

    fn broker(&self) -> SocketAddr {
        self.address
    }

    fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM")
    }

    fn kill_and_start(&mut self) {
        self.kill();
        self.run();
    }

    fn data_dir(&self) -> PathBuf {
        self.home().to_owned()
    }
}

/// A relay that carries to `hub`, with the settings of the figures.
pub(crate) fn relay(hub: SocketAddr) -> Relay {
    let mut relay = Relay::new(hub);
    relay
        .set("backlog.keep_forwarded", "0s")
        .set("drain.enabled", false);
    relay.set("hub.retry_max", "2s").start();
    relay
}

/// A mosquitto that bridges to `hub`, with its default persistence.
pub(crate) fn mosquitto_bridge(hub: SocketAddr) -> Hub {
    Hub::start_with(&format!(
        "persistence true\npersistence_location {{home}}/\nmax_inflight_messages 0\n\
         connection up\naddress {hub}\ntopic meters/# out 1 \"\" villages/{VILLAGE}/\n\
         cleansession false\nrestart_timeout 1\nnotifications false\ntry_private false\n\
         bridge_protocol_version mqttv311\n"
    ))
}

/// A rate for people.
pub(crate) fn per_second(count: u64, time: Duration) -> String {
    format!("{:.0}/s", count as f64 / time.as_secs_f64())
}
