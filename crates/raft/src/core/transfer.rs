//! Handing leadership over (thesis section 3.10): the leader brings the transferee up to date, takes no proposals
//! meanwhile, and then tells it to campaign at once.

use super::{Core, append::IfEmpty};
use crate::{
    message::{Body, Message},
    storage::Storage,
    trace::trace,
    types::{NodeId, Role},
};

impl<S: Storage> Core<S> {
    /// Asks for leadership to go to a voter. A follower passes the wish on to the leader. Whether it comes true shows in
    /// the soft state; the leader gives up after an election time.
    pub fn transfer_leader(&mut self, transferee: NodeId) {
        self.handle_transfer(transferee);
    }

    pub(super) fn handle_transfer(&mut self, transferee: NodeId) {
        match self.role {
            Role::Leader => self.start_transfer(transferee),
            Role::Follower if self.leader != NodeId::NONE => {
                let message = Message {
                    to: self.leader,
                    from: transferee,
                    term: self.term,
                    body: Body::TransferLeader,
                };
                self.queue(message);
            }
            Role::Follower => trace!(
                self.config.trace,
                Info,
                "{} no leader at term {}; dropping leader transfer msg",
                self.config.id,
                self.term
            ),
            Role::Candidate | Role::PreCandidate => {}
        }
    }

    fn start_transfer(&mut self, transferee: NodeId) {
        let (id, term) = (self.config.id, self.term);
        let Some(progress) = self.tracker.progress.get(&transferee) else {
            self.trace_unknown(transferee);
            return;
        };
        if progress.is_learner {
            trace!(self.config.trace, Debug, "{id} is learner. Ignored transferring leadership");
            return;
        }
        let is_caught_up = progress.match_index == self.log.last_index();
        if self.transferee != NodeId::NONE {
            if self.transferee == transferee {
                trace!(
                    self.config.trace,
                    Info,
                    "{id} [term {term}] transfer leadership to {transferee} is in progress, ignores request to same node \
                     {transferee}"
                );
                return;
            }
            trace!(
                self.config.trace,
                Info,
                "{id} [term {term}] abort previous transferring leadership to {}",
                self.transferee
            );
            self.transferee = NodeId::NONE;
        }
        if transferee == id {
            trace!(
                self.config.trace,
                Debug, "{id} is already leader. Ignored transferring leadership to self"
            );
            return;
        }
        trace!(
            self.config.trace,
            Info, "{id} [term {term}] starts to transfer leadership to {transferee}"
        );
        // It has one election time.
        self.election_elapsed = 0;
        self.transferee = transferee;
        if is_caught_up {
            self.send(transferee, Body::TimeoutNow);
            trace!(
                self.config.trace,
                Info,
                "{id} sends MsgTimeoutNow to {transferee} immediately as {transferee} already has up-to-date log"
            );
        } else {
            self.send_append(transferee, IfEmpty::Send);
        }
    }
}
