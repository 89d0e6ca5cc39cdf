//! Free ports for programs that cannot be asked which port they took.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A loopback address that nobody listens on. Below the ports that the kernel gives to outgoing
/// connections, so that none of those takes it before the program does.
pub fn free() -> SocketAddr {
    for _ in 0..1000 {
        let port = rand::random_range(10_000..30_000);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}
