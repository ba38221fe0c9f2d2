//! `etcd grpc-proxy start`: flags, messages and exit codes of the gRPC proxy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use proxy::grpc::{GrpcProxy, Options, Registration};
use server::systemd;
use tls::{Ciphers, Pair, Settings, Versions};

use crate::discovery::clients::Endpoint;
use crate::pflag::{Command, FAILED, Flag, Kind, Values, say_stderr};
use crate::{gateway, log};

macro_rules! flags {
    ($($name:literal $kind:ident $default:literal $help:literal;)+) => {
        &[$(Flag { name: $name, kind: Kind::$kind, default: $default, help: $help }),+]
    };
}

const COMMAND: Command = Command {
    name: "grpc-proxy",
    subject: "grpc proxy",
    flags: flags! {
        "advertise-client-url" Text "127.0.0.1:23790" "address that clients are told";
        "auto-tls" Bool "" "secure clients' connections with a generated certificate";
        "cacert" Text "" "authority that members' certificates are checked with";
        "cert" Text "" "certificate shown to members; must have no common name";
        "cert-file" Text "" "certificate shown to clients";
        "client-crl-file" Text "" "list of clients' certificates that are revoked";
        "data-dir" Text "default.proxy" "folder for generated certificates";
        "debug" Bool "" "log more";
        "dial-keepalive-time" Duration "0s" "silence after which members are pinged (0 for never)";
        "dial-keepalive-timeout" Duration "20s" "how long members may take to answer a ping";
        "discovery-srv" Text "" "DNS domain whose SRV records name the endpoints";
        "discovery-srv-name" Text "" "suffix of the service's name in SRV records";
        "enable-pprof" Bool "" "serve profiles at /debug/pprof/";
        "endpoints" List "127.0.0.1:2379" "endpoints of the cluster, with commas";
        "endpoints-auto-sync-interval" Duration "0s" "how often endpoints are taken from the list of members (0 for never)";
        "experimental-enable-grpc-logging" Bool "" "log every request and response";
        "experimental-leasing-prefix" Text "" "prefix of keys that tell which proxy answers reads of a key from memory";
        "experimental-serializable-ordering" Bool "" "never answer serializable reads with an older revision than before";
        "grpc-keepalive-interval" Duration "2h0m0s" "silence after which clients are pinged (0 for never)";
        "grpc-keepalive-min-time" Duration "5s" "least time between two pings of a client";
        "grpc-keepalive-timeout" Duration "20s" "how long clients may take to answer a ping";
        "insecure-discovery" Bool "" "take endpoints from SRV records that have no TLS or do not answer";
        "insecure-skip-tls-verify" Bool "" "do not check members' certificates (for tests only)";
        "key" Text "" "key of the certificate shown to members";
        "key-file" Text "" "key of the certificate shown to clients";
        "listen-addr" Text "127.0.0.1:23790" "address to accept clients on";
        "listen-cipher-suites" List "" "TLS 1.2 cipher suites for clients, with commas";
        "max-concurrent-streams" Uint32 "4294967295" "most streams of one client's connection";
        "max-recv-bytes" Int "2147483647" "largest message that is taken from the cluster";
        "max-send-bytes" Int "1572864" "largest message that is sent to the cluster";
        "metrics-addr" Text "" "URL of one more listener, for metrics and health";
        "namespace" Text "" "put before all keys";
        "permit-without-stream" Bool "" "ping members on connections without calls too";
        "resolver-prefix" Text "" "prefix below which proxies that know of each other are registered";
        "resolver-ttl" Int "0" "seconds that the registration outlives the proxy";
        "self-signed-cert-validity" Uint "1" "years that a generated certificate is valid";
        "tls-max-version" Text "" "highest TLS version for clients: TLS1.2 or TLS1.3";
        "tls-min-version" Text "TLS1.2" "lowest TLS version for clients: TLS1.2 or TLS1.3";
        "trusted-ca-file" Text "" "authority that clients' certificates are checked with";
    },
};

