//! Users of a cluster whose members run different programs: what one member grants or takes back, all of them hold to.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use tonic::Code;

use super::kind::Kind;
use super::members::Cluster;
use super::setup::Setup;
use crate::api::{Api, AuthRequest, Refusal, Request};

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Calls that were let through, each with a token of some member at some member.
    pub allowed: usize,
    /// Calls that were refused with the right text.
    pub refused: usize,
}

/// Texts of refusals.
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");
const NO_TOKEN: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
const BAD_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");

/// How long real etcd may take to know a token.
const PATIENCE: Duration = Duration::from_secs(5);

/// Each member hands out a token for each use, and takes those of all.
///
/// Tokens that one member made must hold at ours at once: a token says from which entry on, and a member waits for it. Real etcd waits for
/// the entry before, and may not know a token yet that was just made elsewhere.
///
/// # Errors
/// A member does something else than it should, or the members' hashes differ at the end.
pub async fn run(setup: &Setup, kinds: Vec<Kind>) -> Result<Report> {
    let are_ours: Vec<bool> = kinds.iter().map(Kind::is_ours).collect();
    let cluster = Cluster::start(setup.members(kinds)).await?;
    let mut report = Report { allowed: 0, refused: 0 };
    prepare(member(&cluster, 0)).await?;
    let root = login(member(&cluster, 0), "root", "pw-root").await?;

    let mut tokens = Vec::new();
    for (from, node) in cluster.nodes().iter().enumerate() {
        let token = login(node.api(), "alice", "pw-alice").await?;
        for (at, other) in cluster.nodes().iter().enumerate() {
            let alice = other.api().with_token(Some(&token));
            let context = || format!("a token of {} at {}", node.name, other.name);
            let patience = if are_ours[at] { Duration::ZERO } else { PATIENCE };
            let key = format!("k/{from}/{at}");
            put_once_known(&alice, &key, patience).await.map_err(said).with_context(context)?;
            report.allowed += 1;
            refuses(&alice, "x", DENIED).await.with_context(context)?;
            refuses(other.api(), "k", NO_TOKEN).await.with_context(context)?;
            report.refused += 2;
        }
        tokens.push(token);
    }

    // A grant at one member counts at the next one, behind a linearizable read there.
    let grant = pb::AuthRoleGrantPermissionRequest {
        name: "writer".into(),
        perm: Some(permission("x", "")),
    };
    let second = member(&cluster, 1).with_token(Some(&root));
    call(&second, AuthRequest::RoleGrantPermission(grant)).await?;
    for (token, node) in tokens.iter().zip(cluster.nodes().iter().rev()) {
        barrier(&node.api().with_token(Some(&root))).await?;
        let alice = node.api().with_token(Some(token));
        put(&alice, "x").await.map_err(said).with_context(|| format!("at {}", node.name))?;
        report.allowed += 1;
    }

    // A new password ends all tokens, wherever they were made.
    let password = pb::AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "pw-new".into(),
        ..Default::default()
    };
    let last = member(&cluster, cluster.nodes().len() - 1).with_token(Some(&root));
    call(&last, AuthRequest::UserChangePassword(password)).await?;
    for node in cluster.nodes() {
        barrier(&node.api().with_token(Some(&root))).await?;
        for token in &tokens {
            let alice = node.api().with_token(Some(token));
            refuses(&alice, "k", BAD_TOKEN).await.with_context(|| format!("at {}", node.name))?;
            report.refused += 1;
        }
        let token = login(node.api(), "alice", "pw-new").await?;
        put(&node.api().with_token(Some(&token)), "k").await.map_err(said)?;
        report.allowed += 1;
    }

    call(&second, AuthRequest::AuthDisable(pb::AuthDisableRequest {})).await?;
    for node in cluster.nodes() {
        barrier(node.api()).await.with_context(|| format!("{} without rights", node.name))?;
    }
    cluster.equal_hashes().await?;
    cluster.stop().await?;
    Ok(report)
}

fn member(cluster: &Cluster, index: usize) -> &Api {
    cluster.nodes()[index].api()
}

fn said(refusal: Refusal) -> anyhow::Error {
    anyhow!("{refusal:?}")
}

async fn call(api: &Api, request: AuthRequest) -> Result<()> {
    let name = request.name();
    api.call(Request::Auth(request)).await.map(drop).map_err(said).context(name)
}

/// A user root, and a user who may write below `k`.
async fn prepare(api: &Api) -> Result<()> {
    for role in ["root", "writer"] {
        let role = pb::AuthRoleAddRequest { name: role.into() };
        call(api, AuthRequest::RoleAdd(role)).await?;
    }
    let grant = pb::AuthRoleGrantPermissionRequest {
        name: "writer".into(),
        perm: Some(permission("k", "l")),
    };
    call(api, AuthRequest::RoleGrantPermission(grant)).await?;
    for (user, role) in [("root", "root"), ("alice", "writer")] {
        let add = pb::AuthUserAddRequest {
            name: user.into(),
            password: format!("pw-{user}"),
            ..Default::default()
        };
        call(api, AuthRequest::UserAdd(add)).await?;
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        call(api, AuthRequest::UserGrantRole(grant)).await?;
    }
    call(api, AuthRequest::AuthEnable(pb::AuthEnableRequest {})).await
}

fn permission(key: &'static str, range_end: &'static str) -> Permission {
    Permission {
        perm_type: Type::Readwrite.into(),
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(range_end.as_bytes()),
    }
}

async fn login(api: &Api, user: &str, password: &str) -> Result<String> {
    api.authenticate(user, password).await.map_err(said).with_context(|| format!("login {user}"))
}

/// Puts, again for so long as the token is not known.
async fn put_once_known(api: &Api, key: &str, patience: Duration) -> Result<(), Refusal> {
    let end = Instant::now() + patience;
    loop {
        match put(api, key).await {
            Err(refusal) if refusal.code == BAD_TOKEN.0 && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

async fn put(api: &Api, key: &str) -> Result<(), Refusal> {
    let put = pb::PutRequest { key: Bytes::from(key.to_owned()), ..pb::PutRequest::default() };
    api.put(put).await.map(drop)
}

/// Lets a member catch up with what was acknowledged elsewhere.
async fn barrier(api: &Api) -> Result<()> {
    let read = pb::RangeRequest { key: Bytes::from_static(b"k"), ..pb::RangeRequest::default() };
    api.range(read).await.map(drop).map_err(said)
}

async fn refuses(api: &Api, key: &str, (code, text): (Code, &str)) -> Result<()> {
    let refused = put(api, key).await;
    ensure!(
        refused.as_ref().is_err_and(|refusal| refusal.code == code && refusal.message == text),
        "a put of {key:?} gives {refused:?}"
    );
    Ok(())
}
