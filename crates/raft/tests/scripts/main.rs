//! Runs scripts against the core and compares what it prints, byte for byte.
//!
//! There are two sets:
//! - etcd-io/raft's own files (28 interaction, 4 quorum, 9 configuration change; 743 cases), unchanged. They are another
//!   project's data and are read in place: from `RETCD_RAFT_TESTDATA`, or from `shared/raft-testdata` beside the
//!   checkout. Where they are absent the test says so and passes, unless `CI=true`.
//! - our own, in `crates/raft/testdata`: what those files do not reach, and where the core deviates on purpose.
//!   `RETCD_UPDATE_GOLDEN=1` rewrites them; review the difference.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod confchange;
mod datadriven;
mod describe;
mod env;
mod output;
mod quorum;

use std::{
    env::var_os,
    fs,
    io::{Write as _, stderr},
    path::{Path, PathBuf},
};

use datadriven::Case;

/// Cases in the commit of etcd-io/raft that our core follows.
const UPSTREAM_CASES: usize = 743;

type Runner = Box<dyn FnMut(&Case) -> String>;

#[test]
fn upstream_scripts() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/raft-testdata");
    let root = var_os("RETCD_RAFT_TESTDATA").map_or(default, PathBuf::from);
    if !root.is_dir() {
        let hint = "set RETCD_RAFT_TESTDATA to a directory with etcd-io/raft's testdata folders";
        assert!(
            var_os("CI").is_none_or(|ci| ci != "true"),
            "{} is missing: {hint}",
            root.display()
        );
        announce(&format!("skipped: upstream_scripts ({} is missing; {hint})", root.display()));
        return;
    }
    let mut tally = Tally::default();
    tally.run_folder(&root.join("testdata"), || Box::new(env::runner(false)));
    tally.run_folder(&root.join("quorum/testdata"), || Box::new(quorum::run));
    tally.run_folder(&root.join("confchange/testdata"), || Box::new(confchange::runner()));
    announce(&format!("etcd-io/raft cases passed: {} of {}", tally.passed, tally.total));
    tally.assert_all_passed();
    assert_eq!(tally.total, UPSTREAM_CASES, "the files are not those of the commit that we follow");
}

#[test]
fn own_scripts() {
    let mut tally = Tally { may_update: true, ..Tally::default() };
    tally.run_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata"), || {
        Box::new(env::runner(true))
    });
    announce(&format!("own cases passed: {} of {}", tally.passed, tally.total));
    tally.assert_all_passed();
    assert!(tally.total > 0, "no scripts found");
}

/// Prints a line past the test runner, which keeps what passing tests print to itself.
fn announce(line: &str) {
    stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[derive(Default)]
struct Tally {
    may_update: bool,
    total: usize,
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    fn run_folder(&mut self, folder: &Path, mut runner: impl FnMut() -> Runner) {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .collect();
        files.sort();
        for file in files {
            self.run_file(&file, runner());
        }
    }

    fn run_file(&mut self, file: &Path, mut runner: Runner) {
        let text = fs::read_to_string(file).unwrap();
        let cases = datadriven::parse(&text);
        let mut updates = Vec::new();
        for case in &cases {
            self.total += 1;
            let mut actual = runner(case);
            if !actual.is_empty() && !actual.ends_with('\n') {
                actual.push('\n');
            }
            if actual == case.expected || self.updates() {
                self.passed += 1;
            } else {
                self.failures.push(format!(
                    "{}:{}: {}\nexpected:\n{}\nactual:\n{actual}",
                    file.display(),
                    case.line,
                    case.command,
                    case.expected
                ));
            }
            updates.push(actual);
        }
        if self.updates() {
            fs::write(file, datadriven::rewrite(&text, &cases, &updates)).unwrap();
        }
    }

    fn updates(&self) -> bool {
        self.may_update && var_os("RETCD_UPDATE_GOLDEN").is_some()
    }

    fn assert_all_passed(&self) {
        let shown: Vec<_> = self.failures.iter().take(3).map(String::as_str).collect();
        assert!(
            self.failures.is_empty(),
            "{} of {} cases failed, the first of them:\n{}",
            self.failures.len(),
            self.total,
            shown.join("\n")
        );
    }
}
