//! From arguments to a command with its flags, by the grammar of etcd's tools.
//!
//! First the command is found: its words stand among the flags in any place, and the start of a word is enough if it is unambiguous. Then
//! clap parses the rest with the flags of that command and the global ones. Its errors are reworded into etcd's, which scripts and people
//! know.
//!
//! Upstream: spf13/cobra and spf13/pflag as etcdctl 3.5 sets them up.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use crate::exit::{Exit, Failure};
use crate::go;
use crate::help;
use crate::spec::{Command, Flag, GLOBAL, HELP, Kind};
use crate::terminal;

/// Id of the positional arguments.
const ARGUMENTS: &str = "ARGUMENTS";

/// Words that are this close to a command are taken for a typing error of it.
const SUGGESTION_DISTANCE_MAX: usize = 2;

/// A command to run.
#[derive(Debug)]
pub struct Invocation<'s> {
    /// The commands from the root to this one.
    pub path: Vec<&'s Command>,
    /// Its flags.
    pub flags: Flags,
    /// What is neither a word of the command nor a flag.
    pub arguments: Vec<Vec<u8>>,
    /// What follows the first `--`, if there is one: also part of `arguments`.
    pub after_dashes: Option<Vec<Vec<u8>>>,
}

/// Values of flags.
#[derive(Clone, Debug)]
pub struct Flags {
    matches: ArgMatches,
}

impl Flags {
    /// A switch.
    pub fn bool(&self, name: &str) -> bool {
        self.matches.get_one(name).copied().unwrap_or(false)
    }

    /// A number.
    pub fn int(&self, name: &str) -> i64 {
        self.matches.get_one(name).copied().unwrap_or(0)
    }

    /// A text; bytes that are no UTF-8 are replaced.
    pub fn text(&self, name: &str) -> String {
        self.matches
            .get_one::<OsString>(name)
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Duration {
        self.matches.get_one(name).copied().unwrap_or_default()
    }

    /// A list; the default is replaced, not added to. Empty texts count as no element.
    pub fn list(&self, name: &str) -> Vec<String> {
        let values = self.matches.get_many::<OsString>(name).into_iter().flatten();
        let texts: Vec<String> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        texts
            .iter()
            .filter(|text| !text.is_empty())
            .flat_map(|text| text.split(','))
            .map(str::to_owned)
            .collect()
    }

    /// Whether the flag was on the command line.
    pub fn is_given(&self, name: &str) -> bool {
        self.matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
    }
}

/// Arguments that name no command or do not fit it.
#[derive(Debug)]
pub enum Refusal {
    /// No such command; similar ones.
    UnknownCommand {
        /// The word.
        word: String,
        /// Commands it may have been meant for.
        similar: Vec<&'static str>,
    },
    /// A wrong flag, and the help of the command.
    WrongFlag {
        /// In etcd's words.
        text: String,
        /// Help of the command it was given to.
        help: String,
    },
}

impl Refusal {
    /// Shows the refusal as etcdctl does: its library reports it, then the program does once more.
    pub(crate) fn report(self) -> Failure {
        let text = match self {
            Self::UnknownCommand { word, similar } => {
                let mut text =
                    format!("unknown command {} for \"etcdctl\"", go::quote(word.as_bytes()));
                if !similar.is_empty() {
                    text.push_str(&format!("\n\nDid you mean this?\n\t{}\n", similar.join("\n\t")));
                }
                terminal::error_line(&format!("Error: {text}\nRun 'etcdctl --help' for usage."));
                text
            }
            Self::WrongFlag { text, help } => {
                terminal::error_line(&format!("Error: {text}\n"));
                terminal::out(help.as_bytes());
                text
            }
        };
        Failure::new(Exit::Error, text)
    }
}

/// Finds the command and parses its flags.
pub fn parse<'s>(root: &'s Command, arguments: &[OsString]) -> Result<Invocation<'s>, Refusal> {
    let mut path = vec![root];
    let mut rest: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    while let Some(current) = path.last().copied() {
        let Some(place) = first_word(&rest, current) else { break };
        let word = rest.get(place).map(|word| word.to_string_lossy()).unwrap_or_default();
        let Some(child) = child(current, &word) else {
            if path.len() == 1 {
                return Err(Refusal::UnknownCommand {
                    similar: similar(root, &word),
                    word: word.into_owned(),
                });
            }
            break;
        };
        rest.remove(place);
        path.push(child);
    }
    let command = path.last().copied().unwrap_or(root);
    let parsed = parse_flags(command, &rest);
    let matches = parsed.map_err(|error| Refusal::WrongFlag {
        text: reword(&error, command, &rest),
        help: help::help(&path),
    })?;
    Ok(Invocation {
        path,
        arguments: positional(&matches),
        after_dashes: after_dashes(&rest),
        flags: Flags { matches },
    })
}

