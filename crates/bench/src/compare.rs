//! `bench compare A B`: the same workloads on two server programs in turn, each one member or a cluster.
//!
//! A machine drifts: its clock speed, its disk, its neighbours. So the two programs take turns in short rounds, on fresh data
//! directories, and a row's figure is the median of its rounds; what is reported is the ratio of the two medians. The
//! order within a round alternates too.
//!
//! ```text
//! round 1: row 1: A B   row 2: A B   …     round 2: row 1: B A   row 2: B A   …
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use testkit::member::{Member, Options, Scheme, start_cluster};
use testkit::programs;

use crate::access::{self, Access};
use crate::grpc::Connection;
use crate::load::Plan;
use crate::process::Processes;
use crate::report::Outcome;
use crate::workload::{Shape, Workload};
use crate::{in_runtime, report};

/// How a run of the comparison is set up.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareArguments {
    /// The server to compare with: a program, `real` (Debian's etcd as fetched by testkit) or `ours`.
    reference: String,
    /// The server in question: a program, `real` or `ours`.
    subject: String,
    /// Members of each server: connections are spread over them, and figures are of all together.
    #[arg(long, default_value_t = 1)]
    members: usize,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measured seconds for each row of a round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Only rows whose name contains one of these (comma-separated).
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// List the rows and end.
    #[arg(long)]
    list: bool,
    /// Where the data directories go; on a real disk.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Keys in the restart and memory rows.
    #[arg(long, default_value_t = 1_000_000)]
    load_keys: u64,
    /// Rounds of the restart and memory rows, which take long.
    #[arg(long, default_value_t = 3)]
    load_rounds: usize,
    /// Flags for both servers, as `--flag=--snapshot-count=10000`.
    #[arg(long = "flag", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Print JSON (every round's figures too) instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the JSON to this file as well.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What a row does.
#[derive(Clone, Debug)]
enum Work {
    /// A workload for some seconds.
    Timed(Workload, Box<Shape>),
    /// Load keys, look at the memory, stop, start, measure how long that takes.
    Restart,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    work: Work,
    setting: Setting,
}

/// What the server asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// Nothing.
    Plain,
    /// TLS.
    Tls,
    /// A user.
    Auth,
}

/// Figures of one row on one program in one round.
type Figures = BTreeMap<&'static str, f64>;

/// A comparison, as printed and stored.
#[derive(Debug, Serialize)]
struct Comparison {
    reference: String,
    subject: String,
    rows: Vec<ComparedRow>,
}

#[derive(Debug, Serialize)]
struct ComparedRow {
    row: String,
    figures: BTreeMap<&'static str, Compared>,
}

/// One figure of one row.
#[derive(Debug, Serialize)]
struct Compared {
    reference: f64,
    subject: f64,
    /// Of the medians: subject / reference; absent where the reference used nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    reference_rounds: Vec<f64>,
    subject_rounds: Vec<f64>,
}

/// Figures in the order of the table, with the heading.
const FIGURES: &[(&str, &str)] = &[
    ("throughput", "ops/s"),
    ("p50_us", "p50"),
    ("p99_us", "p99"),
    ("cpu_ms", "CPU ms/op"),
    ("write_bytes", "bytes/op"),
    ("rss_mib", "RSS MiB"),
    ("ready_ms", "ready ms"),
];

