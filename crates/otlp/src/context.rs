//! Which trace and span something belongs to, as callers say it in the headers of the W3C's Trace Context.
//!
//! ```text
//!  traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//!               version        trace                     span         flags
//! ```
//!
//! Headers are a stranger's: what is malformed is as good as none.

use std::sync::Arc;

use http::HeaderMap;

/// The trace is taken down.
const SAMPLED: u8 = 1;
/// The trace's id is random.
const RANDOM: u8 = 2;
/// Version 255 is forbidden.
const FORBIDDEN_VERSION: u8 = 0xff;

/// Longest `tracestate` that is passed on: what the W3C wants everybody to carry.
const STATE_BYTES_MAX: usize = 512;
/// Most of its members.
const STATE_MEMBERS_MAX: usize = 32;

/// A trace: never all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub(crate) [u8; 16]);

/// A span: never all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub(crate) [u8; 8]);

impl TraceId {
    /// From 16 bytes; `None` for zeros.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

impl SpanId {
    /// From 8 bytes; `None` for zeros.
    #[must_use]
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }
}

/// A span's place: its trace, itself, and what goes from span to span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    /// The W3C flags, no others than those known here.
    pub(crate) flags: u8,
    /// The vendors' part, passed on as it came.
    pub(crate) state: Option<Arc<str>>,
}

impl Context {
    /// The caller's span, if the headers name one.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let context = Self::parse(headers.get("traceparent")?.to_str().ok()?)?;
        let state = headers.get("tracestate").and_then(|value| value.to_str().ok());
        let state = state.filter(|state| is_state(state)).map(Arc::from);
        Some(Self { state, ..context })
    }

    /// Reads a `traceparent`; `None` if it is malformed.
    #[must_use]
    pub fn parse(parent: &str) -> Option<Self> {
        let mut parts = parent.split('-');
        let [version] = hex(parts.next()?)?;
        let trace = TraceId::new(hex(parts.next()?)?)?;
        let span = SpanId::new(hex(parts.next()?)?)?;
        let [flags] = hex(parts.next()?)?;
        // Later versions may say more, and are read as far as they are understood.
        let is_understood = match version {
            0 => parts.next().is_none() && flags <= SAMPLED | RANDOM,
            version => version != FORBIDDEN_VERSION,
        };
        is_understood.then_some(Self {
            trace,
            span,
            flags: flags & (SAMPLED | RANDOM),
            state: None,
        })
    }

    /// Whether whoever began it takes the trace down.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The context of a sampled span below this one.
    pub(crate) fn child(&self, span: SpanId) -> Self {
        Self { span, flags: self.flags | SAMPLED, ..self.clone() }
    }

    /// The context of a sampled span that begins a trace.
    pub(crate) fn root(trace: TraceId, span: SpanId) -> Self {
        Self { trace, span, flags: SAMPLED, state: None }
    }
}

/// Reads exactly `N` bytes of lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Whether this is a `tracestate`: a few pairs of printable text.
fn is_state(text: &str) -> bool {
    let is_member = |member: &str| {
        member.trim().split_once('=').is_some_and(|(key, value)| {
            let is_printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
            !key.is_empty()
                && !key.contains(' ')
                && !value.is_empty()
                && key.bytes().chain(value.bytes()).all(is_printable)
        })
    };
    text.len() <= STATE_BYTES_MAX
        && text.split(',').count() <= STATE_MEMBERS_MAX
        && text.split(',').all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_parent_is_read() {
        let context = Context::parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!((context.trace.0[0], context.trace.0[15]), (0x0a, 0x9c));
        assert_eq!((context.span.0[0], context.span.0[7]), (0xb7, 0x31));
        assert!(context.is_sampled());
        assert!(!Context::parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled());
        // A later version, with more of both.
        assert!(Context::parse(&format!("cc-{TRACE}-{SPAN}-09-what")).unwrap().is_sampled());
    }

    #[test]
    fn what_is_malformed_is_no_parent() {
        for parent in [
            "",
            "00",
            &format!("00-{TRACE}-{SPAN}"),
            &format!("00-{TRACE}-{SPAN}-1"),
            &format!("00-{TRACE}-{SPAN}-04"),
            &format!("00-{TRACE}-{SPAN}-01-"),
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-{}-{SPAN}-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("00-{TRACE}é-{SPAN}-01"),
            &format!("00-{TRACE}00-{SPAN}-01"),
        ] {
            assert_eq!(Context::parse(parent), None, "{parent}");
        }
    }

    #[test]
    fn the_state_is_passed_on_if_it_is_one() {
        let state = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
            headers.insert("tracestate", text.parse().unwrap());
            Context::of_headers(&headers).unwrap().state
        };
        assert_eq!(
            state("congo=t61rcWkgMzE,rojo=00f0").as_deref(),
            Some("congo=t61rcWkgMzE,rojo=00f0")
        );
        for bad in
            ["", "a", "a=", "a=b,,c=d", "a b=c", "a=b=c", &"a=b,".repeat(40), &"a".repeat(600)]
        {
            assert_eq!(state(bad), None, "{bad}");
        }
    }
}
