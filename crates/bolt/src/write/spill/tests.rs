use super::*;
use crate::write::draft::Content;

const PAGE_SIZE: usize = 4096;

/// Items of the given lengths in a page, table elements included.
fn items(lengths: &[usize]) -> Vec<Item> {
    let slice = |len| Slice::of_len(u32::try_from(len).unwrap());
    lengths
        .iter()
        .map(|len| Item { key: slice(8), content: Content::Value(slice(len - ELEMENT_BYTES - 8)) })
        .collect()
}

fn check(lengths: &[usize], fill: f32, expected: &[usize]) {
    assert_eq!(split(&items(lengths), 0, PAGE_SIZE, fill), expected, "{lengths:?}");
}

#[test]
fn what_fits_a_page_stays_whole() {
    check(&[], 0.5, &[0]);
    check(&[100; 40], 0.5, &[40]);
    // Up to four items stay whole whatever their size, as in bbolt.
    check(&[3000; 4], 0.5, &[4]);
}

#[test]
fn parts_are_filled_up_to_the_percentage() {
    // 16 + 100 n <= 2048, 3686, 4096.
    check(&[100; 100], 0.5, &[20, 40, 60, 100]);
    check(&[100; 60], 0.9, &[36, 60]);
    check(&[100; 60], 1.0, &[40, 60]);
    // The rest has two items at least.
    check(&[100; 42], 1.0, &[40, 42]);
    check(&[98; 42], 1.0, &[40, 42]);
}

#[test]
fn values_larger_than_a_page_share_runs_that_are_used_well() {
    // 4.2 KiB: six of them use 26 of 28 KiB; in pairs they would use 8.4 of 12.
    check(&[4300; 20], 0.9, &[6, 12, 18, 20]);
    // Large ones stand alone: writing one of them again does not drag the next along.
    check(&[100_000; 3], 0.9, &[1, 2, 3]);
}

#[test]
fn element_count_fits_its_field() {
    let many = vec![25; 200_000];
    let ends = split(&items(&many), 0, 1 << 24, 1.0);
    assert_eq!(ends, [PAGE_ITEMS_MAX, 2 * PAGE_ITEMS_MAX, 3 * PAGE_ITEMS_MAX, 200_000]);
}

#[test]
fn a_full_page_that_is_appended_to_is_kept() {
    use crate::write::draft::Origin;
    let origin_of =
        |count| Origin { run: Run { start: PageId(9), pages: 1 }, count, intact: count };
    let node = |lengths: &[usize], count| {
        let mut node = Node::new(Kind::Leaf, items(lengths));
        node.origin = Some(origin_of(count));
        node
    };
    assert_eq!(full_origin_items(&node(&[100; 41], 40), PAGE_SIZE), 40);
    assert_eq!(full_origin_items(&node(&[100; 41], 30), PAGE_SIZE), 0, "there was room for more");
    let mut changed = node(&[100; 41], 40);
    changed.touch(5);
    assert_eq!(full_origin_items(&changed, PAGE_SIZE), 0, "an old item changed");
    assert_eq!(
        full_origin_items(&node(&[5000, 100], 1), PAGE_SIZE),
        0,
        "one item does not make a full page"
    );
    assert_eq!(full_origin_items(&node(&[50_000, 100], 1), PAGE_SIZE), 1, "unless it is large");
}

/// bbolt 1.4.3 panics ("parent must have at least 2 children") on a file with such a branch, when it merges the child. Found by
/// letting it change files of random histories.
#[test]
fn deletes_leave_no_branch_with_one_child() {
    let dir = vfs::sim::SimDisk::new().dir();
    let options =
        crate::Options { page_size: 512, grow_bytes: 1 << 16, sync: false, ..Default::default() };
    let db = Db::open(&dir, "db", &options).unwrap();
    let mut state = 1_u64;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % bound
    };
    for _ in 0..150 {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
        // Long keys: three or four children a branch, so many levels.
        let key = |number: u64| format!("{number:0120}");
        for _ in 0..random(120) {
            bucket.put(key(random(2000)).as_bytes(), b"value").unwrap();
        }
        let from = random(2000);
        for number in from..from + random(400) {
            if number % 50 != 0 {
                bucket.delete(key(number).as_bytes()).unwrap();
            }
        }
        tx.commit().unwrap();
        let tx = db.read();
        let mut todo: Vec<PageId> = match tx.bucket(b"b").unwrap().unwrap().root {
            crate::bucket::Root::Page(root) => vec![root],
            crate::bucket::Root::Inline(_) => Vec::new(),
        };
        while let Some(id) = todo.pop() {
            let page = tx.snapshot.page(id).unwrap();
            if page.kind == Kind::Branch {
                assert!(page.count >= 2, "page {} has one child", id.0);
                todo.extend((0..page.count).map(|at| page.child(at).unwrap()));
            } else {
                assert!(page.count > 0, "page {} is empty", id.0);
            }
        }
    }
}
