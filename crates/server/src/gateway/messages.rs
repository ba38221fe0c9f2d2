//! Between JSON and encoded messages, by descriptor.
//!
//! In: fields under etcd's name or in lowerCamelCase, unknown ones ignored, `null` unset; bytes in base64 of either
//! alphabet, padded or not; 64-bit integers as strings or numbers; enums by name or number. Out: etcd's names, base64 in
//! the standard alphabet, 64-bit integers as strings, enums by name, nothing that has its zero value.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

const READING: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);
const WRITING: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// Encodes the message that a JSON value describes.
pub(super) fn from_json(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let json = json.trim_ascii();
    if json.first() != Some(&b'{') {
        return Err(not_an_object(json));
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut json, &READING)
        .map_err(|error| unreadable(&error))?;
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

/// A value of another kind than a message's, in Go's words.
fn not_an_object(json: &[u8]) -> Status {
    // As much of it as Go's reader takes for one token.
    let token = match json.first() {
        Some(b'[') => &json[..1],
        Some(_) | None => json,
    };
    let token = String::from_utf8_lossy(token);
    Status::invalid_argument(format!("proto: syntax error (line 1:1): unexpected token {token}"))
}

/// A field with a value that does not fit. The place is where its value ends, where Go's is where it begins.
fn unreadable(error: &serde_json::Error) -> Status {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    Status::invalid_argument(format!("proto: (line {line}:{column}): {what}"))
}
