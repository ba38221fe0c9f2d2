use std::sync::Arc;

use machine::Committed;
use machine::bootstrap::Founding;
use proto::etcdserverpb::{InternalRaftRequest, Metadata, PutRequest, internal_raft_request};
use raft::Role;
use replica::{Effect, Input};
use vfs::Dir;
use vfs::sim::{LoseAll, SimDisk};

use super::*;
use crate::{Beginning, Dirs, FoundingOptions, Options, Origin};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn founding() -> Founding {
    let members = NAMES.map(|name| (name.to_owned(), vec![format!("http://{name}:2380")]));
    Founding::new(members, "token")
}

fn put(index: u64) -> raftpb::Entry {
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let request = InternalRaftRequest {
        request: Some(internal_raft_request::Request::Put(put)),
        ..InternalRaftRequest::default()
    };
    raftpb::Entry {
        term: 2,
        index,
        data: Some(Bytes::from(request.encode_to_vec())),
        ..raftpb::Entry::default()
    }
}

fn dirs(disk: &SimDisk) -> Dirs {
    let dir: Arc<dyn Dir> = disk.dir();
    let snap = dir.subdir("snap").or_else(|_| dir.create_subdir("snap")).unwrap();
    dir.sync().unwrap();
    Dirs { snap, wal_parent: dir, wal_name: "wal".to_owned() }
}

fn options(force_new_cluster: bool) -> Options {
    Options {
        beginning: Beginning::Found(FoundingOptions {
            name: "a".to_owned(),
            members: Vec::new(),
            cluster_token: String::new(),
        }),
        wal: wal::Options { segment_bytes: 64 * 1024 },
        backend: backend::Options { initial_map_bytes: 0, ..backend::Options::default() },
        machine: machine::Options::new(0, machine::Version::EMULATED[0]),
        asked_version: None,
        force_new_cluster,
        election_ticks: 10,
        pre_vote: true,
        seed: 1,
        trace: Arc::new(raft::Silent),
    }
}

/// The log of one of three members, which knows `commit` to be committed, and has one put more at each index up to `last`.
fn write_log(disk: &SimDisk, name: &str, last: u64, commit: u64) -> u64 {
    let founding = founding();
    let node_id = founding.member(name).unwrap().id;
    let metadata = Metadata { node_id, cluster_id: founding.cluster_id };
    let dirs = dirs(disk);
    let metadata = Bytes::from(metadata.encode_to_vec());
    let mut wal =
        Wal::create(&dirs.wal_parent, &dirs.wal_name, metadata, &options(false).wal).unwrap();
    let mut entries = founding.entries();
    let founders = entries.len() as u64;
    entries.extend((founders + 1..=last).map(put));
    let hard_state = raftpb::HardState { term: 2, vote: node_id, commit };
    wal.stage(&Batch { entries: &entries, hard_state: Some(hard_state) });
    wal.sync().unwrap();
    node_id
}

/// Runs a member until it leads alone; returns it.
fn run_until_leader(mut member: crate::Member) -> crate::Member {
    let mut effects = Vec::new();
    for _ in 0..100 {
        member.replica.handle(Input::Tick, &mut effects);
        member.replica.flush(&mut effects);
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                carry_out(&mut member, effect, &mut effects);
            }
            member.replica.flush(&mut effects);
        }
        if member.replica.status().role == Role::Leader {
            return member;
        }
    }
    panic!("no leader: {:?}", member.replica.status());
}

