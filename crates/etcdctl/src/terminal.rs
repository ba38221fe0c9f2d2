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

/// Asks for a password: on a terminal without echo, otherwise one line of standard input.
pub(crate) fn ask_password() -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    out(b"Password: ");
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
        Ok(0) => Err(Failure::error("EOF")),
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(Failure::error(error)),
    }
}
