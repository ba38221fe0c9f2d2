//! Log lines in etcd's JSON form on standard error. Consumers parse them, so keys, order and texts are etcd's; `caller` names our file.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::go;
use crate::terminal;

/// One line under construction.
pub(crate) struct Line {
    text: String,
}

impl Line {
    pub(crate) fn new(level: &str, logger: Option<&str>, caller: &str, message: &str) -> Self {
        let mut line = Self { text: String::from("{") };
        line.pair("level", level);
        line.text.push(',');
        line.pair("ts", &timestamp(SystemTime::now()));
        if let Some(logger) = logger {
            line.text.push(',');
            line.pair("logger", logger);
        }
        line.text.push(',');
        line.pair("caller", caller);
        line.text.push(',');
        line.pair("msg", message);
        line
    }

    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.text.push(',');
        self.pair(key, value);
        self
    }

    pub(crate) fn number(mut self, key: &str, value: u32) -> Self {
        self.text.push_str(&format!(",{}:{value}", quoted(key)));
        self
    }

    pub(crate) fn print(mut self) {
        self.text.push('}');
        terminal::error_line(&self.text);
    }

    fn pair(&mut self, key: &str, value: &str) {
        self.text.push_str(&format!("{}:{}", quoted(key), quoted(value)));
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// UTC with microseconds, as etcd's loggers write it: `2026-11-22T15:19:41.527495Z`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = go::civil_date(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps() {
        let at = UNIX_EPOCH + Duration::new(1_795_360_781, 527_495_000);
        assert_eq!(timestamp(at), "2026-11-22T15:19:41.527495Z");
    }
}
