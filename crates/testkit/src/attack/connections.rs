//! Attacks with connections that say nothing, too little, or nonsense, on every port.

use anyhow::Result;

use super::force::Force;
use super::frames::{PREFACE, opening};
use super::victim::{Port, Victim};
use crate::random::Random;

/// Bytes of nonsense on one connection.
const GARBAGE_BYTES: usize = 4096;

pub(super) async fn silent(victim: &Victim, port: Port, count: usize) -> Result<Force> {
    Force::hold(victim, port, count, b"").await
}

/// A record that says to be a handshake of 512 bytes, and the first of them.
pub(super) async fn half_a_client_hello(
    victim: &Victim,
    port: Port,
    count: usize,
) -> Result<Force> {
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend_from_slice(&[0xab; 50]);
    Force::hold(victim, port, count, &hello).await
}

pub(super) async fn half_a_preface(victim: &Victim, count: usize) -> Result<Force> {
    Force::hold(victim, Port::Plain, count, &PREFACE[..PREFACE.len() / 2]).await
}

pub(super) async fn preface_and_silence(victim: &Victim, count: usize) -> Result<Force> {
    Force::hold(victim, Port::Plain, count, &opening(&[])).await
}

/// Random bytes on all ports, and behind an HTTP/2 preface.
pub(super) async fn garbage(victim: &Victim, count: usize) -> Result<Force> {
    let mut random = Random::new(1);
    let mut force = Force::default();
    for index in 0..count {
        let noise: Vec<u8> = (0..GARBAGE_BYTES).map(|_| random.number().to_le_bytes()[0]).collect();
        let port = Port::ALL[index % Port::ALL.len()];
        let bytes = if index % 3 == 0 { [&opening(&[]), noise.as_slice()].concat() } else { noise };
        force.add(victim, port, 1, &bytes).await?;
    }
    Ok(force)
}

/// Connections that are closed as soon as they are made.
pub(super) async fn come_and_go(victim: &Victim, count: usize) -> Result<Force> {
    for index in 0..count {
        drop(victim.connect(Port::ALL[index % Port::ALL.len()]).await?);
    }
    Ok(Force::default())
}

/// More connections than the member has descriptors for. They wait in the kernel.
pub(super) async fn out_of_descriptors(victim: &Victim) -> Result<Force> {
    const LEFT: u64 = 20;
    victim.take_descriptors(LEFT)?;
    let mut force = Force::default();
    for port in Port::ALL {
        force.add(victim, port, usize::try_from(LEFT)?, b"").await?;
    }
    Ok(force)
}
