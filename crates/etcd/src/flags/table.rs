//! Every flag of etcd 3.5 to 3.7: its kind, its default, its key in the configuration file, the versions that have it, and
//! whether this program serves it.
//!
//! This table is the only place that names flags one by one for reading them: the command line, the environment, the
//! configuration file and `--help` all go through it. What a flag means is in `config`.

/// How a value is read, and what a wrong one is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    /// Unsigned, at most this many bits.
    Unsigned(u32),
    Signed,
    /// Text as Go writes it on the command line, nanoseconds in the configuration file.
    Duration,
    /// A list of URLs, checked when read; in the configuration file it is one text with commas.
    Urls,
    /// A list of words: with commas on the command line, a sequence in the configuration file.
    List,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// Whether the program does what the flag asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Served.
    Yes,
    /// A flag of etcd whose feature is not there: accepted at its default only.
    Later,
    /// A flag without effect here: accepted, and anything but its default gets a warning.
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
    /// Its key in the configuration file, with a dot between a mapping and a key in it. `None`: etcd reads it from
    /// elsewhere only.
    pub(super) key: Option<&'static str>,
    /// The first and the last 3.x of 3.5 to 3.7 that has it. All are accepted whatever the version is that a member stands
    /// for, since it is the cluster that decides on the version.
    pub(super) since: u8,
    pub(super) until: u8,
    /// The last one that reads its key, where the flag lived on without.
    pub(super) key_until: u8,
}

impl Flag {
    const fn key(mut self, key: &'static str) -> Self {
        self.key = Some(key);
        self
    }

    const fn no_key(mut self) -> Self {
        self.key = None;
        self
    }

    const fn since(mut self, minor: u8) -> Self {
        self.since = minor;
        self
    }

    const fn until(mut self, minor: u8) -> Self {
        self.until = minor;
        self
    }

    const fn key_until(mut self, minor: u8) -> Self {
        self.key_until = minor;
        self
    }

    /// The type of etcd's field, for its texts about values of another type.
    pub(super) fn go_type(&self) -> &'static str {
        match (self.kind, self.name) {
            (Text | Urls | OneOf(_), _) => "string",
            (Bool, _) => "bool",
            (List, _) => "[]string",
            (Duration, _) => "time.Duration",
            (Signed, "quota-backend-bytes") => "int64",
            (Signed, _) => "int",
            (Unsigned(_), "snapshot-count" | "snapshot-catchup-entries") => "uint64",
            (Unsigned(_), "max-concurrent-streams") => "uint32",
            (Unsigned(_), _) => "uint",
        }
    }
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    service: Service,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, service, help, key: Some(name), since: 5, until: 7, key_until: 7 }
}

/// A name of old for a flag.
#[derive(Debug)]
pub(super) struct Alias {
    pub(super) old: &'static str,
    pub(super) new: &'static str,
    /// The first 3.x of 3.5 to 3.7 that has the old name; 3.6 is the last.
    pub(super) since: u8,
}

const fn alias(old: &'static str, new: &'static str, since: u8) -> Alias {
    Alias { old, new, since }
}

