//! The configuration file: YAML or JSON, one key for each flag.
//!
//! [`read`] is a plain function from bytes to given values, which then have the same way as those of the command line. As in
//! etcd, keys match whatever their case, durations are nanoseconds, lists of URLs are one text with commas, a null leaves the
//! default, and a key that nobody knows stops nothing; here it gets a warning. A key of another version than the one that the
//! member stands for does here what it says, unless that cannot be: then it is one that nobody knows too.

use server::version::Version;

use super::parse::{Given, Source, Values};
use super::table::{ALIASES, FLAGS, Flag, KEY_ALIASES, Kind, Service, find};
use super::yaml::{self, Node, Scalar};
use super::{Notice, go};

/// Reads a file's bytes. `version` is what the member stands for unless the file says it.
///
/// # Errors
/// The text that is logged: etcd's where a value is of another type than the flag.
pub(super) fn read(
    bytes: &[u8],
    version: Option<Version>,
) -> Result<(Values, Vec<Notice>), String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    let (root, has_more) = yaml::parse(text.trim_start_matches('\u{feff}'))?;
    let version = own_version(&root).or(version);
    let mut reader = Reader { version, values: Values::new(), notices: Vec::new() };
    match &root {
        Node::Mapping(entries) => reader.mapping("", entries)?,
        Node::Scalar { .. } if root.resolve() == Some(Scalar::Null) => {}
        node @ (Node::Scalar { .. } | Node::Sequence(_)) => {
            return Err(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type \
                 embed.configYAML",
                node.json_type()
            ));
        }
    }
    drop_old_gates(&mut reader);
    if has_more {
        reader.notices.push(Notice::Warning(
            "the configuration file holds more than one document; only the first is read"
                .to_owned(),
        ));
    }
    Ok((reader.values, reader.notices))
}

/// The version that the file itself says the member stands for; a wrong one is refused later.
fn own_version(root: &Node) -> Option<Version> {
    let Node::Mapping(entries) = root else { return None };
    let (_, node) =
        entries.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case("emulated-version"))?;
    server::version::parse_emulated(&version_text(node)?).ok()
}

/// A version looks like a number, and is meant as it is written.
fn version_text(node: &Node) -> Option<String> {
    match node {
        Node::Scalar { text, .. } => Some(text.clone()),
        Node::Sequence(_) | Node::Mapping(_) => None,
    }
}

struct Reader {
    /// What the member stands for, if that is known.
    version: Option<Version>,
    values: Values,
    notices: Vec<Notice>,
}

