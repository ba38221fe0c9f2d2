//! The command line of `etcd`: from arguments, environment and configuration file to a [`server::Config`].
//!
//! etcd parses its flags with Go's `flag` package, and unit files rely on that grammar: one dash or two, `--x=v` or `--x v`,
//! bare booleans, integers in any base, Go durations. So the grammar is ours (`parse`), the flags are one table
//! (`table`), and `config` gives the values their meaning.
//!
//! ```text
//! arguments ──► parse ──┐
//! ETCD_*    ──► env   ──┼─► Values (by the table) ──► config, logging, security, discovery, gates ──► Parsed
//! file      ──► file  ──┘   with a file, it alone
//! ```
//!
//! Four outcomes besides a configuration, told apart by [`Stop`]: something to print and exit 0 (`--help`, `--version`), a
//! usage error (exit 2), and an error in what was asked for (logged or printed, exit 1).
//!
//! A flag of etcd that this program does not serve is accepted at its default, where it asks for nothing, and refused by
//! name with any other value: a member must not start without something its operator asked for.

mod advertised_host;
mod config;
mod discovery;
mod env;
mod file;
mod gates;
pub(crate) mod go;
mod logging;
mod parse;
mod security;
mod table;
mod usage;
mod yaml;

use server::version::Version;
pub use usage::{USAGE, long_help};

use self::config::{Lookup, URLS_UNUSABLE};
use self::parse::{Source, Values};
use crate::discovery::Discovery;
use crate::log;

/// Why there is no configuration to run with.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// `--help`: print the usage and the flags, exit 0.
    Help,
    /// `--version`: print the version lines, exit 0.
    Version,
    /// The command line does not parse: print this and the usage, exit 2.
    Usage(String),
    /// The command line parses, but cannot be served: log the notices and this, exit 1.
    Refused {
        /// What came up before.
        notices: Vec<Notice>,
        /// What cannot be served.
        why: String,
    },
    /// The same, but etcd prints it without any log line.
    Printed(String),
    /// A flag is given on the command line and in the environment: log this, exit 1.
    Shadowed {
        /// The variable.
        variable: String,
    },
}

impl Stop {
    fn refused(why: String) -> Self {
        Self::refused_after(Vec::new(), why)
    }

    fn refused_after(notices: Vec<Notice>, why: String) -> Self {
        match why.starts_with(URLS_UNUSABLE) {
            true => Self::Printed(why),
            false => Self::Refused { notices, why },
        }
    }

    /// What has to do with clients' URLs that nobody is told of, which etcd logs once more.
    #[must_use]
    pub fn is_about_missing_client_urls(&self) -> bool {
        matches!(self, Self::Refused { why, .. } if why == config::ADVERTISE_MISSING)
    }
}

/// Something worth a log line before the member starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An environment variable set a flag.
    EnvironmentUsed {
        /// The variable.
        name: String,
        /// Its value, without what is secret.
        value: String,
    },
    /// An environment variable looks like etcd's and is not.
    EnvironmentUnknown {
        /// The variable and its value.
        assignment: String,
    },
    /// An environment variable would set what cannot be set so.
    EnvironmentSpecial {
        /// The variable.
        key: String,
        /// Its value.
        value: String,
    },
    /// A configuration file was read, and nothing else.
    FileLoaded {
        /// The file.
        path: String,
    },
    /// A key of the configuration file that nobody knows.
    KeyUnknown {
        /// The key, with a dot between a mapping and a key in it.
        key: String,
    },
    /// Where values come from that are not defaults.
    Sources {
        /// Flags of the command line.
        command_line: Vec<String>,
        /// Flags that variables set.
        environment: Vec<String>,
        /// Flags that the configuration file set.
        file: Vec<String>,
        /// Flags and variables that the configuration file makes void.
        ignored: Vec<String>,
    },
    /// `--data-dir` was left out.
    DataDirDefault {
        /// The directory that is used.
        path: String,
    },
    /// `--name` was left out.
    DefaultName,
    /// Anything else that the operator should see as a warning.
    Warning(String),
    /// Anything else that the operator may want to know.
    Information(String),
}

/// What the command line, the environment and the configuration file ask for.
#[derive(Debug)]
pub struct Parsed {
    /// The configuration, checked.
    pub config: server::Config,
    /// How the other members are found, if not by `--initial-cluster`.
    pub discovery: Option<Discovery>,
    /// How and where to log.
    pub log: log::Settings,
    /// Whether all memory is to be locked.
    pub memory_mlock: bool,
    /// What to log before starting.
    pub notices: Vec<Notice>,
}

/// Reads the arguments (without the program's name), the environment, and the file that they name.
///
/// # Errors
/// Why there is no configuration to run with.
pub fn read(args: &[String], environment: &[(String, String)]) -> Result<Parsed, Stop> {
    let version = version_asked_for(args, environment);
    let mut values = parse::arguments(args, version)?;
    let path = values.get("config-file").map(|given| given.value.clone());
    let from_environment =
        || environment.iter().find(|(key, _)| key == "ETCD_CONFIG_FILE").map(|e| e.1.clone());
    let mut notices = Vec::new();
    let path = path.filter(|path| !path.is_empty()).or_else(from_environment);
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        let ignored = voided(&values, environment);
        let bytes = std::fs::read(&path)
            .map_err(|error| Stop::refused(format!("open {path}: {}", go::system_error(&error))))?;
        (values, notices) = file::read(&bytes, version).map_err(Stop::refused)?;
        notices.push(Notice::FileLoaded { path });
        notices.extend(env::merge_version(environment, &mut values));
        notices.push(sources(&values, ignored));
    } else {
        notices.extend(env::merge(environment, &mut values)?);
        notices.push(sources(&values, Vec::new()));
    }
    refuse_by_version(&values)?;
    refuse_v2_discovery(&mut values, &mut notices)?;
    match build(&values, &mut notices) {
        Ok(parsed) => Ok(Parsed { notices, ..parsed }),
        Err(why) => Err(Stop::refused_after(notices, why)),
    }
}

