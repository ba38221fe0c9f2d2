//! Finds the programs under test: ours, and the real etcd to compare with.
//!
//! Ours: the folder `RETCD_BIN_DIR`, or else what `cargo build` puts beside the running test (it is called, and does
//! nothing when all is fresh, so that `cargo test -p testkit` never meets a stale server).
//!
//! Real etcd: the folder `RETCD_REAL_ETCD`, or else the newest version below `target/real-etcd/`, where
//! [`fetch`] puts it. Tests that need it and do not find it are skipped by name, or fail when `CI` is `true`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};

/// Debian suites to ask, the first that answers wins. Newest first: sid follows the 3.5 patch releases.
const SUITES: &[&str] = &["sid", "trixie"];

/// Where the packages come from when `RETCD_DEBIAN_MIRROR` does not say otherwise.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The packages that hold `etcd` and `etcdutl`, and `etcdctl`.
const PACKAGES: &[&str] = &["etcd-server", "etcd-client"];

/// The three programs of one kind of etcd.
#[derive(Clone, Debug)]
pub struct Programs {
    /// How reports call this kind: `real 3.5.16`, `retcd`.
    pub label: String,
    /// The server.
    pub etcd: PathBuf,
    /// The command line client.
    pub etcdctl: PathBuf,
    /// The offline tool; absent where none was built.
    pub etcdutl: Option<PathBuf>,
}

impl Programs {
    /// Takes the programs of one folder, which may hold them directly or below `usr/bin`.
    pub fn in_folder(label: &str, folder: &Path) -> Result<Self> {
        let bin = if folder.join("usr/bin/etcd").is_file() {
            folder.join("usr/bin")
        } else {
            folder.to_owned()
        };
        let etcd = bin.join("etcd");
        ensure!(etcd.is_file(), "no program `etcd` in {}", bin.display());
        let etcdutl = Some(bin.join("etcdutl")).filter(|path| path.is_file());
        Ok(Self { label: label.to_owned(), etcd, etcdctl: bin.join("etcdctl"), etcdutl })
    }
}

/// Returns our programs, building them first unless `RETCD_BIN_DIR` names a folder.
///
/// Built once in a process: the tests of one binary share the answer.
pub fn ours() -> Result<Programs> {
    static OURS: OnceLock<Result<Programs, String>> = OnceLock::new();
    OURS.get_or_init(|| find_ours().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|text| anyhow!(text))
}

fn find_ours() -> Result<Programs> {
    if let Some(folder) = std::env::var_os("RETCD_BIN_DIR") {
        return Programs::in_folder("retcd", Path::new(&folder));
    }
    let exe = std::env::current_exe().context("find the running program")?;
    let mut folder = exe.parent().context("the program has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps has no parent")?;
    }
    // Without cargo around (a copied `testkit`) the neighbours are all there is.
    if let Some(cargo) = std::env::var_os("CARGO") {
        // The profile is the one that the tests were built with, named by its output folder, except for debug: the
        // dependencies of tests are compiled in the `test` profile and land there.
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
        let profile = if name == "debug" { "test" } else { name };
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
            .arg("--target-dir")
            .arg(folder.parent().context("no target folder")?)
            .status()
            .context("run cargo build")?;
        ensure!(status.success(), "building our programs failed");
    }
    Programs::in_folder("retcd", folder)
}

/// Returns the real etcd, or `None` where there is none.
pub fn real() -> Option<Programs> {
    if let Some(folder) = std::env::var_os("RETCD_REAL_ETCD") {
        return labelled(Path::new(&folder));
    }
    let mut versions: Vec<(Vec<u64>, PathBuf)> = std::fs::read_dir(real_folder().ok()?)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let numbers = name
                .to_str()?
                .split('.')
                .map(|part| part.parse().ok())
                .collect::<Option<Vec<u64>>>()?;
            Some((numbers, entry.path()))
        })
        .collect();
    versions.sort();
    versions.iter().rev().find_map(|(_, path)| labelled(path))
}

