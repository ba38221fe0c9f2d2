//! Exit codes, and the failures that end a command with one.

use crate::terminal;

/// What the process exits with. Upstream: pkg/cobrautl/error.go (3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// A call failed, or something is unhealthy.
    Error,
    /// There is no working client.
    BadConnection,
    /// Wrong input of `txn` or `watch -i`.
    InvalidInput,
    /// A value or output format that exists but not here.
    BadFeature,
    /// Cut short: a watch the server cancelled, a snapshot that failed.
    Interrupted,
    /// Wrong arguments.
    BadArguments,
    /// What a command that this program ran has exited with.
    OfCommand(i32),
}

impl Exit {
    /// The number.
    pub fn code(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Error => 1,
            Self::BadConnection => 2,
            Self::InvalidInput => 3,
            Self::BadFeature => 4,
            Self::Interrupted => 5,
            Self::BadArguments => 128,
            Self::OfCommand(code) => code,
        }
    }
}

/// The end of a command that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to exit with.
    pub exit: Exit,
    /// Printed after `Error: `; `None` if all has been said.
    pub text: Option<String>,
}

impl Failure {
    /// A failure with its text.
    pub fn new(exit: Exit, text: impl std::fmt::Display) -> Self {
        Self { exit, text: Some(text.to_string()) }
    }

    /// The ordinary kind: a call failed.
    pub fn error(text: impl std::fmt::Display) -> Self {
        Self::new(Exit::Error, text)
    }

    /// Wrong arguments.
    pub fn arguments(text: impl std::fmt::Display) -> Self {
        Self::new(Exit::BadArguments, text)
    }

    /// The reason is on the terminal already.
    pub fn silent(exit: Exit) -> Self {
        Self { exit, text: None }
    }

    pub(crate) fn print(&self) {
        if let Some(text) = &self.text {
            terminal::error_line(&format!("Error: {text}"));
        }
    }
}
