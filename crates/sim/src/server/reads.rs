//! Reads, as in the server: one round through consensus serves all that wait for it; late ones get the next.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::etcdserverpb::RangeRequest;
use raft::{LogIndex, Role};
use replica::Input;

use super::client::Answer;
use super::env::{Env, Step};
use super::marks::Mark;
use super::node::Live;
use super::plant::Plant;
use crate::violation::broken;

/// The server asks again after this time.
const RETRY_US: u64 = 500_000;

/// Somebody who reads.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) client: usize,
    pub(super) number: u64,
    pub(super) request: RangeRequest,
    /// The newest revision that anybody knew of when the read began; for a serializable one, that the client had seen
    /// in this life of the member.
    pub(super) floor: i64,
}

#[derive(Debug)]
struct Round {
    contexts: BTreeSet<u64>,
    asked_us: u64,
    waiters: Vec<Pending>,
}

/// The rounds of a member.
#[derive(Debug, Default)]
pub(super) struct Reads {
    round: Option<Round>,
    waiting: Vec<Pending>,
    /// Confirmed, and waiting until an entry is applied.
    confirmed: Vec<(u64, Pending)>,
}

impl Live {
    pub(super) fn read_linearizable(&mut self, pending: Pending, env: &mut Env) -> Step {
        env.mark(Mark::ReadLinearizable);
        if self.status.reads_locally || env.plant == Plant::ReadWithoutRound {
            return self.read_now(pending, env);
        }
        self.reads.waiting.push(pending);
        if self.reads.round.is_none() {
            self.begin_round(env);
        }
        Ok(())
    }

    fn begin_round(&mut self, env: &mut Env) {
        let waiters = std::mem::take(&mut self.reads.waiting);
        self.reads.round = Some(Round { contexts: BTreeSet::new(), asked_us: 0, waiters });
        self.ask_round(env);
    }

    fn ask_round(&mut self, env: &mut Env) {
        let Some(round) = &mut self.reads.round else { return };
        let context = env.name();
        round.contexts.insert(context);
        round.asked_us = env.now_us();
        let context = Bytes::copy_from_slice(&context.to_be_bytes());
        self.hear(Input::ReadIndex { context }, env);
    }

    pub(super) fn ask_reads_again(&mut self, env: &mut Env) {
        let now = env.now_us();
        if self.reads.round.as_ref().is_some_and(|round| now >= round.asked_us + RETRY_US) {
            self.ask_round(env);
        }
    }

    pub(super) fn confirm_read(&mut self, context: &[u8], index: LogIndex, env: &mut Env) -> Step {
        let Ok(context) = <[u8; 8]>::try_from(context).map(u64::from_be_bytes) else {
            return Ok(broken("reads", "a read has a strange context".to_owned())?);
        };
        let is_meant =
            self.reads.round.as_ref().is_some_and(|round| round.contexts.contains(&context));
        if !is_meant {
            return Ok(());
        }
        let waiters = self.end_round(env);
        self.reads.confirmed.extend(waiters.into_iter().map(|waiter| (index.0, waiter)));
        self.release_reads(env)
    }

    /// Another member leads: the round's answer will not come.
    pub(super) fn void_reads(&mut self, env: &mut Env) {
        if self.reads.round.is_some() {
            for Pending { client, number, .. } in self.end_round(env) {
                self.answer(client, number, Answer::Unavailable, env);
            }
        }
    }

    fn end_round(&mut self, env: &mut Env) -> Vec<Pending> {
        let waiters = self.reads.round.take().map(|round| round.waiters).unwrap_or_default();
        if !self.reads.waiting.is_empty() {
            self.begin_round(env);
        }
        waiters
    }

    /// Serves the reads whose index is applied.
    pub(super) fn release_reads(&mut self, env: &mut Env) -> Step {
        let applied = self.machine.applied();
        let confirmed = std::mem::take(&mut self.reads.confirmed);
        let (ready, later): (Vec<_>, Vec<_>) =
            confirmed.into_iter().partition(|(index, _)| *index <= applied);
        self.reads.confirmed = later;
        for (_, pending) in ready {
            if self.status.role != Role::Leader {
                env.mark(Mark::ReadByFollower);
            }
            self.read_now(pending, env)?;
        }
        Ok(())
    }

    /// Reads what is applied.
    pub(super) fn read_now(&mut self, pending: Pending, env: &mut Env) -> Step {
        let Pending { client, number, request, floor } = pending;
        let answer = match self.reader.range(&request) {
            Ok(range) => {
                let response = range.into_response()?;
                env.witness.reads(self.id(), &request, &response, floor)?;
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                if request.revision > 0 {
                    env.mark(Mark::ReadPast);
                }
                if revision < env.witness.floor() {
                    env.mark(Mark::ReadBehind);
                }
                Answer::Read { revision, life: self.life }
            }
            Err(mvcc::Error::Request(mvcc::RequestError::Compacted { requested, compacted })) => {
                if requested >= compacted || compacted > env.witness.model().compacted() {
                    let detail = format!("{requested} is refused, compacted at {compacted}");
                    return Ok(broken("compaction hides older history only", detail)?);
                }
                env.mark(Mark::ReadCompacted);
                Answer::Refused
            }
            Err(mvcc::Error::Request(mvcc::RequestError::FutureRevision {
                requested,
                current,
            })) => {
                if requested <= current {
                    let detail = format!("{requested} is the future of {current}");
                    return Ok(broken("reads equal the model", detail)?);
                }
                Answer::Refused
            }
            Err(error) => return Ok(broken("everything can be read", error.to_string())?),
        };
        self.answer(client, number, answer, env);
        Ok(())
    }
}
