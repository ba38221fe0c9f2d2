//! `etcd`: one member of a cluster.
//!
//! This file turns the outcome of reading the command line into output and an exit code; the member itself is
//! [`server::Member`]. `etcd gateway` and `etcd grpc-proxy` are programs of their own, with another grammar.

use std::io::Write as _;
use std::process::ExitCode;

use etcd_program::discovery::Discovery;
use etcd_program::flags::{self, Notice, Parsed, Stop};
use etcd_program::{descriptors, discovery, gateway, grpc_proxy, log, memory};
use server::version;

/// Requests are many small allocations, freed on other threads than they were made on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of an error in what was asked for, or while running.
const FAILED: u8 = 1;
/// Exit code of a command line that does not parse.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    memory::use_small_pages();
    descriptors::raise_limit();
    // Without, they have their usual effects.
    let _ = server::signal::take_others();
    let args: Vec<String> = std::env::args().collect();
    let own_args = args.get(1..).unwrap_or_default();
    match own_args.first().map(String::as_str) {
        Some("gateway") => return gateway::run(&args),
        Some("grpc-proxy") => return grpc_proxy::run(&args),
        Some(_) | None => {}
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
            // Who asks wants to know what a new cluster would be.
            let chosen = environment.iter().find(|(name, _)| name == "ETCD_EMULATED_VERSION");
            let chosen = chosen.and_then(|(_, text)| version::parse_emulated(text).ok());
            say_stdout(&version::banner(chosen.unwrap_or(version::NEW_CLUSTER)));
            ExitCode::SUCCESS
        }
        Err(Stop::Usage(why)) => {
            say_stderr(&format!("{why}\n{}", flags::USAGE));
            ExitCode::from(USAGE)
        }
        Err(Stop::Printed(why)) => {
            say_stderr(&format!("{why}\n"));
            ExitCode::from(FAILED)
        }
        Err(Stop::Shadowed { variable }) => {
            install(&log::Settings::default());
            tracing::error!(
                zap_level = "fatal",
                environment_variable = variable,
                "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment \
                 variable or disable flag))"
            );
            ExitCode::from(FAILED)
        }
        Err(stop @ Stop::Refused { .. }) => refuse(&args, &stop),
    }
}

/// Says why nothing is started, as etcd does.
fn refuse(args: &[String], stop: &Stop) -> ExitCode {
    let Stop::Refused { notices, why } = stop else { return ExitCode::from(FAILED) };
    install(&log::Settings::default());
    notices.iter().filter(|notice| !is_late(notice)).for_each(report);
    log_arguments(args);
    tracing::warn!(error = why, "failed to verify flags");
    if stop.is_about_missing_client_urls() {
        tracing::warn!(error = why, "advertise client URLs are not set");
    }
    ExitCode::from(FAILED)
}

fn run(args: &[String], mut parsed: Parsed) -> ExitCode {
    parsed.config.command_line = without_secrets(args);
    if let Err(why) = log::install(&parsed.log) {
        install(&log::Settings::default());
        log_arguments(args);
        tracing::warn!(error = why, "failed to verify flags");
        return ExitCode::from(FAILED);
    }
    parsed.notices.iter().filter(|notice| !is_late(notice)).for_each(report);
    log_arguments(args);
    parsed.notices.iter().filter(|notice| is_late(notice)).for_each(report);
    match serve(parsed) {
        Ok(None) => ExitCode::SUCCESS,
        // The caller of a process that was stopped by a signal sees that signal, as with etcd.
        Ok(Some(signal)) => server::signal::die_by(signal),
        Err(End::Start(error)) => {
            let error = with_causes(&error);
            tracing::warn!(error, "failed to start etcd");
            // etcd's words, whatever it was.
            tracing::error!(zap_level = "fatal", error, "discovery failed");
            ExitCode::from(FAILED)
        }
        Err(End::Told) => ExitCode::from(FAILED),
        Err(End::Run(error)) => {
            tracing::error!(zap_level = "fatal", error = with_causes(&error), "etcd stopped");
            ExitCode::from(FAILED)
        }
    }
}

/// Why the process ends without being asked to.
enum End {
    /// The member did not start.
    Start(anyhow::Error),
    /// It did not start, and the log says why.
    Told,
    /// It stopped.
    Run(anyhow::Error),
}

