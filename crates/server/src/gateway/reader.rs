//! Reads a message from JSON by its descriptor, with the rules of the gateway that a version of etcd has.
//!
//! What a value is, the [scanner](super::scan) has made sure of: here is only what it means. Nothing is copied but what becomes part of
//! the message, and what no field takes is passed over without a look.
//!
//! | | v1 (etcd 3.5) | v2 (from 3.6 on) |
//! | --- | --- | --- |
//! | a field that comes twice | the last counts | refused |
//! | two of a choice | the later in the descriptor counts | refused |
//! | a name that an enum does not have | refused | as if the field were not there |
//! | 64-bit integers | digits, quoted or not | `1.0` and `1e1` too |
//! | 32-bit integers and enums as text | not for enums | not for enums |
//! | base64 | the standard alphabet, padded | also the other one, and without padding |
//! | `null` in a list, or as the whole | the zero value | refused |
//!
//! Line feeds in base64 are passed over in both.
//!
//! Upstream: golang/protobuf's jsonpb (1.5), protobuf-go's protojson (1.36).

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::Dialect;
use super::scan::{Progress, Scanner};

/// Messages within messages: 49 transactions in one another, which are two each, and what the innermost does. The answer nests as
/// deep and has a pair more within; it is read with the library's limit of 100 before it is written as JSON.
const DEPTH_MAX: usize = 99;
/// Sum of the depths of all values of a message. Encoding looks at a value once for each message that it is in, to find their
/// lengths; so this bounds the time that a body can take. Ten thousand operations of a transaction come to a fiftieth of it.
const DEPTH_SUM_MAX: usize = 4_000_000;
/// Digits of a number with all its zeros; no integer has as many.
const DIGITS_MAX: usize = 40;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
const PADDED: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
const UNPADDED: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone);

static STANDARD_PADDED: GeneralPurpose = GeneralPurpose::new(&STANDARD, PADDED);
static STANDARD_UNPADDED: GeneralPurpose = GeneralPurpose::new(&STANDARD, UNPADDED);
static URL_SAFE_PADDED: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, PADDED);
static URL_SAFE_UNPADDED: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, UNPADDED);

/// Reads one message from the text of a value; or says what is wrong with it, nearly in Go's words.
pub(super) fn read(
    dialect: Dialect,
    descriptor: &MessageDescriptor,
    json: &[u8],
) -> Result<DynamicMessage, String> {
    let mut reader = Reader { json, at: 0, dialect, depth_sum: 0 };
    let token = reader.token()?;
    reader.message(descriptor, token, 0)
}

/// The text, and how far it is read.
struct Reader<'a> {
    json: &'a [u8],
    at: usize,
    dialect: Dialect,
    /// Of the values so far, see [`DEPTH_SUM_MAX`].
    depth_sum: usize,
}

/// The beginning of an object or a list, the end of one, a comma or a colon; or all of another value.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Token<'a> {
    /// What it begins with, which is enough to know what it is.
    fn first(self) -> u8 {
        self.text.first().copied().unwrap_or_default()
    }

    fn shown(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.text)
    }

    /// What is between the quotes, if there are any.
    fn unquoted(self) -> &'a [u8] {
        let inner = self.text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        inner.unwrap_or(self.text)
    }

    fn is_number(self) -> bool {
        self.first() == b'-' || self.first().is_ascii_digit()
    }

    /// What Go calls its kind.
    fn kind(self) -> &'static str {
        match self.first() {
            b'{' => "object",
            b'[' => "array",
            b'"' => "string",
            b't' | b'f' => "bool",
            _ => "number",
        }
    }
}

