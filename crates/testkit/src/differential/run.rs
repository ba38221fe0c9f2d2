//! Two servers, two drivers, one comparison.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::etcdserverpb as pb;
use proto::mvccpb::Event;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::compare::{Tolerance, normalise_reply};
use super::generate::{Generator, Known, TxnRanges};
use super::users::{ROOT, Rules, Step, Users, Who, token};
use crate::api::{Api, Refusal, Request, Response};
use crate::cluster::Kind;
use crate::member::{Member, Options};
use crate::state::State;
use crate::text::{from_difference, shorten};

/// How far one driver may be ahead of the comparison, in answers. With large values an answer is a few megabytes.
const AHEAD_MAX: usize = 64;

/// Requests before a difference that the report shows.
const CONTEXT: usize = 6;

/// Values that fill files have this length and more.
const LARGE_BYTES: usize = 10_000;

/// How long the last events of a watch may take to arrive after the last write.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(20);

/// How a phase ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, and a clean end is expected.
    Term,
    /// SIGKILL, when everything is acknowledged.
    Kill,
    /// SIGTERM and SIGKILL in turn.
    Mixed,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the requests.
    pub seed: u64,
    /// Requests in all.
    pub operations: u64,
    /// The two programs.
    pub left: Kind,
    /// The second one.
    pub right: Kind,
    /// Phases; between two of them both members are stopped and started.
    pub phases: u64,
    /// Whether the programs change directories between phases.
    pub is_swapping: bool,
    /// How a phase ends.
    pub stop: Stop,
    /// More flags for both servers.
    pub flags: Vec<String>,
    /// The longest value of the usual size.
    pub value_bytes_max: usize,
    /// Where the data directories go; a temporary folder when absent.
    pub folder: Option<PathBuf>,
    /// Whether requests come from users, and the rules that both servers have for these.
    pub users: Option<Rules>,
    /// Among how many draws one is of watches that are read to an end; 0 for none. Users only create theirs.
    pub watches_one_in: u64,
    /// Whether to say on standard error how far the run is.
    pub is_verbose: bool,
}

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Answers compared.
    pub operations: u64,
    /// Of which refusals.
    pub refusals: u64,
    /// Events of the watch on everything.
    pub events: u64,
    /// HashKV values compared between two servers, and across restarts.
    pub hashes: u64,
    /// The last revision.
    pub revision: i64,
    /// Time taken.
    pub elapsed: Duration,
    /// How often each kind of request had each outcome: shows what the run reached.
    pub outcomes: BTreeMap<String, u64>,
}

