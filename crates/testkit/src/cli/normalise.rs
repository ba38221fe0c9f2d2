//! Replaces what two servers may print differently: ids of leases, ports, times, sizes, patch versions.
//!
//! Member and cluster ids are *not* touched: the two are started with equal names and URLs, so these are equal, and
//! so are revisions, terms, raft indexes and hashes. What is left over is a difference.

use std::fmt::Write;

/// What a session knows that may differ in its transcript.
#[derive(Debug, Default)]
pub struct Names {
    /// Texts to replace, with their replacement; longest first.
    pub replace: Vec<(String, String)>,
}

/// Normalises one text of a transcript.
pub fn normalise(text: &str, names: &Names) -> String {
    let mut text = text.to_owned();
    for (from, to) in &names.replace {
        text = text.replace(from, to);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(events) = watch_events(line) {
            out.extend(events.iter().map(|event| format!("{event}\n")));
            continue;
        }
        match log_line(line) {
            Some(short) => out.push_str(&short),
            None => out.push_str(&plain_line(line)),
        }
        out.push('\n');
    }
    sort_key_lines(&out)
}

/// Sorts neighbouring lines `"Key" : …`: the keys of a lease in the format `fields`. Those of a range have other lines between.
fn sort_key_lines(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for run in lines.chunk_by_mut(|a, b| a.starts_with("\"Key\" : ") && b.starts_with("\"Key\" : "))
    {
        run.sort_unstable();
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A watch response in JSON becomes its events, one a line: how many revisions a server packs into a response is
/// a matter of timing, the order of the events is not. A response without events stays as it is.
pub(super) fn watch_events(line: &str) -> Option<Vec<String>> {
    let json: serde_json::Value = serde_json::from_str(line).ok()?;
    json.get("CompactRevision")?;
    let events = json.get("Events")?.as_array()?;
    Some(events.iter().map(ToString::to_string).collect())
        .filter(|events: &Vec<String>| !events.is_empty())
}

/// A line of etcdctl's own log (JSON on standard error) says where and when; only level, message and error are compared.
fn log_line(line: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(line).ok()?;
    let message = json.get("msg")?.as_str()?;
    let level = json.get("level")?.as_str()?;
    let mut out = format!("[{level}] {message}");
    if let Some(error) = json.get("error").and_then(|error| error.as_str()) {
        let _ = write!(out, ": {error}");
    }
    Some(out)
}

fn plain_line(line: &str) -> String {
    let mut words = Vec::new();
    for word in split_keeping(line) {
        words.push(replace_word(word));
    }
    let mut line = words.concat();
    for (key, name) in [
        ("\"dbSize\":", "<size>"),
        ("\"dbSizeInUse\":", "<size>"),
        ("\"totalSize\":", "<size>"),
        ("\"DBSize\" : ", "<size>"),
        ("\"DBSizeInUse\" : ", "<size>"),
        ("\"remaining_bytes\":", "<size>"),
    ] {
        line = replace_number_after(&line, key, name);
    }
    if line.contains("\"totalKey\":") {
        // The hash over a whole snapshot: the members' rows in it differ between patch versions (3.5.16 leaves out the client
        // URLs, 3.5.30 does not). The history in it is compared by HashKV.
        line = replace_number_after(&line, "\"hash\":", "<hash>");
    }
    for key in ["remaining(", "\"ttl\":", "\"TTL\" : "] {
        line = replace_remaining_after(&line, key);
    }
    for (open, close, separator) in [("attached keys([", "])", " "), ("\"keys\":[", "]", ",")] {
        line = sort_between(&line, open, close, separator);
    }
    // A table's column widths follow from the cells that were replaced: blanks and rules are not compared.
    if line.starts_with(['|', '+', '│', '┌', '├', '└']) { squeeze(&line) } else { line }
}

/// Splits into words and what is between them, nothing lost.
fn split_keeping(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | 'µ');
    let mut rest = line;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (head, tail) = rest.split_at(end);
        rest = tail;
        Some(head)
    })
}

fn replace_word(word: &str) -> String {
    if is_duration(word) {
        return "<took>".to_owned();
    }
    if let Some(patch) = word.strip_prefix("3.5.")
        && !patch.is_empty()
        && patch.chars().all(|c| c.is_ascii_digit())
    {
        return "3.5.<patch>".to_owned();
    }
    word.to_owned()
}

