//! Expected texts come from Go itself.

use super::*;

#[test]
fn quoting() {
    let check = |bytes: &[u8], expected: &str| assert_eq!(quote(bytes), expected);
    check(b"from stdin\n", r#""from stdin\n""#);
    check(b"\xff\x01\nline2", r#""\xff\x01\nline2""#);
    check("h\u{e9}\u{1f600}'\"\\".as_bytes(), "\"h\u{e9}\u{1f600}'\\\"\\\\\"");
    check("\u{a0}\u{200b}\u{ad}".as_bytes(), r#""\u00a0\u200b\u00ad""#);
    check("e\u{301}".as_bytes(), "\"e\u{301}\"");
    check("\u{e000}\u{10ffff}\x7f\0".as_bytes(), r#""\ue000\U0010ffff\x7f\x00""#);
}

#[test]
fn unquoting() {
    let check = |text: &str, value: &[u8], rest: &str| {
        assert_eq!(
            unquote_prefix(text.as_bytes()),
            Some((value.to_vec(), rest.as_bytes())),
            "{text}"
        );
    };
    check(r#""a b") > x"#, b"a b", ") > x");
    check(r#""c \"d\"""#, b"c \"d\"", "");
    check(r#""\x41\101\u00e9\t""#, "AA\u{e9}\t".as_bytes(), "");
    check(r"`a\n`x", br"a\n", "x");
    for wrong in ["key", "\"open", "`open", r#""\q""#, r#""\x4""#, r#""\ud800""#, ""] {
        assert_eq!(unquote_prefix(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn integers() {
    assert_eq!(parse_int("-12", 10), Ok(-12));
    assert_eq!(parse_int("59f9a203d6ddf63a", 16), Ok(0x59f9_a203_d6dd_f63a));
    assert_eq!(parse_int("0x1_0", 0), Ok(16));
    assert_eq!(parse_int("010", 0), Ok(8));
    assert_eq!(
        parse_int("9223372036854775808", 10).unwrap_err(),
        r#"strconv.ParseInt: parsing "9223372036854775808": value out of range"#
    );
    assert_eq!(parse_int("-9223372036854775808", 10), Ok(i64::MIN));
    assert_eq!(
        parse_int("zz", 16).unwrap_err(),
        r#"strconv.ParseInt: parsing "zz": invalid syntax"#
    );
    assert_eq!(parse_int("", 10).unwrap_err(), r#"strconv.ParseInt: parsing "": invalid syntax"#);
    assert_eq!(
        parse_uint("-1", 16).unwrap_err(),
        r#"strconv.ParseUint: parsing "-1": invalid syntax"#
    );
    assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
}

#[test]
fn durations() {
    let check = |text: &str, expected: &str| {
        assert_eq!(duration(parse_duration(text).unwrap()), expected, "{text}")
    };
    check("5s", "5s");
    check("1.5h", "1h30m0s");
    check("1m30s", "1m30s");
    check("2500us", "2.5ms");
    check("1001ms", "1.001s");
    check("17ns", "17ns");
    check("1.5µs", "1.5µs");
    check("0", "0s");
    let fails =
        |text: &str, expected: &str| assert_eq!(parse_duration(text).unwrap_err(), expected);
    fails("abc", r#"time: invalid duration "abc""#);
    fails("5", r#"time: missing unit in duration "5""#);
    fails("5x", r#"time: unknown unit "x" in duration "5x""#);
    fails("", r#"time: invalid duration """#);
    assert_eq!(duration(Duration::from_nanos(5_957_573)), "5.957573ms");
}

#[test]
fn sizes() {
    let check = |size, expected: &str| assert_eq!(humanize(size), expected);
    check(0, "0 B");
    check(9, "9 B");
    check(10, "10 B");
    check(999, "999 B");
    check(1_000, "1.0 kB");
    check(20_480, "20 kB");
    check(24_576, "25 kB");
    check(16_384, "16 kB");
    check(2_147_483_648, "2.1 GB");
    check(9_990, "10 kB");
    check(999_999, "1000 kB");
}

#[test]
fn dates() {
    assert_eq!(civil_date(0), (1970, 1, 1));
    assert_eq!(civil_date(11_016), (2000, 2, 29));
    assert_eq!(civil_date(20_779), (2026, 11, 22));
}
