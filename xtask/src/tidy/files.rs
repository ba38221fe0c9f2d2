//! Our own files: manifests inherit, sources say what they are, nothing names somebody's machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::metadata::Metadata;

/// Top folders of absolute paths that only exist on somebody's machine.
const PRIVATE_ROOTS: &[&str] = &["home", "root", "work", "Users"];

/// Folders that are not ours to check.
const SKIPPED: &[&str] = &[".git", "target", "fixtures", "testdata", "corpus"];

/// Endings of files that are text for sure.
const TEXT: &[&str] = &["rs", "toml", "md", "proto", "sh", "py", "txt", "yml", "yaml", "json"];

pub(super) fn check(root: &Path, metadata: &Metadata, complaints: &mut Vec<String>) -> Result<()> {
    for (name, package) in metadata.workspace() {
        let manifest = fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("read manifest of {name}"))?;
        check_manifest(name, &manifest, complaints);
    }
    let mut files = Vec::new();
    collect(root, &mut files)?;
    for path in files {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let extension =
            path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !TEXT.contains(&extension) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {shown}"))?;
        for (number, line) in (1..).zip(text.lines()) {
            if names_a_machine(line) {
                complaints
                    .push(format!("{shown}:{number} names a path that exists on one machine only"));
            }
        }
        if extension == "rs" && needs_doc(&shown) && !text.starts_with("//!") {
            complaints.push(format!("{shown} does not begin with a module doc (`//!`)"));
        }
    }
    Ok(())
}

fn check_manifest(name: &str, manifest: &str, complaints: &mut Vec<String>) {
    for inherited in ["version", "edition", "rust-version", "license"] {
        if !manifest.lines().any(|line| line.trim() == format!("{inherited}.workspace = true")) {
            complaints.push(format!("{name} does not inherit its {inherited}"));
        }
    }
    let mut lines = manifest.lines().skip_while(|line| line.trim() != "[lints]").skip(1);
    if lines.next().map(str::trim) != Some("workspace = true") {
        complaints.push(format!("{name} does not inherit the lints"));
    }
}

/// Modules say what they own; tests say it by their names, and generated code by its source.
fn needs_doc(path: &str) -> bool {
    let is_module = path.contains("/src/") && !path.contains("/src/gen/");
    is_module && !path.ends_with("/tests.rs") && !path.contains("/tests/")
}

/// Whether an absolute path into [`PRIVATE_ROOTS`] stands in the line: a slash that nothing precedes.
fn names_a_machine(line: &str) -> bool {
    line.match_indices('/').any(|(at, _)| {
        let (before, from_slash) = line.split_at(at);
        let starts_here = before.chars().next_back().is_none_or(|c| " \t\"'`(=<[:".contains(c));
        let path = from_slash.trim_start_matches('/');
        starts_here
            && PRIVATE_ROOTS.iter().any(|root| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
            // `scheme://host/...` is no path.
            && !from_slash.starts_with("//")
    })
}

/// Adds all files of a folder that are ours.
pub(super) fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                collect(&entry.path(), files)?;
            }
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_paths() {
        for root in PRIVATE_ROOTS {
            assert!(names_a_machine(&format!("see /{root}/me/notes.txt")));
            assert!(names_a_machine(&format!("open(\"/{root}/x\")")));
            assert!(!names_a_machine(&format!("some/{root}/x")));
            assert!(!names_a_machine(&format!("http://{root}/x")));
        }
        assert!(!names_a_machine("/var/lib/etcd and a/b"));
    }

    #[test]
    fn which_files_need_a_doc() {
        assert!(needs_doc("crates/raft/src/lib.rs"));
        assert!(!needs_doc("crates/proto/src/gen/raftpb.rs"));
        assert!(!needs_doc("crates/raft/src/log/tests.rs"));
        assert!(!needs_doc("crates/raft/tests/interaction.rs"));
    }
}
