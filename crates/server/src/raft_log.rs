//! The raft core's lines in the member's log.

use std::fmt;
use std::sync::Arc;

use raft::{Level, SharedTrace, Trace};

/// A tracer that writes with `tracing`.
pub(crate) fn trace() -> SharedTrace {
    Arc::new(Lines)
}

struct Lines;

impl Trace for Lines {
    fn enabled(&self, level: Level) -> bool {
        match level {
            Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
            Level::Info | Level::Warn | Level::Error => true,
        }
    }

    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        match level {
            Level::Debug => tracing::debug!(logger = "raft", "{text}"),
            Level::Info => tracing::info!(logger = "raft", "{text}"),
            Level::Warn => tracing::warn!(logger = "raft", "{text}"),
            Level::Error => tracing::error!(logger = "raft", "{text}"),
        }
    }
}