/// Runs the command; `args` are the whole command line.
#[must_use]
pub fn run(args: &[String]) -> ExitCode {
    let values = match COMMAND.read(args.get(2..).unwrap_or_default()) {
        Ok(values) => values,
        Err(stop) => return stop.carry_out(),
    };
    let options = match options(&values, args) {
        Ok(options) => options,
        Err(why) => {
            say_stderr(&format!("{why}\n"));
            return ExitCode::from(FAILED);
        }
    };
    let level = if values.boolean("debug") { log::Level::Debug } else { log::Level::Info };
    // Nothing is opened, so nothing fails.
    let _ = log::install(&log::Settings { level, ..log::Settings::default() });
    match serve(&values, options) {
        Ok(ended) => say_stderr(&format!("{ended}\n")),
        Err(error) => say_stderr(&format!("{error}\n")),
    }
    ExitCode::from(FAILED)
}

/// Does not return unless something is wrong.
fn serve(values: &Values, mut options: Options) -> anyhow::Result<String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("proxy").build()?;
    runtime.block_on(async {
        let found = gateway::discover(values).await.map_err(anyhow::Error::msg)?;
        if !found.is_empty() {
            options.endpoints = found.iter().map(Endpoint::url).collect();
        }
        let proxy = GrpcProxy::bind(options).await?;
        // Connections wait in the listener from now on.
        systemd::ready();
        Ok(proxy.run().await)
    })
}

/// Gives the flags their meaning, or says what is wrong with them.
fn options(values: &Values, args: &[String]) -> Result<Options, String> {
    let given = |name: &str| Some(values.text(name)).filter(|text| !text.is_empty());
    let duration = |name: &str| Some(values.duration(name)).filter(|time| !time.is_zero());
    let bytes = |name: &str, default: usize| match usize::try_from(values.number(name)) {
        Ok(bytes) if bytes > 0 => bytes,
        Ok(_) | Err(_) => default,
    };
    let endpoints: Vec<String> = values.list("endpoints");
    if endpoints.is_empty() {
        return Err("etcdclient: no available endpoints".to_owned());
    }
    Ok(Options {
        listen_address: values.text("listen-addr"),
        metrics_address: given("metrics-addr"),
        advertised: values.text("advertise-client-url"),
        endpoints,
        sync_interval: duration("endpoints-auto-sync-interval"),
        registration: registration(values)?,
        namespace: values.text("namespace"),
        leasing_prefix: values.text("experimental-leasing-prefix"),
        is_ordered: values.boolean("experimental-serializable-ordering"),
        send_bytes_max: bytes("max-send-bytes", 2 << 20),
        recv_bytes_max: bytes("max-recv-bytes", usize::MAX),
        dial_keepalive_time: duration("dial-keepalive-time"),
        dial_keepalive_timeout: duration("dial-keepalive-timeout")
            .unwrap_or(Duration::from_secs(20)),
        dial_keepalive_while_idle: values.boolean("permit-without-stream"),
        keepalive_min_time: values.duration("grpc-keepalive-min-time"),
        keepalive_interval: duration("grpc-keepalive-interval"),
        keepalive_timeout: duration("grpc-keepalive-timeout").unwrap_or(Duration::from_secs(20)),
        max_concurrent_streams: u32::try_from(values.number("max-concurrent-streams"))
            .unwrap_or(u32::MAX),
        upstream_tls: upstream_tls(values)?,
        listen_tls: listen_tls(values)?,
        // None of the flags is a secret.
        profiled: values.boolean("enable-pprof").then(|| args.to_vec()),
        logs_calls: values.boolean("experimental-enable-grpc-logging"),
        auto_tls: auto_tls(values)?,
    })
}

fn registration(values: &Values) -> Result<Option<Registration>, String> {
    let (prefix, ttl) = (values.text("resolver-prefix"), values.number("resolver-ttl"));
    let advertised = values.text("advertise-client-url");
    match (prefix.is_empty(), ttl) {
        (false, ttl) if ttl < 1 => Err(format!("invalid resolver-ttl {ttl}")),
        (true, ttl) if ttl > 0 => Err(format!("invalid resolver-prefix {prefix:?}")),
        (false, _) if advertised.is_empty() => {
            Err(format!("invalid advertise-client-url {advertised:?}"))
        }
        (false, ttl) => Ok(Some(Registration { prefix, ttl })),
        (true, _) => Ok(None),
    }
}

