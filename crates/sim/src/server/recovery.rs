//! The end: all faults are mended, and within bounded time the cluster must be whole.

use proto::etcdserverpb::PutRequest;
use proto::etcdserverpb::internal_raft_request::Request;

use super::client::Op;
use super::env::{Event, Step};
use super::marks::Mark;
use super::node::{State, Stopping};
use super::world::World;
use crate::solo::lock;
use crate::violation::broken;

/// Once all is healed, the cluster must have recovered within this virtual time.
const RECOVERY_US: u64 = 60_000_000;

/// Removed members end for good this long after all was healed.
const RETIRE_US: u64 = 10_000_000;

/// How often it is looked whether it has.
const LOOK_US: u64 = 200_000;

/// Between two writes that try whether a member is of use again, in looks.
const PROBE_EVERY: u64 = 5;

impl World {
    pub(super) fn look(&mut self) -> Step {
        self.env.after(LOOK_US, Event::Look);
        let Some(healed_us) = self.healed_us else {
            self.heal_all();
            return Ok(());
        };
        let since = self.env.now_us() - healed_us;
        let lack = self.lacks();
        if lack.is_empty() {
            self.env.mark(Mark::Recovered);
            self.env.trace(0, "recovered", [since, 0, 0]);
            self.has_ended = true;
            return self.check_end();
        }
        if since > RECOVERY_US {
            return Ok(broken("liveness", lack)?);
        }
        if since > RETIRE_US {
            self.retire_removed();
        }
        if (since / LOOK_US).is_multiple_of(PROBE_EVERY) {
            self.probe()?;
        }
        Ok(())
    }

    /// Ends the members that were removed and never learned of it. Before, the others may have needed them to commit that.
    fn retire_removed(&mut self) {
        let Some(membership) = self.membership() else { return };
        let removed: Vec<u64> = membership.removed().collect();
        let env = &mut self.env;
        for node in self.nodes.values_mut() {
            if removed.contains(&node.raft_id) && node.state != State::Gone {
                node.stop(Stopping::Kill, env);
                node.state = State::Gone;
            }
        }
    }

    fn heal_all(&mut self) {
        let env = &mut self.env;
        self.healed_us = Some(env.now_us());
        env.is_calm = true;
        env.trace(0, "heal all", [0; 3]);
        env.net.calm();
        let swarm = &mut env.swarm;
        swarm.write_us = (100, 2_000);
        swarm.apply_us = (0, 1_000);
        swarm.commit_us = (100, 5_000);
        swarm.watch_us = (0, 1_000);
        swarm.commit_interval_us = swarm.commit_interval_us.min(1_000_000);
        swarm.poll_us = 20_000;
        let now = env.now_us();
        for node in self.nodes.values_mut() {
            node.disk.clear_faults();
            node.disk.set_capacity(None);
            node.has_bad_disk = false;
            node.is_armed = false;
            node.slow_until_us = 0;
            if let Some(live) = &mut node.live {
                live.slow_until_us = 0;
            }
            if node.state == State::Down && !self.operator.is_to_add(node.id) {
                self.env.queue.at(now, Event::Start(node.id));
            }
        }
    }

    /// Members that are not of use again are asked for a write each.
    fn probe(&mut self) -> Step {
        let ids: Vec<u64> =
            self.nodes.values().filter(|node| !node.is_probed).map(|node| node.id).collect();
        for id in ids {
            let number = self.env.name();
            let request = PutRequest {
                key: super::client::key(0).into(),
                value: number.to_string().into_bytes().into(),
                ..PutRequest::default()
            };
            let now = self.env.now_us();
            let paused = self.nodes.get(&id).map_or(0, |node| node.paused_until_us);
            if paused <= now && self.nodes.get(&id).is_some_and(|node| node.live.is_some()) {
                self.probes.insert(number, id);
                self.arrive(usize::MAX, number, id, Op::Write(Request::Put(request)))?;
            }
        }
        Ok(())
    }

    /// What is still missing, in words.
    fn lacks(&self) -> String {
        let Some(membership) = self.membership() else { return "nobody is up".to_owned() };
        let last = self.env.witness.last();
        let mut leader = None;
        if !self.operator.is_done() {
            return format!("changes of the membership: {:?}", self.operator);
        }
        for member in membership.members() {
            let Some(&id) = self.env.routes.get(&member.id) else { continue };
            let Some(node) = self.nodes.get(&id) else { continue };
            let Some(live) = &node.live else { return format!("n{id} is {:?}", node.state) };
            let leads = live.status.leader;
            let applied = live.machine.applied();
            if !leads.is_member() || *leader.get_or_insert(leads) != leads {
                return format!("n{id} has {:?}", live.status);
            }
            if applied != last || !node.is_probed {
                return format!(
                    "n{id} has applied {applied} of {last}, probed: {}, {:?}",
                    node.is_probed, live.status
                );
            }
            if live.stage.is_compacting() {
                return format!("n{id} compacts");
            }
        }
        let leases = self.env.witness.live_leases();
        if !leases.is_empty() {
            return format!("leases that do not run out: {leases:?}");
        }
        let revision = self.env.witness.revision();
        match self.watchers.iter().find(|watcher| !watcher.is_caught_up(revision)) {
            Some(watcher) => format!("a watcher at {revision}: {watcher:?}"),
            None => String::new(),
        }
    }

    fn check_end(&mut self) -> Step {
        let World { env, nodes, .. } = self;
        for node in nodes.values_mut() {
            let id = node.id;
            let Some(live) = &mut node.live else { continue };
            live.check_state(env)?;
            if live.machine.applied() == env.witness.last() {
                env.witness.attachments(id, &lock(&live.machine.lessor()))?;
            }
            let problems = live.backend.view().check();
            if !problems.is_empty() {
                return Ok(broken("databases are sound", format!("n{id}: {problems:?}"))?);
            }
        }
        Ok(())
    }
}
