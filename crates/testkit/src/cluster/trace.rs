//! System calls of a running member that fail, by `strace`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process::{Process, bound_command};

/// The tool.
const STRACE: &str = "strace";

/// Whether the tool is there.
pub(crate) fn is_available() -> bool {
    let mut version = Command::new(STRACE);
    version.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// What follows a member; dropped, it lets go.
#[derive(Debug)]
pub(crate) struct Tracer(#[allow(dead_code, reason = "held to be dropped")] Process);

/// Lets the next sync of each thread of a process fail with an input/output error.
///
/// Returns before the tracer has taken hold of the process. What it saw goes to `log`.
pub(crate) fn fail_next_sync(pid: u32, log: &Path) -> Result<Tracer> {
    let mut command = bound_command(Path::new(STRACE));
    command
        .args(["-f", "-q", "-e", "trace=fsync,fdatasync"])
        .args(["-e", "inject=fsync,fdatasync:error=EIO:when=1"])
        .args(["-p", &pid.to_string()]);
    Ok(Tracer(Process::spawn(command, STRACE.to_owned(), log).context("trace a member")?))
}
