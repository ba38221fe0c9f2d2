//! Finds where a JSON value ends, byte by byte, and says what is wrong with it in Go's words.
//!
//! A body is a row of values with or without blanks between them, and a stream's values have to be seen as they arrive:
//! neither a reader of whole texts nor one of lines will do. Each byte is looked at once, so that a body in pieces of one
//! byte costs no more than a whole one. What the values mean is found out elsewhere.
//!
//! Upstream: scanner.go of Go's encoding/json.

/// Values nest this deep in Go at most.
const DEPTH_MAX: usize = 10_000;

/// What a byte means for the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The value is not complete; before it, there may be blanks.
    Within,
    /// The byte is the value's last.
    Complete,
    /// The value, a number, ended before this byte.
    CompleteBefore,
}

/// A scanner of one value.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// The containers that are open, the innermost last.
    open: Vec<Container>,
    is_blank: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    /// After `[`.
    ValueOrClose,
    /// After `{`.
    KeyOrClose,
    /// After `,` in an object.
    Key,
    /// In a string; a key or a value.
    Text {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    /// Hexadecimal digits still to come.
    Hex {
        is_key: bool,
        digits: u8,
    },
    AfterKey,
    AfterValue,
    /// In `true`, `false` or `null`, so many letters in.
    Word {
        word: &'static str,
        letters: usize,
    },
    Number(Number),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    /// A leading zero, which no digit may follow.
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { state: State::Value, open: Vec::new(), is_blank: true }
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, byte: u8) -> Result<Progress, String> {
        if self.may_be_blank() && matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return Ok(Progress::Within);
        }
        self.is_blank = false;
        match self.state {
            State::Value => self.value(byte),
            State::ValueOrClose if byte == b']' => Ok(self.close()),
            State::ValueOrClose => self.value(byte),
            State::KeyOrClose if byte == b'}' => Ok(self.close()),
            State::KeyOrClose | State::Key if byte == b'"' => {
                self.go_to(State::Text { is_key: true })
            }
            State::KeyOrClose | State::Key => {
                Err(invalid(byte, "looking for beginning of object key string"))
            }
            State::AfterKey if byte == b':' => self.go_to(State::Value),
            State::AfterKey => Err(invalid(byte, "after object key")),
            State::AfterValue => self.after_value(byte),
            State::Text { is_key } => self.text(byte, is_key),
            State::Escape { is_key } => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {
                    self.go_to(State::Text { is_key })
                }
                b'u' => self.go_to(State::Hex { is_key, digits: 4 }),
                _ => Err(invalid(byte, "in string escape code")),
            },
            State::Hex { is_key, digits } => match (byte.is_ascii_hexdigit(), digits) {
                (true, 1) => self.go_to(State::Text { is_key }),
                (true, _) => self.go_to(State::Hex { is_key, digits: digits - 1 }),
                (false, _) => Err(invalid(byte, "in \\u hexadecimal character escape")),
            },
            State::Word { word, letters } => self.word(byte, word, letters),
            State::Number(number) => self.number(byte, number),
        }
    }

    /// Says whether there is a value when nothing comes any more.
    pub(super) fn finish(&self) -> Result<bool, String> {
        use Number::{ExponentDigits, Fraction, Whole, Zero};
        let is_number =
            matches!(self.state, State::Number(Zero | Whole | Fraction | ExponentDigits));
        if self.is_blank {
            Ok(false)
        } else if is_number && self.open.is_empty() {
            Ok(true)
        } else {
            Err("unexpected EOF".to_owned())
        }
    }

    fn may_be_blank(&self) -> bool {
        match self.state {
            State::Value
            | State::ValueOrClose
            | State::KeyOrClose
            | State::Key
            | State::AfterKey
            | State::AfterValue => true,
            State::Text { .. }
            | State::Escape { .. }
            | State::Hex { .. }
            | State::Word { .. }
            | State::Number(_) => false,
        }
    }

    fn go_to(&mut self, state: State) -> Result<Progress, String> {
        self.state = state;
        Ok(Progress::Within)
    }

    fn value(&mut self, byte: u8) -> Result<Progress, String> {
        let word = |word| State::Word { word, letters: 1 };
        match byte {
            b'{' => self.open(Container::Object, State::KeyOrClose),
            b'[' => self.open(Container::Array, State::ValueOrClose),
            b'"' => self.go_to(State::Text { is_key: false }),
            b'-' => self.go_to(State::Number(Number::Minus)),
            b'0' => self.go_to(State::Number(Number::Zero)),
            b'1'..=b'9' => self.go_to(State::Number(Number::Whole)),
            b't' => self.go_to(word("true")),
            b'f' => self.go_to(word("false")),
            b'n' => self.go_to(word("null")),
            _ => Err(invalid(byte, "looking for beginning of value")),
        }
    }

    fn open(&mut self, container: Container, state: State) -> Result<Progress, String> {
        if self.open.len() == DEPTH_MAX {
            return Err("exceeded max depth".to_owned());
        }
        self.open.push(container);
        self.go_to(state)
    }

    fn close(&mut self) -> Progress {
        self.open.pop();
        self.end_value()
    }

    fn end_value(&mut self) -> Progress {
        self.state = State::AfterValue;
        if self.open.is_empty() { Progress::Complete } else { Progress::Within }
    }

    fn after_value(&mut self, byte: u8) -> Result<Progress, String> {
        match (self.open.last(), byte) {
            (Some(Container::Object), b',') => self.go_to(State::Key),
            (Some(Container::Object), b'}') | (Some(Container::Array), b']') => Ok(self.close()),
            (Some(Container::Object), _) => Err(invalid(byte, "after object key:value pair")),
            (Some(Container::Array), b',') => self.go_to(State::Value),
            (Some(Container::Array), _) => Err(invalid(byte, "after array element")),
            (None, _) => Err(invalid(byte, "after top-level value")),
        }
    }

    fn text(&mut self, byte: u8, is_key: bool) -> Result<Progress, String> {
        match byte {
            b'"' if is_key => self.go_to(State::AfterKey),
            b'"' => Ok(self.end_value()),
            b'\\' => self.go_to(State::Escape { is_key }),
            0..0x20 => Err(invalid(byte, "in string literal")),
            _ => Ok(Progress::Within),
        }
    }

    fn word(&mut self, byte: u8, word: &'static str, letters: usize) -> Result<Progress, String> {
        match word.as_bytes().get(letters) {
            Some(&expected) if expected != byte => {
                let expected = char::from(expected);
                Err(invalid(byte, &format!("in literal {word} (expecting '{expected}')")))
            }
            _ if letters + 1 == word.len() => Ok(self.end_value()),
            _ => self.go_to(State::Word { word, letters: letters + 1 }),
        }
    }

    fn number(&mut self, byte: u8, number: Number) -> Result<Progress, String> {
        use Number::{Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Whole, Zero};
        let next = match (number, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Whole, b'0'..=b'9') => Whole,
            (Minus, _) => return Err(invalid(byte, "in numeric literal")),
            (Zero | Whole, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Point, _) => return Err(invalid(byte, "after decimal point in numeric literal")),
            (Zero | Whole | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Exponent | ExponentSign, _) => {
                return Err(invalid(byte, "in exponent of numeric literal"));
            }
            // The number has ended, and the byte belongs to what comes next.
            (Zero | Whole | Fraction | ExponentDigits, _) => {
                return match self.end_value() {
                    Progress::Complete => Ok(Progress::CompleteBefore),
                    Progress::Within | Progress::CompleteBefore => self.step(byte),
                };
            }
        };
        self.go_to(State::Number(next))
    }
}

