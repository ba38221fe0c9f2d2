//! Reading a log from a start snapshot on: all segments in order, one checksum chain through them.
//!
//! Upstream: ReadAll, ValidSnapshotEntries in server/storage/wal/wal.go (3.5.30). Differs: entries behind the start
//! snapshot that a later record replaced from before its index on are dropped (etcd hands them to raft as if they were
//! still in the log), and an order of terms and commits that raft cannot have written is refused.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::{raftpb, walpb};
use vfs::{Dir, OpenMode};

use crate::Error;
use crate::frame::kind;
use crate::segment::{self, Damage, Record, Segment, SegmentName, SegmentReader};

/// Where and why a log ends inside a record.
#[derive(Debug)]
pub(crate) struct Torn {
    pub(crate) what: String,
}

/// Reads records through a sequence of segments.
pub(crate) struct LogReader<'a> {
    segments: &'a [Segment],
    current: usize,
    reader: Option<SegmentReader>,
    pub(crate) chain: u32,
    torn: Option<Torn>,
}

impl<'a> LogReader<'a> {
    pub(crate) fn new(segments: &'a [Segment]) -> LogReader<'a> {
        LogReader { segments, current: 0, reader: None, chain: 0, torn: None }
    }

    /// The next record and the file that it is in; `None` at the end, which may be a torn record.
    pub(crate) fn next(&mut self) -> Result<Option<(Record, &'a Segment)>, Error> {
        while self.torn.is_none()
            && let Some(segment) = self.segments.get(self.current)
        {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let is_last = self.current + 1 == self.segments.len();
                    let reader = SegmentReader::new(segment.file.clone(), is_last)
                        .map_err(Error::io(&segment.path, "read length"))?;
                    self.reader.insert(reader)
                }
            };
            match reader.next(&mut self.chain) {
                Ok(Some(record)) => return Ok(Some((record, segment))),
                Ok(None) if self.current + 1 == self.segments.len() => return Ok(None),
                Ok(None) => {
                    self.current += 1;
                    self.reader = None;
                }
                Err(Damage::Torn(what)) => self.torn = Some(Torn { what }),
                Err(Damage::Corrupt(what)) => {
                    return Err(Error::Corrupt {
                        file: segment.path.clone(),
                        offset: reader.offset(),
                        what,
                    });
                }
                Err(Damage::Io(source)) => {
                    return Err(Error::io(&segment.path, "read record")(source));
                }
            }
        }
        Ok(None)
    }

    /// Offset behind the last good record, and what is wrong there.
    pub(crate) fn end(self) -> (u64, Option<Torn>) {
        (self.reader.map_or(0, |reader| reader.offset()), self.torn)
    }
}

/// What the records behind a start snapshot say.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) metadata: Option<Bytes>,
    pub(crate) hard_state: raftpb::HardState,
    pub(crate) entries: Vec<raftpb::Entry>,
    pub(crate) snapshot_found: bool,
    /// Whether the start snapshot came from the leader: the log did not have its last entry before.
    pub(crate) snapshot_is_received: bool,
    /// Of the last entry or the newest snapshot record, for the name of the next segment.
    pub(crate) last_index: u64,
    /// Term of the entry at the start snapshot's index, when the log read so far has it.
    start_entry_term: Option<u64>,
}

impl Content {
    pub(crate) fn read(
        reader: &mut LogReader<'_>,
        start: &walpb::Snapshot,
    ) -> Result<Content, Error> {
        let mut content = Content { last_index: start.index, ..Content::default() };
        while let Some((record, segment)) = reader.next()? {
            content.take(&record, segment, start)?;
        }
        Ok(content)
    }

    fn take(
        &mut self,
        record: &Record,
        segment: &Segment,
        start: &walpb::Snapshot,
    ) -> Result<(), Error> {
        let refuse = |what| corrupt(record, segment, what);
        match record.kind {
            kind::ENTRY => {
                self.take_entry(decode(record, segment, "raftpb.Entry")?, start).map_err(refuse)?
            }
            kind::STATE => {
                let state: raftpb::HardState = decode(record, segment, "raftpb.HardState")?;
                if state.term < self.hard_state.term {
                    return Err(refuse(format!(
                        "the term goes back from {} to {}",
                        self.hard_state.term, state.term
                    )));
                }
                self.hard_state = state;
            }
            kind::METADATA => take_metadata(&mut self.metadata, record, segment)?,
            kind::SNAPSHOT => {
                let snapshot: walpb::Snapshot = decode(record, segment, "walpb.Snapshot")?;
                self.last_index = self.last_index.max(snapshot.index);
                if snapshot.index == start.index {
                    if snapshot.term != start.term {
                        return Err(Error::SnapshotMismatch {
                            file: segment.path.clone(),
                            offset: record.offset,
                            index: snapshot.index,
                            found: snapshot.term,
                            wanted: start.term,
                        });
                    }
                    self.snapshot_found = true;
                    self.snapshot_is_received =
                        snapshot.index > 0 && self.start_entry_term != Some(snapshot.term);
                    // The log differed there, so this snapshot came from the leader and replaced the log, also what
                    // it had behind the snapshot's index.
                    if self.start_entry_term.is_some_and(|term| term != snapshot.term) {
                        self.entries.clear();
                    }
                }
            }
            kind::CRC => {}
            other => return Err(refuse(format!("unexpected block type {other}"))),
        }
        Ok(())
    }

