//! A member that is too far behind catches up by a snapshot, and is the same as the others afterwards.
//!
//! Three ways to fall behind: the member is paused (its watches stay open and must go on without a gap), it is stopped, and it
//! is killed while the history that it lacks is compacted as well. Each has a cluster of its own: etcd keeps the log uncut
//! for half a minute after it has sent a snapshot, for the one who got it.

use anyhow::{Context, Result, ensure};

use super::check::Summary;
use super::kind::Kind;
use super::members::HEALTHY_TIMEOUT;
use super::setup::Setup;
use super::trial::Trial;

/// The member that falls behind.
const LAGGARD: usize = 2;

/// Small, so that the log is cut soon.
const FLAGS: &[&str] = &["--snapshot-count=100", "--experimental-snapshot-catchup-entries=20"];

/// Operations while the member is away: about half are entries of the log, many times the count above.
const OPERATIONS_AWAY: usize = 1_500;

/// Revisions that the compaction leaves: fewer than were written meanwhile.
const HISTORY: i64 = 150;

/// What the receiver logs for each snapshot that it took over.
const RECEIVED: &str = "applied snapshot";

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Snapshots received.
    pub snapshots: usize,
    /// What was checked, for each way.
    pub checked: Vec<Summary>,
}

/// How the member falls behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By SIGSTOP.
    Paused,
    /// By SIGTERM.
    Stopped,
    /// By SIGKILL, and the others compact meanwhile.
    Compacted,
}

impl Way {
    /// All.
    pub const ALL: &[Self] = &[Self::Paused, Self::Stopped, Self::Compacted];

    /// Takes a name, in any case.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|way| format!("{way:?}").eq_ignore_ascii_case(text));
        found.copied().with_context(|| format!("no way {text:?}; there are {:?}", Self::ALL))
    }
}

/// Runs the ways one after the other, with two members of the program that leads and sends, and one of that which falls behind.
pub async fn run(setup: &Setup, sender: &Kind, receiver: &Kind, ways: &[Way]) -> Result<Report> {
    let mut report = Report { snapshots: 0, checked: Vec::new() };
    for &way in ways {
        let (snapshots, checked) =
            fall_behind(setup, sender, receiver, way).await.with_context(|| {
                format!("after the member was {}", format!("{way:?}").to_lowercase())
            })?;
        report.snapshots += snapshots;
        report.checked.push(checked);
    }
    Ok(report)
}

async fn fall_behind(
    setup: &Setup,
    sender: &Kind,
    receiver: &Kind,
    way: Way,
) -> Result<(usize, Summary)> {
    let mut setup = setup.below(&format!("{way:?}"));
    setup.flags.splice(0..0, FLAGS.iter().map(|flag| (*flag).to_owned()));
    let mut trial = setup.trial(vec![sender.clone(), sender.clone(), receiver.clone()]).await?;
    trial.cluster.move_leader(0).await?;
    trial.begin();
    trial.wait_operations(300).await?;
    let before = received(&trial)?;
    match way {
        Way::Paused => {
            trial.cluster.pause_node(LAGGARD)?;
            trial.wait_operations(OPERATIONS_AWAY).await?;
            trial.cluster.resume_node(LAGGARD)?;
        }
        Way::Stopped => {
            trial.cluster.stop_node(LAGGARD).await?;
            trial.wait_operations(OPERATIONS_AWAY).await?;
            trial.cluster.start_node(LAGGARD)?;
        }
        Way::Compacted => {
            trial.cluster.kill_node(LAGGARD)?;
            trial.wait_operations(OPERATIONS_AWAY).await?;
            trial.finish().await.context("with one member away")?;
            trial.compact(HISTORY).await?;
            trial.begin();
            trial.cluster.start_node(LAGGARD)?;
        }
    }
    trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.wait_operations(200).await?;
    trial.finish().await?;
    let snapshots = received(&trial)?.saturating_sub(before);
    ensure!(snapshots > 0, "the member took over no snapshot");
    let checked = trial.summary();
    trial.cluster.stop().await?;
    Ok((snapshots, checked))
}

fn received(trial: &Trial) -> Result<usize> {
    trial.cluster.logged(LAGGARD, RECEIVED)
}