fn invalid(byte: u8, place: &str) -> String {
    format!("invalid character {} {place}", quoted(byte))
}

/// A byte as Go shows it in an error.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..0x20 | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..0xa0 => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a text into its values; then what is wrong with the rest, if anything.
    fn split(text: &str) -> (Vec<&str>, Result<(), String>) {
        let (mut scanner, mut values, mut start, mut at) = (Scanner::new(), Vec::new(), 0, 0);
        while at < text.len() {
            let end = match scanner.step(text.as_bytes()[at]) {
                Ok(Progress::Within) => {
                    at += 1;
                    continue;
                }
                Ok(Progress::Complete) => at + 1,
                Ok(Progress::CompleteBefore) => at,
                Err(what) => return (values, Err(what)),
            };
            values.push(text[start..end].trim());
            (scanner, start, at) = (Scanner::new(), end, end);
        }
        let rest = scanner.finish().map(|has_value| {
            if has_value {
                values.push(text[start..].trim());
            }
        });
        (values, rest)
    }

    #[test]
    fn values_are_found() {
        for (text, expected) in [
            ("", vec![]),
            (" \r\n\t", vec![]),
            ("{}", vec!["{}"]),
            ("{}{} {}\n", vec!["{}", "{}", "{}"]),
            (
                r#"{"a":{"b":[1,-2.5e+3,true,false,null,"}]"]}}x"#,
                vec![r#"{"a":{"b":[1,-2.5e+3,true,false,null,"}]"]}}"#],
            ),
            (r#"{"a":"\"\\\u00e9é"} "#, vec![r#"{"a":"\"\\\u00e9é"}"#]),
            ("12 0.5 -0", vec!["12", "0.5", "-0"]),
            ("[] \"a\"null1", vec!["[]", "\"a\"", "null", "1"]),
            ("[ ] { } [ 1 , 2 ] { \"a\" : 0 }", vec!["[ ]", "{ }", "[ 1 , 2 ]", "{ \"a\" : 0 }"]),
        ] {
            assert_eq!(split(text).0, expected, "{text}");
        }
    }

    #[test]
    fn errors_are_go_s() {
        for (text, expected) in [
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("'", r"invalid character '\'' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[tru]", "invalid character ']' in literal true (expecting 'e')"),
            ("\"\n\"", r"invalid character '\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", r"invalid character 'g' in \u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("{", "unexpected EOF"),
            ("\"abc", "unexpected EOF"),
            ("1.", "unexpected EOF"),
            ("\u{7f}", r"invalid character '\x7f' looking for beginning of value"),
            ("é", "invalid character 'Ã' looking for beginning of value"),
        ] {
            assert_eq!(split(text).1, Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(split(&"[".repeat(DEPTH_MAX)).1, Err("unexpected EOF".to_owned()));
        assert_eq!(split(&"[".repeat(DEPTH_MAX + 1)).1, Err("exceeded max depth".to_owned()));
    }
}
