//! What every implementation of [`Dir`] and [`File`] must do, as functions that its tests call.
//!
//! Each case gets an empty directory of its own, and panics when the implementation is wrong. The error of a case is
//! one that should not have happened.

use std::io;
use std::sync::Arc;

use crate::{Dir, Entry, File, Lock, OpenMode};

/// One check, on an empty directory.
pub type Case = fn(&Arc<dyn Dir>) -> io::Result<()>;

/// All checks, by name.
pub const CASES: &[(&str, Case)] = &[
    ("open_modes", open_modes),
    ("names_are_plain", names_are_plain),
    ("listing_is_sorted_and_tells_directories", listing_is_sorted_and_tells_directories),
    ("reads_stop_at_the_end", reads_stop_at_the_end),
    ("writes_grow_and_leave_zeros", writes_grow_and_leave_zeros),
    ("truncation_forgets", truncation_forgets),
    ("allocation_grows_and_never_shrinks", allocation_grows_and_never_shrinks),
    ("handles_follow_renames", handles_follow_renames),
    ("rename_replaces_files_only", rename_replaces_files_only),
    ("removed_files_stay_open", removed_files_stay_open),
    ("directories", directories),
    ("record_locks", record_locks),
    ("flocks", flocks),
    ("read_only_handles_refuse_writes", read_only_handles_refuse_writes),
    ("maps_show_the_content", maps_show_the_content),
    ("syncs_are_quiet", syncs_are_quiet),
];

/// Runs all cases, each in a new subdirectory of `dir`.
pub fn run(dir: &Arc<dyn Dir>) {
    for (name, case) in CASES {
        let outcome = dir.create_subdir(name).and_then(|dir| case(&dir));
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
}

fn content(file: &Arc<dyn File>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; usize::try_from(file.len_bytes()?).unwrap_or(usize::MAX)];
    let count = file.read_at(&mut bytes, 0)?;
    assert_eq!(count, bytes.len(), "a read over the whole file fills the buffer");
    Ok(bytes)
}

fn names(dir: &Arc<dyn Dir>) -> io::Result<Vec<String>> {
    Ok(dir.list()?.into_iter().map(|entry| entry.name).collect())
}

fn fails_with<T: std::fmt::Debug>(result: io::Result<T>, kind: io::ErrorKind) {
    assert_eq!(result.expect_err("an error").kind(), kind);
}

fn open_modes(dir: &Arc<dyn Dir>) -> io::Result<()> {
    fails_with(dir.open("a", OpenMode::Read), io::ErrorKind::NotFound);
    fails_with(dir.open("a", OpenMode::ReadWrite), io::ErrorKind::NotFound);
    let file = dir.open("a", OpenMode::Create)?;
    file.write_at(b"abc", 0)?;
    assert_eq!(
        content(&dir.open("a", OpenMode::Create)?)?,
        b"abc",
        "opening to create keeps what is there"
    );
    assert_eq!(content(&dir.open("a", OpenMode::Read)?)?, b"abc");
    assert_eq!(dir.open("a", OpenMode::Truncate)?.len_bytes()?, 0);
    assert_eq!(file.len_bytes()?, 0, "another handle sees the truncation");
    dir.open("b", OpenMode::Truncate)?;
    assert_eq!(names(dir)?, ["a", "b"]);
    Ok(())
}

fn names_are_plain(dir: &Arc<dyn Dir>) -> io::Result<()> {
    for name in ["", ".", "..", "a/b", "/a", "a\0b"] {
        fails_with(dir.open(name, OpenMode::Create), io::ErrorKind::InvalidInput);
        fails_with(dir.subdir(name), io::ErrorKind::InvalidInput);
        fails_with(dir.create_subdir(name), io::ErrorKind::InvalidInput);
        fails_with(dir.remove(name), io::ErrorKind::InvalidInput);
        fails_with(dir.remove_subdir(name), io::ErrorKind::InvalidInput);
        fails_with(dir.rename(name, "x"), io::ErrorKind::InvalidInput);
        fails_with(dir.rename("x", name), io::ErrorKind::InvalidInput);
    }
    assert_eq!(names(dir)?, [""; 0]);
    Ok(())
}

