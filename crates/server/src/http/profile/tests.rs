use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use prost::Message as _;
use tonic::service::Routes;
use tower_service::Service as _;

use super::encoding::Profile;
use super::*;
use crate::member::unconnected;

async fn get(routes: &Routes, path: &str) -> (u16, http::HeaderMap, Vec<u8>) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (head, body) = routes.clone().call(request).await.unwrap().into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, body.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_work_show_in_the_profile() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut config = unconnected::config(data_dir.path());
    config.enable_pprof = true;
    let (member, routes) = unconnected::start(config).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let busy = std::thread::Builder::new().name("busy-in-a-test".to_owned()).spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
    });
    let (status, headers, body) = get(&routes, "/debug/pprof/profile?seconds=1").await;
    is_over.store(true, Ordering::Relaxed);
    busy.unwrap().join().unwrap();
    assert_eq!(status, 200);
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
    let profile = Profile::decode(body.as_slice()).unwrap();
    let text = |at: i64| profile.strings[usize::try_from(at).unwrap()].as_str();
    assert_eq!(text(0), "");
    let kinds: Vec<(&str, &str)> =
        profile.sample_types.iter().map(|kind| (text(kind.kind), text(kind.unit))).collect();
    assert_eq!(kinds, [("delay", "nanoseconds"), ("cpu", "nanoseconds")]);
    let of = |name: &str| {
        let function = profile.functions.iter().find(|function| text(function.name) == name);
        let id = function.unwrap_or_else(|| panic!("{name} in {:?}", profile.strings)).id;
        let sample = profile.samples.iter().find(|sample| sample.location_ids == [id]).unwrap();
        (sample.values[0], sample.values[1])
    };
    // It ran, or wanted to, for all of the second.
    let (waited, ran) = of("busy-in-a-test");
    assert!(ran > 0 && waited + ran > 500_000_000, "{ran} {waited}");
    // The stages are there under their names; what others do meanwhile is not for this test to say.
    let _ = of("heart");
    assert!((1_000_000_000..60_000_000_000).contains(&profile.duration_nanos));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_and_what_not() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut config = unconnected::config(data_dir.path());
    config.enable_pprof = true;
    config.command_line = vec!["etcd".to_owned(), "--enable-pprof".to_owned()];
    let (member, routes) = unconnected::start(config).await;
    for (path, status, says) in [
        ("/debug/pprof", 301, ""),
        ("/debug/pprof/", 200, "profile?seconds=30"),
        ("/debug/pprof/cmdline", 200, "etcd\0--enable-pprof"),
        ("/debug/pprof/heap", 501, "the allocator"),
        ("/debug/pprof/goroutine?debug=2", 501, "no goroutines"),
        ("/debug/pprof/trace", 501, "Go's runtime"),
        ("/debug/pprof/symbol", 501, "names"),
        ("/debug/pprof/nosuch", 404, "Unknown profile\n"),
    ] {
        let (found, headers, body) = get(&routes, path).await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(found, status, "{path}");
        assert!(body.contains(says), "{path}: {body}");
        assert_eq!(headers.contains_key(IS_PPROF), status > 400, "{path}");
    }
    member.stop().await;
}

/// What tells of the process is only there for those who asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_unless_asked_for() {
    let data_dir = tempfile::tempdir().unwrap();
    let (member, routes) = unconnected::start(unconnected::config(data_dir.path())).await;
    for path in ["/debug/pprof", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/profile"] {
        assert_eq!(get(&routes, path).await.0, 404, "{path}");
    }
    member.stop().await;
}

#[test]
fn durations() {
    for (query, seconds) in [
        ("", 30),
        ("seconds=5", 5),
        ("debug=1&seconds=7", 7),
        ("seconds=0", 30),
        ("seconds=-1", 30),
        ("seconds=x", 30),
        ("seconds=18446744073709551615", 3600),
    ] {
        assert_eq!(duration(query), Duration::from_secs(seconds), "{query}");
    }
}
