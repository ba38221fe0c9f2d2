//! What a request needs: each key that it reads or writes, or could, in whatever branch of a transaction.
//!
//! A caller gets the whole of a request or nothing of it. The order of the checks is etcd's; it decides no more than which of
//! two refusals is told.

use std::sync::Arc;

use proto::etcdserverpb::request_op::Request as TxnOp;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use crate::{Caller, Error, Snapshot};

/// The keys that hang on a lease; none when there is no such lease.
pub type LeasedKeys<'a> = &'a dyn Fn(i64) -> Vec<Arc<[u8]>>;

impl Snapshot {
    /// Writing the key; reading it if the old value is asked for; and all that revoking the lease would need, since the key
    /// is to hang on it.
    pub fn check_put(
        &self,
        caller: Caller<'_>,
        request: &PutRequest,
        leased: LeasedKeys<'_>,
    ) -> Result<(), Error> {
        self.check_write(caller, &request.key, &[])?;
        if request.lease != 0 {
            self.check_lease_writes(caller, request.lease, leased)?;
        }
        if request.prev_kv { self.check_read(caller, &request.key, &[]) } else { Ok(()) }
    }

    /// Writing the range; reading it if the old values are asked for.
    pub fn check_delete_range(
        &self,
        caller: Caller<'_>,
        request: &DeleteRangeRequest,
    ) -> Result<(), Error> {
        self.check_write(caller, &request.key, &request.range_end)?;
        if request.prev_kv {
            self.check_read(caller, &request.key, &request.range_end)
        } else {
            Ok(())
        }
    }

    /// Reading what is compared, and all that the operations of both branches need, however deep.
    ///
    /// Recursion is bounded by the decoder's depth ([`proto::nested::TXN_LEVELS_MAX`]).
    pub fn check_txn(
        &self,
        caller: Caller<'_>,
        request: &TxnRequest,
        leased: LeasedKeys<'_>,
    ) -> Result<(), Error> {
        for compare in &request.compare {
            self.check_read(caller, &compare.key, &compare.range_end)?;
        }
        request
            .success
            .iter()
            .chain(&request.failure)
            .try_for_each(|op| self.check_operation(caller, op, leased))
    }

    fn check_operation(
        &self,
        caller: Caller<'_>,
        op: &RequestOp,
        leased: LeasedKeys<'_>,
    ) -> Result<(), Error> {
        match &op.request {
            Some(TxnOp::RequestRange(range)) => {
                self.check_read(caller, &range.key, &range.range_end)
            }
            Some(TxnOp::RequestPut(put)) => self.check_put(caller, put, leased),
            Some(TxnOp::RequestDeleteRange(delete)) => self.check_delete_range(caller, delete),
            Some(TxnOp::RequestTxn(txn)) => self.check_txn(caller, txn, leased),
            None => Ok(()),
        }
    }

    /// Writing every key that hangs on the lease: what revoking or renewing it needs.
    pub fn check_lease_writes(
        &self,
        caller: Caller<'_>,
        lease: i64,
        leased: LeasedKeys<'_>,
    ) -> Result<(), Error> {
        if self.check_admin(caller).is_ok() {
            return Ok(());
        }
        leased(lease).iter().try_for_each(|key| self.check_write(caller, key, &[]))
    }

    /// Reading every key that hangs on the lease: what listing them needs.
    pub fn check_lease_reads(
        &self,
        caller: Caller<'_>,
        lease: i64,
        leased: LeasedKeys<'_>,
    ) -> Result<(), Error> {
        if self.check_admin(caller).is_ok() {
            return Ok(());
        }
        leased(lease).iter().try_for_each(|key| self.check_read(caller, key, &[]))
    }
}
