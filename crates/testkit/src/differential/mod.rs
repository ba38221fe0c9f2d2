//! Random operations, sent in the same order to two servers, and every answer compared.
//!
//! Each server has its own copy of the seeded [`Generator`], fed with nothing but what that server answered: as long as
//! the two agree, both copies make the same requests. Each driver runs ahead of the other by a bounded number of
//! answers, so the slower server is never kept waiting for the comparison. Reads between two writes are sent at once.
//!
//! With users (`users`), requests are sent as root, as others, as nobody and with made-up tokens, while permissions, passwords and
//! authentication itself change.
//!
//! Watches of all kinds are created now and then, several on a stream: keys that they look at are written, and what they were told is compared
//! when each has seen the last of these writes. Between two servers of 3.7, some ranges are read by RangeStream.
//!
//! What happens when the quota is used up is a run of its own, without chance ([`run_quota`]).
//!
//! A run has phases. Between phases both members stop (SIGTERM or SIGKILL), the two programs may change places on the two
//! data directories, and what was served before must be served again: every key at every readable revision, every
//! HashKV, every lease.

mod compare;
mod generate;
mod quota;
mod run;
mod users;

pub use compare::{Tolerance, normalise_reply};
pub use generate::{Generator, Known, TxnRanges};
pub use quota::{QuotaStep, run_quota};
pub use run::{Config, Report, Stop, run};
pub use users::Rules;
