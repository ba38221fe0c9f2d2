//! How long a cluster accepts no write after its leader has died.
//!
//! The leader is killed (SIGKILL), again and again. From before each kill, a write is tried on every survivor each few milliseconds,
//! whatever became of the ones before, so that no request's own waiting is part of the figure.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::kind::Kind;
use super::members::{Cluster, HEALTHY_TIMEOUT};
use super::setup::Setup;

/// The election timeout of members that are not told another one.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// What is promised of 99 in 100 deaths of a leader.
pub const LIMIT: Duration = Duration::from_secs(2 * ELECTION_TIMEOUT.as_secs());

/// Far beyond what is hoped for, to have a figure.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One death of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Death {
    /// From the kill to the first accepted write.
    pub time: Duration,
    /// Whether it took more than one term to elect the next one: two members stood at the same moment, and neither had a
    /// majority. It comes with random timeouts, about once in a hundred times with two survivors.
    pub is_split: bool,
}

/// All deaths, the shortest time first.
#[derive(Clone, Debug)]
pub struct Report {
    /// The deaths.
    pub deaths: Vec<Death>,
}

impl Report {
    /// The time that so many percent do not exceed (the nearest of those measured).
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.deaths.len() * percent).div_ceil(100).max(1);
        self.deaths.get(rank - 1).map(|death| death.time).unwrap_or_default()
    }

    /// How many elections were split.
    pub fn splits(&self) -> usize {
        self.deaths.iter().filter(|death| death.is_split).count()
    }

    /// Fails if [`LIMIT`] is not kept.
    ///
    /// Fewer than a hundred deaths have no p99 that could be told from the longest: there every election that was not split must
    /// keep the limit, and few may be split.
    pub fn check(&self) -> Result<()> {
        if self.deaths.len() >= 100 {
            let p99 = self.percentile(99);
            ensure!(p99 <= LIMIT, "no write accepted for {p99:.2?} (p99); {LIMIT:?} are promised");
        }
        let longest = self.deaths.iter().rfind(|death| !death.is_split);
        let longest = longest.map(|death| death.time).unwrap_or_default();
        ensure!(longest <= LIMIT, "no write accepted for {longest:.2?}; {LIMIT:?} are promised");
        let (splits, most) = (self.splits(), 1 + self.deaths.len() / 15);
        ensure!(splits <= most, "{splits} of {} elections were split", self.deaths.len());
        Ok(())
    }
}

/// Kills the leader so many times.
pub async fn run(setup: &Setup, kinds: &[Kind], rounds: usize) -> Result<Report> {
    let mut cluster = Cluster::start(setup.members(kinds.to_vec())).await?;
    let mut deaths = Vec::with_capacity(rounds);
    let mut health = cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    for round in 0..rounds {
        let mut survivors = cluster.serving();
        survivors.retain(|index| *index != health.leader);
        let killed = Instant::now();
        cluster.kill_node(health.leader)?;
        cluster
            .wait_writes_accepted(&survivors, TIMEOUT)
            .await
            .with_context(|| format!("round {round}"))?;
        let time = killed.elapsed();
        cluster.start_node(health.leader)?;
        let term = health.term;
        health = cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
        deaths.push(Death { time, is_split: health.term > term + 1 });
    }
    cluster.equal_hashes().await?;
    cluster.stop().await?;
    deaths.sort_unstable();
    Ok(Report { deaths })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deaths(ordinary: &[(usize, u64)], split: usize) -> Report {
        let of = |(count, millis): &(usize, u64)| {
            vec![Death { time: Duration::from_millis(*millis), is_split: false }; *count]
        };
        let mut deaths: Vec<Death> = ordinary.iter().flat_map(of).collect();
        deaths.extend(vec![Death { time: Duration::from_millis(2_900), is_split: true }; split]);
        deaths.sort_unstable();
        Report { deaths }
    }

    #[test]
    fn the_limit_is_kept_or_not() {
        assert!(deaths(&[(24, 1_500), (1, 2_000)], 0).check().is_ok());
        assert!(deaths(&[(24, 1_500), (1, 2_001)], 0).check().is_err(), "one is too long");
        assert!(deaths(&[(23, 1_500)], 2).check().is_ok(), "two that came by chance");
        assert!(deaths(&[(22, 1_500)], 3).check().is_err(), "so many do not come by chance");
        assert!(deaths(&[(99, 1_500)], 1).check().is_ok(), "1 in 100");
        assert!(deaths(&[(98, 1_500)], 2).check().is_err(), "2 in 100 are above the p99");
    }

    #[test]
    fn percentiles_are_those_measured() {
        let report = deaths(&[(50, 1_000), (49, 1_500)], 1);
        let percentiles = [50, 51, 99, 100].map(|percent| report.percentile(percent).as_millis());
        assert_eq!(percentiles, [1_000, 1_500, 1_500, 2_900]);
    }
}
