//! The kinds of figures: counters, levels and distributions.
//!
//! Each access is of one number that orders nothing else, so all are relaxed. A distribution's buckets and sum are read one
//! after another; what is recorded in between shows in the next reading.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Level(AtomicI64);

impl Level {
    pub(crate) fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }
}

/// One of those that a level counts.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a Level);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the buckets of a distribution lie: upper bounds, in the smallest unit that is recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Buckets {
    /// `count` bounds, each the double of the one before.
    Doubling {
        /// The first.
        first: u64,
        /// How many.
        count: u32,
    },
    /// These.
    These(&'static [u64]),
}

/// Nanoseconds in a second and in a millisecond: times are recorded in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// See [`SECOND`].
pub(crate) const MILLISECOND: u64 = 1_000_000;

impl Buckets {
    /// What etcd uses for nearly everything: 1 ms to 8.192 s.
    pub(crate) const USUAL: Self = Self::Doubling { first: MILLISECOND, count: 14 };

    fn bounds(self) -> Box<[u64]> {
        match self {
            Self::Doubling { first, count } => (0..count).map(|place| first << place).collect(),
            Self::These(bounds) => bounds.into(),
        }
    }
}

/// A distribution.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper bounds, inclusive.
    bounds: Box<[u64]>,
    /// One for each bound, and one for all that is larger.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// How many of the smallest unit make one of the unit that is shown.
    unit: u64,
}

impl Histogram {
    /// A distribution that is recorded in a small unit and shown in one that is `unit` times as large.
    pub(crate) fn new(buckets: Buckets, unit: u64) -> Self {
        let bounds = buckets.bounds();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), unit }
    }

    /// Of times, shown in seconds.
    pub(crate) fn of_seconds(buckets: Buckets) -> Self {
        Self::new(buckets, SECOND)
    }

    /// Of times, shown in seconds, with the usual buckets.
    pub(crate) fn usual() -> Self {
        Self::of_seconds(Buckets::USUAL)
    }

    /// Takes a time.
    pub(crate) fn observe(&self, time: Duration) {
        self.observe_number(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes a number of the smallest unit.
    pub(crate) fn observe_number(&self, number: u64) {
        let place = self.bounds.partition_point(|bound| *bound < number);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// Each bound with how many do not exceed it; the last bound is infinite.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let mut total = 0;
        let bounds = self.bounds.iter().map(|bound| self.shown(*bound));
        bounds
            .chain([f64::INFINITY])
            .zip(&self.counts)
            .map(|(bound, count)| {
                total += count.load(Ordering::Relaxed);
                (bound, total)
            })
            .collect()
    }

    /// The sum of all that was taken.
    pub(crate) fn sum(&self) -> f64 {
        self.shown(self.sum.load(Ordering::Relaxed))
    }

    /// How many were taken.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn shown(&self, number: u64) -> f64 {
        number as f64 / self.unit as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_equals_a_bound_counts_in_its_bucket() {
        let histogram = Histogram::of_seconds(Buckets::Doubling { first: MILLISECOND, count: 2 });
        for ms in [0, 1, 2, 3] {
            histogram.observe(Duration::from_millis(ms));
        }
        let buckets = [(0.001, 2), (0.002, 3), (f64::INFINITY, 4)];
        assert_eq!((histogram.buckets().as_slice(), histogram.count()), (&buckets[..], 4));
        assert_eq!(histogram.sum().to_string(), "0.006");
    }

    #[test]
    fn a_level_counts_who_is_within() {
        let level = Level::default();
        let (first, second) = (level.enter(), level.enter());
        drop(first);
        assert_eq!(level.get(), 1);
        drop(second);
        assert_eq!(level.get(), 0);
    }
}
