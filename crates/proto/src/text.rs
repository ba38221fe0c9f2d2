//! Text that is not UTF-8.
//!
//! Protobuf wants it to be, but the encoder and decoder of etcd 3.5 and 3.6 do not look: what a client of theirs calls a role
//! may be any bytes, in their log and in their rows. A member of ours reads it as text that can be told apart: each byte that is
//! no UTF-8 stands as U+FFFD and two hexadecimal digits ([`spelled`]). All members read it alike, so they refuse and admit
//! alike. Members of ours do not take such text from clients.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::DecodeError;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::fields;

/// Before the digits of a byte.
const MARK: char = char::REPLACEMENT_CHARACTER;

/// Where the text of a message is.
enum Shape {
    Text,
    Message(&'static [(u32, Shape)]),
}

use Shape::{Message, Text};

const ONE: &[(u32, Shape)] = &[(1, Text)];
const TWO: &[(u32, Shape)] = &[(1, Text), (2, Text)];
const V2: &[(u32, Shape)] = &[(2, Text), (3, Text), (4, Text), (6, Text)];

/// Text in `InternalRaftRequest`.
const REQUEST: &[(u32, Shape)] = &[
    (2, Message(V2)),
    (100, Message(&[(2, Text)])),
    // Users.
    (1012, Message(&[(1, Text), (2, Text), (3, Text)])),
    (1100, Message(&[(1, Text), (2, Text), (4, Text)])),
    (1101, Message(ONE)),
    (1102, Message(ONE)),
    (1103, Message(&[(1, Text), (2, Text), (3, Text)])),
    (1104, Message(TWO)),
    (1105, Message(TWO)),
    // Roles, whose permissions are bytes.
    (1200, Message(ONE)),
    (1201, Message(ONE)),
    (1202, Message(ONE)),
    (1203, Message(ONE)),
    (1204, Message(ONE)),
    // The cluster.
    (1300, Message(ONE)),
    (1301, Message(&[(2, Message(TWO))])),
    (1302, Message(&[(2, Text)])),
    (9900, Message(ONE)),
];

/// Text in `authpb.User`: the roles. Its name is bytes.
const USER: &[(u32, Shape)] = &[(3, Text)];

/// An encoded `InternalRaftRequest` with its text [`spelled`]; `None` if all of it is UTF-8, or it is something else.
pub fn mend_request(bytes: &Bytes) -> Option<Bytes> {
    mend(bytes, REQUEST).ok()?
}

/// An encoded `etcdserverpb.Request` (of the v2 API), likewise.
pub fn mend_v2_request(bytes: &Bytes) -> Option<Bytes> {
    mend(bytes, V2).ok()?
}

/// An encoded `authpb.User`, likewise.
pub fn mend_user(bytes: &Bytes) -> Option<Bytes> {
    mend(bytes, USER).ok()?
}

fn mend(bytes: &Bytes, shape: &'static [(u32, Shape)]) -> Result<Option<Bytes>, DecodeError> {
    let mut rest = bytes.clone();
    let mut mended = BytesMut::new();
    let mut is_mended = false;
    while let Some(field) = fields::take(&mut rest)? {
        let known = shape.iter().find(|(number, _)| *number == field.number);
        let changed = match (&field.content, known) {
            (Some(content), Some((_, Text))) => match spelled(content) {
                Cow::Borrowed(_) => None,
                Cow::Owned(text) => Some(Bytes::from(text)),
            },
            (Some(content), Some((_, Message(shape)))) => mend(content, shape)?,
            (None, _) | (_, None) => None,
        };
        match changed {
            None => mended.put_slice(&field.whole),
            Some(content) => {
                encode_key(field.number, WireType::LengthDelimited, &mut mended);
                encode_varint(content.len() as u64, &mut mended);
                mended.put_slice(&content);
                is_mended = true;
            }
        }
    }
    Ok(is_mended.then(|| mended.freeze()))
}

/// Text of bytes: themselves if they are UTF-8, else with each byte that is not spelled out.
pub fn spelled(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "{MARK}{byte:02x}");
        }
    }
    Cow::Owned(text)
}

