//! Kill -9 under load on real files: a member is killed at a random moment, started again, and must still know every
//! write that it acknowledged, at the revision it said, with nothing before, between or after that no one wrote.
//!
//! Each writer has one operation under way, on keys of its own, with values that occur once. An operation that had no
//! answer when the member died is *unknown*: it may show up after the restart, once, or never. All
//! other revisions must be accounted for:
//!
//! ```text
//! revision   verified before   |  7     8     9     10
//! written by                   |  w1 ✓  w2 ✓  w1 ?  w3 ✓        ✓ acknowledged at this revision   ? unknown, found
//! ```
//!
//! The check reads the history back through a watch from the last verified revision, which also shows that a watch has no
//! gap and no duplicate. Now and then a copy of the directory is given to another program (real etcd), which
//! must show the same state and hashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use crate::api::{Api, Refusal, Request, Response};
use crate::member::{Member, Options};
use crate::programs::Programs;
use crate::random::Random;
use crate::state::State;

/// Keys of a writer. Few, so that they are overwritten and deleted.
const KEYS_PER_WRITER: u64 = 4;

/// Writers that share a connection.
const WRITERS_PER_CONNECTION: usize = 8;

/// Revisions that a compaction leaves readable.
const HISTORY: i64 = 100;

/// Newest revisions that are hashed each when real etcd is shown a copy: a round writes tens of thousands.
const HASHED_EACH: i64 = 300;

/// How long the history may take to be read back.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the writes and the moments of the kills.
    pub seed: u64,
    /// Kills.
    pub rounds: u64,
    /// Writers at once.
    pub writers: usize,
    /// The server that is killed.
    pub program: Programs,
    /// The server that must read the same from a copy of the directory, every fourth round.
    pub other: Option<Programs>,
    /// Load between a start and a kill: at most.
    pub load_max: Duration,
    /// More flags for the server.
    pub flags: Vec<String>,
    /// Where the data directory goes; a temporary folder when absent.
    pub folder: Option<PathBuf>,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Kills.
    pub kills: u64,
    /// Kills before the member was ready.
    pub kills_while_starting: u64,
    /// Acknowledged writes, all found.
    pub acknowledged: u64,
    /// Writes without an answer that were found after the restart.
    pub unknown_found: u64,
    /// Writes without an answer that were not.
    pub unknown_lost: u64,
    /// Compactions acknowledged.
    pub compactions: u64,
    /// States that the other program showed, all equal.
    pub states_compared: u64,
    /// The last revision.
    pub revision: i64,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Write {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// Two puts at one revision.
    Pair([(Bytes, Bytes); 2]),
}

impl Write {
    fn request(&self) -> Request {
        let put = |key: &Bytes, value: &Bytes| pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        };
        match self {
            Self::Put(key, value) => Request::Put(put(key, value)),
            Self::Delete(key) => Request::DeleteRange(pb::DeleteRangeRequest {
                key: key.clone(),
                ..Default::default()
            }),
            Self::Pair(pairs) => {
                let op = |(key, value): &(Bytes, Bytes)| pb::RequestOp {
                    request: Some(Op::RequestPut(put(key, value))),
                };
                Request::Txn(pb::TxnRequest {
                    success: pairs.iter().map(op).collect(),
                    ..Default::default()
                })
            }
        }
    }

    /// Whether these events, all of one revision, are this write.
    fn matches(&self, events: &[Event]) -> bool {
        let is_put = |event: &Event, key: &Bytes, value: &Bytes| {
            event.r#type() == EventType::Put
                && event.kv.as_ref().is_some_and(|kv| kv.key == *key && kv.value == *value)
        };
        match (self, events) {
            (Self::Put(key, value), [event]) => is_put(event, key, value),
            (Self::Delete(key), [event]) => {
                event.r#type() == EventType::Delete
                    && event.kv.as_ref().is_some_and(|kv| kv.key == *key)
            }
            (Self::Pair([a, b]), [first, second]) => {
                is_put(first, &a.0, &a.1) && is_put(second, &b.0, &b.1)
            }
            (_, _) => false,
        }
    }
}

/// What is known of the store.
#[derive(Debug, Default)]
struct Ledger {
    /// Acknowledged writes that were not read back yet, by revision.
    acknowledged: BTreeMap<i64, Write>,
    /// Writes without an answer, since the last start.
    unknown: Vec<Write>,
    /// Everything up to here was read back.
    verified: i64,
    /// The keys at that revision.
    keys: BTreeMap<Bytes, KeyValue>,
    /// The last acknowledged compaction.
    compacted: i64,
    /// A compaction without an answer.
    compacted_unknown: i64,
    /// Acknowledged leases, with their TTL.
    leases: BTreeMap<i64, i64>,
}