impl<'a> Reader<'a> {
    /// The next token, past blanks.
    fn token(&mut self) -> Result<Token<'a>, String> {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        let at = self.at;
        let rest = self.json.get(at..).unwrap_or_default();
        let length = match rest.first() {
            None => return Err("unexpected EOF".to_owned()),
            Some(b'{' | b'}' | b'[' | b']' | b',' | b':') => 1,
            Some(b'"') => quoted_length(rest),
            Some(_) => rest
                .iter()
                .position(|byte| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace())
                .unwrap_or(rest.len()),
        };
        self.at += length;
        Ok(Token { text: rest.get(..length).unwrap_or(rest), at })
    }

    /// Passes over what is left of the value that begins so.
    fn skip(&mut self, first: Token<'_>) -> Result<(), String> {
        let mut open = 0_usize;
        let mut token = first;
        loop {
            match token.first() {
                b'{' | b'[' => open += 1,
                b'}' | b']' => open = open.saturating_sub(1),
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
            token = self.token()?;
        }
    }

    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        first: Token<'_>,
        depth: usize,
    ) -> Result<DynamicMessage, String> {
        let mut message = DynamicMessage::new(descriptor.clone());
        match (first.text, self.dialect) {
            (b"null", Dialect::V1) => return Ok(message),
            (b"{", _) if depth < DEPTH_MAX => {}
            (b"{", _) => return Err("exceeded max recursion depth".to_owned()),
            (_, Dialect::V1) => return Err(misfit(first, "map[string]json.RawMessage")),
            (_, Dialect::V2) => return Err(self.unexpected(first)),
        }
        let mut seen: Vec<u32> = Vec::new();
        loop {
            let name = self.token()?;
            match name.first() {
                b'}' => return Ok(message),
                b',' => continue,
                _ => {}
            }
            self.token()?;
            let value = self.token()?;
            let text = self.text(name)?;
            let known = descriptor
                .get_field_by_json_name(&text)
                .or_else(|| descriptor.get_field_by_name(&text));
            let Some(field) = known else {
                self.skip(value)?;
                continue;
            };
            let is_repeated = seen.contains(&field.number());
            if is_repeated && self.dialect == Dialect::V2 {
                return Err(self.refusal(name, &format!("duplicate field {}", name.shown())));
            }
            if !is_repeated {
                seen.push(field.number());
            }
            if value.text == b"null" {
                message.clear_field(&field);
                continue;
            }
            self.field(&mut message, &field, (name, value), depth)?;
        }
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        (name, first): (Token<'_>, Token<'_>),
        depth: usize,
    ) -> Result<(), String> {
        if field.is_list() {
            let list = self.list(field, first, depth)?;
            message.set_field(field, Value::List(list));
            return Ok(());
        }
        let others = field.containing_oneof().and_then(|choice| {
            let other = choice.fields().find(|other| other != field && message.has_field(other))?;
            Some((choice, other))
        });
        if let (Dialect::V2, Some((choice, _))) = (self.dialect, &others) {
            let text = format!(
                "error parsing {}, oneof {} is already set",
                name.shown(),
                choice.full_name()
            );
            return Err(self.refusal(name, &text));
        }
        let Some(value) = self.value(field, first, depth)? else { return Ok(()) };
        if others.is_none_or(|(_, other)| other.number() < field.number()) {
            message.set_field(field, value);
        }
        Ok(())
    }

    fn list(
        &mut self,
        field: &FieldDescriptor,
        first: Token<'_>,
        depth: usize,
    ) -> Result<Vec<Value>, String> {
        if first.first() != b'[' {
            return Err(match self.dialect {
                Dialect::V1 => misfit(first, "[]json.RawMessage"),
                Dialect::V2 => self.unexpected(first),
            });
        }
        let mut list = Vec::new();
        loop {
            let element = self.token()?;
            match element.first() {
                b']' => return Ok(list),
                b',' => {}
                _ => list.extend(self.value(field, element, depth)?),
            }
        }
    }

    /// The value of a field, or one of several; `None` if it is to be passed over.
    fn value(
        &mut self,
        field: &FieldDescriptor,
        first: Token<'_>,
        depth: usize,
    ) -> Result<Option<Value>, String> {
        self.depth_sum = self.depth_sum.saturating_add(depth + 1);
        if self.depth_sum > DEPTH_SUM_MAX {
            return Err("too many values so deep within messages".to_owned());
        }
        let kind = field.kind();
        if let Kind::Message(descriptor) = &kind {
            return self.message(descriptor, first, depth + 1).map(Value::Message).map(Some);
        }
        match self.dialect {
            Dialect::V1 => self.scalar_v1(&kind, first),
            Dialect::V2 => match self.scalar_v2(&kind, first)? {
                Scalar::Value(value) => Ok(Some(value)),
                Scalar::Unknown => Ok(None),
                Scalar::Misfit => {
                    let (kind, name) = (name_of(&kind), field.json_name());
                    let text = format!("invalid value for {kind} field {name}: {}", first.shown());
                    Err(self.refusal(first, &text))
                }
            },
        }
    }

    fn scalar_v2(&self, kind: &Kind, token: Token<'_>) -> Result<Scalar, String> {
        let is_text = token.first() == b'"';
        let number = || -> Option<String> {
            let text = if is_text { token.unquoted() } else { token.text };
            is_number(text).then(|| whole(text)).flatten()
        };
        let found = match kind {
            Kind::Bool => boolean(token),
            Kind::String if is_text => Some(Value::String(self.text(token)?)),
            Kind::Bytes if is_text => {
                base64_of_any(&self.text(token)?).map(|bytes| Value::Bytes(Bytes::from(bytes)))
            }
            Kind::Enum(names) if is_text => {
                let Some(value) = names.get_value_by_name(&self.text(token)?) else {
                    return Ok(Scalar::Unknown);
                };
                Some(Value::EnumNumber(value.number()))
            }
            Kind::Enum(_) if is_text => None,
            Kind::Double
            | Kind::Float
            | Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Sfixed32
            | Kind::Sfixed64
            | Kind::Enum(_) => number().and_then(|digits| integer(kind, &digits)),
            Kind::String | Kind::Bytes | Kind::Message(_) => None,
        };
        Ok(found.map_or(Scalar::Misfit, Scalar::Value))
    }

    fn scalar_v1(&mut self, kind: &Kind, token: Token<'_>) -> Result<Option<Value>, String> {
        if token.text == b"null" {
            // In a list.
            return Ok(Some(Value::default_value(kind)));
        }
        let is_text = token.first() == b'"';
        let found = match kind {
            Kind::Bool => boolean(token).ok_or("bool"),
            Kind::String if is_text => Ok(Value::String(self.text(token)?)),
            Kind::String => Err("string"),
            Kind::Bytes if is_text => {
                return base64_of_standard(&self.text(token)?)
                    .map(|bytes| Some(Value::Bytes(Bytes::from(bytes))));
            }
            Kind::Bytes => Err("[]uint8"),
            Kind::Enum(names) if is_text => {
                let value = names.get_value_by_name(&String::from_utf8_lossy(token.unquoted()));
                return match value {
                    Some(value) => Ok(Some(Value::EnumNumber(value.number()))),
                    None => Err(format!(
                        "unknown value {:?} for enum {}",
                        token.shown(),
                        names.full_name()
                    )),
                };
            }
            Kind::Double
            | Kind::Float
            | Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Sfixed32
            | Kind::Sfixed64
            | Kind::Message(_)
            | Kind::Enum(_) => {
                let inner = token.unquoted().trim_ascii();
                let digits = Token { text: inner, ..token };
                if is_text && !is_number(inner) {
                    return Err(not_a_number(inner));
                }
                let text = String::from_utf8_lossy(inner);
                return match integer(kind, &text) {
                    Some(value) => Ok(Some(value)),
                    None if digits.is_number() => Err(format!(
                        "json: cannot unmarshal number {text} into Go value of type {}",
                        name_of(kind)
                    )),
                    None => Err(misfit(token, name_of(kind))),
                };
            }
        };
        let misfit = |go_type| misfit(token, go_type);
        if found.is_err() {
            self.skip(token)?;
        }
        found.map(Some).map_err(misfit)
    }

    /// What a string says.
    fn text(&self, token: Token<'_>) -> Result<String, String> {
        if std::str::from_utf8(token.text).is_err() {
            return Err(self.syntax_error(token, "invalid UTF-8 in string"));
        }
        serde_json::from_slice(token.text)
            .map_err(|_| self.syntax_error(token, &format!("invalid string {}", token.shown())))
    }

    fn unexpected(&self, token: Token<'_>) -> String {
        self.syntax_error(token, &format!("unexpected token {}", token.shown()))
    }

    fn syntax_error(&self, token: Token<'_>, what: &str) -> String {
        format!("proto: syntax error {}: {what}", self.place(token))
    }

    fn refusal(&self, token: Token<'_>, what: &str) -> String {
        format!("proto: {}: {what}", self.place(token))
    }

    /// Line and column.
    fn place(&self, token: Token<'_>) -> String {
        let before = String::from_utf8_lossy(self.json.get(..token.at).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
        format!("(line {line}:{column})")
    }
}

