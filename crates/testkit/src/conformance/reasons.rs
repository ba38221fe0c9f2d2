//! Why tests do not pass, written down by hand.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Reasons by version, package and test.
#[derive(Clone, Debug, Default)]
pub struct Reasons(BTreeMap<(String, String, String), String>);

impl Reasons {
    /// Reads a file of lines `VERSIONS PACKAGE TEST REASON`, where several versions are joined by commas. Empty lines
    /// and lines behind `#` are left out.
    ///
    /// # Errors
    /// The file cannot be read, a line lacks a part, or a test has two reasons.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the reasons in {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut reasons = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut parts = line.splitn(4, ' ');
            let (Some(versions), Some(package), Some(test), Some(reason)) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                anyhow::bail!("the line {line:?} is not VERSIONS PACKAGE TEST REASON");
            };
            for version in versions.split(',') {
                let key = (version.to_owned(), package.to_owned(), test.to_owned());
                let old = reasons.insert(key, reason.to_owned());
                anyhow::ensure!(old.is_none(), "{version} {package} {test} has two reasons");
            }
        }
        Ok(Self(reasons))
    }

    /// The reason for a test, if it has one.
    pub fn of(&self, version: &str, package: &str, test: &str) -> Option<&str> {
        let key = (version.to_owned(), package.to_owned(), test.to_owned());
        self.0.get(&key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_serves_several_versions() {
        let reasons = Reasons::parse("# why\n\n3.6,3.7 e2e TestA it reads Go's log\n").unwrap();
        assert_eq!(reasons.of("3.7", "e2e", "TestA"), Some("it reads Go's log"));
        assert_eq!(reasons.of("3.5", "e2e", "TestA"), None);
        assert!(Reasons::parse("3.6 e2e TestA").is_err());
        assert!(Reasons::parse("3.6 e2e TestA x\n3.6 e2e TestA y").is_err());
    }
}
