//! The etcd version that this member stands for, in one place.
//!
//! Clients and peers reason about etcd's versions: what a member may send, what it may be asked. So a member answers with the
//! version whose behaviour it has. A new cluster is 3.5, which every later etcd can take over.

use machine::Version;

/// The version that status, `/version` and the peer port report.
pub const EMULATED: Version = Version::v3(5, 30);

/// This program's own version.
pub const OWN: &str = env!("CARGO_PKG_VERSION");

/// What `etcd --version` prints: the four lines of etcd, which scripts read, then our own.
#[must_use]
pub fn banner() -> String {
    format!(
        "etcd Version: {EMULATED}\nGit SHA: retcd-{OWN}\nGo Version: none (retcd is written in Rust)\nGo OS/Arch: {}/{}\nretcd Version: {OWN}\n",
        std::env::consts::OS,
        go_arch(),
    )
}

/// Go's name for the processor.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
