//! What only the leader can answer, asked of it over its peer port: the time of leases, and how far learners have come.
//!
//! The leader may change, or not be known yet: a question is asked again until its time is up.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member,
};
use proto::leasepb::LeaseInternalRequest;
use rpc::errors::Error;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::peer::{Answer, Question, answers};
use crate::request::Core;

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// What the leader said of a lease.
#[derive(Debug)]
pub(crate) enum OfLease<T> {
    /// This.
    Known(T),
    /// There is no such lease.
    NotFound,
    /// Nothing: this member leads by now, and is to answer itself.
    LedHere,
}

/// Renews a lease at the leader; returns its time to live in seconds.
pub(crate) async fn keep_alive(core: &Core, id: i64) -> Result<OfLease<i64>, Status> {
    let body = LeaseKeepAliveRequest { id }.encode_to_vec();
    ask_of_lease(core, "/leases", body, answers::renewed).await
}

/// Asks the leader for a lease's time to live.
pub(crate) async fn time_to_live(
    core: &Core,
    request: LeaseTimeToLiveRequest,
) -> Result<OfLease<LeaseTimeToLiveResponse>, Status> {
    let request = LeaseInternalRequest { lease_time_to_live_request: Some(request) };
    ask_of_lease(core, "/leases/internal", request.encode_to_vec(), answers::time_to_live).await
}

async fn ask_of_lease<T>(
    core: &Core,
    path: &str,
    body: Vec<u8>,
    decode: impl Fn(Bytes) -> Option<T>,
) -> Result<OfLease<T>, Status> {
    let deadline = Instant::now() + core.config.request_timeout();
    let question = Question::post(path, body).protobuf();
    loop {
        if core.board.is_leader() {
            return Ok(OfLease::LedHere);
        }
        let urls = leader_urls(core);
        for url in &urls {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = core.peers.client().call(url, question.clone(), left).await;
            match answer {
                Ok(Answer { status: StatusCode::OK, body, .. }) => {
                    if let Some(known) = decode(body) {
                        return Ok(OfLease::Known(known));
                    }
                    tracing::warn!(url, path, "the leader's answer cannot be read");
                }
                Ok(Answer { status: StatusCode::NOT_FOUND, .. }) => return Ok(OfLease::NotFound),
                // It has only just lost or won leadership, or is still applying; or it is down.
                Ok(Answer { status, .. }) => {
                    tracing::debug!(url, path, status = status.as_u16(), "the leader refused");
                }
                Err(error) => {
                    tracing::warn!(url, path, error = %error, "failed to forward to the leader");
                }
            }
        }
        pause(deadline, !urls.is_empty()).await?;
    }
}

/// Asks the leader to promote a learner.
pub(crate) async fn promote(core: &Core, id: u64) -> Result<Vec<Member>, Status> {
    let path = format!("/members/promote/{id}");
    let deadline = Instant::now() + core.config.request_timeout();
    let mut is_told = false;
    loop {
        let urls = leader_urls(core);
        for url in &urls {
            let left = deadline.saturating_duration_since(Instant::now());
            match core.peers.client().call(url, Question::post(&path, ""), left).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let rows = answers::members(&answer.body).map_err(|error| {
                        Status::new(
                            Code::Unknown,
                            format!("the leader's answer cannot be read: {error}"),
                        )
                    })?;
                    return Ok(rows.into_iter().map(Member::from).collect());
                }
                Ok(answer) => return Err(refused(&answer)),
                Err(error) if !is_told => {
                    // The next tries will hardly say more.
                    is_told = true;
                    tracing::warn!(url, error = %error, "failed to forward a promotion to the leader");
                }
                Err(_) => {}
            }
        }
        pause(deadline, !urls.is_empty()).await?;
    }
}

/// Waits before the next try; refuses when the time is up.
async fn pause(deadline: Instant, is_led: bool) -> Result<(), Error> {
    if Instant::now() + RETRY >= deadline {
        return Err(if is_led { Error::Timeout } else { Error::NoLeader });
    }
    tokio::time::sleep(RETRY).await;
    Ok(())
}

/// What a refusal of the leader means to the client.
fn refused(answer: &Answer) -> Status {
    let text = String::from_utf8_lossy(&answer.body);
    let text = text.trim();
    match answer.status {
        StatusCode::NOT_FOUND => Error::MemberNotFound.into(),
        StatusCode::REQUEST_TIMEOUT => Error::Timeout.into(),
        StatusCode::PRECONDITION_FAILED if text.contains("in sync with leader") => {
            Error::LearnerNotReady.into()
        }
        StatusCode::PRECONDITION_FAILED => Error::MemberNotLearner.into(),
        _ => Status::new(Code::Unknown, text.to_owned()),
    }
}

fn leader_urls(core: &Core) -> Vec<String> {
    let leader = core.board.leader().0;
    core.facts
        .get()
        .membership
        .member(leader)
        .map(|member| member.peer_urls.clone())
        .unwrap_or_default()
}
