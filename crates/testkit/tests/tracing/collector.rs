//! A collector of traces: takes what members send, refuses where it is told to, and shows it in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use otlp::wire::any_value::Value;
use otlp::wire::span::SpanKind;
use otlp::wire::status::StatusCode;
use otlp::wire::trace_service_server::{TraceService, TraceServiceServer};
use otlp::wire::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, ResourceSpans, ScopeSpans,
    Span,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What exports may be let in by.
pub(crate) const KEY_HEADER: &str = "x-collector-key";

/// How the next exports are answered; after the last one, all are taken.
pub(crate) enum Answer {
    Refuse(tonic::Code),
    /// Never.
    Hang,
}

#[derive(Clone, Default)]
struct Service {
    taken: Arc<Mutex<Vec<ResourceSpans>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<tokio::sync::Notify>,
    /// The values of [`KEY_HEADER`] that came.
    keys: Arc<Mutex<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let answer = self.answers.lock().unwrap().pop_front();
        self.asked.notify_one();
        if let Some(key) = request.metadata().get(KEY_HEADER) {
            self.keys.lock().unwrap().insert(key.to_str().unwrap().to_owned());
        }
        match answer {
            Some(Answer::Refuse(code)) => return Err(Status::new(code, "not now")),
            Some(Answer::Hang) => std::future::pending().await,
            None => self.taken.lock().unwrap().extend(request.into_inner().resource_spans),
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A running collector; it ends with the runtime.
pub(crate) struct Collector {
    service: Service,
    pub(crate) address: String,
}

impl Collector {
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = Service::default();
        service.answers.lock().unwrap().extend(answers);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(service.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { service, address }
    }

    /// Waits for the next export that nobody has waited for.
    pub(crate) async fn asked(&self) {
        self.service.asked.notified().await;
    }

    /// The keys that exports came with.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        self.service.keys.lock().unwrap().clone()
    }

    /// All that was taken.
    pub(crate) fn taken(&self) -> Taken {
        Taken(self.service.taken.lock().unwrap().clone())
    }
}

/// Spans of one process.
pub(crate) struct Taken(Vec<ResourceSpans>);

impl Taken {
    fn scopes(&self) -> impl Iterator<Item = &ScopeSpans> {
        self.0.iter().flat_map(|resource| &resource.scope_spans)
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.scopes().flat_map(|scope| &scope.spans)
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.spans().map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Everything that does not differ from run to run: in order of the traces' ids, parents before their children.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut resources: Vec<String> = self
            .0
            .iter()
            .map(|resource| {
                let attributes = &resource.resource.as_ref().unwrap().attributes;
                format!("resource{}\n", shown(attributes))
            })
            .collect();
        resources.dedup();
        text.extend(resources);
        let names: BTreeMap<&[u8], &str> =
            self.spans().map(|span| (span.span_id.as_ref(), span.name.as_str())).collect();
        let mut spans: Vec<(&ScopeSpans, &Span)> = self
            .scopes()
            .flat_map(|scope| scope.spans.iter().map(move |span| (scope, span)))
            .collect();
        spans.sort_by_key(|(_, span)| {
            let is_child = names.contains_key(span.parent_span_id.as_ref());
            (span.trace_id.clone(), is_child, span.start_time_unix_nano)
        });
        for (scope, span) in spans {
            let scope = scope.scope.as_ref().unwrap();
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
            let parent = match names.get(span.parent_span_id.as_ref()) {
                Some(name) => (*name).to_owned(),
                None => format!("{:x}", span.parent_span_id),
            };
            let kind = SpanKind::try_from(span.kind).unwrap();
            let [.., trace] = *span.trace_id else { panic!("no trace") };
            writeln!(text, "{trace} {} {kind:?} below {parent} flags {:x}", span.name, span.flags)
                .unwrap();
            writeln!(text, "  scope {} {}", scope.name, scope.version).unwrap();
            if !span.trace_state.is_empty() {
                writeln!(text, "  state {}", span.trace_state).unwrap();
            }
            if !span.attributes.is_empty() {
                writeln!(text, " {}", shown(&span.attributes)).unwrap();
            }
            for event in &span.events {
                writeln!(text, "  event {}{}", event.name, shown(&event.attributes)).unwrap();
            }
            let status = span.status.clone().unwrap_or_default();
            if status.code() != StatusCode::Unset || !status.message.is_empty() {
                writeln!(text, "  {:?} {}", status.code(), status.message).unwrap();
            }
        }
        text
    }
}

/// Attributes in order of their keys, without the ports that the kernel chose.
fn shown(attributes: &[KeyValue]) -> String {
    let mut sorted: Vec<&KeyValue> = attributes.iter().collect();
    sorted.sort_by_key(|attribute| &attribute.key);
    let mut text = String::new();
    for KeyValue { key, value } in sorted {
        let value = match value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::IntValue(port)) if key.ends_with(".port") && *port > 1 => "PORT".to_owned(),
            Some(Value::IntValue(value)) => value.to_string(),
            Some(Value::BoolValue(value)) => value.to_string(),
            Some(Value::StringValue(value)) => format!("{value:?}"),
            None => "?".to_owned(),
        };
        write!(text, " {key}={value}").unwrap();
    }
    text
}
