//! What the hot operations cost. Not a check: `cargo test --release -p backend --test cost -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures")]

mod common;

use std::hint::black_box;
use std::time::Instant;

use backend::schema::{Revision, RowKey};
use bytes::Bytes;
use vfs::real::RealDir;

#[test]
#[ignore = "prints figures"]
fn cost_of_puts_views_and_gets() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::open(folder.path()).unwrap();
    let options = backend::Options { sync: false, ..backend::Options::default() };
    let (mut writer, reader) = backend::open(&dir, &options).unwrap();
    const ROUNDS: i64 = 50;
    const ROWS: i64 = 10_000;
    let value = Bytes::from(vec![7; 300]);
    let (mut puts, mut commits, mut written) = (0, 0, 0);
    for round in 0..ROUNDS {
        let begin = Instant::now();
        for row in 0..ROWS {
            writer.put_row(RowKey::put(Revision::first_of(round * ROWS + row)), value.clone());
            writer.publish();
        }
        puts += begin.elapsed().as_nanos();
        let begin = Instant::now();
        written += writer.take_commit().unwrap().run().unwrap().bytes_written;
        commits += begin.elapsed().as_nanos();
    }
    let rows = u128::try_from(ROUNDS * ROWS).unwrap();
    println!("put, publish      {:6} ns", puts / rows);
    println!("commit, a row     {:6} ns, {} bytes", commits / rows, u128::from(written) / rows);
    for row in 0..ROWS {
        writer.put_row(RowKey::put(Revision::first_of(ROUNDS * ROWS + row)), value.clone());
    }
    writer.publish();
    let time = |what: &str, count: u128, body: &mut dyn FnMut(i64)| {
        let begin = Instant::now();
        for number in 0..i64::try_from(count).unwrap() {
            body(number);
        }
        println!("{what:17} {:6} ns", begin.elapsed().as_nanos() / count);
    };
    time("view", 1_000_000, &mut |_| drop(black_box(reader.view())));
    let view = reader.view();
    let mut seed = 1_i64;
    let mut next = move |below: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).rem_euclid(below)
    };
    time("get, tree", 1_000_000, &mut |_| {
        let key = RowKey::put(Revision::first_of(next(ROUNDS * ROWS)));
        assert_eq!(black_box(view.row(key).unwrap().unwrap()).len(), 300);
    });
    let mut reader_of_rows = view.row_reader().unwrap();
    time("reader, random", 1_000_000, &mut |_| {
        let key = RowKey::put(Revision::first_of(next(ROUNDS * ROWS)));
        assert_eq!(black_box(reader_of_rows.row(key).unwrap().unwrap()).len(), 300);
    });
    time("reader, in order", 500_000, &mut |number| {
        let key = RowKey::put(Revision::first_of(number));
        assert_eq!(black_box(reader_of_rows.row(key).unwrap().unwrap()).len(), 300);
    });
    time("reader, 2000 rows", 1_000_000, &mut |_| {
        let key = RowKey::put(Revision::first_of(next(2000)));
        assert_eq!(black_box(reader_of_rows.row(key).unwrap().unwrap()).len(), 300);
    });
    time("get, buffer", 1_000_000, &mut |_| {
        let key = RowKey::put(Revision::first_of(ROUNDS * ROWS + next(ROWS)));
        assert_eq!(black_box(view.row(key).unwrap().unwrap()).len(), 300);
    });
    let begin = Instant::now();
    let count = view.rows(..).unwrap().map(|row| row.unwrap().1.len()).sum::<usize>() / 300;
    println!(
        "scan, a row       {:6} ns",
        begin.elapsed().as_nanos() / u128::try_from(count).unwrap()
    );
    let begin = Instant::now();
    let stats = writer.take_defrag().unwrap().run().unwrap();
    println!("defrag, a row     {:6} ns ({:?})", begin.elapsed().as_nanos() / rows, stats);
}
