//! Whoever changes the membership: one step at a time, each tried until it is seen to be done.

use std::collections::VecDeque;

use bootstrap::Beginning;
use bytes::Bytes;
use machine::{ConfChangeContext, Member, Membership, ids};
use raft::{ConfChange, ConfChangeKind, NodeId};
use replica::Input;

use super::env::Event;
use super::marks::Mark;
use super::node::{Node, State, Stopping};
use super::swarm::Fault;
use super::world::{World, url};

/// How often it tries.
const TRY_US: u64 = 400_000;

/// Members at most.
const MEMBERS_MAX: usize = 6;

/// Members that ever were, at most.
const NODES_MAX: u64 = 16;

/// A step.
#[derive(Debug, Clone, Copy)]
enum Task {
    Add(u64),
    Promote(u64),
    Remove(u64),
}

/// The operator.
#[derive(Debug)]
pub(super) struct Operator {
    cluster_id: u64,
    next_node: u64,
    tasks: VecDeque<Task>,
    is_replacing: bool,
}

impl Operator {
    pub(super) fn new(cluster_id: u64, next_node: u64) -> Self {
        Self { cluster_id, next_node, tasks: VecDeque::new(), is_replacing: false }
    }

    /// Whether a member is still to be added.
    pub(super) fn is_to_add(&self, id: u64) -> bool {
        self.tasks.iter().any(|task| matches!(task, Task::Add(new) if *new == id))
    }

    pub(super) fn is_done(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl World {
    /// The members as the member sees them that has applied the most.
    pub(super) fn membership(&self) -> Option<&Membership> {
        let live = self.nodes.values().filter_map(|node| node.live.as_ref());
        live.max_by_key(|live| live.machine.applied()).map(|live| live.machine.membership())
    }

    /// Plans a change.
    pub(super) fn reconfigure(&mut self, fault: Fault) {
        // Who has just restarted may know an older membership than the one in force.
        let is_current = |node: &Node| {
            let live = node.live.as_ref();
            live.is_some_and(|live| live.machine.applied() >= self.env.witness.last())
        };
        if !self.nodes.values().any(is_current) {
            return;
        }
        let Some(membership) = self.membership() else { return };
        let voters: Vec<u64> = membership
            .members()
            .filter(|member| !member.is_learner)
            .map(|member| member.id)
            .collect();
        let count = membership.members().len();
        let (is_small, is_idle) = (voters.len() < 3, self.operator.is_done());
        let can_grow = count < MEMBERS_MAX && self.operator.next_node <= NODES_MAX;
        if !is_idle {
            return;
        }
        match fault {
            Fault::AddLearner if can_grow => self.plan_addition(),
            Fault::Remove if !is_small => {
                if let Some(id) = self.env.schedule.pick(&voters) {
                    self.operator.tasks.push_back(Task::Remove(id));
                }
            }
            Fault::Replace if !is_small && can_grow => {
                let Some(id) = self.env.schedule.pick(&voters) else { return };
                let number = self.env.routes.get(&id).copied().unwrap_or(0);
                if let Some(node) = self.nodes.get_mut(&number) {
                    // Its disk is gone, and it never comes back under its name.
                    node.stop(Stopping::Power, &mut self.env);
                    node.state = State::Gone;
                    self.env.trace(number, "wiped", [0; 3]);
                }
                self.operator.tasks.push_back(Task::Remove(id));
                self.operator.is_replacing = true;
                self.plan_addition();
            }
            _ => {}
        }
    }

    fn plan_addition(&mut self) {
        let id = self.operator.next_node;
        self.operator.next_node += 1;
        let seconds = self.env.now_us() / 1_000_000;
        let raft_id = ids::added_member_id(&[url(id)], seconds);
        let beginning =
            Beginning::Join { cluster_id: self.operator.cluster_id, member_id: raft_id };
        self.env.routes.insert(raft_id, id);
        self.nodes.insert(id, Node::new(id, raft_id, beginning, &mut self.env));
        self.operator.tasks.push_back(Task::Add(id));
        self.operator.tasks.push_back(Task::Promote(id));
    }

    pub(super) fn operate(&mut self) {
        self.env.after(TRY_US, Event::Operate);
        let Some(&task) = self.operator.tasks.front() else { return };
        let Some(membership) = self.membership() else { return };
        let raft_id = |id: u64| self.nodes.get(&id).map_or(0, |node| node.raft_id);
        let (is_done, kind, subject) = match task {
            Task::Add(id) => {
                let subject = raft_id(id);
                (membership.member(subject).is_some(), ConfChangeKind::AddLearnerNode, subject)
            }
            Task::Promote(id) => {
                let member = membership.member(raft_id(id));
                let is_voter = member.is_some_and(|member| !member.is_learner);
                (is_voter, ConfChangeKind::AddNode, raft_id(id))
            }
            Task::Remove(id) => (membership.is_removed(id), ConfChangeKind::RemoveNode, id),
        };
        if is_done {
            self.operator.tasks.pop_front();
            match task {
                Task::Add(id) => {
                    self.env.mark(Mark::LearnerAdded);
                    let span = self.env.schedule.below(500_000);
                    self.env.after(span, Event::Start(id));
                }
                Task::Promote(_) => {
                    self.env.mark(Mark::LearnerPromoted);
                    if std::mem::take(&mut self.operator.is_replacing) {
                        self.env.mark(Mark::MemberReplaced);
                    }
                }
                Task::Remove(_) => {}
            }
            return;
        }
        if let Task::Promote(id) = task
            && !self.is_ready(id)
        {
            return;
        }
        self.propose_change(kind, subject);
    }

    /// As the server checks: a learner holds nine tenths of the log.
    fn is_ready(&self, id: u64) -> bool {
        let live = self.nodes.get(&id).and_then(|node| node.live.as_ref());
        live.is_some_and(|live| live.machine.applied() * 10 >= self.env.witness.last() * 9)
    }

    fn propose_change(&mut self, kind: ConfChangeKind, subject: u64) {
        let Some(at) = self.pick_serving() else { return };
        let number = self.env.routes.get(&subject).copied().unwrap_or(0);
        let member = Member {
            id: subject,
            name: String::new(),
            peer_urls: vec![url(number)],
            is_learner: kind == ConfChangeKind::AddLearnerNode,
            ..Member::default()
        };
        let is_promote = kind == ConfChangeKind::AddNode;
        let context = match kind {
            ConfChangeKind::RemoveNode => Vec::new(),
            _ => ConfChangeContext { member, is_promote }.encode(),
        };
        let env = &mut self.env;
        let request_id = env.name();
        let change = ConfChange {
            id: request_id,
            kind,
            node_id: NodeId(subject),
            context: Bytes::from(context),
        };
        if let Some(live) = self.nodes.get_mut(&at).and_then(|node| node.live.as_mut()) {
            env.trace(at, "change", [number, request_id, 0]);
            live.hear(Input::ProposeConfChange { request_id, change }, env);
        }
    }
}
