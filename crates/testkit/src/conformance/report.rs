//! The table.

use std::fmt::Write;

use super::outcome::{Outcome, Verdict};
use super::reasons::Reasons;
use super::suite::Package;

/// All outcomes of a run.
#[derive(Debug, Default)]
pub struct Report {
    outcomes: Vec<(String, Package, Outcome)>,
}

impl Report {
    /// Adds what a test of a version's package came to.
    pub fn add(&mut self, version: &str, package: Package, outcome: Outcome) {
        self.outcomes.push((version.to_owned(), package, outcome));
        self.outcomes.sort_by(|(va, pa, a), (vb, pb, b)| (va, pa, &a.test).cmp(&(vb, pb, &b.test)));
    }

    /// Failures without a reason, and reasons of tests that pass.
    pub fn surprises(&self, reasons: &Reasons) -> Vec<String> {
        let judge = |(version, package, outcome): &(String, Package, Outcome)| {
            let reason = reasons.of(version, package.name(), &outcome.test);
            let text = match (outcome.verdict, reason) {
                (Verdict::Failed, None) => format!("fails: {}", outcome.detail),
                (Verdict::Passed, Some(_)) => "passes, and has a reason not to".to_owned(),
                (Verdict::Failed, Some(_)) | (Verdict::Passed, None) | (Verdict::Skipped, _) => {
                    return None;
                }
            };
            Some(format!("{version} {package} {} {text}", outcome.test))
        };
        self.outcomes.iter().filter_map(judge).collect()
    }

    /// The report as Markdown: a table of counts, then each test that did not pass, with its reason.
    pub fn markdown(&self, reasons: &Reasons) -> String {
        let mut text = String::from(
            "| Version | Package | Tests | Pass | Fail | Skip | Parts passed | failed | skipped |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        let mut groups: Vec<(&str, Package)> = self
            .outcomes
            .iter()
            .map(|(version, package, _)| (version.as_str(), *package))
            .collect();
        groups.dedup();
        for &(version, package) in &groups {
            let of_group: Vec<&Outcome> = self.group(version, package).collect();
            let count = |wanted| of_group.iter().filter(|o| o.verdict == wanted).count();
            let parts = |kind: usize| of_group.iter().map(|o| o.parts[kind]).sum::<usize>();
            let _ = writeln!(
                text,
                "| {version} | {package} | {} | {} | {} | {} | {} | {} | {} |",
                of_group.len(),
                count(Verdict::Passed),
                count(Verdict::Failed),
                count(Verdict::Skipped),
                parts(0),
                parts(1),
                parts(2)
            );
        }
        for &(version, package) in &groups {
            let rows: Vec<&Outcome> =
                self.group(version, package).filter(|o| o.verdict != Verdict::Passed).collect();
            if rows.is_empty() {
                continue;
            }
            let _ = write!(
                text,
                "\n### {version}, {package}\n\n| Test | | Reason |\n| --- | --- | --- |\n"
            );
            for outcome in rows {
                let reason = reasons.of(version, package.name(), &outcome.test);
                let (verdict, reason) = match (outcome.verdict, reason) {
                    (Verdict::Skipped, reason) => {
                        ("skips itself", reason.unwrap_or(&outcome.detail))
                    }
                    (_, Some(reason)) => ("fails", reason),
                    (_, None) => ("**fails**", outcome.detail.as_str()),
                };
                let reason = reason.replace('|', "\\|");
                let _ = writeln!(text, "| {} | {verdict} | {reason} |", outcome.test);
            }
        }
        text
    }

    fn group(&self, version: &str, package: Package) -> impl Iterator<Item = &Outcome> {
        let is_in = move |(v, p, _): &&(String, Package, Outcome)| v == version && *p == package;
        self.outcomes.iter().filter(is_in).map(|(_, _, outcome)| outcome)
    }
}
