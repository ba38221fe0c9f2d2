//! Attacks over raw sockets on a member's ports, each with a well-behaved client beside it.
//!
//! ```text
//!  run ──► victim      one member: plain, TLS, peer and peer TLS port
//!    └─ for each attack of the table
//!         gauge        memory, descriptors, CPU time, log: before
//!         client       puts and gets go on: on a connection from before, and on new ones
//!         force        connections that are held, and floods, until they end or the member takes no more
//!         gauge        the highest memory meanwhile
//!         …            all is let go; descriptors must come back
//! ```
//!
//! What is demanded, of each attack: the member lives; each request of the client is answered within [`ANSWER_LIMIT`], also on a
//! connection that is made meanwhile; memory grows by no more than the attack's limit; the descriptors are back afterwards; the log grows
//! by no more than [`LOG_LIMIT_BYTES`], and has no line of level `error`.
//!
//! The limits of memory stand in `table`. They are a fixed part, and a part for each connection, and say what we promise: a
//! member of real etcd (`testkit attack --subject real`) is measured by the same run, but not held to them.

mod client;
mod connections;
mod force;
mod frames;
mod gauge;
mod http1;
mod http2;
mod streams;
mod table;
pub(crate) mod victim;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use client::Client;
use gauge::Gauge;
use victim::{Extras, Victim};

use crate::programs::Programs;

pub use table::{Attack, attacks};

/// How long the well-behaved client waits for one answer. Generous: a flood may have the machine's cores, and a put waits for a disk.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What one attack may add to the log: a second has some hundred lines of one message, and then one in a hundred.
pub const LOG_LIMIT_BYTES: u64 = 1024 * 1024;

/// Rounds of the client while an attack is at its height.
const ROUNDS_AT_HEIGHT: u64 = 5;

/// How long a flood may go on; what has not ended by then is cut off.
const HEIGHT_LIMIT: Duration = Duration::from_secs(30);

/// How long the member may take to let go of what an attack held.
const RELEASE_LIMIT: Duration = Duration::from_secs(40);

/// Descriptors that may be left over: those of connections of the client that were just closed, and of files of the log.
const DESCRIPTORS_SLACK: u64 = 12;

/// What the whole run may leave in memory, beside the keys that it wrote.
const LEFT_LIMIT_MIB: u64 = 256;

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The programs: the server, and the client for the TLS port.
    pub programs: Programs,
    /// Connections of the largest attacks; the others take a part of it.
    pub connections: usize,
    /// Only attacks whose name contains this.
    pub filter: String,
    /// Whether to wait for the member's own time limits (10 s for a handshake).
    pub awaits_deadlines: bool,
    /// Whether the limits hold; without them the run only measures.
    pub is_bound: bool,
}

/// What one attack did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The attack's name.
    pub name: &'static str,
    /// How much memory (RSS) grew at the height, in KiB.
    pub grown_kib: u64,
    /// How much it may.
    pub limit_kib: u64,
    /// How much of it was still there when all had been let go, in KiB.
    pub left_kib: u64,
    /// Rounds (put, get, get on a new connection) of the client.
    pub rounds: u64,
    /// The client's longest wait for one answer.
    pub slowest: Duration,
    /// The member's CPU time.
    pub cpu: Duration,
    /// What the log grew by.
    pub log_bytes: u64,
    /// From the first connection until all was let go.
    pub elapsed: Duration,
}

