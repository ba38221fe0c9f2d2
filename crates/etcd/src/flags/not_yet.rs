//! What the flags ask for and the server does not do yet: one place, so that it is easy to see and to take away.

use server::Config;

/// Refuses what is not served, by the flag's name.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let asked = [
        ("listen-client-http-urls", !config.listen_client_http_urls.is_empty()),
        ("listen-metrics-urls", !config.listen_metrics_urls.is_empty()),
        ("cors", config.cors != ["*"]),
        ("host-whitelist", config.host_whitelist != ["*"]),
        ("metrics=extensive", config.metrics_extensive),
        ("enable-pprof", config.enable_pprof),
        ("grpc-keepalive-min-time", config.keepalive_min_time.as_secs() != 5),
        ("unsafe-no-fsync", config.unsafe_no_fsync),
        ("socket-reuse-port", config.socket_reuse_port),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        Some((flag, _)) => Err(format!(
            "--{flag} is a flag of etcd that retcd does not serve yet; only its default is accepted"
        )),
        None => Ok(()),
    }
}
