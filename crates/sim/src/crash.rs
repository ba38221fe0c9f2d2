//! Opening what a power cut left, and comparing it with the model.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use machine::Machine;
use proto::etcdserverpb::internal_raft_request::Request;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use vfs::sim::{Op, Replayer, Seeded, SimDisk};

use crate::solo::lock;
use crate::workload::{Mark, Recorded};
use crate::{Model, Solo};

/// One recovery in this many is itself cut off by a crash.
const SECOND_CRASH_EVERY: u64 = 8;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looked {
    /// Members opened after a crash.
    pub reopenings: u64,
    /// Places in the journal at which the power was cut.
    pub cuts: u64,
}

/// Cuts a recorded workload behind each of its operations, and checks up to `images_max` images at each cut.
///
/// # Errors
/// The first thing that is not as it must be, and where.
pub fn every_cut(recorded: &Recorded, images_max: u64, seed: u64) -> Result<Looked, String> {
    let mut looked = Looked::default();
    let mut replayer = Replayer::new(&recorded.journal);
    let mut mark = recorded.marks.first().copied().unwrap_or_default();
    while let Some(op) = replayer.advance() {
        if let Op::Mark(number) = op {
            let number = usize::try_from(*number).unwrap_or(usize::MAX);
            mark = recorded.marks.get(number).copied().unwrap_or(mark);
            // The disk is as it was behind the operation before; what must be there is not.
        }
        looked.cuts += 1;
        let plan = replayer.plan();
        for (number, picks) in plan.picks(images_max, seed).enumerate() {
            let image = plan.image(&picks);
            let draw = looked.reopenings.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
            let expected = Expected { recorded, mark, behind: None };
            let is_cut_again = looked.reopenings.is_multiple_of(SECOND_CRASH_EVERY);
            looked.reopenings += 1 + u64::from(is_cut_again);
            expected.check(&image, draw, is_cut_again).map_err(|what| {
                let op: String = format!("{op:?}").chars().take(80).collect();
                format!("cut behind operation {} ({op}), image {number}: {what}", replayer.done())
            })?;
        }
    }
    Ok(looked)
}

/// What a member may hold.
struct Expected<'a> {
    recorded: &'a Recorded,
    mark: Mark,
    /// After this entry of the workload's, a recovery added its leader's entry and then one that gives this state.
    behind: Option<(u64, &'a Model)>,
}

