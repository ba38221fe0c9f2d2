//! Handing work to the driver, and learning that it is done.
//!
//! What was handed out counts as accepted: the next [`Ready`] continues behind it. In asynchronous mode several writes
//! may be under way at once; each is confirmed by its own token, in order. In synchronous mode one is, and
//! [`Core::advance`] confirms all of it.

use super::{Core, outbox::Unsent};
use crate::{
    config::CompatMode,
    ready::{Append, Appended, Applied, Apply, Ready, Stable},
    storage::Storage,
    trace::trace,
    types::{Entry, HardState, LogIndex, SoftState, encoded_size, payload_size},
};

/// What the driver was told last.
#[derive(Debug, Default)]
pub(super) struct Bookkeeping {
    soft_state: SoftState,
    hard_state: HardState,
    /// Synchronous mode: what `advance` will confirm.
    to_advance: Option<(Appended, Option<Applied>)>,
}

impl Bookkeeping {
    pub(super) fn start(&mut self, soft_state: SoftState, hard_state: HardState) {
        self.soft_state = soft_state;
        self.hard_state = hard_state;
    }

    /// Makes the next ready hand the hard state out, whatever it is.
    pub(super) fn forget_hard_state(&mut self) {
        self.hard_state = HardState::default();
    }
}

impl<S: Storage> Core<S> {
    /// Returns whether [`Core::ready`] would return any work.
    pub fn has_ready(&self) -> bool {
        let hard_state = self.hard_state();
        !self.messages.is_empty()
            || self.unsent != Unsent::default()
            || !self.after_append.is_empty()
            || !self.self_acks.is_empty()
            || self.soft_state() != self.ready.soft_state
            || (!hard_state.is_empty() && hard_state != self.ready.hard_state)
            || self.log.unstable.next_snapshot().is_some()
            || self.log.unstable.next_entries().len() > 0
            || self.log.has_next_committed(self.applies_unstable())
            || !self.read_states.is_empty()
    }

    /// Takes all work that is outstanding. The driver must carry it out; nothing is handed out twice.
    ///
    /// # Panics
    /// In synchronous mode, panics if the previous work was not confirmed with [`Core::advance`].
    pub fn ready(&mut self) -> Ready {
        self.broadcast_unsent();
        let soft_state = Some(self.soft_state()).filter(|&state| state != self.ready.soft_state);
        if let Some(state) = soft_state {
            self.ready.soft_state = state;
        }
        let committed = self.log.next_committed(self.applies_unstable());
        let apply = self.hand_out_apply(committed);
        let append = self.hand_out_append();
        let mut ready = Ready {
            soft_state,
            read_states: std::mem::take(&mut self.read_states),
            messages: std::mem::take(&mut self.messages),
            append: None,
            apply,
        };
        if self.config.async_storage_writes {
            ready.append = append;
        } else if let Some(mut append) = append {
            // The driver sends after it wrote, so there is nothing to hold back.
            ready.messages.append(&mut append.responses);
            let done = std::mem::take(&mut append.done);
            self.expect_advance(done, ready.apply.as_ref());
            if append.hard_state.is_some()
                || append.snapshot.is_some()
                || !append.entries.is_empty()
            {
                ready.append = Some(append);
            }
        } else {
            self.expect_advance(Appended::default(), ready.apply.as_ref());
        }
        ready
    }

    fn expect_advance(&mut self, appended: Appended, apply: Option<&Apply>) {
        assert!(
            self.ready.to_advance.is_none(),
            "two accepted Ready structs without call to Advance"
        );
        let applied = apply.map(|apply| apply.done);
        if !appended.is_empty() || applied.is_some() {
            self.ready.to_advance = Some((appended, applied));
        }
    }

    fn hand_out_apply(&mut self, entries: Vec<Entry>) -> Option<Apply> {
        let index = entries.last()?.index;
        let encoded_bytes = encoded_size(&entries);
        let done = Applied { index, encoded_bytes, payload_bytes: payload_size(&entries) };
        self.log.accept_applying(index, encoded_bytes, self.applies_unstable());
        Some(Apply { entries, done })
    }

