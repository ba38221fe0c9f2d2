//! `etcd gateway start`: flags, messages and exit codes of the TCP gateway.

use std::process::ExitCode;

use proxy::gateway::{Gateway, Options, StartError, Target};
use server::systemd;

use crate::discovery::clients::{self, Endpoint, Search};
use crate::log;
use crate::pflag::{Command, FAILED, Flag, Kind, Values, say_stderr, say_stdout};

const COMMAND: Command = Command {
    name: "gateway",
    subject: "gateway",
    flags: &[
        Flag {
            name: "discovery-srv",
            kind: Kind::Text,
            default: "",
            help: "DNS domain whose SRV records name the endpoints",
        },
        Flag {
            name: "discovery-srv-name",
            kind: Kind::Text,
            default: "",
            help: "suffix of the service's name in SRV records",
        },
        Flag {
            name: "endpoints",
            kind: Kind::List,
            default: "127.0.0.1:2379",
            help: "endpoints of the cluster, with commas",
        },
        Flag {
            name: "insecure-discovery",
            kind: Kind::Bool,
            default: "",
            help: "take endpoints from SRV records that have no TLS or do not answer",
        },
        Flag {
            name: "listen-addr",
            kind: Kind::Text,
            default: "127.0.0.1:23790",
            help: "address to accept connections on",
        },
        Flag {
            name: "retry-delay",
            kind: Kind::Duration,
            default: "1m0s",
            help: "how long a failed endpoint is left out before it is dialled again",
        },
        Flag {
            name: "trusted-ca-file",
            kind: Kind::Text,
            default: "",
            help: "no effect: certificates are checked by the clients",
        },
    ],
};

/// Runs the command; `args` are the whole command line.
#[must_use]
pub fn run(args: &[String]) -> ExitCode {
    let values = match COMMAND.read(args.get(2..).unwrap_or_default()) {
        Ok(values) => values,
        Err(stop) => return stop.carry_out(),
    };
    // Nothing is opened, so nothing fails.
    let _ = log::install(&log::Settings::default());
    tracing::info!(args = ?args, "Running: ");
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("proxy").build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                say_stderr(&format!("{error}\n"));
                return ExitCode::from(FAILED);
            }
        };
    runtime.block_on(serve(&values))
}

/// Endpoints by DNS, where it is to be asked: the flags of this command and of `etcd grpc-proxy start`. Where none is found,
/// `--endpoints` count.
///
/// # Errors
/// DNS does not answer; the text says why.
pub(crate) async fn discover(values: &Values) -> Result<Vec<Endpoint>, String> {
    let search = Search {
        domain: values.text("discovery-srv"),
        service: values.text("discovery-srv-name"),
        takes_insecure: values.boolean("insecure-discovery"),
    };
    if search.domain.is_empty() { Ok(Vec::new()) } else { clients::find(&search).await }
}

/// Does not return unless something is wrong.
async fn serve(values: &Values) -> ExitCode {
    let found = match discover(values).await {
        Ok(found) => found,
        Err(error) => {
            say_stderr(&format!("{error}\n"));
            return ExitCode::from(FAILED);
        }
    };
    let started = async {
        let mut targets: Vec<Target> = found.into_iter().map(|endpoint| endpoint.target).collect();
        if targets.is_empty() {
            let endpoints = values.list("endpoints");
            targets = endpoints.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
        }
        let options = Options {
            listen_address: values.text("listen-addr"),
            targets,
            retry_delay: values.duration("retry-delay"),
        };
        Gateway::bind(options).await
    };
    match started.await {
        Ok(gateway) => {
            systemd::ready();
            let error = gateway.run().await;
            tracing::error!(error = %error, "gateway stopped");
        }
        // etcd prints these, and only these, where its output goes.
        Err(error @ StartError::Listen { .. }) => say_stderr(&format!("{error}\n")),
        Err(error) => say_stdout(&format!("{error}\n")),
    }
    ExitCode::from(FAILED)
}
