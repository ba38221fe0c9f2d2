//! Values as Go's `strconv` and `time` read them, which is what the flags of etcd accept.

use std::time::Duration;

/// The words Go takes for a boolean.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An integer with Go's base prefixes: `0x`, `0o`, `0b`, a leading `0` for octal, underscores between digits.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let plain: String = body.chars().filter(|c| *c != '_').collect();
    if plain.is_empty() || plain.starts_with(['-', '+']) {
        return None;
    }
    let magnitude = i128::from_str_radix(&plain, radix).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

/// A decimal number, as Go's `strconv.Atoi` takes it: no base, no underscores.
pub(super) fn decimal(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// A duration that is not negative, such as `1h2m3.5s` or `100ms`; a bare number is a duration only when it is zero.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let nanos = nanoseconds(text).ok()?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// A duration with its sign, in nanoseconds.
///
/// # Errors
/// Go's texts.
pub(crate) fn nanoseconds(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let number = number.parse::<f64>().map_err(|_| invalid())?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_len);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        nanos += number * scale;
        rest = next;
    }
    // Go's durations are an int64 of nanoseconds.
    if nanos > 9.223e18 {
        return Err(invalid());
    }
    let nanos =
        i64::try_from(Duration::from_secs_f64(nanos / 1e9).as_nanos()).map_err(|_| invalid())?;
    Ok(if is_negative { -nanos } else { nanos })
}

/// A system's error as Go writes it.
pub(crate) fn system_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_in_every_base() {
        for (text, want) in [
            ("10", 10),
            ("0x10", 16),
            ("0o17", 15),
            ("017", 15),
            ("0b101", 5),
            ("1_000", 1000),
            ("-1", -1),
        ] {
            assert_eq!(integer(text), Some(want), "{text}");
        }
        for text in ["", "abc", "1.5", "0x", "--1"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn durations_add_up_their_units() {
        for (text, want_ms) in
            [("1h2m3.5s", 3_723_500), ("100ms", 100), ("0", 0), ("1.5m", 90_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(want_ms)), "{text}");
        }
        for text in ["", "10", "5x", "s", "-1s", "1h2"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(nanoseconds("-1.5s"), Ok(-1_500_000_000));
        for (text, why) in [
            ("abc", "time: invalid duration \"abc\""),
            ("-1", "time: missing unit in duration \"-1\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("0x10", "time: unknown unit \"x\" in duration \"0x10\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
        ] {
            assert_eq!(nanoseconds(text).unwrap_err(), why);
        }
    }
}
