//! Where the core reports what it does, for logs and for tests that compare whole histories.
//!
//! The core never writes anywhere by itself. Texts are handed over unformatted, and only when the tracer wants the
//! level, so a quiet tracer costs one branch.

use std::{fmt, sync::Arc};

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Each step of replication.
    Debug,
    /// Elections, terms, configurations, snapshots.
    Info,
    /// Something that should be rare.
    Warn,
    /// Something that should not happen.
    Error,
}

/// A sink for the core's lines.
pub trait Trace: Send + Sync {
    /// Returns whether lines of this level are wanted.
    fn enabled(&self, level: Level) -> bool;

    /// Takes one line, without a line end.
    fn line(&self, level: Level, text: fmt::Arguments<'_>);
}

/// A tracer that wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Trace for Silent {
    fn enabled(&self, _level: Level) -> bool {
        false
    }

    fn line(&self, _level: Level, _text: fmt::Arguments<'_>) {}
}

/// The tracer that one core and its log share.
pub type SharedTrace = Arc<dyn Trace>;

/// Reports one line: `trace!(tracer, Info, "{} became leader", id)`.
macro_rules! trace {
    ($tracer:expr, $level:ident, $($text:tt)+) => {
        if $tracer.enabled($crate::trace::Level::$level) {
            $tracer.line($crate::trace::Level::$level, format_args!($($text)+));
        }
    };
}
pub(crate) use trace;