/// Runs the attacks one after the other on one member, and reports each.
///
/// # Errors
/// The first attack that the member does not stand as it should.
pub async fn run(config: &Config, mut report: impl FnMut(&Outcome)) -> Result<()> {
    raise_descriptor_limit()?;
    let folder =
        tempfile::Builder::new().prefix("retcd-attack-").tempdir().context("make a folder")?;
    let victim = Victim::start(&config.programs, folder.path(), &Extras::default())?;
    let client = Client::connect(&victim).await?;
    client.fill().await.context("write the keys that are asked for")?;
    let first = victim.gauge()?;
    for attack in attacks().iter().filter(|attack| attack.name.contains(&config.filter)) {
        let outcome = one(attack, config, &victim, &client).await.with_context(|| {
            format!("{}; the member's log ends:\n{}", attack.name, victim.log_tail())
        })?;
        report(&outcome);
    }
    let last = victim.gauge()?;
    let left_mib = last.rss_kib.saturating_sub(first.rss_kib) / 1024;
    ensure!(
        !config.is_bound || left_mib <= LEFT_LIMIT_MIB,
        "{left_mib} MiB are left of all attacks; {LEFT_LIMIT_MIB} may be"
    );
    Ok(())
}

async fn one(
    attack: &Attack,
    config: &Config,
    victim: &Victim,
    client: &Client,
) -> Result<Outcome> {
    let begun = Instant::now();
    let before = victim.gauge()?;
    let served = client.go_on(attack.allows_new_connections());
    let mut highest = before;
    let force = {
        let mut launched = std::pin::pin!(attack.launch(victim, client, config.connections));
        loop {
            tokio::select! {
                force = &mut launched => break force.context("begin")?,
                () = tokio::time::sleep(gauge::PERIOD) => highest.rise(victim.gauge()?),
            }
            served.check()?;
        }
    };
    let height = Instant::now();
    let rounds = served.rounds();
    while !(force.has_settled() && served.rounds() >= rounds + ROUNDS_AT_HEIGHT) {
        tokio::time::sleep(gauge::PERIOD).await;
        highest.rise(victim.gauge()?);
        served.check()?;
        ensure!(
            served.rounds() >= rounds + ROUNDS_AT_HEIGHT || height.elapsed() < ANSWER_LIMIT * 6,
            "the client came to {} rounds only",
            served.rounds() - rounds
        );
        if height.elapsed() > HEIGHT_LIMIT && served.rounds() >= rounds + ROUNDS_AT_HEIGHT {
            break;
        }
    }
    attack.check_height(victim, config).await.context("at the height")?;
    if config.awaits_deadlines && config.is_bound {
        force.await_end_of(attack.ends_by_itself()).await?;
    }
    let (rounds, slowest) = served.stop().await?;
    drop(force);
    attack.let_go(victim)?;
    let after = released(victim, before).await?;
    let outcome = Outcome {
        name: attack.name,
        grown_kib: highest.rss_kib.saturating_sub(before.rss_kib),
        limit_kib: attack.limit_kib(config.connections),
        left_kib: after.rss_kib.saturating_sub(before.rss_kib),
        rounds,
        slowest,
        cpu: after.cpu.saturating_sub(before.cpu),
        log_bytes: after.log_bytes.saturating_sub(before.log_bytes),
        elapsed: begun.elapsed(),
    };
    if config.is_bound {
        ensure!(outcome.grown_kib <= outcome.limit_kib, "memory grew too much: {outcome:?}");
        ensure!(outcome.log_bytes <= LOG_LIMIT_BYTES, "the log grew too much: {outcome:?}");
        victim.check_no_errors()?;
    }
    Ok(outcome)
}

/// Waits until the descriptors are what they were.
async fn released(victim: &Victim, before: Gauge) -> Result<Gauge> {
    let begun = Instant::now();
    loop {
        let now = victim.gauge()?;
        if now.descriptors <= before.descriptors + DESCRIPTORS_SLACK {
            return Ok(now);
        }
        ensure!(
            begun.elapsed() < RELEASE_LIMIT,
            "{} descriptors before, {} {RELEASE_LIMIT:?} after",
            before.descriptors,
            now.descriptors
        );
        tokio::time::sleep(gauge::PERIOD).await;
    }
}

/// Both ends of each connection are on this machine: this process needs as many descriptors as the member.
fn raise_descriptor_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raise the limit of open files")
}
