use super::*;
use crate::spec;

fn arguments(line: &str) -> Vec<OsString> {
    line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
}

/// The command's words and its positional arguments.
fn check(line: &str, expected: &str) {
    let root = spec::root();
    let invocation = parse(&root, &arguments(line)).unwrap();
    let mut shown: Vec<String> =
        invocation.path.iter().skip(1).map(|command| command.name.to_owned()).collect();
    shown.push("|".to_owned());
    shown
        .extend(invocation.arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned()));
    assert_eq!(shown.join(" "), expected, "{line}");
}

#[test]
fn commands_are_found_among_flags_and_by_their_start() {
    check("get foo", "get | foo");
    check("--endpoints a:1 get foo bar", "get | foo bar");
    check("get --prefix foo", "get | foo");
    check("get --prefix false", "get | false");
    check("-w json en st", "endpoint status |");
    check("mem --hex list", "member list |");
    check("lease keep-alive --once 12", "lease keep-alive | 12");
    check("put -- -k -v", "put | -k -v");
    check("put k -- --dash", "put | k --dash");
    check("member bogus", "member | bogus");
    check("get --rev -1 a", "get | a");
    check("", "|");
    check("watch foo --rev=25 -- sh -c env", "watch | foo sh -c env");
}

#[test]
fn values() {
    let root = spec::root();
    let line = "--endpoints a,b get --endpoints=c --prefix=false --keys-only -wjson --command-timeout=1s k --limit 0x10";
    let invocation = parse(&root, &arguments(line)).unwrap();
    let flags = &invocation.flags;
    assert_eq!(flags.list("endpoints"), ["a", "b", "c"]);
    assert!(!flags.bool("prefix"));
    assert!(flags.bool("keys-only"));
    assert!(!flags.bool("count-only"));
    assert_eq!(flags.text("write-out"), "json");
    assert_eq!(flags.duration("command-timeout"), Duration::from_secs(1));
    assert_eq!(flags.int("limit"), 16);
    assert!(flags.is_given("limit") && !flags.is_given("rev"));
    let none = parse(&root, &arguments("--endpoints= get k")).unwrap();
    assert!(none.flags.list("endpoints").is_empty());
    let default = parse(&root, &arguments("get k")).unwrap();
    assert_eq!(default.flags.list("endpoints"), ["127.0.0.1:2379"]);
}

fn refused(line: &str, expected: &str) {
    let root = spec::root();
    let text = match parse(&root, &arguments(line)).unwrap_err() {
        Refusal::WrongFlag { text, .. } => text,
        Refusal::UnknownCommand { word, similar } => {
            format!("unknown {word}: {}", similar.join(" "))
        }
    };
    assert_eq!(text, expected, "{line}");
}

#[test]
fn refusals_are_worded_as_etcds() {
    refused("get --badflag", "unknown flag: --badflag");
    refused("get --badflag=3 k", "unknown flag: --badflag");
    refused("get -x", "unknown shorthand flag: 'x' in -x");
    refused("get -ix", "unknown shorthand flag: 'i' in -ix");
    refused("get --hex --=x", "bad flag syntax: --=x");
    refused("get ---x", "bad flag syntax: ---x");
    refused("comp 1", "unknown comp: compaction completion");
    refused("get a --rev", "flag needs an argument: --rev");
    refused("get a -w", "flag needs an argument: 'w' in -w");
    refused(
        "get a --limit x",
        r#"invalid argument "x" for "--limit" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
    );
    refused(
        "get --prefix=x",
        r#"invalid argument "x" for "--prefix" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
    );
    refused(
        "get --command-timeout=abc",
        r#"invalid argument "abc" for "--command-timeout" flag: time: invalid duration "abc""#,
    );
    refused(
        "txn -i=x",
        r#"invalid argument "x" for "-i, --interactive" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
    );
    refused("badcmd", "unknown badcmd: ");
    refused("e st", "unknown e: get del endpoint elect");
    refused("m", "unknown m: move-leader member make-mirror");
    refused("--version", "unknown flag: --version");
}
