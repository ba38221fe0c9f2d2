//! A profile as `go tool pprof` reads it (github.com/google/pprof, proto/profile.proto; it may be packed and is not).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;

use super::threads::Time;

/// The whole. Texts are places in `strings`, the first of which is empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(super) sample_types: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    pub(super) locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(super) functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(super) strings: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(super) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(super) duration_nanos: i64,
    #[prost(int64, tag = "14")]
    pub(super) default_sample_type: i64,
}

/// What a sample's value at the same place is, and its unit.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(super) kind: i64,
    #[prost(int64, tag = "2")]
    pub(super) unit: i64,
}

/// Values of a stack, innermost location first.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) location_ids: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(super) values: Vec<i64>,
}

/// A place in the program.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Location {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) lines: Vec<Line>,
}

/// Which function it is in.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Line {
    #[prost(uint64, tag = "1")]
    pub(super) function_id: u64,
}

/// A name.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Function {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(int64, tag = "2")]
    pub(super) name: i64,
}

/// A profile in which each name is a function at the bottom of its own stack.
pub(super) fn encode(totals: &BTreeMap<&str, Time>, start: SystemTime, took: Duration) -> Vec<u8> {
    let mut profile = Profile {
        time_nanos: nanoseconds(start.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanoseconds(took),
        ..Profile::default()
    };
    profile.text("");
    let unit = profile.text("nanoseconds");
    for kind in ["delay", "cpu"] {
        let kind = profile.text(kind);
        profile.sample_types.push(ValueType { kind, unit });
        profile.default_sample_type = kind;
    }
    for (id, (name, time)) in (1..).zip(totals) {
        let name = profile.text(name);
        profile.functions.push(Function { id, name });
        profile.locations.push(Location { id, lines: vec![Line { function_id: id }] });
        let values = [time.waited, time.ran].map(saturated).to_vec();
        profile.samples.push(Sample { location_ids: vec![id], values });
    }
    profile.encode_to_vec()
}

impl Profile {
    /// The place of a text that is not there yet.
    fn text(&mut self, text: &str) -> i64 {
        self.strings.push(text.to_owned());
        saturated(self.strings.len() as u64 - 1)
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    duration.as_nanos().try_into().unwrap_or(i64::MAX)
}

fn saturated(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
