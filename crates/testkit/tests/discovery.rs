//! Discovery over the v2 API: members of ours and of real etcd found clusters by a real etcd that serves that API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use proto::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest};
use rpc::etcdserverpb::cluster_client::ClusterClient;
use rpc::etcdserverpb::kv_client::KvClient;
use testkit::member::{Member, Options};
use testkit::programs::{self, Programs};

/// Asks the v2 API, which has no client here.
fn keys(service: &Member, method: &str, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(service.endpoint()).unwrap();
    let length = body.len();
    let request = format!(
        "{method} /v2/keys/{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}",
        service.endpoint()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// A real etcd that serves the v2 API.
fn service(real: &Programs, dir: &Path) -> Member {
    let options = Options::new(&real.etcd, &dir.join("service")).with(&["--enable-v2"]);
    Member::start(&options).unwrap()
}

/// Starts a member that finds the others by the token, without waiting for it.
fn founder(program: &Programs, dir: &Path, name: &str, service: &Member, token: &str) -> Member {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let peer = format!("http://127.0.0.1:{port}");
    // The last of equal flags counts.
    let mut options = Options::new(&program.etcd, &dir.join(name)).with(&[
        "--initial-cluster=",
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--discovery={}/v2/keys/{token}", service.url()),
        "--discovery-fallback=exit",
    ]);
    options.name = name.to_owned();
    Member::spawn(&options).unwrap()
}

async fn names(member: &Member) -> Vec<String> {
    let mut client = ClusterClient::connect(member.url()).await.unwrap();
    let list = client.member_list(MemberListRequest::default()).await.unwrap().into_inner();
    let mut names: Vec<String> = list.members.into_iter().map(|member| member.name).collect();
    names.sort();
    names
}

#[test]
fn members_of_both_kinds_find_each_other_over_the_v2_api() {
    let Some(real) = programs::real_or_skip("discovery over the v2 API") else { return };
    let ours = programs::ours().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let service = service(&real, dir.path());
    for (token, kinds) in [("alone", &[&ours][..]), ("mixed", &[&ours, &real, &ours][..])] {
        let size = kinds.len();
        keys(&service, "PUT", &format!("{token}/_config/size"), &format!("value={size}"));
        let members: Vec<Member> = (0..size)
            .map(|index| {
                let name = format!("{token}{index}");
                founder(kinds[index], dir.path(), &name, &service, token)
            })
            .collect();
        members.iter().for_each(|member| member.wait_ready().unwrap());
        common::runtime().block_on(async {
            let (first, last) = (&members[0], &members[size - 1]);
            let mut client = KvClient::connect(first.url()).await.unwrap();
            let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
            client.put(put).await.unwrap();
            let mut client = KvClient::connect(last.url()).await.unwrap();
            let range = RangeRequest { key: "k".into(), ..RangeRequest::default() };
            let found = client.range(range).await.unwrap().into_inner();
            assert_eq!(found.kvs[0].value, "v");
            let expected: Vec<String> = (0..size).map(|index| format!("{token}{index}")).collect();
            for member in &members {
                assert_eq!(names(member).await, expected);
            }
        });
        // What each wrote is there under the id that it has.
        let directory = keys(&service, "GET", token, "");
        assert_eq!(directory.matches("createdIndex").count(), size + 1, "{directory}");

        // One more is one too many.
        let late = founder(&ours, dir.path(), &format!("{token}-late"), &service, token);
        let why = late.wait_ready().unwrap_err().to_string();
        assert!(why.contains("discovery: cluster is full"), "{why}");
    }
}
