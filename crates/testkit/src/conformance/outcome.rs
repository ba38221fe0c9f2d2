//! What came of a test, read from what Go's test program prints.

use std::time::Duration;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed, with every part that did not skip itself.
    Passed,
    /// It, or each of its parts, found that it cannot run here.
    Skipped,
    /// Failed, or ended without a verdict.
    Failed,
}

/// The end of one test.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The test's name.
    pub test: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Parts (subtests without parts of their own) that passed, failed and skipped themselves.
    pub parts: [usize; 3],
    /// Why it was skipped in its own words; or the parts that failed.
    pub detail: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Outcome {
    /// Reads the output of `-test.v`. Without a verdict on `test` it counts as failed, with `ending` as the reason.
    pub fn read(test: &str, output: &str, ending: &str, elapsed: Duration) -> Self {
        let mut verdicts: Vec<(&str, Verdict)> = Vec::new();
        let mut reasons: Vec<String> = Vec::new();
        // What parts said last before the next one began: their verdicts come together at the end.
        let mut last_words: Vec<String> = Vec::new();
        let mut previous = "";
        for line in output.lines() {
            let text = line.trim_start();
            if (text.starts_with("=== RUN") || text.starts_with("--- "))
                && let Some(words) = said(previous)
                && !last_words.iter().any(|known| known == words)
            {
                last_words.push(words.to_owned());
            }
            for (mark, verdict) in [
                ("--- PASS: ", Verdict::Passed),
                ("--- SKIP: ", Verdict::Skipped),
                ("--- FAIL: ", Verdict::Failed),
            ] {
                let Some(rest) = text.strip_prefix(mark) else { continue };
                let Some(name) = rest.split(" (").next() else { continue };
                verdicts.push((name, verdict));
                if verdict == Verdict::Skipped
                    && let Some(reason) = said(previous)
                    && !reasons.iter().any(|known| known == reason)
                {
                    reasons.push(reason.to_owned());
                }
            }
            if !text.is_empty() {
                previous = text;
            }
        }
        let has_parts = |name: &str| {
            verdicts.iter().any(|(other, _)| {
                other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        let leaves: Vec<_> = verdicts.iter().filter(|(name, _)| !has_parts(name)).collect();
        let count = |wanted| leaves.iter().filter(|(_, verdict)| *verdict == wanted).count();
        let parts = [count(Verdict::Passed), count(Verdict::Failed), count(Verdict::Skipped)];
        let own = verdicts.iter().find(|(name, _)| *name == test).map(|(_, verdict)| *verdict);
        let verdict = match own {
            Some(Verdict::Passed) if parts[0] == 0 => Verdict::Skipped,
            Some(verdict) => verdict,
            None => Verdict::Failed,
        };
        let detail = match (verdict, own) {
            (Verdict::Failed, None) => ending.to_owned(),
            (Verdict::Failed, Some(_)) => leaves
                .iter()
                .filter(|(name, verdict)| *verdict == Verdict::Failed && *name != test)
                .filter_map(|(name, _)| name.strip_prefix(test))
                .map(|name| name.trim_start_matches('/'))
                .collect::<Vec<_>>()
                .join(", "),
            (Verdict::Skipped, _) if reasons.is_empty() => last_words.join("; "),
            (Verdict::Passed | Verdict::Skipped, _) => reasons.join("; "),
        };
        Self { test: test.to_owned(), verdict, parts, detail, elapsed }
    }
}

/// The text of a line `FILE.go:LINE: TEXT`, which is how a test says something.
fn said(line: &str) -> Option<&str> {
    let (place, text) = line.split_once(": ")?;
    place.contains(".go:").then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Outcome {
        Outcome::read("TestA", output, "timed out", Duration::ZERO)
    }

    #[test]
    fn parts_are_counted_without_their_parents() {
        let outcome = read(
            "=== RUN   TestA\n--- FAIL: TestA (1.00s)\n    --- PASS: TestA/one (0.10s)\n    --- FAIL: TestA/two (0.10s)\n        \
             --- FAIL: TestA/two/deep (0.10s)\n        --- PASS: TestA/two/fine (0.10s)\n",
        );
        assert_eq!(outcome.verdict, Verdict::Failed);
        assert_eq!(outcome.parts, [2, 1, 0]);
        assert_eq!(outcome.detail, "two/deep");
    }

    #[test]
    fn a_skipped_test_says_why() {
        let outcome = read(
            "=== RUN   TestA\n    some_test.go:12: no failpoints: here\n--- SKIP: TestA (0.00s)\nPASS\n",
        );
        assert_eq!(outcome.verdict, Verdict::Skipped);
        assert_eq!(outcome.detail, "no failpoints: here");
    }

    #[test]
    fn a_test_whose_parts_all_skip_has_shown_nothing() {
        let outcome =
            read("--- PASS: TestA (0.00s)\n    a_test.go:1: no\n    --- SKIP: TestA/one (0.00s)\n");
        assert_eq!(outcome.verdict, Verdict::Skipped);
        assert_eq!(outcome.parts, [0, 0, 1]);
    }

    #[test]
    fn parts_that_all_skip_say_why_before_the_next_begins() {
        let outcome = read(
            "=== RUN   TestA\n=== RUN   TestA/one\n    a_test.go:1: begins\n    a.go:2: no failpoints\n\
             === RUN   TestA/two\n    a.go:2: no failpoints\n--- PASS: TestA (0.00s)\n\
             \x20   --- SKIP: TestA/one (0.00s)\n    --- SKIP: TestA/two (0.00s)\nPASS\n",
        );
        assert_eq!(outcome.verdict, Verdict::Skipped);
        assert_eq!(outcome.detail, "no failpoints");
    }

    #[test]
    fn no_verdict_is_a_failure() {
        let outcome = read("=== RUN   TestA\npanic: boom\n");
        assert_eq!(outcome.verdict, Verdict::Failed);
        assert_eq!(outcome.detail, "timed out");
    }
}
