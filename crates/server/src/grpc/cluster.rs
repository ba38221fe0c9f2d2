//! Cluster: the members, and changes of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use machine::{ConfChangeContext, Member, ids};
use proto::etcdserverpb::{
    self, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use raft::ConfChangeKind;
use rpc::errors::Error;
use rpc::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::{limits, status};
use crate::config::Url;
use crate::reconfiguration::{HEALTHY_AFTER_SECONDS, View, check_caught_up};
use crate::request::Core;

/// How often a learner that is behind is looked at, a heartbeat apart, before its promotion is refused.
const LOOKS_AT_LEARNER: usize = 5;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// Answers of this service carry no revision.
    fn header(&self) -> ResponseHeader {
        self.core.bare_header()
    }

    /// Proposes a change and returns the members after it.
    async fn change(
        &self,
        kind: ConfChangeKind,
        member_id: u64,
        context: Vec<u8>,
    ) -> Result<Vec<etcdserverpb::Member>, Status> {
        self.core
            .propose_conf_change(kind, member_id, context)
            .await
            .map_err(|refusal| status::of(&refusal))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        let MemberAddRequest { peer_urls, is_learner } = request.into_inner();
        let mut peer_urls = parse_urls(&peer_urls)?;
        peer_urls.sort_unstable();
        self.core.require_admin(&credentials).await.map_err(status::of_auth)?;
        with_view(&self.core, |view| view.check_add(is_learner))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let id = ids::added_member_id(&peer_urls, now);
        let member = Member { id, peer_urls, is_learner, ..Member::default() };
        let kind =
            if is_learner { ConfChangeKind::AddLearnerNode } else { ConfChangeKind::AddNode };
        let context = ConfChangeContext { member, is_promote: false };
        let members = self.change(kind, id, context.encode()).await?;
        let member = members.iter().find(|member| member.id == id).cloned();
        Ok(Response::new(MemberAddResponse { header: Some(self.header()), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.core.require_admin(&self.core.credentials(&request)).await.map_err(status::of_auth)?;
        let id = request.get_ref().id;
        with_view(&self.core, |view| view.check_remove(id))?;
        let members = self.change(ConfChangeKind::RemoveNode, id, Vec::new()).await?;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header()), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        let MemberUpdateRequest { id, peer_urls } = request.into_inner();
        self.core.require_admin(&credentials).await.map_err(status::of_auth)?;
        // etcd commits any text as a URL, and all members stop at a malformed one. That there is no such member is told first.
        let peer_urls = parse_urls(&peer_urls).map_err(|status| {
            let is_known = self.core.facts.get().membership.member(id).is_some();
            if is_known { status } else { Error::MemberNotFound.into() }
        })?;
        // etcd sends what the client sent, which never says learner; a 3.5 member would promote the learner.
        let is_learner = is_learner(&self.core, id);
        let member = Member { id, peer_urls, is_learner, ..Member::default() };
        let context = ConfChangeContext { member, is_promote: false };
        let members = self.change(ConfChangeKind::UpdateNode, id, context.encode()).await?;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header()), members }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        self.core.require_identity(&credentials).await.map_err(status::of_auth)?;
        if request.get_ref().linearizable {
            self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        }
        let members = self.core.facts.get().membership.to_messages();
        Ok(Response::new(MemberListResponse { header: Some(self.header()), members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.core.require_admin(&self.core.credentials(&request)).await.map_err(status::of_auth)?;
        let id = request.get_ref().id;
        // Leadership may go elsewhere while a learner is waited for: then the new leader knows.
        let mut promoted = None;
        if self.core.board.is_leader() {
            promoted = Some(promote(&self.core, id).await);
        }
        let members = match promoted {
            Some(Err(_)) | None if !self.core.board.is_leader() => {
                crate::forward::promote(&self.core, id).await?
            }
            Some(decided) => decided?,
            None => promote(&self.core, id).await?,
        };
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header()), members }))
    }
}

/// Makes a learner a voter; the leader alone knows how far it has come.
pub(crate) async fn promote(core: &Core, id: u64) -> Result<Vec<etcdserverpb::Member>, Status> {
    caught_up(core, id)
        .await
        .and_then(|()| with_view(core, |view| view.check_promote()))
        .inspect_err(|status| core.metrics.promotions.refused(status.message()))?;
    let member = Member { id, ..Member::default() };
    let context = ConfChangeContext { member, is_promote: true };
    core.propose_conf_change(ConfChangeKind::AddNode, id, context.encode())
        .await
        .inspect(|_| core.metrics.promotions.succeeded.count())
        .map_err(|refusal| status::of(&refusal))
}

/// Waits a little for a learner to have caught up. Who asks for the promotion as soon as the learner says that it serves would
/// otherwise be refused for an acknowledgement that is still on its way.
async fn caught_up(core: &Core, id: u64) -> Result<(), Status> {
    let mut looks = 0;
    loop {
        let followers = core.followers().await.map_err(|refusal| status::of(&refusal))?;
        match check_caught_up(&followers, id, core.member_id) {
            Err(Error::LearnerNotReady) if looks < LOOKS_AT_LEARNER => looks += 1,
            decided => return Ok(decided?),
        }
        tokio::time::sleep(core.config.heartbeat).await;
    }
}

fn is_learner(core: &Core, id: u64) -> bool {
    core.facts.get().membership.member(id).is_some_and(|member| member.is_learner)
}

/// Looks at the cluster as this member sees it now.
fn with_view(
    core: &Core,
    check: impl FnOnce(&View<'_>) -> Result<(), Error>,
) -> Result<(), Status> {
    if !core.config.strict_reconfig_check {
        return Ok(());
    }
    let known = core.facts.get();
    let since = |id: u64| core.peers.transport().and_then(|peers| peers.active_since(id));
    let mut connected = BTreeSet::new();
    let mut healthy = BTreeSet::new();
    for member in known.membership.members() {
        let Some(since) = since(member.id) else { continue };
        connected.insert(member.id);
        if since.elapsed() >= Duration::from_secs(HEALTHY_AFTER_SECONDS) {
            healthy.insert(member.id);
        }
    }
    let view = View {
        membership: &known.membership,
        own: core.member_id,
        connected: &connected,
        healthy: &healthy,
    };
    Ok(check(&view)?)
}

/// The URLs in the order given: that of an update stays, etcd sorts those of a new member only.
fn parse_urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let mut urls = Vec::new();
    for text in texts {
        let url = Url::parse(text.trim()).map_err(|_| Status::from(Error::MemberBadURLs))?;
        urls.push(url.to_string());
    }
    if urls.is_empty() {
        return Err(Error::MemberBadURLs.into());
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_their_order() {
        let texts = ["http://b:1", "http://a:1"].map(str::to_owned);
        assert_eq!(parse_urls(&texts).unwrap(), texts);
        assert!(parse_urls(&[]).is_err());
    }
}
