//! Runs tests, each in a world of its own.
//!
//! A test gets a folder whose shape is that of the checkout, since it looks for `../../bin` and `../fixtures` and writes
//! beside itself; everything but the programs is a link. Its network and process namespaces are new: the only interfaces
//! are loopback, and one that goes nowhere with a default route, because some tests ask which address they would use.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::outcome::Outcome;
use super::report::Report;
use super::suite::{Package, Suite};

/// Makes the network, then becomes the test.
const ENTER: &str = "ip link set lo up && ip link add out type veth peer name away && ip addr add 192.0.2.1/24 dev out \
                     && ip link set away up && ip link set out up && ip route add default via 192.0.2.2 && exec \"$@\"";

/// What to run, and how.
#[derive(Debug)]
pub struct Options {
    /// The server under test.
    pub etcd: PathBuf,
    /// Whether the server takes the version from `ETCD_EMULATED_VERSION`; real ones would complain about it.
    pub is_emulating: bool,
    /// Packages.
    pub packages: Vec<Package>,
    /// Only tests whose name contains this.
    pub filter: String,
    /// Tests at a time.
    pub jobs: usize,
    /// Tests whose name contains one of these measure time: they run when the others have ended, one after the other.
    pub alone: Vec<String>,
    /// The longest that one test may take.
    pub timeout: Duration,
    /// Where each test's output goes.
    pub logs: PathBuf,
}

/// Runs the tests of all suites. `on_end` is called after each.
///
/// # Errors
/// A suite does not list its tests, a folder cannot be made, or a process cannot be started.
pub fn run(
    suites: &[Suite],
    options: &Options,
    on_end: &(dyn Fn(&Suite, Package, &Outcome) + Sync),
) -> Result<Report> {
    let mut wanted = Vec::new();
    for suite in suites {
        for package in suite.packages().filter(|package| options.packages.contains(package)) {
            let tests = suite.tests(package)?;
            let chosen = tests.into_iter().filter(|test| test.contains(&options.filter));
            wanted.extend(chosen.map(|test| (suite, package, test)));
        }
    }
    let is_alone = |test: &str| options.alone.iter().any(|part| test.contains(part));
    let (alone, together): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|(_, _, test)| is_alone(test));
    let report = Mutex::new(Report::default());
    run_all(&together, options.jobs, options, on_end, &report)?;
    run_all(&alone, 1, options, on_end, &report)?;
    report.into_inner().map_err(|_| anyhow::anyhow!("a worker has panicked"))
}

/// Runs some of the tests, `jobs` at a time.
fn run_all(
    wanted: &[(&Suite, Package, String)],
    jobs: usize,
    options: &Options,
    on_end: &(dyn Fn(&Suite, Package, &Outcome) + Sync),
    report: &Mutex<Report>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some((suite, package, test)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run_one(suite, *package, test, options)
                .with_context(|| format!("{} {package} {test}", suite.version))?;
            on_end(suite, *package, &outcome);
            if let Ok(mut report) = report.lock() {
                report.add(&suite.version, *package, outcome);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow::anyhow!("a worker has panicked"))?
        })
    })
}

fn run_one(suite: &Suite, package: Package, test: &str, options: &Options) -> Result<Outcome> {
    let world =
        tempfile::Builder::new().prefix("retcd-suite-").tempdir().context("make a folder")?;
    let folder = lay_out(suite, package, options, world.path())?;
    let logs = options.logs.join(&suite.version).join(package.name());
    fs::create_dir_all(&logs).context("make the folder of logs")?;
    let log = logs.join(format!("{test}.log"));
    let output = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let temporary = world.path().join("tmp");
    fs::create_dir(&temporary).context("make a folder")?;

    let mut command = Command::new("unshare");
    command
        .args(["--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "--"])
        .args(["sh", "-c", ENTER, "sh"])
        .arg(suite.test_program(package))
        .args(["-test.v", "-test.count=1"])
        .arg(format!("-test.run=^{test}$"))
        .arg(format!("-test.timeout={}s", options.timeout.as_secs()))
        .arg(format!("-bin-dir={}", world.path().join("bin").display()))
        .current_dir(&folder)
        .env("TMPDIR", &temporary)
        .env("ETCD_VERIFY", "all")
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output);
    if options.is_emulating {
        command.env("ETCD_EMULATED_VERSION", &suite.version);
    }
    let began = Instant::now();
    let mut child = command.spawn().context("run unshare (package util-linux)")?;
    let ending = wait(&mut child, options.timeout + Duration::from_secs(30))?;
    let bytes = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    Ok(Outcome::read(test, &String::from_utf8_lossy(&bytes), &ending, began.elapsed()))
}

/// Waits for the end, and brings it about when `limit` is over. Returns how it came.
fn wait(child: &mut std::process::Child, limit: Duration) -> Result<String> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("wait for a test")? {
            return Ok(format!("ended without a verdict ({status})"));
        }
        if began.elapsed() > limit {
            // The process namespace goes with its first process, and everything in it.
            child.kill().context("end a test")?;
            child.wait().context("wait for a test")?;
            return Ok(format!("had not ended after {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a folder that looks like the suite's checkout. Returns where the package's tests run.
fn lay_out(suite: &Suite, package: Package, options: &Options, world: &Path) -> Result<PathBuf> {
    let bin = world.join("bin");
    fs::create_dir(&bin).context("make a folder")?;
    symlink(&options.etcd, bin.join("etcd")).context("link the server")?;
    // The tools, and the older programs that some tests mix with the one under test.
    link_all(&suite.folder.join("bin"), &bin, &["etcd"])?;
    link_all(&suite.folder, world, &["bin", "tests"])?;
    let tests = world.join("tests");
    fs::create_dir(&tests).context("make a folder")?;
    link_all(&suite.folder.join("tests"), &tests, &[package.name()])?;
    let own = tests.join(package.name());
    fs::create_dir(&own).context("make a folder")?;
    link_all(&suite.folder.join("tests").join(package.name()), &own, &[])?;
    Ok(own)
}

/// Links whatever is in one folder into another, but for some names.
fn link_all(from: &Path, to: &Path, left_out: &[&str]) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", from.display()))?;
        let name = entry.file_name();
        if left_out.iter().all(|other| name != *other) {
            symlink(entry.path(), to.join(&name)).context("link a file of the suite")?;
        }
    }
    Ok(())
}
