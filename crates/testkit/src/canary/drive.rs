//! Gives the secrets to a member: what succeeds, and what is refused, over gRPC, the gateway, and with etcdctl.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use proto::authpb::{Permission, permission};
use proto::etcdserverpb as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::search::Haystack;
use super::secrets::Secrets;
use crate::api::{Api, AuthRequest, Refusal, Request};
use crate::attack::victim::{Port, Victim};
use crate::programs::Programs;

/// For one answer: a put waits for a disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

const ROOT: &str = "root";
const USER: &str = "alice";
const ROLE: &str = "reader";
const LEASE: i64 = 0x5ec_e7ab_cdef;

/// Pages of the ports that operators look at.
const PAGES: &[&str] = &[
    "/metrics",
    "/health",
    "/version",
    "/debug/vars",
    "/debug/pprof/",
    "/debug/pprof/goroutine?debug=2",
    "/debug/pprof/cmdline",
    "/config/local/log",
    "/members",
];

/// Does all of it. Returns what was said in return: refusals, pages, and the output of etcdctl.
pub(super) async fn drive(
    victim: &Victim,
    programs: &Programs,
    secrets: &mut Secrets,
) -> Result<Vec<Haystack>> {
    let mut said = Said::default();
    // A line of level debug: a connection that ends before its handshake.
    drop(victim.connect(Port::Tls).await?);
    let api = Api::connect(&format!("http://{}", victim.address(Port::Plain))).await?;
    let root = enable(&api, secrets).await?;
    let user = login(&api, USER, &secrets.user_password).await?;
    let old_token = user.clone();
    for token in [&root, &user] {
        secrets.add_token(token);
    }
    over_grpc(&api, [&root, &user], secrets, &mut said).await?;
    // A signed token ends with any change of the users.
    let (root, user) = (
        login(&api, ROOT, &secrets.root_password).await?,
        login(&api, USER, &secrets.new_password).await?,
    );
    for token in [&root, &user] {
        secrets.add_token(token);
    }
    refused(&api, [&root, &user], secrets, &mut said).await?;
    through_the_gateway(victim, secrets, &old_token, &mut said).await?;
    with_etcdctl(victim, programs, secrets, &mut said).await?;
    for port in [Port::Plain, Port::Peer] {
        for page in PAGES {
            let request = format!("GET {page} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = exchange(victim, port, request.into_bytes()).await;
            let answer = answer.with_context(|| format!("get {page} of {port:?}"))?;
            // The command line has the secrets that were given there, as every process list has.
            if !page.ends_with("cmdline") {
                said.0.push(Haystack::new(format!("{page} of {port:?}"), answer));
            }
        }
    }
    Ok(said.0)
}

/// What was said in return.
#[derive(Debug, Default)]
struct Said(Vec<Haystack>);

impl Said {
    fn refusal<T: std::fmt::Debug>(
        &mut self,
        what: &str,
        answer: Result<T, Refusal>,
    ) -> Result<()> {
        match answer {
            Ok(answer) => Err(anyhow!("{what} was not refused: {answer:?}")),
            Err(refusal) => {
                self.0.push(Haystack::new(format!("the refusal of {what}"), refusal.message));
                Ok(())
            }
        }
    }
}

async fn done<T>(answer: impl Future<Output = Result<T, Refusal>>) -> Result<T> {
    answer.await.map_err(|refusal| anyhow!("{}: {}", refusal.code, refusal.message))
}

/// Makes the users and their rights, and turns authentication on. Returns root's token.
async fn enable(api: &Api, secrets: &Secrets) -> Result<String> {
    let user = |name: &str, password: &str| {
        AuthRequest::UserAdd(pb::AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            ..Default::default()
        })
    };
    let grant = |name: &str, role: &str| {
        AuthRequest::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: name.into(),
            role: role.into(),
        })
    };
    let role = |name: &str| AuthRequest::RoleAdd(pb::AuthRoleAddRequest { name: name.into() });
    let permission = Permission {
        perm_type: permission::Type::Readwrite.into(),
        key: secrets.key.clone().into(),
        range_end: Default::default(),
    };
    for request in [
        user(ROOT, &secrets.root_password),
        role(ROOT),
        grant(ROOT, ROOT),
        user(USER, &secrets.user_password),
        role(ROLE),
        grant(USER, ROLE),
        AuthRequest::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: ROLE.into(),
            perm: Some(permission),
        }),
        AuthRequest::AuthEnable(pb::AuthEnableRequest {}),
    ] {
        let name = request.name();
        done(api.call(Request::Auth(request))).await.context(name)?;
    }
    login(api, ROOT, &secrets.root_password).await
}

