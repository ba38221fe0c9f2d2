//! The page itself: every name with where its figure comes from.
//!
//! In four parts: what the member knows, what the stages count, what there is for each peer, and the calls of gRPC.

use machine::Version;
use proto::etcdserverpb::AlarmType;

use super::calls::{CODES, Calls, Method};
use super::kinds::{Counter, Histogram, Level};
use super::peers::{PeerFigures, Snapshots};
use super::text::{Family, Kind, Page};
use super::{Checks, Metrics, process};
use crate::request::Core;
use crate::watching::Watching;

/// Takes one figure out of several.
type Pick<From, To> = fn(&From) -> &To;

/// Of snapshots in one direction: names of the number under way and of their times, the label, the help, and the figures.
type SnapshotNames =
    (&'static str, &'static str, &'static str, &'static str, Pick<PeerFigures, Snapshots>);

/// Features that 3.6 does not know.
const FEATURES_OF_3_7: [&str; 2] = ["FastLeaseKeepAlive", "PriorityRequest"];

/// The value of a gauge whose label says everything.
const SAID: f64 = 1.0;

/// Writes the page as of now.
pub(crate) fn page(core: &Core, watching: &Watching) -> String {
    let metrics = &core.metrics;
    metrics.scrapes.count();
    let mut page = Page::default();
    add_member(&mut page, core);
    add_store(&mut page, core, watching);
    add_stages(&mut page, metrics);
    add_requests(&mut page, metrics);
    add_checks(&mut page, &metrics.checks);
    add_peers(&mut page, core);
    add_calls(&mut page, &metrics.calls);
    process::add(&mut page);
    page.gauge(
        "promhttp_metric_handler_requests_in_flight",
        "Pages that are being made, this one included.",
        1.0,
    );
    page.family(Kind::Counter, "promhttp_metric_handler_requests_total", "Pages made, by status.")
        .value(&[("code", "200")], metrics.scrapes.get().saturating_sub(1) as f64)
        .value(&[("code", "500")], 0.0)
        .value(&[("code", "503")], 0.0);
    page.finish()
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

/// What the member knows of itself and its cluster.
fn add_member(page: &mut Page, core: &Core) {
    let (board, facts, metrics) = (&core.board, core.facts.get(), &core.metrics);
    let id = format!("{:x}", core.member_id);
    page.family(Kind::Gauge, "etcd_server_id", "This member's id, as a label.")
        .value(&[("server_id", &id)], SAID);
    page.family(Kind::Gauge, "etcd_server_version", "The etcd version stood for, as a label.")
        .value(&[("server_version", &core.version.to_string())], SAID);
    page.family(
        Kind::Gauge,
        "etcd_server_go_version",
        "The language of this server, which is not Go, as a label.",
    )
    .value(&[("server_go_version", "rust")], SAID);
    if let Some(version) = facts.membership.version() {
        let version = format!("{}.{}", version.major, version.minor);
        page.family(Kind::Gauge, "etcd_cluster_version", "The cluster's version, as a label.")
            .value(&[("cluster_version", &version)], SAID);
    }
    let mut gauge = |name, help, value: f64| page.gauge(name, help, value);
    let has_leader = board.leader() != raft::NodeId::NONE;
    gauge("etcd_server_has_leader", "Whether this member knows a leader.", flag(has_leader));
    gauge("etcd_server_is_leader", "Whether this member leads.", flag(board.is_leader()));
    gauge("etcd_server_is_learner", "Whether this member is a learner.", flag(board.is_learner()));
    gauge(
        "etcd_server_proposals_committed_total",
        "The index up to which the log is committed.",
        board.commit().0 as f64,
    );
    gauge(
        "etcd_server_proposals_applied_total",
        "The index up to which the log is applied.",
        board.applied().0 as f64,
    );
    gauge(
        "etcd_server_proposals_pending",
        "Proposals whose outcome is awaited.",
        core.waiters.len() as f64,
    );
    gauge(
        "etcd_server_quota_backend_bytes",
        "Size of the database at which writes stop; 0 is never.",
        core.config.quota_bytes().unwrap_or(0) as f64,
    );
    let auth_revision = backend::schema::auth::revision(&core.backend.view()).unwrap_or(0);
    gauge(
        "etcd_debugging_auth_revision",
        "Revision of users, roles and permissions.",
        auth_revision as f64,
    );
    let promotions = &metrics.promotions;
    page.counter(
        "etcd_server_learner_promote_successes",
        "Learners made voters by this member as leader.",
        &promotions.succeeded,
    );
    let failures = promotions.failures();
    if !failures.is_empty() {
        let mut family = page.family(
            Kind::Counter,
            "etcd_server_learner_promote_failures",
            "Learners that this member as leader did not make voters.",
        );
        for (reason, count) in failures {
            family.value(&[("Reason", &reason)], count as f64);
        }
    }
    if core.version >= Version::v3(6, 0) {
        let mut family = page.family(
            Kind::Gauge,
            "etcd_debugging_server_alarms",
            "Alarms that stand, by member and kind.",
        );
        for alarm in facts.alarms.list(AlarmType::None as i32) {
            let kind = machine::alarm_name(alarm.alarm);
            let id = format!("{:x}", alarm.member_id);
            family.value(&[("alarm_type", &kind), ("server_id", &id)], SAID);
        }
        drop(family);
        let mut family = page.family(
            Kind::Gauge,
            "etcd_server_feature_enabled",
            "Whether each feature that can be switched is on.",
        );
        for feature in &core.config.features {
            if core.version >= Version::v3(7, 0) || !FEATURES_OF_3_7.contains(&feature.name) {
                family.value(
                    &[("name", feature.name), ("stage", feature.stage)],
                    flag(feature.is_on),
                );
            }
        }
    }
}

/// What the store and the watch hub say when they are asked.
fn add_store(page: &mut Page, core: &Core, watching: &Watching) {
    let size = core.backend.size();
    let (watch, pending) = watching.stats();
    for (name, help, value) in [
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Size of the database's file.",
            size.total_bytes as f64,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Size of the database without its free pages.",
            size.in_use_bytes as f64,
        ),
        (
            "etcd_mvcc_db_open_read_transactions",
            "Read transactions of the database that are always open: all readers share one.",
            1.0,
        ),
        ("etcd_debugging_mvcc_keys_total", "Keys that exist.", core.store.key_count() as f64),
        (
            "etcd_debugging_mvcc_current_revision",
            "The store's revision.",
            core.store.current_revision() as f64,
        ),
        (
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction; -1 before the first.",
            core.store.compact_revision() as f64,
        ),
        ("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", watch.streams as f64),
        ("etcd_debugging_mvcc_watcher_total", "Watchers.", watch.watchers as f64),
        (
            "etcd_debugging_mvcc_slow_watcher_total",
            "Watchers that have not been given everything yet.",
            watch.lagging as f64,
        ),
        (
            "etcd_debugging_mvcc_pending_events_total",
            "Messages to watchers that wait for their streams.",
            pending as f64,
        ),
    ] {
        page.gauge(name, help, value);
    }
    page.family(
        Kind::Counter,
        "etcd_debugging_mvcc_events_total",
        "Events given to watchers, each counted for each watcher.",
    )
    .value(&[], watch.events as f64);
}

