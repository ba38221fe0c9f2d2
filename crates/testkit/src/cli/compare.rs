//! Runs every script against two sides at once and reports what differs.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::{Script, Session, differences, run_script};
use crate::member::{Member, Options};

/// The scripts that come with the crate.
const SCRIPTS: &[(&str, &str)] = &[
    ("auth", include_str!("../../scripts/auth.txt")),
    ("kv", include_str!("../../scripts/kv.txt")),
    ("lease", include_str!("../../scripts/lease.txt")),
    ("maintenance", include_str!("../../scripts/maintenance.txt")),
    ("txn", include_str!("../../scripts/txn.txt")),
    ("watch", include_str!("../../scripts/watch.txt")),
];

/// One server and the client program that talks to it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// How the report calls this side.
    pub label: &'a str,
    /// The server program.
    pub etcd: &'a Path,
    /// The client program.
    pub etcdctl: &'a Path,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// Steps whose transcripts were compared.
    pub steps: usize,
    /// Differences, each a text that shows both sides.
    pub differences: Vec<String>,
}

/// Returns the scripts whose name contains `filter`.
pub fn scripts(filter: &str) -> Result<Vec<Script>> {
    SCRIPTS
        .iter()
        .filter(|(name, _)| name.contains(filter))
        .map(|(name, text)| Script::parse(name, text))
        .collect()
}

/// Runs the scripts against both sides, each script on a fresh member, and compares.
pub fn compare(
    scripts: &[Script],
    left: Side<'_>,
    right: Side<'_>,
    etcdutl: Option<&Path>,
) -> Result<Report> {
    let mut report = Report::default();
    for script in scripts {
        let (a, b) = std::thread::scope(|scope| {
            let other = scope.spawn(|| transcript(script, right, etcdutl));
            let a = transcript(script, left, etcdutl);
            (
                a,
                other
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("the thread of {} panicked", right.label))),
            )
        });
        let a = a.with_context(|| format!("{} against {}", script.name, left.label))?;
        let b = b.with_context(|| format!("{} against {}", script.name, right.label))?;
        report.steps += a.len();
        report.differences.extend(differences(left.label, &a, right.label, &b));
    }
    Ok(report)
}

/// Runs one script on a fresh member of one side.
pub fn transcript(script: &Script, side: Side<'_>, etcdutl: Option<&Path>) -> Result<Vec<String>> {
    let folder =
        tempfile::Builder::new().prefix("retcd-cli-").tempdir().context("make a folder")?;
    let member = Member::start(&Options::new(side.etcd, &folder.path().join("data")))?;
    let session = Session {
        etcdctl: side.etcdctl,
        etcdutl,
        endpoint: member.endpoint(),
        folder: folder.path(),
    };
    let blocks = run_script(script, &session)
        .with_context(|| format!("complaints of the server: {:?}", member.complaints()))?;
    member.stop()?;
    Ok(blocks)
}
