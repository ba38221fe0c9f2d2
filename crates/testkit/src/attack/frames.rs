//! HTTP/2 by hand: frames and header blocks that no library would send. RFC 9113, RFC 7541.

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub(super) const INITIAL_WINDOW: u16 = 4;

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The preface and a SETTINGS frame with these.
pub(super) fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    [PREFACE, &frame(kind::SETTINGS, 0, 0, &payload)].concat()
}

/// A header as a literal that no table keeps.
pub(super) fn header(name: &str, value: &[u8]) -> Vec<u8> {
    let mut block = vec![0];
    push_len(&mut block, name.len());
    block.extend_from_slice(name.as_bytes());
    push_len(&mut block, value.len());
    block.extend_from_slice(value);
    block
}

/// A length in front of a string that is not Huffman coded: RFC 7541, 5.1, with a prefix of seven bits.
fn push_len(block: &mut Vec<u8>, len: usize) {
    const PREFIX: usize = 127;
    let Some(mut rest) = len.checked_sub(PREFIX) else {
        block.push(u8::try_from(len).unwrap_or(0));
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap_or(0));
}

/// The headers of a gRPC call.
pub(super) fn call(path: &str) -> Vec<u8> {
    [
        header(":method", b"POST"),
        header(":scheme", b"http"),
        header(":path", path.as_bytes()),
        header(":authority", b"attack"),
        header("content-type", b"application/grpc"),
        header("te", b"trailers"),
    ]
    .concat()
}

/// A HEADERS frame that begins a gRPC call.
pub(super) fn begin(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, &call(path))
}

/// A message behind its prefix, in a DATA frame.
pub(super) fn message(stream: u32, flags: u8, message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut payload = vec![0];
    payload.extend_from_slice(&len);
    payload.extend_from_slice(message);
    frame(kind::DATA, flags, stream, &payload)
}

/// A field of a protobuf message that has a length.
pub(super) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let len = u8::try_from(content.len()).unwrap_or(0);
    [&[number << 3 | 2, len], content].concat()
}

/// Key and end of the range of all keys with that prefix, as ranges and watches both have them.
pub(super) fn range_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    [field(1, prefix.as_bytes()), field(2, &end)].concat()
}

/// The number of the stream that a client opens as its n-th.
pub(super) fn stream(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(0) * 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_a_header_are_as_the_standards_have_them() {
        assert_eq!(frame(kind::PING, 1, 3, b"ab"), [0, 0, 2, 6, 1, 0, 0, 0, 3, b'a', b'b']);
        assert_eq!(header("a", b"b"), [0, 1, b'a', 1, b'b']);
        // RFC 7541, C.1.2, with another prefix: 1337 = 127 + 1210, and 1210 = 9 * 128 + 58.
        assert_eq!(header("a", &[0; 1337])[3..6], [127, 58 + 128, 9]);
        assert_eq!(stream(1), 3);
    }
}
