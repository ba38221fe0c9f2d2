//! What every service does with a request: bring a change through the log, or wait until a read is safe.
//!
//! [`Core`] is the one value that all services share. It holds no state of its own that matters: the state is in the stages,
//! and this is their front.

use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::Caller;
use backend::schema::meta;
use bytes::Bytes;
use machine::{Answer, Outcome as ApplyOutcome, RequestError, Version};
use prost::Message as _;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{AlarmRequest, InternalRaftRequest, RequestHeader, ResponseHeader};
use replica::{Input, Proposal};
use tokio::sync::watch;

use crate::access::{Access, Credentials, Identity};
use crate::board::Board;
use crate::config::{Config, GRPC_OVERHEAD_BYTES};
use crate::driver::mailbox::{SendError, Sender};
use crate::driver::{apply, heart};
use crate::facts::Facts;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::proposals::{RequestIds, Waiters};
use crate::reads::{ReadError, Reads};
use crate::traces::{self, Traces};

/// A member whose state machine is further behind its log than this takes no more proposals: etcd's `maxGapBetweenApplyAndCommitIndex`.
const APPLY_GAP_MAX: u64 = 5000;
/// The same for what has priority.
const PRIORITY_GAP_MAX: u64 = 2 * APPLY_GAP_MAX;

/// What became of a proposal.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It was applied, with this result.
    Applied(ApplyOutcome),
    /// It never got into the log.
    Dropped,
}

/// Why a request has no answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The state machine refused it, like every member's.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It is malformed, which is seen before it is proposed.
    #[error(transparent)]
    Malformed(#[from] mvcc::check::CheckError),
    /// Too much is waiting to be applied, or to be proposed.
    #[error("too many requests")]
    TooManyRequests,
    /// Larger than the limit on requests.
    #[error("request is too large")]
    TooLarge,
    /// No leader took the proposal in time.
    #[error("no leader took the proposal in time")]
    NoLeaderInTime,
    /// The log did not take it, for example while leadership is handed over.
    #[error("raft proposal dropped")]
    Dropped,
    /// It was proposed, and nothing was heard of it in time. It may still take effect.
    #[error("timed out")]
    Timeout,
    /// A read could not be confirmed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Whoever asks did not say so, or may not.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// Leadership did not go over in time.
    #[error("leader transfer timed out")]
    TransferTimeout,
    /// The member stops.
    #[error("stopped")]
    Stopped,
}

/// What all services share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// The etcd version that this member stands for.
    pub(crate) version: Version,
    pub(crate) config: Config,
    pub(crate) board: Arc<Board>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) access: Arc<Access>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) waiters: Arc<Waiters<Outcome>>,
    pub(crate) ids: RequestIds,
    pub(crate) peers: Arc<Peers>,
    pub(crate) heart: Sender<heart::Work>,
    pub(crate) store: mvcc::Reader,
    pub(crate) backend: backend::Reader,
    pub(crate) lessor: machine::SharedLessor,
    pub(crate) quota: machine::Quota,
    pub(crate) metrics: Arc<Metrics>,
    /// Where spans of calls go; `None` unless that is asked for.
    pub(crate) traces: Option<Traces>,
    /// The moment that leases count time from.
    pub(crate) epoch: Instant,
    /// The last compaction whose work is done.
    pub(crate) compacted: watch::Sender<i64>,
    /// Defragmentations under way during which this member is to say that it serves nothing.
    pub(crate) defragmentations: watch::Sender<usize>,
    /// WebSockets of the gateway.
    pub(crate) conversations: Arc<crate::gateway::Conversations>,
}

