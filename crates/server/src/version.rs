//! The etcd versions that a member can stand for, and this program's own.
//!
//! Clients and peers reason about etcd's versions: what a member may send, what it may be asked. So a member answers with the
//! version whose behaviour it has. Which one that is, is decided once at start and stays: by the directory
//! (`::bootstrap`), by the cluster that it joins (`crate::joining`), else it is [`NEW_CLUSTER`]. From then on it is in `Core` and in
//! the state machine.

pub use machine::Version;

/// What founds a cluster, if nothing else is asked for: every later etcd can take its directories over.
pub const NEW_CLUSTER: Version = Version::EMULATED[0];

/// Reads what `--emulated-version` says: `3.5`, `3.6` or `3.7`.
///
/// # Errors
/// What would have been right.
pub fn parse_emulated(text: &str) -> Result<Version, String> {
    Version::EMULATED
        .into_iter()
        .find(|version| text == format!("{}.{}", version.major, version.minor))
        .ok_or_else(|| format!("--emulated-version is one of 3.5, 3.6 and 3.7, not {text:?}"))
}

/// This program's own version.
pub const OWN: &str = env!("CARGO_PKG_VERSION");

/// What `etcd --version` prints of a program that would stand for `emulated` in a new cluster: the four lines of etcd, which
/// scripts read, then our own.
#[must_use]
pub fn banner(emulated: Version) -> String {
    format!(
        "etcd Version: {emulated}\nGit SHA: retcd-{OWN}\nGo Version: none (retcd is written in Rust)\nGo OS/Arch: {}/{}\nretcd Version: {OWN}\n",
        std::env::consts::OS,
        go_arch(),
    )
}

/// Go's name for the processor.
pub(crate) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
