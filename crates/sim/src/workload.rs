//! A seeded workload on a simulated disk, and what it had acknowledged at which operation.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::internal_raft_request::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RequestOp, TxnRequest, request_op,
};
use vfs::sim::{DirOrder, Journal, Model as DiskModel, Seeded, SimDisk};

use crate::{Model, Plant, Settings, Solo};

/// Steps of a workload: some hundred operations on the disk.
const STEPS: usize = 36;

/// Value sizes; the last one fills several pages and most of a segment.
const VALUE_BYTES: [usize; 6] = [0, 5, 30, 30, 120, 2500];

/// How far the log was when a mark was left in the journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    /// The last entry that was acknowledged.
    pub acknowledged: u64,
    /// The last entry that was proposed, or is by the next mark.
    pub proposed: u64,
}

/// A workload that was run.
pub struct Recorded {
    /// What it was run with.
    pub settings: Settings,
    /// All operations on the disk. Marks are places in `marks`.
    pub journal: Journal,
    /// By number. The first holds before any mark.
    pub marks: Vec<Mark>,
    /// What a member must hold after each entry of the log.
    pub states: Vec<Model>,
}

/// The file system of a seed.
fn disk_model(seed: u64) -> DiskModel {
    DiskModel {
        dir_order: if seed.is_multiple_of(2) { DirOrder::Any } else { DirOrder::Journal },
        names_follow_file_sync: seed % 4 == 3,
    }
}

struct Run {
    seed: Seeded,
    disk: SimDisk,
    solo: Solo,
    /// No mistake is planted, which the answers alone might give away.
    is_sound: bool,
    marks: Vec<Mark>,
    states: Vec<Model>,
}

/// Runs the workload of a seed.
///
/// # Errors
/// The member failed, or answered with another revision than the model.
pub fn run(seed: u64, settings: &Settings) -> Result<Recorded, String> {
    let disk = SimDisk::with_model(disk_model(seed));
    disk.record();
    let solo = Solo::open(&disk.dir(), settings).map_err(|failure| failure.to_string())?;
    let mut run = Run {
        seed: Seeded::new(seed),
        disk,
        solo,
        is_sound: settings.plant == Plant::None,
        // The bootstrap entry and the first leader's.
        marks: vec![Mark { acknowledged: 0, proposed: 2 }],
        states: vec![Model::new()],
    };
    run.lead()?;
    for _ in 0..STEPS {
        run.step(settings)?;
    }
    let Run { disk, marks, states, .. } = run;
    Ok(Recorded { settings: settings.clone(), journal: disk.take_journal(), marks, states })
}

impl Run {
    fn mark(&mut self, mark: Mark) {
        self.disk.mark(self.marks.len() as u64);
        self.marks.push(mark);
    }

    fn lead(&mut self) -> Result<(), String> {
        self.solo.lead().map_err(|failure| failure.to_string())?;
        self.solo.take_answered();
        let applied = self.solo.machine().applied();
        let state = self.states.last().cloned().unwrap_or_default();
        while (self.states.len() as u64) <= applied {
            self.states.push(state.clone());
        }
        self.mark(Mark { acknowledged: applied, proposed: applied });
        Ok(())
    }

    fn step(&mut self, settings: &Settings) -> Result<(), String> {
        let text = |failure: crate::Failure| failure.to_string();
        match self.seed.below(16) {
            0..=3 => self.solo.step_committer().map_err(text),
            4..=5 => self.solo.step_compaction().map_err(text),
            6 => {
                let seconds = 1 + self.seed.below(4) as u64;
                let requests = self.solo.pass_time(Duration::from_secs(seconds));
                self.carry_out(requests)
            }
            7 if self.is_sound && self.seed.below(2) == 0 => {
                // A kill: what was written is still there, synced or not.
                self.disk.kill();
                let applied = self.solo.machine().applied();
                self.mark(Mark { acknowledged: applied, proposed: applied + 1 });
                self.solo = Solo::open(&self.disk.dir(), settings).map_err(text)?;
                self.lead()
            }
            _ => {
                let mut requests = Vec::new();
                for _ in 0..=self.seed.below(3) {
                    requests.push(self.request());
                }
                self.carry_out(requests)
            }
        }
    }

