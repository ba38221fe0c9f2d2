//! From flag values to a checked [`Config`], in etcd's order of checks and with its texts.

use std::path::PathBuf;
use std::time::Duration;

use server::config::{AutoCompaction, ClusterState, Config, Url, parse_initial_cluster};

use super::parse::Values;
use super::table::{Service, find};
use super::{Notice, go, security};
use crate::log::Output;

/// etcd refuses a longer election timeout.
const ELECTION_TIMEOUT_MAX_MS: u64 = 50_000;
/// Above this etcd warns.
const RECOMMENDED_REQUEST_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Looks values up: what was given, else the default.
pub(super) struct Lookup<'a> {
    values: &'a Values,
}

impl Lookup<'_> {
    fn is_given(&self, name: &str) -> bool {
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

    fn duration(&self, name: &str) -> Result<Duration, String> {
        go::duration(&self.text(name)).ok_or_else(|| unreadable(name))
    }

    /// A duration in which zero stands for another default.
    fn duration_or(&self, name: &str, default: Duration) -> Result<Duration, String> {
        Ok(Some(self.duration(name)?).filter(|d| !d.is_zero()).unwrap_or(default))
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
        Url::parse_list(&text)
            .map_err(|error| format!("unexpected error setting up {name}: {error}"))
    }
}

fn unreadable(name: &str) -> String {
    format!("--{name} has a value that cannot be read")
}

/// How and where to log.
pub(super) struct Logging {
    pub(super) level: String,
    pub(super) output: Output,
}

/// Makes the configuration, and says how to log.
pub(super) fn build(
    values: &Values,
    notices: &mut Vec<Notice>,
) -> Result<(Config, Logging), String> {
    refuse_what_is_not_there(values)?;
    let get = Lookup { values };
    let log = logging(&get)?;

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
    let initial_advertise_peer_urls = get.urls("initial-advertise-peer-urls")?;
    let advertise_client_urls = get.urls("advertise-client-urls")?;
    for url in listen_peer_urls.iter().chain(&listen_client_urls) {
        url.check_bindable().map_err(|error| error.to_string())?;
    }
    for url in listen_peer_urls
        .iter()
        .chain(&listen_client_urls)
        .chain(&initial_advertise_peer_urls)
        .chain(&advertise_client_urls)
    {
        url.check_served().map_err(|error| error.to_string())?;
    }
    if get.is_given("listen-client-urls") && !get.is_given("advertise-client-urls") {
        return Err(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                .to_owned(),
        );
    }

    let heartbeat_ms = get.integer::<u64>("heartbeat-interval")?;
    let election_ms = get.integer::<u64>("election-timeout")?;
    check_intervals(heartbeat_ms, election_ms)?;

    let max_request_bytes = get.integer::<u64>("max-request-bytes")?;
    if max_request_bytes > RECOMMENDED_REQUEST_BYTES_MAX {
        notices.push(Notice::Warning(format!(
            "exceeded recommended request limit: --max-request-bytes is {max_request_bytes}, recommended are at most \
             {RECOMMENDED_REQUEST_BYTES_MAX}"
        )));
    }

    let initial_cluster = if get.is_given("initial-cluster") {
        parse_initial_cluster(&get.text("initial-cluster"))?
    } else {
        // Untouched, it means this member alone, under its own name and URLs.
        vec![(name.clone(), initial_advertise_peer_urls.clone())]
    };

    let security = security::build(&get, notices)?;
    let has_checkpoints = get.boolean("experimental-enable-lease-checkpoint")?;
    let keeps_checkpoints = get.boolean("experimental-enable-lease-checkpoint-persist")?;
    if keeps_checkpoints && !has_checkpoints {
        return Err(
            "setting experimental-enable-lease-checkpoint-persist requires experimental-enable-lease-checkpoint"
                .to_owned(),
        );
    }

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
        initial_advertise_peer_urls,
        advertise_client_urls,
        initial_cluster,
        initial_cluster_state: match get.text("initial-cluster-state").as_str() {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        initial_cluster_token: get.text("initial-cluster-token"),
        emulated_version: match get.text("emulated-version").as_str() {
            "" => None,
            text => Some(server::version::parse_emulated(text)?),
        },
        force_new_cluster: get.boolean("force-new-cluster")?,
        max_learners: match get.integer::<i64>("max-learners")? {
            0 => return Err("--max-learners must be larger than 0".to_owned()),
            count => usize::try_from(count)
                .map_err(|_| "--max-learners must be larger than 0".to_owned())?,
        },
        // Untouched, or 0, it is etcd's default for the version.
        snapshot_count: Some(get.integer::<u64>("snapshot-count")?)
            .filter(|count| get.is_given("snapshot-count") && *count > 0),
        snapshot_catchup_entries: get.integer("snapshot-catchup-entries")?,
        max_snapshots: get.integer("max-snapshots")?,
        max_wals: get.integer("max-wals")?,
        heartbeat: Duration::from_millis(heartbeat_ms),
        election: Duration::from_millis(election_ms),
        initial_election_tick_advance: get.boolean("initial-election-tick-advance")?,
        pre_vote: get.boolean("pre-vote")?,
        strict_reconfig_check: get.boolean("strict-reconfig-check")?,
        lease_checkpoint_interval: has_checkpoints
            .then_some(server::config::LEASE_CHECKPOINT_INTERVAL),
        lease_checkpoint_persist: keeps_checkpoints,
        downgrade_check_interval: get.duration("downgrade-check-time")?,
        auto_compaction: auto_compaction(
            &get.text("auto-compaction-mode"),
            &get.text("auto-compaction-retention"),
        )?,
        max_request_bytes,
        max_txn_ops: get.integer("max-txn-ops")?,
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
        watch_progress_interval: get
            .duration_or("watch-progress-notify-interval", Duration::from_secs(600))?
            .max(Duration::from_millis(100)),
        keepalive_interval: get.duration("grpc-keepalive-interval")?,
        keepalive_timeout: get.duration("grpc-keepalive-timeout")?,
        enable_grpc_gateway: get.boolean("enable-grpc-gateway")?,
        name,
    };
    check_own_entry(&config)?;
    Ok((config, log))
}