/// What the stages count.
fn add_stages(page: &mut Page, metrics: &Metrics) {
    let Metrics { consensus, log, applying, committing, leases, calls, .. } = metrics;
    let counters: [(&str, &str, &Counter); 23] = [
        (
            "etcd_server_leader_changes_seen_total",
            "How often another leader was seen.",
            &consensus.leader_changes,
        ),
        (
            "etcd_server_heartbeat_send_failures_total",
            "Heartbeats that a leader sent too late, for example because it was short of processors.",
            &consensus.late_heartbeats,
        ),
        (
            "etcd_server_proposals_failed_total",
            "Proposals without an outcome.",
            &consensus.failed_proposals,
        ),
        (
            "etcd_server_slow_read_indexes_total",
            "Linearizable reads that could not be confirmed in time.",
            &consensus.slow_reads,
        ),
        (
            "etcd_server_read_indexes_failed_total",
            "Linearizable reads that could not be confirmed.",
            &consensus.failed_reads,
        ),
        ("etcd_server_slow_apply_total", "Entries that took long to apply.", &applying.slow),
        ("etcd_mvcc_put_total", "Puts applied.", &applying.puts),
        ("etcd_mvcc_delete_total", "Deletes applied.", &applying.deletes),
        ("etcd_mvcc_txn_total", "Transactions of several operations applied.", &applying.txns),
        ("etcd_mvcc_range_total", "Ranges read.", &applying.ranges),
        ("etcd_debugging_mvcc_range_total", "The same as etcd_mvcc_range_total.", &applying.ranges),
        (
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Rows of the database that compactions removed.",
            &applying.compacted_rows,
        ),
        ("etcd_debugging_lease_granted_total", "Leases granted.", &leases.granted),
        ("etcd_debugging_lease_revoked_total", "Leases revoked.", &leases.revoked),
        (
            "etcd_debugging_lease_renewed_total",
            "Renewals of leases, by this member as leader.",
            &leases.renewed,
        ),
        (
            "etcd_debugging_server_lease_expired_total",
            "Leases that ran out and were revoked by this member as leader.",
            &leases.expired,
        ),
        (
            "etcd_network_client_grpc_received_bytes_total",
            "Bytes of clients' messages.",
            &calls.bytes.received,
        ),
        (
            "etcd_network_client_grpc_sent_bytes_total",
            "Bytes of messages to clients.",
            &calls.bytes.sent,
        ),
        (
            "etcd_server_health_success",
            "Answers of /health that all is well.",
            &metrics.checks.succeeded,
        ),
        (
            "etcd_server_health_failures",
            "Answers of /health that not all is well.",
            &metrics.checks.failed,
        ),
        // Zero in etcd's servers too: they are the proxy's.
        (
            "etcd_grpc_proxy_events_coalescing_total",
            "Of the gRPC proxy, which this is not.",
            &NOTHING,
        ),
        ("etcd_debugging_store_expires_total", "Of the v2 store, which is not served.", &NOTHING),
        (
            "etcd_debugging_store_watch_requests_total",
            "Of the v2 store, which is not served.",
            &NOTHING,
        ),
    ];
    for (name, help, counter) in counters {
        // Gone with 3.6.
        if name == "etcd_debugging_mvcc_range_total" && calls.times_ranges {
            continue;
        }
        page.counter(name, help, counter);
    }
    let gauges: [(&str, &str, f64); 9] = [
        (
            "etcd_disk_wal_write_bytes_total",
            "Bytes written to the log.",
            log.written_bytes.get() as f64,
        ),
        (
            "etcd_disk_defrag_inflight",
            "Whether the database is being defragmented.",
            committing.defragmenting.get() as f64,
        ),
        (
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "Bytes of the pairs put.",
            applying.put_bytes.get() as f64,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_last",
            "When the last compaction finished, in seconds since 1970; 0 before.",
            applying.last_compaction.get() as f64,
        ),
        (
            "etcd_server_snapshot_apply_in_progress_total",
            "Whether a leader's snapshot is being put in place.",
            applying.installing.get() as f64,
        ),
        ("etcd_grpc_proxy_cache_hits_total", "Of the gRPC proxy, which this is not.", 0.0),
        ("etcd_grpc_proxy_cache_keys_total", "Of the gRPC proxy, which this is not.", 0.0),
        ("etcd_grpc_proxy_cache_misses_total", "Of the gRPC proxy, which this is not.", 0.0),
        ("etcd_grpc_proxy_watchers_coalescing_total", "Of the gRPC proxy, which this is not.", 0.0),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value);
    }
    page.gauge("etcd_debugging_store_watchers", "Of the v2 store, which is not served.", 0.0);
    let histograms: [(&str, &str, &Histogram); 20] = [
        (
            "etcd_disk_wal_fsync_duration_seconds",
            "Writing a batch to the log and making it durable.",
            &log.fsync,
        ),
        ("etcd_disk_wal_write_duration_seconds", "Encoding a batch for the log.", &log.write),
        (
            "etcd_disk_backend_commit_duration_seconds",
            "Commits of the database.",
            &committing.commit,
        ),
        (
            "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
            "Merging small pages, in a commit.",
            &committing.rebalance,
        ),
        (
            "etcd_debugging_disk_backend_commit_spill_duration_seconds",
            "Splitting large pages, in a commit.",
            &committing.spill,
        ),
        (
            "etcd_debugging_disk_backend_commit_write_duration_seconds",
            "Writing pages and making them durable, in a commit.",
            &committing.write,
        ),
        (
            "etcd_disk_backend_defrag_duration_seconds",
            "Defragmentations of the database.",
            &committing.defrag,
        ),
        (
            "etcd_disk_backend_snapshot_duration_seconds",
            "Sending the database to clients.",
            &calls.snapshot,
        ),
        ("etcd_mvcc_hash_duration_seconds", "Hashing the database.", &calls.hash),
        ("etcd_mvcc_hash_rev_duration_seconds", "Hashing up to a revision.", &calls.hash_kv),
        (
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Steps of compactions of the database.",
            &applying.compaction_steps,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Compactions of the database.",
            &applying.compactions,
        ),
        (
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "Beginnings of compactions, in the index.",
            &applying.index_compactions,
        ),
        ("etcd_debugging_lease_ttl_total", "Times to live of granted leases.", &leases.ttl),
        (
            "etcd_debugging_snap_save_total_duration_seconds",
            "Saving raft snapshots.",
            &committing.snap_save,
        ),
        (
            "etcd_debugging_snap_save_marshalling_duration_seconds",
            "Encoding raft snapshots.",
            &committing.snap_marshal,
        ),
        (
            "etcd_snap_fsync_duration_seconds",
            "Writing raft snapshots and making them durable.",
            &committing.snap_fsync,
        ),
        (
            "etcd_snap_db_fsync_duration_seconds",
            "Making received databases durable.",
            &committing.snap_db_fsync,
        ),
        (
            "etcd_snap_db_save_total_duration_seconds",
            "Receiving databases.",
            &committing.snap_db_save,
        ),
        ("etcd_server_range_duration_seconds", "Ranges that clients asked for.", &calls.range),
    ];
    for (name, help, histogram) in histograms {
        // Known from 3.6 on.
        if name == "etcd_server_range_duration_seconds" {
            if calls.times_ranges {
                let mut family = page.family(Kind::Histogram, name, help);
                if calls.failed_range.count() > 0 {
                    family.histogram(&[("success", "false")], &calls.failed_range);
                }
                family.histogram(&[("success", "true")], histogram);
            }
            continue;
        }
        page.histogram(name, help, histogram);
    }
    let mut family = page.family(
        Kind::Histogram,
        "etcd_server_apply_duration_seconds",
        "Applying entries, by what they ask for.",
    );
    for (op, success, times) in applying.times() {
        let success = if success { "true" } else { "false" };
        family.histogram(&[("op", op), ("success", success), ("version", "v3")], times);
    }
}

