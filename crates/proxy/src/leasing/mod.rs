//! Linearizable reads from memory: the leasing protocol of etcd's `client/v3/leasing`, as one of its clients.
//!
//! Whoever wants to answer reads of `KEY` by himself owns it: at `PREFIX``KEY` is a key of his, the *lease key*, which hangs on the lease of
//! his session. Nobody who keeps to the protocol writes `KEY` while another owns it.
//!
//! ```text
//!  read  KEY   owned    ─► from memory
//!              else     ─► if there is no lease key, and no lease on KEY:  get KEY, put the lease key ""       (now it is owned)
//!                          else:                                           get KEY, get the lease key
//!  write KEY            ─► if the lease key is absent, or is the one that is owned here:  write
//!                          else:                                           get the lease key ─► revoke ─► again
//!  revoke               ─► put the lease key "REVOKE", its lease kept; wait until its owner has deleted it
//!  "REVOKE" is seen     ─► forget KEY, delete the lease key
//! ```
//!
//! - "The one that is owned here" is told by its create revision, in the same transaction that writes. So a write that comes late, after
//!   ownership has gone and come again, does nothing.
//! - A range is written when no lease key in it is younger than a listing of them that has none of others. Until there is such a listing,
//!   those of others are revoked and all are listed again.
//! - A transaction that writes goes inside another one, which has the guards of all that either branch writes.
//!
//! Who owns what here:
//!
//! - [`keys`] decides: which keys are owned, what they hold, who may be answered. No clock, no task, no network.
//! - [`session`] keeps the lease alive and watches the lease keys, all of them with one watch: each sees the others' come and go.
//! - [`Leasing`] makes the calls of clients, with their tokens.
//!
//! What must stay true:
//!
//! - Nothing is answered from memory past the lease's end, counted from before its last renewal was asked for.
//! - Nor while the watch is silent for long: with each renewal it is asked how far it is, and the next one counts only with an answer. Without a
//!   leader it ends. So an owner does not sit on keys that others ask for in vain.
//! - What a write in flight touches is not answered from memory, and not owned anew. A write whose outcome nobody knows (its client is
//!   gone, its connection broke) costs the ownership: the lease key is deleted, and what is owned later has another create revision.
//! - Without a session nothing is owned: reads pass, writes still wait for other owners. When a session ends its lease is revoked.
//! - A key that gets a lease of its own is given up: it would end without a word.
//! - A session is one without a user. Where rights are checked it is refused the watch, at once or with the next renewal, and memory answers
//!   nobody. Writers need rights to the lease keys of what they write.
//! - Bounded: so many keys and bytes ([`keys`]), the least recently used given up first.
//!
//! Those who write past the protocol are not seen: their writes may be read late, until the key changes hands.
//!
//! Upstream: `client/v3/leasing` (3.6.16). Differs: one watch instead of one for each key; a range up to the end of all keys; reads of keys
//! that others own are not tried again for a while; deletions count no keys; keys below the prefix are never owned; what the section above
//! says of unknown outcomes, leases and rights.

mod calls;
mod keys;
mod session;

pub(crate) use calls::Leasing;

#[cfg(test)]
mod tests;
