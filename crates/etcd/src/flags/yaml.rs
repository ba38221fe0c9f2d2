//! YAML as a tree of texts: the types are the flags' own, so a scalar stays the text that was written.
//!
//! The parser is `saphyr-parser`: maintained, all in safe Rust, and it gives events that still know whether a scalar was in
//! quotes. That is needed, since etcd reads YAML 1.1, where a bare `yes` is a boolean and a quoted one is not; the
//! serde-based crates have decided by 1.2's rules before one can ask.
//!
//! Any bytes are an [`Err`] or a tree of at most [`NODES_MAX`] nodes, [`DEPTH_MAX`] deep.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// A configuration has some hundred; an alias may multiply what it stands for.
const NODES_MAX: usize = 10_000;
/// A configuration has four levels.
const DEPTH_MAX: usize = 32;

/// A node of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A text, and whether it was written without quotes.
    Scalar {
        text: String,
        is_plain: bool,
    },
    Sequence(Vec<Node>),
    /// Keys in the order in which they were written; one may come twice.
    Mapping(Vec<(String, Node)>),
}

/// What a scalar without a type of its own is in YAML 1.1.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

impl Node {
    /// What the node is, if it is a scalar.
    pub(super) fn resolve(&self) -> Option<Scalar> {
        let Self::Scalar { text, is_plain } = self else { return None };
        if !is_plain {
            return Some(Scalar::Text);
        }
        Some(match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                Scalar::Bool(true)
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => Scalar::Bool(false),
            text => match super::go::integer(text) {
                Some(number) => Scalar::Integer(number),
                None if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                    text.parse().map_or(Scalar::Text, Scalar::Float)
                }
                None => Scalar::Text,
            },
        })
    }

    /// The JSON type that etcd names in its texts.
    pub(super) fn json_type(&self) -> String {
        match (self, self.resolve()) {
            (Self::Sequence(_), _) => "array".to_owned(),
            (Self::Mapping(_), _) => "object".to_owned(),
            (_, Some(Scalar::Bool(_))) => "bool".to_owned(),
            (_, Some(Scalar::Integer(number))) => format!("number {number}"),
            (_, Some(Scalar::Float(number))) => format!("number {number}"),
            (_, Some(Scalar::Null)) => "null".to_owned(),
            (_, Some(Scalar::Text) | None) => "string".to_owned(),
        }
    }
}

/// The first document, and whether another follows.
///
/// # Errors
/// What is wrong with the text, and where.
pub(super) fn parse(text: &str) -> Result<(Node, bool), String> {
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
        }
        if documents > 1 {
            break;
        }
        builder.take(event).map_err(|why| {
            format!("error converting YAML to JSON: yaml: line {}: {why}", span.start.line())
        })?;
    }
    let root = builder.root.unwrap_or(Node::Scalar { text: String::new(), is_plain: true });
    Ok((root, documents > 1))
}

/// Puts events together.
#[derive(Default)]
struct Builder {
    /// What is open, the outermost first.
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

struct Open {
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<(String, Node)>,
        merged: Vec<(String, Node)>,
        key: Option<(String, bool)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_string = tag.as_deref().is_some_and(|tag| tag.suffix == "str");
                let is_plain = style == ScalarStyle::Plain && !is_string;
                self.add(Node::Scalar { text: Cow::into_owned(text), is_plain }, anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("unknown anchor")?;
                self.nodes += count(&node);
                self.add(node, 0)
            }
            Event::SequenceStart(anchor, _) => self.start(anchor, OpenKind::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => self.start(
                anchor,
                OpenKind::Mapping { entries: Vec::new(), merged: Vec::new(), key: None },
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let node = match open.kind {
                    OpenKind::Sequence(items) => Node::Sequence(items),
                    OpenKind::Mapping { entries, merged, .. } => {
                        // What is written itself wins over what a merge brings: the last one counts.
                        Node::Mapping(merged.into_iter().chain(entries).collect())
                    }
                };
                self.add(node, open.anchor)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn start(&mut self, anchor: usize, kind: OpenKind) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} levels"));
        }
        self.open.push(Open { anchor, kind });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(format!("more than {NODES_MAX} values"));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::Sequence(items) => items.push(node),
            OpenKind::Mapping { entries, merged, key } => match key.take() {
                None => {
                    let Node::Scalar { text, is_plain } = node else {
                        return Err("a key is no text".to_owned());
                    };
                    *key = Some((text, is_plain));
                }
                Some((name, true)) if name == "<<" => match node {
                    Node::Mapping(found) => merged.extend(found),
                    Node::Sequence(items) => {
                        // Of several the first wins, so it is to come last.
                        for item in items.into_iter().rev() {
                            let Node::Mapping(found) = item else {
                                return Err(
                                    "map merge requires map or sequence of maps as the value"
                                        .to_owned(),
                                );
                            };
                            merged.extend(found);
                        }
                    }
                    Node::Scalar { .. } => {
                        return Err(
                            "map merge requires map or sequence of maps as the value".to_owned()
                        );
                    }
                },
                Some((name, _)) => entries.push((name, node)),
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    match node {
        Node::Scalar { .. } => 1,
        Node::Sequence(items) => 1 + items.iter().map(count).sum::<usize>(),
        Node::Mapping(entries) => 1 + entries.iter().map(|(_, node)| count(node)).sum::<usize>(),
    }
}
