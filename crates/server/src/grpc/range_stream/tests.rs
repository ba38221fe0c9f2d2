use crate::entrance::Entrance;
use proto::authpb::permission::Type;
use proto::etcdserverpb::{
    AuthRoleRevokePermissionRequest, CompactionRequest, DeleteRangeRequest, PutRequest,
    RangeResponse,
};
use rpc::etcdserverpb::auth_client::AuthClient;
use rpc::etcdserverpb::kv_client::KvClient;

use super::*;
use crate::member::unconnected;
use crate::version::parse_emulated;

/// Calls, and returns the messages and the error that ended them, if one did.
async fn stream(
    client: &mut KvClient<Entrance>,
    request: &RangeRequest,
) -> (Vec<RangeResponse>, Option<String>) {
    let shown = |status: Status| format!("{:?} {}", status.code(), status.message());
    let mut messages = Vec::new();
    let mut answers = match client.range_stream(request.clone()).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return (messages, Some(shown(status))),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => messages.push(answer.range_response.unwrap()),
            Ok(None) => return (messages, None),
            Err(status) => return (messages, Some(shown(status))),
        }
    }
}

async fn refusal(client: &mut KvClient<Entrance>, request: RangeRequest) -> String {
    let (messages, error) = stream(client, &request).await;
    assert_eq!(messages, []);
    error.unwrap()
}

fn all() -> RangeRequest {
    RangeRequest { key: "k".into(), range_end: "l".into(), ..RangeRequest::default() }
}

