//! Error texts come from etcdctl 3.5 itself.

use super::*;

#[test]
fn comparisons() {
    let check = |line: &str,
                 target: CompareTarget,
                 result: CompareResult,
                 key: &[u8],
                 union: TargetUnion| {
        let compare = parse_compare(line.as_bytes()).unwrap();
        assert_eq!(compare.target, i32::from(target), "{line}");
        assert_eq!(compare.result, i32::from(result), "{line}");
        assert_eq!(compare.key, key, "{line}");
        assert_eq!(compare.target_union, Some(union), "{line}");
    };
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{Create, Lease, Mod, Value, Version};
    check("mod(\"key1\") > \"0\"", Mod, Greater, b"key1", TargetUnion::ModRevision(0));
    check("m(`k`)  =   `7` trailing", Mod, Equal, b"k", TargetUnion::ModRevision(7));
    check("ver(\"k\") < \"-3\"", Version, Less, b"k", TargetUnion::Version(-3));
    check("c(\"a\\\"b\") != \"1\"", Create, NotEqual, b"a\"b", TargetUnion::CreateRevision(1));
    check(
        "val( \"k\") = \"x y\"",
        Value,
        Equal,
        b"k",
        TargetUnion::Value(Bytes::from_static(b"x y")),
    );
    check("lease(\"k\") = \"1f\"", Lease, Equal, b"k", TargetUnion::Lease(0x1f));
}

fn fails(outcome: Result<impl std::fmt::Debug, Failure>, expected: &str) {
    assert_eq!(outcome.unwrap_err(), Failure::new(Exit::InvalidInput, expected));
}

#[test]
fn wrong_comparisons() {
    let check = |line: &str, expected: &str| fails(parse_compare(line.as_bytes()), expected);
    check("badline", "malformed comparison: badline");
    check(
        "foo(\"key1\") = \"1\"",
        "malformed comparison: foo(\"key1\") = \"1\" (unknown target foo)",
    );
    check("version(key1) > 0", "malformed comparison: version(key1) > 0; got version(\"\")  \"\"");
    check(
        "mod( \"k\" ) > \"0\"",
        "malformed comparison: mod( \"k\" ) > \"0\"; got mod(\"k\")  \"\"",
    );
    check("mod(\"k\")> \"0\"", "malformed comparison: mod(\"k\")> \"0\"; got mod(\"k\")  \"\"");
    check("mod(\"key1\") > \"x\"", "invalid txn compare request: mod(\"key1\") > \"x\"");
    check(
        "mod(\"key1\") ~ \"1\"",
        "malformed comparison: mod(\"key1\") ~ \"1\" (unknown operator ~)",
    );
}

fn request(line: &str) -> Result<Request, Failure> {
    parse_request(line.as_bytes()).map(|op| op.request.unwrap())
}

#[test]
fn requests() {
    let Request::RequestPut(put) = request("put \"a b\" 'c \\d' --prev-kv --lease=1f").unwrap()
    else {
        panic!()
    };
    assert_eq!((put.key.as_ref(), put.value.as_ref()), (&b"a b"[..], &b"c \\d"[..]));
    assert!(put.prev_kv);
    assert_eq!(put.lease, 0x1f);
    let Request::RequestDeleteRange(del) = request("de k --prefix").unwrap() else { panic!() };
    assert_eq!((del.key.as_ref(), del.range_end.as_ref()), (&b"k"[..], &b"l"[..]));
    let Request::RequestRange(get) = request("get k --limit 3 --order descend").unwrap() else {
        panic!()
    };
    assert_eq!(
        (get.limit, get.sort_order),
        (3, i32::from(proto::etcdserverpb::range_request::SortOrder::Descend))
    );
    fails(request("foo bar"), "invalid txn request: foo bar");
    fails(request("foo"), "invalid txn compare request: foo");
    fails(request("get a --endpoints=x"), "invalid txn request: get a --endpoints=x");
    assert_eq!(request("put a").unwrap_err().exit, Exit::BadArguments);
}

#[test]
fn blocks_end_with_an_empty_line() {
    let mut input: &[u8] = b"  one\ntwo \n\nthree\n";
    let words = |line: &[u8]| Ok(text(line));
    assert_eq!(block(&mut input, words).unwrap(), ["one", "two"]);
    fails(block(&mut input, words), "EOF");
}

#[test]
fn words() {
    let check = |line: &str, expected: &[&str]| {
        let words = argify(line.as_bytes()).unwrap();
        let words: Vec<String> = words.iter().map(|word| text(word)).collect();
        assert_eq!(words, expected, "{line}");
    };
    check("put k\"x\" \"q\\tz\"", &["put", "k\"x\"", "q\tz"]);
    check("  a   'b c'  \"d e\" ", &["a", "b c", "d e"]);
    check("'' \"\"", &["", ""]);
    check("", &[]);
}