/// Runs the two servers side by side; the first difference is the error, with what led to it.
pub async fn run(config: &Config) -> Result<Report> {
    let temporary;
    let folder = match &config.folder {
        Some(folder) => folder.clone(),
        None => {
            temporary = tempfile::Builder::new()
                .prefix("retcd-diff-")
                .tempdir()
                .context("make a folder")?;
            temporary.path().to_owned()
        }
    };
    let started = Instant::now();
    let mut report = Report::default();
    let mut programs = [config.left.clone(), config.right.clone()];
    let mut flags = config.flags.clone();
    if config.users.is_some() {
        // The price of a password is not what is compared.
        flags.push("--bcrypt-cost=4".to_owned());
    }
    let has_users = config.users.is_some();
    let mut pair = Pair::start(&programs, &folder, &flags, has_users)?;
    let mut sides = [Side::new(config), Side::new(config)];
    for phase in 0..config.phases {
        let target = config.operations * (phase + 1) / config.phases;
        let labels = [programs[0].label.clone(), programs[1].label.clone()];
        let [left, right] = &mut sides;
        run_phase(target, &pair, left, right, &labels, &mut report)
            .await
            .with_context(|| format!("seed {} phase {phase}", config.seed))?;
        let before = compare_state(&pair, &sides, &labels, &mut report)
            .await
            .with_context(|| format!("after phase {phase}"))?;
        if config.is_verbose {
            eprintln!("phase {phase}: {} answers, {:.1?}", report.operations, started.elapsed());
        }
        if phase + 1 == config.phases {
            break;
        }
        let is_kill = match config.stop {
            Stop::Term => false,
            Stop::Kill => true,
            Stop::Mixed => phase % 2 == 1,
        };
        pair.stop(is_kill)?;
        if config.is_swapping {
            programs.swap(0, 1);
        }
        pair = Pair::start(&programs, &folder, &flags, has_users)
            .with_context(|| format!("restart after phase {phase} (kill: {is_kill})"))?;
        let labels = [programs[0].label.clone(), programs[1].label.clone()];
        let after =
            compare_state(&pair, &sides, &labels, &mut report).await.with_context(|| {
                format!("after the restart that followed phase {phase} (kill: {is_kill})")
            })?;
        ensure!(
            before == after,
            "the state after a restart (kill: {is_kill}) differs: {}",
            before.difference(&after)
        );
        for side in &mut sides {
            side.known.restart();
        }
    }
    pair.stop(false)?;
    report.revision = sides[0].known.revision;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// The two members.
struct Pair {
    members: [Member; 2],
}

impl Pair {
    fn start(
        programs: &[Kind; 2],
        folder: &Path,
        flags: &[String],
        has_users: bool,
    ) -> Result<Self> {
        let options = |index: usize, name: &str| {
            let mut options = Options::new(&programs[index].etcd, &folder.join(name));
            options.flags = flags.iter().map(|flag| programs[index].flag(flag)).collect();
            options.flags.extend(programs[index].emulation_flag());
            if has_users && programs[index].may_see_old_users() {
                options.flags.push("--backend-batch-limit=1".to_owned());
            }
            options
        };
        // Started together: each waits a second for its election.
        let (left, right) = std::thread::scope(|scope| {
            let right = scope.spawn(|| Member::start(&options(1, "right")));
            (Member::start(&options(0, "left")), right.join())
        });
        let right = right.unwrap_or_else(|_| bail!("the starting thread panicked"));
        Ok(Self {
            members: [
                left.with_context(|| format!("start {}", programs[0].label))?,
                right.with_context(|| format!("start {}", programs[1].label))?,
            ],
        })
    }

    fn stop(self, is_kill: bool) -> Result<()> {
        for member in self.members {
            if is_kill {
                member.kill()?;
                continue;
            }
            let tail = member.options().log_path();
            let status = member.stop()?;
            // Go programs end by the signal itself, after an orderly shutdown.
            let is_clean = status.success()
                || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
            ensure!(is_clean, "unclean end {status}, see {}", tail.display());
        }
        Ok(())
    }
}

/// Starts two servers, on folders of their own below this one.
pub(super) fn start_two(
    programs: &[Kind; 2],
    folder: &Path,
    flags: &[String],
) -> Result<[Member; 2]> {
    Ok(Pair::start(programs, folder, flags, false)?.members)
}

/// Stops them by SIGTERM, and expects a clean end.
pub(super) fn stop(members: [Member; 2]) -> Result<()> {
    Pair { members }.stop(false)
}

/// What one driver carries from phase to phase.
struct Side {
    generator: Generator,
    users: Option<Users>,
    /// The last that the server gave to a user.
    tokens: BTreeMap<String, String>,
    known: Known,
    sent: u64,
    seen_events: i64,
}

impl Side {
    fn new(config: &Config) -> Self {
        let is_replaying = config.phases > 1 && config.stop != Stop::Term;
        let txn_ranges = if is_replaying { TxnRanges::Readable } else { TxnRanges::Any };
        // A history of large values is no answer for one message.
        let has_watches = config.users.is_none() && config.value_bytes_max < LARGE_BYTES;
        Self {
            generator: Generator::new(config.seed, config.value_bytes_max, txn_ranges)
                .with_watches(if has_watches { config.watches_one_in } else { 0 })
                .with_range_streams(
                    config.left.has_range_stream() && config.right.has_range_stream(),
                ),
            users: config.users.map(|rules| Users::new(config.seed, rules)),
            tokens: BTreeMap::new(),
            known: Known::default(),
            sent: 0,
            seen_events: 1,
        }
    }
}

/// A request and its answer, normalised.
type Exchange = (Step, Result<Response, Refusal>);

async fn run_phase(
    target: u64,
    pair: &Pair,
    left: &mut Side,
    right: &mut Side,
    labels: &[String; 2],
    report: &mut Report,
) -> Result<()> {
    let (left_sender, left_receiver) = mpsc::channel(AHEAD_MAX);
    let (right_sender, right_receiver) = mpsc::channel(AHEAD_MAX);
    let (left_events, left_events_receiver) = mpsc::channel(AHEAD_MAX);
    let (right_events, right_events_receiver) = mpsc::channel(AHEAD_MAX);
    let urls = [pair.members[0].url(), pair.members[1].url()];
    let driving = async {
        let labelled = |label: &str| format!("drive {label}");
        let (a, b) = tokio::join!(
            drive(&urls[0], left, target, left_sender, left_events),
            drive(&urls[1], right, target, right_sender, right_events)
        );
        a.with_context(|| labelled(&labels[0]))?;
        b.with_context(|| labelled(&labels[1]))
    };
    let comparing = compare_answers(left_receiver, right_receiver, labels, report);
    let comparing_events = compare_events(left_events_receiver, right_events_receiver, labels);
    let (driven, compared, events) = tokio::join!(driving, comparing, comparing_events);
    // A difference explains a driver that could not go on, not the other way round.
    compared?;
    report.events += events?;
    driven
}

/// Sends requests until `target` are sent.
async fn drive(
    url: &str,
    side: &mut Side,
    target: u64,
    answers: mpsc::Sender<Exchange>,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    let api = Api::connect(url).await?;
    let mut watch =
        side.as_root(&api).await?.watch_all(side.seen_events + 1).await.map_err(|refusal| {
            anyhow::anyhow!("watch from {}: {refusal:?}", side.seen_events + 1)
        })?;
    let (last_revision, mut until) = tokio::sync::watch::channel(i64::MAX);
    // Ends with this function, however that ends: the comparison waits for the last event.
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        let mut seen = 0;
        loop {
            let message = tokio::select! {
                message = watch.next() => message,
                // The last writer says up to where to read; checked below with what was read.
                _ = until.changed() => Ok(Some(pb::WatchResponse::default())),
            };
            let message = message.map_err(|refusal| anyhow::anyhow!("watch: {refusal:?}"))?;
            let message = message.context("the watch stream ended")?;
            ensure!(!message.canceled, "the watch was cancelled: {message:?}");
            for event in message.events {
                seen = event.kv.as_ref().map_or(seen, |kv| kv.mod_revision);
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            if seen >= *until.borrow() {
                return Ok(());
            }
        }
    });
    while side.sent < target {
        let burst = side.next();
        if burst.iter().any(|step| matches!(step.request, Request::HashKv(_))) {
            // When no key is left at the revision asked for, the hash is over the rows that a compaction has not removed yet,
            // in real etcd too. A physical compaction that is refused as too late still waits for those before it.
            let barrier = pb::CompactionRequest { revision: -1, physical: true };
            let root = side.as_root(&api).await?;
            ensure!(root.call(Request::Compact(barrier)).await.is_err(), "compacted at -1");
        }
        let calls: Vec<_> = burst
            .iter()
            .map(|step| {
                let (api, request) = (side.as_who(&api, step.who), step.request.clone());
                tokio::spawn(async move { api.call(request).await })
            })
            .collect();
        for (Step { who, request }, call) in burst.into_iter().zip(calls) {
            let mut reply = call.await.context("join a call")?;
            if let Err(refusal) = &reply
                && (refusal.code == tonic::Code::Unavailable
                    || refusal.message.contains("transport error"))
            {
                bail!("request {}: {request:?}: {refusal:?}", side.sent);
            }
            side.learn(&request, &mut reply);
            side.sent += 1;
            let reply = normalise_reply(&request, reply, Tolerance::Contract);
            if answers.send((Step { who, request }, reply)).await.is_err() {
                // The comparison found a difference and went away.
                return Ok(());
            }
        }
    }
    // Every write made an event, so the last one that made a revision is the last event.
    let wanted = if side.known.revision > side.seen_events { side.known.revision } else { 0 };
    side.seen_events = side.known.revision;
    let _ = last_revision.send(wanted);
    tokio::time::timeout(EVENTS_TIMEOUT, watching.join_next())
        .await
        .with_context(|| {
            format!("the watch did not reach revision {wanted} in {EVENTS_TIMEOUT:?}")
        })?
        .context("the watch is being waited for twice")?
        .context("join the watch")?
}

