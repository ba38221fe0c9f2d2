//! The etcd version that this member stands for, and what it does differently from others when it applies an entry.
//!
//! Members of one cluster must compute the same from the same entry, Go members included. So where etcd's own versions
//! differ, this member does as the version that it says it is; each difference is one question here.
//!
//! Upstream: the change logs of 3.5, 3.6 and 3.7.

use std::fmt;

/// An etcd version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3.
    pub major: u32,
    /// 5, 6 or 7.
    pub minor: u32,
    /// Patch level; 0 in a cluster version.
    pub patch: u32,
}

impl Version {
    /// Returns a version of etcd 3.
    #[must_use]
    pub const fn v3(minor: u32, patch: u32) -> Self {
        Self { major: 3, minor, patch }
    }

    /// Parses `major.minor.patch`, each without sign or leading zeros. What etcd would put behind it (`-rc.0`) is
    /// not taken: no released version has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(parse_number);
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// The releases whose behaviour this member can have, oldest first: one of each minor version.
    pub const EMULATED: [Self; 3] = [Self::v3(5, 30), Self::v3(6, 14), Self::v3(7, 1)];

    /// Returns the release whose behaviour a member of a cluster of this version has; `None` when it is newer than all
    /// that are known. A cluster below 3.5 (3.0 is what it has until all members were heard) gets the oldest.
    #[must_use]
    pub fn emulated_for(cluster: Self) -> Option<Self> {
        Self::EMULATED.into_iter().find(|release| cluster.of_cluster() <= release.of_cluster())
    }

    /// Returns the version that a downgrade of a cluster of this version leads to.
    #[must_use]
    pub const fn one_below(self) -> Self {
        Self { minor: self.minor.saturating_sub(1), patch: 0, ..self }
    }

    /// Returns the version of a cluster whose members are at least this one: without the patch level.
    #[must_use]
    pub const fn of_cluster(self) -> Self {
        Self { patch: 0, ..self }
    }

    /// Whether the patch level has what came with `patch_3_5`, `patch_3_6` and `patch_3_7` respectively.
    const fn has(self, patch_3_5: u32, patch_3_6: u32, patch_3_7: u32) -> bool {
        match self.minor {
            0..5 => false,
            5 => self.patch >= patch_3_5,
            6 => self.patch >= patch_3_6,
            7 => self.patch >= patch_3_7,
            8.. => true,
        }
    }

    /// Puts in nested transactions count towards the quota. Before, they pass a NOSPACE alarm.
    pub(crate) const fn counts_nested_puts(self) -> bool {
        self.has(33, 14, 1)
    }

    /// Changing the URLs of a learner leaves it a learner.
    pub(crate) const fn update_keeps_learner(self) -> bool {
        self.has(31, 12, 0)
    }

    /// The rows say which version's they are, from 3.6 on.
    #[must_use]
    pub const fn has_storage_version(self) -> bool {
        self.major == 3 && self.minor >= 6
    }

    /// The number of learners is the operator's to choose; before there is one at a time.
    #[must_use]
    pub const fn has_learners_max(self) -> bool {
        self.minor >= 6
    }

    /// How users and roles are shown.
    pub(crate) const fn auth_rules(self) -> auth::Rules {
        auth::Rules { shows_root_rights: self.minor >= 6, status_is_public: self.minor >= 7 }
    }

    /// Everybody with an identity may ask for a member's status; before, who administers it.
    #[must_use]
    pub const fn status_needs_identity_only(self) -> bool {
        self.has(32, 12, 0)
    }

    /// A `client-api-version` that is no text is refused.
    #[must_use]
    pub const fn checks_client_version(self) -> bool {
        self.minor >= 6
    }

    /// Revocations of leases can be given priority.
    #[must_use]
    pub const fn has_priorities(self) -> bool {
        self.minor >= 7
    }

    /// Calls are timed by what they ask for, and the sending of watch responses is.
    #[must_use]
    pub const fn times_requests(self) -> bool {
        self.minor >= 7
    }

    /// A token may come as `Bearer TOKEN`.
    #[must_use]
    pub const fn knows_bearer(self) -> bool {
        self.has(32, 13, 0)
    }

    /// A leader keeps checkpoints of leases once the whole cluster is 3.6, without being told to.
    pub(crate) fn persists_checkpoints(self, cluster: Option<Self>) -> bool {
        self.minor >= 6 && cluster.is_some_and(|cluster| cluster >= Self::v3(6, 0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn parse_number(text: &str) -> Option<u32> {
    let is_canonical = text == "0" || !text.starts_with('0');
    (is_canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_etcd_writes_and_nothing_else() {
        assert_eq!(Version::parse("3.5.0"), Some(Version::v3(5, 0)));
        assert_eq!(Version::parse("3.5.30").unwrap().to_string(), "3.5.30");
        for bad in [
            "",
            "3",
            "3.5",
            "3.5.",
            "3.5.0.0",
            "v3.5.0",
            "3.05.0",
            "3.+5.0",
            "3.5.99999999999",
            "3.5.0-rc.0",
        ] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_cluster_version_has_its_release() {
        for (cluster, release) in [
            (Version::v3(0, 0), Some("3.5.30")),
            (Version::v3(5, 0), Some("3.5.30")),
            (Version::v3(6, 0), Some("3.6.14")),
            (Version::v3(7, 0), Some("3.7.1")),
            (Version::v3(8, 0), None),
            (Version { major: 4, minor: 0, patch: 0 }, None),
        ] {
            let found = Version::emulated_for(cluster).map(|version| version.to_string());
            assert_eq!(found.as_deref(), release, "{cluster}");
        }
    }

    #[test]
    fn patches_are_compared_within_their_minor() {
        assert!(!Version::v3(5, 30).counts_nested_puts());
        assert!(Version::v3(5, 33).counts_nested_puts());
        assert!(!Version::v3(6, 13).counts_nested_puts());
        assert!(!Version::v3(7, 0).counts_nested_puts());
        assert!(Version::v3(8, 0).counts_nested_puts());
    }
}
