//! What is written and what is durable: the files and directories of a simulated disk, changed by [`Op`]s only.
//!
//! The live disk and a replayed journal go through the same [`State::apply`], so a replay cannot drift from what
//! happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::content::Content;
use super::{DirOrder, Model};

/// Identity of a file or directory on one simulated disk, whatever its name is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub(super) u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

pub(super) const ROOT: NodeId = NodeId(0);

/// One change, in the order in which the disk saw it.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new empty file.
    Create {
        /// Directory that gets the name.
        dir: NodeId,
        /// The name.
        name: String,
        /// The file that is made.
        file: NodeId,
    },
    /// A new empty directory.
    MakeDir {
        /// Directory that gets the name.
        dir: NodeId,
        /// The name.
        name: String,
        /// The directory that is made.
        made: NodeId,
    },
    /// A rename within one directory.
    Rename {
        /// The directory.
        dir: NodeId,
        /// Old name.
        from: String,
        /// New name; a file of that name is replaced.
        to: String,
    },
    /// A name is removed.
    Remove {
        /// The directory.
        dir: NodeId,
        /// The name.
        name: String,
    },
    /// `fsync` of a directory.
    SyncDir {
        /// The directory.
        dir: NodeId,
    },
    /// A positioned write.
    Write {
        /// The file.
        file: NodeId,
        /// Where.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// Truncation, or extension with zeros.
    SetLen {
        /// The file.
        file: NodeId,
        /// New length.
        len_bytes: u64,
    },
    /// Reservation that grows the file when it is shorter.
    Allocate {
        /// The file.
        file: NodeId,
        /// Length up to which space is reserved.
        len_bytes: u64,
    },
    /// `fdatasync`.
    SyncData {
        /// The file.
        file: NodeId,
    },
    /// `fsync`.
    SyncAll {
        /// The file.
        file: NodeId,
    },
    /// A sync that failed: what was not durable stays readable and never becomes durable.
    SyncFailed {
        /// The file.
        file: NodeId,
    },
    /// A number that the workload left, to say how far it had got (see [`super::SimDisk::mark`]).
    Mark(u64),
}

/// A change to a file that is not durable yet.
#[derive(Clone)]
pub(super) enum FileChange {
    Write { offset: u64, data: Arc<[u8]> },
    Len { len_bytes: u64 },
}

#[derive(Clone, Default)]
pub(super) struct FileNode {
    /// What reads see.
    pub(super) written: Content,
    /// What a crash cannot take.
    pub(super) durable: Content,
    /// `written` as it was before the first pending change.
    pub(super) base: Content,
    /// Changes since the last sync, in order.
    pub(super) pending: Vec<FileChange>,
    /// A failed sync dropped changes: `base` and `durable` differ for good.
    pub(super) has_lost: bool,
    /// Bytes that count against the disk's capacity: up to the end of the furthest write or reservation.
    pub(super) reserved_bytes: u64,
}

impl FileNode {
    pub(super) fn settled(content: Content, reserved_bytes: u64) -> FileNode {
        FileNode {
            written: content.clone(),
            durable: content.clone(),
            base: content,
            pending: Vec::new(),
            has_lost: false,
            reserved_bytes,
        }
    }

    fn set_len(&mut self, len_bytes: u64) {
        if len_bytes != self.written.len_bytes() {
            self.pending.push(FileChange::Len { len_bytes });
            self.written.set_len(len_bytes);
        }
    }

    fn write(&mut self, offset: u64, data: &Arc<[u8]>) {
        let end = offset + data.len() as u64;
        if end > self.written.len_bytes() {
            self.set_len(end);
        }
        self.pending.push(FileChange::Write { offset, data: data.clone() });
        self.written.write(data, offset);
        self.reserved_bytes = self.reserved_bytes.max(end);
    }

    fn sync(&mut self) {
        if self.has_lost {
            // Only what is dirty is written: pages that an earlier failure marked clean stay lost.
            let len_bytes = self.written.len_bytes();
            let plan = super::crash::FilePlan::new(self);
            let picks: Vec<u32> = plan.options().map(|options| options - 1).collect();
            self.durable = plan.content(self, &picks);
            self.durable.set_len(len_bytes);
        } else {
            self.durable = self.written.clone();
        }
        self.base = self.written.clone();
        self.pending.clear();
    }

