//! Spans while they last.

use std::borrow::Cow;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use crate::context::{Context, SpanId, TraceId};
use crate::queue::Queue;
use crate::sampler::{Decision, Sampler};
use crate::span::{ENTRIES_MAX, Event, Kind, Record, Scope, Value, cut};

/// Makes spans. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Tracer {
    sampler: Sampler,
    queue: Arc<Queue>,
}

impl Tracer {
    pub(crate) fn new(sampler: Sampler, queue: Arc<Queue>) -> Self {
        Self { sampler, queue }
    }

    /// Begins the span of a call that is served, below the caller's span if the headers name one. `name` is asked for only if the
    /// trace is taken down; otherwise the span is nothing.
    pub fn serve(
        &self,
        scope: Scope,
        name: impl FnOnce() -> Cow<'static, str>,
        headers: &HeaderMap,
    ) -> Span {
        let caller = Context::of_headers(headers);
        let context = match (self.sampler.decide(caller.as_ref(), new_trace), &caller) {
            (Decision::Begin(trace), _) => Context::root(trace, new_span()),
            (Decision::Join, Some(caller)) => caller.child(new_span()),
            (Decision::Leave, _) | (Decision::Join, None) => return Span::NONE,
        };
        let parent = caller.map(|caller| caller.span);
        self.begin(scope, name(), Kind::Server, context, parent)
    }

    fn begin(
        &self,
        scope: Scope,
        name: Cow<'static, str>,
        kind: Kind,
        context: Context,
        parent: Option<SpanId>,
    ) -> Span {
        let start_unix_ns = unix_ns();
        let record = Record {
            scope,
            name,
            kind,
            context,
            parent,
            is_parent_remote: parent.is_some() && kind == Kind::Server,
            start_unix_ns,
            end_unix_ns: 0,
            attributes: Vec::new(),
            events: Vec::new(),
            error: None,
        };
        let happened =
            Arc::new(Happened { start_unix_ns, start: Instant::now(), events: Mutex::default() });
        Span(Some(Box::new(Live { record, tracer: self.clone(), happened })))
    }
}

/// A span that lasts until it is dropped, or nothing at all: then every method returns at once.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Live>>);

#[derive(Debug)]
struct Live {
    /// Without its events.
    record: Record,
    tracer: Tracer,
    happened: Arc<Happened>,
}

/// What happens while a span lasts: whoever works within it may add to it.
#[derive(Debug)]
struct Happened {
    start_unix_ns: u64,
    /// The clock that does not jump tells how long it lasts.
    start: Instant,
    /// Held for one addition.
    events: Mutex<Vec<Event>>,
}

impl Happened {
    fn now(&self) -> u64 {
        let lasted = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.start_unix_ns.saturating_add(lasted)
    }

    fn add(&self, name: &'static str, attributes: Vec<(&'static str, Value)>) {
        let unix_ns = self.now();
        let mut events = self.lock();
        if events.len() < ENTRIES_MAX {
            events.push(Event { name, unix_ns, attributes });
        }
    }

    /// Nothing panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    /// Nothing.
    pub const NONE: Self = Self(None);

    /// Whether it is anything.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(live) = &mut self.0 {
            live.record.set(key, value.into());
        }
    }

    /// Says that what the span tells about failed.
    pub fn fail(&mut self, message: &str) {
        if let Some(live) = &mut self.0 {
            live.record.error = Some(cut(message));
        }
    }

    /// Ends it without a trace.
    pub fn discard(mut self) {
        self.0 = None;
    }

    /// What spans below it are made from; `None` if it is nothing.
    #[must_use]
    pub fn parent(&self) -> Option<Parent> {
        self.0.as_ref().map(|live| Parent {
            tracer: live.tracer.clone(),
            context: live.record.context.clone(),
            happened: Arc::clone(&live.happened),
        })
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(live) = self.0.take() {
            let Live { record, tracer, happened } = *live;
            let end_unix_ns = happened.now();
            let events = std::mem::take(&mut *happened.lock());
            tracer.queue.push(Record { end_unix_ns, events, ..record });
        }
    }
}

/// A span of this process, for those who work within it. It may have ended: then what happens in it is lost, and spans below it
/// are as good as ever.
#[derive(Debug, Clone)]
pub struct Parent {
    tracer: Tracer,
    context: Context,
    happened: Arc<Happened>,
}

impl Parent {
    /// Begins a step below it.
    #[must_use]
    pub fn child(&self, scope: Scope, name: &'static str) -> Span {
        let context = self.context.child(new_span());
        let parent = Some(self.context.span);
        self.tracer.begin(scope, Cow::Borrowed(name), Kind::Internal, context, parent)
    }

    /// Says that something happens now in the span itself.
    pub fn event(&self, name: &'static str) {
        self.happened.add(name, Vec::new());
    }

    /// The same, with attributes.
    pub fn event_with(&self, name: &'static str, attributes: Vec<(&'static str, Value)>) {
        self.happened.add(name, attributes);
    }
}

fn new_trace() -> TraceId {
    TraceId(rand::random::<NonZeroU128>().get().to_be_bytes())
}

fn new_span() -> SpanId {
    SpanId(rand::random::<NonZeroU64>().get().to_be_bytes())
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