/// Runs the rounds; the first violation is the error.
pub async fn run(config: &Config) -> Result<Report> {
    let temporary =
        tempfile::Builder::new().prefix("retcd-crash-").tempdir().context("make a folder")?;
    let folder = config.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    let mut options = Options::new(&config.program.etcd, &folder.join("data"));
    options.flags.clone_from(&config.flags);
    let mut random = Random::new(config.seed);
    let mut ledger = Ledger { verified: 1, ..Ledger::default() };
    let mut report = Report::default();
    let mut sequence = 0;
    for round in 0..config.rounds {
        let at = || format!("seed {} round {round}", config.seed);
        if round % 2 == 1 {
            // Dies while it replays, repairs, or before it has done anything.
            let member = Member::spawn(&options).with_context(at)?;
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
            member.kill()?;
            report.kills_while_starting += 1;
        }
        let member = Member::start(&options).with_context(at)?;
        verify(&member, &mut ledger, &mut report).await.with_context(at)?;
        let load = Duration::from_millis(
            50 + random.below(u64::try_from(config.load_max.as_millis())?.max(1)),
        );
        load_and_kill(config, member, load, &mut random, &mut sequence, &mut ledger, &mut report)
            .await
            .with_context(at)?;
        if let Some(other) = &config.other
            && round % 4 == 3
        {
            let copy = folder.join("copy");
            copy_folder(&folder.join("data"), &copy)?;
            show_to(other, &options, &copy, &mut ledger, &mut report).await.with_context(at)?;
            std::fs::remove_dir_all(&copy).context("remove the copy")?;
        }
    }
    let member = Member::start(&options)?;
    verify(&member, &mut ledger, &mut report).await.context("after the last round")?;
    member.stop()?;
    report.revision = ledger.verified;
    Ok(report)
}

/// Starts our program on the folder and the other one on its copy: both must show the same.
async fn show_to(
    other: &Programs,
    options: &Options,
    copy: &Path,
    ledger: &mut Ledger,
    report: &mut Report,
) -> Result<()> {
    let mut other_options = options.clone();
    other_options.program.clone_from(&other.etcd);
    other_options.data_dir = copy.to_owned();
    let member = Member::start(options)?;
    verify(&member, ledger, report).await?;
    let own = State::read(&member.url(), HASHED_EACH).await?;
    member.stop()?;
    let member = Member::start(&other_options)
        .with_context(|| format!("start {} on a copy", other.label))?;
    let theirs = State::read(&member.url(), HASHED_EACH).await?;
    member.stop()?;
    ensure!(own == theirs, "{} shows another state: {}", other.label, own.difference(&theirs));
    report.states_compared += 1;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    ensure!(status.success(), "cp failed");
    Ok(())
}

/// Writes for a while, then kills the member in the middle of it.
async fn load_and_kill(
    config: &Config,
    member: Member,
    load: Duration,
    random: &mut Random,
    sequence: &mut u64,
    ledger: &mut Ledger,
    report: &mut Report,
) -> Result<()> {
    let deadline = Instant::now() + load;
    let connections = config.writers.div_ceil(WRITERS_PER_CONNECTION).max(1);
    let mut apis = Vec::new();
    for _ in 0..connections {
        apis.push(Api::connect(&member.url()).await?);
    }
    let lease = i64::try_from(random.below(1 << 40))? + 1;
    if let Ok(Response::LeaseGrant(granted)) =
        apis[0].call(Request::LeaseGrant(pb::LeaseGrantRequest { id: lease, ttl: 100_000 })).await
    {
        ledger.leases.insert(granted.id, granted.ttl);
    }
    let writers: Vec<_> = (0..config.writers)
        .map(|writer| {
            let api = apis[writer % connections].clone();
            *sequence += 1_000_000;
            tokio::spawn(write_until_it_fails(api, writer, *sequence, Random::new(random.number())))
        })
        .collect();
    // In half of the rounds a compaction is under way as well.
    let target = ledger.verified - HISTORY;
    let compaction = (target > ledger.compacted && random.one_in(2)).then(|| {
        let api = apis[0].clone();
        tokio::spawn(async move {
            api.call(Request::Compact(pb::CompactionRequest { revision: target, physical: false }))
                .await
        })
    });
    tokio::time::sleep_until(deadline.into()).await;
    member.kill()?;
    report.kills += 1;
    for writer in writers {
        let (acknowledged, unknown) = writer.await.context("join a writer")??;
        for (revision, write) in acknowledged {
            let old = ledger.acknowledged.insert(revision, write);
            ensure!(
                old.is_none(),
                "two writes were acknowledged at revision {revision}: {old:?} is one"
            );
            report.acknowledged += 1;
        }
        ledger.unknown.extend(unknown);
    }
    if let Some(compaction) = compaction {
        match compaction.await.context("join the compaction")? {
            Ok(_) => {
                ledger.compacted = target;
                report.compactions += 1;
            }
            Err(_) => ledger.compacted_unknown = target,
        }
    }
    Ok(())
}

