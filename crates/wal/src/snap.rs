//! Raft snapshot files: `member/snap/TERM-INDEX.snap`.
//!
//! ```text
//! snappb.Snapshot { crc: CRC-32C of data, data: raftpb.Snapshot { data: v2store document, metadata } }
//! ```
//!
//! A file counts only once the log has a record of its term and index, so it is saved first and recorded second. What
//! stands beside it in the folder: `db`, `INDEX.snap.db` (a backend from the leader), `tmp*` and `db.tmp*` (unfinished).
//!
//! Upstream: server/etcdserver/api/snap/snapshotter.go (3.5.30). Differs: a file is built beside and renamed, so that
//! saving the same snapshot again cannot damage it, and the folder is synced.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::{raftpb, snappb, walpb};
use vfs::{Dir, OpenMode};

use crate::Error;

/// Suffix of snapshot files.
const SNAP_SUFFIX: &str = ".snap";
/// Suffix of backends that came from the leader.
const DB_SUFFIX: &str = ".snap.db";
/// Largest file read: a v2store document holds members only, a few hundred bytes each.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A snapshot and the file it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Name of the file.
    pub name: String,
    /// What it holds.
    pub snapshot: raftpb::Snapshot,
}

/// What [`load_newest`] found.
#[derive(Debug, Default)]
pub struct Newest {
    /// The snapshot to start from; `None` when the log has to reach back to index 1.
    pub loaded: Option<Loaded>,
    /// Files that could not be read, each with the reason; they carry the suffix `.broken` now.
    pub broken: Vec<(String, String)>,
}

/// `TERM-INDEX.snap`, 16 hex digits each.
#[must_use]
pub fn file_name(term: u64, index: u64) -> String {
    format!("{term:016x}-{index:016x}{SNAP_SUFFIX}")
}

/// `INDEX.snap.db`: a backend that came from the leader and waits to become `db`.
#[must_use]
pub fn db_file_name(index: u64) -> String {
    format!("{index:016x}{DB_SUFFIX}")
}

/// Writes a snapshot file and makes it durable, name included. Afterwards the caller writes the record that vouches
/// for it ([`crate::Wal::save_snapshot`]). Returns the file's name; an empty snapshot (index 0) is not written.
pub fn save(dir: &Arc<dyn Dir>, snapshot: &raftpb::Snapshot) -> Result<Option<String>, Error> {
    save_encoded(dir, snapshot, &encode(snapshot))
}

/// Like [`save`], with the bytes that [`encode`] makes of the snapshot.
pub fn save_encoded(
    dir: &Arc<dyn Dir>,
    snapshot: &raftpb::Snapshot,
    encoded: &[u8],
) -> Result<Option<String>, Error> {
    if snapshot.metadata.index == 0 {
        return Ok(None);
    }
    let name = file_name(snapshot.metadata.term, snapshot.metadata.index);
    let path = path_of(dir, &name);
    // Unfinished ones begin with `tmp`: etcd removes those at start, and so does `remove_leftovers`.
    let building = format!("tmp-{}", name.trim_end_matches(SNAP_SUFFIX));
    let saved = write_durably(dir, &building, encoded, &path)
        .and_then(|()| dir.rename(&building, &name).map_err(Error::io(&path, "rename snapshot")));
    if saved.is_err() {
        // On a full disk the half of it would only be in the way. The first error is the one to report.
        let _ = dir.remove(&building);
    }
    saved?;
    sync_dir(dir)?;
    Ok(Some(name))
}

fn write_durably(dir: &Arc<dyn Dir>, name: &str, bytes: &[u8], path: &str) -> Result<(), Error> {
    let file = dir.open(name, OpenMode::Truncate).map_err(Error::io(path, "create snapshot"))?;
    file.write_at(bytes, 0).map_err(Error::io(path, "write snapshot"))?;
    file.sync_all().map_err(Error::io(path, "sync snapshot"))
}