    fn hand_out_append(&mut self) -> Option<Append> {
        let now = self.hard_state();
        let before = std::mem::replace(&mut self.ready.hard_state, now);
        let hard_state = Some(now).filter(|state| *state != before && !state.is_empty());
        let entries: Vec<Entry> = self.log.unstable.next_entries().cloned().collect();
        let snapshot = self.log.unstable.next_snapshot().cloned();
        let has_messages = !self.after_append.is_empty() || !self.self_acks.is_empty();
        let is_idle = hard_state.is_none() && entries.is_empty() && snapshot.is_none();
        if is_idle && !has_messages {
            return None;
        }
        // etcd-io/raft does not count the snapshot: etcd syncs it anyway.
        let must_sync = !entries.is_empty()
            || now.vote != before.vote
            || now.term != before.term
            || (snapshot.is_some() && self.config.compat == CompatMode::Hardened);
        let covers_log = !entries.is_empty()
            || now.term != before.term
            || self.config.compat == CompatMode::Upstream;
        let done = Appended {
            acks: std::mem::take(&mut self.self_acks),
            stable: self.expect_stable(
                covers_log,
                snapshot.as_ref().map(|snapshot| snapshot.metadata.index),
            ),
        };
        self.log.unstable.accept_in_progress();
        Some(Append {
            hard_state,
            snapshot,
            entries,
            must_sync,
            responses: std::mem::take(&mut self.after_append),
            done,
        })
    }

    /// Returns what the completion of a write that is handed out now will prove.
    ///
    /// The term guards against a race of pipelined writes. Entries of an old leader are being written; a new leader's
    /// take their place and are being written behind them; a third leader sends the first ones again, which are queued
    /// too. If now the first write is confirmed, the log's entries match what was written, and yet the second write will
    /// for a while put others in their place on disk. But each of these leaders came with a new term, so a confirmation
    /// from an earlier term says nothing about the log of this one.
    ///
    /// So that confirmations lost this way do not leave entries unstable for ever, the first write of a new term proves
    /// all of the log, not only its own entries. (etcd-io/raft lets every write do so, the many that carry nothing but a
    /// commit index too.)
    fn expect_stable(&self, covers_log: bool, snapshot: Option<LogIndex>) -> Option<Stable> {
        let last = (covers_log && self.log.unstable.has_entries()).then(|| self.log.last_id());
        (last.is_some() || snapshot.is_some()).then_some(Stable { term: self.term, last, snapshot })
    }

    /// Asynchronous mode: the [`Append`] that came with this token, and all before it, are durable, and what they hold is
    /// in [`Core::storage_mut`].
    pub fn persisted(&mut self, done: Appended) {
        // The acknowledgements come first: while the entries are still in memory, comparing terms costs no look into
        // storage.
        for ack in done.acks {
            // Stale by now, perhaps; then it is ignored like any other stale message.
            let _ = self.dispatch(ack.message);
        }
        if let Some(stable) = done.stable {
            self.note_stable(stable);
        }
    }

    fn note_stable(&mut self, stable: Stable) {
        if let Some(last) = stable.last {
            if stable.term == self.term {
                self.log.unstable.stable_to(last);
            } else {
                trace!(
                    self.config.trace,
                    Info,
                    "{} [term: {}] ignored entry appends from a MsgStorageAppendResp message with lower term [term: {}]",
                    self.config.id,
                    self.term,
                    stable.term
                );
            }
        }
        if let Some(index) = stable.snapshot {
            // What a snapshot holds is committed, whatever the term is now.
            self.log.unstable.stable_snapshot_to(index);
            self.applied_to(index, 0);
        }
    }

    /// Asynchronous mode: the [`Apply`] that came with this token is applied.
    pub fn applied(&mut self, done: Applied) {
        self.applied_to(done.index, done.encoded_bytes);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(done.payload_bytes);
    }

    /// Synchronous mode: all work of the last [`Ready`] is done, in the order write, apply, send.
    ///
    /// # Panics
    /// Panics in asynchronous mode.
    pub fn advance(&mut self) {
        assert!(
            !self.config.async_storage_writes,
            "advance must not be called with asynchronous storage writes"
        );
        if let Some((appended, applied)) = self.ready.to_advance.take() {
            self.persisted(appended);
            if let Some(applied) = applied {
                self.applied(applied);
            }
        }
    }

    /// Returns whether entries may be applied that are committed but not written here. A synchronous driver writes
    /// before it applies anyway.
    fn applies_unstable(&self) -> bool {
        !self.config.async_storage_writes
    }
}
