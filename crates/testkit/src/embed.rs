//! Members of newer etcd, which no package has: a small Go program of ours around etcd's `embed` package (`tests/embed`), built
//! with one module file for each version.
//!
//! [`build`] puts the programs into `target/embed-etcd/VERSION/`, or where `RETCD_EMBED_ETCD` says. Go is `go` on the path, or
//! where its own installer puts it; Go fetches the modules, and checks them against the committed sums.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs;

/// The versions: one module file `vVERSION.mod` for each, which names the patch version.
pub const VERSIONS: &[&str] = &["3.6", "3.7"];

/// Where the program's source is.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/embed");

/// Where Go may be.
const GO: &[&str] = &["go", "/usr/local/go/bin/go"];

/// What command lines and reports call a version.
pub fn label(version: &str) -> String {
    format!("etcd-{version}")
}

/// What is missing when there is no program of a version.
pub fn absent(version: &str) -> String {
    format!("etcd {version} absent: run `testkit build-etcd` (needs Go), or set RETCD_EMBED_ETCD")
}

/// The program of a version, if it was built.
pub fn find(version: &str) -> Option<PathBuf> {
    let program = folder().ok()?.join(version).join("etcd");
    program.is_file().then_some(program)
}

fn folder() -> Result<PathBuf> {
    match std::env::var_os("RETCD_EMBED_ETCD") {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(programs::real_folder()?.with_file_name("embed-etcd")),
    }
}

/// Whether the programs of all versions are there, for the test called `test`; if not, the test is to return at once.
///
/// Panics when `CI` is `true`: there their absence is a failure.
pub fn are_there_or_skip(test: &str) -> bool {
    let Some(version) = VERSIONS.iter().find(|version| find(version).is_none()) else {
        return true;
    };
    let what = if go().is_none() { "Go absent, and with it " } else { "" };
    let what = format!("{what}{}", absent(version));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {what}");
    eprintln!("{test}: skipped: {what}");
    false
}

fn go() -> Option<&'static str> {
    GO.iter().copied().find(|go| Command::new(go).arg("version").output().is_ok())
}

/// Builds the programs of all versions, and returns where they are. Quick when nothing has changed.
pub fn build() -> Result<Vec<PathBuf>> {
    let go = go().context("no Go")?;
    let folder = std::path::absolute(folder()?).context("where the programs go")?;
    VERSIONS.iter().map(|version| build_version(go, version, &folder)).collect()
}

fn build_version(go: &str, version: &str, folder: &Path) -> Result<PathBuf> {
    let program = folder.join(version).join("etcd");
    let status = Command::new(go)
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            &format!("-modfile=v{version}.mod"),
            "-o",
        ])
        .arg(&program)
        .arg(".")
        .current_dir(SOURCE)
        .status()
        .with_context(|| format!("run {go}"))?;
    ensure!(status.success(), "{go} build of etcd {version} failed");
    Ok(program)
}
