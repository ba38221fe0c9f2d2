//! A prefix that all keys of clients get on their way to the cluster, and lose on their way back.
//!
//! The end of an interval gets it too; the end of all keys becomes the end of the namespace. So no client sees, or names, a key outside.
//!
//! Upstream: `client/v3/namespace` (3.6.16). Locks and elections are not in the namespace, as there.

use bytes::Bytes;
use client::prefix_end;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::{Event, KeyValue};

/// The end of an interval that has none.
const NO_END: &[u8] = b"\0";

/// The prefix; empty for none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespace {
    prefix: Bytes,
}

impl Namespace {
    pub(crate) fn new(prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.prefix.is_empty()
    }

    /// A key as the cluster knows it.
    pub(crate) fn key(&self, key: &Bytes) -> Bytes {
        if self.is_none() {
            return key.clone();
        }
        let mut whole = Vec::with_capacity(self.prefix.len().saturating_add(key.len()));
        whole.extend_from_slice(&self.prefix);
        whole.extend_from_slice(key);
        whole.into()
    }

    /// The end of an interval as the cluster knows it; empty stays empty.
    pub(crate) fn end(&self, end: &Bytes) -> Bytes {
        if end.is_empty() || self.is_none() {
            end.clone()
        } else if end == NO_END {
            prefix_end(&self.prefix)
        } else {
            self.key(end)
        }
    }

    pub(crate) fn range(&self, mut request: RangeRequest) -> RangeRequest {
        request.key = self.key(&request.key);
        request.range_end = self.end(&request.range_end);
        request
    }

    pub(crate) fn put(&self, mut request: PutRequest) -> PutRequest {
        request.key = self.key(&request.key);
        request
    }

    pub(crate) fn delete(&self, mut request: DeleteRangeRequest) -> DeleteRangeRequest {
        request.key = self.key(&request.key);
        request.range_end = self.end(&request.range_end);
        request
    }

    pub(crate) fn txn(&self, mut request: TxnRequest) -> TxnRequest {
        for Compare { key, range_end, .. } in &mut request.compare {
            *key = self.key(key);
            *range_end = self.end(range_end);
        }
        for op in request.success.iter_mut().chain(&mut request.failure) {
            self.op(op);
        }
        request
    }

    /// As deep as the decoder of messages went, which has its limit.
    fn op(&self, RequestOp { request }: &mut RequestOp) {
        *request = request.take().map(|op| match op {
            Op::RequestRange(range) => Op::RequestRange(self.range(range)),
            Op::RequestPut(put) => Op::RequestPut(self.put(put)),
            Op::RequestDeleteRange(delete) => Op::RequestDeleteRange(self.delete(delete)),
            Op::RequestTxn(txn) => Op::RequestTxn(self.txn(txn)),
        });
    }

    /// Takes the prefix off a key; one without it is none of ours and stays.
    pub(crate) fn strip(&self, key: &mut Bytes) {
        if !self.is_none() && key.starts_with(&self.prefix) {
            *key = key.slice(self.prefix.len()..);
        }
    }

    /// Of keys of the cluster those that are in here, without their prefix.
    pub(crate) fn strip_all(&self, keys: Vec<Bytes>) -> Vec<Bytes> {
        let inside = keys.into_iter().filter(|key| key.starts_with(&self.prefix));
        inside.map(|key| key.slice(self.prefix.len()..)).collect()
    }

    fn strip_pairs<'a>(&self, pairs: impl IntoIterator<Item = &'a mut KeyValue>) {
        for pair in pairs {
            self.strip(&mut pair.key);
        }
    }

    pub(crate) fn strip_range(&self, response: &mut RangeResponse) {
        self.strip_pairs(&mut response.kvs);
    }

    pub(crate) fn strip_put(&self, response: &mut PutResponse) {
        self.strip_pairs(&mut response.prev_kv);
    }

    pub(crate) fn strip_delete(&self, response: &mut DeleteRangeResponse) {
        self.strip_pairs(&mut response.prev_kvs);
    }

    pub(crate) fn strip_txn(&self, response: &mut TxnResponse) {
        for ResponseOp { response } in &mut response.responses {
            match response {
                Some(Answer::ResponseRange(range)) => self.strip_range(range),
                Some(Answer::ResponsePut(put)) => self.strip_put(put),
                Some(Answer::ResponseDeleteRange(delete)) => self.strip_delete(delete),
                Some(Answer::ResponseTxn(txn)) => self.strip_txn(txn),
                None => {}
            }
        }
    }

    pub(crate) fn strip_events(&self, events: &mut [Event]) {
        for event in events {
            self.strip_pairs(&mut event.kv);
            self.strip_pairs(&mut event.prev_kv);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn intervals_stay_inside() {
        let namespace = Namespace::new("ns/");
        for (key, end, whole_key, whole_end) in [
            ("a", "", "ns/a", ""),
            ("a", "b", "ns/a", "ns/b"),
            ("a", "\0", "ns/a", "ns0"),
            ("", "\0", "ns/", "ns0"),
        ] {
            let request =
                RangeRequest { key: bytes(key), range_end: bytes(end), ..RangeRequest::default() };
            let whole = namespace.range(request);
            assert_eq!((whole.key, whole.range_end), (bytes(whole_key), bytes(whole_end)));
        }
        let last = Namespace::new(vec![0xff, 0xff]);
        assert_eq!(last.end(&bytes("\0")), bytes("\0"));
    }

    #[test]
    fn transactions_are_rewritten_in_their_depth() {
        let namespace = Namespace::new("ns/");
        let put = |key| {
            let put = PutRequest { key: bytes(key), ..PutRequest::default() };
            RequestOp { request: Some(Op::RequestPut(put)) }
        };
        let txn = |key| TxnRequest {
            compare: vec![Compare { key: bytes(key), ..Compare::default() }],
            success: vec![put(key)],
            failure: Vec::new(),
        };
        let nested = RequestOp { request: Some(Op::RequestTxn(txn("b"))) };
        let whole = namespace.txn(TxnRequest { failure: vec![nested], ..txn("a") });
        let expected = RequestOp { request: Some(Op::RequestTxn(txn("ns/b"))) };
        assert_eq!(whole, TxnRequest { failure: vec![expected], ..txn("ns/a") });
    }

    #[test]
    fn keys_of_others_are_left_out() {
        let namespace = Namespace::new("ns/");
        assert_eq!(namespace.strip_all(vec![bytes("ns/a"), bytes("b")]), [bytes("a")]);
        let none = Namespace::default();
        assert_eq!(none.strip_all(vec![bytes("b")]), [bytes("b")]);
    }
}