fn listing_is_sorted_and_tells_directories(dir: &Arc<dyn Dir>) -> io::Result<()> {
    dir.open("b", OpenMode::Create)?;
    dir.create_subdir("c")?;
    dir.open("a", OpenMode::Create)?;
    let entry = |name: &str, is_dir| Entry { name: name.to_owned(), is_dir };
    assert_eq!(dir.list()?, [entry("a", false), entry("b", false), entry("c", true)]);
    Ok(())
}

fn reads_stop_at_the_end(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    let mut buf = [0xee; 8];
    assert_eq!(file.read_at(&mut buf, 0)?, 0);
    file.write_at(b"hello", 0)?;
    assert_eq!(file.read_at(&mut buf, 2)?, 3);
    assert_eq!(&buf[..3], b"llo");
    assert_eq!(file.read_at(&mut buf, 5)?, 0);
    assert_eq!(file.read_at(&mut buf, 1000)?, 0);
    assert_eq!(file.read_at(&mut buf[..0], 0)?, 0);
    Ok(())
}

fn writes_grow_and_leave_zeros(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    file.write_at(b"xyz", 10_000)?;
    assert_eq!(file.len_bytes()?, 10_003);
    let bytes = content(&file)?;
    assert!(bytes[..10_000].iter().all(|&byte| byte == 0));
    assert_eq!(&bytes[10_000..], b"xyz");
    file.write_at(b"", 20_000)?;
    assert_eq!(file.len_bytes()?, 10_003, "an empty write changes nothing");
    Ok(())
}

fn truncation_forgets(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    file.write_at(&[7; 10_000], 0)?;
    file.set_len(5)?;
    file.set_len(9_000)?;
    let bytes = content(&file)?;
    assert_eq!(bytes.len(), 9_000);
    assert_eq!(&bytes[..5], [7; 5]);
    assert!(bytes[5..].iter().all(|&byte| byte == 0), "what was cut off does not come back");
    Ok(())
}

fn allocation_grows_and_never_shrinks(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    file.write_at(b"abc", 0)?;
    file.allocate(100_000)?;
    assert_eq!(file.len_bytes()?, 100_000);
    file.allocate(10)?;
    assert_eq!(file.len_bytes()?, 100_000);
    let bytes = content(&file)?;
    assert_eq!(&bytes[..3], b"abc");
    assert!(bytes[3..].iter().all(|&byte| byte == 0));
    file.allocate(0)?;
    Ok(())
}

fn handles_follow_renames(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let sub = dir.create_subdir("d.tmp")?;
    let file = sub.open("0.tmp", OpenMode::Create)?;
    sub.rename("0.tmp", "0.wal")?;
    dir.rename("d.tmp", "d")?;
    file.write_at(b"abc", 0)?;
    sub.open("1.wal", OpenMode::Create)?;
    let sub = dir.subdir("d")?;
    assert_eq!(names(&sub)?, ["0.wal", "1.wal"]);
    assert_eq!(content(&sub.open("0.wal", OpenMode::Read)?)?, b"abc");
    fails_with(dir.rename("nothing", "x"), io::ErrorKind::NotFound);
    Ok(())
}

fn rename_replaces_files_only(dir: &Arc<dyn Dir>) -> io::Result<()> {
    dir.open("a", OpenMode::Create)?.write_at(b"new", 0)?;
    let old = dir.open("b", OpenMode::Create)?;
    old.write_at(b"old", 0)?;
    dir.rename("a", "b")?;
    assert_eq!(names(dir)?, ["b"]);
    assert_eq!(content(&dir.open("b", OpenMode::Read)?)?, b"new");
    assert_eq!(content(&old)?, b"old", "a handle of the replaced file keeps it");
    dir.create_subdir("full")?.open("x", OpenMode::Create)?;
    assert!(dir.rename("b", "full").is_err());
    dir.create_subdir("other")?;
    assert!(dir.rename("other", "full").is_err());
    assert_eq!(names(dir)?, ["b", "full", "other"]);
    Ok(())
}