async fn login(api: &Api, name: &str, password: &str) -> Result<String> {
    done(api.authenticate(name, password)).await.context("authenticate")
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

async fn over_grpc(api: &Api, tokens: [&str; 2], secrets: &Secrets, said: &mut Said) -> Result<()> {
    let [root, user] = &tokens.map(|token| api.with_token(Some(token)));
    let (key, value) = (secrets.key.as_str(), secrets.value.as_str());
    let grant = pb::LeaseGrantRequest { id: LEASE, ttl: 600 };
    done(root.call(Request::LeaseGrant(grant))).await?;
    let create =
        pb::WatchCreateRequest { key: key.to_owned().into(), prev_kv: true, ..Default::default() };
    let mut watch = done(user.watch(create)).await?;
    let prefix = |byte: u8| pb::PutRequest {
        lease: LEASE,
        prev_kv: true,
        ..put(&format!("{key}{byte}"), value)
    };
    // More than a snapshot's worth: the log is cut, and a snapshot taken.
    for byte in 0..60 {
        done(root.put(prefix(byte))).await?;
    }
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        key: key.to_owned().into(),
        target: pb::compare::CompareTarget::Value.into(),
        target_union: Some(pb::compare::TargetUnion::Value(value.to_owned().into())),
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(pb::request_op::Request::RequestRange(range(key)))],
        failure: vec![
            op(pb::request_op::Request::RequestPut(put(key, value))),
            op(pb::request_op::Request::RequestRange(range(key))),
        ],
    };
    done(user.call(Request::Txn(txn))).await?;
    done(user.range(range(key))).await?;
    done(watch.next()).await?;
    let look = pb::LeaseTimeToLiveRequest { id: LEASE, keys: true };
    done(root.call(Request::LeaseTimeToLive(look))).await?;
    done(root.call(Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: LEASE }))).await?;
    let delete =
        pb::DeleteRangeRequest { key: key.to_owned().into(), prev_kv: true, ..Default::default() };
    done(root.call(Request::DeleteRange(delete))).await?;
    let change = pb::AuthUserChangePasswordRequest {
        name: USER.into(),
        password: secrets.new_password.clone(),
        ..Default::default()
    };
    done(root.call(Request::Auth(AuthRequest::UserChangePassword(change)))).await?;
    // The changed password has made the user's token a thing of the past.
    said.refusal("an old token", user.range(range(key)).await)
}

async fn refused(
    nobody: &Api,
    tokens: [&str; 2],
    secrets: &Secrets,
    said: &mut Said,
) -> Result<()> {
    let [root, user] = &tokens.map(|token| nobody.with_token(Some(token)));
    let (key, value) = (secrets.key.as_str(), secrets.value.as_str());
    for (name, password) in [
        (ROOT, &secrets.wrong_password),
        (USER, &secrets.user_password),
        ("nobody", &secrets.wrong_password),
    ] {
        said.refusal("a wrong password", nobody.authenticate(name, password).await)?;
    }
    let stranger = nobody.with_token(Some(&secrets.bad_token));
    said.refusal("a bad token", stranger.put(put(key, value)).await)?;
    let create = pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() };
    said.refusal("a watch with a bad token", stranger.watch(create).await)?;
    said.refusal("no token", nobody.put(put(key, value)).await)?;
    said.refusal("a key out of reach", user.range(range(&format!("{key}!"))).await)?;
    let large = secrets.refused_value.repeat(80_000);
    said.refusal("a large value", user.put(put(key, &large)).await)?;
    let no_lease = pb::PutRequest { lease: 1, ..put(key, value) };
    said.refusal("a lease that is not there", user.put(no_lease).await)?;
    let twice = pb::AuthUserAddRequest {
        name: USER.into(),
        password: secrets.wrong_password.clone(),
        ..Default::default()
    };
    said.refusal("a second user", root.call(Request::Auth(AuthRequest::UserAdd(twice))).await)?;
    Ok(())
}