/// What a value of v2 comes to.
enum Scalar {
    Value(Value),
    /// A name that an enum does not have.
    Unknown,
    Misfit,
}

/// Bytes of a string with its quotes.
fn quoted_length(text: &[u8]) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Go's words for a value of the wrong kind, in v1.
fn misfit(token: Token<'_>, go_type: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {go_type}", token.kind())
}

/// Go's words for a text that should hold a number, in v1.
fn not_a_number(text: &[u8]) -> String {
    let mut scanner = Scanner::new();
    for &byte in text {
        if let Err(why) = scanner.step(byte) {
            return why;
        }
    }
    "unexpected end of JSON input".to_owned()
}

fn boolean(token: Token<'_>) -> Option<Value> {
    match token.text {
        b"true" => Some(Value::Bool(true)),
        b"false" => Some(Value::Bool(false)),
        _ => None,
    }
}

/// Whether this is one number of JSON, and nothing else.
fn is_number(text: &[u8]) -> bool {
    let begins = text.first().is_some_and(|byte| *byte == b'-' || byte.is_ascii_digit());
    let mut scanner = Scanner::new();
    begins
        && text.iter().all(|&byte| matches!(scanner.step(byte), Ok(Progress::Within)))
        && scanner.finish().is_ok_and(|has_value| has_value)
        && !text.iter().any(u8::is_ascii_whitespace)
}

