//! Auto-compaction: by time or by number of revisions, as `--auto-compaction-mode` and `-retention` say.
//!
//! Periodic: notes the revision ten times in a period (ten times an hour, for longer ones), and compacts at the one that is a
//! period old: for the first time after a period, then once a period, or once an hour for longer ones. By revisions: looks
//! every five minutes. A compaction that was done already, perhaps by a client, is no error.
//!
//! Upstream: `server/etcdserver/api/v3compactor` (3.5).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::etcdserverpb::CompactionRequest;
use proto::etcdserverpb::internal_raft_request::Request as Op;

use crate::config::AutoCompaction;
use crate::request::{Core, Refusal};
use crate::told;

/// How often the number of revisions is looked at.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Notes taken in a period, or in an hour.
const NOTES: u32 = 10;

/// Longest time between two compactions.
const HOUR: Duration = Duration::from_secs(3600);

/// Runs for as long as the member does.
pub(crate) async fn run(core: Arc<Core>) {
    match core.config.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(period) => periodic(&core, period).await,
        AutoCompaction::Revision(retention) => by_revision(&core, retention).await,
    }
}

async fn periodic(core: &Core, period: Duration) {
    let began = tokio::time::Instant::now();
    let mut history = History::new(period);
    loop {
        history.note(core.store.current_revision());
        tokio::time::sleep(history.note_interval).await;
        // A follower takes notes too: it may lead by the time that they are a period old.
        if core.board.is_leader()
            && let Some(revision) = history.due(began.elapsed())
            && compact(core, revision, Mode::Periodic(period)).await
        {
            history.compacted(revision, began.elapsed());
        }
    }
}

async fn by_revision(core: &Core, retention: i64) {
    let mut compacted = 0;
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        look(core, retention, &mut compacted).await;
    }
}

/// Compacts if a leader has more than `retention` revisions behind the newest, and others than at the last time.
async fn look(core: &Core, retention: i64, compacted: &mut i64) {
    let revision = core.store.current_revision().saturating_sub(retention);
    if revision > 0
        && revision != *compacted
        && core.board.is_leader()
        && compact(core, revision, Mode::Revision(retention)).await
    {
        *compacted = revision;
    }
}

/// How it is decided what to compact, for the log.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Periodic(Duration),
    Revision(i64),
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Periodic(_) => "periodic",
            Self::Revision(_) => "revision",
        }
    }

    fn period(self) -> Option<String> {
        match self {
            Self::Periodic(period) => Some(told::go_duration(period)),
            Self::Revision(_) => None,
        }
    }

    fn retention(self) -> Option<i64> {
        match self {
            Self::Periodic(_) => None,
            Self::Revision(retention) => Some(retention),
        }
    }
}

/// Compacts, and says whether that is done now, by whomever.
async fn compact(core: &Core, revision: i64, mode: Mode) -> bool {
    use machine::RequestError::Store;
    use mvcc::RequestError::Compacted;
    let begun = Instant::now();
    let (name, compact_period) = (mode.name(), mode.period());
    let revision_compaction_retention = mode.retention();
    tracing::info!(
        revision,
        compact_period,
        revision_compaction_retention,
        "starting auto {name} compaction"
    );
    match core.propose(Op::Compaction(CompactionRequest { revision, physical: false })).await {
        Ok(_) | Err(Refusal::Request(Store(Compacted { .. })) | Refusal::Stopped) => {
            tracing::info!(
                revision,
                compact_period,
                revision_compaction_retention,
                took = told::go_duration(begun.elapsed()),
                "completed auto {name} compaction"
            );
            true
        }
        Err(error) => {
            tracing::warn!(
                revision,
                compact_period,
                revision_compaction_retention,
                error = %error,
                "failed auto {name} compaction"
            );
            false
        }
    }
}

/// Revisions of the last period, and when the next compaction is due.
#[derive(Debug)]
struct History {
    period: Duration,
    /// Time between two notes.
    note_interval: Duration,
    /// Notes kept: the oldest one is a period old.
    notes_max: usize,
    notes: VecDeque<i64>,
    compacted: i64,
    /// Not before this time since the beginning: a whole period at first, then an hour at most.
    next: Duration,
}

impl History {
    fn new(period: Duration) -> Self {
        let note_interval = period.min(HOUR) / NOTES;
        let notes = period.as_nanos() / note_interval.as_nanos().max(1) + 1;
        Self {
            period,
            note_interval,
            notes_max: usize::try_from(notes).unwrap_or(usize::MAX),
            notes: VecDeque::new(),
            compacted: 0,
            next: period,
        }
    }

