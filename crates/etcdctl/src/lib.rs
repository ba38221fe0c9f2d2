//! `etcdctl`: etcd's command line client, with etcd 3.5's flags, outputs and exit codes.
//!
//! One way through: [`spec`] says what commands and flags exist; [`command_line`] finds the command and parses its flags; [`globals`] adds
//! the environment and makes the client; a module of `commands` makes the calls; [`output`] renders the answer in the format asked for.
//!
//! The reference is etcd 3.5.30 as Debian builds it (box-drawing tables). Where it would crash on its input, this program prints an error.
//!
//! Upstream: etcdctl/ctlv3 (3.5).

pub mod command_line;
mod commands;
mod exit;
pub mod globals;
pub mod go;
pub mod help;
mod log;
pub mod output;
pub mod spec;
mod terminal;

pub use commands::txn::{argify, parse_compare};
pub use exit::{Exit, Failure};

use std::ffi::OsString;

/// Runs one invocation and returns the exit code of the process.
pub fn run(arguments: Vec<OsString>) -> i32 {
    let asked_for = std::env::var_os("ETCDCTL_API").unwrap_or_default();
    let outcome = check_api_version(&asked_for.to_string_lossy()).and_then(|()| {
        let root = spec::root();
        let invocation = match command_line::parse(&root, &arguments) {
            Ok(invocation) => invocation,
            Err(refusal) => return Err(refusal.report()),
        };
        commands::dispatch(&invocation)
    });
    match outcome {
        Ok(()) => Exit::Success.code(),
        Err(failure) => {
            failure.print();
            failure.exit.code()
        }
    }
}

/// What somebody is told who asks for the v2 API: its keys are apart from those of v3, so no command here would find them.
const NO_V2: &str = "the v2 API (ETCDCTL_API=2) is not implemented: unset ETCDCTL_API or set it to 3. Keys that were written through \
    v2 cannot be read here, and no server of this project serves them; to save them, run etcd 3.5 with --enable-v2 on their data \
    directory, read them with its etcdctl under ETCDCTL_API=2, and put what is still needed with ETCDCTL_API=3";

/// `ETCDCTL_API` chose between two programs in one until 3.5: 3 is this one.
fn check_api_version(asked_for: &str) -> Result<(), Failure> {
    match asked_for {
        "" | "3" => Ok(()),
        "2" => Err(Failure::error(NO_V2)),
        other => {
            terminal::error_line(&format!("unsupported API version: {other}"));
            Err(Failure::silent(Exit::Error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_v2_is_told_what_to_do() {
        for served in ["", "3"] {
            assert_eq!(check_api_version(served), Ok(()));
        }
        let refused = check_api_version("2").unwrap_err();
        assert_eq!(refused.exit.code(), 1);
        let text = refused.text.unwrap();
        for part in ["set it to 3", "cannot be read here", "--enable-v2", "ETCDCTL_API=3"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(check_api_version("4"), Err(Failure::silent(Exit::Error)));
    }
}
