//! The codec of KV.Txn, whose messages may be nested deeper than the decoder of protobuf messages goes; see [`proto::nested`].
//!
//! Both the generated client and the generated server use it: whatever they are in (a member, a proxy, a program of ours) takes
//! as deep a transaction as etcd.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use proto::etcdserverpb::{TxnRequest, TxnResponse};
use proto::nested::{Nested, NestedError};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::errors::Error;

/// A message of KV.Txn.
pub trait TxnMessage: Nested {
    /// What is said of one that is too deep.
    fn too_deep() -> Status;
}

impl TxnMessage for TxnRequest {
    fn too_deep() -> Status {
        // Each level is an operation.
        Error::TooManyOps.into()
    }
}

impl TxnMessage for TxnResponse {
    fn too_deep() -> Status {
        Status::internal(NestedError::TooDeep.to_string())
    }
}

/// A codec that writes `E` and reads `D`.
#[derive(Debug)]
pub struct NestedCodec<E, D> {
    marker: PhantomData<fn(E) -> D>,
}

impl<E, D> Default for NestedCodec<E, D> {
    fn default() -> Self {
        Self { marker: PhantomData }
    }
}

impl<E: Message + Send + 'static, D: TxnMessage + Send + 'static> Codec for NestedCodec<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = ProstEncoder<E>;
    type Decoder = NestedDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        NestedDecoder { marker: PhantomData }
    }
}

/// Reading half of [`NestedCodec`].
#[derive(Debug)]
pub struct NestedDecoder<D> {
    marker: PhantomData<fn() -> D>,
}

impl<D: TxnMessage> Decoder for NestedDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        // Shares the buffer.
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        match D::decode_nested(bytes) {
            Ok(message) => Ok(Some(message)),
            Err(NestedError::TooDeep) => Err(D::too_deep()),
            Err(NestedError::Malformed(error)) => Err(Status::internal(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