fn auto_tls(values: &Values) -> Result<Option<(PathBuf, u32)>, String> {
    if !values.boolean("auto-tls") {
        return Ok(None);
    }
    match u32::try_from(values.number("self-signed-cert-validity")) {
        Ok(years) if years > 0 => {
            Ok(Some((Path::new(&values.text("data-dir")).join("fixtures/proxy"), years)))
        }
        Ok(_) | Err(_) => {
            Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned())
        }
    }
}

fn path(values: &Values, name: &str) -> Option<PathBuf> {
    Some(values.text(name)).filter(|path| !path.is_empty()).map(Into::into)
}

/// What secures connections to members; nothing where no file is named.
fn upstream_tls(values: &Values) -> Result<Option<Settings>, String> {
    let settings = Settings {
        pair: Pair::of(&values.text("cert"), &values.text("key")).map_err(|e| e.to_string())?,
        trusted_ca: path(values, "cacert"),
        skip_server_check: values.boolean("insecure-skip-tls-verify"),
        ..Settings::default()
    };
    let is_asked_for =
        settings.has_pair() || settings.trusted_ca.is_some() || settings.skip_server_check;
    Ok(is_asked_for.then_some(settings))
}

/// What secures clients' connections.
fn listen_tls(values: &Values) -> Result<Settings, String> {
    let (min, max) = (values.text("tls-min-version"), values.text("tls-max-version"));
    Versions::parse(&min, "").map_err(|error| format!("tls-min-version is invalid: {error}"))?;
    Versions::parse("", &max).map_err(|error| format!("tls-max-version is invalid: {error}"))?;
    let versions = Versions::parse(&min, &max).map_err(|error| error.to_string())?;
    let suites = values.list("listen-cipher-suites").join(",");
    let ciphers = match suites.is_empty() {
        true => Ciphers::default(),
        false => Ciphers::parse(&suites, versions).map_err(|error| error.to_string())?,
    };
    let pair = Pair::of(&values.text("cert-file"), &values.text("key-file"));
    Ok(Settings {
        pair: pair.map_err(|error| error.to_string())?,
        trusted_ca: path(values, "trusted-ca-file"),
        revoked: path(values, "client-crl-file"),
        versions,
        ciphers,
        ..Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options_of(flags: &[&str]) -> Result<Options, String> {
        let args: Vec<String> =
            ["start"].iter().chain(flags).map(|text| (*text).to_owned()).collect();
        options(&COMMAND.read(&args).unwrap(), &args)
    }

    #[test]
    fn defaults_are_etcds() {
        let options = options_of(&[]).unwrap();
        assert_eq!(options.listen_address, "127.0.0.1:23790");
        assert_eq!(options.advertised, "127.0.0.1:23790");
        assert_eq!(options.endpoints, ["127.0.0.1:2379"]);
        assert_eq!(options.send_bytes_max, 1_572_864);
        assert_eq!(options.recv_bytes_max, 2_147_483_647);
        assert_eq!(options.keepalive_interval, Some(Duration::from_secs(7200)));
        assert_eq!(options.dial_keepalive_time, None);
        assert_eq!(options.max_concurrent_streams, u32::MAX);
        assert!(options.registration.is_none() && !options.listen_tls.has_pair());
        assert!(options.upstream_tls.is_none() && options.sync_interval.is_none());
    }

    #[test]
    fn contradictions_are_refused_in_etcds_words() {
        for (flags, text) in [
            (&["--resolver-prefix=p"][..], "invalid resolver-ttl 0"),
            (&["--resolver-ttl=5"], "invalid resolver-prefix \"\""),
            (
                &["--resolver-prefix=p", "--resolver-ttl=5", "--advertise-client-url="],
                "invalid advertise-client-url \"\"",
            ),
            (
                &["--auto-tls", "--self-signed-cert-validity=0"],
                "selfSignedCertValidity is invalid,it should be greater than 0",
            ),
            (
                &["--tls-min-version=TLS1.1"],
                "tls-min-version is invalid: unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
            ),
            (
                &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                &[
                    "--tls-min-version=TLS1.3",
                    "--listen-cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA",
                ],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
        ] {
            assert_eq!(options_of(flags).unwrap_err(), text, "{flags:?}");
        }
    }
}
