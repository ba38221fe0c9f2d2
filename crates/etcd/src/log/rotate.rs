//! A log file that is put aside when it has grown: `--enable-log-rotation`.
//!
//! ```text
//! etcd.log                              what is written to
//! etcd-2026-11-22T15-28-10.502.log      put aside at that time
//! etcd-2026-11-22T15-28-10.502.log.gz   the same with "compress"
//! ```
//!
//! Files that were put aside are deleted when there are more than `maxbackups`, or when they are older than `maxage` days;
//! packing and deleting is done by a thread of its own, so that no line waits for it. A file that cannot be put aside goes on
//! growing: losing lines would be worse.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::Deserialize;

const MIB: u64 = 1024 * 1024;
/// What `maxsize` 0 means.
const MAX_SIZE_DEFAULT_MIB: u64 = 100;
/// Who may read a new file: its owner, as with etcd.
const MODE: u32 = 0o600;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How files are rotated, with the keys of `--log-rotation-config-json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Size in MiB beyond which a file is put aside; 0 is 100.
    maxsize: u64,
    /// Days that a file is kept; 0 is for ever.
    maxage: u64,
    /// Files that are kept; 0 is all.
    maxbackups: usize,
    /// Whether names have local time instead of UTC.
    localtime: bool,
    /// Whether files that were put aside are packed.
    compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { maxsize: 100, maxage: 0, maxbackups: 0, localtime: false, compress: false }
    }
}

/// A file with its rotation.
#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    rotation: Rotation,
    max_bytes: u64,
    file: File,
    len_bytes: u64,
    /// What packs and deletes; at most one at a time.
    cleaner: Option<std::thread::JoinHandle<()>>,
}

impl Rotating {
    /// Opens the file to append to.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let mib = if rotation.maxsize == 0 { MAX_SIZE_DEFAULT_MIB } else { rotation.maxsize };
        Self::open_with(path, rotation, mib.saturating_mul(MIB))
    }

    fn open_with(path: &Path, rotation: Rotation, max_bytes: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            fs::create_dir_all(folder)?;
        }
        let file = open(path, MODE)?;
        let found = file.metadata()?;
        // A device or a pipe does not fill up, and would be lost to all by being moved aside.
        let max_bytes = if found.is_file() { max_bytes } else { u64::MAX };
        let len_bytes = found.len();
        Ok(Self { path: path.to_owned(), rotation, max_bytes, file, len_bytes, cleaner: None })
    }

    /// Writes a line, into a new file if it does not fit any more.
    pub(super) fn write(&mut self, text: &[u8], now: SystemTime) -> io::Result<()> {
        let len = text.len() as u64;
        if self.len_bytes > 0 && self.len_bytes.saturating_add(len) > self.max_bytes {
            // The next line tries again.
            let _ = self.rotate(now);
        }
        self.file.write_all(text)?;
        self.len_bytes += len;
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        let aside = backup_path(&self.path, now, self.rotation.localtime)?;
        // Who may read the one may read the next.
        let mode = self.file.metadata().map_or(MODE, |found| found.permissions().mode());
        fs::rename(&self.path, aside)?;
        self.file = open(&self.path, mode)?;
        self.len_bytes = 0;
        if self.cleaner.as_ref().is_none_or(std::thread::JoinHandle::is_finished) {
            let (path, rotation) = (self.path.clone(), self.rotation.clone());
            // Without a thread, the files stay until the next time.
            self.cleaner = std::thread::Builder::new()
                .name("log files".to_owned())
                .spawn(move || {
                    let _ = clean(&path, &rotation, now);
                })
                .ok();
        }
        Ok(())
    }
}

/// Opens a file to append to. The mode is that of a new one.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(mode & 0o777).open(path)
}

/// `etcd.log` as stem and extension.
fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(at) => (name[..at].to_owned(), name[at..].to_owned()),
        None => (name, String::new()),
    }
}

/// The form of the time in a name.
const NAME_TIME: &str = "%Y-%m-%dT%H-%M-%S";

fn backup_path(path: &Path, now: SystemTime, is_local: bool) -> io::Result<PathBuf> {
    let zone = if is_local { TimeZone::system() } else { TimeZone::UTC };
    let now: Zoned = Timestamp::try_from(now).map_err(io::Error::other)?.to_zoned(zone);
    let (stem, extension) = parts(path);
    let millis = now.subsec_nanosecond() / 1_000_000;
    Ok(path.with_file_name(format!("{stem}-{}.{millis:03}{extension}", now.strftime(NAME_TIME))))
}

/// Packs and deletes what was put aside.
fn clean(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let folder = path.parent().filter(|f| *f != Path::new("")).unwrap_or(Path::new("."));
    let (stem, extension) = parts(path);
    let mut backups: Vec<(DateTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(extension.as_str()))
            .and_then(|time| time.rsplit_once('.'))
            .filter(|(_, millis)| millis.len() == 3 && millis.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|(time, _)| DateTime::strptime(NAME_TIME, time).ok());
        if let Some(time) = time {
            backups.push((time, folder.join(name)));
        }
    }
    // The newest first; of one time, the name with the later milliseconds.
    backups.sort_by(|a, b| b.cmp(a));
    if rotation.maxbackups > 0 {
        let kept = backups.len().min(rotation.maxbackups);
        for (_, file) in backups.drain(kept..) {
            fs::remove_file(file)?;
        }
    }
    if rotation.maxage > 0 {
        let zone = if rotation.localtime { TimeZone::system() } else { TimeZone::UTC };
        let days = u32::try_from(rotation.maxage).unwrap_or(u32::MAX);
        let oldest = now
            .checked_sub(DAY * days)
            .and_then(|time| Timestamp::try_from(time).ok())
            .map(|time| time.to_zoned(zone).datetime());
        for (time, file) in &backups {
            if oldest.is_some_and(|oldest| *time < oldest) {
                fs::remove_file(file)?;
            }
        }
        backups.retain(|(time, _)| oldest.is_none_or(|oldest| *time >= oldest));
    }
    if rotation.compress {
        for (_, file) in &backups {
            if file.extension().is_none_or(|extension| extension != "gz") {
                pack(file)?;
            }
        }
    }
    Ok(())
}

/// Packs a file. A crash in between leaves the file and half a packed one, which the next time replaces.
fn pack(file: &Path) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    let mut plain = File::open(file)?;
    let mode = plain.metadata()?.permissions().mode() & 0o777;
    let packed =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&name)?;
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::default());
    io::copy(&mut plain, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_no_regular_file_stays_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // Somebody reads, so that opening it does not wait.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut log = Rotating::open_with(&path, Rotation::default(), 25).unwrap();
        for _ in 0..9 {
            log.write(b"a line of text\n", at(0)).unwrap();
        }
        assert_eq!(names(folder.path()), ["pipe"]);
        drop(reader);
    }

    fn at(millis: u64) -> SystemTime {
        // 2026-11-22T15:28:10Z
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_361_290_000 + millis)
    }

    /// Writes `lines` of ten bytes, a second apart, with room for two in a file.
    fn write(folder: &Path, rotation: Rotation, lines: u64) {
        let mut log = Rotating::open_with(&folder.join("etcd.log"), rotation, 25).unwrap();
        for line in 0..lines {
            log.write(format!("line {line:04}\n").as_bytes(), at(line * 1000 + 502)).unwrap();
            // The test looks at the files when nobody works on them.
            if let Some(cleaner) = log.cleaner.take() {
                cleaner.join().unwrap();
            }
        }
    }

    #[test]
    fn a_full_file_is_put_aside_under_its_time() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), Rotation::default(), 5);
        assert_eq!(
            names(folder.path()),
            ["etcd-2026-11-22T15-28-12.502.log", "etcd-2026-11-22T15-28-14.502.log", "etcd.log"]
        );
        assert_eq!(fs::read(folder.path().join("etcd.log")).unwrap(), b"line 0004\n");
        // What is there is appended to, not overwritten.
        write(folder.path(), Rotation::default(), 1);
        assert_eq!(fs::read(folder.path().join("etcd.log")).unwrap(), b"line 0004\nline 0000\n");
    }

    #[test]
    fn old_files_are_packed_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = Rotation { maxbackups: 2, compress: true, ..Rotation::default() };
        fs::write(folder.path().join("etcd-notes.log"), "not ours").unwrap();
        write(folder.path(), rotation, 9);
        assert_eq!(
            names(folder.path()),
            [
                "etcd-2026-11-22T15-28-16.502.log.gz",
                "etcd-2026-11-22T15-28-18.502.log.gz",
                "etcd-notes.log",
                "etcd.log"
            ]
        );
        let packed = File::open(folder.path().join("etcd-2026-11-22T15-28-18.502.log.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "line 0006\nline 0007\n");
        for name in ["etcd.log", "etcd-2026-11-22T15-28-18.502.log.gz"] {
            let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn files_beyond_their_age_go() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("etcd-2026-11-19T00-00-00.000.log"), "old").unwrap();
        fs::write(folder.path().join("etcd-2026-11-22T00-00-00.000.log"), "young").unwrap();
        let rotation = Rotation { maxage: 2, ..Rotation::default() };
        clean(&folder.path().join("etcd.log"), &rotation, at(0)).unwrap();
        assert_eq!(names(folder.path()), ["etcd-2026-11-22T00-00-00.000.log"]);
    }
}
