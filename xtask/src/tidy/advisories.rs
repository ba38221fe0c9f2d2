//! The table of advisories in `docs/testing.md`: each row names tests that exist, one of them by the advisory's number.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The document and the heading that the table stands below.
const DOCUMENT: &str = "docs/testing.md";
const HEADING: &str = "### Advisories";

/// How the numbers begin by which a test is named.
const NUMBERS: &[&str] = &["CVE-", "GHSA-", "TOB-", "etcd-"];

pub(super) fn check(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let document =
        fs::read_to_string(root.join(DOCUMENT)).with_context(|| format!("read {DOCUMENT}"))?;
    let mut files = Vec::new();
    super::files::collect(&root.join("crates"), &mut files)?;
    let mut functions = BTreeSet::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let source =
            fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        functions.extend(functions_of(&source).map(str::to_owned));
    }
    check_table(&document, &functions, complaints);
    Ok(())
}

/// The names of the functions that a source defines.
fn functions_of(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let (before, after) = line.split_once("fn ")?;
        let is_start = before.is_empty() || before.ends_with(' ');
        let end = after.find(|c: char| !is_of_a_name(c)).unwrap_or(after.len());
        is_start.then(|| after.split_at(end).0)
    })
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

fn check_table(document: &str, functions: &BTreeSet<String>, complaints: &mut Vec<String>) {
    let section = document.lines().skip_while(|line| *line != HEADING).skip(1);
    let section = section.take_while(|line| !line.starts_with('#'));
    // Below the head of the table and the line under it.
    let rows: Vec<&str> = section.filter(|line| line.starts_with('|')).skip(2).collect();
    if rows.is_empty() {
        complaints.push(format!("{DOCUMENT} has no table below {HEADING:?}"));
    }
    for row in rows {
        let mut cells = row.trim_matches('|').splitn(2, '|').map(str::trim);
        let (advisories, tests) =
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        // Every other part stands between backticks; what has no underscore is a crate or a flag.
        let tests: Vec<&str> = tests
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.contains('_') && name.chars().all(is_of_a_name))
            .collect();
        for test in tests.iter().filter(|test| !functions.contains(**test)) {
            complaints.push(format!("{DOCUMENT}: {advisories}: there is no function {test}"));
        }
        let mut numbers = advisories
            .split([',', ' ', '(', ')'])
            .filter(|word| NUMBERS.iter().any(|start| word.starts_with(start)))
            .map(|number| number.to_lowercase().replace(['-', '.'], "_"));
        if !numbers.any(|number| tests.iter().any(|test| test.contains(&number))) {
            complaints
                .push(format!("{DOCUMENT}: {advisories}: no test is named by a number of it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_tests_that_are_there() {
        let source =
            "    async fn cve_1_2_a_b() {\nfn other_one(\npub(crate) fn etcd_7_c<T>() {\n\"a fn \"";
        let functions: BTreeSet<String> = functions_of(source).map(str::to_owned).collect();
        let complaints = |rows: &str| {
            let document = format!(
                "# A\n\n### Advisories\n\n| A | B |\n| --- | --- |\n{rows}\n## C\n| x | y |"
            );
            let mut complaints = Vec::new();
            check_table(&document, &functions, &mut complaints);
            complaints
        };
        assert_eq!(complaints("| CVE-1-2, CVE-3 | `x` `cve_1_2_a_b`, `other_one` |"), [""; 0]);
        assert_eq!(complaints("| Limits (etcd-7) | `etcd_7_c` (`--flag`) |"), [""; 0]);
        for row in [
            "| CVE-1-2 | cannot apply |",
            "| CVE-1-2 | `other_one` |",
            "| CVE-1-2 | `cve_1_2_a_b` and `cve_1_2_gone` |",
            "| A thing | `other_one` |",
        ] {
            assert_eq!(complaints(row).len(), 1, "{row}");
        }
        assert_eq!(complaints("").len(), 1);
    }
}