/// Runs the comparison and prints it.
pub(crate) fn compare(arguments: &CompareArguments) -> Result<()> {
    let rows: Vec<Row> = rows()
        .into_iter()
        // Memory and restart are a member's, whatever the cluster.
        .filter(|row| arguments.members == 1 || matches!(row.work, Work::Timed(..)))
        .filter(|row| {
            arguments.rows.is_empty() || arguments.rows.iter().any(|part| row.name.contains(part))
        })
        .collect();
    if arguments.list {
        for row in &rows {
            report::print_line(&row.name);
        }
        return Ok(());
    }
    ensure!(!rows.is_empty(), "no row has such a name; --list shows them");
    let programs = [program(&arguments.reference)?, program(&arguments.subject)?];
    let mut figures: Vec<[Vec<Figures>; 2]> =
        rows.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for round in 0..arguments.rounds.max(arguments.load_rounds) {
        for (row, figures) in rows.iter().zip(&mut figures) {
            let rounds = match row.work {
                Work::Timed(..) => arguments.rounds,
                Work::Restart => arguments.load_rounds,
            };
            if round >= rounds {
                continue;
            }
            for turn in 0..2 {
                let side = (round + turn) % 2;
                let (label, path) = &programs[side];
                let found = measure(arguments, row, path)
                    .with_context(|| format!("{} on {label}, round {}", row.name, round + 1))?;
                eprintln!("round {} {:28} {label:16} {}", round + 1, row.name, one_line(&found));
                figures[side].push(found);
            }
        }
    }
    let comparison = Comparison {
        reference: programs[0].0.clone(),
        subject: programs[1].0.clone(),
        rows: rows
            .iter()
            .zip(&figures)
            .map(|(row, figures)| compare_row(&row.name, figures))
            .collect(),
    };
    let json = serde_json::to_string_pretty(&comparison).context("encode the result")?;
    if let Some(path) = &arguments.out {
        std::fs::write(path, &json).with_context(|| format!("write {}", path.display()))?;
    }
    report::print_line(&if arguments.json { json } else { table(&comparison) });
    Ok(())
}

/// Label and path of a server program.
fn program(name: &str) -> Result<(String, PathBuf)> {
    let programs = match name {
        "real" => programs::real()
            .context("real etcd absent: run `cargo run -p testkit -- fetch-etcd`")?,
        "ours" => programs::ours()?,
        path => {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "{} is no program", path.display());
            return Ok((name.to_owned(), path));
        }
    };
    Ok((programs.label, programs.etcd))
}

/// The rows, from run to run the same, so that results stay comparable.
fn rows() -> Vec<Row> {
    let base = Shape {
        conns: 8,
        clients: 64,
        key_size: 16,
        val_size: 256,
        key_space: 100_000,
        sequential: false,
        keys: 1,
        serializable: false,
        read_share: 0.8,
        batch: 1,
        watchers: 1000,
        streams: 10,
        readers: 10,
        seed: 1,
    };
    let mut rows = Vec::new();
    let mut add = |name: &str, workload, shape: Shape| {
        let work = Work::Timed(workload, Box::new(shape));
        rows.push(Row { name: name.to_owned(), work, setting: Setting::Plain });
    };
    for val_size in [256, 4096] {
        for (clients, conns) in [(1, 1), (64, 8), (1000, 32)] {
            let shape = Shape { clients, conns, val_size, ..base.clone() };
            add(&format!("put-{clients}-{val_size}B"), Workload::Put, shape);
        }
    }
    for (clients, conns) in [(1, 1), (64, 8), (1000, 32)] {
        let shape = Shape { clients, conns, key_space: 10_000, ..base.clone() };
        add(&format!("get-linearizable-{clients}"), Workload::Range, shape.clone());
        if clients == 64 {
            add(
                "get-serializable-64",
                Workload::Range,
                Shape { serializable: true, ..shape.clone() },
            );
            add("range100-linearizable-64", Workload::Range, Shape { keys: 100, ..shape.clone() });
            let serializable = Shape { keys: 100, serializable: true, ..shape.clone() };
            add("range100-serializable-64", Workload::Range, serializable);
        }
    }
    add("txn-put-64", Workload::TxnPut, base.clone());
    add("mixed-64", Workload::Mixed, Shape { key_space: 10_000, ..base.clone() });
    add(
        "mixed-1000",
        Workload::Mixed,
        Shape { key_space: 10_000, clients: 1000, conns: 32, ..base.clone() },
    );
    add("lease-grant-64", Workload::LeaseGrant, base.clone());
    add("lease-keepalive-64", Workload::LeaseKeepalive, base.clone());
    add("watch-fan-out-1000", Workload::WatchFanOut, Shape { clients: 1, ..base.clone() });
    add("watch-many-1000", Workload::WatchMany, base.clone());
    let beside_reads = Shape {
        clients: 1,
        conns: 1,
        watchers: 1,
        val_size: 10_000,
        key_space: 500,
        ..base.clone()
    };
    add("watch-beside-reads", Workload::WatchBesideReads, beside_reads);
    add("gateway-put-64", Workload::GatewayPut, base.clone());
    add("gateway-get-64", Workload::GatewayGet, Shape { key_space: 10_000, ..base.clone() });
    for (setting, suffix) in [(Setting::Tls, "tls"), (Setting::Auth, "auth")] {
        for (name, workload, key_space) in
            [("put", Workload::Put, 100_000), ("get-linearizable", Workload::Range, 10_000)]
        {
            let work = Work::Timed(workload, Box::new(Shape { key_space, ..base.clone() }));
            rows.push(Row { name: format!("{name}-64-{suffix}"), work, setting });
        }
    }
    let work = Work::Restart;
    rows.push(Row { name: "restart-and-memory".to_owned(), work, setting: Setting::Plain });
    rows
}

