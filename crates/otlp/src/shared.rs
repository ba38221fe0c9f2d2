//! The call to a collector, of a message that is kept for another try: it is encoded where it lies.

use std::sync::Arc;

use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::wire::{ExportTraceServiceRequest, ExportTraceServiceResponse};

/// The path of the call.
pub(crate) const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Takes messages that others keep.
#[derive(Debug, Default)]
pub(crate) struct SharedCodec;

impl Codec for SharedCodec {
    type Encode = Arc<ExportTraceServiceRequest>;
    type Decode = ExportTraceServiceResponse;
    type Encoder = SharedEncoder;
    type Decoder = ProstDecoder<ExportTraceServiceResponse>;

    fn encoder(&mut self) -> SharedEncoder {
        SharedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<ExportTraceServiceRequest, ExportTraceServiceResponse>::default().decoder()
    }
}

/// See [`SharedCodec`].
#[derive(Debug)]
pub(crate) struct SharedEncoder;

impl Encoder for SharedEncoder {
    type Item = Arc<ExportTraceServiceRequest>;
    type Error = Status;

    fn encode(&mut self, message: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // A message has a length of 32 bits, and a batch is far shorter.
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}
