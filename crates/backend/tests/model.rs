//! Random operations against plain maps: what a view saw when it was taken, it sees for ever.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;

use backend::schema::{Bucket, Revision, RowKey};
use backend::{CommitJob, DefragJob, Reader, View, Writer};
use bytes::Bytes;
use common::{Content, content, options, without_index};
use proptest::collection::vec;
use proptest::prelude::*;
use vfs::sim::SimDisk;

#[derive(Debug, Clone)]
enum Op {
    /// Rows of one transaction: a size each, odd ones as tombstones.
    PutRows(Vec<u16>),
    /// Of the rows that exist, the one at this place.
    DeleteRow(u16),
    DeleteAbsentRow(u16),
    Put(u8, u8, u16),
    Delete(u8, u8),
    Publish,
    TakeCommit,
    TakeDefrag,
    RunJob,
    View,
    DropView(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => vec(0..400_u16, 1..5).prop_map(Op::PutRows),
        1 => vec(0..9000_u16, 1..40).prop_map(Op::PutRows),
        4 => any::<u16>().prop_map(Op::DeleteRow),
        1 => any::<u16>().prop_map(Op::DeleteAbsentRow),
        5 => (0..9_u8, 0..8_u8, 0..300_u16).prop_map(|(b, k, v)| Op::Put(b, k, v)),
        3 => (0..9_u8, 0..8_u8).prop_map(|(b, k)| Op::Delete(b, k)),
        5 => Just(Op::Publish),
        4 => Just(Op::TakeCommit),
        1 => Just(Op::TakeDefrag),
        4 => Just(Op::RunJob),
        4 => Just(Op::View),
        3 => any::<u8>().prop_map(Op::DropView),
        1 => Just(Op::Reopen),
    ]
}

enum Job {
    Commit(CommitJob),
    Defrag(DefragJob),
}

struct World {
    disk: SimDisk,
    handles: Option<(Writer, Reader)>,
    next_main: i64,
    index: u64,
    /// What the writer sees, what readers see, what a commit took, what is durable; with the index of each.
    written: Content,
    published: Content,
    taken: (Content, u64),
    durable: (Content, u64),
    job: Option<Job>,
    views: Vec<(View, Content)>,
}

fn other_bucket(number: u8) -> Bucket {
    Bucket::ALL
        .into_iter()
        .filter(|bucket| *bucket != Bucket::Key)
        .nth(usize::from(number))
        .unwrap()
}

impl World {
    fn new() -> Self {
        let disk = SimDisk::new();
        let handles = Some(backend::open(&disk.dir(), &options()).unwrap());
        Self {
            disk,
            handles,
            next_main: 2,
            index: 0,
            written: Content::new(),
            published: Content::new(),
            taken: (Content::new(), 0),
            durable: (Content::new(), 0),
            job: None,
            views: Vec::new(),
        }
    }

    fn writer(&mut self) -> &mut Writer {
        &mut self.handles.as_mut().unwrap().0
    }

    fn reader(&self) -> &Reader {
        &self.handles.as_ref().unwrap().1
    }

    fn rows(&self) -> Vec<RowKey> {
        self.written
            .keys()
            .filter(|(bucket, _)| *bucket == Bucket::Key)
            .map(|(_, k)| RowKey::decode(k).unwrap())
            .collect()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::PutRows(sizes) => {
                let main = self.next_main;
                self.next_main += 1;
                for (sub, size) in sizes.iter().enumerate() {
                    let revision = Revision::new(main, i64::try_from(sub).unwrap());
                    let key = if size % 2 == 0 {
                        RowKey::put(revision)
                    } else {
                        RowKey::tombstone(revision)
                    };
                    let value = vec![u8::try_from(main % 256).unwrap(); usize::from(*size)];
                    self.writer().put_row(key, Bytes::from(value.clone()));
                    self.written.insert((Bucket::Key, key.encode().as_ref().to_vec()), value);
                }
            }
            Op::DeleteRow(place) => {
                let rows = self.rows();
                if !rows.is_empty() {
                    let key = rows[usize::from(*place) % rows.len()];
                    self.writer().delete_row(key);
                    self.written.remove(&(Bucket::Key, key.encode().as_ref().to_vec()));
                }
            }
            Op::DeleteAbsentRow(place) => {
                let key = RowKey::put(Revision::new(i64::from(*place) % self.next_main, 1000));
                self.writer().delete_row(key);
            }
            Op::Put(bucket, key, len) => {
                let bucket = other_bucket(*bucket);
                let (key, value) = (vec![b'k', *key], vec![*key; usize::from(*len)]);
                self.writer().put(bucket, Bytes::from(key.clone()), Bytes::from(value.clone()));
                self.written.insert((bucket, key), value);
            }
            Op::Delete(bucket, key) => {
                let bucket = other_bucket(*bucket);
                let key = vec![b'k', *key];
                self.writer().delete(bucket, Bytes::from(key.clone()));
                self.written.remove(&(bucket, key));
            }
            Op::Publish => {
                self.index += 1;
                let index = self.index;
                self.writer().set_consistent_index(index, 1);
                self.writer().publish();
                self.published = self.written.clone();
            }
            Op::TakeCommit => {
                let job = self.writer().take_commit();
                assert_eq!(job.is_some(), self.job.is_none());
                self.published = self.written.clone();
                if let Some(job) = job {
                    assert_eq!(job.consistent().index, self.index);
                    assert_eq!(self.writer().pending_ops(), 0);
                    self.taken = (self.written.clone(), self.index);
                    self.job = Some(Job::Commit(job));
                }
            }
            Op::TakeDefrag => {
                let job = self.writer().take_defrag();
                assert_eq!(job.is_some(), self.job.is_none());
                if let Some(job) = job {
                    self.job = Some(Job::Defrag(job));
                }
            }
            Op::RunJob => self.run_job(),
            Op::View => {
                let view = self.reader().view();
                self.views.push((view, self.published.clone()));
                let view = self.writer().view();
                self.views.push((view, self.written.clone()));
            }
            Op::DropView(place) => {
                if !self.views.is_empty() {
                    let place = usize::from(*place) % self.views.len();
                    let (view, model) = self.views.swap_remove(place);
                    check_view(&view, &model);
                }
            }
            Op::Reopen => {
                self.run_job();
                self.check_views();
                self.views.clear();
                self.handles = None;
                self.handles = Some(backend::open(&self.disk.dir(), &options()).unwrap());
                (self.written, self.index) = self.durable.clone();
                self.published = self.written.clone();
                let index = self.index;
                assert_eq!(self.writer().consistent().index, index);
            }
        }
        assert_eq!(self.handles.as_ref().unwrap().0.is_busy(), self.job.is_some());
    }

    fn run_job(&mut self) {
        match self.job.take() {
            None => {}
            Some(Job::Commit(job)) => {
                let index = job.consistent().index;
                assert_eq!(job.run().unwrap().consistent_index, index);
                self.durable = self.taken.clone();
            }
            Some(Job::Defrag(job)) => {
                let stats = job.run().unwrap();
                assert!(
                    stats.after.total_bytes
                        <= stats.before.total_bytes.max(stats.after.in_use_bytes + 8 * 4096)
                );
            }
        }
    }

    fn check_views(&self) {
        for (view, model) in &self.views {
            check_view(view, model);
        }
    }
}

