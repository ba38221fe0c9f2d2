//! The grammar of the programs inside `etcd`, `gateway` and `grpc-proxy`: that of Go's cobra and pflag, another one than the member's.
//!
//! Two dashes, `--x v` or `--x=v`, bare booleans; lists with commas, which repeated flags add to. Flags may stand before the subcommand. There
//! are no environment variables and no file.
//!
//! Upstream: `server/etcdmain/{gateway,grpc_proxy}.go` (3.6.16).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::flags::go;

/// Exit code of everything that goes wrong, a command line that does not parse included.
pub(crate) const FAILED: u8 = 1;

/// A command with its one subcommand, `start`.
#[derive(Debug)]
pub(crate) struct Command {
    /// `etcd <name> start`.
    pub(crate) name: &'static str,
    /// What it starts.
    pub(crate) subject: &'static str,
    /// Of `start`, in alphabetical order.
    pub(crate) flags: &'static [Flag],
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As it would be given; empty for nothing.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    List,
    Bool,
    Int,
    Uint,
    Uint32,
    Duration,
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    List(Vec<String>),
    Bool(bool),
    Number(i64),
    Duration(Duration),
}

/// Why the command is not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Print this to stdout, exit 0.
    Help(String),
    /// Print the error, this usage and the error again, exit 1.
    Usage { error: String, usage: String },
}

impl Stop {
    /// Prints, and says how to exit.
    pub(crate) fn carry_out(self) -> ExitCode {
        match self {
            Self::Help(text) => {
                say_stdout(&text);
                ExitCode::SUCCESS
            }
            Self::Usage { error, usage } => {
                say_stderr(&format!("Error: {error}\n{usage}\n{error}"));
                ExitCode::from(FAILED)
            }
        }
    }
}

impl Command {
    /// Reads what follows the command's name.
    pub(crate) fn read(&self, args: &[String]) -> Result<Values, Stop> {
        if subcommand(args) != Some("start") {
            return Err(Stop::Help(self.overview()));
        }
        self.parse(args).map_err(|error| match error {
            Some(error) => Stop::Usage { error, usage: self.usage() },
            None => Stop::Help(format!("start the {}\n\n{}", self.subject, self.usage())),
        })
    }

    /// `None` stands for a wish for help.
    fn parse(&self, args: &[String]) -> Result<Values, Option<String>> {
        let mut given: BTreeMap<&'static str, Value> = BTreeMap::new();
        let mut rest = args.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                break;
            }
            let Some(body) = argument.strip_prefix("--") else {
                match argument.strip_prefix('-').and_then(|letters| letters.chars().next()) {
                    Some('h') => return Err(None),
                    Some(letter) => {
                        let letters = argument.trim_start_matches('-');
                        let error = format!("unknown shorthand flag: {letter:?} in -{letters}");
                        return Err(Some(error));
                    }
                    // The subcommand, and whatever else is no flag.
                    None => continue,
                }
            };
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(Some(format!("bad flag syntax: {argument}")));
            }
            let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else {
                return Err((name != "help").then(|| format!("unknown flag: --{name}")));
            };
            let text = match (inline, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true",
                (None, _) => {
                    rest.next().ok_or_else(|| Some(format!("flag needs an argument: --{name}")))?
                }
            };
            let value = read(flag.kind, text).map_err(|why| {
                Some(format!("invalid argument {text:?} for \"--{name}\" flag: {why}"))
            })?;
            match (given.get_mut(flag.name), value) {
                (Some(Value::List(list)), Value::List(more)) => list.extend(more),
                (_, value) => {
                    given.insert(flag.name, value);
                }
            }
        }
        for flag in self.flags {
            if !given.contains_key(flag.name) {
                let value = read(flag.kind, flag.default).unwrap_or(Value::Text(String::new()));
                given.insert(flag.name, value);
            }
        }
        Ok(Values(given))
    }

    fn overview(&self) -> String {
        let Self { name, subject, .. } = self;
        format!(
            "{name} related command\n\nUsage:\n  etcd {name} [command]\n\nAvailable Commands:\n  start       start the {subject}\n\n\
             Flags:\n  -h, --help   help for {name}\n\nUse \"etcd {name} [command] --help\" for more information about a command.\n"
        )
    }

    fn usage(&self) -> String {
        let head = |flag: &Flag| match flag.kind.name() {
            "" => format!("      --{}", flag.name),
            kind => format!("      --{} {kind}", flag.name),
        };
        let help = Flag { name: "help", kind: Kind::Bool, default: "", help: "help for start" };
        let mut flags: Vec<&Flag> = self.flags.iter().chain([&help]).collect();
        flags.sort_by_key(|flag| flag.name);
        let width = flags.iter().map(|flag| head(flag).len()).max().unwrap_or_default() + 3;
        let mut text = format!("Usage:\n  etcd {} start [flags]\n\nFlags:\n", self.name);
        for flag in flags {
            let head = match flag.name {
                "help" => "  -h, --help".to_owned(),
                _ => head(flag),
            };
            text.push_str(&format!("{head:width$}{}{}\n", flag.help, flag.shown_default()));
        }
        text
    }
}

