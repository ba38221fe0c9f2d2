//! An encoded message, field by field.

use bytes::Bytes;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// A field of an encoded message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// Key and value as they stand there.
    pub(crate) whole: Bytes,
    /// What is in a string, a message or bytes; `None` for a field of another kind.
    pub(crate) content: Option<Bytes>,
}

/// Takes the next field off an encoded message; `None` at its end.
///
/// # Errors
/// Bytes that are no field. Groups, which etcd has none of, are passed over to a depth that the stack stands.
pub(crate) fn take(rest: &mut Bytes) -> Result<Option<Field>, DecodeError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let mut whole = rest.clone();
    let (number, wire_type) = decode_key(rest)?;
    let mut content = rest.clone();
    skip_field(wire_type, number, rest, DecodeContext::default())?;
    whole.truncate(whole.len() - rest.len());
    let content = if wire_type == WireType::LengthDelimited {
        decode_varint(&mut content)?;
        content.truncate(content.len() - rest.len());
        Some(content)
    } else {
        None
    };
    Ok(Some(Field { number, whole, content }))
}