/// The bytes that became this text by [`spelled`], if they are others.
pub fn unspelled(text: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split(MARK);
    let mut bytes = BytesMut::from(parts.next()?);
    let mut is_other = false;
    for part in parts {
        let digits = part.get(..2).filter(|digits| !digits.starts_with('+'));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                is_other = true;
                bytes.put_u8(byte);
                bytes.put_slice(part.as_bytes().get(2..).unwrap_or_default());
            }
            None => {
                bytes.put_slice(MARK.encode_utf8(&mut [0; 4]).as_bytes());
                bytes.put_slice(part.as_bytes());
            }
        }
    }
    // Text that only looks like it, as a mark before the digits of a letter, is somebody's own.
    is_other.then(|| bytes.freeze()).filter(|bytes| spelled(bytes).as_bytes() == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::authpb::User;
    use crate::etcdserverpb::internal_raft_request::Request as Op;
    use crate::etcdserverpb::{
        AuthRoleGrantPermissionRequest, AuthUserGrantRoleRequest, InternalRaftRequest,
        RequestHeader,
    };
    use crate::membershippb::{Attributes, ClusterMemberAttrSetRequest};

    const NAME: &str = "n\u{fffd}ffm";

    #[test]
    fn bytes_that_differ_are_text_that_differs() {
        assert_eq!(spelled(b"n\xffm"), NAME);
        assert_ne!(spelled(b"\xff"), spelled(b"\xfe"));
        for bytes in [&b"\xff\xfe"[..], b"a\xc3", b"\xe2\x82x", b"\xffab"] {
            assert_eq!(unspelled(spelled(bytes).as_bytes()).as_deref(), Some(bytes));
        }
        let looks_like_it = ["\u{fffd}72oot", "\u{fffd}FF", "\u{fffd}c3\u{fffd}a4"];
        for text in
            ["", "plain", "\u{fffd}", "\u{fffd}q0", "\u{fffd}+1"].into_iter().chain(looks_like_it)
        {
            assert_eq!(unspelled(text.as_bytes()), None, "{text}");
        }
    }

    /// The message as etcd would have it, whose text is one byte where ours spells it out.
    fn raw(message: &impl prost::Message) -> Bytes {
        // Of the same length, so that no length around it changes.
        let bytes = message.encode_to_vec();
        let text = b"PLACEHOLD";
        let mut raw = Vec::new();
        let mut rest = &bytes[..];
        while let Some(at) = rest.windows(text.len()).position(|window| window == text) {
            raw.extend_from_slice(&rest[..at]);
            raw.extend_from_slice(b"n\xffmnnnnnn");
            rest = &rest[at + text.len()..];
        }
        raw.extend_from_slice(rest);
        raw.into()
    }

    #[test]
    fn text_is_found_in_every_kind_of_request() {
        let text = || "PLACEHOLD".to_owned();
        let header = RequestHeader { id: 7, username: text(), auth_revision: 3 };
        for op in [
            Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest {
                name: text(),
                perm: None,
            }),
            Op::AuthUserGrantRole(AuthUserGrantRoleRequest { user: text(), role: text() }),
            Op::ClusterMemberAttrSet(ClusterMemberAttrSetRequest {
                member_id: 1,
                member_attributes: Some(Attributes { name: text(), client_urls: vec![text()] }),
            }),
        ] {
            let request = InternalRaftRequest {
                header: Some(header.clone()),
                request: Some(op),
                ..InternalRaftRequest::default()
            };
            let bytes = raw(&request);
            assert!(InternalRaftRequest::decode(bytes.clone()).is_err());
            let mended = mend_request(&bytes).unwrap();
            let decoded = InternalRaftRequest::decode(mended).unwrap();
            let shown = format!("{decoded:?}");
            let expected = format!("{request:?}").replace("PLACEHOLD", "n\u{fffd}ffmnnnnnn");
            assert_eq!(shown, expected);
            assert_eq!(mend_request(&Bytes::from(request.encode_to_vec())), None);
        }
    }

    #[test]
    fn roles_of_a_user_are_mended() {
        let user = User { roles: vec!["PLACEHOLD".to_owned()], ..User::default() };
        let mended = mend_user(&raw(&user)).unwrap();
        assert_eq!(User::decode(mended).unwrap().roles, ["n\u{fffd}ffmnnnnnn"]);
    }
}
