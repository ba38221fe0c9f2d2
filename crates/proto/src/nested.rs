//! Messages that hold transactions in transactions, decoded as deep as etcd takes them.
//!
//! The decoder of protobuf messages gives up at 100 messages, which is 49 nested transactions, and one less in the log, where there
//! is one more message around them: what a client may send could not be read there. Its limit cannot be moved, and without one any
//! message of anybody could exhaust the stack (groups in unknown fields nest as well). So it stays, and what is too deep for it is
//! taken apart here, along the one path that may be deep.
//!
//! Whatever decodes as a request decodes as an entry of the log, since both count the same levels. Whoever walks through a
//! transaction may recurse: [`TXN_LEVELS_MAX`] levels fit the stack of every thread.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::etcdserverpb::internal_raft_request::Request as Op;
use crate::etcdserverpb::request_op::Request as TxnOp;
use crate::etcdserverpb::response_op::Response as TxnAnswer;
use crate::etcdserverpb::{InternalRaftRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse};
use crate::fields;

/// Most transactions in one another, the outermost included.
///
/// etcd bounds them by its limit on operations, of which each level but the last takes one: 128 by default. With a higher
/// `--max-txn-ops` etcd takes deeper ones.
pub const TXN_LEVELS_MAX: usize = 129;

/// Why bytes are not such a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NestedError {
    /// More than [`TXN_LEVELS_MAX`] transactions in one another.
    TooDeep,
    /// Not the message at all.
    Malformed(prost::DecodeError),
}

impl fmt::Display for NestedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => {
                write!(f, "more than {TXN_LEVELS_MAX} transactions are nested in one another")
            }
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NestedError {}

impl From<prost::DecodeError> for NestedError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A message with transactions in it.
pub trait Nested: Message + Default + Sized {
    /// So many transactions may be in this message; itself, if it is one, does not count.
    #[doc(hidden)]
    const LEVELS: usize = TXN_LEVELS_MAX - 1;

    /// Merges a field that leads to further transactions, of which so many may be nested here. `false`: it is another field.
    #[doc(hidden)]
    fn merge_nested(
        &mut self,
        number: u32,
        content: &Bytes,
        levels: usize,
    ) -> Result<bool, NestedError>;

    /// Decodes the message; to be used instead of [`Message::decode`].
    ///
    /// # Errors
    /// [`NestedError`], never an exhausted stack.
    fn decode_nested(bytes: Bytes) -> Result<Self, NestedError> {
        let error = match Self::decode(bytes.clone()) {
            Ok(message) => return Ok(message),
            Err(error) => error,
        };
        let mut message = Self::default();
        match merge(&mut message, bytes, Self::LEVELS) {
            Ok(()) => Ok(message),
            Err(NestedError::TooDeep) => Err(NestedError::TooDeep),
            // The first says where in the message it is.
            Err(NestedError::Malformed(_)) => Err(error.into()),
        }
    }
}

fn merge<M: Nested>(message: &mut M, mut bytes: Bytes, levels: usize) -> Result<(), NestedError> {
    while let Some(field) = fields::take(&mut bytes)? {
        let is_nested = match &field.content {
            Some(content) => message.merge_nested(field.number, content, levels)?,
            None => false,
        };
        if !is_nested {
            message.merge(field.whole)?;
        }
    }
    Ok(())
}

/// One level further in. What stood in the field already, `before`, is added to, as protobuf has it.
fn merge_level<M: Nested>(
    before: Option<M>,
    content: &Bytes,
    levels: usize,
) -> Result<M, NestedError> {
    let rest = levels.checked_sub(1).ok_or(NestedError::TooDeep)?;
    let mut message = before.unwrap_or_default();
    merge(&mut message, content.clone(), rest)?;
    Ok(message)
}

impl Nested for InternalRaftRequest {
    const LEVELS: usize = TXN_LEVELS_MAX;

    fn merge_nested(
        &mut self,
        number: u32,
        content: &Bytes,
        levels: usize,
    ) -> Result<bool, NestedError> {
        if number != 6 {
            return Ok(false);
        }
        let before = match self.request.take() {
            Some(Op::Txn(txn)) => Some(txn),
            Some(_) | None => None,
        };
        self.request = Some(Op::Txn(merge_level(before, content, levels)?));
        Ok(true)
    }
}

impl Nested for TxnRequest {
    fn merge_nested(
        &mut self,
        number: u32,
        content: &Bytes,
        levels: usize,
    ) -> Result<bool, NestedError> {
        let operations = match number {
            2 => &mut self.success,
            3 => &mut self.failure,
            _ => return Ok(false),
        };
        let mut operation = RequestOp::default();
        merge(&mut operation, content.clone(), levels)?;
        operations.push(operation);
        Ok(true)
    }
}

impl Nested for RequestOp {
    fn merge_nested(
        &mut self,
        number: u32,
        content: &Bytes,
        levels: usize,
    ) -> Result<bool, NestedError> {
        if number != 4 {
            return Ok(false);
        }
        let before = match self.request.take() {
            Some(TxnOp::RequestTxn(txn)) => Some(txn),
            Some(_) | None => None,
        };
        self.request = Some(TxnOp::RequestTxn(merge_level(before, content, levels)?));
        Ok(true)
    }
}

impl Nested for TxnResponse {
    fn merge_nested(
        &mut self,
        number: u32,
        content: &Bytes,
        levels: usize,
    ) -> Result<bool, NestedError> {
        if number != 3 {
            return Ok(false);
        }
        let mut answer = ResponseOp::default();
        merge(&mut answer, content.clone(), levels)?;
        self.responses.push(answer);
        Ok(true)
    }
}