/// Times that etcd measures from 3.7 on.
fn add_requests(page: &mut Page, metrics: &Metrics) {
    if let Some(requests) = &metrics.requests {
        let mut family = page.family(
            Kind::Histogram,
            "etcd_server_request_duration_seconds",
            "How long requests took, by what they ask for.",
        );
        let mut times: Vec<_> = requests.times().collect();
        times.sort_unstable_by_key(|(name, is_success, _)| (*is_success, *name));
        for (name, is_success, times) in times {
            let success = if is_success { "true" } else { "false" };
            family.histogram(&[("success", success), ("type", name)], times);
        }
    }
    if let Some(sends) = &metrics.watch_sends {
        for (name, help, histogram) in [
            (
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
                "Making watch responses with events.",
                &sends.events,
            ),
            (
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
                "Making watch responses with events, for each event.",
                &sends.per_event,
            ),
            (
                "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
                "Making watch responses that tell of the watcher itself.",
                &sends.control,
            ),
            (
                "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
                "Making watch responses that tell of progress.",
                &sends.progress,
            ),
        ] {
            page.histogram(name, help, histogram);
        }
    }
}

/// A figure of what is not here.
static NOTHING: Counter = Counter::new();

fn add_checks(page: &mut Page, checks: &Checks) {
    checks.with_named(|named| {
        let mut family = page.family(
            Kind::Gauge,
            "etcd_server_healthcheck",
            "Whether each check succeeded when it was last made.",
        );
        for ((check, endpoint), figures) in named {
            family.value(&[("name", check), ("type", endpoint)], figures.last.get() as f64);
        }
        drop(family);
        let mut family =
            page.family(Kind::Counter, "etcd_server_healthchecks_total", "Checks made.");
        for ((check, endpoint), figures) in named {
            for (status, counter) in [("error", &figures.failed), ("success", &figures.succeeded)] {
                if counter.get() > 0 {
                    let labels = [("name", *check), ("status", status), ("type", *endpoint)];
                    family.value(&labels, counter.get() as f64);
                }
            }
        }
    });
}

