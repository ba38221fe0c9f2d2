//! The long runs: `testkit <command>`. The tests of this crate are short runs of the same functions.

#![allow(clippy::print_stdout, reason = "a command line program reports on standard output")]

mod attack_command;
mod cluster_command;
mod conformance_command;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use testkit::cluster::Kind;
use testkit::differential::{self, Rules, Stop};
use testkit::programs::Programs;
use testkit::{canary, cli, crash, embed, fixtures, programs, random};

/// Runs our programs beside real etcd.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Folder of the programs under test (default: those built with this program; `real`: real etcd).
    #[arg(long, global = true)]
    subject: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetches Debian's etcd packages into the target folder, touching nothing else.
    FetchEtcd,
    /// Builds members of newer etcd with Go into the target folder.
    BuildEtcd,
    /// Prints which programs would be used.
    Programs,
    /// Compares the outputs of etcdctl against real etcd and the subject.
    Cli {
        /// Only scripts whose name contains this.
        #[arg(default_value = "")]
        filter: String,
        /// Take the subject's etcdctl, and real servers on both sides: compares the clients.
        #[arg(long)]
        clients: bool,
        /// Print the reference's transcript.
        #[arg(long)]
        show: bool,
    },
    /// Sends random operations to real etcd and the subject and compares every answer.
    Differential(DifferentialArguments),
    /// Starts the subject on directories that real etcd wrote and compares what it serves.
    Fixtures {
        /// The folder with the archives.
        folder: PathBuf,
    },
    /// Kills the subject under load, again and again, and checks that nothing acknowledged is lost.
    Crash(CrashArguments),
    /// Attacks a member of the subject with hostile connections, while a well-behaved client goes on.
    Attack(attack_command::Arguments),
    /// Gives a member secrets, and looks for them where they do not belong.
    Canary,
    /// Runs clusters of real processes: mixed programs, faults, checked load.
    Cluster(cluster_command::Arguments),
    /// Runs etcd's own tests, as somebody has built them, against the subject, and prints the table.
    Conformance(conformance_command::Arguments),
}

#[derive(Debug, clap::Args)]
struct DifferentialArguments {
    /// Operations in all.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// The seed; a fresh one when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs one after the other, each with the next seed.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Phases, with a restart of both servers after each.
    #[arg(long, default_value_t = 1)]
    phases: u64,
    /// Let the two servers exchange their data directories between phases.
    #[arg(long)]
    swap: bool,
    /// How a phase ends: term, kill, mixed.
    #[arg(long, default_value = "term")]
    stop: String,
    /// The longest value of the usual size.
    #[arg(long, default_value_t = 48)]
    value_bytes: usize,
    /// Where the data directories go (a memory file system makes the run faster).
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Requests come from users, while what these may do changes.
    #[arg(long)]
    users: bool,
    /// With users: one of the servers is older than 3.5.28, and requests are left out that it lets through unseen.
    #[arg(long)]
    old_rules: bool,
    /// Among how many draws one is of watches; 0 for none.
    #[arg(long, default_value_t = 1000)]
    watches_one_in: u64,
    /// The two servers: `real`, `ours`, `etcd-3.7`, `ours-3.7` and the like, or the path of a program.
    #[arg(long, default_value = "real:ours")]
    kinds: String,
    /// Flags for both servers, as `--flag=--snapshot-count=50`.
    #[arg(long = "flag", allow_hyphen_values = true)]
    flags: Vec<String>,
}

