//! `testkit conformance`: etcd's own tests against our programs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testkit::conformance::{self, Options, Package, Reasons, Suite, Verdict};
use testkit::programs::Programs;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// VERSION=FOLDER: a checkout of etcd at a tag of that version, with the programs in its `bin`.
    #[arg(required = true)]
    suites: Vec<String>,
    /// `common`, `e2e`, or both.
    #[arg(long, value_delimiter = ',', default_value = "common,e2e")]
    packages: Vec<String>,
    /// Only tests whose name contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Tests at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Tests whose name contains one of these run when the others have ended, one after the other: they measure time.
    #[arg(long, value_delimiter = ',', default_value = "TestWatchDelay")]
    alone: Vec<String>,
    /// Seconds that one test may take.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// A server to test instead of ours: `bin/etcd` of a Go etcd shows which failures are the tests' own.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Why tests do not pass: lines `VERSIONS PACKAGE TEST REASON`.
    #[arg(long)]
    reasons: Option<PathBuf>,
    /// Where the output of each test goes.
    #[arg(long, default_value = "target/conformance")]
    logs: PathBuf,
    /// Where the table goes, beside standard output.
    #[arg(long)]
    table: Option<PathBuf>,
}

/// Runs the suites and prints the table. Fails on a failure without a reason, and on a reason without a failure.
pub(crate) fn run(arguments: &Arguments, subject: &Programs) -> Result<()> {
    let suites =
        arguments.suites.iter().map(|text| Suite::parse(text)).collect::<Result<Vec<_>>>()?;
    let packages = arguments
        .packages
        .iter()
        .map(|name| {
            let found = Package::ALL.into_iter().find(|package| package.name() == name);
            found.with_context(|| format!("no package {name:?}: common and e2e"))
        })
        .collect::<Result<Vec<_>>>()?;
    let reasons = match &arguments.reasons {
        Some(path) => Reasons::read(path)?,
        None => Reasons::default(),
    };
    let canonical =
        |path: &PathBuf| path.canonicalize().with_context(|| format!("find {}", path.display()));
    let options = Options {
        etcd: canonical(arguments.etcd.as_ref().unwrap_or(&subject.etcd))?,
        is_emulating: arguments.etcd.is_none(),
        packages,
        filter: arguments.filter.clone(),
        jobs: arguments.jobs,
        alone: arguments.alone.clone(),
        timeout: Duration::from_secs(arguments.timeout),
        logs: arguments.logs.clone(),
    };
    let report = conformance::run(&suites, &options, &|suite, package, outcome| {
        let verdict = match outcome.verdict {
            Verdict::Passed => "pass",
            Verdict::Skipped => "skip",
            Verdict::Failed => "FAIL",
        };
        println!(
            "{verdict} {} {package} {} {:.1} s {}",
            suite.version,
            outcome.test,
            outcome.elapsed.as_secs_f64(),
            outcome.detail
        );
    })?;
    let table = report.markdown(&reasons);
    println!("\n{table}");
    if let Some(path) = &arguments.table {
        std::fs::write(path, &table).with_context(|| format!("write {}", path.display()))?;
    }
    let surprises = report.surprises(&reasons);
    for surprise in &surprises {
        println!("{surprise}");
    }
    if !surprises.is_empty() {
        bail!("{} surprises; the outputs are in {}", surprises.len(), options.logs.display());
    }
    Ok(())
}
