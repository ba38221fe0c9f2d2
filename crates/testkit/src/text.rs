//! Texts for reports.

use std::fmt::Write;

/// Cuts long runs of one character: a value of a megabyte helps nobody.
pub(crate) fn shorten(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.chars().take_while(|c| *c == first).count();
        let bytes = run * first.len_utf8();
        if run > 40 {
            let _ = write!(out, "{first}…{run} times");
        } else {
            out.push_str(&rest[..bytes]);
        }
        rest = &rest[bytes..];
    }
    // A run of escaped bytes is no run of one character: cut the line.
    out.lines().map(|line| line.chars().take(3_000).collect::<String>() + "\n").collect()
}

/// Both texts from shortly before their first difference on, if there is one.
pub(crate) fn from_difference(left: &str, right: &str) -> Option<[String; 2]> {
    const BEFORE: usize = 120;
    const SHOWN: usize = 600;
    let at = left.chars().zip(right.chars()).take_while(|(a, b)| a == b).count();
    (left != right).then(|| {
        [left, right].map(|text| text.chars().skip(at.saturating_sub(BEFORE)).take(SHOWN).collect())
    })
}
