//! Which traces are taken down: those that their caller takes down, and of those that begin here, some of a million.
//!
//! Whoever began a trace has decided for all of it. The decision on a new one is a function of its id alone, so that every
//! process with the same rate decides alike: OpenTelemetry's `ParentBased(TraceIdRatioBased)`.

use crate::context::{Context, TraceId};

/// The rate that takes down every trace.
pub const PER_MILLION_MAX: u32 = 1_000_000;

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Ids are looked at as numbers below 2^63; those below this are taken.
    bound: u64,
}

impl Sampler {
    /// Takes so many of a million new traces; more than [`PER_MILLION_MAX`] is all of them.
    #[must_use]
    pub fn per_million(rate: u32) -> Self {
        let rate = u128::from(rate.min(PER_MILLION_MAX));
        let bound = (rate << 63) / u128::from(PER_MILLION_MAX);
        // At most 2^63.
        Self { bound: u64::try_from(bound).unwrap_or(u64::MAX) }
    }

    /// Whether a span below that caller's is taken down. `new` makes the id of a trace that begins here, and is asked for one only
    /// then: returned is the trace to begin, if there is one.
    pub(crate) fn decide(
        self,
        caller: Option<&Context>,
        new: impl FnOnce() -> TraceId,
    ) -> Decision {
        match caller {
            Some(caller) if caller.is_sampled() => Decision::Join,
            Some(_) => Decision::Leave,
            None if self.bound == 0 => Decision::Leave,
            None => {
                let trace = new();
                if self.takes(trace) { Decision::Begin(trace) } else { Decision::Leave }
            }
        }
    }

    /// Whether a trace that begins here is taken down.
    #[must_use]
    pub fn takes(self, trace: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.bound
    }
}

/// What becomes of a span.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It joins its caller's trace.
    Join,
    /// It begins this trace.
    Begin(TraceId),
    /// It is not taken down.
    Leave,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(low: u64) -> TraceId {
        TraceId((1_u128 << 64 | u128::from(low)).to_be_bytes())
    }

    #[test]
    fn none_all_and_some() {
        for low in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!Sampler::per_million(0).takes(trace(low)));
            assert!(Sampler::per_million(PER_MILLION_MAX).takes(trace(low)));
            assert!(Sampler::per_million(u32::MAX).takes(trace(low)));
        }
        // A quarter of the ids are below a quarter.
        let quarter = Sampler::per_million(250_000);
        assert!(quarter.takes(trace((1 << 62) - 1)));
        assert!(!quarter.takes(trace(1 << 62)));
    }

    #[test]
    fn a_caller_has_decided() {
        let span = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let caller = |flags: &str| Context::parse(&format!("00-{span}-{flags}"));
        let never = || panic!("no new trace");
        for rate in [0, PER_MILLION_MAX] {
            let sampler = Sampler::per_million(rate);
            assert_eq!(sampler.decide(caller("01").as_ref(), never), Decision::Join);
            assert_eq!(sampler.decide(caller("00").as_ref(), never), Decision::Leave);
        }
        assert_eq!(
            Sampler::per_million(PER_MILLION_MAX).decide(None, || trace(9)),
            Decision::Begin(trace(9))
        );
        assert_eq!(Sampler::per_million(0).decide(None, never), Decision::Leave);
    }
}