/// Parses a line of a transaction or an interactive watch with some command's own flags.
pub fn parse_line(
    flags: &'static [Flag],
    words: &[Vec<u8>],
) -> Result<(Flags, Vec<Vec<u8>>), String> {
    let command = Command {
        name: "",
        arguments: "",
        short: "",
        long: "",
        flags,
        commands: Vec::new(),
        action: crate::spec::Action::Group,
    };
    let words: Vec<OsString> = words.iter().map(|word| OsString::from_vec(word.clone())).collect();
    let mut program = program(&command);
    for flag in flags {
        program = program.arg(argument(flag));
    }
    let matches =
        program.try_get_matches_from(words).map_err(|error| reword(&error, &command, &[]))?;
    let arguments = positional(&matches);
    Ok((Flags { matches }, arguments))
}

/// The command below this one that the word names: in full, or by a start that no other has.
pub(crate) fn child<'s>(command: &'s Command, word: &str) -> Option<&'s Command> {
    if let Some(exact) = command.commands.iter().find(|child| child.name == word) {
        return Some(exact);
    }
    let mut starting = command.commands.iter().filter(|child| child.name.starts_with(word));
    starting.next().filter(|_| starting.next().is_none())
}

/// Where the first argument is that is no flag and no flag's value.
fn first_word(arguments: &[&OsStr], command: &Command) -> Option<usize> {
    let mut place = 0;
    while let Some(argument) = arguments.get(place) {
        let text = argument.to_string_lossy();
        if text == "--" {
            return None;
        }
        let takes_next = if let Some(name) = text.strip_prefix("--") {
            !text.contains('=') && !is_switch(command.flag(name), name == "help")
        } else if text.starts_with('-') {
            let short = text.chars().nth(1);
            let known = command.flags.iter().chain(GLOBAL).find(|flag| flag.short == short);
            text.chars().count() == 2 && !is_switch(known, short == Some('h'))
        } else if text.is_empty() {
            false
        } else {
            return Some(place);
        };
        place += 1 + usize::from(takes_next);
    }
    None
}

fn is_switch(flag: Option<&Flag>, is_help: bool) -> bool {
    is_help || flag.is_some_and(|flag| flag.kind == Kind::Bool)
}

