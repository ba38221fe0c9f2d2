//! From records to the messages that a collector takes.

use std::borrow::Cow;

use bytes::Bytes;

use crate::span::{Event, Kind, Record, Scope, Value};
use crate::wire::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, Status, any_value, span, status,
};

/// In a span's flags: it is known whether the parent is in another process.
const HAS_IS_REMOTE: u32 = 0x100;
/// It is.
const IS_REMOTE: u32 = 0x200;

/// One message of these spans, sorted by their scopes.
pub(crate) fn request(
    resource: &[(String, String)],
    records: Vec<Record>,
) -> ExportTraceServiceRequest {
    // There are two or three scopes.
    let mut scopes: Vec<(Scope, Vec<Span>)> = Vec::new();
    for record in records {
        let place = match scopes.iter().position(|(scope, _)| *scope == record.scope) {
            Some(place) => place,
            None => {
                scopes.push((record.scope, Vec::new()));
                scopes.len() - 1
            }
        };
        if let Some((_, spans)) = scopes.get_mut(place) {
            spans.push(span(record));
        }
    }
    let attributes = resource
        .iter()
        .map(|(key, value)| attribute(key, Value::Text(Cow::Owned(value.clone()))))
        .collect();
    let scope_spans = scopes
        .into_iter()
        .map(|(Scope { name, version }, spans)| ScopeSpans {
            scope: Some(InstrumentationScope {
                name: name.to_owned(),
                version: version.to_owned(),
            }),
            spans,
            schema_url: String::new(),
        })
        .collect();
    let resource_spans = ResourceSpans {
        resource: Some(Resource { attributes }),
        scope_spans,
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn span(record: Record) -> Span {
    let remote = if record.is_parent_remote { IS_REMOTE } else { 0 };
    let kind = match record.kind {
        Kind::Internal => span::SpanKind::Internal,
        Kind::Server => span::SpanKind::Server,
    };
    let status = match record.error {
        Some(message) => Status { message, code: status::StatusCode::Error.into() },
        None => Status::default(),
    };
    Span {
        trace_id: Bytes::copy_from_slice(&record.context.trace.0),
        span_id: Bytes::copy_from_slice(&record.context.span.0),
        trace_state: record.context.state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: record
            .parent
            .map_or_else(Bytes::new, |parent| Bytes::copy_from_slice(&parent.0)),
        name: record.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: record.start_unix_ns,
        end_time_unix_nano: record.end_unix_ns,
        attributes: attributes(record.attributes),
        events: record.events.into_iter().map(event).collect(),
        status: Some(status),
        flags: u32::from(record.context.flags) | HAS_IS_REMOTE | remote,
    }
}

fn event(event: Event) -> span::Event {
    span::Event {
        time_unix_nano: event.unix_ns,
        name: event.name.to_owned(),
        attributes: attributes(event.attributes),
    }
}

fn attributes(attributes: Vec<(&'static str, Value)>) -> Vec<KeyValue> {
    attributes.into_iter().map(|(key, value)| attribute(key, value)).collect()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text.into_owned()),
        Value::Bool(value) => any_value::Value::BoolValue(value),
        Value::Int(value) => any_value::Value::IntValue(value),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
