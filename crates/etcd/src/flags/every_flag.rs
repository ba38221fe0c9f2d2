//! Every flag of the table, under every name it has, means the same on the command line, in the environment and in the
//! configuration file.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::table::{FLAGS, Flag, KEY_ALIASES, Kind, find, names};
use super::*;

/// A value that is not the default, as on the command line, and the same in YAML.
fn example(flag: &Flag) -> (String, String) {
    let same = |text: &str| (text.to_owned(), format!("{text:?}"));
    match (flag.name, flag.kind) {
        ("cors", _) => same("http://a.example:7"),
        ("feature-gates", _) => same("InitialCorruptCheck=true"),
        ("emulated-version", _) => same("3.6"),
        (_, Kind::Text) => same("some text"),
        (_, Kind::Bool) => {
            let other = if flag.default == "true" { "false" } else { "true" };
            (other.to_owned(), other.to_owned())
        }
        (_, Kind::Unsigned(_) | Kind::Signed) => ("7".to_owned(), "7".to_owned()),
        (_, Kind::Duration) => ("1m0.5s".to_owned(), "60500000000".to_owned()),
        (_, Kind::Urls) => same("http://127.0.0.1:7,http://127.0.0.1:8"),
        (_, Kind::List) => ("a,b".to_owned(), "[a, b]".to_owned()),
        (_, Kind::OneOf(words)) => same(words.iter().find(|word| **word != flag.default).unwrap()),
    }
}

/// The value of a flag, whatever its source's way to write it is; or why there is none.
fn meant<E: Debug>(flag: &Flag, read: Result<Values, E>) -> String {
    let values = match read {
        Ok(values) => values,
        Err(why) => return format!("{why:?}"),
    };
    let Some(given) = values.get(flag.name) else { return "it is not set".to_owned() };
    let value = given.value.as_str();
    match flag.kind {
        Kind::Duration => format!("{:?}", go::nanoseconds(value)),
        Kind::Unsigned(_) | Kind::Signed => format!("{:?}", go::integer(value)),
        Kind::Bool => format!("{:?}", go::boolean(value)),
        Kind::Text | Kind::Urls | Kind::List | Kind::OneOf(_) => format!("{value:?}"),
    }
}

/// `a.b` as a mapping in a mapping.
fn document(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some((group, key)) => format!("{group}:\n  {key}: {value}\n"),
        None => format!("{key}: {value}\n"),
    }
}

#[test]
fn every_flag_is_the_same_from_all_its_sources() {
    let (mut in_files, mut differences) = (0, Vec::new());
    // `--version` only prints.
    for name in names().filter(|name| *name != "version") {
        let flag = find(name).unwrap();
        let (value, in_yaml) = example(flag);
        let arguments = |args: &[String]| meant(flag, parse::arguments(args, None));
        let variable = env::variable(name);
        let mut values = Values::new();
        let merged = env::merge(&[(variable.clone(), value.clone())], &mut values);
        let told = matches!(merged.as_deref(), Ok([Notice::EnvironmentUsed { name, .. }]) if *name == variable);
        if !told {
            differences.push(format!("{variable}={value}: {merged:?}"));
        }
        let mut found = vec![
            (format!("--{name}={value}"), arguments(&[format!("--{name}={value}")])),
            (format!("{variable}={value}"), meant::<()>(flag, Ok(values))),
        ];
        if flag.kind != Kind::Bool {
            let apart = arguments(&[format!("-{name}"), value.clone()]);
            found.push((format!("-{name} {value}"), apart));
        }
        // A name of old is a key too where the name of today is one.
        let key = if name == flag.name { flag.key } else { flag.key.map(|_| name) };
        let aliases = KEY_ALIASES.iter().filter(|(_, old)| *old == name).map(|(key, _)| *key);
        for key in key.into_iter().chain(aliases) {
            in_files += 1;
            for key in [key.to_owned(), key.to_uppercase()] {
                let text = document(&key, &in_yaml);
                let read = file::read(text.as_bytes(), None).and_then(|(values, notices)| {
                    if notices.is_empty() { Ok(values) } else { Err(format!("{notices:?}")) }
                });
                found.push((text, meant(flag, read)));
            }
        }
        let expected = match flag.kind {
            Kind::Duration => "Ok(60500000000)".to_owned(),
            Kind::Unsigned(_) | Kind::Signed => "Some(7)".to_owned(),
            Kind::Bool => format!("Some({value})"),
            Kind::Text | Kind::Urls | Kind::List | Kind::OneOf(_) => format!("{value:?}"),
        };
        let differing = found.into_iter().filter(|(_, found)| *found != expected);
        differences
            .extend(differing.map(|(given, found)| format!("{given}: {found}, not {expected}")));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(in_files * 10 > names().count() * 9, "{in_files} of {}", names().count());
}

/// Capitals, digits and underscores, as a shell takes them; and no two flags share a variable.
#[test]
fn every_variable_is_etcds_spelling_and_sets_one_flag() {
    let mut variables = BTreeSet::new();
    for name in names() {
        let variable = env::variable(name);
        let spelt: String = name
            .chars()
            .map(|letter| if letter == '-' { '_' } else { letter.to_ascii_uppercase() })
            .collect();
        assert_eq!(variable, format!("ETCD_{spelt}"));
        let is_word = |byte: u8| byte == b'_' || byte.is_ascii_uppercase() || byte.is_ascii_digit();
        assert!(variable.bytes().all(is_word), "{variable}");
        assert!(env::is_known(&variable), "{variable}");
        assert!(variables.insert(variable), "{name}");
    }
    for (name, variable) in [
        ("name", "ETCD_NAME"),
        ("listen-client-http-urls", "ETCD_LISTEN_CLIENT_HTTP_URLS"),
        ("experimental-initial-corrupt-check", "ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK"),
        ("v2-deprecation", "ETCD_V2_DEPRECATION"),
    ] {
        assert!(variables.contains(variable) && env::variable(name) == variable, "{name}");
    }
    assert_eq!(FLAGS.iter().map(|flag| flag.name).collect::<BTreeSet<_>>().len(), FLAGS.len());
}
