//! Global flags with the environment added, and the client they describe.
//!
//! A flag `--some-name` may also come as `ETCDCTL_SOME_NAME`. Both at once are an error, an unknown `ETCDCTL_` variable is a warning, and a
//! value that does not parse is ignored.
//!
//! Upstream: pkg/flags/flag.go and etcdctl/ctlv3/command/global.go (3.5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Endpoint, FailedAttempt, Options, Scheme};

use crate::command_line::{Flags, Invocation};
use crate::exit::{Exit, Failure};
use crate::go;
use crate::log::Line;
use crate::output::{Format, Style};
use crate::spec::{Flag, GLOBAL, Kind};
use crate::terminal;

const PREFIX: &str = "ETCDCTL_";

/// Where a gRPC call's failed attempts are logged from: the file that retries.
const RETRY_CALLER: &str = "client/retry.rs";

/// Read by `watch` as its arguments.
pub(crate) const WATCH_KEY: &str = "ETCDCTL_WATCH_KEY";
/// Read by `watch` as its arguments.
pub(crate) const WATCH_RANGE_END: &str = "ETCDCTL_WATCH_RANGE_END";

/// Everything that is common to commands that talk to a server.
#[derive(Clone, Debug)]
pub struct Globals {
    /// How to print.
    pub style: Style,
    /// Where to connect.
    pub endpoints: Vec<String>,
    /// Limit of a short command.
    pub command_timeout: Duration,
    /// The limit was asked for on the command line.
    pub has_command_timeout: bool,
    dial_timeout: Duration,
    keepalive_time: Duration,
    keepalive_timeout: Duration,
    tls: Option<tls::Settings>,
    user: Option<(String, String)>,
}

impl Globals {
    /// Reads flags and environment, reporting what is wrong with the latter on standard error.
    pub fn read(invocation: &Invocation<'_>) -> Result<Self, Failure> {
        let flags = &invocation.flags;
        let environment = Environment::of_process();
        environment.verify(flags, is_watch(invocation))?;
        let values = Values { flags, environment: &environment };
        if values.bool("debug") {
            values.dump();
        }
        if !values.text("discovery-srv").is_empty() {
            return Err(Failure::error("DNS discovery (--discovery-srv) is not implemented yet"));
        }
        let endpoints = values.list("endpoints");
        let tls = tls(&values, &endpoints)?;
        let user = user(&values)?;
        let format = Format::parse(&values.text("write-out"))?;
        Ok(Self {
            style: Style { format, hex: values.bool("hex"), value_only: false },
            endpoints,
            tls,
            command_timeout: values.duration("command-timeout"),
            has_command_timeout: flags.is_given("command-timeout"),
            dial_timeout: values.duration("dial-timeout"),
            keepalive_time: values.duration("keepalive-time"),
            keepalive_timeout: values.duration("keepalive-timeout"),
            user,
        })
    }

    /// A client whose calls take as long as they take.
    pub(crate) async fn patient_client(&self) -> Result<Client, Failure> {
        self.client_of(&self.endpoints, None, "etcd-client").await
    }

    /// A client whose calls are limited by `--command-timeout`.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.endpoints, Some(self.command_timeout), "etcd-client").await
    }

    /// A client for one endpoint, limited by `--command-timeout`; `logger` names it in the log.
    pub(crate) async fn client_at(
        &self,
        endpoint: &str,
        logger: &'static str,
    ) -> Result<Client, Failure> {
        self.client_of(&[endpoint.to_owned()], Some(self.command_timeout), logger).await
    }

    async fn client_of(
        &self,
        endpoints: &[String],
        timeout: Option<Duration>,
        logger: &'static str,
    ) -> Result<Client, Failure> {
        let options = Options {
            tls: self.tls.clone(),
            user: self.user.clone(),
            dial_timeout: self.dial_timeout,
            keepalive_time: Some(self.keepalive_time),
            keepalive_timeout: self.keepalive_timeout,
            timeout,
            observer: Some(Arc::new(move |attempt: &FailedAttempt<'_>| {
                log_attempt(logger, attempt)
            })),
            ..Options::default()
        };
        Client::connect(endpoints, options)
            .await
            .map_err(|error| Failure::new(Exit::BadConnection, error))
    }
}

fn is_watch(invocation: &Invocation<'_>) -> bool {
    invocation.path.last().is_some_and(|command| command.name == "watch")
}

fn log_attempt(logger: &str, attempt: &FailedAttempt<'_>) {
    // Go prints the address of the client in memory here; a fixed one says as much.
    let target = format!("etcd-endpoints://0x0/{}", attempt.target);
    let peer = match &attempt.connection {
        Some((peer, local)) => {
            let security = if attempt.is_secure { "tls" } else { "insecure" };
            format!("Peer{{Addr: '{peer}', LocalAddr: '{local}', AuthInfo: '{security}'}}")
        }
        None => "Peer{Addr: <nil>, LocalAddr: <nil>, AuthInfo: <nil>}".to_owned(),
    };
    Line::new("warn", Some(logger), RETRY_CALLER, "retrying of unary invoker failed")
        .text("target", &target)
        .text("peer", &peer)
        .number("attempt", attempt.attempt)
        .text("error", &attempt.error)
        .print();
}

/// The `ETCDCTL_` variables of the process, in its order.
struct Environment {
    variables: Vec<(String, String)>,
}

