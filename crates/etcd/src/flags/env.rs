//! `ETCD_*` variables: each flag has one. A flag given on the command line and in the environment is an error in etcd, even
//! when both say the same.

use super::parse::{Given, Values, check};
use super::table::{ALIASES, FLAGS, GATES, find};
use super::{Notice, Stop};

/// The variable that sets a flag.
fn variable(flag_name: &str) -> String {
    format!("ETCD_{}", flag_name.to_uppercase().replace('-', "_"))
}

/// Adds what the environment sets to what the command line set.
pub(super) fn merge(
    environment: &[(String, String)],
    values: &mut Values,
) -> Result<Vec<Notice>, Stop> {
    let mut notices = Vec::new();
    let names = FLAGS
        .iter()
        .map(|flag| flag.name)
        .chain(ALIASES.iter().map(|(old, _)| *old))
        .chain(GATES.iter().map(|(gate, _)| *gate));
    for name in names.filter(|name| *name != "version") {
        let variable = variable(name);
        let Some((_, value)) = environment.iter().find(|(key, _)| *key == variable) else {
            continue;
        };
        let Some(flag) = find(name) else { continue };
        if values.contains_key(flag.name) {
            return Err(Stop::Refused(format!(
                "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag (either unset \
                 environment variable or disable flag))"
            )));
        }
        if value.is_empty() {
            continue;
        }
        check(flag, value).map_err(|why| {
            Stop::Refused(format!("invalid value {value:?} for {variable}: {why}"))
        })?;
        values.insert(flag.name, Given { as_name: name.to_owned(), value: value.clone() });
        notices.push(Notice::EnvironmentUsed { name: variable, value: value.clone() });
    }
    notices.extend(unknown(environment));
    Ok(notices)
}

/// Variables with etcd's prefix that set nothing: most likely a misspelling.
fn unknown(environment: &[(String, String)]) -> impl Iterator<Item = Notice> {
    /// Variables that are read elsewhere, or by the tests of etcd.
    const KNOWN: &[&str] = &["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY"];
    environment
        .iter()
        .filter(|(key, _)| key.starts_with("ETCD_") && !KNOWN.contains(&key.as_str()))
        .filter(|(key, _)| {
            let name = key["ETCD_".len()..].to_lowercase().replace('_', "-");
            find(&name).is_none_or(|flag| flag.name == "version")
        })
        .map(|(key, value)| Notice::EnvironmentUnknown { assignment: format!("{key}={value}") })
}