/// The bytes of a snapshot file.
#[must_use]
pub fn encode(snapshot: &raftpb::Snapshot) -> Vec<u8> {
    let data = snapshot.encode_to_vec();
    snappb::Snapshot { crc: crc32c::crc32c(&data), data: Some(Bytes::from(data)) }.encode_to_vec()
}

/// Reads the bytes of a snapshot file. The error says what is wrong with them, in etcd's words where it has some.
pub fn decode(bytes: Bytes) -> Result<raftpb::Snapshot, String> {
    if bytes.is_empty() {
        return Err("snap: empty snapshot: the file is empty".to_owned());
    }
    let envelope =
        snappb::Snapshot::decode(bytes).map_err(|error| format!("no snappb.Snapshot: {error}"))?;
    let data = envelope.data.unwrap_or_default();
    if data.is_empty() || envelope.crc == 0 {
        return Err("snap: empty snapshot: no data or no checksum".to_owned());
    }
    let computed = crc32c::crc32c(&data);
    if computed != envelope.crc {
        return Err(format!(
            "snap: crc mismatch: {:08x} in the file, {computed:08x} computed",
            envelope.crc
        ));
    }
    raftpb::Snapshot::decode(data).map_err(|error| format!("no raftpb.Snapshot: {error}"))
}

/// Reads one snapshot file.
pub fn load(dir: &Arc<dyn Dir>, name: &str) -> Result<raftpb::Snapshot, Error> {
    let path = path_of(dir, name);
    let file = dir.open(name, OpenMode::Read).map_err(Error::io(&path, "open snapshot"))?;
    let len_bytes = file.len_bytes().map_err(Error::io(&path, "read length"))?;
    let corrupt = |what| Error::Corrupt { file: path.clone(), offset: 0, what };
    if len_bytes > FILE_BYTES_MAX {
        return Err(corrupt(format!("{len_bytes} bytes are above the limit of {FILE_BYTES_MAX}")));
    }
    let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(usize::MAX)];
    let count = file.read_at(&mut bytes, 0).map_err(Error::io(&path, "read snapshot"))?;
    bytes.truncate(count);
    decode(Bytes::from(bytes)).map_err(corrupt)
}

