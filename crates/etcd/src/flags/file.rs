//! The configuration file: YAML or JSON, one key for each flag.
//!
//! [`read`] is a plain function from bytes to given values, which then have the same way as those of the command line. As in
//! etcd, keys match whatever their case, durations are nanoseconds, lists of URLs are one text with commas, a null leaves the
//! default, and a key that nobody knows stops nothing; here it gets a warning.

use super::parse::{Given, Source, Values};
use super::table::{ALIASES, FLAGS, Flag, KEY_ALIASES, Kind, find};
use super::yaml::{self, Node, Scalar};
use super::{Notice, go};

/// Reads a file's bytes.
///
/// # Errors
/// The text that is logged: etcd's where a value is of another type than the flag.
pub(super) fn read(bytes: &[u8]) -> Result<(Values, Vec<Notice>), String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    let (root, has_more) = yaml::parse(text.trim_start_matches('\u{feff}'))?;
    let mut reader = Reader { values: Values::new(), notices: Vec::new() };
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
    if has_more {
        reader.notices.push(Notice::Warning(
            "the configuration file holds more than one document; only the first is read"
                .to_owned(),
        ));
    }
    Ok((reader.values, reader.notices))
}

struct Reader {
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
                self.value(flag, as_name, &full, node)?;
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
        super::parse::check(flag, &value).map_err(|why| match (flag.name, flag.kind) {
            ("initial-cluster-state", _) => format!("unexpected clusterState {value:?}"),
            (_, Kind::Urls) => {
                format!("{}{key}: {why}", super::config::URLS_UNUSABLE)
            }
            _ => format!("invalid value {value:?} for {key}: {why}"),
        })?;
        let given = Given { as_name: as_name.to_owned(), value, source: Source::File, other: None };
        super::parse::insert(&mut self.values, flag, given);
        Ok(())
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
        Kind::Text | Kind::Urls | Kind::OneOf(_) => text(node),
        Kind::Bool => match scalar? {
            Scalar::Bool(value) => Some(value.to_string()),
            Scalar::Null | Scalar::Integer(_) | Scalar::Float(_) | Scalar::Text => None,
        },
        Kind::Unsigned(_) => whole(&scalar?).filter(|n| *n >= 0).map(|n| n.to_string()),
        Kind::Signed => whole(&scalar?).map(|n| n.to_string()),
        Kind::Duration => whole(&scalar?).filter(|n| *n >= 0).map(|n| format!("{n}ns")),
        Kind::List => match node {
            Node::Sequence(items) => {
                let items: Option<Vec<String>> = items.iter().map(text).collect();
                Some(items?.join(","))
            }
            // 3.5 had one text in some of them.
            Node::Scalar { .. } if flag.name.contains("allowed") => text(node),
            Node::Scalar { .. } | Node::Mapping(_) => None,
        },
    }
}

/// A scalar as text: what is no text by itself becomes one, as etcd's reader has it.
fn text(node: &Node) -> Option<String> {
    let Node::Scalar { text, .. } = node else { return None };
    Some(match node.resolve()? {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Null => String::new(),
        Scalar::Float(_) | Scalar::Text => text.clone(),
    })
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
        || key.contains("transport-security")
        || matches!(key, "cors" | "host-whitelist" | "feature-gates");
    let of = if is_json { "configJSON" } else { "Config" };
    format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go struct field configYAML.{of}.{key} of \
         type {go_type}",
        node.json_type()
    )
}
