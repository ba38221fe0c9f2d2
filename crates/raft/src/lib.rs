//! Consensus without input or output: one member of etcd's raft as a plain state machine.
//!
//! A [`Core`] is told what happens (a tick of the clock, a message from a peer, a proposal, a write that became durable)
//! and says what shall be done ([`Ready`]: send this, write that, apply those). It has no clock, no thread, no socket, no
//! file and draws no chance of its own, so the same inputs give the same outputs, in production and in a simulator.
//!
//! The behaviour is that of etcd-io/raft v3.7, message by message: members of both kinds form one group, and the core
//! passes that project's own 743 scripted cases (`tests/scripts`). What the core does better on purpose is listed at
//! [`CompatMode`]. Where etcd-io/raft trusts its peers, this crate checks: no bytes from a peer can panic it.
//! What only this member's own storage or driver can break, does panic.
//!
//! # How to drive it
//!
//! ```text
//!            tick, step, propose, read_index                 persisted(done)   applied(done)
//!  clock ─┐          │                                             ▲                 ▲
//!  peers ─┼──────► Core ── ready() ─┬─► messages ──► peers         │                 │
//!  users ─┘                         ├─► append ──► log writer ─────┤ fdatasync       │
//!                                   │                              └─► responses ──► peers
//!                                   ├─► apply ───► state machine ────────────────────┘
//!                                   └─► read_states, soft_state
//! ```
//!
//! 1. Feed inputs, as many as there are; then take one [`Ready`] for all of them. That is what makes batches.
//! 2. Send [`Ready::messages`] at once. A leader's entries travel while its own write is still under way.
//! 3. Hand [`Ready::append`] to the log writer. It may gather several and sync once. When they are durable, send their
//!    [`Append::responses`], put the entries into [`Core::storage_mut`], and give each token to [`Core::persisted`], in
//!    order. Not a moment earlier: votes and acknowledgements are promises.
//! 4. Hand [`Ready::apply`] to the state machine. For each entry that is a configuration change
//!    ([`codec::conf_change_of`]) call [`Core::apply_conf_change_at`], before anything behind it is applied. When done, give
//!    the token to [`Core::applied`]. Entries come here only when they are committed *and* durable on this member.
//! 5. Again, while [`Core::has_ready`].
//!
//! A snapshot message ([`Body::Snapshot`]) may be replaced by a better one on the way, as etcd does; its sender must call
//! [`Core::report_snapshot`]. A snapshot to install arrives in [`Append::snapshot`]: install it before `persisted`; that
//! also counts as applying it. The state machine may then still be given entries that were handed out before: it skips
//! those that the snapshot covers, and returns their tokens all the same.
//!
//! ```
//! use std::collections::VecDeque;
//!
//! use bytes::Bytes;
//! use raft::{Append, Apply, Config, Core, MemoryStorage, NodeId, Peer, SplitMix64, codec};
//!
//! let config = Config::new(NodeId(1), Box::new(SplitMix64::new(42)));
//! let mut core = Core::new(config, MemoryStorage::new())?;
//! core.bootstrap(&[Peer { id: NodeId(1), context: Bytes::new() }])?;
//!
//! // Stand-ins for the two threads; a real driver gets these back as inputs, later.
//! let mut log_writer: VecDeque<Append> = VecDeque::new();
//! let mut state_machine: VecDeque<Apply> = VecDeque::new();
//! let mut applied = Vec::new();
//! let mut reads = Vec::new();
//! let mut has_asked = false;
//!
//! while reads.is_empty() || applied.len() < 2 {
//!     // Inputs, all that are there.
//!     core.tick();
//!     if core.is_leader() && !has_asked {
//!         core.propose(Bytes::from_static(b"x=1"))?;
//!         core.propose(Bytes::from_static(b"y=2"))?;
//!         core.read_index(Bytes::from_static(b"read 1"));
//!         has_asked = true;
//!     }
//!     while let Some(append) = log_writer.pop_front() {
//!         // The writer wrote hard state, snapshot and entries, synced if `must_sync`, and returned the work.
//!         for message in append.responses {
//!             unreachable!("one member has no peers to send {message:?} to");
//!         }
//!         let storage = core.storage_mut();
//!         if let Some(snapshot) = append.snapshot {
//!             storage.apply_snapshot(snapshot)?;
//!         }
//!         storage.append(append.entries);
//!         core.persisted(append.done);
//!     }
//!     while let Some(apply) = state_machine.pop_front() {
//!         for entry in &apply.entries {
//!             match codec::conf_change_of(entry)? {
//!                 Some(change) => drop(core.apply_conf_change_at(entry.index, &change)?),
//!                 None if entry.data.is_empty() => {} // A new leader's first entry.
//!                 None => applied.push(entry.data.clone()),
//!             }
//!         }
//!         core.applied(apply.done);
//!     }
//!
//!     // Work, all of it.
//!     while core.has_ready() {
//!         let ready = core.ready();
//!         assert!(ready.messages.is_empty());
//!         reads.extend(ready.read_states);
//!         log_writer.extend(ready.append);
//!         state_machine.extend(ready.apply);
//!     }
//! }
//!
//! assert_eq!(applied, ["x=1", "y=2"]);
//! assert_eq!(reads[0].context, "read 1");
//! // What the read has to wait for is applied.
//! assert!(reads[0].index <= core.applied_index());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to read on
//!
//! | module | holds |
//! | --- | --- |
//! | [`types`], [`message`], [`ready`] | the vocabulary |
//! | `core` | the state machine; its table names the concerns, a file each |
//! | `log`, `unstable`, [`storage`] | the log: what is stored, what is on its way there |
//! | [`tracker`], [`progress`], [`inflights`] | what the leader knows about the others |
//! | [`quorum`], [`confchange`] | who decides, and how that changes |
//! | `read_only` | counting confirmations of reads |
//! | [`codec`] | raftpb, on disk and between peers |
//!
//! # What is deliberately not here
//!
//! Rules that etcd has above its raft: waiting for a leader instead of dropping a proposal, retrying reads, dropping
//! messages to members that were removed, making and sending the real snapshot, checking changes of membership against
//! the health of the group. They belong to `replica` and `server`.

pub mod codec;
pub mod confchange;
pub mod config;
mod core;
pub mod error;
pub mod inflights;
mod log;
pub mod message;
pub mod progress;
pub mod quorum;
mod read_only;
pub mod ready;
pub mod rng;
pub mod storage;
pub mod trace;
pub mod tracker;
pub mod types;
mod unstable;

pub use confchange::{ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeV2, Transition};
pub use config::{CompatMode, Config, NO_LIMIT, ReadMode};
pub use core::{Core, Peer, bootstrap_entries};
pub use error::{
    CodecError, ConfChangeError, ConfigError, ProposalDropped, StepError, StorageError,
};
pub use message::{Body, Message, MessageKind, Rejection, VoteRequest};
pub use progress::{Progress, ProgressState};
pub use ready::{Append, Appended, Applied, Apply, Ready, SelfAck, Stable};
pub use rng::{Rng, SplitMix64};
pub use storage::{MemoryStorage, Storage};
pub use trace::{Level, SharedTrace, Silent, Trace};
pub use tracker::Configuration;
pub use types::{
    BasicStatus, ConfState, Entry, EntryId, EntryKind, HardState, LogIndex, NodeId, ReadState,
    Role, Snapshot, SnapshotMetadata, SoftState, Term,
};