/// The version that the member is told to stand for, before anything else is read.
fn version_asked_for(args: &[String], environment: &[(String, String)]) -> Option<Version> {
    let mut found = None;
    for (at, argument) in args.iter().enumerate() {
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        match name.and_then(|name| name.strip_prefix("emulated-version")) {
            Some("") => found = args.get(at + 1),
            Some(rest) => {
                if let Some(text) = rest.strip_prefix('=') {
                    return server::version::parse_emulated(text).ok();
                }
            }
            None => {}
        }
    }
    let variable = || environment.iter().find(|(key, _)| key == env::VERSION).map(|(_, v)| v);
    server::version::parse_emulated(found.or_else(variable)?).ok()
}

/// Words that the version does not know which the member stands for, and levels that no version knows: etcd panics at those.
fn refuse_by_version(values: &Values) -> Result<(), Stop> {
    let get = Lookup { values };
    let level = get.text("log-level");
    if log::Level::parse(&level).is_none() {
        return Err(Stop::Usage(format!(
            "unrecognized level: {level:?}; it is one of debug, info, warn, error, dpanic, panic, fatal"
        )));
    }
    let Ok(version) = server::version::parse_emulated(&get.text("emulated-version")) else {
        return Ok(());
    };
    // The first stage of the v2 API's removal ended with 3.5.
    if version.minor >= 6
        && values.get("v2-deprecation").is_some_and(|given| given.value == "not-yet")
    {
        return Err(Stop::Usage(
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\""
                .to_owned(),
        ));
    }
    let text = get.text("feature-gates");
    match gates::unknown_to(version, &text) {
        Some(name) => Err(Stop::Usage(format!(
            "invalid value {text:?} for flag -feature-gates: unrecognized feature gate: {name}"
        ))),
        None => Ok(()),
    }
}

/// Discovery over the v2 API ended with 3.6: members that stand for a later version know neither flag, variable nor key.
fn refuse_v2_discovery(values: &mut Values, notices: &mut Vec<Notice>) -> Result<(), Stop> {
    let version = Lookup { values }.text("emulated-version");
    if !server::version::parse_emulated(&version).is_ok_and(|found| found.minor >= 7) {
        return Ok(());
    }
    for flag_name in ["discovery", "discovery-proxy"] {
        let Some(given) = values.remove(flag_name) else { continue };
        let unknown = match given.source {
            Source::CommandLine => {
                let why = format!("flag provided but not defined: -{flag_name}");
                return Err(Stop::Usage(why));
            }
            Source::Environment => {
                let variable = env::variable(flag_name);
                let is_it = |notice: &Notice| matches!(notice, Notice::EnvironmentUsed { name, .. } if *name == variable);
                notices.retain(|notice| !is_it(notice));
                let value = log::without_passwords(&given.value);
                Notice::EnvironmentUnknown { assignment: format!("{variable}={value}") }
            }
            Source::File => Notice::KeyUnknown { key: flag_name.to_owned() },
        };
        notices.push(unknown);
    }
    Ok(())
}

/// Gives values their meaning; the caller adds the notices.
fn build(values: &Values, notices: &mut Vec<Notice>) -> Result<Parsed, String> {
    let get = Lookup { values };
    let log = logging::build(&get)?;
    let (config, discovery) = config::build(values, notices)?;
    let memory_mlock = get.boolean("memory-mlock")?;
    Ok(Parsed { config, discovery, log, memory_mlock, notices: Vec::new() })
}

/// Reads a configuration file and gives it its meaning: any bytes are a configuration or a text that says why not.
///
/// # Errors
/// What is wrong with it.
pub fn read_file(bytes: &[u8]) -> Result<Parsed, String> {
    let (values, mut notices) = file::read(bytes, None)?;
    let parsed = build(&values, &mut notices)?;
    Ok(Parsed { notices, ..parsed })
}

fn sources(values: &Values, ignored: Vec<String>) -> Notice {
    let of = |source: Source| {
        values
            .values()
            .filter(|given| given.source == source)
            .map(|given| given.as_name.clone())
            .collect()
    };
    Notice::Sources {
        command_line: of(Source::CommandLine),
        environment: of(Source::Environment),
        file: of(Source::File),
        ignored,
    }
}

/// What a configuration file makes void.
fn voided(values: &Values, environment: &[(String, String)]) -> Vec<String> {
    let flags =
        values.keys().filter(|name| **name != "config-file").map(|name| format!("--{name}"));
    let variables = environment
        .iter()
        .map(|(key, _)| key)
        .filter(|key| {
            !matches!(key.as_str(), "ETCD_CONFIG_FILE" | env::VERSION) && env::is_known(key)
        })
        .cloned();
    flags.chain(variables).collect()
}

#[cfg(test)]
mod every_flag;
#[cfg(test)]
mod tests;