impl Core {
    /// A header without a revision.
    pub(crate) fn bare_header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: 0,
            raft_term: self.board.term().0,
        }
    }

    /// The header of an answer; a revision of 0 stands for the current one.
    pub(crate) fn header(&self, revision: i64) -> ResponseHeader {
        let revision = if revision == 0 { self.store.current_revision() } else { revision };
        ResponseHeader { revision, ..self.bare_header() }
    }

    /// The version whose rows these are; `None` if it cannot be told: before the first commit, or because they cannot be read.
    pub(crate) fn storage_version(&self) -> Option<String> {
        let view = self.backend.view();
        let found = meta::storage_version(&view)
            .and_then(|found| Ok((found, meta::term(&view)?)))
            .inspect_err(|error| tracing::warn!(error = %error, "cannot read the storage version"));
        match found.ok()? {
            (Some(version), _) => Some(version),
            (None, 0) => None,
            (None, _) => Some(Version::v3(5, 0).to_string()),
        }
    }

    /// Time as leases count it.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Largest message that a client may send.
    pub(crate) fn message_bytes_max(&self) -> usize {
        usize::try_from(self.config.max_request_bytes + GRPC_OVERHEAD_BYTES).unwrap_or(usize::MAX)
    }

    /// Waits until this member's applied state is new enough for a linearizable read.
    pub(crate) async fn linearizable(&self) -> Result<(), Refusal> {
        let confirmed = self.reads.linearizable(&self.board, self.config.request_timeout()).await;
        match confirmed {
            Ok(()) => {}
            Err(ReadError::Timeout) => self.metrics.consensus.slow_reads.count(),
            Err(ReadError::LeaderChanged | ReadError::Stopped) => {
                self.metrics.consensus.failed_reads.count();
            }
        }
        Ok(confirmed?)
    }

    /// Takes what a call shows of who makes it; next to nothing while authentication is off.
    pub(crate) fn credentials<T>(&self, request: &tonic::Request<T>) -> Credentials {
        let credentials = if self.access.is_enabled() {
            Credentials::of(request.metadata(), request.extensions())
        } else {
            Credentials::default()
        };
        match self.span(request.extensions()) {
            None => credentials,
            Some(span) => credentials.within(span),
        }
    }

    /// The span that a call is recorded in, if it is.
    pub(crate) fn span<'a>(&self, extensions: &'a tonic::Extensions) -> Option<&'a otlp::Parent> {
        self.traces.as_ref().and_then(|_| extensions.get())
    }

    /// Finds out who makes a call; `None` if it does not say, or nobody asks.
    pub(crate) async fn identify(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, auth::Error> {
        self.access.identify(credentials, &self.board, self.config.request_timeout()).await
    }

    /// Refuses calls that do not say who makes them.
    pub(crate) async fn require_identity(
        &self,
        credentials: &Credentials,
    ) -> Result<(), auth::Error> {
        if !self.access.is_enabled() {
            return Ok(());
        }
        self.identify(credentials).await?.map(drop).ok_or(auth::Error::UserEmpty)
    }

    /// Refuses calls of those who do not administer the cluster.
    pub(crate) async fn require_admin(&self, credentials: &Credentials) -> Result<(), auth::Error> {
        if !self.access.is_enabled() {
            return Ok(());
        }
        let identity = self.identify(credentials).await?;
        self.access.rights().check_admin(Identity::caller(identity.as_ref()))
    }

    /// Reads what the caller may read, in one piece: not with rights that were gone by the end, nor with those of a token from
    /// before the last change of users and roles, whatever is read.
    pub(crate) async fn read<T>(
        &self,
        credentials: &Credentials,
        check: impl FnOnce(&auth::Snapshot, Caller<'_>) -> Result<(), auth::Error>,
        read: impl Future<Output = T>,
    ) -> Result<T, auth::Error> {
        if !self.access.is_enabled() {
            return Ok(read.await);
        }
        let identity = self.identify(credentials).await?;
        let rights = self.access.rights();
        check(&rights, Identity::caller(identity.as_ref()))?;
        let found = read.await;
        if let Some(identity) = identity
            && identity.revision != 0
            && self.access.rights().revision() != identity.revision
        {
            return Err(auth::Error::AuthOldRevision);
        }
        Ok(found)
    }

    /// Brings a client's request through the log and returns the state machine's answer.
    ///
    /// What the log did not take is proposed again until its time is up: it never left this member, so it cannot come
    /// about twice. What was sent to a leader and is lost with it is not, since nobody knows.
    pub(crate) async fn propose_for(
        &self,
        credentials: &Credentials,
        op: Op,
    ) -> Result<Answer, Refusal> {
        self.propose_shared(credentials, op, &mut None).await
    }

    /// As [`Core::propose_for`]. From its proposal on, the request is in `shared` too: for whoever tells of it, also if this
    /// ends by being dropped.
    pub(crate) async fn propose_shared(
        &self,
        credentials: &Credentials,
        op: Op,
        shared: &mut Option<Arc<InternalRaftRequest>>,
    ) -> Result<Answer, Refusal> {
        let answer = async {
            self.check_gap(&op)?;
            let identity = self.identify(credentials).await?;
            let span = credentials.span.as_ref();
            self.propose_by((identity, op), Input::Propose, true, span, shared).await
        }
        .await;
        traces::answered(credentials.span.as_ref(), &answer);
        answer
    }

    /// As [`Core::propose_for`], for what nobody has to be allowed to do.
    pub(crate) async fn propose(&self, op: Op) -> Result<Answer, Refusal> {
        self.check_gap(&op)?;
        self.propose_by((None, op), Input::Propose, true, None, &mut None).await
    }

    /// As [`Core::propose`], for what only a leader may ask for: dropped if this member leads no more when its turn comes.
    pub(crate) async fn propose_as_leader(&self, op: Op) -> Result<Answer, Refusal> {
        self.check_gap(&op)?;
        let asked = (self.access.own_identity(), op);
        self.propose_by(asked, Input::ProposeAsLeader, false, None, &mut None).await
    }

    /// Refuses what is proposed while the state machine is too far behind.
    fn check_gap(&self, op: &Op) -> Result<(), Refusal> {
        let gap = self.board.commit().0.saturating_sub(self.board.applied().0);
        if self.admits(op, gap) { Ok(()) } else { Err(Refusal::TooManyRequests) }
    }

    /// Whether this is still proposed so many entries before the state machine.
    fn admits(&self, op: &Op, gap: u64) -> bool {
        // What ends leases makes room.
        let has_priority = matches!(op, Op::LeaseRevoke(_))
            && self.config.prioritizes_revocations
            && self.version.has_priorities();
        gap <= if has_priority { PRIORITY_GAP_MAX } else { APPLY_GAP_MAX }
    }

    /// Brings a request through the log, and says how long that took.
    async fn propose_by(
        &self,
        asked: (Option<Identity>, Op),
        input: impl Fn(Proposal) -> Input,
        is_repeated: bool,
        span: Option<&otlp::Parent>,
        shared: &mut Option<Arc<InternalRaftRequest>>,
    ) -> Result<Answer, Refusal> {
        let Some(requests) = &self.metrics.requests else {
            return self.propose_untimed(asked, input, is_repeated, span, shared).await;
        };
        let (name, begun) = (machine::op_name(&asked.1), Instant::now());
        let answer = self.propose_untimed(asked, input, is_repeated, span, shared).await;
        // As in etcd: what was refused where it was applied was served, and so was what is too large, and what nobody heard
        // of in time.
        let was_proposed = !matches!(
            answer,
            Err(Refusal::TooManyRequests | Refusal::NoLeaderInTime | Refusal::Dropped)
        );
        requests.answered(name, was_proposed, begun.elapsed());
        answer
    }

    async fn propose_untimed(
        &self,
        (identity, op): (Option<Identity>, Op),
        input: impl Fn(Proposal) -> Input,
        is_repeated: bool,
        span: Option<&otlp::Parent>,
        shared: &mut Option<Arc<InternalRaftRequest>>,
    ) -> Result<Answer, Refusal> {
        let request_id = self.ids.next();
        let (request, data) = self.encode(request_id, identity, op)?;
        *shared = Some(Arc::clone(&request));
        // As in etcd: also one whose client does not wait for its outcome.
        let failing = Failing { metrics: Some(&self.metrics) };
        traces::proposed(span);
        let timeout = self.config.request_timeout();
        let deadline = tokio::time::Instant::now() + timeout;
        let refusal = loop {
            if self.board.leader() == raft::NodeId::NONE
                && let Err(refusal) = self.wait_for_leader(deadline).await
            {
                break refusal;
            }
            let mut waiting = self.waiters.register(request_id, data.clone());
            let (data, request) = (data.clone(), Arc::clone(&request));
            if let Err(refusal) = self.send(input(Proposal { request_id, data, request })) {
                failing.settle();
                return Err(refusal);
            }
            match tokio::time::timeout_at(deadline, waiting.outcome()).await {
                Ok(Some(Outcome::Applied(outcome))) => {
                    failing.settle();
                    return Ok(outcome?);
                }
                Ok(Some(Outcome::Dropped)) if is_repeated => {}
                Ok(Some(Outcome::Dropped)) => break Refusal::Dropped,
                Ok(None) => {
                    failing.settle();
                    return Err(Refusal::Stopped);
                }
                Err(_) => break Refusal::Timeout,
            }
            // Leadership is on its way from one member to another, or the log is full for the moment.
            let again = tokio::time::Instant::now() + self.config.heartbeat;
            if again >= deadline {
                break Refusal::Dropped;
            }
            tokio::time::sleep_until(again).await;
        };
        Err(refusal)
    }

    /// Brings a change of the membership through the log, and returns the members after it. Waits as long as its caller: for a
    /// leader too, and what the log did not take is proposed again.
    pub(crate) async fn propose_conf_change(
        &self,
        kind: raft::ConfChangeKind,
        member_id: u64,
        context: Vec<u8>,
    ) -> Result<Vec<proto::etcdserverpb::Member>, Refusal> {
        let request_id = self.ids.next();
        let change = raft::ConfChange {
            id: request_id,
            kind,
            node_id: raft::NodeId(member_id),
            context: Bytes::from(context),
        };
        loop {
            // Before the leader is waited for: who is registered hears of the member's end.
            let mut waiting = self.waiters.register(request_id, Bytes::new());
            if self.board.leader() == raft::NodeId::NONE {
                tokio::select! {
                    led = self.led() => led?,
                    _ = waiting.outcome() => return Err(Refusal::Stopped),
                }
            }
            self.send(Input::ProposeConfChange { request_id, change: change.clone() })?;
            match waiting.outcome().await {
                Some(Outcome::Applied(outcome)) => {
                    // The only answer there is to a conf change.
                    let machine::Response::Members(members) = outcome?.response else {
                        return Err(Refusal::Dropped);
                    };
                    tracing::info!(
                        local_member_id = format!("{:x}", self.member_id),
                        raft_conf_change = conf_change_name(kind),
                        raft_conf_change_node_id = format!("{member_id:x}"),
                        "applied a configuration change through raft"
                    );
                    return Ok(members);
                }
                // It never left this member, so it cannot come about twice.
                Some(Outcome::Dropped) => {}
                None => return Err(Refusal::Stopped),
            }
            tokio::time::sleep(self.config.heartbeat).await;
        }
    }

    /// How far the members have followed this one, if it leads.
    pub(crate) async fn followers(&self) -> Result<Vec<replica::Follower>, Refusal> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.heart.send_all([heart::Work::Progress(reply)]);
        answer.await.map_err(|_| Refusal::Stopped)
    }

    /// Asks for leadership to go to a member, and waits until it leads.
    pub(crate) async fn move_leader(&self, to: raft::NodeId) -> Result<(), Refusal> {
        let mut leadership = self.board.leadership();
        self.send(Input::TransferLeader(to))?;
        let moved = async {
            while self.board.leader() != to {
                leadership.changed().await.map_err(|_| Refusal::Stopped)?;
            }
            Ok(())
        };
        tokio::time::timeout(self.config.request_timeout(), moved)
            .await
            .unwrap_or(Err(Refusal::TransferTimeout))
    }

    fn encode(
        &self,
        request_id: u64,
        identity: Option<Identity>,
        op: Op,
    ) -> Result<(Arc<InternalRaftRequest>, Bytes), Refusal> {
        let Identity { user: username, revision: auth_revision } = identity.unwrap_or_default();
        let header = RequestHeader { id: request_id, username, auth_revision };
        let request = InternalRaftRequest {
            header: Some(header),
            request: Some(op),
            ..InternalRaftRequest::default()
        };
        let data = Bytes::from(request.encode_to_vec());
        if data.len() as u64 > self.config.max_request_bytes {
            return Err(Refusal::TooLarge);
        }
        Ok((Arc::new(request), data))
    }

    fn send(&self, input: Input) -> Result<(), Refusal> {
        match self.heart.send(heart::Work::Replica(input)) {
            Ok(()) => Ok(()),
            Err(SendError::Full(_)) => Err(Refusal::TooManyRequests),
            Err(SendError::Closed(_)) => Err(Refusal::Stopped),
        }
    }

    /// etcd keeps a proposal waiting while there is no leader to take it.
    async fn wait_for_leader(&self, deadline: tokio::time::Instant) -> Result<(), Refusal> {
        let led = tokio::time::timeout_at(deadline, self.led());
        led.await.unwrap_or(Err(Refusal::NoLeaderInTime))
    }

    /// Waits until a leader is known.
    async fn led(&self) -> Result<(), Refusal> {
        let mut leadership = self.board.leadership();
        while self.board.leader() == raft::NodeId::NONE {
            leadership.changed().await.map_err(|_| Refusal::Stopped)?;
        }
        Ok(())
    }

    /// Says that a compaction's work is done.
    pub(crate) fn compaction_finished(&self, revision: i64) {
        self.compacted.send_modify(|last| *last = (*last).max(revision));
    }

    /// Waits until the work of all compactions so far is done and committed.
    pub(crate) async fn wait_compacted(&self) -> Result<(), Refusal> {
        let revision = self.store.compact_revision();
        let mut compacted = self.compacted.subscribe();
        compacted.wait_for(|last| *last >= revision).await.map_err(|_| Refusal::Stopped)?;
        self.commit().await
    }

    /// Waits for a commit of all that is applied now.
    pub(crate) async fn commit(&self) -> Result<(), Refusal> {
        let (reply, done) = tokio::sync::oneshot::channel();
        self.heart.send_all([heart::Work::Apply(apply::Work::Commit(reply))]);
        done.await.map_err(|_| Refusal::Stopped)
    }
}

