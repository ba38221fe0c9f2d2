//! The network: what happens to a message between two nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng::Stream;

/// How good the links are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quality {
    pub(crate) delay_us: (u64, u64),
    pub(crate) loss_ppm: u64,
    pub(crate) duplicate_ppm: u64,
    /// Whether messages on a link keep their order, as in a stream.
    pub(crate) is_ordered: bool,
}

/// The links between all nodes.
#[derive(Debug)]
pub(crate) struct Net {
    rng: Stream,
    delay_us: (u64, u64),
    loss_ppm: u64,
    /// More loss, for a while.
    pub(crate) extra_loss_ppm: u64,
    duplicate_ppm: u64,
    is_ordered: bool,
    /// Links that carry nothing, from and to.
    blocked: BTreeSet<(u64, u64)>,
    /// When the last message of a link arrives.
    last: BTreeMap<(u64, u64), u64>,
}

/// When a message arrives, if it does, and once more, if it does.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) arrives_us: Option<u64>,
    pub(crate) again_us: Option<u64>,
}

impl Net {
    pub(crate) fn new(seed: u64, quality: Quality) -> Self {
        let Quality { delay_us, loss_ppm, duplicate_ppm, is_ordered } = quality;
        Self {
            rng: Stream::new(seed, "net"),
            delay_us,
            loss_ppm,
            extra_loss_ppm: 0,
            duplicate_ppm,
            is_ordered,
            blocked: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    pub(crate) fn fate(&mut self, now_us: u64, from: u64, to: u64) -> Fate {
        if self.is_blocked(from, to) || self.rng.chance_ppm(self.loss_ppm + self.extra_loss_ppm) {
            return Fate::default();
        }
        let arrives_us = Some(self.arrival(now_us, from, to));
        let again_us =
            self.rng.chance_ppm(self.duplicate_ppm).then(|| self.arrival(now_us, from, to));
        Fate { arrives_us, again_us }
    }

    fn arrival(&mut self, now_us: u64, from: u64, to: u64) -> u64 {
        let arrives = now_us + self.rng.between(self.delay_us);
        if !self.is_ordered {
            return arrives;
        }
        let last = self.last.entry((from, to)).or_default();
        *last = arrives.max(*last);
        *last
    }

    pub(crate) fn is_blocked(&self, from: u64, to: u64) -> bool {
        !self.blocked.is_empty() && self.blocked.contains(&(from, to))
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        !self.blocked.is_empty()
    }

    pub(crate) fn block(&mut self, from: u64, to: u64) {
        self.blocked.insert((from, to));
    }

    /// All links work again; what was lost stays lost.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.extra_loss_ppm = 0;
    }

    /// No more mischief.
    pub(crate) fn calm(&mut self) {
        self.heal();
        self.loss_ppm = 0;
        self.duplicate_ppm = 0;
        self.delay_us = (self.delay_us.0, self.delay_us.1.min(20_000).max(self.delay_us.0));
    }
}
