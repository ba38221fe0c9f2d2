//! Every flag of etcd 3.5 to 3.7: its kind, its default, and whether this program serves it.

/// How a value is read, and what a wrong one is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    /// Unsigned, at most this many bits.
    Unsigned(u32),
    Signed,
    Duration,
    /// A list of URLs, checked when read.
    Urls,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// Whether the program does what the flag asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Served.
    Yes,
    /// A flag of etcd whose feature is not there yet: accepted at its default only.
    Later,
    /// A flag without effect in the etcd versions that this program stands for: accepted and ignored.
    Ignored,
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) service: Service,
    /// What it is for, in a line of `--help`.
    pub(super) help: &'static str,
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    service: Service,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, service, help }
}

use Kind::{Bool, Duration, OneOf, Signed, Text, Unsigned, Urls};
use Service::{Ignored, Later, Yes};

/// The table, in the order of `--help`.
pub(super) const FLAGS: &[Flag] = &[
    // Member.
    flag(
        "name",
        Text,
        "default",
        Yes,
        "Name of this member; members of one cluster have different names.",
    ),
    flag("data-dir", Text, "", Yes, "Data directory (default NAME.etcd in the working directory)."),
    flag(
        "wal-dir",
        Text,
        "",
        Yes,
        "Directory of the write-ahead log, when it is not to lie in the data directory.",
    ),
    flag(
        "snapshot-count",
        Unsigned(64),
        "100000",
        Yes,
        "Applied entries between two raft snapshots (from 3.6 on the default is 10000).",
    ),
    flag(
        "snapshot-catchup-entries",
        Unsigned(64),
        "5000",
        Yes,
        "Raft entries kept in memory behind a snapshot for slow followers.",
    ),
    flag(
        "heartbeat-interval",
        Unsigned(64),
        "100",
        Yes,
        "Milliseconds between two heartbeats of the leader.",
    ),
    flag(
        "election-timeout",
        Unsigned(64),
        "1000",
        Yes,
        "Milliseconds without a leader after which a member campaigns.",
    ),
    flag(
        "initial-election-tick-advance",
        Bool,
        "true",
        Yes,
        "Start the first election early instead of after a whole timeout.",
    ),
    flag(
        "listen-peer-urls",
        Urls,
        "http://localhost:2380",
        Yes,
        "URLs to listen on for other members.",
    ),
    flag(
        "listen-client-urls",
        Urls,
        "http://localhost:2379",
        Yes,
        "URLs to listen on for clients.",
    ),
    flag("listen-client-http-urls", Urls, "", Later, "URLs that serve only HTTP to clients."),
    flag("listen-metrics-urls", Urls, "", Later, "URLs that serve only metrics and health."),
    flag("max-snapshots", Unsigned(32), "5", Yes, "Raft snapshot files to keep (0: all)."),
    flag("max-wals", Unsigned(32), "5", Yes, "Write-ahead log segments to keep (0: all)."),
    flag(
        "quota-backend-bytes",
        Signed,
        "0",
        Yes,
        "Size of the database that raises the NOSPACE alarm (0: 2 GiB, negative: none).",
    ),
    flag(
        "backend-batch-interval",
        Duration,
        "0",
        Yes,
        "Longest time between two commits of the database (0: 100ms).",
    ),
    flag(
        "backend-batch-limit",
        Signed,
        "0",
        Yes,
        "Most operations in one commit of the database (0: 10000).",
    ),
    flag(
        "backend-bbolt-freelist-type",
        Text,
        "map",
        Ignored,
        "Kind of free list; there is one kind here.",
    ),
    flag("max-txn-ops", Unsigned(32), "128", Yes, "Most operations in one transaction."),
    flag(
        "max-request-bytes",
        Unsigned(32),
        "1572864",
        Yes,
        "Largest request that is accepted, in bytes.",
    ),
    flag(
        "max-concurrent-streams",
        Unsigned(32),
        "4294967295",
        Yes,
        "Most concurrent streams on one client connection.",
    ),
    flag(
        "grpc-keepalive-min-time",
        Duration,
        "5s",
        Later,
        "Shortest interval at which a client may ping.",
    ),
    flag(
        "grpc-keepalive-interval",
        Duration,
        "2h",
        Yes,
        "Idle time after which a client is pinged (0: never).",
    ),
    flag("grpc-keepalive-timeout", Duration, "20s", Yes, "Time a client has to answer a ping."),
    flag("socket-reuse-port", Bool, "false", Later, "Set SO_REUSEPORT on listeners."),
    flag("socket-reuse-address", Bool, "false", Later, "Set SO_REUSEADDR on listeners."),
    flag(
        "raft-read-timeout",
        Duration,
        "5s",
        Later,
        "Read timeout of connections between members.",
    ),
    flag(
        "raft-write-timeout",
        Duration,
        "5s",
        Later,
        "Write timeout of connections between members.",
    ),
    flag("memory-mlock", Bool, "false", Later, "Lock the database in memory."),
    flag(
        "bootstrap-defrag-threshold-megabytes",
        Unsigned(32),
        "0",
        Later,
        "Defragment at start when that frees at least this much.",
    ),
    flag("enable-grpc-gateway", Bool, "true", Yes, "Serve the JSON gateway under /v3/."),
    // Clustering.
    flag(
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        Yes,
        "Peer URLs of this member, told to the cluster.",
    ),
    flag(
        "initial-cluster",
        Text,
        "default=http://localhost:2380",
        Yes,
        "The members that start a new cluster: NAME=URL,NAME=URL.",
    ),
    flag(
        "initial-cluster-state",
        OneOf(&["new", "existing"]),
        "new",
        Yes,
        "Whether the cluster is new or exists.",
    ),
    flag(
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        Yes,
        "Keeps clusters made from equal URLs apart.",
    ),
    flag(
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        Yes,
        "Client URLs of this member, told to the cluster.",
    ),
    flag("discovery", Text, "", Later, "Discovery URL."),
    flag(
        "discovery-fallback",
        OneOf(&["exit", "proxy"]),
        "proxy",
        Ignored,
        "What to do when discovery fails.",
    ),
    flag("discovery-proxy", Text, "", Later, "HTTP proxy for discovery."),
    flag("discovery-srv", Text, "", Later, "Domain whose SRV records name the members."),
    flag("discovery-srv-name", Text, "", Later, "Suffix of the SRV service name."),
    flag("discovery-token", Text, "", Later, "Token of v3 discovery."),
    flag("discovery-endpoints", Text, "", Later, "Endpoints of v3 discovery."),
    flag("discovery-dial-timeout", Duration, "2s", Later, "Dial timeout of v3 discovery."),
    flag("discovery-request-timeout", Duration, "5s", Later, "Request timeout of v3 discovery."),
    flag("discovery-keepalive-time", Duration, "2s", Later, "Keep-alive time of v3 discovery."),
    flag(
        "discovery-keepalive-timeout",
        Duration,
        "6s",
        Later,
        "Keep-alive timeout of v3 discovery.",
    ),
    flag("discovery-insecure-transport", Bool, "true", Later, "No TLS for v3 discovery."),
    flag(
        "discovery-insecure-skip-tls-verify",
        Bool,
        "false",
        Later,
        "No certificate checks for v3 discovery.",
    ),
    flag("discovery-cert", Text, "", Later, "Client certificate for v3 discovery."),
    flag("discovery-key", Text, "", Later, "Key of the client certificate for v3 discovery."),
    flag("discovery-cacert", Text, "", Later, "CA for v3 discovery."),
    flag("discovery-user", Text, "", Later, "User for v3 discovery."),
    flag("discovery-password", Text, "", Later, "Password for v3 discovery."),
    flag(
        "strict-reconfig-check",
        Bool,
        "true",
        Yes,
        "Refuse membership changes that would lose the quorum.",
    ),
    flag("pre-vote", Bool, "true", Yes, "Ask for votes before raising the term."),
    flag(
        "auto-compaction-mode",
        Text,
        "periodic",
        Yes,
        "What auto-compaction-retention counts: periodic (time) or revision.",
    ),
    flag(
        "auto-compaction-retention",
        Text,
        "0",
        Yes,
        "History to keep: hours or a duration, or a number of revisions (0: no auto-compaction).",
    ),
    flag(
        "force-new-cluster",
        Bool,
        "false",
        Yes,
        "Start as a cluster of one, forgetting the other members.",
    ),
    flag("max-learners", Signed, "1", Yes, "Most learners in the cluster, from 3.6 on."),
    flag(
        "emulated-version",
        Text,
        "",
        Yes,
        "etcd version to stand for: 3.5, 3.6 or 3.7. A flag of retcd alone. Default: the cluster's; 3.5 for a new one.",
    ),
    flag("enable-v2", Bool, "false", Later, "The v2 API of old."),
    flag("experimental-enable-v2v3", Text, "", Later, "The v2 API over v3 of old."),
    flag(
        "v2-deprecation",
        OneOf(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "not-yet",
        Ignored,
        "Stage of the v2 API's removal.",
    ),
    // Security.
    flag("cert-file", Text, "", Yes, "Certificate of the client listeners."),
    flag("key-file", Text, "", Yes, "Key of the client listeners' certificate."),
    flag("client-cert-file", Text, "", Yes, "Certificate for this member's own client calls."),
    flag("client-key-file", Text, "", Yes, "Key for this member's own client calls."),
    flag("client-cert-auth", Bool, "false", Yes, "Ask clients for certificates."),
    flag("client-crl-file", Text, "", Yes, "Revoked client certificates."),
    flag(
        "client-cert-allowed-hostname",
        Text,
        "",
        Yes,
        "Host names that client certificates may carry.",
    ),
    flag("trusted-ca-file", Text, "", Yes, "CA that client certificates are checked against."),
    flag("auto-tls", Bool, "false", Yes, "Generated certificates for clients."),
    flag("peer-cert-file", Text, "", Yes, "Certificate of the peer listeners."),
    flag("peer-key-file", Text, "", Yes, "Key of the peer listeners' certificate."),
    flag("peer-client-cert-file", Text, "", Yes, "Certificate for calls to other members."),
    flag("peer-client-key-file", Text, "", Yes, "Key for calls to other members."),
    flag("peer-client-cert-auth", Bool, "false", Yes, "Ask other members for certificates."),
    flag(
        "peer-trusted-ca-file",
        Text,
        "",
        Yes,
        "CA that other members' certificates are checked against.",
    ),
    flag("peer-auto-tls", Bool, "false", Yes, "Generated certificates for peers."),
    flag("peer-crl-file", Text, "", Yes, "Revoked peer certificates."),
    flag("peer-cert-allowed-cn", Text, "", Yes, "Common names that peer certificates may carry."),
    flag(
        "peer-cert-allowed-hostname",
        Text,
        "",
        Yes,
        "Host names that peer certificates may carry.",
    ),
    flag(
        "peer-skip-client-san-verification",
        Bool,
        "false",
        Yes,
        "No check of the address in peer certificates.",
    ),
    flag(
        "self-signed-cert-validity",
        Unsigned(32),
        "1",
        Yes,
        "Years that generated certificates last.",
    ),
    flag("cipher-suites", Text, "", Yes, "TLS cipher suites."),
    flag("tls-min-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "TLS1.2", Yes, "Lowest TLS version."),
    flag("tls-max-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "", Yes, "Highest TLS version."),
    flag("cors", Text, "*", Later, "Allowed origins."),
    flag("host-whitelist", Text, "*", Later, "Accepted host names of requests."),
    flag("auth-token", Text, "simple", Later, "Kind of auth token."),
    flag("bcrypt-cost", Unsigned(32), "10", Later, "Cost of hashing a password."),
    flag("auth-token-ttl", Unsigned(32), "300", Later, "Seconds that a simple token lasts."),
    // Logs, metrics, tracing.
    flag("logger", Text, "zap", Yes, "Only zap, the structured form."),
    flag("log-outputs", Text, "default", Yes, "default, stderr or stdout."),
    flag("log-level", Text, "info", Yes, "debug, info, warn, error, dpanic, panic or fatal."),
    flag("log-format", OneOf(&["json", "console"]), "json", Later, "Form of a log line."),
    flag("enable-log-rotation", Bool, "false", Later, "Rotate the log file."),
    flag("log-rotation-config-json", Text, LOG_ROTATION, Later, "How to rotate the log file."),
    flag("enable-pprof", Bool, "false", Later, "Profiling over HTTP."),
    flag("metrics", OneOf(&["basic", "extensive"]), "basic", Later, "Detail of the metrics."),
    flag(
        "warning-apply-duration",
        Duration,
        "100ms",
        Later,
        "Time to apply a request that is worth a warning.",
    ),
    flag(
        "warning-unary-request-duration",
        Duration,
        "300ms",
        Later,
        "Time to answer a request that is worth a warning.",
    ),
    flag("enable-distributed-tracing", Bool, "false", Later, "OpenTelemetry tracing."),
    flag("distributed-tracing-address", Text, "localhost:4317", Later, "OpenTelemetry collector."),
    flag("distributed-tracing-service-name", Text, "etcd", Later, "OpenTelemetry service name."),
    flag("distributed-tracing-instance-id", Text, "", Later, "OpenTelemetry instance."),
    flag("distributed-tracing-sampling-rate", Signed, "0", Later, "Traces in a million requests."),
    // Features and maintenance.
    flag(
        "corrupt-check-time",
        Duration,
        "0",
        Later,
        "Time between two checks of the members' hashes.",
    ),
    flag(
        "compact-hash-check-time",
        Duration,
        "1m",
        Later,
        "Time between two checks of compaction hashes.",
    ),
    flag(
        "compaction-batch-limit",
        Signed,
        "0",
        Yes,
        "Revisions that one step of a compaction removes (0: 1000).",
    ),
    flag(
        "compaction-sleep-interval",
        Duration,
        "0",
        Yes,
        "Pause between two steps of a compaction (0: 10ms).",
    ),
    flag(
        "watch-progress-notify-interval",
        Duration,
        "0",
        Yes,
        "Time between two progress messages of an idle watch (0: 10m).",
    ),
    flag(
        "experimental-enable-lease-checkpoint",
        Bool,
        "false",
        Yes,
        "Let the leader note every 5m how much is left of a long lease, for the next leader.",
    ),
    flag(
        "experimental-enable-lease-checkpoint-persist",
        Bool,
        "false",
        Yes,
        "Keep these notes across restarts also in a 3.5 cluster; the same on all members.",
    ),
    flag(
        "downgrade-check-time",
        Duration,
        "5s",
        Yes,
        "Time between a leader's looks at a downgrade (0: none).",
    ),
    flag("feature-gates", Text, "", Later, "Features to turn on or off."),
    flag("unsafe-no-fsync", Bool, "false", Later, "Never sync; loses data at a power cut."),
    flag("config-file", Text, "", Later, "Configuration file."),
    flag("version", Bool, "false", Yes, "Print the version and exit."),
];

/// etcd's default for the rotation of log files.
const LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

/// Names of 3.5 and 3.6 that mean a flag of the table.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("experimental-compact-hash-check-time", "compact-hash-check-time"),
    ("experimental-compaction-batch-limit", "compaction-batch-limit"),
    ("experimental-compaction-sleep-interval", "compaction-sleep-interval"),
    ("experimental-corrupt-check-time", "corrupt-check-time"),
    ("experimental-downgrade-check-time", "downgrade-check-time"),
    ("experimental-memory-mlock", "memory-mlock"),
    ("experimental-bootstrap-defrag-threshold-megabytes", "bootstrap-defrag-threshold-megabytes"),
    ("experimental-peer-skip-client-san-verification", "peer-skip-client-san-verification"),
    ("experimental-snapshot-catchup-entries", "snapshot-catchup-entries"),
    ("experimental-warning-apply-duration", "warning-apply-duration"),
    ("experimental-warning-unary-request-duration", "warning-unary-request-duration"),
    ("experimental-watch-progress-notify-interval", "watch-progress-notify-interval"),
    ("experimental-enable-distributed-tracing", "enable-distributed-tracing"),
    ("experimental-distributed-tracing-address", "distributed-tracing-address"),
    ("experimental-distributed-tracing-service-name", "distributed-tracing-service-name"),
    ("experimental-distributed-tracing-instance-id", "distributed-tracing-instance-id"),
    ("experimental-distributed-tracing-sampling-rate", "distributed-tracing-sampling-rate"),
];

/// Booleans of 3.5 and 3.6 that became feature gates; none is served yet.
pub(super) const GATES: &[(&str, &str)] = &[
    ("experimental-initial-corrupt-check", "false"),
    ("experimental-compact-hash-check-enabled", "false"),
    ("experimental-txn-mode-write-with-shared-buffer", "true"),
    ("experimental-stop-grpc-service-on-defrag", "false"),
];

/// Flags of the first etcd versions, which every later one accepts and ignores. They never take the next argument.
pub(super) const LEGACY: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// The flag of that name, an old name included.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let current = ALIASES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
    FLAGS
        .iter()
        .find(|flag| flag.name == current)
        .or_else(|| GATE_FLAGS.iter().find(|flag| flag.name == name))
}

/// The gates as flags.
static GATE_FLAGS: [Flag; GATES.len()] = {
    let mut index = 0;
    let mut flags =
        [const { flag("", Bool, "", Later, "An old name of a feature gate.") }; GATES.len()];
    while index < GATES.len() {
        flags[index].name = GATES[index].0;
        flags[index].default = GATES[index].1;
        index += 1;
    }
    flags
};
