//! Two servers run out of room, and recover.
//!
//! Both have a small quota, and get large values until they refuse one. How many that takes may differ a little, and so may revisions: what
//! is compared is what they refuse then, in which words, what they still do, and what it takes until they write again. In between
//! they are restarted, with the alarm.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::request_op::Request as Op;

use super::run::{start_two, stop};
use crate::api::{Api, AuthRequest, Refusal, Request, Response};
use crate::cluster::Kind;
use crate::member::Member;

/// `--quota-backend-bytes`.
const QUOTA_BYTES: usize = 8 << 20;
/// A large value. What is written beside it, in the tree of pages, is some of its neighbours: room for which differs by how soon pages are used again.
const VALUE_BYTES: usize = 64 << 10;
/// More of them than there is room for.
const PUTS_MAX: usize = 2 * QUOTA_BYTES / VALUE_BYTES;
/// By how many values the two may differ in what they hold.
const PUTS_APART_MAX: usize = PUTS_MAX / 8;
/// How long an alarm may take to be raised after what it is raised for.
const ALARM_TIMEOUT: Duration = Duration::from_secs(20);
const ALARM_POLL: Duration = Duration::from_millis(20);

/// What was asked, and the outcome.
pub type QuotaStep = (&'static str, String);

/// Takes two servers through it, and returns what both did.
///
/// # Errors
/// The first step in which they differ; or one of them does not get that far.
pub async fn run_quota(left: &Kind, right: &Kind) -> Result<Vec<QuotaStep>> {
    let folder = tempfile::Builder::new().prefix("retcd-quota-").tempdir();
    let folder = folder.context("make a folder")?;
    let kinds = [left.clone(), right.clone()];
    // Sizes are those of the last commit: with one for each write, nobody's clock has a say.
    let flags =
        [format!("--quota-backend-bytes={QUOTA_BYTES}"), "--backend-batch-limit=1".to_owned()];
    let start = |folder: &Path| start_two(&kinds, folder, &flags);

    let members = start(folder.path())?;
    let (a, b) = tokio::join!(fill(&members[0]), fill(&members[1]));
    let (a, b) = (a.context(left.label.clone())?, b.context(right.label.clone())?);
    ensure!(
        a.puts.abs_diff(b.puts) <= PUTS_APART_MAX,
        "{} took {} values and {} {}",
        left.label,
        a.puts,
        right.label,
        b.puts
    );
    let mut steps = compared(&kinds, a.steps, b.steps)?;
    stop(members)?;
    let members = start(folder.path()).context("restart with the alarm")?;
    let (a, b) = tokio::join!(recover(&members[0]), recover(&members[1]));
    let (a, b) = (a.context(left.label.clone())?, b.context(right.label.clone())?);
    steps.extend(compared(&kinds, a, b)?);
    stop(members)?;
    Ok(steps)
}

fn compared(
    kinds: &[Kind; 2],
    left: Vec<QuotaStep>,
    right: Vec<QuotaStep>,
) -> Result<Vec<QuotaStep>> {
    for (a, b) in left.iter().zip(&right) {
        ensure!(a == b, "{}: {a:?}\n{}: {b:?}", kinds[0].label, kinds[1].label);
    }
    ensure!(left.len() == right.len(), "one has done more than the other");
    Ok(left)
}

#[derive(Debug, Default)]
struct Filled {
    puts: usize,
    steps: Vec<QuotaStep>,
}

/// Until there is an alarm, and what is refused then.
async fn fill(member: &Member) -> Result<Filled> {
    let mut side = Side::connect(member).await?;
    side.ask("grant a lease", grant(7)).await;
    side.ask("put something small", put("small", 1)).await;
    let mut puts = 0;
    while puts < PUTS_MAX && side.api.call(put(&format!("large/{puts}"), VALUE_BYTES)).await.is_ok()
    {
        puts += 1;
    }
    side.ask("put what has no room", put("large/last", VALUE_BYTES)).await;
    side.wait_for_alarm().await?;
    side.ask("put something small beside an alarm", put("small", 1)).await;
    side.ask_for_writes().await;
    side.ask("read", Request::Range(range())).await;
    let disarm = alarm(AlarmAction::Deactivate, side.member_id);
    side.ask("disarm without having made room", disarm).await;
    side.ask("put it again", put("large/last", VALUE_BYTES)).await;
    side.wait_for_alarm().await?;
    Ok(Filled { puts, steps: side.steps })
}

/// From a start with an alarm to a member that writes again.
async fn recover(member: &Member) -> Result<Vec<QuotaStep>> {
    let mut side = Side::connect(member).await?;
    side.wait_for_alarm().await?;
    side.ask_for_writes().await;
    side.ask("revoke a lease", Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 7 })).await;
    side.ask("delete", delete("large/", "large0")).await;
    let revision = side.api.range(range()).await.map_err(as_error)?.header;
    let revision = revision.context("an answer has a header")?.revision;
    let compaction = pb::CompactionRequest { revision, physical: true };
    side.ask("compact", Request::Compact(compaction)).await;
    side.ask("put after the compaction", put("small", 1)).await;
    let defragmented = side.api.defragment().await;
    side.tell("defragment", defragmented.map(|()| "ok".to_owned()));
    side.ask("put after the defragmentation", put("small", 1)).await;
    side.ask("look at the alarms", alarm(AlarmAction::Get, 0)).await;
    let disarm = alarm(AlarmAction::Deactivate, side.member_id);
    side.ask("disarm", disarm).await;
    side.ask("look at the alarms once more", alarm(AlarmAction::Get, 0)).await;
    side.ask("put a large value", put("large/last", VALUE_BYTES)).await;
    side.ask_for_writes().await;
    Ok(side.steps)
}

