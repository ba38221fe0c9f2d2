//! `watch`: one watch from the arguments, or many from lines of standard input.
//!
//! Upstream: etcdctl/ctlv3/command/watch_command.go (3.5).

use std::io::BufRead;
use std::process::Stdio;

use bytes::Bytes;
use client::{Client, Watch, Watcher};
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::mvccpb::Event;
use tokio::sync::mpsc;

use super::{Outcome, run, show, text, txn};
use crate::command_line::{Flags, Invocation, parse_line};
use crate::exit::{Exit, Failure};
use crate::globals::{WATCH_KEY, WATCH_RANGE_END};
use crate::go;
use crate::output::{Answer, Style, event_type};
use crate::spec;
use crate::terminal;

const BAD_NUMBER: &str = "bad number of arguments";
const NO_COMMANDS: &str = "bad number of arguments (found separator --, but no commands)";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const RANGE_AND_PREFIX: &str = "`range_end` and `--prefix` are mutually exclusive";

pub(super) fn watch(invocation: &Invocation<'_>) -> Outcome {
    let environment = Environment::read()?;
    if invocation.flags.bool("interactive") {
        return run(invocation, async |globals| {
            interactive(globals.patient_client().await?, globals.style, &environment).await
        });
    }
    let Words { range, command } =
        words(&invocation.arguments, invocation.after_dashes.clone(), &environment)?;
    if range.is_empty() {
        return Err(Failure::arguments(BAD_NUMBER));
    }
    run(invocation, async |globals| {
        let request = request(&invocation.flags, &range).map_err(Failure::arguments)?;
        let client = globals.patient_client().await?.require_leader();
        let watch = client.watch(request).await.map_err(Failure::error)?;
        follow(watch, globals.style, &command).await?;
        Err(Failure::new(Exit::Interrupted, "watch is canceled by the server"))
    })
}

/// Key and range end from the environment, which replace the arguments.
struct Environment {
    range: Vec<Vec<u8>>,
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        use std::os::unix::ffi::OsStringExt;
        let get = |name| {
            std::env::var_os(name)
                .map(OsStringExt::into_vec)
                .filter(|value: &Vec<u8>| !value.is_empty())
        };
        match (get(WATCH_KEY), get(WATCH_RANGE_END)) {
            (None, None) => Ok(Self { range: Vec::new() }),
            (None, Some(end)) => Err(Failure::arguments(format!(
                "{WATCH_KEY} is empty but got {WATCH_RANGE_END}={}",
                go::quote(&end)
            ))),
            (Some(key), end) => Ok(Self { range: [key].into_iter().chain(end).collect() }),
        }
    }
}

/// What to watch, and what to run for each event.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    range: Vec<Vec<u8>>,
    command: Vec<Vec<u8>>,
}

/// Divides the arguments at `--`. `arguments` are all of them, `after_dashes` those that follow it.
fn words(
    arguments: &[Vec<u8>],
    after_dashes: Option<Vec<Vec<u8>>>,
    environment: &Environment,
) -> Result<Words, Failure> {
    if after_dashes.as_ref().is_some_and(Vec::is_empty) {
        return Err(Failure::arguments(NO_COMMANDS));
    }
    let command = after_dashes.unwrap_or_default();
    let own = arguments.len().saturating_sub(command.len());
    let own = arguments.get(..own).unwrap_or_default();
    let range = match (own.is_empty(), environment.range.is_empty()) {
        // Fatal or not, that depends on where the words came from.
        (true, true) => Vec::new(),
        (false, false) => return Err(Failure::arguments(CONFLICT)),
        (true, false) => environment.range.clone(),
        (false, true) => own.to_vec(),
    };
    Ok(Words { range, command })
}

/// The request for a key or a range. With three words and more, only the first counts.
fn request(flags: &Flags, range: &[Vec<u8>]) -> Result<WatchCreateRequest, &'static str> {
    let key = range.first().map(|key| Bytes::copy_from_slice(key)).ok_or(BAD_NUMBER)?;
    let (key, range_end) = match (range, flags.bool("prefix")) {
        ([_, _], true) => return Err(RANGE_AND_PREFIX),
        ([_, end], false) => (key, Bytes::copy_from_slice(end)),
        (_, true) => client::range_of_prefix(key),
        (_, false) => (key, Bytes::new()),
    };
    Ok(WatchCreateRequest {
        key,
        range_end,
        start_revision: flags.int("rev"),
        progress_notify: flags.bool("progress-notify"),
        prev_kv: flags.bool("prev-kv"),
        ..WatchCreateRequest::default()
    })
}

/// Reads watch requests line by line; all watches share a stream. Ends with the input, as a failure.
async fn interactive(client: Client, style: Style, environment: &Environment) -> Outcome {
    let watcher = client.require_leader().watcher();
    let mut lines = input_lines();
    let mut follows = tokio::task::JoinSet::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(Ok(Err(failure))) = follows.join_next() => return Err(failure),
        };
        let Some(line) = line else {
            return Err(Failure::new(Exit::InvalidInput, "error reading watch request line: EOF"));
        };
        let shown = text(&line);
        let words = txn::argify(&line)?;
        match words.first().map(Vec::as_slice) {
            None => terminal::error_line(&format!(
                "Invalid command: {shown} (watch and progress supported)"
            )),
            Some(b"watch") if words.len() < 2 && environment.range.is_empty() => {
                terminal::error_line(&format!(
                    "Invalid command {shown} (command type or key is not provided)"
                ))
            }
            Some(b"watch") => {
                match start(&watcher, words.get(1..).unwrap_or_default(), environment).await? {
                    Ok((watch, command)) => {
                        follows.spawn(async move { follow(watch, style, &command).await });
                    }
                    Err(reason) => {
                        terminal::error_line(&format!("Invalid command {shown} ({reason})"))
                    }
                }
            }
            Some(b"progress") => watcher.request_progress().await.map_err(Failure::error)?,
            Some(_) => {
                terminal::error_line(&format!("Invalid command {shown} (only support watch)"))
            }
        }
    }
}