/// The error and what it came of, each once: some say in their own words what they came of.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Runs the member until a signal or an error stops it; returns the signal.
fn serve(parsed: Parsed) -> Result<Option<server::signal::Stop>, End> {
    let Parsed { mut config, discovery, memory_mlock, .. } = parsed;
    if memory_mlock {
        memory::lock().map_err(|error| {
            End::Start(anyhow::Error::new(error).context("--memory-mlock: lock memory"))
        })?;
    }
    look_at_data_dir(&config.data_dir).map_err(End::Start)?;
    let is_new = !config.has_log();
    if !is_new && matches!(discovery, Some(Discovery::Registry(_) | Discovery::Keys(_))) {
        tracing::warn!(
            wal_dir = %config.wal_path().display(),
            "discovery token is ignored since cluster already initialized; valid logs are found"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("rpc")
        .build()
        .map_err(|error| End::Start(error.into()))?;
    runtime.block_on(async {
        if is_new && discovery.is_none() {
            // It may wait for names to become known. On a thread that the end of the process does not wait for.
            let own = config.clone();
            let (sender, checking) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                // Nobody waits for it any more if that fails.
                let _ = sender.send(own.check_initial_cluster());
            });
            tokio::select! {
                checked = checking => {
                    let checked = checked.map_err(|error| End::Start(error.into()))?;
                    checked.map_err(|why| End::Start(anyhow::anyhow!(why)))?;
                }
                signal = server::signal::next() => {
                    return signal.map(Some).map_err(|error| End::Start(error.into()));
                }
            }
        }
        if let Some(discovery) = discovery.filter(|_| is_new) {
            tokio::select! {
                found = discovery::find(&discovery, &mut config) => {
                    found.map_err(|error| match discovery::explain(&error, &discovery, &config) {
                        true => End::Told,
                        false => End::Start(error.into()),
                    })?;
                }
                signal = server::signal::next() => {
                    return signal.map(Some).map_err(|error| End::Start(error.into()));
                }
            }
        }
        let member =
            server::Member::start(config).await.map_err(|error| End::Start(error.into()))?;
        member.run_until_stopped().await.map_err(|error| End::Run(error.into()))
    })
}

/// Tells what lies in the data directory and is not ours. The proxy of v2 had a directory there, which makes it no member's.
fn look_at_data_dir(data_dir: &std::path::Path) -> anyhow::Result<()> {
    // One that is not there, or cannot be read, is the start's business.
    let Ok(entries) = std::fs::read_dir(data_dir) else { return Ok(()) };
    warn_of_permissions(data_dir);
    let data_dir = data_dir.display().to_string();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            "member" => {
                tracing::info!(
                    data_dir,
                    dir_type = "member",
                    "server has already been initialized"
                );
            }
            // Certificates that were generated.
            "fixtures" => {}
            "proxy" => anyhow::bail!("invalid datadir; it holds the directory of a v2 proxy"),
            _ => {
                tracing::warn!(filename = name, data_dir, "found invalid file under data directory")
            }
        }
    }
    Ok(())
}

/// A directory that others may look into is served all the same, as etcd does.
fn warn_of_permissions(data_dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    const PRIVATE: u32 = 0o700;
    let Ok(found) = std::fs::metadata(data_dir) else { return };
    let mode = found.permissions().mode() & 0o777;
    if mode != PRIVATE {
        let error = format!(
            "directory {:?} exist, but the permission is \"{mode:o}\". The recommended permission is \"{PRIVATE:o}\" to prevent \
             possible unprivileged access to the data",
            data_dir.display().to_string()
        );
        tracing::warn!(error, "check file permission");
    }
}

fn install(settings: &log::Settings) {
    // To stderr this cannot fail.
    let _ = log::install(settings);
}

fn log_arguments(args: &[String]) {
    tracing::info!(args = ?without_secrets(args), "Running: ");
}

/// The command line as it may be shown.
fn without_secrets(args: &[String]) -> Vec<String> {
    let mut is_secret = false;
    args.iter()
        .map(|arg| {
            let was_secret = std::mem::take(&mut is_secret);
            let bare = arg.trim_start_matches('-');
            match bare.split_once('=') {
                _ if was_secret => "***".to_owned(),
                Some((name @ ("discovery-password" | "discovery-user"), _)) => {
                    format!("--{name}=***")
                }
                _ => {
                    is_secret = arg.starts_with('-')
                        && matches!(bare, "discovery-password" | "discovery-user");
                    log::without_passwords(arg)
                }
            }
        })
        .collect()
}

/// What etcd tells after the command line.
fn is_late(notice: &Notice) -> bool {
    matches!(notice, Notice::DataDirDefault { .. })
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
        Notice::EnvironmentSpecial { key, value } => {
            tracing::warn!(key, value, "cannot set special environment variable");
        }
        Notice::FileLoaded { path } => tracing::info!(
            path,
            "loaded server configuration, other configuration command line flags and environment variables will be ignored if \
             provided"
        ),
        Notice::KeyUnknown { key } => {
            tracing::warn!(key, "unknown key in the configuration file; it has no effect");
        }
        Notice::Sources { command_line, environment, file, ignored } => {
            tracing::info!(
                command_line = ?command_line,
                environment = ?environment,
                config_file = ?file,
                "configuration values that are not defaults"
            );
            if !ignored.is_empty() {
                tracing::warn!(
                    ignored = ?ignored,
                    "flags and environment variables are ignored next to a configuration file"
                );
            }
        }
        Notice::DataDirDefault { path } => {
            tracing::warn!(data_dir = path, "'data-dir' was empty; using default");
        }
        Notice::DefaultName => tracing::warn!(
            name = "default",
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into issue when \
             multiple members have the same default name"
        ),
        Notice::Warning(text) => tracing::warn!("{text}"),
        Notice::Information(text) => tracing::info!("{text}"),
    }
}

fn say_stdout(text: &str) {
    // A closed pipe is the reader's wish.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn say_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