    fn note(&mut self, revision: i64) {
        self.notes.push_back(revision);
        if self.notes.len() > self.notes_max {
            self.notes.pop_front();
        }
    }

    /// The revision to compact at, if it is time and there is a new one.
    fn due(&self, now: Duration) -> Option<i64> {
        let oldest = self.notes.front().copied()?;
        (now >= self.next && oldest != self.compacted).then_some(oldest)
    }

    fn compacted(&mut self, revision: i64, now: Duration) {
        self.compacted = revision;
        self.next = now + self.period.min(HOUR);
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{PutRequest, RangeRequest};

    use super::*;
    use crate::member::unconnected;
    use crate::told::lines::Lines;

    #[tokio::test]
    async fn so_many_revisions_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        let (member, _) = unconnected::start(unconnected::config(dir.path())).await;
        let core = unconnected::core(&member);
        let put = async |count| {
            for _ in 0..count {
                let put = PutRequest { key: "k".into(), ..PutRequest::default() };
                core.propose(Op::Put(put)).await.unwrap();
            }
        };
        let at = |revision| {
            let request = RangeRequest { key: "k".into(), revision, ..RangeRequest::default() };
            core.store.range(&request).map(drop).map_err(|error| error.to_string())
        };
        let (lines, _told) = Lines::gather();
        let begun = || lines.with(&["INFO", "starting auto revision compaction"]);
        let mut compacted = 0;
        put(5).await;
        assert_eq!(core.store.current_revision(), 6);
        look(core, 10, &mut compacted).await;
        look(core, 6, &mut compacted).await;
        assert_eq!((begun(), compacted), (0, 0), "there are no more than are to stay");
        put(10).await;
        look(core, 10, &mut compacted).await;
        assert_eq!(compacted, 6);
        let told = ["INFO", "revision=6", "revision_compaction_retention=10"];
        assert_eq!(lines.with(&[&told[..], &["completed auto revision compaction"]].concat()), 1);
        assert!(at(5).is_err());
        assert_eq!(at(6), Ok(()), "that at which it is compacted stays");
        look(core, 10, &mut compacted).await;
        assert_eq!(begun(), 1, "nothing has changed");
        // Somebody else did it: no error, and not tried again.
        put(1).await;
        core.propose(Op::Compaction(CompactionRequest { revision: 7, physical: false }))
            .await
            .unwrap();
        look(core, 10, &mut compacted).await;
        assert_eq!((begun(), compacted), (2, 7));
        member.stop().await;
    }

    #[tokio::test]
    async fn who_does_not_lead_compacts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (member, _) = unconnected::start_without_leader(unconnected::config(dir.path()));
        let (lines, _told) = Lines::gather();
        let mut compacted = 0;
        // Its newest revision is 1.
        look(unconnected::core(&member), 0, &mut compacted).await;
        assert_eq!((lines.with(&["auto revision compaction"]), compacted), (0, 0));
        member.stop().await;
    }

    /// Compactions of a store that writes 100 revisions a minute, as (minute, revision).
    fn compactions(
        period_minutes: u64,
        minutes: u64,
        leads: impl Fn(u64) -> bool,
    ) -> Vec<(u64, i64)> {
        let minute = Duration::from_secs(60);
        let mut history = History::new(minute * u32::try_from(period_minutes).unwrap());
        let (mut now, mut done) = (Duration::ZERO, Vec::new());
        while now < minute * u32::try_from(minutes).unwrap() {
            history.note(1 + i64::try_from(now.as_secs() * 100 / 60).unwrap());
            now += history.note_interval;
            let at = now.as_secs() / 60;
            if leads(at)
                && let Some(revision) = history.due(now)
            {
                history.compacted(revision, now);
                done.push((at, revision));
            }
        }
        done
    }

    #[test]
    fn short_periods_are_compacted_once_a_period() {
        assert_eq!(compactions(10, 31, |_| true), [(10, 1), (20, 901), (30, 1901)]);
    }

    #[test]
    fn long_periods_are_compacted_hour_by_hour_behind_the_first() {
        let expected = [(180, 1), (240, 5401), (300, 11401)];
        assert_eq!(compactions(180, 301, |_| true), expected);
    }

    #[test]
    fn who_comes_to_lead_compacts_at_once_by_the_notes_of_before() {
        assert_eq!(compactions(10, 36, |at| at >= 35), [(35, 2401)]);
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let mut history = History::new(Duration::from_secs(10));
        for _ in 0..30 {
            history.note(7);
        }
        assert_eq!(history.due(Duration::from_secs(10)), Some(7));
        history.compacted(7, Duration::from_secs(10));
        assert_eq!(history.due(Duration::from_secs(100)), None);
    }
}
