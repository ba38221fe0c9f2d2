//! Addresses that stay free while a member is down.
//!
//! A member's URLs are known before it starts, stand in the cluster's membership for ever, and must be free again after each
//! restart. On 127.0.0.1 a port of a stopped member can be handed to anybody's listener or outgoing
//! connection. Linux answers on all of 127.0.0.0/8, and nobody takes a port there on his own account: so each cluster has
//! a loopback address of its own, made of the process id and a count, and the kernel hands out the ports on it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// Addresses that are tried when one is taken (a process id came round).
const ATTEMPTS: u32 = 16;

/// Returns a loopback address that no other cluster has.
pub(crate) fn own_address() -> Result<Ipv4Addr> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..ATTEMPTS {
        // Relaxed: only distinct numbers are wanted.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let number = std::process::id().wrapping_mul(32).wrapping_add(count % 32);
        let [_, a, b, c] = number.to_be_bytes();
        // 127.0.x.y is where others listen; .0 and .255 are left alone as they look like networks.
        let address = Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254));
        // The lowest port that needs no privilege marks the address as taken, for the time of the question only.
        if TcpListener::bind((address, 1024)).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free loopback address")
}

/// Asks the kernel for `count` different ports on an address.
pub(crate) fn ports(address: Ipv4Addr, count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind((address, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("ask the kernel for ports")?;
    let address_of = |listener: &TcpListener| listener.local_addr().map(|at: SocketAddr| at.port());
    listeners.iter().map(address_of).collect::<Result<Vec<_>, _>>().context("read the ports")
}
