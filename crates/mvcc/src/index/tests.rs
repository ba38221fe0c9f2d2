use std::collections::BTreeMap as Model;

use proptest::prelude::*;

use super::*;

/// Every change of every key, and the compaction, the way etcd's documentation tells it.
#[derive(Default, Clone, Debug)]
struct Naive {
    rows: Model<Vec<u8>, Vec<(Revision, bool)>>,
}

impl Naive {
    fn find(&self, key: &[u8], at: i64) -> Option<Found> {
        let rows = self.rows.get(key)?;
        let upto: Vec<_> = rows.iter().filter(|(revision, _)| revision.main <= at).collect();
        let &&(modified, is_tombstone) = upto.last()?;
        if is_tombstone {
            return None;
        }
        let life: Vec<_> =
            upto.iter().rev().take_while(|(_, is_tombstone)| !is_tombstone).collect();
        Some(Found { modified, created: life.last()?.0.main, version: life.len() as i64 })
    }

    fn visit(&self, range: KeyRange<'_>, at: i64) -> Vec<(Vec<u8>, Found)> {
        let keys = self.rows.keys().filter(|key| range.contains(key));
        keys.filter_map(|key| Some((key.clone(), self.find(key, at)?))).collect()
    }

    fn kept(&self, key: &[u8], at: i64) -> Option<Kept> {
        let (revision, is_tombstone) =
            *self.rows.get(key)?.iter().rfind(|(revision, _)| revision.main <= at)?;
        (!is_tombstone || revision.main == at).then_some(Kept { revision, is_tombstone })
    }
}

fn collect(index: &KeyIndex, range: KeyRange<'_>, at: i64) -> Vec<(Vec<u8>, Found)> {
    let mut seen = Vec::new();
    let _ = index.visit(range, at, &mut |key, found| {
        seen.push((key.to_vec(), found));
        ControlFlow::Continue(())
    });
    seen
}

fn compact(index: &mut KeyIndex, at: i64) {
    index.begin_compaction(at);
    let mut cursor = Box::default();
    while index.compact_leaves(&mut cursor, 2, at) {}
}

#[derive(Debug, Clone)]
enum Step {
    Put(u16),
    Delete(u16),
    Compact(u8),
    Check(u8),
}

fn key_of(number: u16) -> Vec<u8> {
    // Some long keys, so that leaves split by bytes too.
    let mut key = format!("k{number:x}").into_bytes();
    if number.is_multiple_of(97) {
        key.resize(9000, b'x');
    }
    key
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u16..400).prop_map(Step::Put),
        2 => (0u16..400).prop_map(Step::Delete),
        6 => (0u16..4).prop_map(Step::Put),
        3 => (0u16..4).prop_map(Step::Delete),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => any::<u8>().prop_map(Step::Check),
    ];
    proptest::collection::vec(step, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(48), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_history(steps in steps()) {
        let (mut index, mut naive) = (KeyIndex::default(), Naive::default());
        let (mut revision, mut compacted) = (1i64, 0i64);
        for step in steps {
            match step {
                Step::Put(number) => {
                    revision += 1;
                    let (key, at) = (key_of(number), Revision::first_of(revision));
                    let made = index.put(&key, at);
                    naive.rows.entry(key.clone()).or_default().push((at, false));
                    prop_assert_eq!(Some(made), index.find(&key, revision));
                }
                Step::Delete(number) => {
                    let key = key_of(number);
                    let existed = naive.find(&key, revision).is_some();
                    let at = Revision::first_of(revision + 1);
                    prop_assert_eq!(index.tombstone(&key, at), existed);
                    if existed {
                        revision += 1;
                        naive.rows.entry(key).or_default().push((at, true));
                    }
                }
                Step::Compact(part) => {
                    let at = compacted + (revision - compacted) * i64::from(part) / 255;
                    for key in naive.rows.keys() {
                        prop_assert_eq!(index.kept_at(key, at), naive.kept(key, at), "{:?} at {}", key, at);
                    }
                    let any = naive.rows.keys().any(|key| naive.kept(key, at).is_some());
                    prop_assert_eq!(index.keeps_any(at, true), any);
                    compact(&mut index, at);
                    compacted = at;
                    // What is gone must not be asked for again; what is left must still be there.
                    for key in naive.rows.keys() {
                        prop_assert_eq!(index.kept_at(key, at), naive.kept(key, at), "{:?} after {}", key, at);
                    }
                }
                Step::Check(part) => {
                    let at = compacted + (revision - compacted) * i64::from(part) / 255;
                    let (low, high) = (key_of(u16::from(part)), key_of(u16::from(part) * 3));
                    for range in [KeyRange::From(b""), KeyRange::Until(&low, &high), KeyRange::Single(&low)] {
                        prop_assert_eq!(collect(&index, range, at), naive.visit(range, at));
                    }
                }
            }
        }
        let live = naive.visit(KeyRange::From(b""), revision).len();
        prop_assert_eq!(index.live(), live);
        compact(&mut index, revision);
        let newest = naive.rows.values().filter(|rows| rows.last().is_some_and(|(last, dead)| !dead || last.main == revision));
        prop_assert_eq!(index.len(), newest.count());
    }

    #[test]
    fn restore_rebuilds_the_same_answers(steps in steps()) {
        let (mut index, mut rows) = (KeyIndex::default(), Vec::new());
        let mut revision = 1;
        for step in steps {
            let at = Revision::first_of(revision + 1);
            match step {
                Step::Put(number) => {
                    let made = index.put(&key_of(number), at);
                    rows.push((key_of(number), at, RestoredRow::Put { create_revision: made.created, version: made.version }));
                    revision += 1;
                }
                Step::Delete(number) => {
                    if index.tombstone(&key_of(number), at) {
                        rows.push((key_of(number), at, RestoredRow::Tombstone));
                        revision += 1;
                    }
                }
                Step::Compact(part) => {
                    let at = revision * i64::from(part) / 255;
                    rows.retain(|(key, revision, _)| revision.main > at || index.keeps(key, *revision, at));
                    compact(&mut index, at);
                }
                Step::Check(_) => {}
            }
        }
        let mut sorted = rows;
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut restored = KeyIndex::default();
        for (key, revision, row) in sorted {
            prop_assert!(restored.restore(&key, revision, row));
        }
        let from = index.forgotten();
        for at in from..=revision {
            let all = KeyRange::From(b"");
            prop_assert_eq!(collect(&restored, all, at), collect(&index, all, at), "at {}", at);
            prop_assert_eq!(restored.keeps_any(at, false), index.keeps_any(at, false));
        }
        prop_assert_eq!((restored.len(), restored.live()), (index.len(), index.live()));
    }
}