/// Acknowledged writes with their revisions, and the one that had no answer.
type Written = (Vec<(i64, Write)>, Option<Write>);

async fn write_until_it_fails(
    api: Api,
    writer: usize,
    first: u64,
    mut random: Random,
) -> Result<Written> {
    let mut acknowledged = Vec::new();
    for sequence in first.. {
        let key = |n: u64| Bytes::from(format!("w{writer}/{n}"));
        let value = |part: u64| {
            // Lengths around a page and a sector, so that records end anywhere.
            let len = usize::try_from((sequence * 37 + part) % 700).unwrap_or(0);
            Bytes::from(format!("{sequence}.{part}.{}", "x".repeat(len)))
        };
        let n = random.below(KEYS_PER_WRITER);
        let write = match random.below(8) {
            0 => Write::Delete(key(n)),
            1 | 2 => Write::Pair([(key(n), value(0)), (key((n + 1) % KEYS_PER_WRITER), value(1))]),
            _ => Write::Put(key(n), value(0)),
        };
        match api.call(write.request()).await {
            // Nothing there to delete: no revision.
            Ok(Response::DeleteRange(answer)) if answer.deleted == 0 => {}
            Ok(mut answer) => {
                let revision = answer.header_mut().map(|header| header.revision);
                acknowledged.push((revision.context("an answer without header")?, write));
            }
            Err(refusal) if is_refused(&refusal) => bail!("{write:?} was refused: {refusal:?}"),
            Err(_) => return Ok((acknowledged, Some(write))),
        }
    }
    Ok((acknowledged, None))
}

/// Whether the server itself said no: under this load it has no reason to.
fn is_refused(refusal: &Refusal) -> bool {
    refusal.message.starts_with("etcdserver:") && !refusal.message.contains("stopped")
}

/// Reads the history since the last verified revision and accounts for every revision of it.
async fn verify(member: &Member, ledger: &mut Ledger, report: &mut Report) -> Result<()> {
    let api = Api::connect(&member.url()).await?;
    let refused = |what: &'static str| move |refusal: Refusal| anyhow!("{what}: {refusal:?}");
    let all = Bytes::from_static(b"\0");
    let range = pb::RangeRequest { key: all.clone(), range_end: all, ..Default::default() };
    let now = api.range(range.clone()).await.map_err(refused("range"))?;
    let current = now.header.as_ref().map_or(0, |header| header.revision);
    if let Some((last, write)) = ledger.acknowledged.last_key_value() {
        ensure!(
            current >= *last,
            "revision {current} after the restart; {write:?} was acknowledged at {last}"
        );
    }
    let history = read_history(&api, ledger.verified + 1, current).await?;
    for (revision, events) in &history {
        ensure!(*revision == ledger.verified + 1, "revision {} has no event", ledger.verified + 1);
        if let Some(write) = ledger.acknowledged.remove(revision) {
            ensure!(
                write.matches(events),
                "acknowledged at {revision}: {write:?}; found {events:?}"
            );
        } else {
            let found = ledger.unknown.iter().position(|write| write.matches(events));
            let found =
                found.with_context(|| format!("nobody wrote revision {revision}: {events:?}"))?;
            ledger.unknown.swap_remove(found);
            report.unknown_found += 1;
        }
        for event in events {
            ledger.follow(event)?;
        }
        ledger.verified = *revision;
    }
    ensure!(
        ledger.verified == current,
        "the watch ended at {}, the store is at {current}",
        ledger.verified
    );
    // Everything acknowledged was at or below `current`, so it has been found and taken out.
    ensure!(ledger.acknowledged.is_empty(), "not found: {:?}", ledger.acknowledged);
    report.unknown_lost += u64::try_from(ledger.unknown.len())?;
    ledger.unknown.clear();
    let expected: Vec<KeyValue> = ledger.keys.values().cloned().collect();
    ensure!(
        now.kvs == expected,
        "the keys are not what their history says: {:?} and {expected:?}",
        now.kvs
    );
    check_compaction(&api, ledger, range).await?;
    for (id, ttl) in &ledger.leases {
        let request = pb::LeaseTimeToLiveRequest { id: *id, keys: false };
        let answer =
            api.call(Request::LeaseTimeToLive(request)).await.map_err(refused("time to live"))?;
        let Response::LeaseTimeToLive(answer) = answer else {
            bail!("another kind of answer: {answer:?}")
        };
        ensure!(answer.granted_ttl == *ttl, "lease {id} was granted for {ttl} s; found {answer:?}");
    }
    Ok(())
}

