//! The text that Prometheus reads (format 0.0.4), as the Go library writes it: families in order of their names, labels in order of
//! theirs, numbers as Go prints them.
//!
//! Labels are given in order of their names; values are escaped here.

use std::fmt::Write as _;

use super::kinds::{Counter, Histogram};

/// The type of this text.
pub(crate) const CONTENT_TYPE: &str =
    "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// A label's name and value.
pub(crate) type Label<'a> = (&'a str, &'a str);

/// What a family says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A page of families.
#[derive(Debug, Default)]
pub(crate) struct Page {
    families: Vec<(&'static str, String)>,
}

impl Page {
    /// Begins a family. One without samples is left out, as in Go.
    pub(crate) fn family(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
    ) -> Family<'_> {
        let text = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name());
        let bare_bytes = text.len();
        Family { page: self, name, text, bare_bytes }
    }

    /// A counter without labels.
    pub(crate) fn counter(&mut self, name: &'static str, help: &'static str, counter: &Counter) {
        self.family(Kind::Counter, name, help).value(&[], counter.get() as f64);
    }

    /// A gauge without labels.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(Kind::Gauge, name, help).value(&[], value);
    }

    /// A distribution without labels.
    pub(crate) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        histogram: &Histogram,
    ) {
        self.family(Kind::Histogram, name, help).histogram(&[], histogram);
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> String {
        self.families.sort_unstable_by_key(|(name, _)| *name);
        self.families.into_iter().map(|(_, text)| text).collect()
    }
}

/// A family that is being written; it joins its page when it is dropped.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
    text: String,
    /// Length of the text without a sample.
    bare_bytes: usize,
}

impl Family<'_> {
    /// Adds a sample.
    pub(crate) fn value(&mut self, labels: &[Label<'_>], value: f64) -> &mut Self {
        self.sample("", labels, None, value);
        self
    }

    /// Adds a distribution.
    pub(crate) fn histogram(&mut self, labels: &[Label<'_>], histogram: &Histogram) -> &mut Self {
        let mut count = 0;
        for (bound, below) in histogram.buckets() {
            self.sample("_bucket", labels, Some(bound), below as f64);
            count = below;
        }
        self.sample("_sum", labels, None, histogram.sum());
        self.sample("_count", labels, None, count as f64);
        self
    }

    fn sample(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<f64>, value: f64) {
        let text = &mut self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels {
            text.push(separator);
            text.push_str(name);
            text.push_str("=\"");
            escape(value, text);
            text.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            text.push(separator);
            text.push_str("le=\"");
            number(bound, text);
            text.push('"');
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        text.push(' ');
        number(value, text);
        text.push('\n');
    }
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        if self.text.len() > self.bare_bytes {
            self.page.families.push((self.name, std::mem::take(&mut self.text)));
        }
    }
}

fn escape(value: &str, into: &mut String) {
    for letter in value.chars() {
        match letter {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            letter => into.push(letter),
        }
    }
}

/// The shortest digits that give the number back; with an exponent of at least two digits below 0.0001 and from a million on.
fn number(value: f64, into: &mut String) {
    /// Go's `%g` turns to exponents from this one on.
    const EXPONENT_MIN: i32 = 6;
    if value.is_infinite() {
        into.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        return;
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // Writing to a string does not fail.
    let _ = if (-4..EXPONENT_MIN).contains(&exponent) || value == 0.0 || value.is_nan() {
        write!(into, "{value}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(into, "{digits}e{sign}{:02}", exponent.unsigned_abs())
    };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::kinds::Buckets;
    use super::*;

    #[test]
    fn numbers_are_go_s() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.000_092_343, "9.2343e-05"),
            (524_288.0, "524288"),
            (1_048_576.0, "1.048576e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1.844_674_407_370_955_2e19, "1.8446744073709552e+19"),
            (-1.0, "-1"),
            (f64::INFINITY, "+Inf"),
        ] {
            let mut text = String::new();
            number(value, &mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_page_is_sorted_escaped_and_without_empty_families() {
        let histogram = Histogram::of_seconds(Buckets::These(&[5_000_000]));
        histogram.observe(Duration::from_millis(5));
        let mut page = Page::default();
        page.gauge("b", "Second.", 3.0);
        page.family(Kind::Counter, "c", "Without samples.");
        page.family(Kind::Histogram, "a", "First.").histogram(&[("x", "q\"\\\n")], &histogram);
        let expected = r#"# HELP a First.
# TYPE a histogram
a_bucket{x="q\"\\\n",le="0.005"} 1
a_bucket{x="q\"\\\n",le="+Inf"} 1
a_sum{x="q\"\\\n"} 0.005
a_count{x="q\"\\\n"} 1
# HELP b Second.
# TYPE b gauge
b 3
"#;
        assert_eq!(page.finish(), expected);
    }
}