#[test]
fn compaction_keeps_a_tombstone_exactly_at_its_revision_until_the_next() {
    // The run in formats/backend.md against 3.5.30: a put at 3, deleted at 4; b put at 5, deleted at 6.
    let mut index = KeyIndex::default();
    index.put(b"a", Revision::first_of(3));
    index.tombstone(b"a", Revision::first_of(4));
    index.put(b"b", Revision::first_of(5));
    index.tombstone(b"b", Revision::first_of(6));
    index.put(b"c", Revision::first_of(7));

    let tombstone = |main| Some(Kept { revision: Revision::first_of(main), is_tombstone: true });
    assert_eq!(index.kept_at(b"a", 4), tombstone(4));
    compact(&mut index, 4);
    assert_eq!(index.len(), 3);
    assert_eq!(index.kept_at(b"a", 5), None);
    compact(&mut index, 5);
    assert_eq!(index.len(), 2);
    assert_eq!(index.kept_at(b"b", 6), tombstone(6));
    compact(&mut index, 7);
    assert_eq!(index.len(), 1);
}

#[test]
fn a_key_deleted_and_put_again_in_one_transaction_keeps_its_new_row() {
    let mut index = KeyIndex::default();
    index.put(b"b", Revision::new(2, 0));
    index.tombstone(b"b", Revision::new(3, 0));
    assert_eq!(
        index.put(b"b", Revision::new(3, 1)),
        Found { modified: Revision::new(3, 1), created: 3, version: 1 }
    );
    assert!(index.keeps(b"b", Revision::new(3, 0), 3));
    assert!(index.keeps(b"b", Revision::new(3, 1), 3));
    assert!(!index.keeps(b"b", Revision::new(2, 0), 3));
    compact(&mut index, 3);
    assert_eq!(
        index.find(b"b", 3),
        Some(Found { modified: Revision::new(3, 1), created: 3, version: 1 })
    );
    compact(&mut index, 4);
    assert_eq!(index.find(b"b", 4).map(|found| found.modified), Some(Revision::new(3, 1)));
}

#[test]
fn a_compacted_key_keeps_its_version_and_creation() {
    let mut index = KeyIndex::default();
    for main in 2..=9 {
        index.put(b"k", Revision::first_of(main));
    }
    compact(&mut index, 7);
    assert_eq!(
        index.find(b"k", 7),
        Some(Found { modified: Revision::first_of(7), created: 2, version: 6 })
    );
    assert_eq!(index.put(b"k", Revision::first_of(10)).version, 9);
}

#[test]
fn restore_refuses_rows_that_make_no_sense() {
    let mut index = KeyIndex::default();
    let put = RestoredRow::Put { create_revision: 2, version: 1 };
    assert!(index.restore(b"k", Revision::first_of(2), put));
    assert!(!index.restore(b"k", Revision::first_of(2), put));
    assert!(index.restore(b"k", Revision::first_of(3), RestoredRow::Tombstone));
    assert!(!index.restore(b"k", Revision::first_of(4), RestoredRow::Tombstone));
    assert!(index.restore(b"t", Revision::first_of(5), RestoredRow::Tombstone));
    assert_eq!(index.find(b"t", 9), None);
    // More changes in one transaction than fit the compact form.
    let far = Revision::new(6, 1 << 40);
    assert!(index.restore(b"far", far, RestoredRow::Put { create_revision: 6, version: 1 }));
    assert_eq!(index.find(b"far", 6).map(|found| found.modified), Some(far));
    compact(&mut index, 7);
    assert_eq!(index.find(b"far", 7).map(|found| found.modified), Some(far));
}

#[test]
fn a_key_costs_little_more_than_its_bytes() {
    let keys = 100_000u64;
    let (mut ascending, mut scattered) = (KeyIndex::default(), KeyIndex::default());
    for number in 0..keys {
        let revision = Revision::first_of(i64::try_from(number).unwrap() + 2);
        ascending.put(format!("/registry/key/{number:010}").as_bytes(), revision);
        // An odd multiplier visits every residue once, far apart.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        scattered.put(format!("/registry/key/{mixed:010}").as_bytes(), revision);
    }
    let per_key = |bytes: usize| bytes / usize::try_from(keys).unwrap();
    assert!(
        per_key(ascending.keys.heap_bytes()) <= 24 + 24,
        "{}",
        per_key(ascending.keys.heap_bytes())
    );
    assert!(
        per_key(scattered.keys.heap_bytes()) <= 2 * (24 + 20),
        "{}",
        per_key(scattered.keys.heap_bytes())
    );
}
