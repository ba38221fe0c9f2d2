//! A folder that somebody has prepared: a checkout of etcd with its test programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One of etcd's packages of tests against running programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Package {
    /// `tests/common`, built with the tag `e2e`.
    Common,
    /// `tests/e2e`.
    E2e,
}

impl Package {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Common, Self::E2e];

    /// The folder below `tests`, and the name of the test program without `.test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::E2e => "e2e",
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The tests of one version.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The minor version to stand for, as `3.7`.
    pub version: String,
    /// The checkout.
    pub folder: PathBuf,
}

impl Suite {
    /// Takes `VERSION=FOLDER`.
    ///
    /// # Errors
    /// The text has another shape, or a program is missing from the folder's `bin`: `e2e.test`, `etcdctl`, `etcdutl`, and
    /// `common.test` where the version has these tests (3.5 has not).
    pub fn parse(text: &str) -> Result<Self> {
        let (version, folder) = text
            .split_once('=')
            .with_context(|| format!("{text:?} is not VERSION=FOLDER, as 3.7=/src/etcd"))?;
        let folder = Path::new(folder)
            .canonicalize()
            .with_context(|| format!("find the suite's folder {folder:?}"))?;
        let suite = Self { version: version.to_owned(), folder };
        let programs = ["etcdctl", "etcdutl"].map(|name| suite.folder.join("bin").join(name));
        let tests = suite.packages().map(|package| suite.test_program(package));
        for program in programs.into_iter().chain(tests) {
            ensure!(
                program.is_file(),
                "{} is missing: docs/conformance.md tells how a suite is prepared",
                program.display()
            );
        }
        Ok(suite)
    }

    /// The packages that the checkout has.
    pub fn packages(&self) -> impl Iterator<Item = Package> {
        let has = |package: &Package| self.folder.join("tests").join(package.name()).is_dir();
        Package::ALL.into_iter().filter(has)
    }

    /// The program that holds the tests of a package.
    pub fn test_program(&self, package: Package) -> PathBuf {
        self.folder.join("bin").join(format!("{package}.test"))
    }

    /// The names of a package's tests, in the order in which the program lists them.
    ///
    /// # Errors
    /// The program does not run.
    pub fn tests(&self, package: Package) -> Result<Vec<String>> {
        let program = self.test_program(package);
        let output = Command::new(&program)
            .args(["-test.list", "."])
            .current_dir(self.folder.join("tests").join(package.name()))
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{} does not list its tests: {}{text}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text.lines().filter(|line| line.starts_with("Test")).map(str::to_owned).collect())
    }
}