/// The kind of a change, as the log has it.
fn conf_change_name(kind: raft::ConfChangeKind) -> &'static str {
    match kind {
        raft::ConfChangeKind::AddNode => "ConfChangeAddNode",
        raft::ConfChangeKind::RemoveNode => "ConfChangeRemoveNode",
        raft::ConfChangeKind::UpdateNode => "ConfChangeUpdateNode",
        raft::ConfChangeKind::AddLearnerNode => "ConfChangeAddLearnerNode",
    }
}

/// What the apply stage may ask of the front, without waiting for it.
#[derive(Debug)]
pub(crate) struct ApplyRequests {
    pub(crate) core: Arc<Core>,
    pub(crate) runtime: tokio::runtime::Handle,
}

impl ApplyRequests {
    /// Proposes an alarm; then hands a held-back outcome to its waiter.
    pub(crate) fn propose_alarm(
        &self,
        alarm: AlarmRequest,
        (request_id, data): (u64, Bytes),
        outcome: Option<ApplyOutcome>,
    ) {
        let core = Arc::clone(&self.core);
        self.runtime.spawn(async move {
            if let Err(error) = core.propose(Op::Alarm(alarm)).await {
                tracing::warn!(error = %error, "failed to raise an alarm");
            }
            if let Some(outcome) = outcome {
                core.waiters.finish(request_id, &data, Outcome::Applied(outcome));
            }
        });
    }