/// What there is for each of the other members.
fn add_peers(page: &mut Page, core: &Core) {
    let local = format!("{:x}", core.member_id);
    let peers: Vec<_> = core
        .metrics
        .peers
        .all()
        .into_iter()
        .map(|(id, figures)| (format!("{id:x}"), figures))
        .collect();
    if core.version >= Version::v3(6, 0) {
        let mut known: Vec<(String, bool)> = core
            .facts
            .get()
            .membership
            .members()
            .map(|member| (format!("{:x}", member.id), true))
            .collect();
        // Those that have gone stay, as in Go.
        for (id, _) in &peers {
            if !known.iter().any(|(known, _)| known == id) {
                known.push((id.clone(), false));
            }
        }
        known.sort_unstable();
        let name = "etcd_network_known_peers";
        let mut family =
            page.family(Kind::Gauge, name, "Whether each is a member, this one included.");
        for (id, is_member) in &known {
            family.value(&[("Local", &local), ("Remote", id)], flag(*is_member));
        }
    }
    let mut each = |kind, name, help, add: &dyn Fn(&mut Family<'_>, &str, &PeerFigures)| {
        let mut family = page.family(kind, name, help);
        for (id, figures) in &peers {
            add(&mut family, id, figures);
        }
    };
    let counters: [(&str, &str, &str, Pick<PeerFigures, Counter>); 8] = [
        ("etcd_network_peer_sent_bytes_total", "To", "Bytes sent to members.", |peer| {
            &peer.sent_bytes
        }),
        (
            "etcd_network_peer_received_bytes_total",
            "From",
            "Bytes received from members.",
            |peer| &peer.received_bytes,
        ),
        (
            "etcd_network_peer_sent_failures_total",
            "To",
            "Messages to members that were lost here.",
            |peer| &peer.send_failures,
        ),
        (
            "etcd_network_peer_received_failures_total",
            "From",
            "Messages of members that were not taken.",
            |peer| &peer.receive_failures,
        ),
        ("etcd_network_snapshot_send_success", "To", "Snapshots that members took.", |peer| {
            &peer.snapshots_sent.succeeded
        }),
        (
            "etcd_network_snapshot_send_failures",
            "To",
            "Snapshots that members did not take.",
            |peer| &peer.snapshots_sent.failed,
        ),
        (
            "etcd_network_snapshot_receive_success",
            "From",
            "Snapshots taken from members.",
            |peer| &peer.snapshots_received.succeeded,
        ),
        (
            "etcd_network_snapshot_receive_failures",
            "From",
            "Snapshots of members that were not taken.",
            |peer| &peer.snapshots_received.failed,
        ),
    ];
    for (name, label, help, figure) in counters {
        each(Kind::Counter, name, help, &|family, id, peer| {
            // As in Go, a series begins with its first event.
            if figure(peer).get() > 0 {
                family.value(&[(label, id)], figure(peer).get() as f64);
            }
        });
    }
    each(
        Kind::Histogram,
        "etcd_network_peer_round_trip_time_seconds",
        "Smoothed time from a question to a member to its answer.",
        &|family, id, peer| {
            if peer.round_trip.count() > 0 {
                family.histogram(&[("To", id)], &peer.round_trip);
            }
        },
    );
    each(
        Kind::Gauge,
        "etcd_network_active_peers",
        "Whether each member is reached.",
        &|family, id, peer| {
            if let Some(is_active) = peer.is_active() {
                family.value(&[("Local", &local), ("Remote", id)], flag(is_active));
            }
        },
    );
    each(
        Kind::Counter,
        "etcd_network_disconnected_peers_total",
        "How often each member was lost.",
        &|family, id, peer| {
            if peer.lost.get() > 0 {
                family.value(&[("Local", &local), ("Remote", id)], peer.lost.get() as f64);
            }
        },
    );
    let snapshots: [SnapshotNames; 2] = [
        (
            "etcd_network_snapshot_send_inflights_total",
            "etcd_network_snapshot_send_total_duration_seconds",
            "To",
            "Sending snapshots to members.",
            |peer| &peer.snapshots_sent,
        ),
        (
            "etcd_network_snapshot_receive_inflights_total",
            "etcd_network_snapshot_receive_total_duration_seconds",
            "From",
            "Receiving snapshots of members.",
            |peer| &peer.snapshots_received,
        ),
    ];
    for (under_way, took, label, help, figures) in snapshots {
        let has_any = |figures: &Snapshots| {
            let Snapshots { succeeded, failed, under_way, .. } = figures;
            succeeded.get() + failed.get() > 0 || under_way.get() > 0
        };
        each(Kind::Gauge, under_way, help, &|family, id, peer| {
            if has_any(figures(peer)) {
                family.value(&[(label, id)], Level::get(&figures(peer).under_way) as f64);
            }
        });
        each(Kind::Histogram, took, help, &|family, id, peer| {
            if figures(peer).took.count() > 0 {
                family.histogram(&[(label, id)], &figures(peer).took);
            }
        });
    }
}

