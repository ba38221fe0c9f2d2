//! The proxy's own numbers, under etcd's names.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counted all over the proxy. Each number stands for itself, so none orders another.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) cache_keys: AtomicI64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
    pub(crate) events_coalescing: AtomicU64,
    /// Watchers beyond the first of each watch of the cluster.
    pub(crate) watchers_coalescing: AtomicI64,
}

impl Metrics {
    /// All of them in Prometheus' text format. The kinds are etcd's, which calls counters of hits gauges.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
            let name = format!("etcd_grpc_proxy_{name}_total");
            // Writing to a String does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        let signed = |number: &AtomicI64| number.load(Ordering::Relaxed);
        let unsigned = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let hits = unsigned(&self.cache_hits);
        add("cache_hits", "gauge", "Total number of cache hits", &hits);
        let keys = signed(&self.cache_keys);
        add("cache_keys", "gauge", "Total number of keys/ranges cached", &keys);
        let misses = unsigned(&self.cache_misses);
        add("cache_misses", "gauge", "Total number of cache misses", &misses);
        let events = unsigned(&self.events_coalescing);
        add("events_coalescing", "counter", "Total number of events coalescing", &events);
        let watchers = signed(&self.watchers_coalescing);
        let help = "Total number of current watchers coalescing";
        add("watchers_coalescing", "gauge", help, &watchers);
        text
    }
}

/// Adds one.
pub(crate) fn count(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}
