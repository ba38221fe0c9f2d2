//! What happened, in order: always hashed, kept only when somebody wants to read it.

use std::fmt;

use crate::rng::{mix, mix_bytes};

/// One event, with three numbers whose meaning depends on what happened.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Virtual time, in microseconds.
    pub at_us: u64,
    /// The node, or 0 for the world.
    pub node: u64,
    /// What happened.
    pub what: &'static str,
    /// The numbers.
    pub numbers: [u64; 3],
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_us, node, what, numbers: [a, b, c] } = self;
        let (seconds, micros) = (at_us / 1_000_000, at_us % 1_000_000);
        write!(f, "{seconds:>4}.{micros:06} n{node:<2} {what:<12} {a} {b} {c}")
    }
}

/// The trace of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    count: u64,
    kept: Option<Vec<Line>>,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self { hash: 0, count: 0, kept: keep.then(Vec::new) }
    }

    pub(crate) fn push(&mut self, at_us: u64, node: u64, what: &'static str, numbers: [u64; 3]) {
        self.count += 1;
        self.hash = mix_bytes(mix(mix(self.hash, at_us), node), what.as_bytes());
        for number in numbers {
            self.hash = mix(self.hash, number);
        }
        if let Some(kept) = &mut self.kept {
            kept.push(Line { at_us, node, what, numbers });
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn into_lines(self) -> Vec<Line> {
        self.kept.unwrap_or_default()
    }
}
