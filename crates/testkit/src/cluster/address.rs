//! Addresses that stay free while a member is down.
//!
//! A member's URLs are known before it starts, stand in the cluster's membership for ever, and must be free again after each
//! restart. On 127.0.0.1 a port of a stopped member can be handed to anybody's listener or outgoing
//! connection. Linux answers on all of 127.0.0.0/8, and nobody takes a port there on his own account: so each cluster has
//! a loopback address of its own, made of the process id and a count. Its ports are counted up, none is given twice, and all
//! are below those that the kernel hands out: a listener of somebody else's on all addresses is not in the way either.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Addresses that are tried when one is taken (a process id came round).
const ATTEMPTS: u32 = 16;

/// Where the counting of ports begins: below what the kernel hands out (32768 and above).
const FIRST_PORT: u16 = 20_000;

/// A loopback address that no other cluster has.
#[derive(Debug)]
pub(crate) struct Address {
    ip: Ipv4Addr,
    next_port: u16,
}

impl Address {
    /// Takes one.
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..ATTEMPTS {
            // Relaxed: only distinct numbers are wanted.
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let number = std::process::id().wrapping_mul(32).wrapping_add(count % 32);
            let [_, a, b, c] = number.to_be_bytes();
            // 127.0.x.y is where others listen; .0 and .255 are left alone as they look like networks.
            let ip = Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254));
            // The lowest port that needs no privilege marks the address as taken, for the time of the question only.
            if TcpListener::bind((ip, 1024)).is_ok() {
                return Ok(Self { ip, next_port: FIRST_PORT });
            }
        }
        bail!("no free loopback address")
    }

    /// The address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// A port that was not given before, and that can be listened on.
    pub(crate) fn port(&mut self) -> Result<u16> {
        for port in self.next_port..FIRST_PORT + 10_000 {
            self.next_port = port + 1;
            if TcpListener::bind((self.ip, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port on {}", self.ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_given_once() {
        let mut address = Address::new().unwrap();
        let taken = TcpListener::bind((address.ip(), FIRST_PORT + 1)).unwrap();
        let ports = [(); 3].map(|()| address.port().unwrap());
        assert_eq!(ports, [FIRST_PORT, FIRST_PORT + 2, FIRST_PORT + 3]);
        drop(taken);
    }
}