impl Side {
    /// The next requests.
    fn next(&mut self) -> Vec<Step> {
        if let Some(users) = &mut self.users {
            return users.next(&mut self.generator, &self.known);
        }
        let requests = self.generator.next(&self.known);
        requests.into_iter().map(|request| Step { who: Who::Nobody, request }).collect()
    }

    fn as_who(&self, api: &Api, who: Who) -> Api {
        match who {
            Who::Nobody => api.clone(),
            Who::Stranger => api.with_token(Some("WhereDoesThisCome.1")),
            Who::User(name) => api.with_token(self.tokens.get(name).map(String::as_str)),
        }
    }

    /// As root where authentication is on. The token is one of its own: root's last may be gone with a password.
    async fn as_root(&self, api: &Api) -> Result<Api> {
        let Some(users) = &self.users else { return Ok(api.clone()) };
        match api.authenticate(ROOT, users.password(ROOT)).await {
            Ok(token) => Ok(api.with_token(Some(&token))),
            Err(refusal) if refusal.message.contains("authentication is not enabled") => {
                Ok(api.clone())
            }
            Err(refusal) => bail!("authenticate as root: {refusal:?}"),
        }
    }

    /// Takes over what an answer tells of the server.
    fn learn(&mut self, request: &Request, reply: &mut Result<Response, Refusal>) {
        let Ok(response) = reply else { return };
        if let Some(users) = &mut self.users {
            users.learn(request, response);
        }
        if let Some((name, token)) = token(request, response) {
            self.tokens.insert(name, token);
        }
        if let (Request::Compact(request), Response::Compact(_)) = (request, &*response) {
            self.known.compact(request);
        }
        if let Some(header) = response.header_mut() {
            self.known.revision = self.known.revision.max(header.revision);
        }
    }
}

