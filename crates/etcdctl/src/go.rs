//! How Go's standard library reads and writes values, where etcd's flags, outputs and error texts show it.

use std::time::Duration;

/// `%q` of a string that may hold any bytes: invalid UTF-8 becomes `\xNN`.
///
/// What counts as printable follows Rust's tables; they may differ from Go's for characters added to Unicode in between.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_quoted(&mut text, c);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

fn push_quoted(text: &mut String, c: char) {
    match c {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\x07' => text.push_str("\\a"),
        '\x08' => text.push_str("\\b"),
        '\x0c' => text.push_str("\\f"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\x0b' => text.push_str("\\v"),
        c if is_print(c) => text.push(c),
        c if c < ' ' || c == '\x7f' => text.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if u32::from(c) < 0x1_0000 => text.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => text.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Printable as `unicode.IsPrint`: graphic, and no space but the ASCII one.
fn is_print(c: char) -> bool {
    if c == ' ' || c == '\'' {
        return true;
    }
    // Inside a string `escape_debug` leaves combining marks alone, which Go prints too.
    let in_string: String = format!("x{c}").escape_debug().collect();
    !c.is_whitespace() && !in_string.contains('\\')
}

/// Reads a Go string literal, `"..."` with escapes or `` `...` ``, at the start of the text: the value and what follows it.
pub fn unquote_prefix(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    match text.split_first()? {
        (b'`', rest) => {
            let end = rest.iter().position(|byte| *byte == b'`')?;
            let (value, rest) = rest.split_at_checked(end)?;
            Some((value.to_vec(), rest.get(1..)?))
        }
        (b'"', rest) => unquote_double(rest),
        _ => None,
    }
}

fn unquote_double(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    loop {
        let (first, tail) = rest.split_first()?;
        rest = tail;
        match first {
            b'"' => return Some((value, rest)),
            b'\n' => return None,
            b'\\' => {
                let (kind, tail) = rest.split_first()?;
                rest = tail;
                let simple = match kind {
                    b'a' => Some(0x07),
                    b'b' => Some(0x08),
                    b'f' => Some(0x0c),
                    b'n' => Some(b'\n'),
                    b'r' => Some(b'\r'),
                    b't' => Some(b'\t'),
                    b'v' => Some(0x0b),
                    b'\\' | b'"' => Some(*kind),
                    _ => None,
                };
                if let Some(byte) = simple {
                    value.push(byte);
                    continue;
                }
                rest = unquote_number(*kind, rest, &mut value)?;
            }
            byte => value.push(*byte),
        }
    }
}

/// The escapes that name a byte (`\xNN`, `\NNN`) or a character (`\uNNNN`, `\UNNNNNNNN`).
fn unquote_number<'t>(kind: u8, rest: &'t [u8], value: &mut Vec<u8>) -> Option<&'t [u8]> {
    let digits = |from: &'t [u8], count: usize, radix: u32| {
        let (digits, tail) = from.split_at_checked(count)?;
        let digits = str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        Some((u32::from_str_radix(digits, radix).ok()?, tail))
    };
    let mut character = |from: &'t [u8], count: usize| {
        let (number, tail) = digits(from, count, 16)?;
        let mut buffer = [0; 4];
        value.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes());
        Some(tail)
    };
    match kind {
        b'u' => character(rest, 4),
        b'U' => character(rest, 8),
        b'x' => {
            let (number, tail) = digits(rest, 2, 16)?;
            value.push(u8::try_from(number).ok()?);
            Some(tail)
        }
        b'0'..=b'7' => {
            let (low, tail) = digits(rest, 2, 8)?;
            value.push(u8::try_from(u32::from(kind - b'0') * 64 + low).ok()?);
            Some(tail)
        }
        _ => None,
    }
}

/// Why a number is none, in strconv's words.
fn number_error(function: &str, text: &str, what: &str) -> String {
    format!("strconv.{function}: parsing {}: {what}", quote(text.as_bytes()))
}

/// `strconv.ParseInt(text, radix, 64)`; radix 0 reads prefixes (`0x`, `0o`, `0b`, `0`) and underscores.
pub fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let fail = |what| Err(number_error("ParseInt", text, what));
    let Some(magnitude) = parse_magnitude(digits, radix) else { return fail("invalid syntax") };
    let magnitude = i128::try_from(magnitude).unwrap_or(i128::MAX);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).or_else(|_| fail("value out of range"))
}

/// `strconv.ParseUint(text, radix, 64)`.
pub fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    let fail = |what| Err(number_error("ParseUint", text, what));
    let Some(magnitude) = parse_magnitude(text, radix) else { return fail("invalid syntax") };
    u64::try_from(magnitude).or_else(|_| fail("value out of range"))
}

/// Digits only; a number too large for the type saturates. `None` is wrong syntax.
fn parse_magnitude(digits: &str, radix: u32) -> Option<u128> {
    let (digits, radix) = match radix {
        0 => prefixed(digits),
        radix => (digits.to_owned(), radix),
    };
    if digits.is_empty() {
        return None;
    }
    digits.chars().try_fold(0_u128, |sum, c| {
        let digit = c.to_digit(radix)?;
        Some(sum.saturating_mul(u128::from(radix)).saturating_add(u128::from(digit)))
    })
}

fn prefixed(digits: &str) -> (String, u32) {
    let lower = digits.to_ascii_lowercase();
    let plain = |text: &str| text.replace('_', "");
    if let Some(rest) = lower.strip_prefix("0x") {
        (plain(rest), 16)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (plain(rest), 2)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (plain(rest), 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (plain(&lower), 8)
    } else {
        (plain(&lower), 10)
    }
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(number_error("ParseBool", text, "invalid syntax")),
    }
}

/// `time.ParseDuration`. Negative durations are read as zero: every duration here is a timeout.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let invalid = || format!("time: invalid duration {quoted}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {quoted}"));
        }
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => {
                return Err(format!(
                    "time: unknown unit {} in duration {quoted}",
                    quote(unit.as_bytes())
                ));
            }
        };
        seconds += number * scale;
        rest = tail;
    }
    if text.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

/// `time.Duration.String`: `5.957573ms`, `1.000496503s`, `1m30s`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let rest = Duration::new(duration.as_secs() % 60, duration.subsec_nanos());
            let seconds = format!("{}.{:09}", rest.as_secs(), rest.subsec_nanos());
            let seconds = seconds.trim_end_matches('0').trim_end_matches('.').to_owned();
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A size in decimal units as go-humanize writes it: `25 kB`, `2.1 GB`.
pub fn humanize(size_bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if size_bytes < 10 {
        return format!("{size_bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && size_bytes / scale >= 1000 {
        scale *= 1000;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("EB");
    // Tenths, rounded to nearest: sizes above 2^53 do not occur, so the product cannot overflow u128.
    let tenths = (u128::from(size_bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        // Go rounds the value with its tenths once more, half to even.
        let (whole, rest) = (tenths / 10, tenths % 10);
        let up = rest > 5 || (rest == 5 && whole % 2 == 1);
        format!("{} {name}", whole + u128::from(up))
    }
}

/// A past moment as go-humanize words it, for the short times a command takes.
pub fn ago(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0 => "now".to_owned(),
        1 => "1 second ago".to_owned(),
        seconds @ 2..60 => format!("{seconds} seconds ago"),
        60..120 => "1 minute ago".to_owned(),
        seconds @ 120..3600 => format!("{} minutes ago", seconds / 60),
        3600..7200 => "1 hour ago".to_owned(),
        seconds => format!("{} hours ago", seconds / 3600),
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar (Howard Hinnant's `civil_from_days`).
pub fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