    fn sync_failed(&mut self) {
        self.has_lost |= !self.pending.is_empty();
        self.base = self.written.clone();
        self.pending.clear();
    }
}

/// A change to a directory that is not durable yet. Each stands on its own, so that any subset can be applied.
#[derive(Debug, Clone)]
pub(super) enum DirChange {
    Link { name: String, node: NodeId },
    Unlink { name: String, node: NodeId },
    Rename { from: String, to: String, node: NodeId },
}

impl DirChange {
    pub(super) fn node(&self) -> NodeId {
        match self {
            DirChange::Link { node, .. }
            | DirChange::Unlink { node, .. }
            | DirChange::Rename { node, .. } => *node,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, NodeId>) {
        match self {
            DirChange::Link { name, node } => {
                names.insert(name.clone(), *node);
            }
            DirChange::Unlink { name, node } => unlink(names, name, *node),
            DirChange::Rename { from, to, node } => {
                unlink(names, from, *node);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// Removes the name only while it still means that node: a later link may have survived where an earlier one did not.
fn unlink(names: &mut BTreeMap<String, NodeId>, name: &str, node: NodeId) {
    if names.get(name) == Some(&node) {
        names.remove(name);
    }
}

#[derive(Clone, Default)]
pub(super) struct DirNode {
    pub(super) written: BTreeMap<String, NodeId>,
    pub(super) durable: BTreeMap<String, NodeId>,
    pub(super) pending: Vec<DirChange>,
}

impl DirNode {
    fn change(&mut self, change: DirChange) {
        change.apply(&mut self.written);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.written.clone();
        self.pending.clear();
    }

    /// What a journalling file system does when the file is synced: its name comes along, and in a journal everything
    /// that came before.
    fn sync_names_of(&mut self, node: NodeId, order: DirOrder) {
        let Some(last) = self.pending.iter().rposition(|change| change.node() == node) else {
            return;
        };
        match order {
            DirOrder::Journal => {
                for change in self.pending.drain(..=last) {
                    change.apply(&mut self.durable);
                }
            }
            DirOrder::Any => {
                let durable = &mut self.durable;
                self.pending.retain(|change| {
                    let is_its = change.node() == node;
                    if is_its {
                        change.apply(durable);
                    }
                    !is_its
                });
            }
        }
    }
}

#[derive(Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// All files and directories of a disk.
#[derive(Clone)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    next_node: u64,
    pub(super) model: Model,
}

impl State {
    pub(super) fn new(model: Model) -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            next_node: 1,
            model,
        }
    }

    /// A disk whose content is all durable.
    pub(super) fn settled(nodes: BTreeMap<NodeId, Node>, next_node: u64, model: Model) -> State {
        State { nodes, next_node, model }
    }

    /// The identity that the next `Create` or `MakeDir` must carry.
    pub(super) fn next_node(&self) -> NodeId {
        NodeId(self.next_node)
    }

    pub(super) fn dir(&self, dir: NodeId) -> io::Result<&DirNode> {
        match self.nodes.get(&dir) {
            Some(Node::Dir(node)) => Ok(node),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn dir_mut(&mut self, dir: NodeId) -> io::Result<&mut DirNode> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir(node)) => Ok(node),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn file(&self, file: NodeId) -> io::Result<&FileNode> {
        match self.nodes.get(&file) {
            Some(Node::File(node)) => Ok(node),
            Some(Node::Dir(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn file_mut(&mut self, file: NodeId) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&file) {
            Some(Node::File(node)) => Ok(node),
            Some(Node::Dir(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn lookup(&self, dir: NodeId, name: &str) -> io::Result<NodeId> {
        self.dir(dir)?.written.get(name).copied().ok_or_else(|| Errno::NOENT.into())
    }

    /// Carries out one change. The error is the one that the system call would give, and then nothing has changed.
    pub(super) fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Create { dir, name, file } => {
                self.link(*dir, name, *file, Node::File(FileNode::default()))
            }
            Op::MakeDir { dir, name, made } => {
                self.link(*dir, name, *made, Node::Dir(DirNode::default()))
            }
            Op::Rename { dir, from, to } => self.rename(*dir, from, to),
            Op::Remove { dir, name } => {
                let node = self.lookup(*dir, name)?;
                if let Some(Node::Dir(gone)) = self.nodes.get(&node)
                    && !gone.written.is_empty()
                {
                    return Err(Errno::NOTEMPTY.into());
                }
                self.dir_mut(*dir)?.change(DirChange::Unlink { name: name.clone(), node });
                Ok(())
            }
            Op::SyncDir { dir } => {
                self.dir_mut(*dir)?.sync();
                Ok(())
            }
            Op::Write { file, offset, data } => {
                self.file_mut(*file)?.write(*offset, data);
                Ok(())
            }
            Op::SetLen { file, len_bytes } => {
                let node = self.file_mut(*file)?;
                node.set_len(*len_bytes);
                node.reserved_bytes = node.reserved_bytes.min(*len_bytes);
                Ok(())
            }
            Op::Allocate { file, len_bytes } => {
                let node = self.file_mut(*file)?;
                node.set_len((*len_bytes).max(node.written.len_bytes()));
                node.reserved_bytes = node.reserved_bytes.max(*len_bytes);
                Ok(())
            }
            Op::SyncData { file } | Op::SyncAll { file } => {
                self.file_mut(*file)?.sync();
                if self.model.names_follow_file_sync {
                    let order = self.model.dir_order;
                    for node in self.nodes.values_mut() {
                        if let Node::Dir(dir) = node {
                            dir.sync_names_of(*file, order);
                        }
                    }
                }
                Ok(())
            }
            Op::SyncFailed { file } => {
                self.file_mut(*file)?.sync_failed();
                Ok(())
            }
            Op::Mark(_) => Ok(()),
        }
    }

    fn link(&mut self, dir: NodeId, name: &str, made: NodeId, node: Node) -> io::Result<()> {
        let parent = self.dir_mut(dir)?;
        if parent.written.contains_key(name) {
            return Err(Errno::EXIST.into());
        }
        parent.change(DirChange::Link { name: name.to_owned(), node: made });
        self.nodes.insert(made, node);
        self.next_node = self.next_node.max(made.0 + 1);
        Ok(())
    }

    fn rename(&mut self, dir: NodeId, from: &str, to: &str) -> io::Result<()> {
        let node = self.lookup(dir, from)?;
        if from == to {
            return Ok(());
        }
        if let Ok(target) = self.lookup(dir, to) {
            let from_is_dir = matches!(self.nodes.get(&node), Some(Node::Dir(_)));
            match self.nodes.get(&target) {
                Some(Node::Dir(_)) if !from_is_dir => return Err(Errno::ISDIR.into()),
                Some(Node::Dir(target)) if !target.written.is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                Some(Node::File(_)) if from_is_dir => return Err(Errno::NOTDIR.into()),
                Some(Node::Dir(_) | Node::File(_)) | None => {}
            }
        }
        self.dir_mut(dir)?.change(DirChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            node,
        });
        Ok(())
    }

    /// Forgets files and directories that no name, durable name, pending change or open handle leads to.
    pub(super) fn sweep(&mut self, open: impl Iterator<Item = NodeId>) {
        let mut live = BTreeSet::new();
        let mut queue: Vec<NodeId> = open.collect();
        queue.push(ROOT);
        while let Some(id) = queue.pop() {
            if live.insert(id)
                && let Some(Node::Dir(dir)) = self.nodes.get(&id)
            {
                queue.extend(dir.written.values().chain(dir.durable.values()));
                queue.extend(dir.pending.iter().map(DirChange::node));
            }
        }
        self.nodes.retain(|id, _| live.contains(id));
    }

    /// Bytes that files with a name take.
    pub(super) fn used_bytes(&self) -> u64 {
        let mut used = 0;
        let mut queue = vec![ROOT];
        while let Some(id) = queue.pop() {
            match self.nodes.get(&id) {
                Some(Node::Dir(dir)) => queue.extend(dir.written.values()),
                Some(Node::File(file)) => used += file.reserved_bytes,
                None => {}
            }
        }
        used
    }
}
