//! Candidates: what one vouches for must be durable before it asks for votes, since otherwise it can stand in one term twice; and
//! two that stand at the same moment must not keep the group from having a leader.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use bytes::Bytes;
use raft::{
    Append, Body, CompatMode, Config, Core, MemoryStorage, Message, NodeId, Peer, Role, SplitMix64,
    Term, codec,
};

/// A founder of three that has written and applied its founding.
fn founder(id: u64, compat: CompatMode) -> Core<MemoryStorage> {
    let mut config = Config::new(NodeId(id), Box::new(SplitMix64::new(id)));
    config.compat = compat;
    let mut core = Core::new(config, MemoryStorage::new()).unwrap();
    let peer = |id| Peer { id: NodeId(id), context: Bytes::new() };
    core.bootstrap(&[peer(1), peer(2), peer(3)]).unwrap();
    while core.has_ready() {
        let ready = core.ready();
        if let Some(append) = ready.append {
            write(&mut core, append);
        }
        if let Some(apply) = ready.apply {
            for entry in &apply.entries {
                if let Some(change) = codec::conf_change_of(entry).unwrap() {
                    core.apply_conf_change_at(entry.index, &change).unwrap();
                }
            }
            core.applied(apply.done);
        }
    }
    core
}

fn write(core: &mut Core<MemoryStorage>, append: Append) {
    if let Some(state) = append.hard_state {
        core.storage_mut().set_hard_state(state);
    }
    core.storage_mut().append(append.entries);
    core.persisted(append.done);
}

/// Node 1 is elected by 2 and 3 before its own disk knows of term 2, sends entries, and crashes: the disk says term 1, so it
/// would stand in term 2 again. Those whom the entries did not reach vote for it again, with a log that lacks them, and one
/// term has two logs. So neither request nor entries may leave before the write.
#[test]
fn votes_are_asked_for_when_the_own_vote_is_durable() {
    let mut core = founder(1, CompatMode::Hardened);
    core.campaign();
    let ready = core.ready();
    assert!(ready.messages.iter().all(|message| matches!(message.body, Body::PreVote(_))));
    if let Some(append) = ready.append {
        write(&mut core, append);
    }
    for from in [2, 3] {
        let body = Body::PreVoteResponse { reject: false };
        let message = Message { to: NodeId(1), from: NodeId(from), term: Term(2), body };
        core.step(message).unwrap();
    }
    let ready = core.ready();
    let asks = |messages: &[Message]| {
        messages.iter().filter(|message| matches!(message.body, Body::Vote(_))).count()
    };
    assert_eq!(asks(&ready.messages), 0, "nothing leaves before the write");
    let append = ready.append.unwrap();
    let state = append.hard_state.unwrap();
    assert_eq!((state.term, state.vote), (Term(2), NodeId(1)));
    assert!(append.must_sync);
    assert_eq!(asks(&append.responses), 2, "both leave behind it");
}

/// The third is dead, the other two miss their leader at the same moment, and each would vote for the other.
fn leaders_after_a_tie(compat: CompatMode) -> usize {
    let mut cores = [founder(1, compat), founder(2, compat)];
    for core in &mut cores {
        core.campaign();
    }
    let mut sent: Vec<Message> = Vec::new();
    loop {
        for core in &mut cores {
            while core.has_ready() {
                let ready = core.ready();
                sent.extend(ready.messages);
                if let Some(append) = ready.append {
                    sent.extend(append.responses.clone());
                    write(core, append);
                }
                if let Some(apply) = ready.apply {
                    core.applied(apply.done);
                }
            }
        }
        if sent.is_empty() {
            break;
        }
        for message in sent.drain(..) {
            if let Some(core) = cores.iter_mut().find(|core| core.status().id == message.to) {
                core.step(message).unwrap();
            }
        }
    }
    cores.iter().filter(|core| core.role() == Role::Leader).count()
}

#[test]
fn of_two_that_stand_at_once_one_gives_way() {
    assert_eq!(leaders_after_a_tie(CompatMode::Upstream), 0, "the tie is one");
    assert_eq!(leaders_after_a_tie(CompatMode::Hardened), 1);
}
