//! Spans on their way to a collector of OpenTelemetry.
//!
//! ```text
//!  a call ──► Tracer::serve ──► Span ──drop──► queue ──► Exporter's task ──► collector
//!               │ sampled?        └─► Parent::child ──► Span         (OTLP over gRPC, in batches)
//!               └─ no: a span that is nothing
//! ```
//!
//! - [`Context`] is what the W3C headers say of the caller's span; [`Sampler`] decides whether a trace is taken down. Both are pure.
//! - A [`Span`] is a record that its owner fills in; dropped, it has ended and goes to the queue.
//! - The [`Exporter`] owns the task that empties the queue; an [`Environment`] is what variables say of it.
//!
//! What this must never do is slow a call down or grow: the queue is bounded by spans and by bytes, what does not fit is dropped
//! and counted, and the drops are told at most once a minute. A collector that is away is tried again for a minute per batch.
//! Nothing here fails for its caller after [`Exporter::start`] has read the address.
//!
//! Names and attributes of spans are the caller's business.

mod context;
mod environment;
mod exporter;
mod message;
mod queue;
mod sampler;
mod shared;
mod span;
mod tracer;

pub use context::{Context, SpanId, TraceId};
pub use environment::{EncryptionError, Environment};
pub use exporter::{AddressError, Exporter, Settings, check_address};
pub use sampler::{PER_MILLION_MAX, Sampler};
pub use span::{Kind, Scope, TEXT_BYTES_MAX, Value};
pub use tracer::{Parent, Span, Tracer};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_enum_match_arm,
    reason = "generated code; the .proto file carries the documentation"
)]
#[rustfmt::skip]
/// Messages and stub of OTLP (package `opentelemetry.proto.collector.trace.v1`), as far as spans need them.
pub mod wire {
    include!("gen/opentelemetry.proto.collector.trace.v1.rs");
}
