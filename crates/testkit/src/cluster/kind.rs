//! Which program a member runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::programs;

/// A server program with the name that reports give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `real`, `ours`, or the path that was given.
    pub label: String,
    /// The server.
    pub etcd: PathBuf,
}

impl Kind {
    /// Takes `real`, `ours`, or the path of a server program.
    pub fn parse(text: &str) -> Result<Self> {
        let etcd = match text {
            "real" => {
                programs::real()
                    .context("real etcd absent: run `testkit fetch-etcd`, or set RETCD_REAL_ETCD")?
                    .etcd
            }
            "ours" => programs::ours()?.etcd,
            path => PathBuf::from(path),
        };
        ensure!(etcd.is_file(), "no program {}", etcd.display());
        Ok(Self { label: text.to_owned(), etcd })
    }

    /// Whether members of this kind are known to end leases early, now and then, after having been deposed.
    pub fn is_careless_with_leases(&self) -> bool {
        self.label != "ours"
    }

    /// Takes a list with commas, one kind for each member.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        text.split(',').map(|part| Self::parse(part.trim())).collect()
    }
}