/// The newest readable snapshot that is among `valid` (from [`crate::valid_snapshots`]). Files whose content is damaged
/// are renamed to `.broken`; a file that the system cannot read is an error.
pub fn load_newest(dir: &Arc<dyn Dir>, valid: &[walpb::Snapshot]) -> Result<Newest, Error> {
    let mut newest = Newest::default();
    for name in names(dir)? {
        match load(dir, &name) {
            Ok(snapshot) => {
                let metadata = &snapshot.metadata;
                if valid
                    .iter()
                    .any(|record| record.index == metadata.index && record.term == metadata.term)
                {
                    newest.loaded = Some(Loaded { name, snapshot });
                    break;
                }
            }
            Err(Error::Corrupt { what, .. }) => {
                let path = path_of(dir, &name);
                dir.rename(&name, &format!("{name}.broken"))
                    .map_err(Error::io(path, "rename broken snapshot"))?;
                newest.broken.push((name, what));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(newest)
}

/// Names of the snapshot files, newest first.
pub fn names(dir: &Arc<dyn Dir>) -> Result<Vec<String>, Error> {
    let mut names = files(dir, |name| name.ends_with(SNAP_SUFFIX))?;
    names.reverse();
    Ok(names)
}

/// Removes what an interrupted download, save or defragmentation left (`tmp*`, `db.tmp*`). Returns the names.
pub fn remove_leftovers(dir: &Arc<dyn Dir>) -> Result<Vec<String>, Error> {
    let leftovers = files(dir, |name| name.starts_with("tmp") || name.starts_with("db.tmp"))?;
    remove_all(dir, leftovers)
}

/// Removes `.snap.db` files of snapshots before `index`: they were never used, and a newer state is in place.
pub fn remove_orphan_dbs(dir: &Arc<dyn Dir>, index: u64) -> Result<Vec<String>, Error> {
    let is_orphan = |name: &str| {
        let digits = name.strip_suffix(DB_SUFFIX).filter(|digits| digits.len() == 16);
        digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).is_some_and(|of| of < index)
    };
    let orphans = files(dir, is_orphan)?;
    remove_all(dir, orphans)
}

/// Keeps the `keep` newest `.snap` files of snapshots up to `vouched`, whose record in the log is durable; 0 keeps all. Returns the
/// names removed.
///
/// A file behind `vouched` was left by a crash before its record was durable: counted, it would take the place of one that has a
/// record. It stays until a later snapshot is vouched for.
///
/// Databases are not counted: several may have been received and wait to be installed one after the other, so that only
/// [`remove_orphan_dbs`] knows which are done with.
pub fn purge(dir: &Arc<dyn Dir>, keep: usize, vouched: u64) -> Result<Vec<String>, Error> {
    if keep == 0 {
        return Ok(Vec::new());
    }
    let is_vouched = |name: &str| {
        let index = name.strip_suffix(SNAP_SUFFIX).and_then(|name| name.split_once('-'));
        let index = index.and_then(|(_, index)| u64::from_str_radix(index, 16).ok());
        index.is_some_and(|index| index <= vouched)
    };
    let mut names = files(dir, is_vouched)?;
    names.truncate(names.len().saturating_sub(keep));
    remove_all(dir, names)
}

/// Names of files that are `wanted`, sorted; names begin with the term (or the index), so that is oldest first.
fn files(dir: &Arc<dyn Dir>, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let entries = dir.list().map_err(Error::io(dir.path().display(), "list"))?;
    Ok(entries
        .into_iter()
        .filter(|entry| !entry.is_dir && wanted(&entry.name))
        .map(|entry| entry.name)
        .collect())
}

fn remove_all(dir: &Arc<dyn Dir>, names: Vec<String>) -> Result<Vec<String>, Error> {
    for name in &names {
        dir.remove(name).map_err(Error::io(path_of(dir, name), "remove"))?;
    }
    if !names.is_empty() {
        sync_dir(dir)?;
    }
    Ok(names)
}

fn sync_dir(dir: &Arc<dyn Dir>) -> Result<(), Error> {
    dir.sync().map_err(Error::io(dir.path().display(), "sync directory"))
}

fn path_of(dir: &Arc<dyn Dir>, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use vfs::sim::{Fault, FaultKind, LoseAll, SimDisk};

    use super::*;

    fn snapshot(term: u64, index: u64) -> raftpb::Snapshot {
        raftpb::Snapshot {
            data: Some(Bytes::from_static(b"{\"Root\":{}}")),
            metadata: raftpb::SnapshotMetadata {
                conf_state: raftpb::ConfState { voters: vec![1], ..Default::default() },
                index,
                term,
            },
        }
    }

    fn record(term: u64, index: u64) -> walpb::Snapshot {
        walpb::Snapshot { index, term, conf_state: None }
    }

    fn list(disk: &SimDisk) -> Vec<String> {
        disk.dir().list().unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_saved_snapshot_survives_a_crash() {
        let disk = SimDisk::new();
        assert_eq!(save(&disk.dir(), &raftpb::Snapshot::default()).unwrap(), None);
        let name = save(&disk.dir(), &snapshot(2, 0x3d)).unwrap().unwrap();
        assert_eq!(name, "0000000000000002-000000000000003d.snap");
        disk.crash(&mut LoseAll);
        assert_eq!(load(&disk.dir(), &name).unwrap(), snapshot(2, 0x3d));
        assert_eq!(list(&disk), [name]);
    }

    #[test]
    fn the_newest_recorded_one_is_loaded() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        for (term, index) in [(1, 300), (2, 100), (2, 200), (3, 50)] {
            save(&dir, &snapshot(term, index)).unwrap();
        }
        let loaded = |valid: &[walpb::Snapshot]| {
            let loaded = load_newest(&dir, valid).unwrap().loaded;
            loaded.map(|loaded| (loaded.snapshot.metadata.term, loaded.snapshot.metadata.index))
        };
        assert_eq!(
            loaded(&[record(0, 0), record(1, 300), record(2, 100), record(2, 200)]),
            Some((2, 200))
        );
        assert_eq!(loaded(&[record(0, 0), record(1, 300), record(2, 300)]), Some((1, 300)));
        assert_eq!(loaded(&[record(0, 0)]), None);
    }

    #[test]
    fn damaged_files_are_set_aside() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        let good = save(&dir, &snapshot(1, 1)).unwrap().unwrap();
        let flipped = save(&dir, &snapshot(1, 2)).unwrap().unwrap();
        disk.flip_bit(&flipped, 8 * 20).unwrap();
        let empty = file_name(1, 3);
        dir.open(&empty, OpenMode::Create).unwrap();
        let nonsense = file_name(1, 4);
        dir.open(&nonsense, OpenMode::Create).unwrap().write_at(&[0xff; 40], 0).unwrap();
        let newest =
            load_newest(&dir, &[record(1, 1), record(1, 2), record(1, 3), record(1, 4)]).unwrap();
        assert_eq!(newest.loaded.unwrap().name, good);
        let broken: Vec<&String> = newest.broken.iter().map(|(name, _)| name).collect();
        assert_eq!(broken, [&nonsense, &empty, &flipped]);
        assert!(newest.broken[2].1.contains("crc mismatch"), "{:?}", newest.broken);
        let broken = |name: &String| format!("{name}.broken");
        assert_eq!(list(&disk), [good, broken(&flipped), broken(&empty), broken(&nonsense)]);
    }

    #[test]
    fn an_unreadable_file_is_not_taken_for_a_damaged_one() {
        let disk = SimDisk::new();
        let name = save(&disk.dir(), &snapshot(1, 1)).unwrap().unwrap();
        disk.inject(Fault::once(FaultKind::Read, 0));
        load_newest(&disk.dir(), &[record(1, 1)]).unwrap_err();
        assert_eq!(list(&disk), [name]);
    }

    #[test]
    fn a_failed_save_leaves_nothing_and_keeps_the_old_one() {
        let disk = SimDisk::new();
        let name = save(&disk.dir(), &snapshot(1, 1)).unwrap().unwrap();
        for kind in [FaultKind::Write, FaultKind::Sync] {
            disk.inject(Fault::once(kind, 0));
            save(&disk.dir(), &snapshot(1, 1)).unwrap_err();
            assert_eq!(list(&disk), std::slice::from_ref(&name));
            load(&disk.dir(), &name).unwrap();
        }
    }

    #[test]
    fn housekeeping() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        for index in 1..=4 {
            save(&dir, &snapshot(1, index)).unwrap();
            dir.open(&db_file_name(index), OpenMode::Create).unwrap();
        }
        for name in ["db", "tmp123", "db.tmp.7", "x.snap.broken", "zz.snap.db"] {
            dir.open(name, OpenMode::Create).unwrap();
        }
        assert_eq!(remove_leftovers(&dir).unwrap(), ["db.tmp.7", "tmp123"]);
        assert_eq!(remove_orphan_dbs(&dir, 3).unwrap(), [db_file_name(1), db_file_name(2)]);
        assert_eq!(purge(&dir, 0, 4).unwrap(), [""; 0]);
        // The fourth has no record: the third is the last that has one.
        assert_eq!(purge(&dir, 3, 3).unwrap(), [""; 0]);
        // A database that is not done with stays, however many there are.
        assert_eq!(purge(&dir, 2, 4).unwrap(), [file_name(1, 1), file_name(1, 2)]);
        assert_eq!(
            list(&disk),
            [
                file_name(1, 3),
                file_name(1, 4),
                db_file_name(3),
                db_file_name(4),
                "db".to_owned(),
                "x.snap.broken".to_owned(),
                "zz.snap.db".to_owned()
            ]
        );
    }
}
