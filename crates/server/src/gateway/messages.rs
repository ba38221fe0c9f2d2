//! Between JSON and encoded messages, by descriptor.
//!
//! In: see [`reader`]. Out: etcd's names, base64 in the standard alphabet, 64-bit integers as strings, enums by name, nothing
//! that has its zero value.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

use super::{Dialect, reader};

const WRITING: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// Encodes the message that a JSON value describes.
pub(super) fn from_json(
    dialect: Dialect,
    descriptor: &MessageDescriptor,
    json: &[u8],
) -> Result<Bytes, Status> {
    let message = reader::read(dialect, descriptor, json).map_err(Status::invalid_argument)?;
    Ok(message.encode_to_vec().into())
}

/// Writes an encoded message as JSON.
pub(super) fn to_json(descriptor: &MessageDescriptor, encoded: Bytes) -> Result<Vec<u8>, Status> {
    let mut json = Vec::with_capacity(2 * encoded.len());
    write_json(descriptor, encoded, &mut json)?;
    Ok(json)
}

/// Writes an encoded message as JSON behind what is there.
pub(super) fn write_json(
    descriptor: &MessageDescriptor,
    encoded: Bytes,
    json: &mut Vec<u8>,
) -> Result<(), Status> {
    let message = DynamicMessage::decode(descriptor.clone(), encoded).map_err(|error| {
        Status::internal(format!("grpc: failed to unmarshal the received message: {error}"))
    })?;
    message
        .serialize_with_options(&mut serde_json::Serializer::new(json), &WRITING)
        .map_err(|error| Status::internal(format!("failed to marshal response: {error}")))
}
