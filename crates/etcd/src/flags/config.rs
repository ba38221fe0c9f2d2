//! From flag values to a checked [`Config`], in etcd's order of checks and with its texts.

use std::path::PathBuf;
use std::time::Duration;

use server::config::{
    AutoCompaction, ClusterState, Config, TRACES_PER_MILLION_MAX, Tracing, Url,
    parse_initial_cluster,
};
use server::version::Version;

use super::gates::Gates;
use super::parse::{Source, Values};
use super::security::IsSecure;
use super::table::{Kind, Service, find};
use super::{Notice, advertised_host, discovery, go, security};
use crate::discovery::{Discovery, KeysService};

/// The name of a member that has none.
const DEFAULT_NAME: &str = "default";
/// etcd refuses a longer election timeout.
const ELECTION_TIMEOUT_MAX_MS: u64 = 50_000;
/// Above this etcd warns.
const RECOMMENDED_REQUEST_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// etcd raises a shorter interval to this.
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
/// etcd raises shorter timeouts to this.
const RAFT_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// How etcd begins about URLs in a file that cannot be read: this alone goes to stderr, not to the log.
pub(super) const URLS_UNUSABLE: &str = "unexpected error setting up ";
/// What etcd says about clients' URLs that nobody is told of.
pub(super) const ADVERTISE_MISSING: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";

/// Looks values up: what was given, else the default.
pub(super) struct Lookup<'a> {
    pub(super) values: &'a Values,
}

impl Lookup<'_> {
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.values.get(name) {
            Some(given) => given.value.clone(),
            None => find(name).map_or_else(String::new, |flag| flag.default.to_owned()),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<bool, String> {
        go::boolean(&self.text(name)).ok_or_else(|| unreadable(name))
    }

    pub(super) fn integer<T: TryFrom<i128>>(&self, name: &str) -> Result<T, String> {
        go::integer(&self.text(name))
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| unreadable(name))
    }

    /// A count that nobody reaches is as good as the largest of 32 bits.
    pub(super) fn count<T: TryFrom<i128>>(&self, name: &str) -> Result<T, String> {
        go::integer(&self.text(name))
            .and_then(|n| T::try_from(n.min(u32::MAX.into())).ok())
            .ok_or_else(|| unreadable(name))
    }

    fn nanoseconds(&self, name: &str) -> Result<i64, String> {
        go::nanoseconds(&self.text(name)).map_err(|_| unreadable(name))
    }

    /// A duration; a negative one is over at once, as etcd's timers have it.
    pub(super) fn duration(&self, name: &str) -> Result<Duration, String> {
        let nanos = self.nanoseconds(name)?;
        Ok(u64::try_from(nanos).map_or(Duration::ZERO, Duration::from_nanos))
    }

    /// A duration in which zero stands for another default.
    fn duration_or(&self, name: &str, default: Duration) -> Result<Duration, String> {
        match self.nanoseconds(name)? {
            0 => Ok(default),
            _ => self.duration(name),
        }
    }

    /// A list with commas, without its empty items.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn urls(&self, name: &str) -> Result<Vec<Url>, String> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(Vec::new());
        }
        Url::parse_list(&text).map_err(|error| format!("{URLS_UNUSABLE}{name}: {error}"))
    }
}

fn unreadable(name: &str) -> String {
    format!("--{name} has a value that cannot be read")
}