async fn start(dir: &std::path::Path, version: &str) -> (crate::Member, KvClient<Entrance>) {
    let config = crate::config::Config {
        emulated_version: Some(parse_emulated(version).unwrap()),
        max_request_bytes: 2000,
        ..unconnected::config(dir)
    };
    let (member, services) = unconnected::start(config).await;
    (member, KvClient::new(services))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_make_up_the_range() {
    let dir = tempfile::tempdir().unwrap();
    let (member, mut client) = start(dir.path(), "3.7").await;
    for number in 0..100 {
        let put = PutRequest {
            key: format!("k{number:03}").into(),
            value: "v".repeat(50).into(),
            ..PutRequest::default()
        };
        client.put(put).await.unwrap();
    }
    for (limit, keys_only) in [(0, false), (0, true), (10, false), (37, false), (100, true)] {
        let request = RangeRequest { limit, keys_only, ..all() };
        let (messages, error) = stream(&mut client, &request).await;
        assert_eq!(error, None);
        let (last, before) = messages.split_last().unwrap();
        for message in before {
            assert_eq!((&message.header, message.count, message.more), (&None, 0, false));
        }
        let mut whole = last.clone();
        whole.kvs = messages.iter().flat_map(|message| message.kvs.clone()).collect();
        assert_eq!(whole, client.range(request).await.unwrap().into_inner(), "{limit}");
        let sizes: Vec<_> = messages.iter().map(|message| message.kvs.len()).collect();
        assert_eq!(sizes[0], 10);
        assert!(sizes.iter().all(|&keys| keys <= 80), "{sizes:?}");
    }
    let (messages, _) = stream(&mut client, &RangeRequest { count_only: true, ..all() }).await;
    assert_eq!((messages.len(), messages[0].count), (1, 100));
    let none = RangeRequest { range_end: "k".into(), ..all() };
    let (messages, _) = stream(&mut client, &none).await;
    assert_eq!((messages.len(), messages[0].header.unwrap().revision), (1, 101));

    let request = RangeRequest { sort_order: SortOrder::Descend.into(), ..all() };
    let expected = "Unimplemented RangeStream does not support custom sort orders";
    assert_eq!(refusal(&mut client, request).await, expected);
    let expected = "Unimplemented RangeStream does not support revision filters";
    let request = RangeRequest { max_mod_revision: 3, ..all() };
    assert_eq!(refusal(&mut client, request).await, expected);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_an_order_sorts_each_page() {
    let dir = tempfile::tempdir().unwrap();
    let (member, mut client) = start(dir.path(), "3.7").await;
    for number in 0..25 {
        let (key, value) = (format!("k{number:03}"), format!("v{:03}", 100 - number));
        let put = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        client.put(put).await.unwrap();
    }
    let by_value = |limit| RangeRequest { limit, sort_target: SortTarget::Value.into(), ..all() };
    // One page: as a unary range.
    let (messages, _) = stream(&mut client, &by_value(7)).await;
    assert_eq!(messages, [client.range(by_value(7)).await.unwrap().into_inner()]);
    // Several: each key once, although the last of a page is not its greatest.
    let (messages, error) = stream(&mut client, &by_value(0)).await;
    assert_eq!(error, None);
    let keys = messages.iter().flat_map(|message| &message.kvs).map(|pair| pair.key.clone());
    let expected = (0..10).rev().chain((10..25).rev()).map(|number| format!("k{number:03}"));
    assert!(keys.eq(expected), "{messages:?}");
    assert_eq!(messages.last().unwrap().count, 25);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_are_of_the_revision_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (member, mut client) = start(dir.path(), "3.7").await;
    for number in 0..20 {
        let key = format!("k{number:03}").into();
        client.put(PutRequest { key, ..PutRequest::default() }).await.unwrap();
    }
    let mut pages = Pages::new(unconnected::core(&member), None, all()).unwrap();
    pages.page().unwrap();
    let delete =
        DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    client.delete_range(delete).await.unwrap();
    let last = <RangeResponse as prost::Message>::decode(pages.page().unwrap()).unwrap();
    assert_eq!((last.kvs.len(), last.count), (10, 20));
    assert_eq!(last.header.unwrap().revision, 21);

    let past = RangeRequest { revision: 21, ..all() };
    let mut pages = Pages::new(unconnected::core(&member), None, past).unwrap();
    pages.page().unwrap();
    client.compact(CompactionRequest { revision: 22, physical: false }).await.unwrap();
    let error = pages.page().unwrap_err();
    assert_eq!(error.message(), "etcdserver: mvcc: required revision has been compacted");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_read_a_part_reads_that_and_only_while_rights_stay() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::config::Config {
        emulated_version: Some(parse_emulated("3.7").unwrap()),
        ..unconnected::config(dir.path())
    };
    let (member, routes) = unconnected::start(config).await;
    let mut client = KvClient::new(routes.clone());
    for number in 0..30 {
        let key = format!("k{number:03}").into();
        client.put(PutRequest { key, ..PutRequest::default() }).await.unwrap();
    }
    let [root, user] = unconnected::guard(&routes, &[(Type::Read, "k", "k020")]).await;
    let range = |key: &'static str, end: &'static str| RangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..RangeRequest::default()
    };
    for (key, end) in [("k", "k021"), ("k019", "\0"), ("k020", ""), ("\0", "\0"), ("", "k001")] {
        for serializable in [false, true] {
            // Neither the part that may be read, nor how many there are.
            for count_only in [false, true] {
                let request = RangeRequest { serializable, count_only, ..range(key, end) };
                let refused = match client.range_stream(unconnected::by(&user, request)).await {
                    Ok(answers) => answers.into_inner().message().await.unwrap_err(),
                    Err(refused) => refused,
                };
                let expected =
                    if key.is_empty() { "key is not provided" } else { "permission denied" };
                assert_eq!(refused.message(), format!("etcdserver: {expected}"), "{key} {end}");
            }
        }
    }
    let answers = client.range_stream(unconnected::by(&user, range("k", "k020"))).await.unwrap();
    let mut answers = answers.into_inner();
    let mut keys = 0;
    while let Some(page) = answers.message().await.unwrap() {
        keys += page.range_response.unwrap().kvs.len();
    }
    assert_eq!(keys, 20);

    let core = unconnected::core(&member);
    let reader = Identity { user: "u1".to_owned(), revision: core.access.rights().revision() };
    let mut pages = Pages::new(core, Some(&reader), range("k", "k020")).unwrap();
    pages.page().unwrap();
    let revoke = AuthRoleRevokePermissionRequest {
        role: "r1".to_owned(),
        key: "k".into(),
        range_end: "k020".into(),
    };
    let mut auth = AuthClient::new(routes);
    auth.role_revoke_permission(unconnected::by(&root, revoke)).await.unwrap();
    let ended = pages.page().unwrap_err();
    assert_eq!(ended.message(), "etcdserver: revision of auth store is old");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_before_3_7_do_not_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let (member, mut client) = start(dir.path(), "3.6").await;
    let expected = "Unimplemented unknown method RangeStream for service etcdserverpb.KV";
    assert_eq!(refusal(&mut client, all()).await, expected);
    let request = RangeRequest { sort_order: 9, ..all() };
    let refused = client.range(request).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: invalid sort option");
    member.stop().await;
}
