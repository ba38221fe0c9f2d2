use bytes::Bytes;

use super::*;

const VERSION: Version = Version::v3(5, 30);

fn member(id: u64, url: &str) -> Member {
    Member { id, peer_urls: vec![url.to_owned()], ..Member::default() }
}

fn learner(id: u64, url: &str) -> Member {
    Member { is_learner: true, ..member(id, url) }
}

/// Members 1 and 2, learner 3.
fn cluster() -> Membership {
    let mut membership = Membership::default();
    for member in [member(1, "http://a:1"), member(2, "http://b:1"), learner(3, "http://c:1")] {
        membership.change(Change::Add(member), VERSION, None);
    }
    membership
}

#[test]
fn invalid_changes_have_their_errors() {
    let mut membership = cluster();
    membership.change(Change::Remove(2), VERSION, None);
    let check =
        |change, expected| assert_eq!(membership.validate(&change, 1), expected, "{change:?}");
    check(Change::Add(member(4, "http://d:1")), Ok(()));
    check(Change::Add(member(1, "http://d:1")), Err(RequestError::MemberExists));
    check(Change::Add(member(2, "http://d:1")), Err(RequestError::MemberRemoved));
    check(Change::Add(member(4, "http://a:1")), Err(RequestError::PeerUrlExists));
    check(Change::Add(learner(4, "http://d:1")), Err(RequestError::TooManyLearners));
    check(Change::Promote(3), Ok(()));
    check(Change::Promote(1), Err(RequestError::MemberNotLearner));
    check(Change::Promote(9), Err(RequestError::MemberNotFound));
    check(Change::Update(member(1, "http://a:1")), Ok(()));
    check(Change::Update(member(1, "http://c:1")), Err(RequestError::PeerUrlExists));
    check(Change::Update(member(9, "http://x:1")), Err(RequestError::MemberNotFound));
    check(Change::Remove(9), Err(RequestError::MemberNotFound));
    check(Change::Remove(2), Err(RequestError::MemberRemoved));
    check(Change::Remove(3), Ok(()));
}

#[test]
fn update_of_a_learner_depends_on_the_version() {
    for (version, is_learner) in
        [(Version::v3(5, 30), false), (Version::v3(5, 31), true), (Version::v3(6, 12), true)]
    {
        let mut membership = cluster();
        membership.change(Change::Update(member(3, "http://z:1")), version, None);
        let member = membership.member(3).unwrap();
        assert_eq!(
            (member.is_learner, &member.peer_urls[..]),
            (is_learner, &["http://z:1".to_owned()][..])
        );
    }
}

#[test]
fn contexts_are_etcds() {
    let check = |context: ConfChangeContext, text: &str| {
        assert_eq!(String::from_utf8(context.encode()).unwrap(), text);
        assert_eq!(ConfChangeContext::decode(text.as_bytes()).unwrap(), context);
    };
    let named = Member { name: "m1".into(), ..member(u64::MAX, "http://a:1") };
    check(
        ConfChangeContext { member: named, is_promote: false },
        r#"{"id":18446744073709551615,"peerURLs":["http://a:1"],"name":"m1"}"#,
    );
    check(
        ConfChangeContext { member: learner(5, "http://a:1"), is_promote: true },
        r#"{"id":5,"peerURLs":["http://a:1"],"isLearner":true,"isPromote":true}"#,
    );
    let promote =
        ConfChangeContext::decode(br#"{"id":5,"peerURLs":null,"isPromote":true}"#).unwrap();
    assert_eq!((promote.member.id, promote.is_promote), (5, true));
}

#[test]
fn malformed_changes_are_named() {
    let change = |kind: ConfChangeType, context: &'static str| ConfChange {
        r#type: kind.into(),
        node_id: 5,
        context: Some(Bytes::from_static(context.as_bytes())),
        ..Default::default()
    };
    let add = ConfChangeType::ConfChangeAddNode;
    assert!(matches!(Change::decode(&change(add, r#"{"id":5}"#)), Ok(Change::Add(_))));
    let error = Change::decode(&change(add, r#"{"id":6}"#)).unwrap_err();
    assert_eq!(error, "conf change of node 5 has the context of member 6");
    assert!(
        Change::decode(&change(add, "{")).unwrap_err().starts_with("context of a conf change: ")
    );
    let unknown = ConfChange { r#type: 9, ..Default::default() };
    assert_eq!(Change::decode(&unknown).unwrap_err(), "conf change of unknown type 9");
}
