//! Execution of requests, in etcd's order: compares of the whole tree, checks of the branches taken, then the operations.
//!
//! - Every compare, nested ones too, sees the state before the transaction.
//! - What could fail is checked before anything is written. 3.5 checks all puts first, then all ranges; 3.6 goes in the
//!   order of the operations; which error wins is all that shows. Every member checks, also one that owes nobody an
//!   answer: etcd up to 3.6 did not, and could diverge.
//! - Then the operations run in order and cannot fail, except for damage on this member's disk, which is fatal.
//!
//! Nesting is bounded by the decoder and by [`proto::nested::TXN_LEVELS_MAX`].

use std::cell::Cell;

use proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
        RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};

use crate::{
    Error, KeyRange, RequestError, StorageError, WriteTxn,
    check::CheckError,
    index::Found,
    range::{Plan, message, parse},
    row::RowView,
    shared::{Source, Wanted},
};

/// Executes a put.
pub(crate) fn put(txn: &mut WriteTxn<'_>, request: &PutRequest) -> Result<PutResponse, Error> {
    let previous = if request.ignore_value || request.ignore_lease || request.prev_kv {
        get(&txn.source(), &request.key)?
    } else {
        None
    };
    let (mut value, mut lease) = (request.value.clone(), request.lease);
    if request.ignore_value || request.ignore_lease {
        let previous = previous.as_ref().ok_or(RequestError::KeyNotFound)?;
        if request.ignore_value {
            value = previous.value.clone();
        }
        if request.ignore_lease {
            lease = previous.lease;
        }
    }
    txn.put(&request.key, &value, lease);
    Ok(PutResponse {
        header: header(txn.revision()),
        prev_kv: previous.filter(|_| request.prev_kv),
    })
}

/// Executes a delete.
pub(crate) fn delete_range(
    txn: &mut WriteTxn<'_>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Error> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let mut prev_kvs = Vec::new();
    if request.prev_kv {
        let source = txn.source();
        source.scan(range, source.at, &mut |_, _| Wanted::Yes, &mut |run| {
            for found in run {
                prev_kvs.push(message(&source.row(found.modified)?, *found)?);
            }
            Ok(())
        })?;
    }
    let deleted = txn.delete_range(range);
    Ok(DeleteRangeResponse { header: header(txn.revision()), deleted, prev_kvs })
}

/// Executes a txn that may write.
pub(crate) fn write(
    txn: &mut WriteTxn<'_>,
    request: &TxnRequest,
    lease_exists: &dyn Fn(i64) -> bool,
) -> Result<TxnResponse, Error> {
    let taken = {
        let source = txn.source();
        let taken = Taken::choose(&source, request)?;
        let mut deleted = Vec::new();
        if source.rules().checks_in_order() {
            taken.check(&mut |op| {
                check_put(&source, op, lease_exists, &mut deleted)?;
                check_range(&source, op)
            })?;
        } else {
            taken.check(&mut |op| check_put(&source, op, lease_exists, &mut deleted))?;
            taken.check(&mut |op| check_range(&source, op))?;
        }
        taken
    };
    let mut response = run(&taken, &mut |op| match op {
        Request::RequestRange(request) => {
            Ok(Response::ResponseRange(range(&txn.source(), request)?))
        }
        Request::RequestPut(request) => Ok(Response::ResponsePut(put(txn, request)?)),
        Request::RequestDeleteRange(request) => {
            Ok(Response::ResponseDeleteRange(delete_range(txn, request)?))
        }
        Request::RequestTxn(_) => Err(malformed()),
    })?;
    response.header = header(txn.revision());
    Ok(response)
}

/// Executes a txn that only reads.
pub(crate) fn read(source: &Source<'_>, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let taken = Taken::choose(source, request)?;
    taken.check(&mut |op| check_range(source, op))?;
    let mut response = run(&taken, &mut |op| match op {
        Request::RequestRange(request) => Ok(Response::ResponseRange(range(source, request)?)),
        Request::RequestPut(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => {
            Err(malformed())
        }
    })?;
    response.header = header(source.current);
    Ok(response)
}

/// The branches taken: what each compare of the tree decided.
struct Taken<'r> {
    succeeded: bool,
    ops: &'r [RequestOp],
    /// One for each nested txn among `ops`, in order.
    nested: Vec<Taken<'r>>,
}

