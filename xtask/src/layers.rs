//! Which crate may use which: the picture in ARCHITECTURE.md, held against what cargo says.
//!
//! Arrows go one way only. A dependency that is not in the table fails here, and so does a crate that is not in it:
//! adding a line means having a reason. Tests may use any crate, as long as nobody ends up testing with what depends
//! on him.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};

use crate::metadata::{Edges, Metadata};

/// One crate of the workspace.
struct Layer {
    name: &'static str,
    /// What it may use, and no more.
    uses: &'static [&'static str],
    kind: Kind,
}

/// What a crate may do besides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Decides; time, randomness and files come from outside. Nothing of [`IMPURE`] may be under it.
    Pure,
    /// Touches the world.
    Shell,
}

const LAYERS: &[Layer] = &[
    // Messages alone: everything may use them, and they pull in nothing.
    Layer { name: "proto", uses: &[], kind: Kind::Pure },
    // Files are the world, but no network and no runtime.
    Layer { name: "vfs", uses: &[], kind: Kind::Pure },
    // Apart from `proto`: feature unification would put tonic under every user of the messages.
    Layer { name: "rpc", uses: &["proto"], kind: Kind::Shell },
    // Spans on their way to a collector: knows nothing of what they tell about.
    Layer { name: "otlp", uses: &[], kind: Kind::Shell },
    Layer { name: "bolt", uses: &["vfs"], kind: Kind::Pure },
    Layer { name: "wal", uses: &["vfs", "proto"], kind: Kind::Pure },
    Layer { name: "backend", uses: &["bolt", "vfs", "proto"], kind: Kind::Pure },
    // `raft::codec` alone uses proto.
    Layer { name: "raft", uses: &["proto"], kind: Kind::Pure },
    Layer { name: "mvcc", uses: &["backend", "proto"], kind: Kind::Pure },
    Layer { name: "lease", uses: &["backend", "proto"], kind: Kind::Pure },
    Layer { name: "auth", uses: &["backend", "proto"], kind: Kind::Pure },
    // Membership and alarms are rows of the backend.
    Layer {
        name: "machine",
        uses: &["mvcc", "lease", "auth", "backend", "proto"],
        kind: Kind::Pure,
    },
    Layer { name: "replica", uses: &["raft", "machine", "proto"], kind: Kind::Pure },
    // From directories to these parts; server and sim open a member with it.
    Layer {
        name: "bootstrap",
        uses: &["replica", "machine", "mvcc", "raft", "wal", "backend", "vfs", "proto"],
        kind: Kind::Pure,
    },
    // Connections for those who serve and those who call.
    Layer { name: "tls", uses: &[], kind: Kind::Shell },
    // What the server and the proxy do alike with those who connect.
    Layer { name: "serving", uses: &[], kind: Kind::Shell },
    // Puts the parts together, so it sees all of them. Not `client`: it serves, it does not call itself.
    Layer {
        name: "server",
        uses: &[
            "bootstrap",
            "replica",
            "machine",
            "mvcc",
            "lease",
            "auth",
            "raft",
            "wal",
            "backend",
            "bolt",
            "vfs",
            "rpc",
            "serving",
            "tls",
            "otlp",
            "proto",
        ],
        kind: Kind::Shell,
    },
    Layer { name: "client", uses: &["rpc", "tls", "proto"], kind: Kind::Shell },
    // Stands before a cluster, and knows it as any client does: never the server.
    Layer { name: "proxy", uses: &["client", "rpc", "serving", "tls", "proto"], kind: Kind::Shell },
    // `client` for the registry of v3 discovery, which is another etcd.
    Layer { name: "etcd", uses: &["server", "proxy", "client", "tls", "proto"], kind: Kind::Shell },
    // `rpc` for the catalogue of errors, whose texts it shows.
    Layer { name: "etcdctl", uses: &["client", "rpc", "tls", "proto"], kind: Kind::Shell },
    // The same heart as the server's, never the server.
    Layer {
        name: "sim",
        uses: &[
            "bootstrap",
            "replica",
            "machine",
            "mvcc",
            "lease",
            "raft",
            "wal",
            "backend",
            "vfs",
            "proto",
        ],
        kind: Kind::Pure,
    },
    // `testkit` starts the programs that are compared.
    Layer { name: "bench", uses: &["proto", "testkit", "tls"], kind: Kind::Shell },
    // Runs programs and speaks to them from outside; knows no part of the server. `otlp` for the messages of a collector.
    Layer { name: "testkit", uses: &["rpc", "proto", "otlp"], kind: Kind::Shell },
    Layer { name: "xtask", uses: &[], kind: Kind::Shell },
];

/// What a pure crate must not have under it, and why.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "a runtime: nothing below the shell waits"),
    ("async-std", "a runtime"),
    ("tonic", "gRPC belongs to rpc and the shell"),
    ("hyper", "HTTP belongs to the shell"),
    ("rustls", "TLS belongs to the shell"),
    ("rand", "randomness is a parameter"),
    ("getrandom", "randomness is a parameter"),
    ("chrono", "time is a parameter"),
    ("time", "time is a parameter"),
    ("rayon", "threads belong to the shell"),
    ("crossbeam-channel", "threads belong to the shell"),
];

/// Fails with a list of what is not as the table says.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = Metadata::read(root)?;
    let workspace = metadata.workspace();
    let layers: BTreeMap<&str, &Layer> = LAYERS.iter().map(|layer| (layer.name, layer)).collect();
    let mut complaints = Vec::new();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();

    for (&name, package) in &workspace {
        let Some(layer) = layers.get(name) else {
            complaints.push(format!("{name} is not in the table of layers (xtask/src/layers.rs)"));
            continue;
        };
        for dependency in metadata.dependencies(package, Edges::Normal) {
            let other = dependency.name.as_str();
            if workspace.contains_key(other) && !layer.uses.contains(&other) {
                complaints.push(format!("{name} uses {other}, which is not to its right"));
            }
        }
        for dependency in metadata.dependencies(package, Edges::All) {
            if workspace.contains_key(dependency.name.as_str()) {
                graph.entry(name).or_default().insert(&dependency.name);
            }
        }
        if layer.kind == Kind::Pure {
            let below = metadata.closure(package);
            for (banned, reason) in IMPURE {
                if below.contains(banned) {
                    complaints.push(format!("{name} has {banned} under it: {reason}"));
                }
            }
        }
    }
    for &name in graph.keys() {
        if reaches(&graph, name, name) {
            complaints.push(format!("{name} depends on itself through somebody's tests"));
        }
    }
    if !complaints.is_empty() {
        bail!("layers:\n  {}", complaints.join("\n  "));
    }
    Ok(())
}

/// Whether there is a way of at least one edge.
fn reaches(graph: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut open: Vec<&str> = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        for &next in graph.get(name).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table itself goes one way.
    #[test]
    fn the_table_has_no_circle() {
        let graph: BTreeMap<&str, BTreeSet<&str>> =
            LAYERS.iter().map(|layer| (layer.name, layer.uses.iter().copied().collect())).collect();
        for layer in LAYERS {
            assert!(!reaches(&graph, layer.name, layer.name), "{}", layer.name);
            assert!(layer.uses.iter().all(|used| graph.contains_key(used)), "{}", layer.name);
        }
    }
}
