//! The grammar of the script files, as far as they use it (cockroachdb/datadriven 1.0.2).
//!
//! ```text
//! # comment
//! command arg key=value key=(v1,v2)
//! input lines
//! ----
//! expected lines, up to the first blank one
//! ```

/// One command with its input and what it should print.
pub(crate) struct Case {
    /// Line of the command, counted from 1.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) args: Vec<Arg>,
    pub(crate) input: String,
    pub(crate) expected: String,
    /// Lines of `expected` in the file, counted from 0.
    expected_lines: std::ops::Range<usize>,
}

/// `key`, `key=value` or `key=(v1,v2)`.
#[derive(Clone, Debug)]
pub(crate) struct Arg {
    pub(crate) key: String,
    pub(crate) values: Vec<String>,
}

impl Case {
    /// Returns the values of a named argument.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.args.iter().find(|arg| arg.key == key).map_or(&[], |arg| &arg.values)
    }

    /// Returns the only value of a named argument.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.values(key).first().map(String::as_str)
    }

    /// Returns the arguments without values.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.args.iter().filter(|arg| arg.values.is_empty()).map(|arg| arg.key.as_str()).collect()
    }

    /// Returns the arguments without values as numbers.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.words().iter().map(|word| word.parse().unwrap()).collect()
    }
}

pub(crate) fn parse(text: &str) -> Vec<Case> {
    let lines: Vec<&str> = text.lines().collect();
    let mut cases = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let mut directive = lines[at].trim().to_owned();
        let line = at + 1;
        at += 1;
        if directive.is_empty() || directive.starts_with('#') {
            continue;
        }
        while directive.ends_with('\\') {
            directive.pop();
            directive = format!("{} {}", directive.trim_end(), lines[at].trim());
            at += 1;
        }
        let mut input = Vec::new();
        while lines[at] != "----" {
            input.push(lines[at]);
            at += 1;
        }
        at += 1;
        assert!(
            lines.get(at) != Some(&"----"),
            "double separators are not supported (line {line})"
        );
        let start = at;
        while at < lines.len() && !lines[at].trim().is_empty() {
            at += 1;
        }
        let (command, rest) = directive.split_once(' ').unwrap_or((&directive, ""));
        cases.push(Case {
            line,
            command: command.to_owned(),
            args: parse_args(rest),
            input: input.join("\n").trim().to_owned(),
            expected: lines[start..at].iter().map(|line| format!("{line}\n")).collect(),
            expected_lines: start..at,
        });
    }
    cases
}

fn parse_args(mut rest: &str) -> Vec<Arg> {
    let mut args = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return args;
        }
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix('=') else {
            args.push(Arg { key, values: Vec::new() });
            continue;
        };
        if let Some(list) = after.strip_prefix('(') {
            let (values, after) = parse_list(list);
            args.push(Arg { key, values });
            rest = after;
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            args.push(Arg { key, values: vec![after[..end].to_owned()] });
            rest = &after[end..];
        }
    }
}

/// Splits at commas outside nested parentheses, up to the closing one.
fn parse_list(list: &str) -> (Vec<String>, &str) {
    let mut values = vec![String::new()];
    let mut depth = 1;
    for (at, letter) in list.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        let value = values.last_mut().unwrap();
        match letter {
            ')' if depth == 0 => {
                if list[..at].is_empty() {
                    values.clear();
                }
                return (values, &list[at + 1..]);
            }
            ',' if depth == 1 => values.push(String::new()),
            ' ' if value.is_empty() => {}
            _ => value.push(letter),
        }
    }
    panic!("unclosed parenthesis: {list}");
}

/// Returns the file with other expectations.
pub(crate) fn rewrite(text: &str, cases: &[Case], outputs: &[String]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut rewritten = String::new();
    let mut at = 0;
    for (case, output) in cases.iter().zip(outputs) {
        for line in &lines[at..case.expected_lines.start] {
            rewritten += line;
            rewritten += "\n";
        }
        rewritten += output;
        at = case.expected_lines.end;
    }
    for line in &lines[at..] {
        rewritten += line;
        rewritten += "\n";
    }
    rewritten
}