async fn compare_answers(
    mut left: mpsc::Receiver<Exchange>,
    mut right: mpsc::Receiver<Exchange>,
    labels: &[String; 2],
    report: &mut Report,
) -> Result<()> {
    let mut recent = VecDeque::new();
    loop {
        let (a, b) = tokio::join!(left.recv(), right.recv());
        let ((step, a), (other, b)) = match (a, b) {
            (Some(a), Some(b)) => (a, b),
            // A driver that ended early says why itself.
            (_, _) => return Ok(()),
        };
        report.operations += 1;
        report.refusals += u64::from(a.is_err());
        let count = report.operations;
        *report
            .outcomes
            .entry(format!("{} {}", kind(&step.request), outcome_class(&a)))
            .or_default() += 1;
        if step != other || a != b {
            let mut text = format!("request {count} differs; the ones before it:\n");
            for line in &recent {
                let _ = writeln!(text, "  {line}");
            }
            let _ = writeln!(text, "request: {step:?}");
            if step != other {
                let _ = writeln!(text, "{} was asked instead: {other:?}", labels[1]);
            }
            let (a, b) = (format!("{a:?}"), format!("{b:?}"));
            let _ = writeln!(text, "{}: {a}\n{}: {b}", labels[0], labels[1]);
            if let Some([a, b]) = from_difference(&a, &b) {
                let _ = writeln!(text, "the difference, {}: …{a}", labels[0]);
                let _ = writeln!(text, "the difference, {}: …{b}", labels[1]);
            }
            bail!(shorten(&text));
        }
        if !step.request.is_read() {
            if recent.len() == CONTEXT {
                recent.pop_front();
            }
            recent.push_back(shorten(&format!("{count}: {step:?} -> {}", outcome(&a))));
        }
    }
}

