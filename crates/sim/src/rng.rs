//! Chance, one stream a concern: a draw more in one does not shift the others.

use raft::SplitMix64;

/// A stream of draws, named by a seed and a label.
#[derive(Debug, Clone)]
pub(crate) struct Stream(SplitMix64);

impl Stream {
    pub(crate) fn new(seed: u64, label: &str) -> Self {
        // FNV-1a of the label; the first draw mixes it with the seed.
        let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut mixed = SplitMix64::new(seed ^ hash.rotate_left(32));
        let state = mixed.next_u64();
        Self(SplitMix64::new(state ^ hash))
    }

    /// All 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; zero if the bound is.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The bias is below 2^-30 for the bounds used here, minutes in microseconds at most.
        self.bits().checked_rem(bound).unwrap_or(0)
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True so many times in a million.
    pub(crate) fn chance_ppm(&mut self, ppm: u64) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.chance_ppm(percent * 10_000)
    }

    /// A span around `mean`: anything from nothing to twice as long.
    pub(crate) fn around(&mut self, mean: u64) -> u64 {
        1 + self.below(2 * mean)
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let place = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(place).copied()
    }

    /// The place of one of several weights, or none if all are zero.
    pub(crate) fn weighted(&mut self, weights: &[u64]) -> Option<usize> {
        let total: u64 = weights.iter().sum();
        let mut left = self.below(total);
        if total == 0 {
            return None;
        }
        weights.iter().position(|&weight| {
            let is_it = left < weight;
            left = left.wrapping_sub(if is_it { 0 } else { weight });
            is_it
        })
    }
}

/// Mixes a word into a hash.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Mixes bytes into a hash.
pub(crate) fn mix_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix(hash, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    hash
}
