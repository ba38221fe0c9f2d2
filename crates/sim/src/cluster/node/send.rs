//! What leaves a node: compared with its disk, then given to the network.

use bytes::Bytes;
use raft::{Body, Message, codec};

use super::Node;
use crate::cluster::check::{Violation, broken};
use crate::cluster::env::{Env, Event};
use crate::cluster::marks::Mark;

impl Node {
    pub(super) fn send(&mut self, message: Message, env: &mut Env) -> Result<(), Violation> {
        self.inspect(&message, env)?;
        let (from, to) = (self.id, message.to.0);
        if message.from.0 != self.id
            && !matches!(
                message.body,
                Body::Propose { .. } | Body::ReadIndex { .. } | Body::TransferLeader
            )
        {
            return broken("messages", format!("n{from} speaks as n{}", message.from));
        }
        let fate = env.net.fate(env.now_us, from, to);
        let message = if env.swarm.is_encoded { recode(message)? } else { message };
        let sent_by = self.life();
        if let Some(again_us) = fate.again_us {
            env.mark(Mark::MessageDuplicated);
            env.at(again_us, Event::Deliver { sent_by, message: Box::new(message.clone()) });
        }
        if let Some(arrives_us) = fate.arrives_us {
            env.at(arrives_us, Event::Deliver { sent_by, message: Box::new(message) });
            return Ok(());
        }
        env.mark(Mark::MessageLost);
        // A transport notices some losses, sooner or later.
        if env.workload.percent(20) {
            env.after(1_000, Event::Unreachable(sent_by, to));
        }
        Ok(())
    }

    /// Sends the state machine as of now: in it, whoever it is for is a member. The sender learns whether it arrived, except
    /// when it crashes before.
    pub(super) fn send_snapshot(
        &mut self,
        mut message: Message,
        env: &mut Env,
    ) -> Result<(), Violation> {
        self.inspect(&message, env)?;
        let to = message.to.0;
        if let Body::Snapshot(snapshot) = &mut message.body
            && let Some(newest) = self.snapshot(env)
        {
            **snapshot = newest;
        }
        env.mark(Mark::SnapshotSent);
        let message = if env.swarm.is_encoded { recode(message)? } else { message };
        let sent_by = self.life();
        match env.net.fate(env.now_us, self.id, to).arrives_us {
            Some(arrives_us) => {
                env.at(arrives_us, Event::Deliver { sent_by, message: Box::new(message) });
            }
            None => {
                env.mark(Mark::SnapshotLost);
                let span = env.workload.around(500_000);
                env.after(span, Event::SnapshotSent { sent_by, to, is_taken: false });
            }
        }
        Ok(())
    }

    /// Compares what a message promises with what is on disk.
    pub(super) fn inspect(&self, message: &Message, env: &mut Env) -> Result<(), Violation> {
        let term = message.term;
        if matches!(message.body, Body::VoteResponse { reject: false }) {
            env.check.votes(self.id, term.0, message.to.0)?;
        }
        if !env.check.inspects_sends {
            return Ok(());
        }
        let state = self.disk.hard_state;
        let is_kept = match &message.body {
            Body::VoteResponse { reject: false } => {
                state.term > term || (state.term == term && state.vote == message.to)
            }
            Body::AppendResponse { index, rejection: None } => {
                state.term > term || (state.term == term && self.disk.last_index() >= index.0)
            }
            Body::AppendResponse { rejection: Some(_), .. }
            | Body::VoteResponse { reject: true }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::Snapshot(_)
            | Body::TimeoutNow
            | Body::ReadIndexResponse { .. } => state.term >= term,
            // These promise nothing, or speak of a term that nobody entered.
            Body::Propose { .. }
            | Body::Vote(_)
            | Body::HeartbeatResponse { .. }
            | Body::TransferLeader
            | Body::ReadIndex { .. }
            | Body::PreVote(_)
            | Body::PreVoteResponse { .. } => true,
        };
        if is_kept {
            return Ok(());
        }
        broken(
            "durable before sent",
            format!(
                "n{} sends {} of term {term}, on disk is term {}, vote {}, last entry {}",
                self.id,
                message.body.kind(),
                state.term,
                state.vote,
                self.disk.last_index()
            ),
        )
    }
}

/// Through the encoding and back.
fn recode(message: Message) -> Result<Message, Violation> {
    let bytes = Bytes::from(codec::encode_message(&message));
    match codec::decode_message(bytes) {
        Ok(decoded) if decoded == message => Ok(decoded),
        Ok(decoded) => broken("encoding", format!("{message:?} comes back as {decoded:?}")),
        Err(error) => broken("encoding", format!("{message:?}: {error}")),
    }
}

/// Short names for the trace.
pub(super) fn kind_name(body: &Body) -> &'static str {
    match body {
        Body::Propose { .. } => "<Prop",
        Body::Append { .. } => "<App",
        Body::AppendResponse { rejection: None, .. } => "<AppResp",
        Body::AppendResponse { rejection: Some(_), .. } => "<AppReject",
        Body::Vote(_) => "<Vote",
        Body::VoteResponse { reject: false } => "<VoteYes",
        Body::VoteResponse { reject: true } => "<VoteNo",
        Body::Snapshot(_) => "<Snap",
        Body::Heartbeat { .. } => "<Heartbeat",
        Body::HeartbeatResponse { .. } => "<HeartResp",
        Body::TransferLeader => "<Transfer",
        Body::TimeoutNow => "<TimeoutNow",
        Body::ReadIndex { .. } => "<Read",
        Body::ReadIndexResponse { .. } => "<ReadResp",
        Body::PreVote(_) => "<PreVote",
        Body::PreVoteResponse { reject: false } => "<PreVoteYes",
        Body::PreVoteResponse { reject: true } => "<PreVoteNo",
    }
}

/// The number that says most about a message.
pub(super) fn detail(body: &Body) -> u64 {
    match body {
        Body::Propose { entries } => entries.len() as u64,
        Body::Append { prev, entries, .. } => prev.index.0 + entries.len() as u64,
        Body::AppendResponse { index, .. } | Body::ReadIndexResponse { index, .. } => index.0,
        Body::Vote(request) | Body::PreVote(request) => request.last.index.0,
        Body::Snapshot(snapshot) => snapshot.metadata.index.0,
        Body::Heartbeat { commit, .. } => commit.0,
        Body::HeartbeatResponse { .. }
        | Body::TransferLeader
        | Body::TimeoutNow
        | Body::ReadIndex { .. }
        | Body::VoteResponse { .. }
        | Body::PreVoteResponse { .. } => 0,
    }
}
