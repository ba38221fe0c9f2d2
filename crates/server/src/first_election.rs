//! The first election after a start, sooner than after a whole timeout.
//!
//! A member that has just started knows of no leader, and waits for one before it campaigns. That is a timeout in which nothing
//! happens when there is none. So once it is connected with others, and most of the timeout is left for a leader to be heard,
//! the rest is skipped.
//!
//! Upstream: `adjustTicks` in `server/etcdserver/server.go` (3.6.14).

use std::sync::Arc;
use std::time::Duration;

use replica::Input;

use crate::driver::heart::Work;
use crate::request::Core;
use crate::told;

/// How often to look for connections, and for how long: etcd's read timeout between members.
const EVERY: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(5);

/// Ticks that are left for a leader to be heard.
const TICKS_LEFT: u32 = 2;

/// Advances the time of consensus, if there is a reason to.
pub(crate) async fn hurry(core: Arc<Core>) {
    let election_ticks = core.config.election_ticks();
    let members = core.facts.get().membership.members().len();
    if members == 1 {
        // There is nobody to be heard. What the log still holds may say otherwise; then it is a campaign like others.
        let ticks = election_ticks.saturating_sub(1);
        tracing::info!(
            local_member_id = format!("{:x}", core.member_id),
            forward_ticks = ticks,
            forward_duration = told::go_duration(core.config.heartbeat * ticks),
            election_ticks,
            election_timeout = told::go_duration(core.config.heartbeat * election_ticks),
            "started as single-node; fast-forwarding election ticks"
        );
        advance(&core, ticks);
        return;
    }
    if !core.config.initial_election_tick_advance {
        tracing::info!(election_ticks, "skipping initial election tick advance");
        return;
    }
    tracing::info!(election_ticks, "starting initial election tick advance");
    for _ in 0..LIMIT.as_millis() / EVERY.as_millis() {
        tokio::time::sleep(EVERY).await;
        let connected = connected(&core);
        if connected > 1 {
            let ticks = election_ticks.saturating_sub(TICKS_LEFT);
            tracing::info!(
                local_member_id = format!("{:x}", core.member_id),
                forward_ticks = ticks,
                forward_duration = told::go_duration(core.config.heartbeat * ticks),
                election_ticks,
                election_timeout = told::go_duration(core.config.heartbeat * election_ticks),
                active_remote_members = connected,
                "initialized peer connections; fast-forwarding election ticks"
            );
            advance(&core, ticks);
            return;
        }
    }
}

fn connected(core: &Core) -> usize {
    let Some(transport) = core.peers.transport() else { return 0 };
    let known = core.facts.get();
    let others = known.membership.members().filter(|member| member.id != core.member_id);
    others.filter(|member| transport.active_since(member.id).is_some()).count()
}

fn advance(core: &Core, ticks: u32) {
    core.heart.send_all((0..ticks).map(|_| Work::Replica(Input::Tick)));
}