/// A flag that asks for something this program does not do yet stops it, by name.
fn refuse_what_is_not_there(values: &Values) -> Result<(), String> {
    for (name, given) in values {
        let Some(flag) = find(name).or_else(|| find(&given.as_name)) else { continue };
        if flag.service == Service::Later
            && given.value != flag.default
            && !asks_for_nothing(flag.kind, given, flag.default)
        {
            return Err(format!(
                "--{}={} is a flag of etcd that retcd does not serve yet; only its default ({:?}) is accepted",
                given.as_name, given.value, flag.default
            ));
        }
    }
    Ok(())
}

/// Whether a value that is spelled in another way than the default means the same.
fn asks_for_nothing(kind: super::table::Kind, given: &super::parse::Given, default: &str) -> bool {
    use super::table::Kind;
    match kind {
        Kind::Bool => go::boolean(&given.value) == go::boolean(default),
        Kind::Unsigned(_) | Kind::Signed => go::integer(&given.value) == go::integer(default),
        Kind::Duration => go::duration(&given.value) == go::duration(default),
        Kind::Text | Kind::Urls | Kind::OneOf(_) => false,
    }
}

fn logging(get: &Lookup<'_>) -> Result<Logging, String> {
    match get.text("logger").as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    const LEVELS: &[&str] = &["debug", "info", "warn", "error", "dpanic", "panic", "fatal"];
    let level = get.text("log-level");
    if !LEVELS.contains(&level.as_str()) {
        return Err(format!("unknown log level {level:?}; it is one of {}", LEVELS.join(", ")));
    }
    let output = match get.text("log-outputs").as_str() {
        "default" | "stderr" => Output::Stderr,
        "stdout" => Output::Stdout,
        other => {
            return Err(format!(
                "--log-outputs={other} is not served yet: only default, stderr and stdout are"
            ));
        }
    };
    Ok(Logging { level, output })
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

/// What the two auto-compaction flags mean together.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let unreadable = || {
        format!(
            "error parsing CompactionRetention: {retention:?} is neither a number nor a duration"
        )
    };
    match mode {
        "periodic" => {
            let period = match go::integer(retention) {
                Some(hours) => {
                    let hours = u64::try_from(hours).map_err(|_| unreadable())?;
                    Duration::from_secs(hours.checked_mul(3600).ok_or_else(unreadable)?)
                }
                None => go::duration(retention).ok_or_else(unreadable)?,
            };
            Ok(if period.is_zero() {
                AutoCompaction::Off
            } else {
                AutoCompaction::Periodic(period)
            })
        }
        "revision" => {
            let revisions = go::integer(retention)
                .and_then(|n| i64::try_from(n).ok())
                .ok_or_else(unreadable)?;
            Ok(if revisions <= 0 {
                AutoCompaction::Off
            } else {
                AutoCompaction::Revision(revisions)
            })
        }
        other => Err(format!("unknown auto-compaction-mode {other:?}")),
    }
}

/// The member's own entry in `--initial-cluster` must be there and say what `--initial-advertise-peer-urls` says.
fn check_own_entry(config: &Config) -> Result<(), String> {
    let Some((_, urls)) = config.initial_cluster.iter().find(|(name, _)| *name == config.name)
    else {
        return Err(format!(
            "couldn't find local name {:?} in the initial cluster configuration",
            config.name
        ));
    };
    let (mut listed, mut advertised) = (urls.clone(), config.initial_advertise_peer_urls.clone());
    listed.sort();
    advertised.sort();
    if listed != advertised {
        let list = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
        return Err(format!(
            "--initial-cluster has {}={} but missing from --initial-advertise-peer-urls={}",
            config.name,
            list(&listed),
            list(&advertised)
        ));
    }
    Ok(())
}