impl DifferentialArguments {
    fn run(&self) -> Result<()> {
        let (left, right) = self.kinds.split_once(':').context("--kinds is LEFT:RIGHT")?;
        let (left, right) = (Kind::parse(left)?, Kind::parse(right)?);
        let first = self.seed.unwrap_or_else(random::fresh_seed);
        let stop = match self.stop.as_str() {
            "term" => Stop::Term,
            "kill" => Stop::Kill,
            "mixed" => Stop::Mixed,
            other => bail!("unknown way to stop {other:?}"),
        };
        for seed in first..first + self.runs {
            println!(
                "seed {seed}: {} operations, {} and {}",
                self.operations, left.label, right.label
            );
            let parent = self.folder.clone().unwrap_or_else(std::env::temp_dir);
            let folder = tempfile::Builder::new()
                .prefix("retcd-diff-")
                .tempdir_in(parent)
                .context("make a folder")?;
            let config = differential::Config {
                seed,
                operations: self.operations,
                left: left.clone(),
                right: right.clone(),
                phases: self.phases,
                is_swapping: self.swap,
                stop,
                flags: self.flags.clone(),
                users: self.users.then_some(if self.old_rules {
                    Rules::Old
                } else {
                    Rules::Present
                }),
                value_bytes_max: self.value_bytes,
                folder: Some(folder.path().to_owned()),
                watches_one_in: self.watches_one_in,
                is_verbose: true,
            };
            let report = runtime()?.block_on(differential::run(&config));
            match report {
                Ok(report) => {
                    for (outcome, count) in &report.outcomes {
                        println!("{count:9} {outcome}");
                    }
                    println!(
                        "seed {seed}: equal: {} answers ({} refusals), {} events, {} hashes, revision {}, in {:.1?}",
                        report.operations,
                        report.refusals,
                        report.events,
                        report.hashes,
                        report.revision,
                        report.elapsed
                    );
                }
                Err(error) => {
                    println!(
                        "seed {seed}: kept the data directories in {}",
                        folder.keep().display()
                    );
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
struct CrashArguments {
    /// Kills.
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// The seed; a fresh one when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Writers at once.
    #[arg(long, default_value_t = 32)]
    writers: usize,
    /// Milliseconds of load before a kill, at most.
    #[arg(long, default_value_t = 1_000)]
    load_ms: u64,
    /// Where the data directories go.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Flags for the server, as `--flag=--snapshot-count=50`.
    #[arg(long = "flag", allow_hyphen_values = true)]
    flags: Vec<String>,
}

impl CrashArguments {
    fn run(&self, subject: &Programs) -> Result<()> {
        let seed = self.seed.unwrap_or_else(random::fresh_seed);
        let parent = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new()
            .prefix("retcd-crash-")
            .tempdir_in(parent)
            .context("make a folder")?;
        let config = crash::Config {
            seed,
            rounds: self.rounds,
            writers: self.writers,
            program: subject.clone(),
            other: programs::real(),
            load_max: std::time::Duration::from_millis(self.load_ms),
            flags: self.flags.clone(),
            folder: Some(folder.path().to_owned()),
        };
        println!("seed {seed}: {} kills of {}", self.rounds, subject.label);
        match runtime()?.block_on(crash::run(&config)) {
            Ok(report) => println!("seed {seed}: nothing lost: {report:?}"),
            Err(error) => {
                println!("seed {seed}: kept the data directory in {}", folder.keep().display());
                return Err(error);
            }
        }
        Ok(())
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // One thread: the servers need the cores.
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let subject = || match &arguments.subject {
        None => programs::ours(),
        Some(folder) if folder.as_os_str() == "real" => reference(),
        Some(folder) => Programs::in_folder("subject", folder),
    };
    match &arguments.command {
        Command::FetchEtcd => {
            let programs = programs::fetch()?;
            println!("{}: {}", programs.label, programs.etcd.display());
        }
        Command::BuildEtcd => {
            for program in embed::build()? {
                println!("{}", program.display());
            }
        }
        Command::Programs => {
            println!("{:#?}\n{:#?}", programs::real(), subject());
        }
        Command::Differential(arguments) => arguments.run()?,
        Command::Fixtures { folder } => {
            let report = runtime()?.block_on(fixtures::check(folder, &subject()?.etcd))?;
            println!("served like real etcd: {}", report.passed.join(", "));
        }
        Command::Crash(arguments) => arguments.run(&subject()?)?,
        Command::Attack(arguments) => {
            runtime()?.block_on(attack_command::run(arguments, &subject()?))?;
        }
        Command::Canary => {
            for (tokens, version) in canary::RUNS {
                println!("{}", runtime()?.block_on(canary::run(&subject()?, tokens, version))?);
            }
        }
        Command::Cluster(arguments) => cluster_command::run(arguments, &runtime()?)?,
        Command::Conformance(arguments) => conformance_command::run(arguments, &subject()?)?,
        Command::Cli { filter, clients, show } => {
            let (real, subject) = (reference()?, subject()?);
            let scripts = cli::scripts(filter)?;
            let left = cli::Side { label: &real.label, etcd: &real.etcd, etcdctl: &real.etcdctl };
            let right = if *clients {
                cli::Side { etcdctl: &subject.etcdctl, label: "our client", ..left }
            } else {
                cli::Side { etcd: &subject.etcd, label: &subject.label, ..left }
            };
            if *show {
                for script in &scripts {
                    for block in cli::transcript(script, left, real.etcdutl.as_deref())? {
                        print!("{block}");
                    }
                }
                return Ok(());
            }
            let report = cli::compare(&scripts, left, right, real.etcdutl.as_deref())?;
            for difference in &report.differences {
                println!("{difference}");
            }
            println!("{} steps compared, {} differ", report.steps, report.differences.len());
            if !report.differences.is_empty() {
                bail!("the outputs differ");
            }
        }
    }
    Ok(())
}

fn reference() -> Result<Programs> {
    programs::real().context("real etcd absent: run `testkit fetch-etcd`, or set RETCD_REAL_ETCD")
}
