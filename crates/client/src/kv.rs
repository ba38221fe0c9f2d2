//! Key-value calls.

use bytes::Bytes;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use rpc::etcdserverpb::kv_client::KvClient;

use crate::client::Client;
use crate::error::Result;
use crate::retry::Policy;

impl Client {
    /// Reads keys.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.call(Policy::Repeatable, request, |transport, request| async move {
            KvClient::new(transport).max_decoding_message_size(usize::MAX).range(request).await
        })
        .await
    }

    /// Writes a key.
    pub async fn put_with(&self, request: PutRequest) -> Result<PutResponse> {
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            KvClient::new(transport).max_decoding_message_size(usize::MAX).put(request).await
        })
        .await
    }

    /// Deletes keys.
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse> {
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            KvClient::new(transport)
                .max_decoding_message_size(usize::MAX)
                .delete_range(request)
                .await
        })
        .await
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse> {
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            KvClient::new(transport).max_decoding_message_size(usize::MAX).txn(request).await
        })
        .await
    }

    /// Drops history up to a revision.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse> {
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            KvClient::new(transport).compact(request).await
        })
        .await
    }

    /// Writes one key without options.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<PutResponse> {
        self.put_with(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
            .await
    }

    /// Reads one key without options.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<RangeResponse> {
        self.range(RangeRequest { key: key.into(), ..RangeRequest::default() }).await
    }

    /// Deletes one key without options.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteRangeResponse> {
        self.delete_range(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() })
            .await
    }
}

/// The end of the range of all keys with a prefix: the prefix with its last byte below 0xff raised, or NUL (no end) if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(raised) = last.checked_add(1) {
            end.push(raised);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(&[0])
}

/// Key and range end of a request for all keys with a prefix; the empty prefix is every key.
pub fn range_of_prefix(prefix: Bytes) -> (Bytes, Bytes) {
    if prefix.is_empty() {
        return (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
    }
    let end = prefix_end(&prefix);
    (prefix, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends() {
        let check = |prefix: &[u8], end: &[u8]| assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        check(b"a", b"b");
        check(b"a\xff", b"b");
        check(b"a\xff\xff", b"b");
        check(b"\xff\xff", b"\0");
        check(b"", b"\0");
    }
}
