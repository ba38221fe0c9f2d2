//! `bench`: loads a server and says what it did, alone or beside another one.
//!
//! ```text
//! bench put --endpoint 127.0.0.1:2379 --pid 4711 --clients 64      one workload, closed loop
//! bench put --rate 5000                                            the same, open loop
//! bench compare real ours                                          every row, two servers in turn
//! ```
//!
//! - [`load`]: closed and open loop, warm-up, what counts;
//! - [`workload`]: what an operation is;
//! - [`access`]: TLS and users;
//! - [`grpc`], [`gateway`]: calls, by hand, because the generator shares the machine with the server;
//! - [`process`]: CPU, memory and disk writes of the server, from `/proc`;
//! - [`compare`]: the rows by which the project's claims of speed are made.
//!
//! One thread, so that a machine of two cores has one to itself for the server.

mod access;
mod compare;
mod gateway;
mod grpc;
mod load;
mod process;
mod report;
mod workload;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Parser, Subcommand};

use crate::access::Access;
use crate::compare::CompareArguments;
use crate::load::Plan;
use crate::process::Processes;
use crate::report::Outcome;
use crate::workload::{Shape, Workload};

/// A load generator for etcd servers.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts.
    Put(RunArguments),
    /// Transactions of puts.
    TxnPut(RunArguments),
    /// Ranges over keys that are put first.
    Range(RunArguments),
    /// Ranges and puts.
    Mixed(RunArguments),
    /// Grants of leases.
    LeaseGrant(RunArguments),
    /// Keep-alives of leases.
    LeaseKeepalive(RunArguments),
    /// Puts of one key with many watchers; counts delivered events.
    WatchFanOut(RunArguments),
    /// Puts of many keys with a watcher each; counts delivered events.
    WatchMany(RunArguments),
    /// Puts of `--key-space` different keys.
    Fill(RunArguments),
    /// Puts through the JSON gateway.
    GatewayPut(RunArguments),
    /// Gets through the JSON gateway.
    GatewayGet(RunArguments),
    /// The same workloads on two servers in turn.
    Compare(CompareArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// The server, or the members of a cluster (comma-separated): connections are spread over them.
    #[arg(long, default_value = "127.0.0.1:2379", value_delimiter = ',')]
    endpoint: Vec<String>,
    /// The process ids (comma-separated) whose CPU time, memory and disk writes are reported together.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Operations a second (open loop); as fast as the callers go when absent (closed loop).
    #[arg(long)]
    rate: Option<f64>,
    /// Ends after so many operations.
    #[arg(long)]
    total: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    access: Access,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let (workload, arguments) = match command {
        Command::Put(arguments) => (Workload::Put, arguments),
        Command::TxnPut(arguments) => (Workload::TxnPut, arguments),
        Command::Range(arguments) => (Workload::Range, arguments),
        Command::Mixed(arguments) => (Workload::Mixed, arguments),
        Command::LeaseGrant(arguments) => (Workload::LeaseGrant, arguments),
        Command::LeaseKeepalive(arguments) => (Workload::LeaseKeepalive, arguments),
        Command::WatchFanOut(arguments) => (Workload::WatchFanOut, arguments),
        Command::WatchMany(arguments) => (Workload::WatchMany, arguments),
        Command::Fill(arguments) => (Workload::Fill, arguments),
        Command::GatewayPut(arguments) => (Workload::GatewayPut, arguments),
        Command::GatewayGet(arguments) => (Workload::GatewayGet, arguments),
        Command::Compare(arguments) => return compare::compare(&arguments),
    };
    // A run with a fixed number of operations ends with them, however long they take.
    let seconds = if arguments.total.is_some() || workload == Workload::Fill {
        86_400.0
    } else {
        arguments.seconds
    };
    let plan = Plan {
        clients: arguments.shape.clients,
        warmup: Duration::from_secs_f64(arguments.warmup),
        duration: Duration::from_secs_f64(seconds),
        rate: arguments.rate,
        total: arguments.total,
        has_progress: true,
    };
    let outcome = in_runtime(
        workload,
        &arguments.shape,
        &arguments.access,
        &plan,
        &arguments.endpoint,
        &arguments.pid,
    )?;
    if arguments.json {
        report::print_line(&serde_json::to_string_pretty(&outcome).context("encode the result")?);
    } else {
        report::print_line(outcome.human().trim_end());
    }
    Ok(())
}

/// Runs one workload on a runtime of its own.
fn in_runtime(
    workload: Workload,
    shape: &Shape,
    access: &Access,
    plan: &Plan,
    addresses: &[String],
    pids: &[u32],
) -> Result<Outcome> {
    let server = (!pids.is_empty()).then(|| Processes::new(pids));
    let runtime = runtime()?;
    let local = tokio::task::LocalSet::new();
    let measured = local.block_on(
        &runtime,
        workload::run(workload, shape, access, plan, addresses, server.as_ref()),
    )?;
    let name = clap::ValueEnum::to_possible_value(&workload);
    let name = name.map(|value| value.get_name().to_owned()).unwrap_or_default();
    Ok(Outcome::new(&name, plan.clients, &measured))
}

/// Waits until a server answers a linearizable read; asks again and again, without a pause that would blur the result.
fn wait_for_answer(address: &str, limit: Duration) -> Result<()> {
    let runtime = runtime()?;
    let deadline = Instant::now() + limit;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let request = proto::etcdserverpb::RangeRequest {
            key: Bytes::from_static(b"k"),
            ..Default::default()
        };
        let request = grpc::frame(&request);
        while Instant::now() < deadline {
            if let Ok(connection) = grpc::Connection::open(address, &Access::default()).await {
                let target = connection.method("/etcdserverpb.KV/Range");
                let answer = connection.unary(&target, request.clone());
                if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(10), answer).await {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("no answer from {address} in {limit:?}")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}