impl Flag {
    fn shown_default(&self) -> String {
        match (self.default, self.kind) {
            ("" | "0" | "0s" | "false", _) => String::new(),
            (text, Kind::Text) => format!(" (default {text:?})"),
            (text, Kind::List) => format!(" (default [{text}])"),
            (text, Kind::Bool | Kind::Int | Kind::Uint | Kind::Uint32 | Kind::Duration) => {
                format!(" (default {text})")
            }
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::List => "strings",
            Self::Bool => "",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Uint32 => "uint32",
            Self::Duration => "duration",
        }
    }
}

/// The first word that is neither a flag nor may be one's value: cobra takes the word after `--x` for a value, known or not.
fn subcommand(args: &[String]) -> Option<&str> {
    let mut rest = args.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--" => return None,
            "--help" | "-h" => {}
            flag if flag.starts_with("--") && !flag.contains('=') => {
                rest.next();
            }
            flag if flag.starts_with('-') => {}
            word => return Some(word),
        }
    }
    None
}

/// Reads a value, or says in Go's words why it cannot.
fn read(kind: Kind, text: &str) -> Result<Value, String> {
    let number = |function: &str, min: i128, max: i128| {
        let complaint = |what: &str| format!("strconv.{function}: parsing {text:?}: {what}");
        match go::integer(text) {
            Some(number) if number >= min && number <= max => {
                i64::try_from(number).map_err(|_| complaint("value out of range"))
            }
            Some(number) if min == 0 && number < 0 => Err(complaint("invalid syntax")),
            Some(_) => Err(complaint("value out of range")),
            None => Err(complaint("invalid syntax")),
        }
    };
    let i64_max = i128::from(i64::MAX);
    Ok(match kind {
        Kind::Text => Value::Text(text.to_owned()),
        Kind::List if text.is_empty() => Value::List(Vec::new()),
        Kind::List => Value::List(text.split(',').map(str::to_owned).collect()),
        Kind::Bool if text.is_empty() => Value::Bool(false),
        Kind::Bool => Value::Bool(
            go::boolean(text)
                .ok_or_else(|| format!("strconv.ParseBool: parsing {text:?}: invalid syntax"))?,
        ),
        Kind::Int => Value::Number(number("ParseInt", i128::from(i64::MIN), i64_max)?),
        Kind::Uint => Value::Number(number("ParseUint", 0, i64_max)?),
        Kind::Uint32 => Value::Number(number("ParseUint", 0, i128::from(u32::MAX))?),
        Kind::Duration => Value::Duration(
            go::duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?,
        ),
    })
}

/// The values of all flags of a command. Asking for one under another kind than its own gives the kind's zero.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Values(BTreeMap<&'static str, Value>);