use Kind::{Bool, Duration, List, OneOf, Signed, Text, Unsigned, Urls};
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
    )
    .since(6),
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
    flag("listen-client-http-urls", Urls, "", Yes, "URLs that serve only HTTP to clients."),
    flag("listen-metrics-urls", Urls, "", Yes, "URLs that serve only metrics and health."),
    flag("max-snapshots", Unsigned(64), "5", Yes, "Raft snapshot files to keep (0: all)."),
    flag("max-wals", Unsigned(64), "5", Yes, "Write-ahead log segments to keep (0: all)."),
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
    flag("max-txn-ops", Unsigned(64), "128", Yes, "Most operations in one transaction."),
    flag(
        "max-request-bytes",
        Unsigned(64),
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
        Yes,
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
    flag("socket-reuse-port", Bool, "false", Yes, "Set SO_REUSEPORT on listeners.")
        .key("socket-options.reuse-port"),
    flag("socket-reuse-address", Bool, "false", Yes, "Set SO_REUSEADDR on listeners.")
        .key("socket-options.reuse-address"),
    flag("raft-read-timeout", Duration, "5s", Yes, "Read timeout of connections between members.")
        .no_key(),
    flag(
        "raft-write-timeout",
        Duration,
        "5s",
        Yes,
        "Write timeout of connections between members.",
    )
    .no_key(),
    flag("memory-mlock", Bool, "false", Yes, "Lock all memory of the process.").since(6),
    flag(
        "bootstrap-defrag-threshold-megabytes",
        Unsigned(64),
        "0",
        Yes,
        "Defragment at start when that frees at least this much.",
    )
    .since(6),
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
    flag(
        "discovery",
        Text,
        "",
        Yes,
        "URL of v2 discovery: the cluster's directory in a v2 keys API.",
    )
    .until(6),
    flag(
        "discovery-fallback",
        OneOf(&["exit", "proxy"]),
        "proxy",
        Yes,
        "What to do when v2 discovery finds the cluster full. There is no proxy of v2: both exit.",
    )
    .key_until(5),
    flag("discovery-proxy", Text, "", Yes, "HTTP proxy for v2 discovery.").until(6),
    flag("discovery-srv", Text, "", Yes, "Domain whose SRV records name the members."),
    flag("discovery-srv-name", Text, "", Yes, "Suffix of the SRV service name."),
    flag("discovery-token", Text, "", Yes, "Token of v3 discovery.")
        .key("discovery-config.token")
        .since(6),
    flag("discovery-endpoints", List, "", Yes, "Endpoints of v3 discovery.")
        .key("discovery-config.client.endpoints")
        .since(6),
    flag("discovery-dial-timeout", Duration, "2s", Yes, "Dial timeout of v3 discovery.")
        .key("discovery-config.client.dial-timeout")
        .since(6),
    flag("discovery-request-timeout", Duration, "5s", Yes, "Request timeout of v3 discovery.")
        .key("discovery-config.client.request-timeout")
        .since(6),
    flag("discovery-keepalive-time", Duration, "2s", Yes, "Keep-alive time of v3 discovery.")
        .key("discovery-config.client.keepalive-time")
        .since(6),
    flag("discovery-keepalive-timeout", Duration, "6s", Yes, "Keep-alive timeout of v3 discovery.")
        .key("discovery-config.client.keepalive-timeout")
        .since(6),
    flag("discovery-insecure-transport", Bool, "true", Yes, "No TLS for v3 discovery.")
        .key("discovery-config.client.secure.insecure-transport")
        .since(6),
    flag(
        "discovery-insecure-skip-tls-verify",
        Bool,
        "false",
        Yes,
        "No certificate checks for v3 discovery.",
    )
    .key("discovery-config.client.secure.insecure-skip-tls-verify")
    .since(6),
    flag("discovery-cert", Text, "", Yes, "Client certificate for v3 discovery.")
        .key("discovery-config.client.secure.cert")
        .since(6),
    flag("discovery-key", Text, "", Yes, "Key of the client certificate for v3 discovery.")
        .key("discovery-config.client.secure.key")
        .since(6),
    flag("discovery-cacert", Text, "", Yes, "CA for v3 discovery.")
        .key("discovery-config.client.secure.cacert")
        .since(6),
    flag("discovery-user", Text, "", Yes, "User for v3 discovery.")
        .key("discovery-config.client.auth.username")
        .since(6),
    flag("discovery-password", Text, "", Yes, "Password for v3 discovery.")
        .key("discovery-config.client.auth.password")
        .since(6),
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
    flag("max-learners", Signed, "1", Yes, "Most learners in the cluster, from 3.6 on.").since(6),
    flag(
        "emulated-version",
        Text,
        "",
        Yes,
        "etcd version to stand for: 3.5, 3.6 or 3.7. A flag of retcd alone. Default: the cluster's; 3.5 for a new one.",
    ),
    flag("enable-v2", Bool, "false", Later, "The v2 API of old.").until(5),
    flag("experimental-enable-v2v3", Text, "", Later, "The v2 API over v3 of old.").until(5),
    flag(
        "v2-deprecation",
        OneOf(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "not-yet",
        Ignored,
        "Stage of the v2 API's removal.",
    ),
    // Security.
    flag("cert-file", Text, "", Yes, "Certificate of the client listeners.")
        .key("client-transport-security.cert-file"),
    flag("key-file", Text, "", Yes, "Key of the client listeners' certificate.")
        .key("client-transport-security.key-file"),
    flag("client-cert-file", Text, "", Yes, "Certificate for this member's own client calls.")
        .key("client-transport-security.client-cert-file"),
    flag("client-key-file", Text, "", Yes, "Key for this member's own client calls.")
        .key("client-transport-security.client-key-file"),
    flag("client-cert-auth", Bool, "false", Yes, "Ask clients for certificates.")
        .key("client-transport-security.client-cert-auth"),
    flag("client-crl-file", Text, "", Yes, "Revoked client certificates.").no_key(),
    flag(
        "client-cert-allowed-hostname",
        List,
        "",
        Yes,
        "Host names that client certificates may carry.",
    )
    .key("client-transport-security.allowed-hostname"),
    flag("trusted-ca-file", Text, "", Yes, "CA that client certificates are checked against.")
        .key("client-transport-security.trusted-ca-file"),
    flag("auto-tls", Bool, "false", Yes, "Generated certificates for clients.")
        .key("client-transport-security.auto-tls"),
    flag("peer-cert-file", Text, "", Yes, "Certificate of the peer listeners.")
        .key("peer-transport-security.cert-file"),
    flag("peer-key-file", Text, "", Yes, "Key of the peer listeners' certificate.")
        .key("peer-transport-security.key-file"),
    flag("peer-client-cert-file", Text, "", Yes, "Certificate for calls to other members.")
        .key("peer-transport-security.client-cert-file"),
    flag("peer-client-key-file", Text, "", Yes, "Key for calls to other members.")
        .key("peer-transport-security.client-key-file"),
    flag("peer-client-cert-auth", Bool, "false", Yes, "Ask other members for certificates.")
        .key("peer-transport-security.client-cert-auth"),
    flag(
        "peer-trusted-ca-file",
        Text,
        "",
        Yes,
        "CA that other members' certificates are checked against.",
    )
    .key("peer-transport-security.trusted-ca-file"),
    flag("peer-auto-tls", Bool, "false", Yes, "Generated certificates for peers.")
        .key("peer-transport-security.auto-tls"),
    flag("peer-crl-file", Text, "", Yes, "Revoked peer certificates.").no_key(),
    flag("peer-cert-allowed-cn", List, "", Yes, "Common names that peer certificates may carry.")
        .key("peer-transport-security.allowed-cn"),
    flag(
        "peer-cert-allowed-hostname",
        List,
        "",
        Yes,
        "Host names that peer certificates may carry.",
    )
    .key("peer-transport-security.allowed-hostname"),
    flag(
        "peer-skip-client-san-verification",
        Bool,
        "false",
        Yes,
        "No check of the address in peer certificates.",
    )
    .key("peer-transport-security.skip-client-san-verification")
    .since(6),
    flag(
        "self-signed-cert-validity",
        Unsigned(64),
        "1",
        Yes,
        "Years that generated certificates last.",
    ),
    flag("cipher-suites", List, "", Yes, "TLS cipher suites."),
    flag("tls-min-version", Text, "TLS1.2", Yes, "Lowest TLS version."),
    flag("tls-max-version", Text, "", Yes, "Highest TLS version."),
    flag("cors", Text, "*", Yes, "Allowed origins."),
    flag("host-whitelist", Text, "*", Yes, "Accepted host names of requests."),
    flag("auth-token", Text, "simple", Yes, "Kind of auth token."),
    flag("bcrypt-cost", Unsigned(64), "10", Yes, "Cost of hashing a password."),
    flag("auth-token-ttl", Unsigned(64), "300", Yes, "Seconds that a simple token lasts."),
    // Logs, metrics, tracing.
    flag("logger", Text, "zap", Yes, "Only zap, the structured form."),
    flag(
        "log-outputs",
        List,
        "default",
        Yes,
        "default, stderr, stdout and files, with commas; or systemd/journal alone.",
    ),
    flag("log-level", Text, "info", Yes, "debug, info, warn, error, dpanic, panic or fatal."),
    flag("log-format", Text, "json", Yes, "Form of a log line.").since(6),
    flag("enable-log-rotation", Bool, "false", Yes, "Rotate the log file."),
    flag("log-rotation-config-json", Text, LOG_ROTATION, Yes, "How to rotate the log file."),
    flag("enable-pprof", Bool, "false", Yes, "Profiling over HTTP."),
    flag("metrics", Text, "basic", Yes, "Detail of the metrics."),
    flag(
        "warning-apply-duration",
        Duration,
        "100ms",
        Yes,
        "Time to apply a request that is worth a warning.",
    )
    .since(6),
    flag(
        "warning-unary-request-duration",
        Duration,
        "300ms",
        Yes,
        "Time to answer a request that is worth a warning.",
    )
    .since(6),
    flag("enable-distributed-tracing", Bool, "false", Yes, "OpenTelemetry tracing.").since(6),
    flag("distributed-tracing-address", Text, "localhost:4317", Yes, "OpenTelemetry collector.")
        .since(6),
    flag("distributed-tracing-service-name", Text, "etcd", Yes, "OpenTelemetry service name.")
        .since(6),
    flag("distributed-tracing-instance-id", Text, "", Yes, "OpenTelemetry instance.").since(6),
    flag("distributed-tracing-sampling-rate", Signed, "0", Yes, "Traces in a million requests.")
        .since(6),
    // Features and maintenance.
    flag(
        "corrupt-check-time",
        Duration,
        "0",
        Yes,
        "Time between two checks of the members' hashes.",
    )
    .since(6),
    flag(
        "compact-hash-check-time",
        Duration,
        "1m",
        Yes,
        "Time between two checks of compaction hashes.",
    )
    .since(6),
    flag(
        "compaction-batch-limit",
        Signed,
        "0",
        Yes,
        "Revisions that one step of a compaction removes (0: 1000).",
    )
    .since(6),
    flag(
        "compaction-sleep-interval",
        Duration,
        "0",
        Yes,
        "Pause between two steps of a compaction (0: 10ms).",
    )
    .since(6),
    flag(
        "watch-progress-notify-interval",
        Duration,
        "0",
        Yes,
        "Time between two progress messages of an idle watch (0: 10m).",
    )
    .since(6),
    flag(
        "downgrade-check-time",
        Duration,
        "5s",
        Yes,
        "Time between a leader's looks at a downgrade (0: none).",
    )
    .since(6),
    flag(
        "experimental-initial-corrupt-check",
        Bool,
        "false",
        Yes,
        "An old name of the feature gate InitialCorruptCheck.",
    )
    .until(6),
    flag(
        "experimental-compact-hash-check-enabled",
        Bool,
        "false",
        Yes,
        "An old name of the feature gate CompactHashCheck.",
    )
    .until(6),
    flag(
        "experimental-enable-lease-checkpoint",
        Bool,
        "false",
        Yes,
        "An old name of the feature gate LeaseCheckpoint.",
    )
    .until(6),
    flag(
        "experimental-enable-lease-checkpoint-persist",
        Bool,
        "false",
        Yes,
        "An old name of the feature gate LeaseCheckpointPersist.",
    )
    .until(6),
    flag(
        "experimental-txn-mode-write-with-shared-buffer",
        Bool,
        "true",
        Yes,
        "An old name of the feature gate TxnModeWriteWithSharedBuffer.",
    )
    .until(6),
    flag(
        "experimental-stop-grpc-service-on-defrag",
        Bool,
        "false",
        Yes,
        "An old name of the feature gate StopGRPCServiceOnDefrag.",
    )
    .until(6),
    // The proxy of v2, gone with it.
    flag("proxy", OneOf(&["off", "readonly", "on"]), "off", Later, "The proxy of v2.").until(5),
    flag("proxy-failure-wait", Unsigned(64), "5000", Ignored, "Of the proxy of v2.").until(5),
    flag("proxy-refresh-interval", Unsigned(64), "30000", Ignored, "Of the proxy of v2.").until(5),
    flag("proxy-dial-timeout", Unsigned(64), "1000", Ignored, "Of the proxy of v2.").until(5),
    flag("proxy-write-timeout", Unsigned(64), "5000", Ignored, "Of the proxy of v2.").until(5),
    flag("proxy-read-timeout", Unsigned(64), "0", Ignored, "Of the proxy of v2.").until(5),
    flag("feature-gates", Text, "", Yes, "Features to turn on or off.").since(6),
    flag("unsafe-no-fsync", Bool, "false", Yes, "Never sync; loses data at a power cut."),
    flag("config-file", Text, "", Yes, "Configuration file.").no_key(),
    flag("version", Bool, "false", Yes, "Print the version and exit.").no_key(),
];

/// etcd's default for the rotation of log files.
const LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

/// Names of 3.5 and 3.6 that mean a flag of the table.
pub(super) const ALIASES: &[Alias] = &[
    alias("experimental-compact-hash-check-time", "compact-hash-check-time", 5),
    alias("experimental-compaction-batch-limit", "compaction-batch-limit", 5),
    alias("experimental-compaction-sleep-interval", "compaction-sleep-interval", 5),
    alias("experimental-corrupt-check-time", "corrupt-check-time", 5),
    alias("experimental-downgrade-check-time", "downgrade-check-time", 5),
    alias("experimental-memory-mlock", "memory-mlock", 5),
    alias(
        "experimental-bootstrap-defrag-threshold-megabytes",
        "bootstrap-defrag-threshold-megabytes",
        5,
    ),
    alias("experimental-peer-skip-client-san-verification", "peer-skip-client-san-verification", 5),
    alias("experimental-snapshot-catchup-entries", "snapshot-catchup-entries", 5),
    alias("experimental-warning-apply-duration", "warning-apply-duration", 5),
    alias("experimental-warning-unary-request-duration", "warning-unary-request-duration", 6),
    alias("experimental-watch-progress-notify-interval", "watch-progress-notify-interval", 5),
    alias("experimental-enable-distributed-tracing", "enable-distributed-tracing", 5),
    alias("experimental-distributed-tracing-address", "distributed-tracing-address", 5),
    alias("experimental-distributed-tracing-service-name", "distributed-tracing-service-name", 5),
    alias("experimental-distributed-tracing-instance-id", "distributed-tracing-instance-id", 5),
    alias("experimental-distributed-tracing-sampling-rate", "distributed-tracing-sampling-rate", 5),
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

/// Keys of the configuration file that mean a flag of the table, besides the keys in the table.
pub(super) const KEY_ALIASES: &[(&str, &str)] = &[
    // etcd's own misspelling, in 3.5 and 3.6.
    ("experimental-snapshot-catch-up-entries", "experimental-snapshot-catchup-entries"),
    (
        "experimental-peer-skip-client-san-verification",
        "experimental-peer-skip-client-san-verification",
    ),
];

/// The flag of that name, an old name included.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let current = ALIASES.iter().find(|alias| alias.old == name).map_or(name, |alias| alias.new);
    FLAGS.iter().find(|flag| flag.name == current)
}

/// Every name that a flag can be given by.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|flag| flag.name).chain(ALIASES.iter().map(|alias| alias.old))
}