fn check_view(view: &View, model: &Content) {
    assert_eq!(&without_index(content(view)), model);
    let rows: BTreeMap<RowKey, &Vec<u8>> = model
        .iter()
        .filter(|((bucket, _), _)| *bucket == Bucket::Key)
        .map(|((_, key), value)| (RowKey::decode(key).unwrap(), value))
        .collect();
    let mut reader = view.row_reader().unwrap();
    let there_and_back = rows.iter().chain(rows.iter().rev()).chain(rows.iter().step_by(2));
    for (key, value) in there_and_back {
        assert_eq!(&*reader.row(*key).unwrap().unwrap(), value.as_slice());
        if key.revision.main % 3 == 0 {
            let beside = Revision { sub: key.revision.sub + 500, ..key.revision };
            assert!(reader.row(RowKey::put(beside)).unwrap().is_none());
        }
    }
    for (key, value) in &rows {
        assert_eq!(&*view.row(*key).unwrap().unwrap(), value.as_slice());
        let other = RowKey { is_tombstone: !key.is_tombstone, ..*key };
        assert!(view.row(other).unwrap().is_none());
    }
    let mains: Vec<i64> = rows.keys().map(|key| key.revision.main).collect();
    let (first, last) = (mains.first().copied().unwrap_or(0), mains.last().copied().unwrap_or(0));
    let middle = first + (last - first) / 2;
    let bounds = [
        (Bound::Included(Revision::first_of(middle)), Bound::Unbounded),
        (Bound::Unbounded, Bound::Excluded(Revision::first_of(middle))),
        (Bound::Excluded(Revision::new(middle, 1)), Bound::Included(Revision::new(last, 0))),
        (Bound::Included(Revision::new(middle, 1)), Bound::Excluded(Revision::new(middle, 3))),
    ];
    for bounds in bounds {
        let found: Vec<RowKey> = view.rows(bounds).unwrap().map(|row| row.unwrap().0).collect();
        let expected: Vec<RowKey> = rows
            .keys()
            .filter(|key| std::ops::RangeBounds::contains(&bounds, &key.revision))
            .copied()
            .collect();
        assert_eq!(found, expected, "{bounds:?}");
    }
    for ((bucket, key), value) in model {
        assert_eq!(&*view.get(*bucket, key).unwrap().unwrap(), value.as_slice());
    }
    for bucket in Bucket::ALL {
        assert!(view.get(bucket, b"none").unwrap().is_none());
        if bucket != Bucket::Key {
            let (start, end) = (vec![b'k', 2], vec![b'k', 6]);
            let found: Vec<Vec<u8>> = view
                .scan(bucket, &start, Some(&end))
                .unwrap()
                .map(|row| row.unwrap().0.to_vec())
                .collect();
            let expected: Vec<Vec<u8>> = model
                .range((bucket, start)..(bucket, end))
                .map(|((_, key), _)| key.clone())
                .collect();
            assert_eq!(found, expected);
        }
    }
}

/// `BACKEND_MODEL_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("BACKEND_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_keep_what_they_saw(ops in vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.apply(&Op::View);
        world.check_views();
        world.run_job();
        world.check_views();
        prop_assert_eq!(world.reader().view().check(), []);
    }
}