/// Compares the events of the watch on everything.
///
/// etcd looks up the previous value when it *sends* an event: when a compaction at the event's revision overtakes the
/// sending, the previous value is gone and left out. So one side may lack it, now and then; it may not be another one.
async fn compare_events(
    mut left: mpsc::Receiver<Event>,
    mut right: mpsc::Receiver<Event>,
    labels: &[String; 2],
) -> Result<u64> {
    let (mut count, mut overtaken) = (0, 0);
    loop {
        // A driver that ended early says itself why.
        let (Some(mut a), Some(mut b)) = tokio::join!(left.recv(), right.recv()) else { break };
        if a.prev_kv.is_some() != b.prev_kv.is_some() {
            overtaken += 1;
            (a.prev_kv, b.prev_kv) = (None, None);
        }
        if a != b {
            bail!(shorten(&format!(
                "event {count} differs\n{}: {a:?}\n{}: {b:?}",
                labels[0], labels[1]
            )));
        }
        count += 1;
    }
    ensure!(
        overtaken <= 5 + count / 100,
        "{overtaken} of {count} events have a previous value on one side only"
    );
    Ok(count)
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Range(_) => "Range",
        Request::RangeStream(_) => "RangeStream",
        Request::Put(_) => "Put",
        Request::DeleteRange(_) => "DeleteRange",
        Request::Txn(_) => "Txn",
        Request::Compact(_) => "Compact",
        Request::LeaseGrant(_) => "LeaseGrant",
        Request::LeaseRevoke(_) => "LeaseRevoke",
        Request::LeaseKeepAlive(_) => "LeaseKeepAlive",
        Request::LeaseTimeToLive(_) => "LeaseTimeToLive",
        Request::LeaseLeases(_) => "LeaseLeases",
        Request::HashKv(_) => "HashKV",
        Request::Alarm(_) => "Alarm",
        Request::Watch(_) => "Watch",
        Request::Watches(_) => "Watches",
        Request::Auth(request) => request.name(),
    }
}

/// An outcome without the numbers in it.
fn outcome_class(reply: &Result<Response, Refusal>) -> String {
    match reply {
        Ok(Response::Txn(answer)) if answer.succeeded => "succeeded".to_owned(),
        Ok(Response::Txn(_)) => "failed".to_owned(),
        Ok(_) => "ok".to_owned(),
        Err(refusal) => refusal.message.replace(|c: char| c.is_ascii_digit(), ""),
    }
}

fn outcome(reply: &Result<Response, Refusal>) -> String {
    match reply {
        Ok(response) => {
            let mut response = response.clone();
            response
                .header_mut()
                .map_or("ok".to_owned(), |header| format!("ok at {}", header.revision))
        }
        Err(refusal) => format!("{:?} {}", refusal.code, refusal.message),
    }
}

/// Compares everything readable on the two servers and returns it.
async fn compare_state(
    pair: &Pair,
    sides: &[Side; 2],
    labels: &[String; 2],
    report: &mut Report,
) -> Result<State> {
    let read = async |index: usize| {
        let api = Api::connect(&pair.members[index].url()).await?;
        State::read_through(&sides[index].as_root(&api).await?, i64::MAX).await
    };
    let (left, right) = tokio::join!(read(0), read(1));
    let left = left.with_context(|| format!("read {}", labels[0]))?;
    let right = right.with_context(|| format!("read {}", labels[1]))?;
    ensure!(left == right, "{} and {} differ: {}", labels[0], labels[1], left.difference(&right));
    report.hashes += u64::try_from(left.hashes().len()).unwrap_or(0);
    Ok(left)
}