/// Returns the real etcd for the test called `test`; without one the test is to return at once.
///
/// Panics when `CI` is `true`: there the absence of real etcd is a failure.
pub fn real_or_skip(test: &str) -> Option<Programs> {
    let found = real();
    if found.is_none() {
        let how = "run `cargo run -p testkit -- fetch-etcd`, or set RETCD_REAL_ETCD";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: real etcd absent; {how}");
        eprintln!("{test}: skipped: real etcd absent; {how}");
    }
    found
}

fn labelled(folder: &Path) -> Option<Programs> {
    let mut programs = Programs::in_folder("real", folder).ok()?;
    let version = version_of(&programs.etcd).ok()?;
    programs.label = format!("real {version}");
    Some(programs)
}

/// Asks a server program for its version: the first line is `etcd Version: 3.5.16`.
fn version_of(etcd: &Path) -> Result<String> {
    let output = Command::new(etcd)
        .arg("--version")
        .output()
        .with_context(|| format!("run {}", etcd.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let version = line
        .strip_prefix("etcd Version: ")
        .with_context(|| format!("unexpected version line {line:?}"))?;
    Ok(version.trim().to_owned())
}

/// The folder that [`fetch`] fills: `real-etcd` in cargo's target folder.
pub fn real_folder() -> Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(Path::new(&target).join("real-etcd"));
    }
    let exe = std::env::current_exe().context("find the running program")?;
    // cargo marks its target folder with this file.
    let target = exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    Ok(target
        .context("the program is not in a cargo target folder; set CARGO_TARGET_DIR")?
        .join("real-etcd"))
}

/// Fetches Debian's etcd packages into [`real_folder`] and returns its programs.
///
/// apt runs with a configuration, state and cache of its own: nothing on the machine changes, no package is
/// installed. Its signature and freshness checks stay on; a suite that does not pass them is passed over.
pub fn fetch() -> Result<Programs> {
    let folder = real_folder()?;
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut reasons = Vec::new();
    for suite in SUITES {
        match fetch_suite(&folder, suite) {
            Ok(programs) => return Ok(programs),
            Err(error) => {
                eprintln!("{suite}: {error:#}");
                reasons.push(format!("{suite}: {error:#}"));
            }
        }
    }
    bail!("no suite had a usable etcd: {}", reasons.join("; "))
}

fn fetch_suite(folder: &Path, suite: &str) -> Result<Programs> {
    let mirror = std::env::var("RETCD_DEBIAN_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
    let work = tempfile::Builder::new()
        .prefix("apt-")
        .tempdir_in(folder)
        .context("create a folder for apt")?;
    let root = work.path();
    for sub in ["etc", "state/lists/partial", "cache/archives/partial", "packages"] {
        std::fs::create_dir_all(root.join(sub))?;
    }
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    std::fs::write(
        root.join("etc/sources.list"),
        format!("deb [signed-by={keyring}] {mirror} {suite} main\n"),
    )?;
    std::fs::write(root.join("status"), "")?;
    let conf = root.join("apt.conf");
    let at = root.display();
    // The sandbox user is set to root because `_apt` may not write below a private folder.
    std::fs::write(
        &conf,
        format!(
            "Dir \"{at}\";\nDir::Etc \"{at}/etc\";\nDir::Etc::sourcelist \"{at}/etc/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\nDir::Etc::parts \"-\";\nDir::State \"{at}/state\";\n\
             Dir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
        ),
    )?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", &conf).env("LC_ALL", "C").current_dir(root.join("packages"));
        command
    };
    // Without the option apt-get only warns about a suite that failed its checks, and exits with 0.
    run(apt().args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]))?;
    run(apt().args(["-q", "download"]).args(PACKAGES))?;
    let unpacked = root.join("unpacked");
    for entry in std::fs::read_dir(root.join("packages"))? {
        run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(&unpacked))?;
    }
    let version =
        version_of(&unpacked.join("usr/bin/etcd")).context("the fetched etcd does not run here")?;
    let place = folder.join(&version);
    if !place.exists() {
        std::fs::rename(&unpacked, &place)
            .with_context(|| format!("put etcd into {}", place.display()))?;
    }
    labelled(&place).with_context(|| format!("{} holds no etcd", place.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{:?} failed: {}", command.get_program(), text.trim());
    }
    Ok(())
}
