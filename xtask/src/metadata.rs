//! What cargo knows of the workspace: packages and who depends on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Platform whose dependencies count: the one that is built and shipped. Crates for other systems never get in.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// A resolved dependency graph.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

/// One package.
#[derive(Deserialize)]
pub(crate) struct Package {
    /// Unique in the graph.
    pub(crate) id: String,
    /// Name without version.
    pub(crate) name: String,
    /// Version.
    pub(crate) version: String,
    /// Where it comes from; `None`: a path.
    pub(crate) source: Option<String>,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Path of its manifest.
    pub(crate) manifest_path: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Which edges to follow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edges {
    /// What a build of the package itself needs.
    Normal,
    /// Also what its tests and build scripts need.
    All,
}

impl Metadata {
    /// Asks cargo. Needs the registry's index only if the lock file is not up to date.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--all-features",
                "--filter-platform",
                PLATFORM,
            ])
            .current_dir(root)
            .output()
            .context("run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("read what cargo metadata says")
    }

    /// Returns the packages of the workspace by name.
    pub(crate) fn workspace(&self) -> BTreeMap<&str, &Package> {
        let members: BTreeSet<&String> = self.workspace_members.iter().collect();
        self.packages
            .iter()
            .filter(|package| members.contains(&package.id))
            .map(|package| (package.name.as_str(), package))
            .collect()
    }

    /// Returns every package that is reached from the workspace.
    pub(crate) fn reachable(&self) -> Vec<&Package> {
        let mut seen = BTreeSet::new();
        for package in self.workspace().values() {
            self.collect(package, Edges::All, &mut seen);
        }
        self.packages.iter().filter(|package| seen.contains(package.id.as_str())).collect()
    }

    /// Returns the packages that one depends on directly.
    pub(crate) fn dependencies(&self, package: &Package, edges: Edges) -> Vec<&Package> {
        let Some(node) = self.resolve.nodes.iter().find(|node| node.id == package.id) else {
            return Vec::new();
        };
        node.deps
            .iter()
            .filter(|dependency| {
                edges == Edges::All || dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())
            })
            .filter_map(|dependency| {
                self.packages.iter().find(|package| package.id == dependency.pkg)
            })
            .collect()
    }

    /// Returns the names of everything that one depends on, however indirectly.
    pub(crate) fn closure(&self, package: &Package) -> BTreeSet<&str> {
        let mut ids = BTreeSet::new();
        for dependency in self.dependencies(package, Edges::Normal) {
            self.collect(dependency, Edges::Normal, &mut ids);
        }
        self.packages
            .iter()
            .filter(|package| ids.contains(package.id.as_str()))
            .map(|package| package.name.as_str())
            .collect()
    }

    fn collect<'m>(&'m self, package: &'m Package, edges: Edges, seen: &mut BTreeSet<&'m str>) {
        if !seen.insert(&package.id) {
            return;
        }
        // Test dependencies of a foreign package are not in the graph; its build dependencies are, and are built.
        for dependency in self.dependencies(package, edges) {
            self.collect(dependency, edges, seen);
        }
    }
}
