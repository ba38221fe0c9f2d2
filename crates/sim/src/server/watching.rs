//! Watchers: the watch stage of a member as in the server, and the clients that watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mvcc::EventBatch;
use mvcc::watch::{Body, Limits, Message, StreamId, WatchSpec};
use prost::Message as _;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use proto::mvccpb::Event as WatchEvent;

use super::env::{Actor, Env, Event, Life, Step, Stop};
use super::marks::Mark;
use super::node::Live;
use super::plant::Plant;
use super::witness::Wants;
use super::world::World;
use crate::violation::broken;

/// Rows of history that are read at once.
const CATCH_UP_ROWS: usize = 50;

/// A response of this size is split, where the client allows it.
const FRAGMENT_BYTES: usize = 200;

/// What the watch stage is told.
#[derive(Debug)]
pub(super) enum WatchWork {
    Events(Arc<EventBatch>),
    Reloaded(i64),
    /// A mistake: those who watch get what comes from now on.
    Forgotten(i64),
}

/// Bounds of a hub that are met.
pub(super) fn limits(env: &Env) -> Limits {
    Limits {
        queue_messages: env.swarm.hub_queue,
        queue_bytes: 100_000,
        message_revisions: 20,
        message_bytes: 2_000,
        watchers_per_round: 2,
    }
}

impl Live {
    pub(super) fn run_watch(&mut self, env: &mut Env) -> Step {
        for work in std::mem::take(&mut self.watch_in) {
            match work {
                WatchWork::Events(batch) => self.hub.publish(&batch, &self.reader)?,
                WatchWork::Reloaded(revision) => self.hub.resync(revision),
                WatchWork::Forgotten(revision) => {
                    let empty = |revision| EventBatch { revision, events: Vec::new() };
                    for revision in self.hub.current_revision() + 1..=revision {
                        self.hub.publish(&empty(revision), &self.reader)?;
                    }
                }
            }
        }
        self.hub.tick(self.local(env));
        if self.hub.needs_catch_up() {
            env.mark(Mark::WatchLagged);
            if self.hub.catch_up(&self.reader, CATCH_UP_ROWS)? {
                self.wake(Actor::Watch, env);
            }
        }
        Ok(())
    }

    fn open_stream(&mut self, env: &mut Env) -> StreamId {
        self.streams += 1;
        if self.streams == 1 {
            // What was applied while nobody watched was not sent.
            self.hub.resync(self.reader.current_revision());
        }
        let every = Duration::from_micros(env.swarm.progress_us);
        let id = self.hub.open_stream(self.local(env), every);
        self.wake(Actor::Watch, env);
        id
    }

    fn close_stream(&mut self, id: StreamId) {
        self.hub.close_stream(id);
        self.streams -= 1;
    }
}

/// A client that watches.
#[derive(Debug)]
pub(super) struct Watcher {
    wants: Wants,
    wants_progress: bool,
    may_fragment: bool,
    /// The first revision that it has not been given everything of; 0 before it began.
    pub(super) next: i64,
    at: Option<(Life, StreamId)>,
    last_node: u64,
    /// Events of a response that goes on.
    fragments: Vec<WatchEvent>,
}

impl Watcher {
    pub(super) fn draw(env: &mut Env) -> Self {
        let rng = &mut env.workload;
        let (key, end) = match rng.below(3) {
            0 => (super::client::key(rng.below(env.swarm.keys)), Vec::new()),
            1 => (super::client::key(0), super::client::key(env.swarm.keys / 2 + 1)),
            _ => (vec![0], vec![0]),
        };
        let filter = rng.below(6);
        Self {
            wants: Wants {
                key,
                end,
                has_puts: filter != 0,
                has_deletes: filter != 1,
                has_previous: rng.percent(50),
            },
            wants_progress: rng.percent(50),
            may_fragment: rng.percent(50),
            next: i64::from(rng.percent(50)),
            at: None,
            last_node: 0,
            fragments: Vec::new(),
        }
    }

    fn request(&self, plant: Plant) -> WatchCreateRequest {
        let Wants { key, end, has_puts, has_deletes, has_previous } = &self.wants;
        let mut filters = Vec::new();
        if !has_puts {
            filters.push(FilterType::Noput.into());
        }
        if !has_deletes {
            filters.push(FilterType::Nodelete.into());
        }
        let is_late = plant == Plant::WatchResumesLate && self.last_node != 0;
        WatchCreateRequest {
            key: key.clone().into(),
            range_end: end.clone().into(),
            start_revision: self.next + i64::from(is_late),
            progress_notify: self.wants_progress,
            filters,
            prev_kv: *has_previous,
            fragment: self.may_fragment,
            ..WatchCreateRequest::default()
        }
    }

