//! `testkit cluster …`: the runs with clusters of real processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use testkit::cluster::snapshot::Way;
use testkit::cluster::{
    Kind, Setup, deploy, failover, faults, learner, pairs, roll, snapshot, tokens,
};
use testkit::{programs, random};

/// What all runs have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    run: Run,
    /// The seed; a fresh one when absent.
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Where the data directories go; they are kept when something is wrong.
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    /// Flags for all members, as `--flag=--snapshot-count=50`.
    #[arg(long = "flag", global = true, allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// Both programs in both places.
const PAIRINGS: &str = "real:ours,ours:real,ours:ours";

/// Takes a list of pairings.
fn pairings(text: &str) -> Result<Vec<(Kind, Kind)>> {
    text.split(',')
        .map(|pair| {
            let (one, other) =
                pair.split_once(':').with_context(|| format!("no pair: {pair:?}"))?;
            Ok((Kind::parse(one)?, Kind::parse(other)?))
        })
        .collect()
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Replaces the programs of all members one by one, under load, and back.
    Roll {
        /// The programs at first: `real`, `ours`, `etcd-3.6`, `etcd-3.7`, `ours-3.6`, or paths.
        #[arg(long, default_value = "real,real,real")]
        kinds: String,
        /// The programs in the middle.
        #[arg(long, default_value = "ours,ours,ours")]
        to: String,
        /// Operations between two steps.
        #[arg(long, default_value_t = 500)]
        operations: usize,
    },
    /// Mixed operations with each pairing of a leader's and its followers' programs.
    Pairs {
        /// Pairings with commas, each `leader:followers`.
        #[arg(long, default_value = PAIRINGS)]
        kinds: String,
        /// Operations for each pairing.
        #[arg(long, default_value_t = 50_000)]
        operations: u64,
    },
    /// A member falls behind and catches up by a snapshot.
    Snapshot {
        /// Pairings with commas, each `sender:receiver`.
        #[arg(long, default_value = PAIRINGS)]
        kinds: String,
        /// How it falls behind, with commas.
        #[arg(long, default_value = "paused,stopped,compacted")]
        ways: String,
    },
    /// Members join as learners, are promoted, and take the places of others.
    Learner {
        /// Pairings with commas, each `cluster:learner`.
        #[arg(long, default_value = PAIRINGS)]
        kinds: String,
    },
    /// Users: tokens of each member at each member, grants, passwords.
    Tokens {
        /// The programs of each cluster: members with commas, clusters with colons.
        #[arg(long, default_value = "real,ours,ours:real,real,ours")]
        kinds: String,
    },
    /// The documented deployment, each member in a network namespace (needs root): without TLS, then with.
    Deploy {
        /// The programs of the three members.
        #[arg(long, default_value = "ours,ours,ours")]
        kinds: String,
        /// `http`, `https` or both.
        #[arg(long, default_value = "http,https")]
        schemes: String,
    },
    /// Kills the leader again and again: writes are accepted again within two election timeouts.
    Failover {
        /// The programs: as for `roll`.
        #[arg(long, default_value = "ours,ours,ours")]
        kinds: String,
        /// Kills.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
    },
    /// Random faults under load, each cycle checked.
    Faults {
        /// The programs: as for `roll`.
        #[arg(long, default_value = "ours,ours,ours")]
        kinds: String,
        /// Faults in all.
        #[arg(long, default_value_t = 20)]
        cycles: u64,
        /// The faults to choose from, with commas; all when absent.
        #[arg(long)]
        faults: Option<String>,
    },
}

/// Runs a command; on an error the folder with data directories and logs is kept and named.
pub(crate) fn run(arguments: &Arguments, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let parent = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new()
        .prefix("retcd-cluster-")
        .tempdir_in(parent)
        .context("make a folder")?;
    let seed = arguments.seed.unwrap_or_else(random::fresh_seed);
    println!("seed {seed}");
    let result = runtime.block_on(run_in(arguments, seed, folder.path()));
    if result.is_err() {
        println!("seed {seed}: kept logs and data directories in {}", folder.keep().display());
    }
    result
}