fn similar(root: &Command, word: &str) -> Vec<&'static str> {
    let word = word.to_lowercase();
    root.commands
        .iter()
        .filter(|command| command.name != "help")
        .filter(|command| {
            distance(&word, command.name) <= SUGGESTION_DISTANCE_MAX
                || command.name.starts_with(&word)
        })
        .map(|command| command.name)
        .collect()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (cb, (above_left, above)) in b.iter().zip(row.iter().zip(row.iter().skip(1))) {
            let left = next.last().copied().unwrap_or(0);
            next.push((above_left + usize::from(ca != *cb)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn parse_flags(command: &Command, arguments: &[&OsStr]) -> Result<ArgMatches, clap::Error> {
    let mut program = program(command);
    for flag in command.flags.iter().chain(GLOBAL) {
        program = program.arg(argument(flag));
    }
    program.try_get_matches_from(arguments)
}

/// A clap command without any of clap's own flags or words.
fn program(command: &Command) -> clap::Command {
    clap::Command::new(command.name)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(argument(&HELP))
        .arg(
            Arg::new(ARGUMENTS)
                .num_args(0..)
                .action(ArgAction::Append)
                .value_parser(ValueParser::os_string()),
        )
}

fn argument(flag: &Flag) -> Arg {
    let mut argument = Arg::new(flag.name).long(flag.name);
    if let Some(short) = flag.short {
        argument = argument.short(short);
    }
    let takes_value = |argument: Arg| argument.num_args(1).allow_hyphen_values(true);
    match flag.kind {
        Kind::Bool => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value(flag.default)
            .value_parser(go::parse_bool),
        Kind::Int => takes_value(argument)
            .default_value(flag.default)
            .value_parser(|text: &str| go::parse_int(text, 0)),
        Kind::Duration => {
            takes_value(argument).default_value(flag.default).value_parser(go::parse_duration)
        }
        Kind::Text => {
            takes_value(argument).default_value(flag.default).value_parser(ValueParser::os_string())
        }
        // The default is shown in brackets, as a list.
        Kind::List => takes_value(argument)
            .action(ArgAction::Append)
            .default_value(flag.default.trim_matches(['[', ']']))
            .value_parser(ValueParser::os_string()),
    }
}

fn positional(matches: &ArgMatches) -> Vec<Vec<u8>> {
    let values = matches.get_many::<OsString>(ARGUMENTS).into_iter().flatten();
    values.map(|value| value.as_bytes().to_vec()).collect()
}

fn after_dashes(arguments: &[&OsStr]) -> Option<Vec<Vec<u8>>> {
    let dashes = arguments.iter().position(|argument| *argument == "--")?;
    Some(arguments.iter().skip(dashes + 1).map(|argument| argument.as_bytes().to_vec()).collect())
}

/// Says in etcd's words what clap found wrong.
fn reword(error: &clap::Error, command: &Command, arguments: &[&OsStr]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(_) | None => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    // clap shows the flag with its value's place: `--rev <rev>`.
    let word = argument.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    if error.kind() == ErrorKind::UnknownArgument {
        return match word.strip_prefix("--") {
            Some(name) if name.is_empty() || name.starts_with('-') => {
                let mut whole = arguments.iter().map(|argument| argument.to_string_lossy());
                let whole = whole
                    .find(|argument| argument.starts_with("---") || argument.starts_with("--="));
                format!("bad flag syntax: {}", whole.as_deref().unwrap_or(&word))
            }
            Some(_) => format!("unknown flag: {word}"),
            None => unknown_short(&word, arguments),
        };
    }
    let flag = word
        .strip_prefix("--")
        .and_then(|name| command.flag(name).or((name == "help").then_some(&HELP)));
    let value = context(ContextKind::InvalidValue);
    if error.kind() == ErrorKind::InvalidValue && value.is_empty() {
        // clap names the long form; etcd the one that was used, which is the last argument.
        let last = arguments.last().map(|last| last.to_string_lossy()).unwrap_or_default();
        return match last.strip_prefix('-').filter(|letters| !letters.starts_with('-')) {
            Some(letter) => format!("flag needs an argument: '{letter}' in -{letter}"),
            None => format!("flag needs an argument: {word}"),
        };
    }
    let name = match flag.and_then(|flag| flag.short) {
        Some(short) => format!("-{short}, {word}"),
        None => word,
    };
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("invalid argument {} for \"{name}\" flag: {reason}", go::quote(value.as_bytes()))
}

/// Letters may stand together: from the unknown one on, they are shown as they were given.
fn unknown_short(word: &str, arguments: &[&OsStr]) -> String {
    let letter = word.chars().nth(1).unwrap_or('-');
    let together = arguments.iter().map(|argument| argument.to_string_lossy());
    let mut letters =
        together.filter(|argument| argument.starts_with('-') && !argument.starts_with("--"));
    let shown = letters.find_map(|letters| {
        letters.find(letter).and_then(|place| letters.get(place..).map(str::to_owned))
    });
    format!(
        "unknown shorthand flag: '{letter}' in -{}",
        shown.unwrap_or_else(|| letter.to_string())
    )
}

#[cfg(test)]
mod tests;
