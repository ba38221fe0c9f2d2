//! Watchers: which events go to whom, in which order, without ever blocking the writer.
//!
//! ```text
//!   publish(batch) ──► groups by key, by interval ──► synced watchers ──► queue of the stream ──► poll
//!                                                        │ full            │ room
//!                                                        ▼                 ▼
//!   catch_up ◄── history (key bucket) ◄── cursor: the next revision that the watcher needs
//! ```
//!
//! A [`Hub`] holds the watchers of many streams. It is a plain value: the shell decides on which thread it lives, gives it
//! every [`EventBatch`] in order, calls [`Hub::catch_up`] while there is something to catch up with, and polls the streams
//! that [`Hub::take_ready`] names.
//!
//! A watcher is *synced* when it has been given everything up to the hub's revision, and *lagging* otherwise. Only synced
//! watchers get events as they happen. One whose stream's queue is full becomes lagging: all that is kept for it is the
//! number of the next revision. When the queue has room again, what it missed is read from history, in windows of
//! bounded size, until it is synced. So a slow client costs a number, not memory, and nobody else's time.
//!
//! Invariants
//! - a watcher gets each matching event once, in the order of revisions, and all of one revision in one message;
//! - a progress message with revision r follows all events up to r in the queue;
//! - what a client asked for (created, canceled) is queued whatever the queue holds: see [`Hub::has_room`].
//!
//! Upstream: server/mvcc/watchable_store.go, watcher_group.go, server/etcdserver/api/v3rpc/watch.go (3.5.30). Differs:
//! - "victims" (etcd's watchers with a batch that did not fit) are lagging watchers like others;
//! - a response from history ends after [`Limits::message_bytes`] too, not only after 1000 revisions;
//! - a watcher that was canceled by compaction does not hold up the progress of its stream.

mod catch_up;
mod event;
mod groups;
mod hub;
mod intervals;
mod message;
mod request;

pub use catch_up::{EachRow, History};
pub use event::{Event, EventBatch, EventKind};
pub use hub::{Hub, Limits, Stats, StreamId};
pub use message::{Body, Events, Message, NO_WATCH_ID, Response};
pub use request::{Refusal, WatchSpec};

#[cfg(test)]
mod tests;