impl Nested for ResponseOp {
    fn merge_nested(
        &mut self,
        number: u32,
        content: &Bytes,
        levels: usize,
    ) -> Result<bool, NestedError> {
        if number != 4 {
            return Ok(false);
        }
        let before = match self.response.take() {
            Some(TxnAnswer::ResponseTxn(txn)) => Some(txn),
            Some(_) | None => None,
        };
        self.response = Some(TxnAnswer::ResponseTxn(merge_level(before, content, levels)?));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::{PutRequest, RequestHeader};

    /// So many transactions in one another, with a put in the innermost.
    fn nest(levels: usize) -> TxnRequest {
        let put = PutRequest { key: Bytes::from_static(b"k"), ..Default::default() };
        let mut op = TxnOp::RequestPut(put);
        for level in 1..levels {
            let inner = vec![RequestOp { request: Some(op) }];
            // Both branches lead on.
            op = TxnOp::RequestTxn(match level % 2 {
                0 => TxnRequest { success: inner, ..Default::default() },
                _ => TxnRequest { failure: inner, ..Default::default() },
            });
        }
        TxnRequest { success: vec![RequestOp { request: Some(op) }], ..Default::default() }
    }

    fn nest_answers(levels: usize) -> TxnResponse {
        let mut answer = TxnResponse::default();
        for _ in 1..levels {
            let op = ResponseOp { response: Some(TxnAnswer::ResponseTxn(answer)) };
            answer = TxnResponse { responses: vec![op], succeeded: true, ..Default::default() };
        }
        answer
    }

    fn entry(txn: TxnRequest) -> InternalRaftRequest {
        InternalRaftRequest {
            header: Some(RequestHeader { id: 7, ..Default::default() }),
            request: Some(Op::Txn(txn)),
            ..Default::default()
        }
    }

    #[track_caller]
    fn passes<M: Nested + PartialEq>(message: &M) {
        let bytes = Bytes::from(message.encode_to_vec());
        assert!(M::decode_nested(bytes).is_ok_and(|decoded| decoded == *message));
    }

    #[test]
    fn whatever_is_a_request_is_an_entry() {
        for levels in [1, 2, 48, 49, 50, 51, 52, 100, TXN_LEVELS_MAX] {
            passes(&nest(levels));
            passes(&nest_answers(levels));
            passes(&entry(nest(levels)));
        }
        let deeper = nest(TXN_LEVELS_MAX + 1);
        let bytes = Bytes::from(deeper.encode_to_vec());
        assert_eq!(TxnRequest::decode_nested(bytes), Err(NestedError::TooDeep));
        let bytes = Bytes::from(entry(deeper).encode_to_vec());
        assert_eq!(InternalRaftRequest::decode_nested(bytes), Err(NestedError::TooDeep));
        let bytes = Bytes::from(nest_answers(TXN_LEVELS_MAX + 1).encode_to_vec());
        assert_eq!(TxnResponse::decode_nested(bytes), Err(NestedError::TooDeep));
    }

    /// What a hostile client may send, without a message of ours that is as deep.
    fn hostile(levels: usize, fields: &[u8]) -> Bytes {
        let mut reversed: Vec<u8> = Vec::new();
        for _ in 0..levels {
            for field in fields.iter().rev() {
                let mut length = Vec::new();
                prost::encoding::encode_varint(reversed.len() as u64, &mut length);
                reversed.extend(length.iter().rev());
                reversed.push(field << 3 | 2);
            }
        }
        reversed.reverse();
        reversed.into()
    }

    #[test]
    fn no_depth_exhausts_the_stack() {
        const LEVELS: usize = 100_000;
        let txn = hostile(LEVELS, &[2, 4]);
        assert_eq!(TxnRequest::decode_nested(txn.clone()), Err(NestedError::TooDeep));
        let mut entry = vec![6 << 3 | 2];
        prost::encoding::encode_varint(txn.len() as u64, &mut entry);
        entry.extend_from_slice(&txn);
        assert_eq!(InternalRaftRequest::decode_nested(entry.into()), Err(NestedError::TooDeep));
        assert_eq!(TxnResponse::decode_nested(hostile(LEVELS, &[3, 4])), Err(NestedError::TooDeep));
        // A group in a group, under a number that no message has.
        let groups = Bytes::from(vec![15 << 3 | 3; LEVELS]);
        assert!(matches!(TxnRequest::decode_nested(groups), Err(NestedError::Malformed(_))));
    }

    #[test]
    fn what_comes_twice_is_merged_as_ever() {
        // Twice the same operation of the outermost one, and another kind of it between two deep ones.
        let deep = nest(60).encode_to_vec();
        let op = nest(60).success[0].encode_to_vec();
        let mut twice = deep.clone();
        twice.extend_from_slice(&deep);
        let decoded = TxnRequest::decode_nested(twice.into()).unwrap();
        assert_eq!(decoded.success, [nest(60).success, nest(60).success].concat());
        // A message field that comes twice is one message: two operations in the nested transaction.
        let decoded: RequestOp =
            RequestOp::decode_nested([op.clone(), op].concat().into()).unwrap();
        let Some(TxnOp::RequestTxn(txn)) = decoded.request else { panic!("no txn") };
        assert_eq!(txn.success.len() + txn.failure.len(), 2);
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let mut bytes = nest(60).encode_to_vec();
        bytes.pop();
        let bytes = Bytes::from(bytes);
        assert!(matches!(TxnRequest::decode_nested(bytes), Err(NestedError::Malformed(_))));
    }
}
