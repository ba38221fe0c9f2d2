//! The command line of `etcd`: from arguments and environment to a [`server::Config`].
//!
//! etcd parses its flags with Go's `flag` package, and unit files rely on that grammar: one dash or two, `--x=v` or `--x v`,
//! bare booleans, integers in any base, Go durations. So the grammar is ours ([`parse`]), the flags are one table
//! ([`table`]), and [`config`] gives the values their meaning.
//!
//! Three outcomes besides a configuration, told apart by [`Stop`]: something to print and exit 0 (`--help`, `--version`), a
//! usage error (exit 2), and an error in what was asked for (logged, exit 1).
//!
//! A flag of etcd that this program does not serve yet is accepted at its default, where it asks for nothing, and refused by
//! name with any other value: a member must not start without something its operator asked for.

mod config;
mod env;
mod go;
mod parse;
mod security;
mod table;
mod usage;

pub(crate) use usage::{USAGE, long_help};

use crate::log::Output;

/// Why there is no configuration to run with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// `--help`: print the usage and the flags, exit 0.
    Help,
    /// `--version`: print the version lines, exit 0.
    Version,
    /// The command line does not parse: print this and the usage, exit 2.
    Usage(String),
    /// The command line parses, but cannot be served: log this, exit 1.
    Refused(String),
}

/// Something worth a log line before the member starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// An environment variable set a flag.
    EnvironmentUsed { name: String, value: String },
    /// An environment variable looks like etcd's and is not.
    EnvironmentUnknown { assignment: String },
    /// `--data-dir` was left out.
    DataDirDefault { path: String },
    /// Anything else that the operator should see as a warning.
    Warning(String),
}

/// What the command line and the environment ask for.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The configuration, checked.
    pub(crate) config: server::Config,
    /// The least severe level to log.
    pub(crate) log_level: String,
    /// Where log lines go.
    pub(crate) log_output: Output,
    /// What to log before starting.
    pub(crate) notices: Vec<Notice>,
}

/// Reads the arguments (without the program's name) and the environment.
pub(crate) fn read(args: &[String], environment: &[(String, String)]) -> Result<Parsed, Stop> {
    let mut values = parse::arguments(args)?;
    let mut notices = env::merge(environment, &mut values)?;
    let (config, log) = config::build(&values, &mut notices).map_err(Stop::Refused)?;
    Ok(Parsed { config, log_level: log.level, log_output: log.output, notices })
}

#[cfg(test)]
mod tests;
