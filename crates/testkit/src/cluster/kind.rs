//! Which program a member runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{embed, programs};

/// The programs that cargo builds.
const OURS: &str = "ours";

/// A server program with the name that reports give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `real`, `ours`, `etcd-3.6`, `ours-3.6` and the like, or the path that was given.
    pub label: String,
    /// The server.
    pub etcd: PathBuf,
    /// The version that it is told to stand for (ours only).
    pub emulated: Option<String>,
}

impl Kind {
    /// Takes `real` (Debian's), `ours`, `ours-VERSION` (which is to stand for that version of etcd), `etcd-3.6` and `etcd-3.7`
    /// (see [`embed`]), or the path of a server program.
    pub fn parse(text: &str) -> Result<Self> {
        let emulated = text.strip_prefix(OURS).and_then(|rest| rest.strip_prefix('-'));
        let etcd = match text {
            "real" => {
                programs::real()
                    .context("real etcd absent: run `testkit fetch-etcd`, or set RETCD_REAL_ETCD")?
                    .etcd
            }
            text if text == OURS || emulated.is_some() => programs::ours()?.etcd,
            name => match embed::VERSIONS.iter().find(|version| name == embed::label(version)) {
                Some(version) => embed::find(version).with_context(|| embed::absent(version))?,
                None => PathBuf::from(name),
            },
        };
        ensure!(etcd.is_file(), "no program {}", etcd.display());
        Ok(Self { label: text.to_owned(), etcd, emulated: emulated.map(str::to_owned) })
    }

    /// Whether members of this kind are known to end leases early, now and then, after having been deposed.
    pub fn is_careless_with_leases(&self) -> bool {
        !self.is_ours()
    }

    /// Whether members of this kind are known to decide by an older row of a user than their last, now and then, unless they commit
    /// after each write: 3.5's buffer for reads looks one row beyond its end, where one may lie that was there before a commit
    /// (`bucketBuffer.Range` in `server/mvcc/backend/tx_buffer.go`).
    pub(crate) fn may_see_old_users(&self) -> bool {
        !self.is_ours() && !self.is_newer()
    }

    pub(super) fn is_ours(&self) -> bool {
        self.label == OURS || self.emulated.is_some()
    }

    /// Whether it is etcd 3.6 or later.
    fn is_newer(&self) -> bool {
        embed::VERSIONS.iter().any(|version| self.label == embed::label(version))
    }

    /// Whether it serves RangeStream, which came with etcd 3.7.
    pub(crate) fn has_range_stream(&self) -> bool {
        self.label == embed::label("3.7") || self.emulated.as_deref() == Some("3.7")
    }

    /// The flag that says which version to stand for, if one was chosen.
    pub(crate) fn emulation_flag(&self) -> Option<String> {
        self.emulated.as_ref().map(|version| format!("--emulated-version={version}"))
    }

    /// A flag as this kind spells it: etcd 3.6 and later have made flags of experiments to ordinary ones.
    pub(crate) fn flag(&self, flag: &str) -> String {
        match flag.strip_prefix("--experimental-") {
            Some(name) if self.is_newer() => format!("--{name}"),
            Some(_) | None => flag.to_owned(),
        }
    }

    /// Takes a list with commas, one kind for each member.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        text.split(',').map(|part| Self::parse(part.trim())).collect()
    }
}
