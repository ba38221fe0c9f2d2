//! For tests and fuzz targets: a member without sockets, whose routes are called directly.
#![allow(
    clippy::unwrap_used,
    reason = "no part of the product: what fails is a failure of the test"
)]
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzz target needs not all of it"))]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest,
};
use rpc::etcdserverpb::auth_client::AuthClient;
use tonic::Request;

use super::Member;
use crate::access::Tokens;
use crate::bootstrap;
use crate::config::{AutoCompaction, ClusterState, Config, Url};
use crate::driver::Failure;
use crate::entrance::Entrance;
use crate::http::ClientRoutes;
use crate::peer::Dialler;
use crate::publish;
use crate::request::Core;
use crate::signal::Stops;
use crate::watching::Watching;

/// A new cluster of one, with etcd's defaults.
pub(crate) fn config(data_dir: &Path) -> Config {
    let peer_urls = vec![Url::parse("http://localhost:2380").unwrap()];
    let client_urls = vec![Url::parse("http://localhost:2379").unwrap()];
    Config {
        name: "default".to_owned(),
        data_dir: data_dir.to_owned(),
        wal_dir: None,
        listen_peer_urls: peer_urls.clone(),
        listen_client_urls: client_urls.clone(),
        listen_client_http_urls: Vec::new(),
        listen_metrics_urls: Vec::new(),
        cors: vec!["*".to_owned()],
        host_whitelist: vec!["*".to_owned()],
        initial_advertise_peer_urls: peer_urls.clone(),
        advertise_client_urls: client_urls,
        initial_cluster: vec![("default".to_owned(), peer_urls)],
        initial_cluster_state: ClusterState::New,
        initial_cluster_token: "etcd-cluster".to_owned(),
        emulated_version: None,
        force_new_cluster: false,
        max_learners: 1,
        snapshot_count: None,
        snapshot_catchup_entries: 5_000,
        max_snapshots: 5,
        max_wals: 5,
        heartbeat: Duration::from_millis(100),
        election: Duration::from_millis(1000),
        initial_election_tick_advance: true,
        strict_reconfig_check: true,
        pre_vote: true,
        lease_checkpoint_interval: None,
        lease_checkpoint_persist: false,
        downgrade_check_interval: Duration::from_secs(5),
        initial_corrupt_check: false,
        corrupt_check_time: Duration::ZERO,
        compact_hash_check_enabled: false,
        compact_hash_check_time: Duration::from_secs(60),
        auto_compaction: AutoCompaction::Off,
        max_request_bytes: 1_572_864,
        max_txn_ops: 128,
        max_concurrent_streams: u32::MAX,
        quota_backend_bytes: 0,
        backend_batch_interval: Duration::from_millis(100),
        backend_batch_limit: 10_000,
        compaction_batch_limit: 1_000,
        compaction_sleep: Duration::from_millis(10),
        watch_progress_interval: Duration::from_secs(600),
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::from_secs(20),
        client_tls: tls::Settings::default(),
        peer_tls: tls::Settings::default(),
        client_auto_tls: false,
        peer_auto_tls: false,
        self_signed_years: 1,
        auth_token: "simple".to_owned(),
        auth_token_ttl: Duration::from_secs(300),
        // The least there is: tests need no protection from guessing.
        bcrypt_cost: 4,
        enable_grpc_gateway: true,
        metrics_extensive: false,
        tracing: None,
        enable_pprof: false,
        command_line: Vec::new(),
        keepalive_min_time: Duration::from_secs(5),
        warning_apply_duration: Duration::from_millis(100),
        warning_unary_request_duration: Duration::from_millis(300),
        bootstrap_defrag_threshold_mib: 0,
        unsafe_no_fsync: false,
        socket_reuse_port: false,
        stops_grpc_on_defrag: false,
        prioritizes_revocations: false,
        binds_advertised_address: false,
        features: Vec::new(),
    }
}

fn start_stages(config: Config) -> (Member, Arc<Watching>) {
    let parts = bootstrap::open(&config, None, 1, false).unwrap();
    start_parts(config, parts)
}