    /// Adds an entry, or replaces old ones with it.
    ///
    /// A record's kind is outside its checksum, and a hard state reads well as an entry. So what raft promises of a
    /// log is checked too: terms begin at 1 and never go back, and what is committed stays.
    fn take_entry(&mut self, entry: raftpb::Entry, start: &walpb::Snapshot) -> Result<(), String> {
        let index = entry.index;
        self.last_index = index;
        let Some(place) = index.checked_sub(start.index).and_then(|above| above.checked_sub(1))
        else {
            // The snapshot has it. But a log that goes on from here has dropped whatever was behind.
            self.entries.clear();
            self.start_entry_term = (index == start.index).then_some(entry.term);
            return Ok(());
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if place > self.entries.len() {
            let before = start.index + self.entries.len() as u64;
            return Err(format!(
                "wal: slice bounds out of range: entry {index} follows entry {before}"
            ));
        }
        let commit = self.hard_state.commit;
        if place < self.entries.len() && index <= commit {
            return Err(format!(
                "entry {index} comes again although all up to {commit} are committed"
            ));
        }
        let before = place.checked_sub(1).and_then(|before| self.entries.get(before));
        let term_min = before.map_or(1, |entry| entry.term.max(1));
        if entry.term < term_min {
            return Err(format!("entry {index} has term {}, below {term_min}", entry.term));
        }
        if raftpb::EntryType::try_from(entry.r#type).is_err() {
            return Err(format!("entry {index} has the unknown type {}", entry.r#type));
        }
        // A new leader's entry replaces the old one of this index, and all behind it.
        self.entries.truncate(place);
        self.entries.push(entry);
        Ok(())
    }
}

/// The snapshots recorded in the log with an index up to the last commit.
pub(crate) fn committed_snapshots(
    reader: &mut LogReader<'_>,
) -> Result<Vec<walpb::Snapshot>, Error> {
    let mut metadata = None;
    let mut hard_state = raftpb::HardState::default();
    let mut snapshots: Vec<walpb::Snapshot> = Vec::new();
    while let Some((record, segment)) = reader.next()? {
        match record.kind {
            kind::STATE => hard_state = decode(&record, segment, "raftpb.HardState")?,
            kind::METADATA => take_metadata(&mut metadata, &record, segment)?,
            kind::SNAPSHOT => snapshots.push(decode(&record, segment, "walpb.Snapshot")?),
            _ => {}
        }
    }
    snapshots.retain(|snapshot| snapshot.index <= hard_state.commit);
    Ok(snapshots)
}

fn take_metadata(
    metadata: &mut Option<Bytes>,
    record: &Record,
    segment: &Segment,
) -> Result<(), Error> {
    match metadata {
        Some(first) if *first != record.data => {
            Err(corrupt(record, segment, "wal: conflicting metadata found".to_owned()))
        }
        Some(_) => Ok(()),
        None => {
            // A copy, so that it does not keep its chunk of the file in memory.
            *metadata = Some(Bytes::copy_from_slice(&record.data));
            Ok(())
        }
    }
}

fn decode<M: Message + Default>(
    record: &Record,
    segment: &Segment,
    message: &str,
) -> Result<M, Error> {
    M::decode(record.data.clone())
        .map_err(|error| corrupt(record, segment, format!("no {message}: {error}")))
}

fn corrupt(record: &Record, segment: &Segment, what: String) -> Error {
    Error::Corrupt { file: segment.path.clone(), offset: record.offset, what }
}

/// The segments that hold everything behind `index`: from the last one whose name is not above it.
pub(crate) fn select(
    dir: &Arc<dyn Dir>,
    names: &[SegmentName],
    index: u64,
) -> Result<Vec<SegmentName>, Error> {
    let not_found = |what: String| Error::NotFound { dir: dir.path().display().to_string(), what };
    let first = names.iter().rposition(|name| name.index <= index).ok_or_else(|| {
        not_found(format!("none of {} segments can hold index {index}", names.len()))
    })?;
    let chosen = names.get(first..).unwrap_or_default().to_vec();
    check_sequence(dir, &chosen)?;
    Ok(chosen)
}

/// Refuses a gap: the entries in between would be missing.
fn check_sequence(dir: &Arc<dyn Dir>, names: &[SegmentName]) -> Result<(), Error> {
    for pair in names.windows(2) {
        if let [before, after] = pair
            && before.seq.checked_add(1) != Some(after.seq)
        {
            let what = format!("{before} is followed by {after}");
            return Err(Error::NotFound { dir: dir.path().display().to_string(), what });
        }
    }
    Ok(())
}

/// Opens segments. For writing, each is locked as etcd locks it, so that no two processes append.
pub(crate) fn open_segments(
    dir: &Arc<dyn Dir>,
    names: &[SegmentName],
    mode: OpenMode,
) -> Result<Vec<Segment>, Error> {
    let open = |&name: &SegmentName| {
        let path = dir.path().join(name.to_string()).display().to_string();
        let file = dir.open(&name.to_string(), mode).map_err(Error::io(&path, "open segment"))?;
        if mode != OpenMode::Read
            && !file.try_lock(vfs::Lock::Record).map_err(Error::io(&path, "lock segment"))?
        {
            return Err(Error::Locked { file: path });
        }
        Ok(Segment { name, file, path })
    };
    names.iter().map(open).collect()
}

/// All segments, for a reader that wants everything.
pub(crate) fn open_all(dir: &Arc<dyn Dir>) -> Result<Vec<Segment>, Error> {
    let names = segment::list(dir)?;
    if names.is_empty() {
        let what = "no segment".to_owned();
        return Err(Error::NotFound { dir: dir.path().display().to_string(), what });
    }
    open_segments(dir, &names, OpenMode::Read)
}
