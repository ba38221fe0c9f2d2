//! A member's answer, in the model's words.

use machine::Response;
use proto::etcdserverpb::response_op::Response as OpResponse;

use crate::model::Told;

/// What an outcome tells.
pub(in crate::server) fn of_outcome(outcome: &machine::Outcome) -> Told {
    let Ok(answer) = outcome else { return Told { is_refused: true, ..Told::default() } };
    let mut pairs = Vec::new();
    let number = match &answer.response {
        Response::Put(put) => {
            pairs.extend(put.prev_kv.clone());
            0
        }
        Response::DeleteRange(delete) => {
            pairs.extend(delete.prev_kvs.iter().cloned());
            delete.deleted
        }
        Response::Txn(txn) => {
            for op in &txn.responses {
                match &op.response {
                    Some(OpResponse::ResponsePut(put)) => pairs.extend(put.prev_kv.clone()),
                    Some(OpResponse::ResponseDeleteRange(delete)) => {
                        pairs.extend(delete.prev_kvs.iter().cloned());
                    }
                    Some(OpResponse::ResponseRange(range)) => {
                        pairs.extend(range.kvs.iter().cloned());
                    }
                    Some(OpResponse::ResponseTxn(_)) | None => {}
                }
            }
            i64::from(txn.succeeded)
        }
        Response::LeaseGrant(grant) => grant.ttl,
        Response::Done | Response::Alarms(_) | Response::Members(_) | Response::Auth(_) => 0,
    };
    Told { is_refused: false, revision: answer.revision, number, pairs }
}
