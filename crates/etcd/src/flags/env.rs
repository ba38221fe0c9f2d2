//! `ETCD_*` variables: each flag has one. A flag given on the command line and in the environment is an error in etcd, even
//! when both say the same.

use super::parse::{Given, Source, Values, check, insert};
use super::table::{find, names};
use super::{Notice, Stop};

/// The variable that says what the member stands for: not etcd's, and heeded beside a configuration file too, which is often
/// one that etcd reads as well.
pub(super) const VERSION: &str = "ETCD_EMULATED_VERSION";

/// Adds the version to what a file set, unless that says it itself.
pub(super) fn merge_version(
    environment: &[(String, String)],
    values: &mut Values,
) -> Option<Notice> {
    let (_, value) = environment.iter().find(|(key, value)| key == VERSION && !value.is_empty())?;
    let flag = find("emulated-version").filter(|flag| !values.contains_key(flag.name))?;
    let given = Given {
        as_name: flag.name.to_owned(),
        value: value.clone(),
        source: Source::Environment,
        other: None,
    };
    insert(values, flag, given);
    Some(Notice::EnvironmentUsed { name: VERSION.to_owned(), value: value.clone() })
}

/// The variable that sets a flag.
pub(super) fn variable(flag_name: &str) -> String {
    format!("ETCD_{}", flag_name.to_uppercase().replace('-', "_"))
}

/// Adds what the environment sets to what the command line set.
pub(super) fn merge(
    environment: &[(String, String)],
    values: &mut Values,
) -> Result<Vec<Notice>, Stop> {
    let mut notices = Vec::new();
    if let Some((key, value)) =
        environment.iter().find(|(key, value)| key == "ETCD_VERSION" && !value.is_empty())
    {
        notices.push(Notice::EnvironmentSpecial { key: key.clone(), value: value.clone() });
    }
    for name in names().filter(|name| *name != "version") {
        let variable = variable(name);
        let Some((_, value)) = environment.iter().find(|(key, _)| *key == variable) else {
            continue;
        };
        let Some(flag) = find(name) else { continue };
        let is_on_command_line = |given: &Given| {
            given.source == Source::CommandLine
                && (given.as_name == name || given.other.as_deref() == Some(name))
        };
        if values.get(flag.name).is_some_and(is_on_command_line) {
            return Err(Stop::Shadowed { variable });
        }
        if value.is_empty() {
            continue;
        }
        check(flag, value).map_err(|why| {
            Stop::refused(format!("invalid value {value:?} for {variable}: {why}"))
        })?;
        let given = Given {
            as_name: name.to_owned(),
            value: value.clone(),
            source: Source::Environment,
            other: None,
        };
        insert(values, flag, given);
        let value = redacted(flag.name, value);
        notices.push(Notice::EnvironmentUsed { name: variable, value });
    }
    notices.extend(unknown(environment));
    Ok(notices)
}

/// Variables with etcd's prefix that set nothing: most likely a misspelling.
fn unknown(environment: &[(String, String)]) -> impl Iterator<Item = Notice> {
    /// Variables that are read elsewhere, or by the tests of etcd.
    const KNOWN: &[&str] = &["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY", "ETCD_VERSION"];
    environment
        .iter()
        .filter(|(key, _)| key.starts_with("ETCD_") && !KNOWN.contains(&key.as_str()))
        .filter(|(key, _)| !is_known(key))
        .map(|(key, value)| Notice::EnvironmentUnknown { assignment: format!("{key}={value}") })
}

/// Whether a variable sets a flag.
pub(super) fn is_known(key: &str) -> bool {
    key.strip_prefix("ETCD_")
        .is_some_and(|name| find(&name.to_lowercase().replace('_', "-")).is_some())
}

/// A value for the log.
fn redacted(name: &str, value: &str) -> String {
    match name {
        "discovery-password" => "***".to_owned(),
        "discovery-user" => match value.split_once(':') {
            Some((user, _)) => format!("{user}:***"),
            None => value.to_owned(),
        },
        _ => crate::log::without_passwords(value),
    }
}
