//! One event as a line.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::Format;

/// What is in a line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: &'static str,
    logger: Option<String>,
    pub(super) caller: String,
    pub(super) message: String,
    fields: Vec<(String, Value)>,
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let meta = event.metadata();
        let level = match *meta.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let caller = caller(meta.file(), meta.line());
        let mut line =
            Self { level, logger: None, caller, message: String::new(), fields: Vec::new() };
        event.record(&mut line);
        line
    }

    /// The line, newline included.
    pub(super) fn text(&self, format: Format, now: SystemTime) -> String {
        match format {
            Format::Json => self.json(&timestamp(now)),
            Format::Console => self.console(&timestamp(now)),
        }
    }

    fn json(&self, ts: &str) -> String {
        let mut line = String::with_capacity(256);
        line.push_str("{\"level\":\"");
        line.push_str(self.level);
        line.push_str("\",\"ts\":\"");
        line.push_str(ts);
        line.push('"');
        let mut add = |key: &str, value: &Value| {
            line.push(',');
            line.push_str(&Value::from(key).to_string());
            line.push(':');
            line.push_str(&value.to_string());
        };
        if let Some(logger) = &self.logger {
            add("logger", &Value::from(logger.as_str()));
        }
        add("caller", &Value::from(self.caller.as_str()));
        add("msg", &Value::from(self.message.as_str()));
        for (key, value) in &self.fields {
            add(key, value);
        }
        line.push_str("}\n");
        line
    }

    fn console(&self, ts: &str) -> String {
        let mut columns = vec![ts.to_owned(), self.level.to_owned()];
        columns.extend(self.logger.clone());
        columns.extend([self.caller.clone(), self.message.clone()]);
        if !self.fields.is_empty() {
            let fields: Vec<String> = self
                .fields
                .iter()
                .map(|(key, value)| format!("{}: {value}", Value::from(key.as_str())))
                .collect();
            columns.push(format!("{{{}}}", fields.join(", ")));
        }
        columns.join("\t") + "\n"
    }

    /// A field. Some are parts of the line; a name with `_` is written with `-`, as etcd's keys are. Wherever a URL comes from, and
    /// whatever text it is in: its password is not written.
    fn add(&mut self, field: &Field, value: Value) {
        let value = cleaned(value);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match field.name() {
            "message" => self.message = text(&value),
            "logger" => self.logger = Some(text(&value)),
            // zap's levels above `error`, which `tracing` does not know.
            "zap_level" => {
                if text(&value) == "fatal" {
                    self.level = "fatal";
                }
            }
            // More fields than an event can have: a list of pairs.
            "zap_fields" => {
                if let Ok(pairs) = serde_json::from_str::<Vec<(String, Value)>>(&text(&value)) {
                    self.fields.extend(pairs);
                }
            }
            name => self.fields.push((name.replace('_', "-"), value)),
        }
    }
}

/// The time in microseconds as zap writes it: `Z` for UTC, otherwise an offset without a colon.
fn timestamp(now: SystemTime) -> String {
    let Ok(now) = Timestamp::try_from(now) else { return String::new() };
    let zoned = now.to_zoned(TimeZone::system());
    let form =
        if zoned.offset().is_zero() { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%S.%6f%z" };
    zoned.strftime(form).to_string()
}

/// The file with its directory, as zap shortens it; a crate's `src` says nothing and is left out.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("unknown").replacen("/src/", "/", 1);
    let file = file.as_str();
    let short = file.rmatch_indices('/').nth(1).map_or(file, |(at, _)| &file[at + 1..]);
    format!("{short}:{}", line.unwrap_or(0))
}

/// The value without passwords.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('@') => Value::String(without_passwords(&text)),
        Value::Array(values) => Value::Array(values.into_iter().map(cleaned).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            value
        }
    }
}

/// Takes passwords out of the URLs in a text: `//user:password@` becomes `//user:***@`. A comma may be part of one, or end a URL of a list;
/// one that ends a URL has no `@` behind it before the next URL's slashes.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("//") {
        let (before, after) = rest.split_at(start + 2);
        clean.push_str(before);
        let authority = after.split(['/', '?', '#', '"', ' ']).next().unwrap_or_default();
        rest = after;
        if let Some((login, _)) = authority.rsplit_once('@') {
            let user = login.split(':').next().unwrap_or_default();
            clean.push_str(user);
            if login.contains(':') {
                clean.push_str(":***");
            }
            rest = &after[login.len()..];
        }
    }
    clean.push_str(rest);
    clean
}

impl Visit for Line {
    /// A list is written as a list: what `Debug` prints of one that holds texts or numbers is JSON.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let list = text
            .starts_with('[')
            .then(|| serde_json::from_str::<Vec<Value>>(&text).ok())
            .flatten()
            .filter(|_| field.name() != "message");
        self.add(field, list.map_or(Value::from(text), Value::from));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Line {
        Line {
            level: "info",
            logger: Some("raft".to_owned()),
            caller: "server/member.rs:7".to_owned(),
            message: "ready \"now\"".to_owned(),
            fields: vec![
                ("data-dir".to_owned(), Value::from("d")),
                ("urls".to_owned(), Value::from(vec!["a", "b"])),
            ],
        }
    }

    #[test]
    fn a_line_has_zaps_keys_in_zaps_order() {
        assert_eq!(
            example().json("T"),
            "{\"level\":\"info\",\"ts\":\"T\",\"logger\":\"raft\",\"caller\":\"server/member.rs:7\",\
             \"msg\":\"ready \\\"now\\\"\",\"data-dir\":\"d\",\"urls\":[\"a\",\"b\"]}\n"
        );
        assert_eq!(
            example().console("T"),
            "T\tinfo\traft\tserver/member.rs:7\tready \"now\"\t{\"data-dir\": \"d\", \"urls\": [\"a\",\"b\"]}\n"
        );
    }

    #[test]
    fn a_caller_is_a_file_with_its_directory() {
        assert_eq!(caller(Some("crates/server/src/driver/node.rs"), Some(7)), "driver/node.rs:7");
        assert_eq!(caller(Some("crates/server/src/member.rs"), Some(7)), "server/member.rs:7");
        assert_eq!(caller(Some("main.rs"), Some(1)), "main.rs:1");
    }

    #[test]
    fn passwords_are_taken_out_of_lists_too() {
        let list = Value::from(vec!["http://u:p@h", "x"]);
        assert_eq!(cleaned(list), Value::from(vec!["http://u:***@h", "x"]));
        assert_eq!(cleaned(Value::from(7)), Value::from(7));
    }

    #[test]
    fn passwords_in_urls_are_not_written() {
        for (text, want) in [
            ("http://user:secret@host:1", "http://user:***@host:1"),
            ("a=http://u:p@h:1,b=https://v:q@h:2/x", "a=http://u:***@h:1,b=https://v:***@h:2/x"),
            ("http://me:se,cret@host:1/x", "http://me:***@host:1/x"),
            ("https://h:1,http://u:p@h:2", "https://h:1,http://u:***@h:2"),
            ("http://host:1/a@b", "http://host:1/a@b"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_passwords(text), want);
        }
    }
}