async fn run_in(arguments: &Arguments, seed: u64, folder: &Path) -> Result<()> {
    let setup = Setup { seed, flags: arguments.flags.clone(), folder: folder.to_owned() };
    match &arguments.run {
        Run::Roll { kinds, to, operations } => {
            let (kinds, to) = (Kind::parse_list(kinds)?, Kind::parse_list(to)?);
            let config = roll::Config { kinds, to, operations: *operations };
            let report = roll::run(&setup, &config).await?;
            println!("seed {seed}: {report:#?}");
        }
        Run::Pairs { kinds, operations } => {
            for (number, (leader, follower)) in pairings(kinds)?.into_iter().enumerate() {
                let label = format!("{} leads, {} follow", leader.label, follower.label);
                let config = pairs::Config { leader, follower, operations: *operations };
                let report = pairs::run(&setup.below(&number.to_string()), &config).await;
                println!("seed {seed}: {label}: {:?}", report.with_context(|| label.clone())?);
            }
        }
        Run::Snapshot { kinds, ways } => {
            let ways: Vec<_> = ways.split(',').map(Way::parse).collect::<Result<_>>()?;
            for (number, (sender, receiver)) in pairings(kinds)?.into_iter().enumerate() {
                let label = format!("{} sends to {}", sender.label, receiver.label);
                let setup = setup.below(&number.to_string());
                let report = snapshot::run(&setup, &sender, &receiver, &ways).await;
                println!("seed {seed}: {label}: {:?}", report.with_context(|| label.clone())?);
            }
        }
        Run::Learner { kinds } => {
            for (number, (members, learner)) in pairings(kinds)?.into_iter().enumerate() {
                let label = format!("{} joins {}", learner.label, members.label);
                let setup = setup.below(&number.to_string());
                let report = learner::run(&setup, &members, &learner).await;
                println!("seed {seed}: {label}: {:?}", report.with_context(|| label.clone())?);
            }
        }
        Run::Tokens { kinds } => {
            for (number, kinds) in kinds.split(':').enumerate() {
                let setup = setup.below(&number.to_string());
                let report = tokens::run(&setup, Kind::parse_list(kinds)?).await;
                println!("seed {seed}: users of {kinds}: {:?}", report.context(kinds.to_owned())?);
            }
        }
        Run::Deploy { kinds, schemes } => deploy(&setup, kinds, schemes)?,
        Run::Faults { kinds, cycles, faults } => {
            let kinds = Kind::parse_list(kinds)?;
            run_faults(&setup, kinds, *cycles, faults.as_deref()).await?;
        }
        Run::Failover { kinds, rounds } => {
            run_failover(&setup, &Kind::parse_list(kinds)?, *rounds).await?;
        }
    }
    Ok(())
}

fn deploy(setup: &Setup, kinds: &str, schemes: &str) -> Result<()> {
    let real = programs::real().context("real etcd absent: its etcdctl is the client")?;
    for scheme in schemes.split(',') {
        let config = deploy::Config {
            kinds: Kind::parse_list(kinds)?,
            scheme: match scheme {
                "http" => deploy::Scheme::Http,
                "https" => deploy::Scheme::Https,
                other => bail!("unknown scheme {other:?}"),
            },
            etcdctl: real.etcdctl.clone(),
            folder: setup.folder.join(scheme),
        };
        for line in deploy::run(&config).with_context(|| scheme.to_owned())? {
            println!("{line}");
        }
    }
    Ok(())
}

async fn run_faults(
    setup: &Setup,
    kinds: Vec<Kind>,
    cycles: u64,
    faults: Option<&str>,
) -> Result<()> {
    let wanted = match faults {
        Some(list) => list.split(',').map(faults::Fault::parse).collect::<Result<_>>()?,
        None => faults::Fault::ALL.to_vec(),
    };
    let faults = faults::possible_or_skip(&wanted).await?;
    let config = faults::Config { cycles, kinds, faults, is_verbose: true };
    let report = faults::run(setup, &config).await?;
    let seed = setup.seed;
    println!("seed {seed}: {:#?}", (&report.faults, report.checked));
    for (fault, times) in &report.failovers {
        println!("seed {seed}: {fault:?}: writes accepted again after {times:.2?}");
    }
    Ok(())
}

async fn run_failover(setup: &Setup, kinds: &[Kind], rounds: usize) -> Result<()> {
    let report = failover::run(setup, kinds, rounds).await?;
    println!(
        "{rounds} leaders killed: writes accepted again after {:.2?} (p50), {:.2?} (p99), {:.2?} (longest); {} elections split",
        report.percentile(50),
        report.percentile(99),
        report.percentile(100),
        report.splits()
    );
    report.check()
}
