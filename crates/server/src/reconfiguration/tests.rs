use machine::Membership;
use raft::{LogIndex, NodeId};

use super::*;

/// Voters by id, of whom these have started; and learners.
fn membership(voters: &[u64], started: &[u64], learners: &[u64]) -> Membership {
    let member = |id: u64, is_learner| Member {
        id,
        name: if started.contains(&id) { format!("m{id}") } else { String::new() },
        peer_urls: vec![format!("http://m{id}:2380")],
        is_learner,
        ..Member::default()
    };
    let voters = voters.iter().map(|&id| member(id, false));
    Membership::of(voters.chain(learners.iter().map(|&id| member(id, true))))
}

fn check(
    membership: &Membership,
    healthy: &[u64],
    ask: impl Fn(&View<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let healthy: BTreeSet<u64> = healthy.iter().copied().collect();
    ask(&View { membership, own: 1, connected: &healthy, healthy: &healthy })
}

#[test]
fn one_member_may_always_get_a_second() {
    let alone = membership(&[1], &[1], &[]);
    assert_eq!(check(&alone, &[], |view| view.check_add(false)), Ok(()));
    assert_eq!(check(&alone, &[], |view| view.check_add(true)), Ok(()));
}

#[test]
fn a_second_that_has_not_started_forbids_a_third() {
    let two = membership(&[1, 2], &[1], &[]);
    let refused = Err(Error::MemberNotEnoughStarted);
    assert_eq!(check(&two, &[2], |view| view.check_add(false)), refused);
    // A learner takes no part in quorums; the others must be healthy all the same.
    assert_eq!(check(&two, &[2], |view| view.check_add(true)), Ok(()));
    assert_eq!(check(&two, &[], |view| view.check_add(true)), Err(Error::Unhealthy));
}

#[test]
fn a_quorum_of_the_larger_cluster_must_be_healthy() {
    let three = membership(&[1, 2, 3], &[1, 2, 3], &[]);
    assert_eq!(check(&three, &[2, 3], |view| view.check_add(false)), Ok(()));
    assert_eq!(check(&three, &[2], |view| view.check_add(false)), Err(Error::Unhealthy));
}

#[test]
fn the_last_member_and_a_needed_one_stay() {
    let alone = membership(&[1], &[1], &[]);
    let refused = Err(Error::MemberNotEnoughStarted);
    assert_eq!(check(&alone, &[], |view| view.check_remove(1)), refused);
    let three = membership(&[1, 2, 3], &[1, 2, 3], &[4]);
    assert_eq!(check(&three, &[2, 3], |view| view.check_remove(3)), Ok(()));
    // One that is down already is no loss; with one down, a healthy one is.
    assert_eq!(check(&three, &[2], |view| view.check_remove(3)), Ok(()));
    assert_eq!(check(&three, &[2], |view| view.check_remove(2)), Err(Error::Unhealthy));
    assert_eq!(check(&three, &[], |view| view.check_remove(4)), Ok(()), "a learner");
}

#[test]
fn a_learner_is_ready_with_nine_tenths_of_the_log() {
    let follower = |id, index, is_learner| replica::Follower {
        id: NodeId(id),
        match_index: LogIndex(index),
        is_learner,
    };
    let with = |index| [follower(1, 1000, false), follower(4, index, true)];
    assert_eq!(check_caught_up(&with(900), 4, 1), Ok(()));
    assert_eq!(check_caught_up(&with(899), 4, 1), Err(Error::LearnerNotReady));
    assert_eq!(check_caught_up(&with(900), 5, 1), Err(Error::MemberNotFound));
}