/// Calls of gRPC.
fn add_calls(page: &mut Page, calls: &Calls) {
    // etcd adds locks and elections after it has told which methods there are: they show when they are used.
    let is_late = |method: &Method| method.service.starts_with("v3");
    let mut methods = calls.methods();
    methods.retain(|method| !is_late(method) || method.started.get() > 0);
    let labels = |method: &Method| {
        [
            ("grpc_method", method.name.clone()),
            ("grpc_service", method.service.clone()),
            ("grpc_type", method.kind.to_owned()),
        ]
    };
    let simple: [(&str, &str, Pick<Method, Counter>); 3] = [
        ("grpc_server_started_total", "Calls that began.", |method| &method.started),
        ("grpc_server_msg_received_total", "Messages of clients.", |method| &method.received),
        ("grpc_server_msg_sent_total", "Messages to clients.", |method| &method.sent),
    ];
    for (name, help, figure) in simple {
        let mut family = page.family(Kind::Counter, name, help);
        for method in &methods {
            let labels = labels(method);
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
            family.value(&labels, figure(method).get() as f64);
        }
    }
    let mut by_code: Vec<(usize, &str)> = CODES.into_iter().enumerate().collect();
    by_code.sort_unstable_by_key(|(_, name)| *name);
    let mut family = page.family(
        Kind::Counter,
        "grpc_server_handled_total",
        "Calls that ended, by their codes.",
    );
    for (code, code_name) in by_code {
        for method in &methods {
            let [name, service, kind] = labels(method);
            let handled = method.handled.get(code).map_or(0, Counter::get);
            if handled == 0 && is_late(method) {
                continue;
            }
            family.value(
                &[
                    ("grpc_code", code_name),
                    (name.0, &name.1),
                    (service.0, &service.1),
                    (kind.0, &kind.1),
                ],
                handled as f64,
            );
        }
    }
    drop(family);
    let mut family = page.family(
        Kind::Histogram,
        "grpc_server_handling_seconds",
        "How long calls took, to the end of their streams.",
    );
    for method in &methods {
        let Some(handling) = &method.handling else { continue };
        let labels = labels(method);
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        family.histogram(&labels, handling);
    }
    drop(family);
    let mut family = page.family(
        Kind::Counter,
        "etcd_server_client_requests_total",
        "Calls that began, by the version that clients say they speak.",
    );
    for (version, [unary, streams]) in calls.clients() {
        for (kind, count) in [("stream", streams), ("unary", unary)] {
            if count > 0 {
                let labels = [("client_api_version", version.as_str()), ("type", kind)];
                family.value(&labels, count as f64);
            }
        }
    }
}
