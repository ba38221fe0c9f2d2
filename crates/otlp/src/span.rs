//! What is recorded of a span.

use std::borrow::Cow;

use crate::context::{Context, SpanId};

/// Longest text that a span holds, in bytes; longer ones are cut. Keys may have megabytes, and thousands of spans wait in the queue.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Most attributes and most events of one span, each.
pub(crate) const ENTRIES_MAX: usize = 128;

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Cow<'static, str>),
    /// Yes or no.
    Bool(bool),
    /// A number.
    Int(i64),
}

impl Value {
    /// Text, cut after [`TEXT_BYTES_MAX`].
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self::Text(Cow::Owned(cut(text)))
    }

    /// Bytes as text: cut after [`TEXT_BYTES_MAX`], with U+FFFD for what is not UTF-8.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
        // What is not UTF-8 is longer as text.
        Self::Text(Cow::Owned(cut(&String::from_utf8_lossy(bytes))))
    }

    fn len_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bool(_) | Self::Int(_) => 0,
        }
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

/// The side of a call that a span is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither: a step within a process.
    Internal,
    /// It serves the call.
    Server,
}

/// The library whose spans these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// Its version; empty for none.
    pub version: &'static str,
}

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    pub(crate) unix_ns: u64,
    pub(crate) attributes: Vec<(&'static str, Value)>,
}

/// All of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) scope: Scope,
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Kind,
    pub(crate) context: Context,
    pub(crate) parent: Option<SpanId>,
    /// The parent is in another process.
    pub(crate) is_parent_remote: bool,
    pub(crate) start_unix_ns: u64,
    pub(crate) end_unix_ns: u64,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    pub(crate) events: Vec<Event>,
    /// Why what it tells about failed.
    pub(crate) error: Option<String>,
}

impl Record {
    pub(crate) fn set(&mut self, key: &'static str, value: Value) {
        if self.attributes.len() < ENTRIES_MAX {
            self.attributes.push((key, value));
        }
    }

    /// What it takes up, as far as that can be large.
    pub(crate) fn len_bytes(&self) -> usize {
        let of_attributes = |attributes: &[(&str, Value)]| {
            attributes
                .iter()
                .map(|(_, value)| size_of::<(&str, Value)>() + value.len_bytes())
                .sum::<usize>()
        };
        let of_events = |event: &Event| size_of::<Event>() + of_attributes(&event.attributes);
        size_of::<Self>()
            + self.name.len()
            + self.error.as_ref().map_or(0, String::len)
            + self.context.state.as_ref().map_or(0, |state| state.len())
            + of_attributes(&self.attributes)
            + self.events.iter().map(of_events).sum::<usize>()
    }
}

/// Cuts text after [`TEXT_BYTES_MAX`], between two characters.
pub(crate) fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned()
}
