//! Answers whose bytes exist already.
//!
//! A stored row of the `key` bucket is an encoded `mvccpb.KeyValue`, which is also what a `RangeResponse` holds; an
//! event for a thousand watchers is the same bytes a thousand times. The generated services would decode the former
//! and encode the latter again for each. [`RawCodec`] lets a handler answer with anything that can write itself, see
//! [`EncodeReply`].
//!
//! The generated servers are tied to the message types, so a hot method is served beside them, by path:
//!
//! ```
//! use std::future::{Ready, ready};
//! use std::task::{Context, Poll};
//!
//! use bytes::Bytes;
//! use proto::etcdserverpb::RangeRequest;
//! use rpc::raw::{RawCodec, Reply};
//! use tonic::server::{Grpc, UnaryService};
//! use tonic::{Request, Response, Status};
//!
//! type RangeReply = Reply<proto::etcdserverpb::RangeResponse>;
//!
//! struct Range;
//!
//! impl UnaryService<RangeRequest> for Range {
//!     type Response = RangeReply;
//!     type Future = Ready<Result<Response<RangeReply>, Status>>;
//!
//!     fn call(&mut self, _request: Request<RangeRequest>) -> Self::Future {
//!         // Field 2 (kvs) of the response, straight from the store.
//!         let row = Bytes::from_static(b"\x12\x03\x0a\x01k");
//!         ready(Ok(Response::new(Reply::Encoded(vec![row]))))
//!     }
//! }
//!
//! async fn serve(request: http::Request<tonic::body::Body>) -> http::Response<tonic::body::Body> {
//!     match request.uri().path() {
//!         rpc::raw::RANGE_PATH => {
//!             let codec = RawCodec::<RangeReply, RangeRequest>::default();
//!             // Same options as generated code: .max_decoding_message_size(..) and so on.
//!             Grpc::new(codec).unary(Range, request).await
//!         }
//!         // The generated `KvServer` and the others.
//!         _ => Status::unimplemented("").into_http(),
//!     }
//! }
//! # let request = http::Request::post("/etcdserverpb.KV/Range").body(tonic::body::Body::empty());
//! # let _ = serve(request.unwrap());
//! ```

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Path of KV.Range.
pub const RANGE_PATH: &str = "/etcdserverpb.KV/Range";
/// Path of KV.RangeStream.
pub const RANGE_STREAM_PATH: &str = "/etcdserverpb.KV/RangeStream";
/// Path of KV.Put.
pub const PUT_PATH: &str = "/etcdserverpb.KV/Put";
/// Path of KV.DeleteRange.
pub const DELETE_RANGE_PATH: &str = "/etcdserverpb.KV/DeleteRange";
/// Path of KV.Txn.
pub const TXN_PATH: &str = "/etcdserverpb.KV/Txn";
/// Path of Watch.Watch.
pub const WATCH_PATH: &str = "/etcdserverpb.Watch/Watch";
/// Path of Lease.LeaseKeepAlive.
pub const LEASE_KEEP_ALIVE_PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// Bytes that a call's buffer starts with.
///
/// tonic's default is 8 KiB for each call in each direction. Most requests and answers of etcd are below 512 bytes, and
/// [`EncodeReply::size_hint`] makes room for the others in one step.
const BUFFER_BYTES: usize = 512;

/// Encoded messages that are ready at once are sent together up to about this many bytes (tonic's default).
const YIELD_BYTES: usize = 32 * 1024;

/// An answer that can write itself.
pub trait EncodeReply: Send + 'static {
    /// Returns about how many bytes [`Self::encode`] will write; room for them is made in one step.
    fn size_hint(&self) -> usize {
        0
    }

    /// Writes the encoded protobuf message, without any frame around it.
    fn encode(&self, buffer: &mut EncodeBuf<'_>);
}

/// Either a message, or parts that make up an encoded one when put one after another.
#[derive(Clone, Debug)]
pub enum Reply<T> {
    /// To be encoded.
    Message(T),
    /// Encoded already. Parts are shared, not copied, until they are written to the connection's buffer.
    Encoded(Vec<Bytes>),
}

impl<T: Message + Send + 'static> EncodeReply for Reply<T> {
    fn size_hint(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Encoded(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    fn encode(&self, buffer: &mut EncodeBuf<'_>) {
        match self {
            Self::Message(message) => message.encode_raw(buffer),
            Self::Encoded(parts) => {
                for part in parts {
                    buffer.put_slice(part);
                }
            }
        }
    }
}

/// A tonic codec that writes `R` and reads the prost message `Q`. Server side; a client sees ordinary messages.
#[derive(Debug)]
pub struct RawCodec<R, Q> {
    marker: PhantomData<fn(R) -> Q>,
}

impl<R, Q> Default for RawCodec<R, Q> {
    fn default() -> Self {
        Self { marker: PhantomData }
    }
}

impl<R, Q> Clone for RawCodec<R, Q> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<R: EncodeReply, Q: Message + Default + Send + 'static> Codec for RawCodec<R, Q> {
    type Encode = R;
    type Decode = Q;
    type Encoder = RawEncoder<R>;
    type Decoder = RawDecoder<Q>;

    fn encoder(&mut self) -> Self::Encoder {
        RawEncoder { marker: PhantomData }
    }

    fn decoder(&mut self) -> Self::Decoder {
        RawDecoder { marker: PhantomData }
    }
}

/// Writing half of [`RawCodec`].
#[derive(Debug)]
pub struct RawEncoder<R> {
    marker: PhantomData<fn(R)>,
}

impl<R: EncodeReply> Encoder for RawEncoder<R> {
    type Item = R;
    type Error = Status;

    fn encode(&mut self, item: R, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.size_hint());
        item.encode(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// Reading half of [`RawCodec`].
#[derive(Debug)]
pub struct RawDecoder<Q> {
    marker: PhantomData<fn() -> Q>,
}

impl<Q: Message + Default> Decoder for RawDecoder<Q> {
    type Item = Q;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Q>, Status> {
        // The code and the beginning of the text are grpc-go's.
        let decoded = Q::decode(buffer).map_err(|error| {
            Status::internal(format!("grpc: error unmarshalling request: {error}"))
        })?;
        Ok(Some(decoded))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

#[cfg(test)]
mod tests;