impl Environment {
    fn of_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let variables = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            // Which API to speak was decided before.
            .filter(|(name, _)| name.starts_with(PREFIX) && name != "ETCDCTL_API")
            .collect();
        Self { variables }
    }

    /// The variable for a flag; empty ones count as absent.
    fn get(&self, flag: &str) -> Option<&str> {
        let name = variable(flag);
        let found = self.variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn verify(&self, flags: &Flags, is_watch: bool) -> Result<(), Failure> {
        let mut known: BTreeSet<String> = GLOBAL.iter().map(|flag| variable(flag.name)).collect();
        if is_watch {
            known.extend([WATCH_KEY.to_owned(), WATCH_RANGE_END.to_owned()]);
        }
        for (name, value) in &self.variables {
            let shadowed =
                GLOBAL.iter().any(|flag| variable(flag.name) == *name && flags.is_given(flag.name));
            if shadowed {
                Line::new("fatal", None, "etcdctl/globals.rs", SHADOWED)
                    .text("environment-variable", name)
                    .print();
                return Err(Failure::silent(Exit::Error));
            }
            if !known.contains(name) || value.is_empty() {
                Line::new("warn", None, "etcdctl/globals.rs", "unrecognized environment variable")
                    .text("environment-variable", &format!("{name}={value}"))
                    .print();
            }
        }
        Ok(())
    }
}

/// etcd's text, with its parenthesis too many.
const SHADOWED: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";

fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.replace('-', "_").to_uppercase())
}

/// A flag's value from the command line, else from the environment, else the default.
struct Values<'a> {
    flags: &'a Flags,
    environment: &'a Environment,
}

impl Values<'_> {
    fn bool(&self, name: &str) -> bool {
        self.environment_value(name, |text| go::parse_bool(text).ok())
            .unwrap_or_else(|| self.flags.bool(name))
    }

    fn text(&self, name: &str) -> String {
        self.environment_value(name, |text| Some(text.to_owned()))
            .unwrap_or_else(|| self.flags.text(name))
    }

    fn duration(&self, name: &str) -> Duration {
        self.environment_value(name, |text| go::parse_duration(text).ok())
            .unwrap_or_else(|| self.flags.duration(name))
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.environment_value(name, |text| Some(text.split(',').map(str::to_owned).collect()))
            .unwrap_or_else(|| self.flags.list(name))
    }

    fn environment_value<T>(&self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        if self.flags.is_given(name) {
            return None;
        }
        read(self.environment.get(name)?)
    }

    /// What `--debug` shows: every global flag as the variable that would set it. The password is hidden, which etcd's is not.
    fn dump(&self) {
        for flag in GLOBAL {
            terminal::error_line(&format!("{}={}", variable(flag.name), self.shown(flag)));
        }
    }

    fn shown(&self, flag: &Flag) -> String {
        match (flag.name, flag.kind) {
            ("password", _) if !self.text("password").is_empty() => "***".to_owned(),
            ("user", _) => match self.text("user").split_once(':') {
                Some((name, _)) => format!("{name}:***"),
                None => self.text("user"),
            },
            (name, Kind::Bool) => self.bool(name).to_string(),
            (name, Kind::Int) => self.flags.int(name).to_string(),
            (name, Kind::Text) => self.text(name),
            (name, Kind::Duration) => go::duration(self.duration(name)),
            (name, Kind::List) => format!("[{}]", self.list(name).join(" ")),
        }
    }
}

/// What the flags say about securing connections; `None` says nothing. An `http://` endpoint stays plain all the same.
fn tls(values: &Values<'_>, endpoints: &[String]) -> Result<Option<tls::Settings>, Failure> {
    let path = |name: &str| -> Result<String, Failure> {
        let path = values.text(name);
        if path.is_empty() && values.flags.is_given(name) {
            return Err(Failure::arguments(format!("empty string is passed to --{name} option")));
        }
        if !path.is_empty()
            && let Err(error) = std::fs::File::open(&path)
        {
            return Err(Failure::arguments(format!(
                "open {path}: {}",
                crate::commands::io_text(&error)
            )));
        }
        Ok(path)
    };
    let (certificate, key, authority) = (path("cert")?, path("key")?, path("cacert")?);
    let is_silent = certificate.is_empty() && key.is_empty() && authority.is_empty();
    let skip_server_check = values.bool("insecure-skip-tls-verify");
    let first = endpoints.first().map(|text| Endpoint::parse(text).scheme);
    if is_silent && values.bool("insecure-transport") && first != Some(Scheme::Tls) {
        return Ok(None);
    }
    let pair =
        tls::Pair::of(&certificate, &key).map_err(|error| Failure::arguments(error.to_string()))?;
    let trusted_ca = Some(authority).filter(|path| !path.is_empty()).map(Into::into);
    Ok(Some(tls::Settings { pair, trusted_ca, skip_server_check, ..tls::Settings::default() }))
}

/// Name and password, asking for the latter if only the name is given.
fn user(values: &Values<'_>) -> Result<Option<(String, String)>, Failure> {
    let (user, password) = (values.text("user"), values.text("password"));
    if user.is_empty() {
        return Ok(None);
    }
    if !password.is_empty() {
        return Ok(Some((user, password)));
    }
    match user.split_once(':') {
        Some((name, password)) => Ok(Some((name.to_owned(), password.to_owned()))),
        None => terminal::ask_password().map(|password| Some((user, password))),
    }
}
