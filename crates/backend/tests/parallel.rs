//! Threads: one writes, one commits, others read, on real files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use backend::schema::{Bucket, Revision, RowKey, meta};
use bytes::Bytes;
use vfs::real::RealDir;

/// Each entry puts two rows with its number and the number into `meta`; a view must show all of an entry or nothing.
#[test]
fn readers_see_whole_entries_while_commits_run() {
    /// More are written until the readers, which share few processors with the writer, have seen something of it.
    const ENTRIES_MIN: i64 = 6000;
    const VIEWS_MIN: u64 = 400;
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::open(folder.path()).unwrap();
    let (mut writer, reader) = backend::open(&dir, &common::options()).unwrap();
    let has_ended = AtomicBool::new(false);
    let views = AtomicU64::new(0);
    let mut main = 0;
    std::thread::scope(|scope| {
        let (jobs, inbox) = mpsc::channel::<backend::CommitJob>();
        scope.spawn(move || {
            for job in inbox {
                job.run().unwrap();
            }
        });
        for _ in 0..2 {
            let reader = reader.clone();
            let (has_ended, views) = (&has_ended, &views);
            scope.spawn(move || {
                let mut last = 0;
                while !has_ended.load(Ordering::Relaxed) {
                    let view = reader.view();
                    let seen = meta::scheduled_compaction(&view).unwrap().unwrap_or(0);
                    assert!(seen >= last, "time does not go back");
                    last = seen;
                    let at = |main, sub| {
                        view.row(RowKey::put(Revision::new(main, sub)))
                            .unwrap()
                            .map(|v| v.to_bytes())
                    };
                    if seen > 0 {
                        assert_eq!(at(seen, 0).unwrap(), seen.to_string());
                        assert_eq!(at(seen, 1).unwrap(), seen.to_string());
                        let early = 1 + seen / 2;
                        assert_eq!(at(early, 0).unwrap(), early.to_string());
                    }
                    assert_eq!(at(seen + 1, 0), None);
                    let from = seen.saturating_sub(20);
                    let rows = view
                        .rows(Revision::new(from, 1)..)
                        .unwrap()
                        .map(|row| row.unwrap().0.revision);
                    let expected = (from.max(1)..=seen)
                        .flat_map(|main| [Revision::new(main, 0), Revision::new(main, 1)]);
                    assert!(
                        rows.eq(expected.filter(|revision| *revision >= Revision::new(from, 1)))
                    );
                    views.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while main < ENTRIES_MIN || views.load(Ordering::Relaxed) < VIEWS_MIN {
            main += 1;
            let value = Bytes::from(main.to_string());
            writer.put_row(RowKey::put(Revision::new(main, 0)), value.clone());
            meta::put_scheduled_compaction(&mut writer, main);
            writer.put_row(RowKey::put(Revision::new(main, 1)), value);
            writer.set_consistent_index(u64::try_from(main).unwrap(), 1);
            writer.publish();
            if writer.pending_ops() > 100
                && let Some(job) = writer.take_commit()
            {
                jobs.send(job).unwrap();
            }
        }
        has_ended.store(true, Ordering::Relaxed);
    });
    writer.take_commit().unwrap().run().unwrap();
    drop((writer, reader));
    let (writer, reader) = backend::open(&dir, &common::options()).unwrap();
    assert_eq!(writer.consistent().index, u64::try_from(main).unwrap());
    assert_eq!(reader.view().rows(..).unwrap().count(), 2 * usize::try_from(main).unwrap());
    assert_eq!(reader.view().scan(Bucket::Meta, &[], None).unwrap().count(), 3);
}
