//! The grammar of Go's `flag` package: one dash or two, `--x=v`, `--x v`, bare booleans, the last one wins.

use std::collections::BTreeMap;

use server::config::Url;
use server::version::Version;

use super::table::{Flag, Kind, LEGACY, find};
use super::{Stop, go};

/// A flag that was given, under its current name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// The name it was given by, which may be an old one.
    pub(super) as_name: String,
    pub(super) value: String,
    pub(super) source: Source,
    /// Another name by which the same flag was given too.
    pub(super) other: Option<String>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    CommandLine,
    Environment,
    File,
}

/// Given flags by their current names.
pub(super) type Values = BTreeMap<&'static str, Given>;

/// Adds a value: the last one counts, and a different name is remembered.
pub(super) fn insert(values: &mut Values, flag: &'static Flag, mut given: Given) {
    if let Some(before) = values.get(flag.name) {
        given.other = match before.as_name != given.as_name {
            true => Some(before.as_name.clone()),
            false => before.other.clone(),
        };
    }
    values.insert(flag.name, given);
}

/// Reads all arguments, or says where they stop making sense.
///
/// `version` is what the member stands for, for texts that differ.
pub(super) fn arguments(args: &[String], version: Option<Version>) -> Result<Values, Stop> {
    let mut values = Values::new();
    let mut wants_version = false;
    let mut rest = args.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'))
            .filter(|_| argument != "-")
        else {
            return Err(positional(argument, wants_version, version));
        };
        if body.is_empty() {
            // `--` ends the flags.
            match rest.next() {
                Some(argument) => return Err(positional(argument, wants_version, version)),
                None => break,
            }
        }
        if body.starts_with(['-', '=']) {
            return Err(Stop::Usage(format!("bad flag syntax: {argument}")));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name == "h" || name == "help" {
            return Err(Stop::Help);
        }
        if LEGACY.contains(&name) {
            continue;
        }
        let Some(flag) = find(name) else {
            return Err(Stop::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match (inline, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(Stop::Usage(format!("flag needs an argument: -{name}"))),
            },
        };
        check(flag, &value).map_err(|why| Stop::Usage(bad_value(flag, name, &value, &why)))?;
        if flag.name == "version" {
            wants_version = go::boolean(&value).unwrap_or(false);
            continue;
        }
        let as_name = name.to_owned();
        insert(
            &mut values,
            flag,
            Given { as_name, value, source: Source::CommandLine, other: None },
        );
    }
    if wants_version { Err(Stop::Version) } else { Ok(values) }
}

/// A word that is no flag ends the flags, and etcd takes none. `--version` before it still prints the version.
fn positional(argument: &str, wants_version: bool, version: Option<Version>) -> Stop {
    if wants_version {
        Stop::Version
    } else if version.is_some_and(|version| version.minor >= 6) {
        Stop::refused(format!("{argument:?} is not a valid flag"))
    } else {
        Stop::refused(format!("'{argument}' is not a valid flag"))
    }
}

fn bad_value(flag: &Flag, name: &str, value: &str, why: &str) -> String {
    match flag.kind {
        Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {why}"),
        Kind::Text
        | Kind::Unsigned(_)
        | Kind::Signed
        | Kind::Duration
        | Kind::Urls
        | Kind::List
        | Kind::OneOf(_) => {
            format!("invalid value {value:?} for flag -{name}: {why}")
        }
    }
}

/// Whether the value is of the flag's kind; if not, why.
pub(super) fn check(flag: &Flag, value: &str) -> Result<(), String> {
    let parse_error = || "parse error".to_owned();
    match flag.kind {
        Kind::Text if flag.name == "cors" => origins(value),
        Kind::Text if flag.name == "feature-gates" => super::gates::parse(value).map(drop),
        Kind::Text | Kind::List => Ok(()),
        Kind::Bool => go::boolean(value).map(drop).ok_or_else(parse_error),
        Kind::Unsigned(bits) => {
            let number = go::integer(value).ok_or_else(parse_error)?;
            let max = if bits == 32 { i128::from(u32::MAX) } else { i128::from(u64::MAX) };
            match number {
                n if n < 0 => Err(parse_error()),
                n if n > max => Err("value out of range".to_owned()),
                _ => Ok(()),
            }
        }
        Kind::Signed => {
            let number = go::integer(value).ok_or_else(parse_error)?;
            i64::try_from(number).map(drop).map_err(|_| "value out of range".to_owned())
        }
        Kind::Duration => go::nanoseconds(value).map(drop).map_err(|_| parse_error()),
        Kind::Urls if value.is_empty() => Ok(()),
        Kind::Urls => Url::parse_list(value).map(drop).map_err(|error| error.to_string()),
        Kind::OneOf(words) => {
            // The one that selects several tells which.
            let quoted = || value.split(',').next().map(|first| format!(" {first:?}"));
            let which =
                Some(flag).filter(|flag| flag.name == "v2-deprecation").and_then(|_| quoted());
            words
                .contains(&value)
                .then_some(())
                .ok_or_else(|| format!("invalid value{}", which.unwrap_or_default()))
        }
    }
}

/// Origins are URLs, or any.
fn origins(value: &str) -> Result<(), String> {
    for item in value.split(',').map(str::trim).filter(|item| *item != "*") {
        Url::parse(item).map_err(|error| error.to_string())?;
    }
    Ok(())
}
