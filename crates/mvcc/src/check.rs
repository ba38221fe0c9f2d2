//! Checks that need no state: the server makes them before it reads or proposes anything.
//!
//! Order and quirks are etcd's (server/etcdserver/api/v3rpc/key.go, 3.5). The duplicate check in particular is not
//! symmetric, and has a hole that clients may rely on; `duplicates` says which. Nesting is bounded twice: by the budget of
//! operations, which shrinks by at least one a level, and by [`TXN_LEVELS_MAX`].

use std::collections::BTreeSet;

use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};
use proto::nested::TXN_LEVELS_MAX;

use crate::{KeyRange, Rules};

/// Why a request is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// No key.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` together with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// A sort order or target that does not exist.
    #[error("invalid sort option")]
    InvalidSortOption,
    /// More operations than allowed in one list, counting the lists around it.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// One key changed twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// An operation that is none of the known kinds; etcd calls this "key not found".
    #[error("key not found")]
    NoOperation,
}

/// Checks a range request.
///
/// # Errors
/// An empty key, or an unknown sort target. An unknown sort *order* passes in 3.5, which fetches everything and does not
/// sort; 3.6 refuses it. An unknown target crashes 3.5; it is refused as 3.6 does.
pub fn range(request: &RangeRequest, rules: Rules) -> Result<(), CheckError> {
    if request.key.is_empty() {
        return Err(CheckError::EmptyKey);
    }
    if rules.refuses_unknown_order() && SortOrder::try_from(request.sort_order).is_err() {
        return Err(CheckError::InvalidSortOption);
    }
    SortTarget::try_from(request.sort_target).map_err(|_| CheckError::InvalidSortOption)?;
    Ok(())
}

/// Checks a put request.
///
/// # Errors
/// An empty key, or a value or lease given together with the flag to ignore it.
pub fn put(request: &PutRequest) -> Result<(), CheckError> {
    if request.key.is_empty() {
        return Err(CheckError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(CheckError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(CheckError::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete request.
///
/// # Errors
/// An empty key.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), CheckError> {
    if request.key.is_empty() { Err(CheckError::EmptyKey) } else { Ok(()) }
}

/// Checks a txn request; `max_ops` is the server's limit (`--max-txn-ops`).
///
/// # Errors
/// The first thing wrong, in etcd's order: number of operations, keys of compares, each operation of both branches,
/// then changes to one key twice.
pub fn txn(request: &TxnRequest, max_ops: usize, rules: Rules) -> Result<(), CheckError> {
    shape(request, max_ops, TXN_LEVELS_MAX, rules)?;
    duplicates(&request.success)?;
    duplicates(&request.failure)?;
    Ok(())
}

/// Checks counts and the operations one by one, depth first.
///
/// A nested txn has the budget that its parent left; siblings have the same budget each.
fn shape(
    request: &TxnRequest,
    budget: usize,
    nesting: usize,
    rules: Rules,
) -> Result<(), CheckError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let rest = budget.checked_sub(ops).ok_or(CheckError::TooManyOps)?;
    let nesting = nesting.checked_sub(1).ok_or(CheckError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(CheckError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match op.request.as_ref().ok_or(CheckError::NoOperation)? {
            Request::RequestRange(request) => range(request, rules)?,
            Request::RequestPut(request) => put(request)?,
            Request::RequestDeleteRange(request) => delete_range(request)?,
            Request::RequestTxn(request) => shape(request, rest, nesting, rules)?,
        }
    }
    Ok(())
}

/// What one list of operations changes, for the check of its parent.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<KeyRange<'a>>,
}

impl Touched<'_> {
    fn is_deleted(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// Collects what a list changes, and refuses a key that is changed twice.
///
/// etcd's order, which shows:
/// - this level's deletes count from the start, its puts are checked last: put and delete of one key is refused
///   whichever comes first;
/// - nested transactions are taken one after the other, and a nested put is checked against what came before, while a
///   nested delete is not: `[txn{put a}, txn{delete a}]` passes, `[txn{delete a}, txn{put a}]` does not;
/// - the two branches of one nested transaction may put the same key, since only one of them runs;
/// - a delete "from k on" counts as the empty interval: `delete [a, ∞)` with `put b` passes.
fn duplicates(ops: &[RequestOp]) -> Result<Touched<'_>, CheckError> {
    let mut touched = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            match KeyRange::new(&request.key, &request.range_end) {
                KeyRange::From(_) => {}
                range @ (KeyRange::Single(_) | KeyRange::Until(..)) => touched.deletes.push(range),
            }
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(request)) = &op.request {
            let success = duplicates(&request.success)?;
            let failure = duplicates(&request.failure)?;
            for key in success.puts.iter().chain(&failure.puts) {
                if touched.puts.contains(key) || touched.is_deleted(key) {
                    return Err(CheckError::DuplicateKey);
                }
            }
            touched.puts.extend(success.puts);
            touched.puts.extend(failure.puts);
            touched.deletes.extend(success.deletes);
            touched.deletes.extend(failure.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request {
            let key = request.key.as_ref();
            if touched.is_deleted(key) || !touched.puts.insert(key) {
                return Err(CheckError::DuplicateKey);
            }
        }
    }
    Ok(touched)
}

#[cfg(test)]
mod tests;