fn removed_files_stay_open(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    dir.remove("a")?;
    dir.sync()?;
    file.write_at(b"abc", 0)?;
    assert_eq!(content(&file)?, b"abc");
    assert_eq!(names(dir)?, [""; 0]);
    fails_with(dir.remove("a"), io::ErrorKind::NotFound);
    assert_eq!(
        dir.open("a", OpenMode::Create)?.len_bytes()?,
        0,
        "a new file of the old name is another one"
    );
    Ok(())
}

fn directories(dir: &Arc<dyn Dir>) -> io::Result<()> {
    fails_with(dir.subdir("d"), io::ErrorKind::NotFound);
    let sub = dir.create_subdir("d")?;
    sub.create_subdir("e")?.open("x", OpenMode::Create)?;
    dir.create_subdir("d")?;
    assert_eq!(names(&dir.subdir("d")?)?, ["e"], "creating it again only opens it");
    assert!(dir.open("d", OpenMode::Read).is_err(), "a directory is no file");
    assert!(dir.remove("d").is_err(), "a directory is not removed like a file");
    dir.open("f", OpenMode::Create)?;
    assert!(dir.subdir("f").is_err(), "a file is no directory");
    dir.remove_subdir("d")?;
    assert_eq!(names(dir)?, ["f"]);
    fails_with(dir.remove_subdir("d"), io::ErrorKind::NotFound);
    Ok(())
}

fn record_locks(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let first = dir.open("a", OpenMode::Create)?;
    let second = dir.open("a", OpenMode::ReadWrite)?;
    assert!(first.try_lock(Lock::Record)?);
    assert!(first.try_lock(Lock::Record)?, "the holder may ask again");
    assert!(!second.try_lock(Lock::Record)?, "another handle of the same process is somebody else");
    assert!(second.try_lock(Lock::Exclusive)?, "the two kinds do not see each other");
    first.unlock(Lock::Record)?;
    assert!(second.try_lock(Lock::Record)?);
    drop(second);
    assert!(first.try_lock(Lock::Record)?, "closing releases");
    Ok(())
}

fn flocks(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let first = dir.open("a", OpenMode::Create)?;
    let second = dir.open("a", OpenMode::Read)?;
    assert!(first.try_lock(Lock::Shared)?);
    assert!(second.try_lock(Lock::Shared)?);
    assert!(!second.try_lock(Lock::Exclusive)?);
    first.unlock(Lock::Shared)?;
    assert!(second.try_lock(Lock::Exclusive)?);
    assert!(!first.try_lock(Lock::Shared)?);
    drop(second);
    assert!(first.try_lock(Lock::Exclusive)?, "closing releases");
    Ok(())
}

fn read_only_handles_refuse_writes(dir: &Arc<dyn Dir>) -> io::Result<()> {
    dir.open("a", OpenMode::Create)?.write_at(b"abc", 0)?;
    let file = dir.open("a", OpenMode::Read)?;
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err());
    assert!(file.allocate(10).is_err());
    assert!(
        file.try_lock(Lock::Record).is_err(),
        "a record lock for writing needs a handle for writing"
    );
    assert_eq!(content(&file)?, b"abc");
    Ok(())
}

fn maps_show_the_content(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    assert_eq!(file.map(0)?.bytes(), b"");
    file.write_at(&[1; 5000], 0)?;
    let map = file.map(5000)?;
    assert!(map.bytes() == [1; 5000]);
    file.write_at(&[2; 100], 0)?;
    assert_eq!(map.bytes()[0], if map.is_live() { 2 } else { 1 });
    let map = file.map(1 << 20)?;
    assert_eq!(
        map.bytes()[..101],
        [&[2; 100][..], &[1]].concat(),
        "a view may reach behind the end"
    );
    let reader = dir.open("a", OpenMode::Read)?;
    assert_eq!(reader.map(3)?.bytes(), [2; 3]);
    Ok(())
}

fn syncs_are_quiet(dir: &Arc<dyn Dir>) -> io::Result<()> {
    let file = dir.open("a", OpenMode::Create)?;
    file.write_at(b"abc", 0)?;
    file.sync_data()?;
    file.sync_all()?;
    dir.sync()?;
    assert_eq!(content(&file)?, b"abc");
    Ok(())
}