/// An acknowledged compaction stays, and one that was asked for may have happened; nothing else is gone.
async fn check_compaction(api: &Api, ledger: &mut Ledger, range: pb::RangeRequest) -> Result<()> {
    let is_readable = |revision: i64| {
        let (api, range) = (api.clone(), range.clone());
        async move {
            match api.range(pb::RangeRequest { revision, count_only: true, ..range }).await {
                Ok(_) => Ok(true),
                Err(refusal)
                    if refusal.message.ends_with("required revision has been compacted") =>
                {
                    Ok(false)
                }
                Err(refusal) => Err(anyhow!("range at {revision}: {refusal:?}")),
            }
        }
    };
    if ledger.compacted_unknown > ledger.compacted
        && !is_readable(ledger.compacted_unknown - 1).await?
    {
        ledger.compacted = ledger.compacted_unknown;
    }
    ledger.compacted_unknown = 0;
    if ledger.compacted > 1 {
        ensure!(is_readable(ledger.compacted).await?, "revision {} is gone", ledger.compacted);
        ensure!(
            !is_readable(ledger.compacted - 1).await?,
            "the compaction at {} is lost",
            ledger.compacted
        );
    }
    Ok(())
}

/// Events from one revision to another, by revision, as a watch shows them.
async fn read_history(api: &Api, first: i64, last: i64) -> Result<Vec<(i64, Vec<Event>)>> {
    let mut history: Vec<(i64, Vec<Event>)> = Vec::new();
    if first > last {
        return Ok(history);
    }
    let refused = |refusal: Refusal| anyhow!("watch from {first}: {refusal:?}");
    let mut watch = api.watch_all(first).await.map_err(refused)?;
    while history.last().is_none_or(|(revision, _)| *revision < last) {
        let message = tokio::time::timeout(READ_BACK_TIMEOUT, watch.next()).await;
        let message = message
            .with_context(|| format!("the watch stopped at {:?} of {last}", history.last()))?;
        let message = message.map_err(refused)?.context("the watch ended")?;
        ensure!(!message.canceled, "the watch was cancelled: {message:?}");
        for event in message.events {
            let revision = event.kv.as_ref().context("an event without key")?.mod_revision;
            match history.last_mut() {
                Some((current, events)) if *current == revision => events.push(event),
                Some((current, _)) if *current > revision => {
                    bail!("event of {revision} after {current}")
                }
                Some(_) | None => history.push((revision, vec![event])),
            }
        }
    }
    Ok(history)
}

impl Ledger {
    /// Applies an event to the keys and checks that it fits to what was there.
    fn follow(&mut self, event: &Event) -> Result<()> {
        let kv = event.kv.as_ref().context("an event without key")?;
        let before = self.keys.get(&kv.key);
        ensure!(
            event.prev_kv.as_ref() == before,
            "previous key {:?}; history says {before:?}",
            event.prev_kv
        );
        match event.r#type() {
            EventType::Put => {
                let (create, version) = before.map_or((kv.mod_revision, 1), |before| {
                    (before.create_revision, before.version + 1)
                });
                ensure!(
                    kv.create_revision == create && kv.version == version,
                    "{kv:?} does not follow {before:?}"
                );
                self.keys.insert(kv.key.clone(), kv.clone());
            }
            EventType::Delete => {
                ensure!(before.is_some(), "{kv:?} deletes nothing");
                self.keys.remove(&kv.key);
            }
        }
        Ok(())
    }
}
