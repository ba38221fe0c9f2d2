//! Whether a change of the membership is safe to propose: etcd's strict reconfiguration check.
//!
//! A change is refused that could leave the cluster without a quorum: counted are members that have started (they published
//! themselves), and members that this one has been connected with for a while. The state machine has its own checks,
//! which all members agree on; these here are one member's view of the moment.
//!
//! Upstream: `server/etcdserver/server.go`, `api/membership/cluster.go` (3.5.30).

use std::collections::BTreeSet;

use machine::{Member, Membership};
use rpc::errors::Error;

/// So long must a member have been connected to count as healthy, in seconds.
pub(crate) const HEALTHY_AFTER_SECONDS: u64 = 5;

/// What this member sees of the cluster.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) membership: &'a Membership,
    /// This member.
    pub(crate) own: u64,
    /// Members with a connection, however young.
    pub(crate) connected: &'a BTreeSet<u64>,
    /// Members with a connection that has lasted.
    pub(crate) healthy: &'a BTreeSet<u64>,
}

impl View<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.membership.members().filter(|member| !member.is_learner)
    }

    fn healthy_voters(&self) -> usize {
        self.voters()
            .filter(|voter| voter.id == self.own || self.healthy.contains(&voter.id))
            .count()
    }

    /// Whether a member may be added.
    pub(crate) fn check_add(&self, is_learner: bool) -> Result<(), Error> {
        let voters = self.voters().count();
        let started = self.voters().filter(|voter| is_started(voter)).count();
        // One more voter, not started. From one to two there is no way around it.
        let is_second = started == 1 && voters == 1;
        if !is_learner && !is_second && started < quorum(voters + 1) {
            return Err(Error::MemberNotEnoughStarted);
        }
        if voters > 1 && self.healthy_voters() < quorum(voters + 1) {
            return Err(Error::Unhealthy);
        }
        Ok(())
    }

    /// Whether a member may be removed.
    pub(crate) fn check_remove(&self, id: u64) -> Result<(), Error> {
        if self.membership.member(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let rest = self.voters().filter(|voter| voter.id != id).count();
        let started = self.voters().filter(|voter| voter.id != id && is_started(voter)).count();
        if started < quorum(rest) {
            return Err(Error::MemberNotEnoughStarted);
        }
        if id != self.own && !self.connected.contains(&id) {
            // It is down already: removing it makes the cluster stronger.
            return Ok(());
        }
        let voters = self.voters().count();
        if self.healthy_voters().saturating_sub(1) < 1 + voters.saturating_sub(1) / 2 {
            return Err(Error::Unhealthy);
        }
        Ok(())
    }

    /// Whether a learner may become a voter: one more voter, and it counts as started.
    pub(crate) fn check_promote(&self) -> Result<(), Error> {
        let started = 1 + self.voters().filter(|voter| is_started(voter)).count();
        if started < quorum(self.voters().count() + 1) {
            return Err(Error::MemberNotEnoughStarted);
        }
        Ok(())
    }
}

/// A member that has never started has not published its name.
fn is_started(member: &Member) -> bool {
    !member.name.is_empty()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// A learner that holds less than this share of the leader's log is not ready to vote, in percent.
const READY_PERCENT: u64 = 90;

/// Whether a learner has caught up with the leader.
pub(crate) fn check_caught_up(
    followers: &[replica::Follower],
    id: u64,
    own: u64,
) -> Result<(), Error> {
    let match_of = |id: u64| {
        followers.iter().find(|follower| follower.id.0 == id).map(|found| found.match_index.0)
    };
    let (Some(leader), Some(learner)) = (match_of(own), match_of(id)) else {
        return Err(Error::MemberNotFound);
    };
    // In numbers that cannot overflow: indexes are below 2^60.
    if u128::from(learner) * 100 < u128::from(leader) * u128::from(READY_PERCENT) {
        return Err(Error::LearnerNotReady);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