impl Values {
    pub(crate) fn text(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::List(_) | Value::Bool(_) | Value::Number(_) | Value::Duration(_))
            | None => String::new(),
        }
    }

    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::List(list)) => list.clone(),
            Some(Value::Text(_) | Value::Bool(_) | Value::Number(_) | Value::Duration(_))
            | None => Vec::new(),
        }
    }

    pub(crate) fn boolean(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Value::Bool(true)))
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        match self.0.get(name) {
            Some(Value::Number(number)) => *number,
            Some(Value::Text(_) | Value::List(_) | Value::Bool(_) | Value::Duration(_)) | None => 0,
        }
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        match self.0.get(name) {
            Some(Value::Duration(duration)) => *duration,
            Some(Value::Text(_) | Value::List(_) | Value::Bool(_) | Value::Number(_)) | None => {
                Duration::ZERO
            }
        }
    }
}

pub(crate) fn say_stdout(text: &str) {
    // A closed pipe is the reader's wish.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

pub(crate) fn say_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: Command = Command {
        name: "thing",
        subject: "thing",
        flags: &[
            Flag { name: "debug", kind: Kind::Bool, default: "", help: "say more" },
            Flag { name: "endpoints", kind: Kind::List, default: "a:1", help: "where" },
            Flag { name: "max", kind: Kind::Uint32, default: "7", help: "how many" },
            Flag { name: "wait", kind: Kind::Duration, default: "1m0s", help: "how long" },
        ],
    };

    fn read(line: &str) -> Result<Values, Stop> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        COMMAND.read(&args)
    }

    fn error_of(line: &str) -> String {
        match read(line) {
            Err(Stop::Usage { error, .. }) => error,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn forms_of_flags() {
        for line in [
            "start --endpoints b:1,c:1 --debug --max=9 --wait 2s",
            "--endpoints=b:1 start --endpoints c:1 --debug=true --max 3 --max 0x9 --wait=2s word",
        ] {
            let values = read(line).unwrap();
            assert_eq!(values.list("endpoints"), ["b:1", "c:1"], "{line}");
            assert!(values.boolean("debug"), "{line}");
            assert_eq!(values.number("max"), 9, "{line}");
            assert_eq!(values.duration("wait"), Duration::from_secs(2), "{line}");
        }
        let defaults = read("start").unwrap();
        assert_eq!(defaults.list("endpoints"), ["a:1"]);
        assert_eq!((defaults.number("max"), defaults.boolean("debug")), (7, false));
        assert_eq!(defaults.duration("wait"), Duration::from_secs(60));
    }

    #[test]
    fn wrong_ones_are_told_as_cobra_does() {
        for (line, error) in [
            ("start --bad", "unknown flag: --bad"),
            ("start -x", "unknown shorthand flag: 'x' in -x"),
            ("start --max", "flag needs an argument: --max"),
            (
                "start --wait=x",
                "invalid argument \"x\" for \"--wait\" flag: time: invalid duration \"x\"",
            ),
            (
                "start --max=-1",
                "invalid argument \"-1\" for \"--max\" flag: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                "start --debug=x",
                "invalid argument \"x\" for \"--debug\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(error_of(line), error, "{line}");
        }
    }

    #[test]
    fn help_is_given_where_it_is_wanted_or_needed() {
        for line in ["", "bad", "--help", "--debug start"] {
            let Err(Stop::Help(text)) = read(line) else { panic!("{line}") };
            assert!(text.starts_with("thing related command\n\nUsage:\n"), "{line}: {text}");
        }
        for line in ["start -h", "start --help", "start --bad=1 -h"] {
            match read(line) {
                Err(Stop::Help(text)) => {
                    let expected = "start the thing\n\nUsage:\n  etcd thing start [flags]\n\nFlags:\n\
                        \x20     --debug               say more\n\
                        \x20     --endpoints strings   where (default [a:1])\n\
                        \x20 -h, --help                help for start\n\
                        \x20     --max uint32          how many (default 7)\n\
                        \x20     --wait duration       how long (default 1m0s)\n";
                    assert_eq!(text, expected);
                }
                Err(Stop::Usage { error, .. }) => assert_eq!(error, "unknown flag: --bad"),
                Ok(values) => panic!("{line}: {values:?}"),
            }
        }
    }
}