fn start_parts(config: Config, parts: ::bootstrap::Member) -> (Member, Arc<Watching>) {
    let signals = Stops::listen().unwrap();
    let dialler = Dialler::new(config.peer_dial_limit(), None);
    let tokens = Tokens::of(&config.auth_token, config.auth_token_ttl).unwrap();
    Member::start_stages(config, (&dialler, tokens), parts, None, 1, signals).unwrap()
}

/// A member of two whose other one is never there, so that there is no leader; and its services for clients, which a real one
/// would not serve yet.
pub(crate) fn start_without_leader(mut config: Config) -> (Member, Entrance) {
    let other = vec![Url::parse("http://localhost:2381").unwrap()];
    config.initial_cluster.push(("other".to_owned(), other));
    let (member, watching) = start_stages(config);
    let entrance = ClientRoutes::new(&member.core, &watching).all();
    (member, entrance)
}

/// A running member, and what it would serve to clients.
pub(crate) async fn start(config: Config) -> (Member, Entrance) {
    let (member, watching) = start_stages(config);
    serve(member, &watching).await
}

/// The same, with its database in another kind of directory.
#[cfg(test)]
pub(crate) async fn start_on(
    config: Config,
    snap_dir: impl FnOnce(Arc<dyn vfs::Dir>) -> Arc<dyn vfs::Dir>,
) -> (Member, Entrance) {
    let parts = bootstrap::open_on(&config, snap_dir);
    let (member, watching) = start_parts(config, parts);
    serve(member, &watching).await
}

async fn serve(member: Member, watching: &Arc<Watching>) -> (Member, Entrance) {
    publish::publish(&member.core).await;
    crate::cluster_version::settled(&member.core).await;
    let entrance = ClientRoutes::new(&member.core, watching).all();
    (member, entrance)
}

/// Adds root and `u1`, whose role `r1` has these permissions (what, key, end), turns authentication on, and returns the tokens of both.
pub(crate) async fn guard(routes: &Entrance, permissions: &[(Type, &str, &str)]) -> [String; 2] {
    let mut auth = AuthClient::new(routes.clone());
    for (name, role) in [("root", "root"), ("u1", "r1")] {
        let (name, role) = (name.to_owned(), role.to_owned());
        let user = AuthUserAddRequest {
            name: name.clone(),
            password: name.clone(),
            ..AuthUserAddRequest::default()
        };
        auth.user_add(user).await.unwrap();
        auth.role_add(AuthRoleAddRequest { name: role.clone() }).await.unwrap();
        auth.user_grant_role(AuthUserGrantRoleRequest { user: name, role }).await.unwrap();
    }
    for (perm_type, key, range_end) in permissions {
        let (key, range_end) =
            (key.as_bytes().to_vec().into(), range_end.as_bytes().to_vec().into());
        let perm = Some(Permission { perm_type: (*perm_type).into(), key, range_end });
        let grant = AuthRoleGrantPermissionRequest { name: "r1".to_owned(), perm };
        auth.role_grant_permission(grant).await.unwrap();
    }
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    let mut tokens = [String::new(), String::new()];
    for (token, name) in tokens.iter_mut().zip(["root", "u1"]) {
        let login = AuthenticateRequest { name: name.to_owned(), password: name.to_owned() };
        *token = auth.authenticate(login).await.unwrap().into_inner().token;
    }
    tokens
}

/// A call of whoever holds this token.
pub(crate) fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().unwrap());
    request
}

/// What it would serve to other members.
pub(crate) fn peer_routes(member: &Member) -> axum::Router {
    let routes = crate::peer_port::routes(&member.core);
    match member.core.peers.transport() {
        Some(transport) => routes.merge(transport.routes()),
        None => routes,
    }
}

/// What its services share.
pub(crate) fn core(member: &Member) -> &Arc<Core> {
    &member.core
}

/// Why one of its stages has ended, if one has.
pub(crate) fn failure(member: &mut Member) -> Option<Failure> {
    member.failures.try_recv().ok()
}