impl<'r> Taken<'r> {
    /// Evaluates the compares of a txn and of the txns nested in the branch that it takes.
    fn choose(source: &Source<'_>, request: &'r TxnRequest) -> Result<Self, Error> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !holds(source, compare)? {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut nested = Vec::new();
        for op in ops {
            if let Some(Request::RequestTxn(request)) = &op.request {
                nested.push(Taken::choose(source, request)?);
            }
        }
        Ok(Taken { succeeded, ops, nested })
    }

    /// Calls `check` for every operation that will run, in order.
    fn check(&self, check: &mut dyn FnMut(&'r Request) -> Result<(), Error>) -> Result<(), Error> {
        let mut nested = self.nested.iter();
        for op in self.ops {
            match op.request.as_ref().ok_or_else(malformed)? {
                Request::RequestTxn(_) => nested.next().ok_or_else(malformed)?.check(check)?,
                op @ (Request::RequestRange(_)
                | Request::RequestPut(_)
                | Request::RequestDeleteRange(_)) => check(op)?,
            }
        }
        Ok(())
    }
}

/// Runs the operations of the branches taken; the header of nested responses stays empty, as etcd leaves it.
fn run(
    taken: &Taken<'_>,
    execute: &mut dyn FnMut(&Request) -> Result<Response, Error>,
) -> Result<TxnResponse, Error> {
    let mut nested = taken.nested.iter();
    let mut responses = Vec::with_capacity(taken.ops.len());
    for op in taken.ops {
        let response = match op.request.as_ref().ok_or_else(malformed)? {
            Request::RequestTxn(_) => {
                Response::ResponseTxn(run(nested.next().ok_or_else(malformed)?, execute)?)
            }
            op @ (Request::RequestRange(_)
            | Request::RequestPut(_)
            | Request::RequestDeleteRange(_)) => execute(op)?,
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(TxnResponse {
        header: Some(ResponseHeader::default()),
        succeeded: taken.succeeded,
        responses,
    })
}

/// Executes a range inside a txn; its revision was checked.
fn range(source: &Source<'_>, request: &RangeRequest) -> Result<RangeResponse, Error> {
    let plan = Plan::new(request, source.rules()).map_err(RequestError::Malformed)?;
    let at = if request.revision <= 0 { source.at } else { request.revision };
    let answer = plan.answer(source, KeyRange::new(&request.key, &request.range_end), at)?;
    Ok(answer.into_response()?)
}

/// Checks what a put needs to exist, in the state before the txn. `deleted` collects the deletes that come before it.
///
/// The hole in the duplicate check lets a put with `ignore_value` follow a delete of its key. etcd ends the process then;
/// here the txn is refused while nothing is written.
fn check_put<'r>(
    source: &Source<'_>,
    op: &'r Request,
    lease_exists: &dyn Fn(i64) -> bool,
    deleted: &mut Vec<KeyRange<'r>>,
) -> Result<(), Error> {
    match op {
        Request::RequestPut(request) => {
            let lacks_lease = request.lease != 0 && !lease_exists(request.lease);
            let no_lease = || RequestError::LeaseNotFound { lease: request.lease };
            if lacks_lease && source.rules().checks_leases_first() {
                return Err(no_lease().into());
            }
            if request.ignore_value || request.ignore_lease {
                let is_deleted = deleted.iter().any(|range| range.contains(&request.key));
                if is_deleted || source.find(&request.key, source.at)?.is_none() {
                    return Err(RequestError::KeyNotFound.into());
                }
            }
            if lacks_lease {
                return Err(no_lease().into());
            }
        }
        Request::RequestDeleteRange(request) => {
            deleted.push(KeyRange::new(&request.key, &request.range_end))
        }
        Request::RequestRange(_) | Request::RequestTxn(_) => {}
    }
    Ok(())
}

/// Checks the revision of a range. Unlike outside of a txn, a negative one is compared as it is (etcd's quirk): -5 is
/// compacted, and so is -1 once there was a compaction.
fn check_range(source: &Source<'_>, op: &Request) -> Result<(), Error> {
    let Request::RequestRange(request) = op else { return Ok(()) };
    Plan::new(request, source.rules()).map_err(RequestError::Malformed)?;
    let requested = request.revision;
    if requested > source.current {
        Err(RequestError::FutureRevision { requested, current: source.current }.into())
    } else if requested != 0 && requested < source.compacted {
        Err(RequestError::Compacted { requested, compacted: source.compacted }.into())
    } else {
        Ok(())
    }
}

/// Evaluates one compare: it must hold for every key of its range.
fn holds(source: &Source<'_>, compare: &Compare) -> Result<bool, Error> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let target = CompareTarget::try_from(compare.target);
    let holds = Cell::new(true);
    let mut seen = false;
    let target = target.ok();
    match range {
        KeyRange::Single(key) => {
            if let Some(found) = source.find(key, source.at)? {
                seen = true;
                holds.set(pair(source, target, found, compare)?);
            }
        }
        KeyRange::Until(..) | KeyRange::From(_) => {
            // Rows may have to be read, so the pairs are compared a run at a time, outside of the index's lock.
            let mut want = |_: &[u8], _| if holds.get() { Wanted::Yes } else { Wanted::NoMore };
            source.scan(range, source.at, &mut want, &mut |run| {
                seen = true;
                for found in run {
                    if !pair(source, target, *found, compare)? {
                        holds.set(false);
                        break;
                    }
                }
                Ok(())
            })?;
        }
    }
    if seen {
        return Ok(holds.get());
    }
    // Nothing there counts as one pair of zeros; but no value is not an empty value.
    if target == Some(CompareTarget::Value) {
        return Ok(false);
    }
    Ok(compare_pair(compare, target, &RowView::default()))
}

/// Evaluates a compare for one pair, without reading its row if the index knows what is compared.
fn pair(
    source: &Source<'_>,
    target: Option<CompareTarget>,
    found: Found,
    compare: &Compare,
) -> Result<bool, StorageError> {
    match target {
        Some(CompareTarget::Value | CompareTarget::Lease) => {
            let row = source.row(found.modified)?;
            Ok(compare_pair(compare, target, &parse(&row, found)?))
        }
        Some(CompareTarget::Version | CompareTarget::Create | CompareTarget::Mod) | None => {
            let known = RowView {
                create_revision: found.created,
                mod_revision: found.modified.main,
                version: found.version,
                ..RowView::default()
            };
            Ok(compare_pair(compare, target, &known))
        }
    }
}

/// Compares one pair. An operand of another kind than the target, or none, counts as zero; an unknown target as equal; an
/// unknown result as true.
fn compare_pair(compare: &Compare, target: Option<CompareTarget>, pair: &RowView<'_>) -> bool {
    let operand = compare.target_union.as_ref();
    let order = match target {
        Some(CompareTarget::Value) => {
            let value = match operand {
                Some(TargetUnion::Value(value)) => value.as_ref(),
                _ => &[],
            };
            pair.value.cmp(value)
        }
        Some(CompareTarget::Version) => pair.version.cmp(&match operand {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Some(CompareTarget::Create) => pair.create_revision.cmp(&match operand {
            Some(TargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        Some(CompareTarget::Mod) => pair.mod_revision.cmp(&match operand {
            Some(TargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        Some(CompareTarget::Lease) => pair.lease.cmp(&match operand {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        None => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// Reads one pair.
fn get(source: &Source<'_>, key: &[u8]) -> Result<Option<KeyValue>, StorageError> {
    let Some(found) = source.find(key, source.at)? else { return Ok(None) };
    message(&source.row(found.modified)?, found).map(Some)
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// An operation without a kind, or a write in a txn that only reads: `check` and the server's routing let none pass.
fn malformed() -> Error {
    RequestError::Malformed(CheckError::NoOperation).into()
}
