//! Every pairing of a leader's and its followers' programs carries many mixed operations, and ends with equal hashes.
//!
//! The operations are those of the [`differential`](crate::differential) run: all kinds, mistakes included, one write at a time. Each
//! goes to a member chosen at random, so that followers forward and serve too.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;

use super::kind::Kind;
use super::members::{Cluster, HashAt};
use super::setup::Setup;
use crate::api::{Refusal, Request, Response};
use crate::differential::{Generator, Known, TxnRanges};
use crate::random::Random;

/// How often, in operations, leadership and hashes are looked at.
const LOOK_EVERY: u64 = 5_000;

/// How long one request may take: nothing is broken here.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest value of the usual size.
const VALUE_BYTES_MAX: usize = 48;

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program of the leader.
    pub leader: Kind,
    /// The program of the two followers.
    pub follower: Kind,
    /// Operations.
    pub operations: u64,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests answered.
    pub operations: u64,
    /// Of which refused.
    pub refusals: u64,
    /// Hashes equal on all members.
    pub hashes: u64,
    /// Times that leadership had to be moved back.
    pub leader_changes: u64,
    /// The hash at the end.
    pub last: HashAt,
}

/// Runs one pairing.
pub async fn run(setup: &Setup, config: &Config) -> Result<Report> {
    let follower = &config.follower;
    let kinds = vec![config.leader.clone(), follower.clone(), follower.clone()];
    let mut cluster = Cluster::start(setup.members(kinds)).await?;
    cluster.move_leader(0).await?;
    // Some members apply a transaction without its reads (see `TxnRanges`), so no transaction may be refused for them.
    let mut generator = Generator::new(setup.seed, VALUE_BYTES_MAX, TxnRanges::Readable);
    let mut random = Random::new(setup.seed ^ 1);
    let mut known = Known::default();
    let (mut operations, mut refusals, mut hashes, mut leader_changes) = (0, 0, 0, 0);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut next_look = LOOK_EVERY;
    while operations < config.operations {
        let mut answers = JoinSet::new();
        for request in generator.next(&known) {
            let index = random.index(cluster.nodes().len());
            let api = cluster.nodes()[index].api().clone();
            answers.spawn(async move {
                let answer = tokio::time::timeout(REQUEST_TIMEOUT, api.call(request.clone())).await;
                (index, request, answer)
            });
        }
        while let Some(answer) = answers.join_next().await {
            let (index, request, answer) = answer.context("a request panicked")?;
            let number = operations;
            let at = || format!("operation {number}, {} on m{index}", name(&request));
            let answer = answer.with_context(at)?;
            operations += 1;
            match answer {
                Ok(response) => learn(&mut known, &request, response),
                Err(refusal) if is_failure(&refusal) => bail!("{}: {refusal:?}", at()),
                Err(refusal) => {
                    refusals += 1;
                    *kinds.entry(refusal.message).or_default() += 1;
                }
            }
        }
        if operations >= next_look {
            next_look += LOOK_EVERY;
            let at = || format!("after {operations} operations");
            cluster.equal_hashes().await.with_context(at)?;
            hashes += 1;
            if cluster.leader().await != Some(0) {
                leader_changes += 1;
                cluster.move_leader(0).await.with_context(at)?;
            }
        }
    }
    ensure!(kinds.len() > 3 || operations < 1_000, "hardly any mistakes were made: {kinds:?}");
    let last = cluster.equal_hashes().await.context("at the end")?;
    hashes += 1;
    cluster.stop().await?;
    Ok(Report { operations, refusals, hashes, leader_changes, last })
}

/// Takes over what an answer tells.
fn learn(known: &mut Known, request: &Request, mut response: Response) {
    if let (Request::Compact(request), Response::Compact(_)) = (request, &response) {
        known.compact(request);
    }
    if let Some(header) = response.header_mut() {
        known.revision = known.revision.max(header.revision);
    }
}

/// Whether a refusal says that the cluster does not work, and not that the request was wrong.
fn is_failure(refusal: &Refusal) -> bool {
    matches!(refusal.code, tonic::Code::Unavailable | tonic::Code::DeadlineExceeded)
        || refusal.message.contains("transport error")
}

fn name(request: &Request) -> String {
    format!("{request:?}").chars().take_while(|c| *c != '(').collect()
}
