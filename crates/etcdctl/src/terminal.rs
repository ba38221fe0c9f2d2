//! Standard streams: the only place that writes to them.

use std::io::{Read, Write};

use crate::exit::{Exit, Failure};

/// Writes to standard output. A reader that went away ends the process quietly, as SIGPIPE would.
pub(crate) fn out(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(Exit::Error.code());
    }
}

pub(crate) fn out_line(line: &str) {
    out(format!("{line}\n").as_bytes());
}

/// Writes to standard error; there is nowhere to report that this failed.
pub(crate) fn err(bytes: &[u8]) {
    let _ = std::io::stderr().lock().write_all(bytes);
}

pub(crate) fn error_line(line: &str) {
    err(format!("{line}\n").as_bytes());
}

/// All that is left on standard input; `None` if that is nothing or cannot be read.
pub(crate) fn rest_of_input() -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match std::io::stdin().lock().read_to_end(&mut bytes) {
        Ok(count) if count > 0 => Some(bytes),
        Ok(_) | Err(_) => None,
    }
}

/// Asks for the password of `--user`: on a terminal without echo, otherwise one line of standard input.
pub(crate) fn ask_password() -> Result<String, Failure> {
    ask("Password: ").map_err(Failure::error)
}

/// A word of standard input; empty if there is none.
pub(crate) fn word_of_input() -> String {
    let mut line = String::new();
    // What cannot be read is no word.
    let _ = std::io::stdin().read_line(&mut line);
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Asks for something that is not to be seen, and returns it or why it could not be read.
pub(crate) fn ask(prompt: &str) -> Result<String, String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    out(prompt.as_bytes());
    let stdin = std::io::stdin();
    let shown = tcgetattr(&stdin).ok();
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // A terminal that cannot hide its echo still serves.
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
    }
    let mut line = String::new();
    let outcome = stdin.read_line(&mut line);
    if let Some(shown) = &shown {
        let _ = tcsetattr(&stdin, OptionalActions::Flush, shown);
    }
    out(b"\n");
    match outcome {
        Ok(0) => Err("EOF".to_owned()),
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