fn carry_out(member: &mut crate::Member, effect: Effect, effects: &mut Vec<Effect>) {
    match effect {
        Effect::Persist(append) => {
            let entries: Vec<_> = append.entries.iter().map(raft::codec::entry_to_proto).collect();
            let hard_state = append.hard_state.as_ref().map(raft::codec::hard_state_to_proto);
            member.wal.append(&Batch { entries: &entries, hard_state }).unwrap();
            member.replica.handle(Input::Persisted(append), effects);
        }
        Effect::Apply(apply) => {
            for committed in apply.entries {
                let index = committed.entry.index;
                let entry = raft::codec::entry_to_proto(&committed.entry);
                let committed = Committed::from_entry(entry).unwrap();
                let applied = member.machine.apply(&committed, std::time::Duration::ZERO).unwrap();
                for effect in applied.effects {
                    let machine::Effect::ConfChange(change) = effect else { continue };
                    let data = Bytes::from(change.encode_to_vec());
                    let change = raft::codec::decode_conf_change(data).unwrap().into();
                    member.replica.handle(Input::ConfChangeApplied { index, change }, effects);
                }
            }
            member.replica.handle(Input::Applied(apply.done), effects);
        }
        Effect::Send(_) | Effect::ConfState(Ok(_)) | Effect::Status(_) => {}
        effect @ (Effect::SendSnapshot(_)
        | Effect::Install(_)
        | Effect::ConfState(Err(_))
        | Effect::ReadReady { .. }
        | Effect::Dropped { .. }
        | Effect::Rejected(_)) => panic!("unexpected {effect:?}"),
    }
}

fn ids(member: &crate::Member) -> Vec<u64> {
    member.machine.membership().members().map(|member| member.id).collect()
}

fn forced(member: &crate::Member) -> Forced {
    let Origin::Restart(restart) = &member.origin else { panic!("{:?}", member.origin) };
    restart.forced.unwrap()
}

#[test]
fn a_member_goes_on_alone_with_what_was_committed() {
    let disk = SimDisk::new();
    let own = write_log(&disk, "b", 8, 6);
    let member = crate::open(dirs(&disk), &options(true)).unwrap();
    assert_eq!((member.member_id, member.cluster_id), (own, founding().cluster_id));
    assert_eq!(forced(&member), Forced { commit_before: 6, commit_index: 8, discarded: 2 });
    // A power cut now: the next start needs no flag.
    drop(member);
    disk.crash(&mut LoseAll);
    let member = run_until_leader(crate::open(dirs(&disk), &options(false)).unwrap());
    assert_eq!(ids(&member), [own]);
    assert_eq!(member.machine.conf_state().voters, [own]);
    // The puts at 4, 5 and 6; those at 7 and 8 were not known to be committed.
    assert_eq!(member.machine.revision(), 4);
}

#[test]
fn forcing_a_cluster_of_one_loses_nothing() {
    let disk = SimDisk::new();
    let own = write_log(&disk, "a", 4, 4);
    drop(run_until_leader(crate::open(dirs(&disk), &options(true)).unwrap()));
    let member = crate::open(dirs(&disk), &options(true)).unwrap();
    // The new leader's own entry is in the log, and its commit index is not; alone it is committed all the same.
    let commit_index = member.wal.last_index();
    assert_eq!(forced(&member), Forced { commit_before: 6, commit_index, discarded: 0 });
    assert_eq!(commit_index, 7);
    assert_eq!(ids(&run_until_leader(member)), [own]);
}

#[test]
fn without_force_a_member_of_three_waits_for_the_others() {
    let disk = SimDisk::new();
    write_log(&disk, "a", 4, 4);
    let mut member = crate::open(dirs(&disk), &options(false)).unwrap();
    let mut effects = Vec::new();
    for _ in 0..100 {
        member.replica.handle(Input::Tick, &mut effects);
        member.replica.flush(&mut effects);
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                carry_out(&mut member, effect, &mut effects);
            }
            member.replica.flush(&mut effects);
        }
    }
    assert_ne!(member.replica.status().role, Role::Leader);
}

#[test]
fn a_learner_becomes_a_voter_before_the_others_go() {
    let state =
        raftpb::ConfState { voters: vec![1, 2], learners: vec![3], ..raftpb::ConfState::default() };
    let kinds = |own| -> Vec<(ConfChangeType, u64)> {
        let changes = Members::of(&state).changes_to_only(own);
        changes.iter().map(|change| (change.r#type(), change.node_id)).collect()
    };
    use ConfChangeType::{ConfChangeAddNode as Add, ConfChangeRemoveNode as Remove};
    assert_eq!(kinds(1), [(Remove, 2), (Remove, 3)]);
    assert_eq!(kinds(3), [(Add, 3), (Remove, 1), (Remove, 2)]);
    assert_eq!(kinds(9), [(Add, 9), (Remove, 1), (Remove, 2), (Remove, 3)]);
}