/// One of the servers, and what it did.
struct Side {
    api: Api,
    /// The member that an alarm is of.
    member_id: u64,
    steps: Vec<QuotaStep>,
}

impl Side {
    async fn connect(member: &Member) -> Result<Self> {
        let api = Api::connect(&member.url()).await?;
        let header = api.status().await.map_err(as_error)?.header;
        let member_id = header.context("an answer has a header")?.member_id;
        Ok(Self { api, member_id, steps: Vec::new() })
    }

    async fn ask(&mut self, what: &'static str, request: Request) {
        let reply = self.api.call(request).await;
        self.tell(what, reply.map(|response| outcome(&response)));
    }

    fn tell(&mut self, what: &'static str, reply: Result<String, Refusal>) {
        let outcome =
            reply.unwrap_or_else(|refusal| format!("{:?}: {}", refusal.code, refusal.message));
        self.steps.push((what, outcome));
    }

    /// All that may make a database grow, and what looks as if it did.
    async fn ask_for_writes(&mut self) {
        let txn = |success: Vec<Op>, failure: Vec<Op>| {
            let ops = |ops: Vec<Op>| {
                ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect()
            };
            let (success, failure) = (ops(success), ops(failure));
            Request::Txn(pb::TxnRequest { success, failure, ..Default::default() })
        };
        let small = || Op::RequestPut(put_request("small", 1));
        let read = || Op::RequestRange(range());
        let remove = || {
            let key = Bytes::from_static(b"nothing");
            Op::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
        };
        let nested = |op: Op| {
            let success = vec![pb::RequestOp { request: Some(op) }];
            Op::RequestTxn(pb::TxnRequest { success, ..Default::default() })
        };
        self.ask("put in a txn", txn(vec![small()], vec![])).await;
        self.ask("put in the other branch", txn(vec![read()], vec![small()])).await;
        self.ask("put in a nested txn", txn(vec![nested(small())], vec![])).await;
        self.ask("read in a txn", txn(vec![read()], vec![])).await;
        self.ask("delete in a txn", txn(vec![remove()], vec![])).await;
        self.ask("delete in a nested txn", txn(vec![nested(remove())], vec![])).await;
        self.ask("grant another lease", grant(8)).await;
        self.ask("renew a lease", Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: 7 }))
            .await;
        self.ask("delete nothing", delete("nothing", "")).await;
        let user = pb::AuthUserAddRequest {
            name: format!("user{}", self.steps.len()),
            password: "one".to_owned(),
            ..Default::default()
        };
        self.ask("add a user", Request::Auth(AuthRequest::UserAdd(user))).await;
    }

    /// It is raised by way of the log, after the refusal.
    async fn wait_for_alarm(&mut self) -> Result<()> {
        let api = self.api.clone();
        let raised = async {
            loop {
                let reply = api.call(alarm(AlarmAction::Get, 0)).await.map_err(as_error)?;
                if !matches!(&reply, Response::Alarm(answer) if answer.alarms.is_empty()) {
                    return Ok::<_, anyhow::Error>(reply);
                }
                tokio::time::sleep(ALARM_POLL).await;
            }
        };
        let raised = tokio::time::timeout(ALARM_TIMEOUT, raised).await.context("no alarm")??;
        self.steps.push(("see the alarm", outcome(&raised)));
        let status = self.api.status().await.map_err(as_error)?;
        // How Go writes a message as text has more or less space in it, by the build.
        let errors: Vec<&str> = status.errors.iter().flat_map(|e| e.split_whitespace()).collect();
        self.steps.push(("see it in the status", errors.join(" ")));
        Ok(())
    }
}

/// What is comparable where revisions are not.
fn outcome(response: &Response) -> String {
    if let Response::Alarm(answer) = response {
        return format!("alarms: {:?}", answer.alarms);
    }
    // The lease of a member that has just started may have less left.
    if let Response::LeaseKeepAlive(answer) = response {
        return format!("renewed: {}", answer.as_ref().is_some_and(|answer| answer.ttl > 0));
    }
    if let Response::Txn(answer) = response {
        return format!("succeeded: {}, {} answers", answer.succeeded, answer.responses.len());
    }
    "ok".to_owned()
}

fn as_error(refusal: Refusal) -> anyhow::Error {
    anyhow::anyhow!("{refusal:?}")
}

fn put_request(key: &str, value_bytes: usize) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: vec![b'v'; value_bytes].into(),
        ..Default::default()
    }
}

fn put(key: &str, value_bytes: usize) -> Request {
    Request::Put(put_request(key, value_bytes))
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::from_static(b"small"), ..Default::default() }
}

fn delete(key: &'static str, range_end: &'static str) -> Request {
    let (key, range_end) = (key.into(), range_end.into());
    Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, ..Default::default() })
}

fn grant(id: i64) -> Request {
    Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl: 100_000 })
}

fn alarm(action: AlarmAction, member_id: u64) -> Request {
    Request::Alarm(pb::AlarmRequest {
        action: action.into(),
        member_id,
        alarm: pb::AlarmType::Nospace.into(),
    })
}
