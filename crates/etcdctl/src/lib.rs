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
    let outcome = check_api_version().and_then(|()| {
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

/// `ETCDCTL_API` chose between two programs in one until 3.5: 3 is this one.
fn check_api_version() -> Result<(), Failure> {
    match std::env::var("ETCDCTL_API").as_deref() {
        Err(_) | Ok("" | "3") => Ok(()),
        Ok("2") => Err(Failure::error("the v2 API (ETCDCTL_API=2) is not implemented")),
        Ok(other) => {
            terminal::error_line(&format!("unsupported API version: {other}"));
            Err(Failure::silent(Exit::Error))
        }
    }
}