async fn through_the_gateway(
    victim: &Victim,
    secrets: &mut Secrets,
    old_token: &str,
    said: &mut Said,
) -> Result<()> {
    let right = format!(r#"{{"name":"{USER}","password":"{}"}}"#, secrets.new_password);
    let answer = post(victim, "/v3/auth/authenticate", "", &right).await?;
    let token = answer
        .split_once("\"token\":\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .with_context(|| format!("no token in {answer:?}"))?
        .0
        .to_owned();
    secrets.add_token(&token);
    let (wrong, password) = (&secrets.wrong_password, &secrets.new_password);
    let large = secrets.refused_value.repeat(80_000);
    let authorization = |token: &str| format!("Authorization: {token}\r\n");
    let mine = authorization(&token);
    for (path, headers, body) in [
        ("/v3/auth/authenticate", "", format!(r#"{{"name":"{USER}","password":"{wrong}"}}"#)),
        ("/v3/auth/authenticate", "", format!(r#"{{"name":"{USER}","password":"{password}" 7}}"#)),
        ("/v3/auth/authenticate", "", format!(r#"{{"name":["{USER}"],"password":"{password}"}}"#)),
        ("/v3/auth/authenticate", "", format!(r#"{{"password":"{password}","name":7}}"#)),
        ("/v3/auth/user/add", &mine, format!(r#"{{"name":"bob","password":"{wrong}"}}"#)),
        ("/v3/kv/range", &authorization(&secrets.bad_token), r#"{"key":"eA=="}"#.to_owned()),
        ("/v3/kv/range", &authorization(old_token), r#"{"key":"eA=="}"#.to_owned()),
        ("/v3/kv/range", &mine, r#"{"key":"eA=="}"#.to_owned()),
        ("/v3/kv/put", &mine, format!(r#"{{"key":"eA==","value":"{large}"}}"#)),
    ] {
        let answer = post(victim, path, headers, &body).await;
        let answer = answer.with_context(|| format!("post to {path}"))?;
        said.0.push(Haystack::new(format!("the gateway's answer to a post to {path}"), answer));
    }
    let by_query = format!(
        "GET /health?token={} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        secrets.bad_token
    );
    let answer = exchange(victim, Port::Plain, by_query.into_bytes()).await?;
    said.0.push(Haystack::new("the answer to a query", answer));
    Ok(())
}

async fn post(victim: &Victim, path: &str, headers: &str, body: &str) -> Result<String> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(victim, Port::Plain, request.into_bytes()).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn exchange(victim: &Victim, port: Port, request: Vec<u8>) -> Result<Vec<u8>> {
    let (mut reader, mut writer) = victim.connect(port).await?.into_split();
    let writing = async {
        // What is too large is refused before all of it has been read.
        let _ = writer.write_all(&request).await;
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut answer = Vec::new();
        // A reset comes after the answer, if the member left a part of the request unread.
        let _ = reader.read_to_end(&mut answer).await;
        answer
    };
    let exchanged = async {
        tokio::select! {
            answer = reading => answer,
            () = writing => Vec::new(),
        }
    };
    let answer = tokio::time::timeout(ANSWER_LIMIT, exchanged).await;
    let answer = answer.with_context(|| format!("no end of an answer within {ANSWER_LIMIT:?}"))?;
    ensure!(answer.starts_with(b"HTTP/1."), "no answer on {port:?}");
    Ok(answer)
}

async fn with_etcdctl(
    victim: &Victim,
    programs: &Programs,
    secrets: &Secrets,
    said: &mut Said,
) -> Result<()> {
    let (root, wrong) = (
        format!("--user={ROOT}:{}", secrets.root_password),
        format!("--user={ROOT}:{}", secrets.wrong_password),
    );
    let key = secrets.key.as_str();
    for (user, command, succeeds) in [
        (&root, vec!["user", "get", USER], true),
        (&root, vec!["role", "list"], true),
        (&root, vec!["endpoint", "status"], true),
        (&root, vec!["put", key, secrets.value.as_str()], true),
        (&root, vec!["user", "add", &format!("{USER}:{}", secrets.wrong_password)], false),
        (&wrong, vec!["put", key, secrets.value.as_str()], false),
    ] {
        let output = tokio::process::Command::new(&programs.etcdctl)
            .arg(format!("--endpoints={}", victim.address(Port::Plain)))
            .args(["--debug", user])
            .args(&command)
            .output()
            .await
            .context("run etcdctl")?;
        let what = format!("etcdctl {}", command[..2].join(" "));
        let printed = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success() == succeeds,
            "{what}: {}",
            String::from_utf8_lossy(&printed)
        );
        // It was told the key on its command line, and may say it.
        if !command.contains(&key) {
            said.0.push(Haystack::new(what, printed));
        }
    }
    Ok(())
}
