use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::to_bytes;
use prost::Message as _;

use super::encoding::Profile;
use super::*;

async fn get(name: &str, query: &str) -> (u16, http::HeaderMap, Vec<u8>) {
    let command_line = ["etcd".to_owned(), "--enable-pprof".to_owned()];
    let (head, body) = answer(&command_line, name, query).await.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, body.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_work_show_in_the_profile() {
    let is_over = Arc::new(AtomicBool::new(false));
    // A thread has its name from when it runs.
    let (runs, running) = std::sync::mpsc::channel();
    let busy = std::thread::Builder::new().name("busy-in-a-test".to_owned()).spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            runs.send(()).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
    });
    running.recv().unwrap();
    let (status, headers, body) = get("profile", "seconds=1").await;
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
    assert!((1_000_000_000..60_000_000_000).contains(&profile.duration_nanos));
}

#[tokio::test]
async fn what_there_is_and_what_not() {
    for (name, status, says) in [
        ("", 200, "profile?seconds=30"),
        ("cmdline", 200, "etcd\0--enable-pprof"),
        ("heap", 501, "the allocator"),
        ("goroutine", 501, "no goroutines"),
        ("trace", 501, "Go's runtime"),
        ("symbol", 501, "names"),
        ("nosuch", 404, "Unknown profile\n"),
    ] {
        let (found, headers, body) = get(name, "debug=2").await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(found, status, "{name}");
        assert!(body.contains(says), "{name}: {body}");
        assert_eq!(headers.contains_key(IS_PPROF), status > 400, "{name}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
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
