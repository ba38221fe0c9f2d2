use std::collections::BTreeSet;

use super::*;

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

#[test]
fn bits_are_a_set() {
    let mut bits = PageBits::default();
    let mut model = BTreeSet::new();
    let pages = 20_000;
    bits.grow(pages);
    let mut state = 1;
    for step in 0..20_000 {
        let page = random(&mut state) % pages;
        if !random(&mut state).is_multiple_of(3) {
            assert_eq!(bits.insert(page), model.insert(page));
        } else {
            assert_eq!(bits.remove(page), model.remove(&page));
        }
        let from = random(&mut state) % pages;
        assert_eq!(bits.next(from), model.range(from..).next().copied(), "step {step}");
        assert_eq!(bits.contains(from), model.contains(&from));
    }
    assert_eq!(bits.count(), model.len() as u64);
    assert!(bits.iter().eq(model.iter().copied()));
    // The lowest run, by the definition.
    for pages in 1..12 {
        let run = |&start: &u64| (start..start + pages).all(|page| model.contains(&page));
        assert_eq!(bits.find_run(pages, 0), model.iter().copied().find(run), "{pages} pages");
    }
    assert_eq!(bits.find_run(5000, 0), None);
    assert_eq!(bits.next(u64::MAX), None);
    assert!(!bits.insert(u64::MAX) && !bits.contains(u64::MAX));
}

fn space(used: &[u64], high_water: u64) -> Space {
    let mut bits = PageBits::default();
    bits.grow(high_water);
    for &page in used {
        bits.insert(page);
    }
    Space::new(&bits, PageId(high_water), TxId(10))
}

fn run(start: u64, pages: u64) -> Run {
    Run { start: PageId(start), pages }
}

#[test]
fn lowest_fit_first_then_growth() {
    let mut space = space(&[4, 8], 12);
    // Free: 2 3, 5 6 7, 9 10 11.
    assert_eq!(space.allocate(3, TxId(11)), PageId(5));
    assert_eq!(space.allocate(1, TxId(11)), PageId(2));
    assert_eq!(space.allocate(2, TxId(11)), PageId(9));
    assert_eq!(space.allocate(2, TxId(11)), PageId(12), "3 and 11 are no run");
    assert_eq!(space.allocate(1, TxId(11)), PageId(3));
    assert_eq!(space.allocate(1, TxId(11)), PageId(11));
    assert_eq!(space.allocate(1, TxId(11)), PageId(14));
    assert_eq!((space.high_water(), space.free_pages()), (PageId(15), 0));
}

#[test]
fn freed_pages_wait_for_the_readers_of_their_states() {
    let mut space = space(&[2, 3, 4, 5], 6);
    space.free(run(2, 2), TxId(11)).unwrap();
    assert_eq!((space.free_pages(), space.pending_pages()), (0, 2));
    // State 10 reaches them and is being read.
    space.release(&[TxId(10)]);
    assert_eq!((space.free_pages(), space.pending_pages()), (0, 2));
    // Born in 12, freed by 13: a reader of 10 never saw it.
    let page = space.allocate(1, TxId(12));
    space.free(Run { start: page, pages: 1 }, TxId(13)).unwrap();
    space.release(&[TxId(10)]);
    assert_eq!((space.free_pages(), space.pending_pages()), (1, 2));
    // A reader of 11 or later has no claim on what 11 freed.
    space.release(&[TxId(11), TxId(12)]);
    assert_eq!((space.free_pages(), space.pending_pages()), (3, 0));
}

#[test]
fn a_run_waits_for_the_newest_reader_then_the_next() {
    let mut space = space(&[2], 3);
    space.free(run(2, 1), TxId(20)).unwrap();
    for readers in [&[TxId(12), TxId(15), TxId(30)][..], &[TxId(12), TxId(30)], &[TxId(12)]] {
        space.release(readers);
        assert_eq!(space.pending_pages(), 1, "{readers:?}");
    }
    space.release(&[TxId(30)]);
    assert_eq!((space.free_pages(), space.pending_pages()), (1, 0));
}

#[test]
fn freeing_twice_or_outside_is_refused() {
    let mut space = space(&[2, 3], 5);
    space.free(run(2, 1), TxId(11)).unwrap();
    for bad in [run(2, 1), run(4, 1), run(1, 1), run(3, 3), run(3, u64::MAX)] {
        assert!(space.free(bad, TxId(11)).is_err(), "{bad:?}");
    }
}