fn measure(arguments: &CompareArguments, row: &Row, program: &Path) -> Result<Figures> {
    let folder = tempfile::Builder::new()
        .prefix("bench-data-")
        .tempdir_in(&arguments.folder)
        .context("make a folder")?;
    let measured = measure_in(folder.path(), arguments, row, program);
    match measured {
        Ok(figures) => Ok(figures),
        // The members' logs say more.
        Err(error) => Err(error.context(format!("kept {}", folder.keep().display()))),
    }
}

fn measure_in(
    folder: &Path,
    arguments: &CompareArguments,
    row: &Row,
    program: &Path,
) -> Result<Figures> {
    let mut options = Options::new(program, &folder.join("data"));
    options.flags.clone_from(&arguments.flags);
    // The load is more than the default quota of 2 GiB allows, in no row; a slow disk needs patience.
    options.start_timeout = Duration::from_secs(120);
    match &row.work {
        Work::Timed(workload, shape) => {
            // What an earlier run left dirty is not to be paid for by this one.
            rustix::fs::sync();
            if row.setting == Setting::Tls {
                secure(&mut options, folder)?;
            }
            let members = start_cluster(&options, arguments.members)?;
            let addresses: Vec<String> = members.iter().map(Member::endpoint).collect();
            let mut access = Access { tls: row.setting == Setting::Tls, user: None };
            if row.setting == Setting::Auth {
                ask_for_users(addresses.first().context("a cluster has members")?)?;
                access.user = Some(access::USER.to_owned());
            }
            let pids: Vec<u32> = members.iter().map(Member::pid).collect();
            let plan = Plan {
                clients: shape.clients,
                warmup: Duration::from_secs_f64(arguments.warmup),
                duration: Duration::from_secs_f64(arguments.seconds),
                rate: None,
                total: None,
                has_progress: false,
            };
            let outcome = in_runtime(*workload, shape, &access, &plan, &addresses, &pids)?;
            check_errors(&outcome)?;
            for member in members {
                member.kill()?;
            }
            Ok(figures_of(&outcome))
        }
        Work::Restart => restart(arguments, &options),
    }
}

/// Clients have to use TLS, with a certificate made for the run.
fn secure(options: &mut Options, folder: &Path) -> Result<()> {
    let made = tls::generate(&folder.join("certificate"), &["127.0.0.1".to_owned()], 1)
        .context("make a certificate")?;
    options.client_scheme = Scheme::Https;
    options.flags.push(format!("--cert-file={}", made.pair.certificate.display()));
    options.flags.push(format!("--key-file={}", made.pair.key.display()));
    Ok(())
}

/// Turns authentication on.
fn ask_for_users(address: &str) -> Result<()> {
    let local = tokio::task::LocalSet::new();
    local.block_on(&crate::runtime()?, async {
        access::enable(&Connection::open(address, &Access::default()).await?).await
    })
}

fn check_errors(outcome: &Outcome) -> Result<()> {
    if outcome.errors > 0 || outcome.operations == 0 {
        bail!(
            "{} errors, {} operations: {:?}",
            outcome.errors,
            outcome.operations,
            outcome.first_error
        );
    }
    Ok(())
}

fn figures_of(outcome: &Outcome) -> Figures {
    let mut figures = Figures::from([
        ("throughput", outcome.throughput),
        ("p50_us", outcome.latency_us.p50),
        ("p99_us", outcome.latency_us.p99),
    ]);
    if let Some(server) = &outcome.server {
        figures.insert("cpu_ms", server.cpu_seconds_per_1000);
        figures.insert("write_bytes", server.write_bytes_per_operation);
        figures.insert("rss_mib", server.rss_peak_bytes as f64 / 1_048_576.0);
    }
    figures
}

