//! JSON as Go's `encoding/json` writes it.

use serde::Serialize;

/// Serializes the way Go does: also `<`, `>`, `&`, U+2028 and U+2029 are escaped, so that a row has the same bytes
/// whichever kind of member wrote it.
///
/// # Panics
/// When the value has no JSON form. Plain structs of numbers, booleans, strings and lists of them have one.
pub fn to_go_json<T: Serialize>(value: &T) -> String {
    let plain = serde_json::to_string(value)
        .expect("plain structs of numbers, booleans and strings serialize");
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return plain;
    }
    // None of these characters has a meaning in JSON's own syntax: wherever one stands, it is inside a string.
    let mut escaped = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}
