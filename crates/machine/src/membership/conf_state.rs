//! What raft's configuration becomes by a conf change of etcd.
//!
//! etcd changes one member at a time and never enters a joint configuration, so the configuration follows from the
//! changes alone. The state machine keeps it beside the members: the row `confState` and the snapshot then stand for
//! exactly the entry that they say, without asking raft.
//!
//! Upstream: `confchange/confchange.go` of etcd-io/raft, the `Simple` path.

use proto::raftpb::{ConfChange, ConfChangeType, ConfState};

/// Applies a change, valid or with node 0 (which changes nothing).
///
/// # Errors
/// [`NoVoters`] if nobody could vote any more; raft refuses that too.
pub(crate) fn apply(state: &mut ConfState, change: &ConfChange) -> Result<(), NoVoters> {
    let id = change.node_id;
    if id == 0 {
        return Ok(());
    }
    match change.r#type() {
        ConfChangeType::ConfChangeAddNode => {
            remove(&mut state.learners, id);
            insert(&mut state.voters, id);
        }
        ConfChangeType::ConfChangeAddLearnerNode => {
            if state.voters == [id] {
                return Err(NoVoters);
            }
            remove(&mut state.voters, id);
            insert(&mut state.learners, id);
        }
        ConfChangeType::ConfChangeRemoveNode => {
            if state.voters == [id] {
                return Err(NoVoters);
            }
            remove(&mut state.voters, id);
            remove(&mut state.learners, id);
        }
        ConfChangeType::ConfChangeUpdateNode => {}
    }
    Ok(())
}

/// The change would leave the cluster without a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoVoters;

/// Lists are kept ascending, as raft reports them.
fn insert(ids: &mut Vec<u64>, id: u64) {
    if let Err(place) = ids.binary_search(&id) {
        ids.insert(place, id);
    }
}

fn remove(ids: &mut Vec<u64>, id: u64) {
    ids.retain(|&other| other != id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(changes: &[(ConfChangeType, u64)], expected: Result<(&[u64], &[u64]), NoVoters>) {
        let mut state = ConfState::default();
        let result = changes.iter().try_for_each(|&(kind, node_id)| {
            apply(&mut state, &ConfChange { r#type: kind.into(), node_id, ..Default::default() })
        });
        assert_eq!(result.map(|()| (&state.voters[..], &state.learners[..])), expected);
    }

    #[test]
    fn one_member_at_a_time() {
        use ConfChangeType::{
            ConfChangeAddLearnerNode as Learner, ConfChangeAddNode as Add,
            ConfChangeRemoveNode as Remove, ConfChangeUpdateNode as Update,
        };
        check(&[(Add, 3), (Add, 1), (Add, 2)], Ok((&[1, 2, 3], &[])));
        check(&[(Add, 1), (Learner, 9), (Learner, 5)], Ok((&[1], &[5, 9])));
        check(&[(Add, 1), (Learner, 9), (Add, 9)], Ok((&[1, 9], &[])));
        check(&[(Add, 1), (Learner, 9), (Update, 9), (Remove, 9)], Ok((&[1], &[])));
        check(&[(Add, 1), (Remove, 0), (Add, 0)], Ok((&[1], &[])));
        check(&[(Add, 1), (Remove, 1)], Err(NoVoters));
    }
}