/// Loads keys of 256 bytes, reads the memory, and measures the way from the start of the process to its first answer.
fn restart(arguments: &CompareArguments, options: &Options) -> Result<Figures> {
    let shape = Shape {
        conns: 4,
        clients: 8,
        key_size: 16,
        val_size: 256,
        key_space: arguments.load_keys,
        sequential: true,
        keys: 1,
        serializable: false,
        read_share: 1.0,
        batch: 100,
        watchers: 0,
        streams: 1,
        readers: 0,
        seed: 1,
    };
    let plan = Plan {
        clients: shape.clients,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(600),
        rate: None,
        total: None,
        has_progress: false,
    };
    let member = Member::start(options)?;
    let outcome = in_runtime(
        Workload::Fill,
        &shape,
        &Access::default(),
        &plan,
        &[member.endpoint()],
        &[member.pid()],
    )?;
    check_errors(&outcome)?;
    let loaded = Processes::new(&[member.pid()]).sample()?;
    member.stop()?;
    rustix::fs::sync();
    let started = Instant::now();
    let member = Member::spawn(options)?;
    crate::wait_for_answer(&member.endpoint(), Duration::from_secs(300))?;
    let ready = started.elapsed();
    member.kill()?;
    Ok(Figures::from([
        ("throughput", outcome.throughput * 100.0),
        ("cpu_ms", outcome.server.map_or(0.0, |server| server.cpu_seconds_per_1000 / 100.0)),
        (
            "write_bytes",
            outcome.server.map_or(0.0, |server| server.write_bytes_per_operation / 100.0),
        ),
        ("rss_mib", loaded.rss_bytes as f64 / 1_048_576.0),
        ("ready_ms", ready.as_secs_f64() * 1000.0),
    ]))
}

fn compare_row(name: &str, figures: &[Vec<Figures>; 2]) -> ComparedRow {
    let mut out = BTreeMap::new();
    for (key, _) in FIGURES {
        let rounds = |side: usize| {
            figures[side].iter().filter_map(|figures| figures.get(key).copied()).collect()
        };
        let (reference_rounds, subject_rounds): (Vec<f64>, Vec<f64>) = (rounds(0), rounds(1));
        if let (Some(reference), Some(subject)) =
            (median(&reference_rounds), median(&subject_rounds))
        {
            let ratio = (reference > 0.0).then(|| subject / reference);
            out.insert(
                *key,
                Compared { reference, subject, ratio, reference_rounds, subject_rounds },
            );
        }
    }
    ComparedRow { row: name.to_owned(), figures: out }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return values.get(middle).copied();
    }
    Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0)
}

fn one_line(figures: &Figures) -> String {
    let mut out = String::new();
    for (key, heading) in FIGURES {
        if let Some(value) = figures.get(key) {
            let _ = write!(out, "{heading} {}  ", short(*value));
        }
    }
    out
}

/// Three significant digits, as far as a table needs them.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.4}")
    }
}

/// A Markdown table: each figure as `reference → subject (ratio)`.
fn table(comparison: &Comparison) -> String {
    let mut out =
        format!("{} → {} (ratio of medians)\n\n| row |", comparison.reference, comparison.subject);
    for (_, heading) in FIGURES {
        let _ = write!(out, " {heading} |");
    }
    out.push_str("\n| --- |");
    out.push_str(&" --- |".repeat(FIGURES.len()));
    for row in &comparison.rows {
        let _ = write!(out, "\n| {} |", row.row);
        for (key, _) in FIGURES {
            match row.figures.get(key) {
                Some(figure) => {
                    let (reference, subject) = (short(figure.reference), short(figure.subject));
                    let ratio =
                        figure.ratio.map_or(String::new(), |ratio| format!(" (**{ratio:.2}**)"));
                    let _ = write!(out, " {reference} → {subject}{ratio} |");
                }
                None => out.push_str(" |"),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn row_names_are_unique() {
        let mut names: Vec<String> = rows().into_iter().map(|row| row.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
