//! The lines of a script, parsed.

use anyhow::{Context, Result, bail, ensure};

/// A script and where it came from.
#[derive(Debug)]
pub struct Script {
    /// The file's name without its ending.
    pub name: String,
    /// What to do, in order, with line numbers.
    pub steps: Vec<(usize, Step)>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run etcdctl to its end.
    Run(Call),
    /// Run etcdctl once with each output format.
    Each(Call),
    /// Grant a lease and remember its id under a name.
    Lease(String, Call),
    /// Start etcdctl in the background, under a name.
    Start(String, Call),
    /// Wait for a background command to print so many lines, then interrupt it.
    Await(String, usize),
    /// Run the reference's etcdutl.
    Utl(Call),
}

/// The arguments of a command and what it is given to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The arguments, variables not yet replaced.
    pub args: Vec<String>,
    /// Its standard input.
    pub stdin: String,
}

impl Call {
    fn new(args: Vec<String>) -> Self {
        Self { args, stdin: String::new() }
    }
}

impl Script {
    /// Parses the text of a script.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut steps: Vec<(usize, Step)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            parse_line(line, number, &mut steps).with_context(|| format!("{name}:{number}"))?;
        }
        Ok(Self { name: name.to_owned(), steps })
    }
}

fn parse_line(line: &str, number: usize, steps: &mut Vec<(usize, Step)>) -> Result<()> {
    if let Some(input) = line.strip_prefix('|') {
        let input = input.strip_prefix(' ').unwrap_or(input);
        match steps.last_mut() {
            Some((_, Step::Run(call) | Step::Start(_, call))) => {
                call.stdin.push_str(input);
                call.stdin.push('\n');
                return Ok(());
            }
            Some(_) | None => bail!("an input line needs a command above it"),
        }
    }
    let mut words = split_words(line)?;
    let Some(first) = words.first() else { return Ok(()) };
    if first.starts_with('#') {
        return Ok(());
    }
    let name = |words: &mut Vec<String>| {
        words.remove(0);
        ensure!(!words.is_empty(), "a name is missing");
        Ok(words.remove(0))
    };
    let step = match first.as_str() {
        "each" => Step::Each(Call::new(words.split_off(1))),
        "utl" => Step::Utl(Call::new(words.split_off(1))),
        // `lease grant` alone is etcdctl's own command; with a name before it, ours.
        "lease" if words.get(2).is_some_and(|word| word == "grant") => {
            let name = name(&mut words)?;
            words.insert(0, "lease".to_owned());
            Step::Lease(name, Call::new(words))
        }
        "start" => Step::Start(name(&mut words)?, Call::new(words)),
        "await" => {
            let name = name(&mut words)?;
            let lines = words.first().context("a number of lines is missing")?.parse()?;
            Step::Await(name, lines)
        }
        _ => Step::Run(Call::new(words)),
    };
    steps.push((number, step));
    Ok(())
}

/// Splits a line as a shell would, as far as scripts need it.
fn split_words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(words);
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
            match c {
                '\'' => loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => bail!("a ' is not closed"),
                    }
                },
                '"' => loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => word.push(escape(&mut chars)?),
                        Some(c) => word.push(c),
                        None => bail!("a \" is not closed"),
                    }
                },
                c => word.push(c),
            }
        }
        words.push(word);
    }
}

fn escape(chars: &mut impl Iterator<Item = char>) -> Result<char> {
    match chars.next() {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('x') => {
            let digits: String = chars.by_ref().take(2).collect();
            Ok(char::from(u8::from_str_radix(&digits, 16).context("two hex digits after \\x")?))
        }
        Some(c @ ('\\' | '"')) => Ok(c),
        other => bail!("unknown escape {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &Step) {
        let script = Script::parse("t", line).unwrap();
        assert_eq!(script.steps, vec![(1, expected.clone())], "{line}");
    }

    fn call(text: &[&str]) -> Call {
        Call::new(text.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn lines_become_steps() {
        check("put 'a b' \"c\\n\\x41\"", &Step::Run(call(&["put", "a b", "c\nA"])));
        check("put k ''", &Step::Run(call(&["put", "k", ""])));
        check("each get k", &Step::Each(call(&["get", "k"])));
        check("lease L grant 9", &Step::Lease("L".to_owned(), call(&["lease", "grant", "9"])));
        check("lease grant 9", &Step::Run(call(&["lease", "grant", "9"])));
        check("await w 3", &Step::Await("w".to_owned(), 3));
    }

    #[test]
    fn input_lines_belong_to_the_command_above() {
        let script = Script::parse("t", "txn\n| put a b\n|\n\n# end").unwrap();
        let expected = Call { stdin: "put a b\n\n".to_owned(), ..call(&["txn"]) };
        assert_eq!(script.steps, vec![(1, Step::Run(expected))]);
    }

    #[test]
    fn input_without_a_command_is_refused_with_its_place() {
        let error = format!("{:#}", Script::parse("t", "\n| x").unwrap_err());
        assert_eq!(error, "t:2: an input line needs a command above it");
    }
}
