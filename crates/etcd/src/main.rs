//! `etcd`: one member of a cluster.
//!
//! This file turns the outcome of reading the command line into output and an exit code; the member itself is
//! [`server::Member`].

mod flags;
mod log;

use std::io::Write as _;
use std::process::ExitCode;

use flags::{Notice, Parsed, Stop};
use server::version;

/// Requests are many small allocations, freed on other threads than they were made on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of an error in what was asked for, or while running.
const FAILED: u8 = 1;
/// Exit code of a command line that does not parse.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let own_args = args.get(1..).unwrap_or_default();
    if let Some(program @ ("gateway" | "grpc-proxy")) = own_args.first().map(String::as_str) {
        say_stderr(&format!("Error: 'etcd {program}' is not there yet in retcd\n"));
        return ExitCode::from(FAILED);
    }
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match flags::read(own_args, &environment) {
        Ok(parsed) => run(&args, parsed),
        Err(Stop::Help) => {
            say_stderr(flags::USAGE);
            say_stdout(&flags::long_help());
            ExitCode::SUCCESS
        }
        Err(Stop::Version) => {
            say_stdout(&version::banner());
            ExitCode::SUCCESS
        }
        Err(Stop::Usage(why)) => {
            say_stderr(&format!("{why}\n{}", flags::USAGE));
            ExitCode::from(USAGE)
        }
        Err(Stop::Refused(why)) => {
            log::install("info", log::Output::Stderr);
            tracing::info!(args = ?args, "Running: ");
            tracing::warn!(error = why, "failed to verify flags");
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &[String], parsed: Parsed) -> ExitCode {
    log::install(&parsed.log_level, parsed.log_output);
    for notice in &parsed.notices {
        report(notice);
    }
    tracing::info!(args = ?args, "Running: ");
    match serve(parsed.config) {
        Ok(None) => ExitCode::SUCCESS,
        // The caller of a process that was stopped by a signal sees that signal, as with etcd.
        Ok(Some(signal)) => server::signal::die_by(signal),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "etcd stopped");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs the member until a signal or an error stops it; returns the signal.
fn serve(config: server::Config) -> anyhow::Result<Option<server::signal::Stop>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("rpc").build()?;
    runtime.block_on(async {
        let member = server::Member::start(config).await?;
        let signal = member.run_until_stopped().await?;
        Ok(signal)
    })
}

fn report(notice: &Notice) {
    match notice {
        Notice::EnvironmentUsed { name, value } => {
            tracing::info!(
                variable_name = name,
                variable_value = value,
                "recognized and used environment variable"
            );
        }
        Notice::EnvironmentUnknown { assignment } => {
            tracing::warn!(environment_variable = assignment, "unrecognized environment variable");
        }
        Notice::DataDirDefault { path } => {
            tracing::warn!(data_dir = path, "'data-dir' was empty; using default");
        }
        Notice::Warning(text) => tracing::warn!("{text}"),
    }
}

fn say_stdout(text: &str) {
    // A closed pipe is the reader's wish.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn say_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