    /// Says that a compaction's work is done.
    pub(crate) fn compaction_finished(&self, revision: i64) {
        self.core.compaction_finished(revision);
    }
}

/// A proposal that counts as failed when this is dropped, unless it is settled.
struct Failing<'a> {
    metrics: Option<&'a Metrics>,
}

impl Failing<'_> {
    /// It has an outcome, or the member has stopped, or it did not get as far as the log.
    fn settle(mut self) {
        self.metrics = None;
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.metrics {
            metrics.consensus.failed_proposals.count();
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{LeaseRevokeRequest, PutRequest};

    use super::*;
    use crate::member::unconnected;

    #[tokio::test(flavor = "multi_thread")]
    async fn revocations_go_on_where_they_have_priority() {
        let revoke = Op::LeaseRevoke(LeaseRevokeRequest { id: 7 });
        let put = Op::Put(PutRequest::default());
        for (version, is_on, max) in
            [("3.7", true, 10_000), ("3.7", false, 5_000), ("3.6", true, 5_000)]
        {
            let dir = tempfile::tempdir().unwrap();
            let (member, _) = unconnected::start_without_leader(Config {
                emulated_version: Some(crate::version::parse_emulated(version).unwrap()),
                prioritizes_revocations: is_on,
                ..unconnected::config(dir.path())
            });
            let core = unconnected::core(&member);
            assert!(
                core.admits(&revoke, max) && !core.admits(&revoke, max + 1),
                "{version} {is_on}"
            );
            assert!(core.admits(&put, 5_000) && !core.admits(&put, 5_001), "{version} {is_on}");
        }
    }

    /// Who asks for a change of the membership decides how long it waits.
    #[tokio::test(flavor = "multi_thread")]
    async fn changes_of_the_membership_wait_for_a_leader() {
        let dir = tempfile::tempdir().unwrap();
        let config = unconnected::config(dir.path());
        let (member, _) = unconnected::start_without_leader(config);
        let core = unconnected::core(&member);
        let change = core.propose_conf_change(raft::ConfChangeKind::RemoveNode, 5, Vec::new());
        let answer = tokio::time::timeout(Duration::from_millis(300), change).await;
        assert!(answer.is_err(), "{answer:?}");
    }
}