impl Reader {
    /// Reads the entries of a mapping whose own keys are `path`, with a dot behind each.
    fn mapping(&mut self, path: &str, entries: &[(String, Node)]) -> Result<(), String> {
        for (key, node) in entries {
            let full = format!("{path}{}", key.to_lowercase());
            let group = format!("{full}.");
            let is_group =
                FLAGS.iter().any(|flag| flag.key.is_some_and(|key| key.starts_with(&group)));
            if node.resolve() == Some(Scalar::Null) {
                // As if it were not there.
            } else if is_group {
                let Node::Mapping(entries) = node else {
                    return Err(mismatch(&full, node, "embed.securityConfig"));
                };
                self.mapping(&group, entries)?;
            } else if let Some((flag, as_name)) = flag_of(&full) {
                match self.value(flag, as_name, &full, node) {
                    Ok(()) => {}
                    // To that version of etcd it is a key like any other that nobody knows.
                    Err(_) if self.is_unknown(flag, as_name) => {
                        self.notices.push(Notice::KeyUnknown { key: full });
                    }
                    Err(why) => return Err(why),
                }
            } else {
                self.notices.push(Notice::KeyUnknown { key: full });
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        flag: &'static Flag,
        as_name: &str,
        key: &str,
        node: &Node,
    ) -> Result<(), String> {
        let value = text_of(flag, node).ok_or_else(|| mismatch(key, node, flag.go_type()))?;
        if means_default(flag, &value) {
            return Ok(());
        }
        if self.is_unknown(flag, as_name) && self.is_at_odds(flag, as_name) {
            return Err(format!("{key} is unknown"));
        }
        let is_ignored = flag.service == Service::Ignored;
        super::parse::check(flag, &value)
            .or_else(|why| if is_ignored { Ok(()) } else { Err(why) })
            .map_err(|why| match (flag.name, flag.kind) {
                ("feature-gates", _) => why,
                ("initial-cluster-state", _) => format!("unexpected clusterState {value:?}"),
                (_, Kind::Urls) => {
                    format!("{}{key}: {why}", super::config::URLS_UNUSABLE)
                }
                _ => format!("invalid value {value:?} for {key}: {why}"),
            })?;
        let given = Given { as_name: as_name.to_owned(), value, source: Source::File, other: None };
        if let Some(before) = self.values.get(flag.name)
            && before.as_name != given.as_name
            && self.is_unknown(flag, &before.as_name)
        {
            let key = before.as_name.clone();
            self.notices.push(Notice::KeyUnknown { key });
            self.values.remove(flag.name);
        }
        super::parse::insert(&mut self.values, flag, given);
        Ok(())
    }

    /// Whether the version that the member stands for does not have the flag, or not under that name.
    fn is_unknown(&self, flag: &Flag, as_name: &str) -> bool {
        let is_alias = as_name != flag.name;
        self.version.is_some_and(|version| {
            version.minor > if is_alias { 6 } else { flag.until.min(flag.key_until).into() }
                || !is_alias && version.minor < flag.since.into()
        })
    }

    /// Whether a flag that the version does not have would be refused, or would contradict one that it has. Any other does here
    /// what it says.
    fn is_at_odds(&self, flag: &Flag, as_name: &str) -> bool {
        flag.service == Service::Later
            || flag.key_until < flag.until
            || flag.key.is_some_and(|key| key.starts_with("discovery-config."))
            || self.values.get(flag.name).is_some_and(|before| before.as_name != as_name)
            || super::gates::of_flag(flag.name)
                .is_some_and(|_| self.values.contains_key("feature-gates"))
    }
}

/// A gate that is named by its own name too, behind the flag of old that the version does not have.
fn drop_old_gates(reader: &mut Reader) {
    if reader.version.is_none_or(|version| version.minor < 7)
        || !reader.values.contains_key("feature-gates")
    {
        return;
    }
    let old: Vec<&'static str> = reader
        .values
        .keys()
        .copied()
        .filter(|name| super::gates::of_flag(name).is_some())
        .collect();
    for name in old {
        reader.values.remove(name);
        reader.notices.push(Notice::KeyUnknown { key: name.to_owned() });
    }
}

/// The flag of a key, and the name that it goes by there.
fn flag_of(key: &str) -> Option<(&'static Flag, &str)> {
    if let Some(flag) = FLAGS.iter().find(|flag| flag.key == Some(key)) {
        return Some((flag, flag.name));
    }
    if let Some((_, old)) = KEY_ALIASES.iter().find(|(alias, _)| *alias == key) {
        return Some((find(old)?, old));
    }
    let alias = ALIASES.iter().find(|alias| alias.old == key)?;
    Some((find(alias.old)?, alias.old))
}

/// The value as the command line would have it; `None` when it is of another type.
fn text_of(flag: &Flag, node: &Node) -> Option<String> {
    let scalar = node.resolve();
    match flag.kind {
        Kind::Text if flag.name == "emulated-version" => version_text(node),
        Kind::Text | Kind::Urls | Kind::OneOf(_) => text(node),
        Kind::Bool => match scalar? {
            Scalar::Bool(value) => Some(value.to_string()),
            Scalar::Null | Scalar::Integer(_) | Scalar::Float(_) | Scalar::Text => None,
        },
        Kind::Unsigned(_) => whole(&scalar?).filter(|n| *n >= 0).map(|n| n.to_string()),
        Kind::Signed => whole(&scalar?).map(|n| n.to_string()),
        Kind::Duration => whole(&scalar?).map(|n| format!("{n}ns")),
        Kind::List => match node {
            Node::Sequence(items) => {
                let items: Option<Vec<String>> = items.iter().map(text).collect();
                Some(items?.join(","))
            }
            Node::Scalar { .. } | Node::Mapping(_) => None,
        },
    }
}

/// A text: what looks like a number or a boolean is none without quotes.
fn text(node: &Node) -> Option<String> {
    let Node::Scalar { text, .. } = node else { return None };
    match node.resolve()? {
        Scalar::Null => Some(String::new()),
        Scalar::Text => Some(text.clone()),
        Scalar::Bool(_) | Scalar::Integer(_) | Scalar::Float(_) => None,
    }
}

/// The whole number that a scalar is.
fn whole(scalar: &Scalar) -> Option<i128> {
    match scalar {
        Scalar::Integer(number) => Some(*number),
        Scalar::Float(number) => go::integer(&format!("{number:.0}"))
            .filter(|_| number.fract() == 0.0 && number.abs() < 1e15),
        Scalar::Null | Scalar::Bool(_) | Scalar::Text => None,
    }
}

/// Values that etcd takes for the default, in a file.
fn means_default(flag: &Flag, value: &str) -> bool {
    match flag.kind {
        Kind::Urls | Kind::OneOf(_) => value.is_empty(),
        Kind::Text => value.is_empty() && matches!(flag.name, "cors" | "host-whitelist"),
        Kind::Unsigned(_) => flag.name == "self-signed-cert-validity" && value == "0",
        Kind::List => value.is_empty(),
        Kind::Bool | Kind::Signed | Kind::Duration => false,
    }
}

fn mismatch(key: &str, node: &Node, go_type: &str) -> String {
    // The names of etcd's structures, which are in its texts.
    let is_json = key.contains("urls") && key != "listen-metrics-urls"
        || matches!(key, "cors" | "host-whitelist" | "feature-gates");
    let of = match key {
        _ if key.contains("transport-security.") => "securityConfig.configJSON",
        _ if is_json || key.contains("transport-security") => "configYAML.configJSON",
        _ => "configYAML.Config",
    };
    // Which number it is, Go tells only where another would do.
    let found = match node.json_type() {
        found if found.starts_with("number") && go_type.ends_with("string") => "number".to_owned(),
        found => found,
    };
    format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go struct field {of}.{key} of type \
         {go_type}"
    )
}