/// Go prints durations as `1.234567ms`, `56.7µs`, `1.5s`. Whole seconds (`10s`) are a lease's TTL, and compared.
fn is_duration(word: &str) -> bool {
    let number =
        |text: &str| text.contains('.') && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let whole =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    ["ms", "µs", "ns"].iter().any(|unit| word.strip_suffix(unit).is_some_and(whole))
        || word.strip_suffix('s').is_some_and(number)
}

fn replace_number_after(line: &str, key: &str, name: &str) -> String {
    let Some(at) = line.find(key) else { return line.to_owned() };
    let (head, tail) = line.split_at(at + key.len());
    let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    if digits == 0 {
        return line.to_owned();
    }
    format!("{head}{name}{}", tail.get(digits..).unwrap_or_default())
}

/// What is left of a TTL a moment after the grant. Scripts grant hundreds of seconds, so that what is left is known
/// by being a little below a multiple of 100; a TTL that was not counted down stays, and is compared.
fn replace_remaining_after(line: &str, key: &str) -> String {
    let Some(at) = line.find(key) else { return line.to_owned() };
    let (head, tail) = line.split_at(at + key.len());
    let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    let (number, rest) = tail.split_at(digits);
    match number.parse::<u64>() {
        Ok(number) if number % 100 >= 90 => format!("{head}<remaining>{rest}"),
        Ok(_) | Err(_) => line.to_owned(),
    }
}

/// Sorts a list whose order etcd leaves open (the keys of a lease).
fn sort_between(line: &str, open: &str, close: &str, separator: &str) -> String {
    let parts =
        line.split_once(open).and_then(|(head, rest)| Some((head, rest.split_once(close)?)));
    let Some((head, (list, tail))) = parts else { return line.to_owned() };
    let mut items: Vec<&str> = list.split(separator).collect();
    items.sort_unstable();
    format!("{head}{open}{}{close}{tail}", items.join(separator))
}

/// Runs of blanks and of table rules become one each, sizes in a table (`25 kB`) a word, and drawn lines the plain ones:
/// etcdctl 3.5.16 draws `+--+`, Debian's 3.5.30 `┌──┐`.
fn squeeze(line: &str) -> String {
    let mut out = String::new();
    let mut last = None;
    for c in line.chars() {
        let c = match c {
            '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' => '+',
            '─' => '-',
            '│' => '|',
            c => c,
        };
        if matches!(c, ' ' | '-') && last == Some(c) {
            continue;
        }
        out.push(c);
        last = Some(c);
    }
    let is_size = |cell: &str| {
        let mut words = cell.split_whitespace();
        words.next().is_some_and(|word| word.parse::<f64>().is_ok())
            && words.next().is_some_and(|unit| matches!(unit, "B" | "kB" | "MB" | "GB"))
    };
    let cells: Vec<&str> =
        out.split('|').map(|cell| if is_size(cell) { " <size> " } else { cell }).collect();
    cells.join("|")
}

/// Replaces sizes (`25 kB`) in a line of comma-separated cells, as `endpoint status` prints it.
pub(super) fn sizes_in_cells(line: &str) -> String {
    let is_size = |cell: &str| {
        cell.split_once(' ').is_some_and(|(number, unit)| {
            number.parse::<f64>().is_ok() && matches!(unit, "B" | "kB" | "MB" | "GB")
        })
    };
    line.split(", ")
        .map(|cell| if is_size(cell) { "<size>" } else { cell })
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(normalise(text, &Names::default()).trim_end(), expected);
    }

    #[test]
    fn times_sizes_and_patch_versions_are_replaced() {
        check("x is healthy: took = 1.25ms", "x is healthy: took = <took>");
        check("\"dbSize\":20480,\"leader\":5", "\"dbSize\":<size>,\"leader\":5");
        check("\"Version\" : \"3.5.16\"", "\"Version\" : \"3.5.<patch>\"");
        check("| 25 kB |   5 |", "| <size> | 5 |");
        check("│  25 kB │ 5 │", "| <size> | 5 |");
    }

    #[test]
    fn ttls_and_indexes_stay() {
        check("granted with TTL(10s)", "granted with TTL(10s)");
        check("\"raftIndex\":17", "\"raftIndex\":17");
    }

    #[test]
    fn log_lines_keep_level_message_and_error() {
        check(
            r#"{"level":"warn","ts":"2026","msg":"retrying","error":"no"}"#,
            "[warn] retrying: no",
        );
    }
}
