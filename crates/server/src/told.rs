//! Values as etcd writes them into its log: durations, sizes, requests; and the line that tells the whole configuration.
//!
//! Values are never written here, only their sizes: a log must not hold what users store. Keys are, cut where they are long.

#[cfg(test)]
pub(crate) mod lines;
mod request;
mod trace;
mod transfer;

use std::time::Duration;

pub(crate) use request::{Form, delete_range, proposal, put, range, shown_key, txn};
use serde_json::{Value, json};
pub(crate) use trace::{TRACE_AFTER, Trace};
pub(crate) use transfer::Transfer;

use crate::config::{AutoCompaction, ClusterState, Config, Feature, Url};
use crate::version::{OWN, Version};

/// A duration in Go's form: `1h2m3.5s`, `114.634982ms`, `908.024µs`.
#[must_use]
pub(crate) fn go_duration(duration: Duration) -> String {
    /// `whole` and a fraction of `digits` digits, without its zeroes at the end.
    fn decimal(whole: u128, fraction: u128, digits: usize) -> String {
        let text = format!("{whole}.{fraction:0digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos / 1_000, nanos % 1_000, 3)),
        1_000_000..1_000_000_000 => {
            format!("{}ms", decimal(nanos / 1_000_000, nanos % 1_000_000, 6))
        }
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = format!("{}s", decimal(rest / 1_000_000_000, rest % 1_000_000_000, 9));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// How long ago something was, in words, as Go's programs say it: `now`, `2 seconds ago`.
pub(crate) fn ago(elapsed: Duration) -> String {
    let (count, unit) = match elapsed.as_secs() {
        0 => return "now".to_owned(),
        seconds @ 1..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds => (seconds / 3600, "hour"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// A moment since 1970 as RFC 3339, in microseconds and UTC.
pub(crate) fn utc(unix: Duration) -> String {
    let days = unix.as_secs() / 86_400;
    let (hour, minute, second) =
        (unix.as_secs() / 3600 % 24, unix.as_secs() / 60 % 60, unix.as_secs() % 60);
    // From days to a date in years that begin in March, so that a leap day comes last (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let micros = unix.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// A size in units of 1000: `25 kB`, `2.1 GB`.
#[must_use]
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut scale, mut unit) = (1_u64, 0);
    while bytes / scale >= 1000 && unit + 1 < UNITS.len() {
        scale *= 1000;
        unit += 1;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match tenths {
        _ if unit == 0 => format!("{bytes} {name}"),
        // Rounded to a tenth.
        0..100 => {
            let tenths = (u128::from(bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        _ => format!("{} {name}", (u128::from(bytes) + u128::from(scale) / 2) / u128::from(scale)),
    }
}

/// Tells of a request that took long.
pub(crate) fn slow(
    took: Duration,
    limit: Duration,
    prefix: &str,
    request: &str,
    response: &str,
    error: Option<&dyn std::fmt::Display>,
) {
    let took = go_duration(took);
    let expected_duration = go_duration(limit);
    match error {
        Some(error) => tracing::warn!(
            took, expected_duration, prefix, request, response, error = %error, "apply request took too long"
        ),
        None => tracing::warn!(
            took,
            expected_duration,
            prefix,
            request,
            response,
            "apply request took too long"
        ),
    }
}

/// Says that a request did not fit the quota and that the alarm is raised for it.
pub(crate) fn over_quota(config: &Config) {
    let quota = config.quota_bytes().unwrap_or(u64::MAX);
    tracing::warn!(
        quota_size_bytes = quota,
        quota_size = human_bytes(quota),
        error = "etcdserver: mvcc: database space exceeded",
        "message exceeded backend quota; raising alarm"
    );
}

/// Tells that the database is to be defragmented.
pub(crate) fn defragmenting(path: &std::path::Path, size: backend::Size) {
    tracing::info!(
        path = %path.display(),
        current_db_size_bytes = size.total_bytes,
        current_db_size = human_bytes(size.total_bytes),
        current_db_size_in_use_bytes = size.in_use_bytes,
        current_db_size_in_use = human_bytes(size.in_use_bytes),
        "defragmenting"
    );
}

/// Tells what that came to.
pub(crate) fn defragmented(path: &std::path::Path, stats: &backend::DefragStats, took: Duration) {
    let backend::DefragStats { before, after } = stats;
    tracing::info!(
        path = %path.display(),
        current_db_size_bytes_diff = after.total_bytes.cast_signed() - before.total_bytes.cast_signed(),
        current_db_size_bytes = after.total_bytes,
        current_db_size = human_bytes(after.total_bytes),
        current_db_size_in_use_bytes_diff =
            after.in_use_bytes.cast_signed() - before.in_use_bytes.cast_signed(),
        current_db_size_in_use_bytes = after.in_use_bytes,
        current_db_size_in_use = human_bytes(after.in_use_bytes),
        took = go_duration(took),
        "finished defragmenting directory"
    );
}

/// `A=true,B=false`.
fn features(features: &[Feature]) -> String {
    let shown = features.iter().map(|feature| format!("{}={}", feature.name, feature.is_on));
    shown.collect::<Vec<_>>().join(",")
}

/// URLs without the passwords that are in them.
pub(crate) fn urls(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::without_password).collect()
}

/// The same of URLs that are no more than text.
pub(crate) fn url_texts(urls: &[String]) -> Vec<String> {
    let shown = |text: &String| {
        Url::parse(text).map_or_else(|_| String::new(), |url| url.without_password())
    };
    urls.iter().map(shown).collect()
}

/// Tells the configuration. There are more fields than an event can have, so they go as one list of pairs, which the log's
/// writer takes apart.
pub(crate) fn start(config: &Config, version: Version, has_begun: bool) {
    let cluster: Vec<String> = config
        .initial_cluster
        .iter()
        .flat_map(|(name, members)| {
            urls(members).into_iter().map(move |url| format!("{name}={url}"))
        })
        .collect();
    let (mode, retention) = match config.auto_compaction {
        AutoCompaction::Off => ("periodic", Value::from("0s")),
        AutoCompaction::Periodic(period) => ("periodic", go_duration(period).into()),
        AutoCompaction::Revision(count) => ("revision", format!("{count}ns").into()),
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let quota = match config.quota_bytes() {
        Some(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
        None => config.quota_backend_bytes,
    };
    let mut fields: Vec<(&str, Value)> = vec![
        ("etcd-version", version.to_string().into()),
        ("git-sha", format!("retcd-{OWN}").into()),
        ("go-version", "none".into()),
        ("go-os", std::env::consts::OS.into()),
        ("go-arch", crate::version::go_arch().into()),
        ("max-cpu-set", processors.into()),
        ("max-cpu-available", processors.into()),
        ("retcd-version", OWN.into()),
        ("member-initialized", has_begun.into()),
        ("name", config.name.clone().into()),
        ("data-dir", config.data_dir.display().to_string().into()),
        (
            "wal-dir",
            config
                .wal_dir
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default()
                .into(),
        ),
        (
            "wal-dir-dedicated",
            if config.has_own_wal_dir() {
                config.wal_path().display().to_string()
            } else {
                String::new()
            }
            .into(),
        ),
        ("member-dir", config.member_dir().display().to_string().into()),
        ("force-new-cluster", config.force_new_cluster.into()),
        ("heartbeat-interval", go_duration(config.heartbeat).into()),
        ("election-timeout", go_duration(config.election).into()),
        ("initial-election-tick-advance", config.initial_election_tick_advance.into()),
        ("snapshot-count", config.snapshot_count(version).into()),
        ("max-wals", config.max_wals.into()),
        ("max-snapshots", config.max_snapshots.into()),
        ("snapshot-catchup-entries", config.snapshot_catchup_entries.into()),
        ("initial-advertise-peer-urls", urls(&config.initial_advertise_peer_urls).into()),
        ("listen-peer-urls", urls(&config.listen_peer_urls).into()),
        ("advertise-client-urls", urls(&config.advertise_client_urls).into()),
        ("listen-client-urls", urls(&config.listen_client_urls).into()),
        ("listen-metrics-urls", urls(&config.listen_metrics_urls).into()),
        ("cors", config.cors.clone().into()),
        ("host-whitelist", config.host_whitelist.clone().into()),
        ("initial-cluster", cluster.join(",").into()),
        (
            "initial-cluster-state",
            match config.initial_cluster_state {
                ClusterState::New => "new",
                ClusterState::Existing => "existing",
            }
            .into(),
        ),
        ("initial-cluster-token", config.initial_cluster_token.clone().into()),
        ("quota-backend-bytes", quota.into()),
        ("max-request-bytes", config.max_request_bytes.into()),
        ("max-concurrent-streams", config.max_concurrent_streams.into()),
        ("pre-vote", config.pre_vote.into()),
    ];
    let is_old = version.minor < 6;
    if !is_old {
        fields.push(("feature-gates", features(&config.features).into()));
    }
    fields.push(("initial-corrupt-check", config.initial_corrupt_check.into()));
    fields.push(("corrupt-check-time-interval", go_duration(config.corrupt_check_time).into()));
    if is_old {
        // From 3.6 on it is one of the features.
        fields.push(("compact-check-time-enabled", config.compact_hash_check_enabled.into()));
    }
    fields.extend([
        ("compact-check-time-interval", go_duration(config.compact_hash_check_time).into()),
        ("auto-compaction-mode", mode.into()),
        ("auto-compaction-retention", retention.clone()),
        ("auto-compaction-interval", retention),
        ("downgrade-check-interval", go_duration(config.downgrade_check_interval).into()),
    ]);
    if !is_old {
        fields.push(("max-learners", config.max_learners.into()));
        // The stage that is enforced, whatever was asked for.
        fields.push(("v2-deprecation", "write-only".into()));
    }
    tracing::info!(zap_fields = json!(fields).to_string(), "starting an etcd server");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_gos() {
        for (nanos, want) in [
            (0, "0s"),
            (100_000_000, "100ms"),
            (114_634_982, "114.634982ms"),
            (908_024, "908.024µs"),
            (60_000_000_000, "1m0s"),
            (7_000_000_000, "7s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (999, "999ns"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), want);
        }
        for (bytes, want) in [
            (0, "0 B"),
            (999, "999 B"),
            (24_576, "25 kB"),
            (2_147_483_648, "2.1 GB"),
            (1_500, "1.5 kB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(human_bytes(bytes), want);
        }
    }

    #[test]
    fn moments_are_dates() {
        for (secs, want) in [
            (0, "1970-01-01T00:00:00.000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000007Z"),
            (1_795_361_290, "2026-11-22T15:28:10.000007Z"),
        ] {
            assert_eq!(utc(Duration::new(secs, 7_000)), want);
        }
    }

    #[test]
    fn passwords_stay_out_of_urls() {
        let url = Url::parse("http://user:secret@127.0.0.1:1").unwrap();
        assert_eq!(urls(&[url]), ["http://user:***@127.0.0.1:1"]);
        let text = "http://user:secret@127.0.0.1:1".to_owned();
        assert_eq!(url_texts(&[text]), ["http://user:***@127.0.0.1:1"]);
    }
}
