//! Which endpoint a connection goes to.
//!
//! As SRV records want it (RFC 2782): of the active ones, those of the lowest priority; among them by weight, and one without weight once
//! in [`UNWEIGHTED_ONE_IN`]. Where none has a weight they take turns.

use std::hash::{BuildHasher as _, Hasher as _};

use super::Target;

/// Endpoints without weight, beside some that have one, get one connection in so many.
const UNWEIGHTED_ONE_IN: u64 = 100;

/// Who is active, and whose turn it is.
#[derive(Debug)]
pub(super) struct Table {
    /// One a target, in their order.
    active: Vec<bool>,
    turn: usize,
}

impl Table {
    /// All are active.
    pub(super) fn new(targets: &[Target]) -> Self {
        Self { active: vec![true; targets.len()], turn: 0 }
    }

    pub(super) fn set_active(&mut self, index: usize, is_active: bool) {
        if let Some(active) = self.active.get_mut(index) {
            *active = is_active;
        }
    }

    pub(super) fn inactive(&self) -> Vec<usize> {
        (0..self.active.len()).filter(|index| !self.active[*index]).collect()
    }

    /// The index of one that is active. `random` is any number.
    pub(super) fn pick(&mut self, targets: &[Target], random: u64) -> Option<usize> {
        let active = || targets.iter().enumerate().filter(|(index, _)| self.active[*index]);
        let priority = active().map(|(_, target)| target.priority).min()?;
        let (weighted, unweighted): (Vec<_>, Vec<_>) = active()
            .filter(|(_, target)| target.priority == priority)
            .partition(|(_, target)| target.weight > 0);
        let takes_turn = weighted.is_empty()
            || (!unweighted.is_empty() && random.is_multiple_of(UNWEIGHTED_ONE_IN));
        if takes_turn {
            let (index, _) = unweighted.get(self.turn % unweighted.len())?;
            self.turn = self.turn.wrapping_add(1);
            return Some(*index);
        }
        let total: u64 = weighted.iter().map(|(_, target)| u64::from(target.weight)).sum();
        let mut left = (random / UNWEIGHTED_ONE_IN) % total;
        for (index, target) in &weighted {
            let weight = u64::from(target.weight);
            if left < weight {
                return Some(*index);
            }
            left -= weight;
        }
        None
    }
}

/// A number that nobody needs to find hard to guess: the seed of a hash map.
pub(super) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(records: &[(u16, u16)]) -> Vec<Target> {
        let target = |&(priority, weight): &(u16, u16)| Target {
            host: "h".to_owned(),
            port: 1,
            priority,
            weight,
        };
        records.iter().map(target).collect()
    }

    #[test]
    fn endpoints_without_records_take_turns_and_failed_ones_none() {
        let targets = targets(&[(0, 0), (0, 0), (0, 0)]);
        let mut table = Table::new(&targets);
        let picks = |table: &mut Table, count: u64| -> Vec<_> {
            (0..count).map(|random| table.pick(&targets, random)).collect()
        };
        assert_eq!(picks(&mut table, 4), [Some(0), Some(1), Some(2), Some(0)]);
        table.set_active(1, false);
        assert!(!picks(&mut table, 10).contains(&Some(1)));
        assert_eq!(table.inactive(), [1]);
        table.set_active(0, false);
        table.set_active(2, false);
        assert_eq!(picks(&mut table, 1), [None]);
        table.set_active(1, true);
        assert_eq!(picks(&mut table, 1), [Some(1)]);
    }

    #[test]
    fn the_lowest_priority_serves_by_weight_until_all_of_it_failed() {
        let targets = targets(&[(1, 30), (1, 10), (2, 99), (1, 0)]);
        let mut table = Table::new(&targets);
        let mut counts = [0; 4];
        for random in 0..40 * UNWEIGHTED_ONE_IN {
            counts[table.pick(&targets, random).unwrap()] += 1;
        }
        // Of a hundred numbers one is for those without weight; the others fall as 30 to 10.
        assert_eq!(counts, [30 * 99, 10 * 99, 0, 40]);
        for index in [0, 1, 3] {
            table.set_active(index, false);
        }
        assert_eq!(table.pick(&targets, 5), Some(2));
    }
}