/// What to follow, and the command for its events.
type Started = (Watch, Vec<Vec<u8>>);

/// Starts the watch of one line. Wrong words end the program, a wrong range only this line.
async fn start(
    watcher: &Watcher,
    line: &[Vec<u8>],
    environment: &Environment,
) -> Result<Result<Started, &'static str>, Failure> {
    let (flags, arguments) = parse_line(spec::WATCH, line).map_err(Failure::arguments)?;
    let dashes = line.iter().position(|word| word == b"--");
    let after_dashes = dashes.map(|place| line.get(place + 1..).unwrap_or_default().to_vec());
    let Words { range, command } = words(&arguments, after_dashes, environment)?;
    match request(&flags, &range) {
        Ok(request) => Ok(Ok((watcher.watch(request).await.map_err(Failure::error)?, command))),
        Err(reason) => Ok(Err(reason)),
    }
}

/// Lines of standard input, read in a thread of their own since reading a terminal cannot be interrupted.
fn input_lines() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.read_until(b'\n', &mut line) {
                // A last line without its end does not count.
                Ok(_) if line.last() == Some(&b'\n') => line.pop(),
                Ok(_) | Err(_) => return,
            };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Prints a watch until it ends.
async fn follow(mut watch: Watch, style: Style, command: &[Vec<u8>]) -> Outcome {
    while let Some(response) = watch.next().await {
        let (response, end) = match response {
            Ok(response) if response.created && response.canceled => {
                let reason = response.cancel_reason;
                (WatchResponse { canceled: true, ..WatchResponse::default() }, Some(reason))
            }
            Ok(response) if response.created => continue,
            Ok(response) => {
                let end = response.canceled.then(|| cancel_reason(&response));
                (response, end)
            }
            Err(error) => (
                WatchResponse { canceled: true, ..WatchResponse::default() },
                Some(error.to_string()),
            ),
        };
        if let Some(reason) = &end {
            terminal::error_line(&format!("watch was canceled ({reason})"));
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.events.is_empty() && !response.canceled && revision != 0 {
            terminal::out_line(&format!("progress notify: {revision}"));
        }
        show(Answer::Watch(&response), style)?;
        for event in &response.events {
            run_command(command, revision, event).await?;
        }
        if end.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// Why the server ended a watch that it had confirmed.
fn cancel_reason(response: &WatchResponse) -> String {
    use rpc::errors::Error as Etcd;
    if response.compact_revision != 0 {
        return Etcd::Compacted.message().to_owned();
    }
    if response.cancel_reason.is_empty() {
        return Etcd::FutureRev.message().to_owned();
    }
    // The code that etcd's client gives a reason that comes as a text.
    client::Error::rpc(client::Code::FailedPrecondition, response.cancel_reason.clone()).to_string()
}

/// Runs the command for one event, with the event in its environment, and waits for it.
async fn run_command(command: &[Vec<u8>], revision: i64, event: &Event) -> Outcome {
    use std::os::unix::ffi::OsStringExt;
    let words: Vec<std::ffi::OsString> =
        command.iter().cloned().map(OsStringExt::from_vec).collect();
    let [program, arguments @ ..] = words.as_slice() else { return Ok(()) };
    let kv = event.kv.clone().unwrap_or_default();
    let outcome = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(event_type(event).as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", go::quote(&kv.value))
        .status()
        .await;
    let reason = match outcome {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status_text(status),
        Err(error) => {
            spawn_error(&text(command.first().map(Vec::as_slice).unwrap_or_default()), &error)
        }
    };
    let quoted: Vec<String> = command.iter().map(|word| go::quote(word)).collect();
    terminal::error_line(&format!("command [{}] error ({reason})", quoted.join(" ")));
    Err(Failure::silent(Exit::Error))
}

/// How a command that failed has ended, in Go's words.
pub(super) fn status_text(status: std::process::ExitStatus) -> String {
    match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", signal_name(signal.unwrap_or_default())),
    }
}

/// Names of the signals that end programs, as Go has them.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        6 => "aborted",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Go looks a bare name up in PATH first and words that failure differently.
pub(super) fn spawn_error(program: &str, error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound && !program.contains('/') {
        return format!(
            "exec: {}: executable file not found in $PATH",
            go::quote(program.as_bytes())
        );
    }
    format!("fork/exec {program}: {}", super::io_text(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Vec<u8>> {
        text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    fn check(
        arguments: &str,
        after: Option<&str>,
        environment: &str,
        expected: Result<(&str, &str), &str>,
    ) {
        let environment = Environment { range: list(environment) };
        let outcome = words(&list(arguments), after.map(list), &environment);
        let expected = expected
            .map(|(range, command)| Words { range: list(range), command: list(command) })
            .map_err(Failure::arguments);
        assert_eq!(outcome, expected, "{arguments}");
    }

    #[test]
    fn arguments_are_divided_at_the_dashes() {
        check("foo", None, "", Ok(("foo", "")));
        check("foo bar", None, "", Ok(("foo bar", "")));
        check("foo sh -c env", Some("sh -c env"), "", Ok(("foo", "sh -c env")));
        check("echo", Some("echo"), "k1 k9", Ok(("k1 k9", "echo")));
        check("", None, "k1", Ok(("k1", "")));
        check("", None, "", Ok(("", "")));
        check("echo", Some("echo"), "", Ok(("", "echo")));
        check("foo", Some(""), "", Err(NO_COMMANDS));
        check("foo", None, "k1", Err(CONFLICT));
    }
}
