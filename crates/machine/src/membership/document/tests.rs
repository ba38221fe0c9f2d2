use serde_json::Value;

use super::*;
use crate::Version;

const RICH: &str = include_str!("../../../tests/fixtures/rich-3.5.30.v2store.json");

fn encode_text(membership: &Membership) -> String {
    String::from_utf8(encode(membership)).unwrap()
}

#[test]
fn reads_what_etcd_wrote() {
    let membership = decode(RICH.as_bytes()).unwrap();
    assert_eq!(membership.version(), Some(Version::v3(5, 0)));
    assert_eq!(membership.removed().collect::<Vec<_>>(), [0x71e4_d10a_3045_7db5]);
    let members: Vec<(u64, &str, bool)> = membership
        .members()
        .map(|member| (member.id, member.name.as_str(), member.is_learner))
        .collect();
    assert_eq!(members, [(0x508e_d529_2be9_39a9, "m1", false), (0x80e3_8af3_85ec_8a68, "", true)]);
    let first = membership.members().next().unwrap();
    assert_eq!(
        (&first.peer_urls[..], &first.client_urls[..]),
        (&["http://127.0.0.1:41001".to_owned()][..], &["http://127.0.0.1:41000".to_owned()][..])
    );
}

/// Everything but the counters of v2 changes.
fn without_indexes(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        if let Value::Object(map) = value {
            map.remove("CreatedIndex");
            map.remove("ModifiedIndex");
            map.values_mut().for_each(strip);
        }
    }
    strip(&mut value);
    value
}

#[test]
fn writes_the_tree_that_etcd_wrote() {
    let membership = decode(RICH.as_bytes()).unwrap();
    let ours = encode_text(&membership);
    assert_eq!(decode(ours.as_bytes()).unwrap(), membership);
    let theirs: Value = serde_json::from_str(RICH).unwrap();
    let ours: Value = serde_json::from_str(&ours).unwrap();
    assert_eq!(without_indexes(ours["Root"].clone()), without_indexes(theirs["Root"].clone()));
    assert_eq!(ours["CurrentVersion"], theirs["CurrentVersion"]);
    assert_eq!(
        ours["Stats"].as_object().unwrap().len(),
        theirs["Stats"].as_object().unwrap().len()
    );
    for name in theirs["Stats"].as_object().unwrap().keys() {
        assert!(ours["Stats"][name].is_u64(), "{name}");
    }
    // 3.5 indexes into the slots without looking.
    let queue = &ours["WatcherHub"]["EventHistory"]["Queue"];
    assert_eq!(queue["Events"].as_array().unwrap().len(), 1000);
    assert_eq!(queue["Capacity"], 1000);
}

#[test]
fn fields_come_in_etcds_order() {
    let text = encode_text(&Membership::default());
    let start = r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"0":{"Path":"/0","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{}},"1":{"#;
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains(r#"},"WatcherHub":{"EventHistory":{"Queue":{"Events":[null,null,"#));
    assert!(text.contains(
        r#"null],"Size":0,"Front":0,"Back":0,"Capacity":1000},"StartIndex":0,"LastIndex":0}},"CurrentIndex":0,"Stats":{"getsSuccess":0,"#
    ));
    assert!(text.ends_with(r#""expireCount":0,"watchers":0},"CurrentVersion":2}"#));
}

#[test]
fn a_member_that_has_not_started_has_no_attributes() {
    let mut membership = Membership::default();
    let member = Member {
        id: 0x0abc,
        name: "m1".into(),
        peer_urls: vec!["http://a:1".into()],
        ..Member::default()
    };
    membership.members.insert(member.id, member);
    let text = encode_text(&membership);
    assert!(text.contains(r#""abc":{"Path":"/0/members/abc""#), "{text}");
    assert!(!text.contains("\"attributes\""));
    assert_eq!(decode(text.as_bytes()).unwrap().member(0xabc).unwrap().name, "");
}

#[test]
fn foreign_content_is_refused_by_name() {
    let check = |children: &str, expected: &str| {
        let text = format!(r#"{{"Root":{{"Path":"/","Children":{{{children}}}}}}}"#);
        assert_eq!(
            decode(text.as_bytes()).unwrap_err().to_string(),
            format!("document of the raft snapshot: {expected}")
        );
    };
    check(
        r#""1":{"Path":"/1","Children":{"a":{"Path":"/1/a"}}}"#,
        "detected disallowed custom content in v2store for stage --v2-deprecation=write-only: v2 data at /1: 1 keys of the v2 API would be lost with the next snapshot, so nothing was changed; move them to v3 with \
         etcd 3.4 (etcdctl migrate), or delete them with etcd 3.5 (--enable-v2), and start again",
    );
    check(r#""0":{"Path":"/0","Children":{"x":{"Path":"/0/x"}}}"#, "unknown key /0/x");
    check(
        r#""0":{"Path":"/0","Children":{"members":{"Path":"/0/members","Children":{"1":{"Path":"/0/members/1"}}}}}"#,
        "/0/members/1/raftAttributes is missing",
    );
    check(
        r#""0":{"Path":"/0","Children":{"members":{"Path":"/0/members","Children":{"q":{"Path":"/0/members/q"}}}}}"#,
        "\"q\" is not a member id",
    );
    // Nearly empty, as tools write it.
    let sparse = r#"{"Root":{"Path":"/","Children":{"1":{"Path":"/1","Children":{}},"2":{"Path":"/2","Children":{}}}}}"#;
    assert_eq!(decode(sparse.as_bytes()).unwrap(), Membership::default());
    assert!(decode(b"{").is_err());
    // Nesting is bounded by the JSON parser.
    let deep = "{\"Root\":".repeat(100_000);
    assert!(decode(deep.as_bytes()).is_err());
}

#[test]
fn paths_of_v2_requests() {
    assert_eq!(
        published_member("/0/members/508ed5292be939a9/attributes"),
        Some(0x508e_d529_2be9_39a9)
    );
    for other in [
        "/0/members/1/raftAttributes",
        "/0/members//attributes",
        "/1/members/1/attributes",
        "/0/version",
    ] {
        assert_eq!(published_member(other), None, "{other}");
    }
    assert!(is_cluster_version("/0/version"));
}
