//! Requests whose parts took long: etcd's `trace[…]` lines, which say where the time went.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{go_duration, utc};
use crate::version::Version;

/// Time from which on a request is told of: etcd's.
pub(crate) const TRACE_AFTER: Duration = Duration::from_millis(100);

/// A request, after its end.
#[derive(Debug)]
pub(crate) struct Trace<'a> {
    /// What etcd calls it.
    pub(crate) operation: &'a str,
    /// What was asked for, and what came of it: names with values.
    pub(crate) detail: &'a [(&'static str, String)],
    /// From its arrival to its answer.
    pub(crate) took: Duration,
    /// Its parts, one after the other.
    pub(crate) steps: &'a [(&'static str, Duration)],
}

impl Trace<'_> {
    /// Tells of it, with those of its parts that matter.
    pub(crate) fn tell(&self, version: Version) {
        let id = rand::random::<u32>() >> 1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut fields = Vec::new();
        let is_old = version.minor < 7;
        if !is_old {
            fields.push(("trace_id", Value::from(id)));
            fields.push(("operation", self.operation.into()));
        }
        let parts = u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX);
        let prefix = if is_old { format!("trace[{id}] ") } else { String::new() };
        let long = self.steps.iter().filter(|(_, took)| *took > TRACE_AFTER / parts);
        let steps: Vec<String> = long
            .map(|(what, took)| format!("{prefix}'{what}'  (duration: {})", go_duration(*took)))
            .collect();
        fields.extend([
            ("detail", self.detail().into()),
            ("duration", go_duration(self.took).into()),
            ("start", utc(now.saturating_sub(self.took)).into()),
            ("end", utc(now).into()),
            ("steps", json!(steps)),
            ("step_count", steps.len().into()),
        ]);
        // With the names as they are, hence not as fields of the event.
        let fields = json!(fields).to_string();
        if is_old {
            tracing::info!(zap_fields = fields, "trace[{id}] {}", self.operation);
        } else {
            tracing::info!(zap_fields = fields, "trace");
        }
    }

    fn detail(&self) -> String {
        let shown: String =
            self.detail.iter().map(|(name, value)| format!("{name}:{value}; ")).collect();
        format!("{{{shown}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_has_etcds_form() {
        let trace = Trace {
            operation: "put",
            detail: &[("key", "k".to_owned()), ("req_size", "6".to_owned())],
            took: Duration::from_secs(1),
            steps: &[],
        };
        assert_eq!(trace.detail(), "{key:k; req_size:6; }");
    }
}