    fn take(&mut self, message: &Message, env: &mut Env) -> Result<bool, Stop> {
        let header = ResponseHeader::default();
        for part in message.encode(&header, FRAGMENT_BYTES) {
            let mut bytes = Vec::new();
            part.write_to(&mut bytes);
            let response = WatchResponse::decode(&bytes[..]);
            let Ok(response) = response else {
                return Ok(broken("events can be read", format!("{message:?}"))?);
            };
            if response.fragment {
                self.fragments.extend(response.events);
                continue;
            }
            let mut events = std::mem::take(&mut self.fragments);
            events.extend(response.events);
            let revision = response.header.map_or(0, |header| header.revision);
            if self.take_response(
                &message.body,
                revision,
                response.compact_revision,
                &events,
                env,
            )? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether the watcher has ended.
    fn take_response(
        &mut self,
        body: &Body,
        revision: i64,
        compact_revision: i64,
        events: &[WatchEvent],
        env: &mut Env,
    ) -> Result<bool, Stop> {
        match body {
            Body::Created if self.next == 0 => self.next = revision + 1,
            Body::Created => {}
            Body::Events(_) => {
                env.mark(Mark::WatchEvents);
                self.next = env.witness.watches(&self.wants, self.next, revision, events)?;
                // Clients that watch learn of revisions too.
                env.witness.learned(self.next - 1);
            }
            Body::Progress => {
                env.mark(Mark::WatchProgress);
                self.next = env.witness.progresses(&self.wants, self.next, revision)?;
                env.witness.learned(revision);
            }
            Body::Compacted { .. } => {
                env.mark(Mark::WatchCompacted);
                let newest = env.witness.model().compacted();
                if compact_revision < self.next || compact_revision > newest {
                    let detail = format!(
                        "needs {}, ended by a compaction at {compact_revision} of {newest}",
                        self.next
                    );
                    return Ok(broken("watch: ended by a compaction only", detail)?);
                }
                // What was in between is gone, as the client knows.
                self.next = compact_revision;
                return Ok(true);
            }
            Body::Refused { .. } | Body::Canceled => {
                return Ok(broken("watch: nobody is refused", format!("{body:?}"))?);
            }
        }
        Ok(false)
    }

    /// Whether it has had everything.
    pub(super) fn is_caught_up(&self, revision: i64) -> bool {
        self.at.is_some() && self.next > revision
    }
}

impl World {
    /// A client looks at its stream, or opens one.
    pub(super) fn poll(&mut self, place: usize) -> Step {
        let span = self.env.workload.around(self.env.swarm.poll_us);
        self.env.after(span, Event::Poll(place));
        let World { env, nodes, watchers, .. } = self;
        let Some(watcher) = watchers.get_mut(place) else { return Ok(()) };
        let Some((life, stream)) = watcher.at else { return self.attach(place) };
        let node = nodes.get_mut(&life.node);
        let paused = node.as_ref().is_some_and(|node| node.paused_until_us > env.now_us());
        let live = node.and_then(|node| node.live.as_mut()).filter(|live| live.life == life);
        let Some(live) = live else {
            watcher.at = None;
            env.mark(Mark::WatchCut);
            return Ok(());
        };
        if !env.is_calm && (paused || env.workload.percent(env.swarm.cut_percent)) {
            live.close_stream(stream);
            watcher.at = None;
            watcher.fragments.clear();
            env.mark(Mark::WatchCut);
            env.trace(life.node, "cut", [place as u64, watcher.next.unsigned_abs(), 0]);
            return Ok(());
        }
        let mut messages = VecDeque::new();
        for _ in 0..8 {
            messages.extend(live.hub.poll(stream));
        }
        for message in messages {
            if watcher.take(&message, env)? {
                live.close_stream(stream);
                watcher.at = None;
                break;
            }
        }
        let numbers = [place as u64, watcher.next.unsigned_abs(), 0];
        env.trace(life.node, "watch", numbers);
        if watcher.at.is_some() && (env.is_calm || env.workload.percent(5)) {
            let revision = live.reader.current_revision();
            live.hub.request_progress(stream, revision);
        }
        if live.hub.needs_catch_up() {
            live.wake(Actor::Watch, env);
        }
        Ok(())
    }

    fn attach(&mut self, place: usize) -> Step {
        let Some(id) = self.pick_serving() else { return Ok(()) };
        let World { env, nodes, watchers, .. } = self;
        let live = nodes.get_mut(&id).and_then(|node| node.live.as_mut());
        let (Some(live), Some(watcher)) = (live, watchers.get_mut(place)) else { return Ok(()) };
        let request = watcher.request(env.plant);
        let spec = match WatchSpec::new(&request) {
            Ok(spec) => spec,
            Err(refusal) => return Ok(broken("watch: nobody is refused", refusal.to_string())?),
        };
        let stream = live.open_stream(env);
        live.hub.create(stream, &spec, live.reader.current_revision());
        if watcher.last_node != 0 && watcher.last_node != id {
            env.mark(Mark::WatchResumedElsewhere);
        }
        watcher.fragments.clear();
        watcher.at = Some((live.life, stream));
        watcher.last_node = id;
        env.trace(id, "attach", [place as u64, watcher.next.unsigned_abs(), 0]);
        Ok(())
    }
}
