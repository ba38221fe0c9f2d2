//! `testkit attack`: hostile connections, with a well-behaved client beside them.

use anyhow::Result;
use testkit::attack::{self, Config};
use testkit::programs::Programs;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only attacks whose name contains this.
    #[arg(default_value = "")]
    filter: String,
    /// Connections of the largest attack; the others take a part of it.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Do not wait until the member ends silent connections by itself.
    #[arg(long)]
    quick: bool,
    /// Measure only: nothing that is taken up is too much. Always so for real etcd.
    #[arg(long)]
    unbound: bool,
}

/// Runs the attacks and prints a line for each.
pub(crate) async fn run(arguments: &Arguments, subject: &Programs) -> Result<()> {
    let config = Config {
        programs: subject.clone(),
        connections: arguments.connections,
        filter: arguments.filter.clone(),
        awaits_deadlines: !arguments.quick,
        is_bound: !arguments.unbound && !subject.label.starts_with("real"),
    };
    println!("{}: {} connections", subject.label, config.connections);
    println!(
        "{:24} {:>10} {:>10} {:>10} {:>7} {:>9} {:>7} {:>9} {:>7}",
        "attack",
        "grown KiB",
        "limit KiB",
        "left KiB",
        "rounds",
        "slowest",
        "CPU s",
        "log bytes",
        "s"
    );
    attack::run(&config, |outcome| {
        println!(
            "{:24} {:>10} {:>10} {:>10} {:>7} {:>6} ms {:>7.2} {:>9} {:>7.1}",
            outcome.name,
            outcome.grown_kib,
            outcome.limit_kib,
            outcome.left_kib,
            outcome.rounds,
            outcome.slowest.as_millis(),
            outcome.cpu.as_secs_f64(),
            outcome.log_bytes,
            outcome.elapsed.as_secs_f64()
        );
    })
    .await
}