/// Makes the configuration of the member; says besides how other members are found.
pub(super) fn build(
    values: &Values,
    notices: &mut Vec<Notice>,
) -> Result<(Config, Option<Discovery>), String> {
    let get = Lookup { values };
    refuse_two_names(values)?;
    let emulated_version = match get.text("emulated-version").as_str() {
        "" => None,
        text => Some(server::version::parse_emulated(text)?),
    };
    tell_what_is_of_old(values, emulated_version, notices);
    refuse_what_is_not_there(values)?;
    let gates = Gates::of(&get)?;

    let name = get.text("name");
    let data_dir = match get.text("data-dir") {
        path if path.is_empty() => {
            let path = format!("{name}.etcd");
            notices.push(Notice::DataDirDefault { path: path.clone() });
            PathBuf::from(path)
        }
        path => PathBuf::from(path),
    };
    let listen_peer_urls = get.urls("listen-peer-urls")?;
    let listen_client_urls = get.urls("listen-client-urls")?;
    let listen_client_http_urls = get.urls("listen-client-http-urls")?;
    let listen_metrics_urls = get.urls("listen-metrics-urls")?;
    let advertised = |name: &str, listened: &[Url]| -> Result<Vec<Url>, String> {
        let urls = get.urls(name)?;
        Ok(advertised_host::instead_of_default(&urls, find(name), listened).unwrap_or(urls))
    };
    let initial_advertise_peer_urls = advertised("initial-advertise-peer-urls", &listen_peer_urls)?;
    let advertise_client_urls = advertised("advertise-client-urls", &listen_client_urls)?;
    let listened = || {
        listen_peer_urls
            .iter()
            .chain(&listen_client_urls)
            .chain(&listen_client_http_urls)
            .chain(&listen_metrics_urls)
    };
    for url in listened() {
        url.check_bindable().map_err(|error| error.to_string())?;
    }
    if let Some(url) = listen_client_urls.iter().find(|url| listen_client_http_urls.contains(url)) {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }
    if listen_client_http_urls.is_empty() {
        notices.push(Notice::Warning(
            "Running http and grpc server on single port. This is not recommended for production."
                .to_owned(),
        ));
    }
    check_hosts("initial-advertise-peer-urls", &initial_advertise_peer_urls, emulated_version)?;
    check_hosts("advertise-client-urls", &advertise_client_urls, emulated_version)?;
    // An empty list on the command line holds an empty endpoint.
    if get.is_given("discovery-endpoints") && get.text("discovery-endpoints").is_empty() {
        return Err(match get.text("discovery-token").is_empty() {
            true => "both --discovery-token and --discovery-endpoints must be set",
            false => "--discovery-endpoints must not contain empty endpoints",
        }
        .to_owned());
    }
    let discovery = discovery::build(&get, emulated_version)?;

    let heartbeat_ms = get.integer::<u64>("heartbeat-interval")?;
    let election_ms = get.integer::<u64>("election-timeout")?;
    check_intervals(heartbeat_ms, election_ms)?;
    // A file may leave the default standing.
    let is_asked_for = |name: &str| {
        values
            .get(name)
            .is_some_and(|given| given.source != Source::File && !given.value.is_empty())
    };
    // A proxy of v2, which etcd 3.5 may become, has no URL of its own; what is advertised then is the default.
    let may_be_proxy =
        matches!(&discovery, Some(Discovery::Keys(KeysService { falls_back_to_proxy: true, .. })));
    if is_asked_for("listen-client-urls") && !get.is_given("advertise-client-urls") && !may_be_proxy
    {
        return Err(ADVERTISE_MISSING.to_owned());
    }
    let mode = get.text("auto-compaction-mode");
    match mode.as_str() {
        "periodic" | "revision" => {}
        // 3.5 asks for one only where there is something to keep.
        "" if emulated_version.is_none_or(|version| version.minor < 6) => {}
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    }
    let compact_hash_check_time = get.duration("compact-hash-check-time")?;
    if compact_hash_check_time.is_zero() {
        let (name, value) = match values.get("compact-hash-check-time") {
            Some(given) => (given.as_name.as_str(), given.value.as_str()),
            None => ("compact-hash-check-time", ""),
        };
        let value = if value.starts_with('-') { value } else { "0s" };
        return Err(format!("--{name} must be >0 (set to {value})"));
    }
    if name == DEFAULT_NAME {
        notices.push(Notice::DefaultName);
    }

    let max_request_bytes = get.count::<u64>("max-request-bytes")?;
    if max_request_bytes > RECOMMENDED_REQUEST_BYTES_MAX {
        notices.push(Notice::Warning(format!(
            "exceeded recommended request limit: --max-request-bytes is {max_request_bytes}, recommended are at most \
             {RECOMMENDED_REQUEST_BYTES_MAX}"
        )));
    }

    let founders = match discovery {
        None => initial_cluster(&get, &name, &initial_advertise_peer_urls),
        // Found later.
        Some(_) => Ok(vec![(name.clone(), initial_advertise_peer_urls.clone())]),
    };
    let (initial_cluster, unreadable) = match founders {
        Ok(members) => (members, None),
        Err(why) => (Vec::new(), Some(why)),
    };

    let any_secure = |urls: &[Url]| urls.iter().any(Url::is_secure);
    let is_secure = IsSecure {
        clients: [&listen_client_urls, &listen_client_http_urls, &listen_metrics_urls]
            .into_iter()
            .any(|urls| any_secure(urls)),
        peers: any_secure(&listen_peer_urls) || any_secure(&initial_advertise_peer_urls),
    };
    let security = security::build(&get, &is_secure, notices)?;
    let has_checkpoints = gates.is_on("LeaseCheckpoint");
    let keeps_checkpoints = gates.is_on("LeaseCheckpointPersist");
    if has_checkpoints && !keeps_checkpoints {
        notices.push(Notice::Warning(
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate \
             LeaseCheckpointPersist"
                .to_owned(),
        ));
    }
    let progress = get.duration_or("watch-progress-notify-interval", Duration::from_secs(600))?;

    let config = Config {
        client_tls: security.client_tls,
        peer_tls: security.peer_tls,
        client_auto_tls: security.client_auto_tls,
        peer_auto_tls: security.peer_auto_tls,
        self_signed_years: security.self_signed_years,
        wal_dir: Some(get.text("wal-dir")).filter(|path| !path.is_empty()).map(PathBuf::from),
        data_dir,
        listen_peer_urls,
        listen_client_urls,
        listen_client_http_urls,
        listen_metrics_urls,
        cors: get.list("cors"),
        host_whitelist: get.list("host-whitelist"),
        initial_advertise_peer_urls,
        advertise_client_urls,
        initial_cluster,
        initial_cluster_state: match get.text("initial-cluster-state").as_str() {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        initial_cluster_token: get.text("initial-cluster-token"),
        emulated_version,
        force_new_cluster: get.boolean("force-new-cluster")?,
        max_learners: usize::try_from(get.integer::<i64>("max-learners")?)
            .map_err(|_| "membership: too many learner members in cluster".to_owned())?,
        // Untouched, or 0, it is etcd's default for the version.
        snapshot_count: Some(get.integer::<u64>("snapshot-count")?)
            .filter(|count| get.is_given("snapshot-count") && *count > 0),
        snapshot_catchup_entries: get.integer("snapshot-catchup-entries")?,
        max_snapshots: get.count("max-snapshots")?,
        max_wals: get.count("max-wals")?,
        heartbeat: Duration::from_millis(heartbeat_ms),
        election: Duration::from_millis(election_ms),
        initial_election_tick_advance: get.boolean("initial-election-tick-advance")?,
        pre_vote: get.boolean("pre-vote")?,
        strict_reconfig_check: get.boolean("strict-reconfig-check")?,
        lease_checkpoint_interval: has_checkpoints
            .then_some(server::config::LEASE_CHECKPOINT_INTERVAL),
        lease_checkpoint_persist: keeps_checkpoints,
        downgrade_check_interval: get.duration("downgrade-check-time")?,
        auto_compaction: auto_compaction(&mode, &get.text("auto-compaction-retention"))?,
        max_request_bytes,
        auth_token: get.text("auth-token"),
        auth_token_ttl: Duration::from_secs(get.count("auth-token-ttl")?),
        bcrypt_cost: get.count("bcrypt-cost")?,
        max_txn_ops: get.count("max-txn-ops")?,
        max_concurrent_streams: get.integer("max-concurrent-streams")?,
        quota_backend_bytes: get.integer("quota-backend-bytes")?,
        backend_batch_interval: get
            .duration_or("backend-batch-interval", Duration::from_millis(100))?,
        backend_batch_limit: match get.integer::<i64>("backend-batch-limit")? {
            limit if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
            _ => 10_000,
        },
        compaction_batch_limit: match get.integer::<i64>("compaction-batch-limit")? {
            limit if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
            _ => 1_000,
        },
        compaction_sleep: get
            .duration_or("compaction-sleep-interval", Duration::from_millis(10))?,
        watch_progress_interval: progress.max(WATCH_PROGRESS_MIN),
        keepalive_interval: get.duration("grpc-keepalive-interval")?,
        keepalive_timeout: get.duration("grpc-keepalive-timeout")?,
        enable_grpc_gateway: get.boolean("enable-grpc-gateway")?,
        tracing: tracing(&get)?,
        // Anything else is basic, as in etcd.
        metrics_extensive: get.text("metrics") == "extensive",
        // Who looks for faults wants them too.
        enable_pprof: get.boolean("enable-pprof")? || get.text("log-level") == "debug",
        keepalive_min_time: get.duration("grpc-keepalive-min-time")?,
        initial_corrupt_check: gates.is_on("InitialCorruptCheck"),
        corrupt_check_time: get.duration("corrupt-check-time")?,
        compact_hash_check_enabled: gates.is_on("CompactHashCheck"),
        compact_hash_check_time,
        warning_apply_duration: get.duration("warning-apply-duration")?,
        warning_unary_request_duration: get
            .duration_or("warning-unary-request-duration", Duration::from_millis(300))?,
        bootstrap_defrag_threshold_mib: get.count("bootstrap-defrag-threshold-megabytes")?,
        unsafe_no_fsync: get.boolean("unsafe-no-fsync")?,
        socket_reuse_port: get.boolean("socket-reuse-port")?,
        stops_grpc_on_defrag: gates.is_on("StopGRPCServiceOnDefrag"),
        prioritizes_revocations: gates.is_on("PriorityRequest"),
        binds_advertised_address: gates.is_on("SetMemberLocalAddr"),
        features: gates.into_features(),
        // The program's business: flags are only a part of it.
        command_line: Vec::new(),
        name,
    };
    if progress < WATCH_PROGRESS_MIN {
        notices.push(Notice::Warning(format!(
            "the watch progress notify interval is raised from {progress:?} to {WATCH_PROGRESS_MIN:?}"
        )));
    }
    for name in ["raft-read-timeout", "raft-write-timeout"] {
        if get.is_given(name) && get.duration(name)? < RAFT_TIMEOUT_MIN {
            notices.push(Notice::Information(format!(
                "{name} increased to minimum value: {RAFT_TIMEOUT_MIN:?}"
            )));
        } else if get.duration(name)? > RAFT_TIMEOUT_MIN {
            notices.push(Notice::Warning(format!(
                "--{name}={} has no effect: connections between members have limits of their own",
                get.text(name)
            )));
        }
    }
    if get.is_given("discovery-srv-name") && discovery.is_none() {
        notices.push(Notice::Warning(
            "--discovery-srv-name has no effect without --discovery-srv".to_owned(),
        ));
    }
    if let Some(why) = unreadable {
        // As etcd: a member that has a log knows its cluster, and does not read what once founded it.
        if !config.has_log() {
            return Err(why);
        }
        notices.push(Notice::Warning(format!(
            "--initial-cluster is ignored since this member has a log; it could not be read: {why}"
        )));
    }
    Ok((config, discovery))
}

/// Who founds the cluster. With a name of its own a member that is told nothing is alone, whatever it advertises; a nameless one
/// is believed to be untouched, as in etcd.
fn initial_cluster(
    get: &Lookup<'_>,
    name: &str,
    advertised: &[Url],
) -> Result<Vec<(String, Vec<Url>)>, String> {
    let text = get.text("initial-cluster");
    let is_default = find("initial-cluster").is_some_and(|flag| flag.default == text);
    match is_default && name != DEFAULT_NAME {
        true => {
            let name = if name.is_empty() { DEFAULT_NAME } else { name };
            Ok(vec![(name.to_owned(), advertised.to_vec())])
        }
        false => parse_initial_cluster(&text),
    }
}

/// Whether others can be told of the URLs. Sockets of this machine are told by 3.7, and here where no version is asked for.
fn check_hosts(name: &str, urls: &[Url], version: Option<Version>) -> Result<(), String> {
    let tells_sockets = version.is_none_or(|version| version.minor >= 7);
    let wrong = urls.iter().find_map(|url| match url.socket_path() {
        Some(_) if tells_sockets => None,
        Some(path) => {
            let place = path.display().to_string();
            let place = place.split('/').next().unwrap_or_default();
            match place.rsplit_once(':') {
                Some(("", _)) => Some(format!("unexpected empty host ({url})")),
                Some(_) => None,
                None if place.is_empty() => Some("missing port in address".to_owned()),
                None => Some(format!("address {place}: missing port in address")),
            }
        }
        None => url.host().is_empty().then(|| format!("unexpected empty host ({url})")),
    });
    let Some(why) = wrong else { return Ok(()) };
    let form = match name {
        "advertise-client-urls" if version.is_some_and(|version| version.minor >= 7) => {
            "in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\""
        }
        _ => "\"host:port\"",
    };
    let list = urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
    Err(format!("--{name} {list:?} must be {form} ({why})"))
}

/// A flag under two names says two things.
fn refuse_two_names(values: &Values) -> Result<(), String> {
    for (name, given) in values {
        if let Some(other) = &given.other {
            let old = if given.as_name == *name { other } else { &given.as_name };
            if *name == "warning-unary-request-duration" {
                return Err(format!("both --{old} and --{name} flags are set. Use only --{name}"));
            }
            return Err(format!(
                "cannot set --{old} and --{name} at the same time, please use --{name} only"
            ));
        }
    }
    Ok(())
}

/// Values of flags without effect that ask for what is done anyway.
const AS_SERVED: &[(&str, &str)] =
    &[("discovery-fallback", "exit"), ("backend-bbolt-freelist-type", "")];

/// Names and flags that etcd has given up, or that are of no effect here, are told.
fn tell_what_is_of_old(values: &Values, version: Option<Version>, notices: &mut Vec<Notice>) {
    // Those of the v2 API and its proxy.
    let has_v2 = version.is_none_or(|version| version.minor < 6);
    for (name, given) in values {
        let old = &given.as_name;
        if has_v2 && find(name).is_some_and(|flag| flag.until == 5) {
            notices.push(Notice::Warning(format!(
                "--{old} is deprecated in 3.5 and will be decommissioned in 3.6."
            )));
        }
        // 3.5 has no other name for it.
        let has_new_name = version.is_none_or(|version| version.minor >= 6);
        if let Some(gate) = super::gates::of_flag(name).filter(|_| has_new_name) {
            notices.push(Notice::Warning(format!(
                "--{old} is deprecated in v3.6 and will be decommissioned in v3.7. Use '--feature-gates={gate}=true' instead."
            )));
        } else if old != name && has_new_name {
            notices.push(Notice::Warning(format!(
                "--{old} is deprecated in v3.6 and will be decommissioned in v3.7. Use '--{name}' instead."
            )));
        } else if *name == "v2-deprecation" && !has_v2 {
            notices.push(Notice::Warning(
                "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input."
                    .to_owned(),
            ));
        } else if *name == "max-snapshots" {
            notices.push(Notice::Warning(
                "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."
                    .to_owned(),
            ));
        } else if let Some(flag) = find(name)
            && flag.service == Service::Ignored
            && given.value != flag.default
            && !AS_SERVED.contains(&(*name, given.value.as_str()))
        {
            notices.push(Notice::Warning(format!(
                "--{name}={} is accepted and has no effect",
                given.value
            )));
        }
    }
}

/// A flag that asks for something this program does not do yet stops it, by name.
fn refuse_what_is_not_there(values: &Values) -> Result<(), String> {
    for (name, given) in values {
        let Some(flag) = find(name).or_else(|| find(&given.as_name)) else { continue };
        if flag.service == Service::Later
            && given.value != flag.default
            && !asks_for_nothing(flag.kind, given, flag.default)
        {
            let stage = Lookup { values }.text("v2-deprecation");
            return Err(match flag.name {
                "enable-v2" if stage != "not-yet" => {
                    format!("--enable-v2 and --v2-deprecation={stage} are mutually exclusive")
                }
                "enable-v2" | "experimental-enable-v2v3" => format!(
                    "--{}={}: the v2 API is gone; etcd 3.6 has no such flag either. Clients speak v3 (ETCDCTL_API=3)",
                    given.as_name, given.value
                ),
                "proxy" => format!(
                    "--proxy={}: the proxy of v2 is gone; use 'etcd grpc-proxy' or 'etcd gateway'",
                    given.value
                ),
                _ => format!(
                    "--{}={} is a flag of etcd that retcd does not serve yet; only its default ({:?}) is accepted",
                    given.as_name, given.value, flag.default
                ),
            });
        }
    }
    Ok(())
}

/// Whether a value that is spelled in another way than the default means the same.
fn asks_for_nothing(kind: Kind, given: &super::parse::Given, default: &str) -> bool {
    match kind {
        Kind::Bool => go::boolean(&given.value) == go::boolean(default),
        Kind::Unsigned(_) | Kind::Signed => go::integer(&given.value) == go::integer(default),
        Kind::Duration => go::nanoseconds(&given.value) == go::nanoseconds(default),
        Kind::Text | Kind::Urls | Kind::List | Kind::OneOf(_) => false,
    }
}

/// Where spans go; what is said of it is looked at only if they are asked for.
fn tracing(get: &Lookup<'_>) -> Result<Option<Tracing>, String> {
    if !get.boolean("enable-distributed-tracing")? {
        return Ok(None);
    }
    let rate: i64 = get.integer("distributed-tracing-sampling-rate")?;
    let wrong_rate = |what: String| {
        // The misspelling is etcd's.
        format!(
            "distributed tracing configurition is not valid: (tracing sampling rate must be {what})"
        )
    };
    if rate < 0 {
        return Err(wrong_rate("positive".to_owned()));
    }
    let rate_per_million = u32::try_from(rate)
        .ok()
        .filter(|rate| *rate <= TRACES_PER_MILLION_MAX)
        .ok_or_else(|| wrong_rate(format!("less than {TRACES_PER_MILLION_MAX}")))?;
    Ok(Some(Tracing {
        address: get.text("distributed-tracing-address"),
        service_name: get.text("distributed-tracing-service-name"),
        instance_id: get.text("distributed-tracing-instance-id"),
        rate_per_million,
    }))
}

fn check_intervals(heartbeat_ms: u64, election_ms: u64) -> Result<(), String> {
    if heartbeat_ms == 0 {
        return Err(format!("--heartbeat-interval must be >0 (set to {heartbeat_ms}ms)"));
    }
    if election_ms == 0 {
        return Err(format!("--election-timeout must be >0 (set to {election_ms}ms)"));
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return Err(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > ELECTION_TIMEOUT_MAX_MS {
        return Err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MAX_MS}ms"
        ));
    }
    Ok(())
}

/// What the two auto-compaction flags mean together. Less than nothing is nothing: where etcd would turn without a pause.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let unreadable = |why: String| format!("error parsing CompactionRetention: {why}");
    // A bare number counts revisions or hours. A duration is one whatever the mode, which etcd counts as revisions.
    let (count, unit) = match go::decimal(retention) {
        None if retention.is_empty() => (0, 1),
        Some(count) if count >= 0 => (count, 3_600_000_000_000),
        Some(_) | None => (go::nanoseconds(retention).map_err(unreadable)?, 1),
    };
    match mode {
        _ if count <= 0 => Ok(AutoCompaction::Off),
        "periodic" => {
            let nanos = u64::try_from(count).ok().and_then(|count| count.checked_mul(unit));
            let nanos = nanos.filter(|nanos| i64::try_from(*nanos).is_ok());
            let too_long = || unreadable(format!("{retention:?} is too long"));
            Ok(AutoCompaction::Periodic(Duration::from_nanos(nanos.ok_or_else(too_long)?)))
        }
        "revision" => Ok(AutoCompaction::Revision(count)),
        other => Err(format!("unsupported compaction mode {other}")),
    }
}