impl Expected<'_> {
    fn state(&self, index: u64) -> Result<&Model, String> {
        let index = match self.behind {
            Some((last, state)) if index > last + 1 => return Ok(state),
            Some((last, _)) => index.min(last),
            None => index,
        };
        usize::try_from(index)
            .ok()
            .and_then(|at| self.recorded.states.get(at))
            .ok_or_else(|| format!("entry {index} was never proposed"))
    }

    /// Opens the image and compares; then writes, and, if asked to, cuts off what was done since the opening.
    fn check(&self, image: &SimDisk, draw: u64, is_cut_again: bool) -> Result<(), String> {
        if is_cut_again {
            image.record();
        }
        let text = |failure: crate::Failure| failure.to_string();
        let mut solo = Solo::open(&image.dir(), &self.recorded.settings).map_err(text)?;
        let index = solo.machine().writer().consistent().index;
        if index > self.mark.proposed {
            return Err(format!("database at entry {index} of {}", self.mark.proposed));
        }
        compare(solo.machine(), self.state(index)?)
            .map_err(|what| format!("database at entry {index}, before the replay: {what}"))?;

        solo.lead().map_err(text)?;
        if !solo.is_leader() {
            return Err("does not lead".into());
        }
        solo.take_answered();
        let last = solo.machine().applied().saturating_sub(1);
        let Mark { acknowledged, proposed } = self.mark;
        if !(acknowledged..=proposed).contains(&last) {
            return Err(format!(
                "log ends at entry {last}; {acknowledged} was acknowledged, {proposed} proposed"
            ));
        }
        let state = self.state(last)?;
        compare(solo.machine(), state).map_err(|what| format!("at entry {last}: {what}"))?;
        let past = state.compacted().max(1)
            + i64::try_from(draw % 8).unwrap_or(0)
                % (state.revision() - state.compacted().max(1) + 1);
        compare_hash(solo.machine(), state, past)?;

        let put = Request::Put(PutRequest {
            key: Bytes::from_static(b"key03"),
            value: Bytes::from_static(b"afterwards"),
            ..PutRequest::default()
        });
        let mut behind = state.clone();
        behind.apply(&put);
        solo.propose(put);
        solo.settle().map_err(text)?;
        let answers = solo.take_answered();
        let Some(Ok(answer)) = answers.last().and_then(|answered| answered.outcome.as_ref()) else {
            return Err(format!("a write after the replay is not answered: {answers:?}"));
        };
        if answer.revision != behind.revision() {
            return Err(format!("a write gave revision {}", answer.revision));
        }
        if !is_cut_again {
            return Ok(());
        }
        image.mark(0);
        for _ in 0..3 {
            solo.step_compaction().map_err(text)?;
            solo.step_committer().map_err(text)?;
        }
        drop(solo);
        self.check_again(image, draw, last, &behind)
    }

    /// Cuts the recovery itself off somewhere.
    fn check_again(
        &self,
        image: &SimDisk,
        draw: u64,
        last: u64,
        behind: &Model,
    ) -> Result<(), String> {
        let recovery = image.take_journal();
        let ops = recovery.ops();
        let mut seeded = Seeded::new(draw);
        let cut = seeded.below(ops.len() + 1);
        let is_answered = ops.iter().take(cut).any(|op| matches!(op, Op::Mark(_)));
        let acknowledged = if is_answered { last + 2 } else { self.mark.acknowledged };
        let second = SimDisk::replay(&recovery, cut, &mut seeded);
        let expected = Expected {
            recorded: self.recorded,
            mark: Mark { acknowledged, proposed: last + 2 },
            behind: Some((last, behind)),
        };
        expected
            .check(&second, draw, false)
            .map_err(|what| format!("second crash, behind operation {cut} of the recovery: {what}"))
    }
}

/// Compares all that a client could ask for.
fn compare(machine: &mut Machine, state: &Model) -> Result<(), String> {
    let reader = machine.reader();
    let revisions = (reader.current_revision(), reader.compact_revision());
    if revisions != (state.revision(), state.compacted()) {
        return Err(format!(
            "revision and compact revision {revisions:?}, not {:?}",
            (state.revision(), state.compacted())
        ));
    }
    let all = Bytes::from_static(&[0]);
    let request = RangeRequest { key: all.clone(), range_end: all, ..RangeRequest::default() };
    let found = reader.range(&request).map_err(|error| error.to_string())?;
    let found = found.into_response().map_err(|error| error.to_string())?;
    if !found.kvs.iter().eq(state.pairs()) {
        let expected: Vec<_> = state.pairs().collect();
        return Err(format!("pairs {:?}, not {expected:?}", found.kvs));
    }
    let lessor = machine.lessor();
    let lessor = lock(&lessor);
    let leases: BTreeMap<i64, BTreeSet<Vec<u8>>> = lessor
        .leases()
        .into_iter()
        .map(|id| (id.0, lessor.keys(id).map(|key| key.to_vec()).collect()))
        .collect();
    drop(lessor);
    if leases != *state.leases() {
        return Err(format!("leases {leases:?}, not {:?}", state.leases()));
    }
    compare_hash(machine, state, state.revision())
}

fn compare_hash(machine: &Machine, state: &Model, revision: i64) -> Result<(), String> {
    let found = machine.reader().hash_kv(revision).map_err(|error| error.to_string())?.hashed;
    let expected = state.hash(revision);
    if (found.hash, found.compact_revision) != (expected, state.compacted()) {
        return Err(format!("{found:?}, not hash {expected} of revision {revision}"));
    }
    Ok(())
}