    /// Proposes the requests as one batch, and compares the answers.
    fn carry_out(&mut self, requests: Vec<Request>) -> Result<(), String> {
        if requests.is_empty() {
            return Ok(());
        }
        let applied = self.solo.machine().applied();
        let proposed = applied + requests.len() as u64;
        self.mark(Mark { acknowledged: applied, proposed });
        for request in requests {
            let mut state = self.states.last().cloned().unwrap_or_default();
            state.apply(&request);
            self.states.push(state);
            self.solo.propose(request);
        }
        self.solo.settle().map_err(|failure| failure.to_string())?;
        for answered in self.solo.take_answered() {
            let state = usize::try_from(answered.index).ok().and_then(|at| self.states.get(at));
            if let (Some(Ok(answer)), Some(state)) = (answered.outcome, state)
                && answer.revision != state.revision()
                && self.is_sound
            {
                return Err(format!(
                    "entry {} was answered with revision {}, not {}",
                    answered.index,
                    answer.revision,
                    state.revision()
                ));
            }
        }
        self.mark(Mark { acknowledged: proposed, proposed });
        Ok(())
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("key{:02}", self.seed.below(12)))
    }

    fn put(&mut self) -> PutRequest {
        let len_bytes = VALUE_BYTES.get(self.seed.below(VALUE_BYTES.len())).copied().unwrap_or(0);
        let value = Bytes::from(vec![b'a' + self.states.len().to_le_bytes()[0] % 26; len_bytes]);
        PutRequest { key: self.key(), value, ..PutRequest::default() }
    }

    fn lease(&mut self) -> i64 {
        i64::try_from(1 + self.seed.below(4)).unwrap_or(1)
    }

    fn request(&mut self) -> Request {
        match self.seed.below(12) {
            0 => {
                let id = self.lease();
                let ttl = i64::try_from(2 + self.seed.below(6)).unwrap_or(2);
                Request::LeaseGrant(LeaseGrantRequest { id, ttl })
            }
            1 => Request::LeaseRevoke(LeaseRevokeRequest { id: self.lease() }),
            // Refused when the lease does not exist.
            2..=3 => Request::Put(PutRequest { lease: self.lease(), ..self.put() }),
            4 => Request::DeleteRange(DeleteRangeRequest {
                key: self.key(),
                ..DeleteRangeRequest::default()
            }),
            5 => Request::DeleteRange(DeleteRangeRequest {
                key: self.key(),
                range_end: self.key(),
                ..DeleteRangeRequest::default()
            }),
            6..=7 => Request::Txn(self.txn()),
            8 => {
                let revision = self.states.last().map_or(1, Model::revision);
                let back = i64::try_from(self.seed.below(5)).unwrap_or(0);
                Request::Compaction(CompactionRequest {
                    revision: revision - back,
                    physical: false,
                })
            }
            _ => Request::Put(self.put()),
        }
    }

    /// If the first key is young: puts on two keys. Else it is deleted, and another one made.
    fn txn(&mut self) -> TxnRequest {
        let put = |put| RequestOp { request: Some(request_op::Request::RequestPut(put)) };
        let first = self.put();
        let other = PutRequest { key: Bytes::from_static(b"other"), ..self.put() };
        let delete = DeleteRangeRequest { key: first.key.clone(), ..DeleteRangeRequest::default() };
        let compare = Compare {
            result: CompareResult::Less.into(),
            target: CompareTarget::Version.into(),
            key: first.key.clone(),
            target_union: Some(TargetUnion::Version(3)),
            ..Compare::default()
        };
        TxnRequest {
            compare: vec![compare],
            success: vec![put(first), put(other.clone())],
            failure: vec![
                RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) },
                put(other),
            ],
        }
    }
}
