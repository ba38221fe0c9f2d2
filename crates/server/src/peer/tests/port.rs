//! All routes of the peer port, on a whole member, against the requests of the fuzz corpus.

use std::path::Path;

use axum::body::{Body as HttpBody, to_bytes};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tower_service::Service as _;

use crate::member::unconnected;
use crate::peer::fuzz;

async fn answered(routes: &axum::Router, bytes: &[u8]) -> Option<(u16, String)> {
    let (request, _) = fuzz::request(bytes)?;
    let response = routes.clone().call(request).await.unwrap_or_else(|never| match never {});
    let (head, body) = response.into_parts();
    let is_answer =
        matches!(head.status.as_u16(), 200 | 204 | 400 | 404 | 405 | 408 | 410 | 412 | 413 | 500);
    assert!(is_answer, "{}: {}", head.status, String::from_utf8_lossy(bytes));
    let body =
        to_bytes(HttpBody::new(body), 64 * 1024).await.expect("an answer is short and whole");
    Some((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn no_request_keeps_a_member_from_answering_the_next() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let data_dir = tempfile::tempdir().unwrap();
    let (routes, _member) = runtime.block_on(async {
        let (member, _) = unconnected::start(unconnected::config(data_dir.path())).await;
        (unconnected::peer_routes(&member), member)
    });
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/peer_requests");
    let mut seeds: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut ok = 0;
    for seed in &seeds {
        let (status, _) = runtime.block_on(answered(&routes, seed)).unwrap();
        ok += usize::from(status == 200);
    }
    assert!(ok >= 5, "members, version, hash, downgrade and probing are answered: {ok}");
    let changed =
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>());
    let mut runner =
        TestRunner::new(Config { cases: 1000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&changed, |(seed, at, byte, is_cut)| {
        let mut bytes = seed.get(&seeds).clone();
        let at = at.index(bytes.len());
        match is_cut {
            true => bytes.truncate(at),
            false => bytes[at] = byte,
        }
        runtime.block_on(answered(&routes, &bytes));
        Ok(())
    });
    outcome.unwrap();
    let hash = runtime.block_on(answered(&routes, b"GET /members/hashkv\n\n{}")).unwrap();
    assert!(hash.0 == 200 && hash.1.contains("hash"), "{hash:?}");
}

/// The limits of 3.6.14: a question about leases was read to its end, however far that was.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_6_14_questions_of_peers_are_short() {
    let data_dir = tempfile::tempdir().unwrap();
    let (member, _) = unconnected::start(unconnected::config(data_dir.path())).await;
    let mut routes = unconnected::peer_routes(&member);
    for (method, path, status) in [
        ("POST", "/leases", 413),
        ("POST", "/leases/internal", 413),
        ("GET", "/members/hashkv", 400),
    ] {
        let endless = tokio_stream::iter(std::iter::repeat_with(|| {
            Ok::<_, std::convert::Infallible>(vec![b'0'; 1024])
        }));
        let request = http::Request::builder().method(method).uri(path);
        let request = request.body(HttpBody::from_stream(endless)).unwrap();
        let answer = routes.call(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
    member.stop().await;
}
