//! Chance, injected: the core draws nothing but the jitter of its election timeout.

/// A source of numbers. The simulator seeds it, so that a run can be repeated.
pub trait Rng: Send {
    /// Returns a number in `0..bound`; `bound` is at least one.
    fn below(&mut self, bound: u32) -> u32;
}

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, good enough to spread election timeouts.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts a sequence that is the same for the same seed. Members of one group need different seeds.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Rng for SplitMix64 {
    fn below(&mut self, bound: u32) -> u32 {
        // Multiply-shift maps 32 random bits onto the range; the bias is below 2^-20 for any timeout we use.
        let bits = self.next_u64() >> 32;
        u32::try_from((bits * u64::from(bound)) >> 32).unwrap_or(0)
    }
}