/// The digits of a number of JSON that is whole, whatever it is written like; `None` if it is not, or far too large.
fn whole(number: &[u8]) -> Option<String> {
    let number = std::str::from_utf8(number).ok()?;
    let (number, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (before, after) = number.split_once('.').unwrap_or((number, ""));
    let mut digits = format!("{before}{after}");
    let after_point = i64::try_from(after.len()).ok()?;
    let zeros = exponent.parse::<i64>().ok()?.checked_sub(after_point)?;
    if digits.bytes().all(|digit| digit == b'0') {
        return Some(format!("{sign}0"));
    }
    if zeros < 0 {
        let kept = digits.len().checked_sub(usize::try_from(zeros.unsigned_abs()).ok()?)?;
        let fraction = digits.split_off(kept);
        if fraction.bytes().any(|digit| digit != b'0') {
            return None;
        }
    } else {
        let zeros = usize::try_from(zeros).ok().filter(|zeros| *zeros <= DIGITS_MAX)?;
        digits.extend(std::iter::repeat_n('0', zeros));
    }
    Some(format!("{sign}{digits}"))
}

/// An integer of that kind, if it is in its range.
fn integer(kind: &Kind, digits: &str) -> Option<Value> {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => digits.parse().ok().map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => digits.parse().ok().map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => digits.parse().ok().map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => digits.parse().ok().map(Value::U64),
        Kind::Enum(_) => digits.parse().ok().map(Value::EnumNumber),
        // No request of etcd has fields of other kinds.
        Kind::Double | Kind::Float | Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_) => {
            None
        }
    }
}

/// The name of a kind of value, which is that of Go's type if it is a number.
fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "int32",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "int64",
        Kind::Uint32 | Kind::Fixed32 => "uint32",
        Kind::Uint64 | Kind::Fixed64 => "uint64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(_) => "message",
        Kind::Enum(_) => "enum",
    }
}

/// Base64 of either alphabet; its length says whether it is padded.
fn base64_of_any(text: &str) -> Option<Vec<u8>> {
    let engine = match (text.contains(['-', '_']), text.len().is_multiple_of(4)) {
        (false, true) => &STANDARD_PADDED,
        (false, false) => &STANDARD_UNPADDED,
        (true, true) => &URL_SAFE_PADDED,
        (true, false) => &URL_SAFE_UNPADDED,
    };
    engine.decode(&*without_line_feeds(text)).ok()
}

fn base64_of_standard(text: &str) -> Result<Vec<u8>, String> {
    let text = without_line_feeds(text);
    STANDARD_PADDED.decode(&*text).map_err(|error| {
        let at = if let base64::DecodeError::InvalidByte(at, _) = error {
            at
        } else {
            text.len() / 4 * 4
        };
        format!("illegal base64 data at input byte {at}")
    })
}

fn without_line_feeds(text: &str) -> Cow<'_, str> {
    match text.contains(['\r', '\n']) {
        true => Cow::Owned(text.replace(['\r', '\n'], "")),
        false => Cow::Borrowed(text),
    }
}
