//! `/debug/pprof/`: where the processor's time goes, for `go tool pprof`.
//!
//! Go's runtime profiles functions. A Rust program could only do so by unwinding stacks in a signal's handler, and the libraries
//! for that crash the programs they look at now and then, which a database cannot afford. So `profile` is by thread, and a thread
//! here is a stage of the data's way (`apply`, `heart`, `commit`, the workers of `rpc`): it tells which stage is short of
//! processor time, and how long it waited for a processor. For functions there is `perf record`, from outside; the released
//! programs have the names and lines that it needs.
//!
//! The figures are the kernel's own (`/proc/self/task/TID/schedstat`), exact to its accounting, and are looked at a few times a
//! second: of a thread that ends, what it did since the last look is lost.
//!
//! Other profiles of Go are answered by saying why there is none (501).
//!
//! Upstream: net/http/pprof as server/embed/serve.go registers it.

mod encoding;
mod threads;

use std::time::{Duration, SystemTime};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};

use threads::Watched;

/// Where the profiles are.
pub const PREFIX: &str = "/debug/pprof/";

/// As long as Go's, if nothing is said.
const DEFAULT: Duration = Duration::from_secs(30);
/// Long enough for anybody, and an end for those who forget that they asked.
const MAX: Duration = Duration::from_secs(3600);
/// Between two looks at the threads.
const INTERVAL: Duration = Duration::from_millis(100);

/// By this, Go's tool knows that an error's text is to be shown.
const IS_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

const INDEX: &str = "<html><head><title>/debug/pprof/</title></head><body>\n\
    <p><a href=\"profile?seconds=30\">profile</a>: processor time of each thread, for <code>go tool pprof</code>;\
    takes as long as it says, 30 s by default</p>\n\
    <p><a href=\"cmdline\">cmdline</a>: the command line</p>\n\
    <p>For functions: <code>perf record -g -p PID</code></p>\n\
    </body></html>\n";

/// Answers a request to `name`, which is what follows [`PREFIX`], with this query. Whoever serves it shows `command_line`, which should hold
/// no secrets.
pub async fn answer(command_line: &[String], name: &str, query: &str) -> Response {
    match name {
        "" => with_nosniff(Html(INDEX).into_response()),
        "cmdline" => {
            let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            with_nosniff((text, command_line.join("\0")).into_response())
        }
        "profile" => profile(duration(query)).await,
        "heap" | "allocs" => refuse(
            "the allocator keeps no record of who allocates; see process_resident_memory_bytes of /metrics",
        ),
        "goroutine" => refuse("there are no goroutines; /debug/pprof/profile shows the threads"),
        "block" | "mutex" | "threadcreate" | "trace" => {
            refuse("it is a record of Go's runtime, which this program does not have")
        }
        "symbol" => refuse("profiles hold their names"),
        _ => failure(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

/// How long to look; what is no number of seconds is as if it were not there.
fn duration(query: &str) -> Duration {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("seconds="))
        .and_then(|seconds| seconds.parse().ok())
        .filter(|&seconds| seconds > 0)
        .map_or(DEFAULT, |seconds| Duration::from_secs(seconds).min(MAX))
}

async fn profile(duration: Duration) -> Response {
    let start = SystemTime::now();
    let began = tokio::time::Instant::now();
    let end = began + duration;
    let mut watched = Watched::default();
    loop {
        // The kernel answers from memory, but for each thread anew.
        let looked = tokio::task::spawn_blocking(move || watched.look().map(|()| watched)).await;
        watched = match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                let text = format!("the kernel tells nothing of threads: {error}");
                return failure(StatusCode::INTERNAL_SERVER_ERROR, &text);
            }
            // The executor is shutting down.
            Err(_) => return failure(StatusCode::SERVICE_UNAVAILABLE, "etcd is stopping"),
        };
        let now = tokio::time::Instant::now();
        if end <= now {
            break;
        }
        tokio::time::sleep_until(end.min(now + INTERVAL)).await;
    }
    let bytes = encoding::encode(&watched.totals(), start, began.elapsed());
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
    ];
    with_nosniff((headers, bytes).into_response())
}

/// Says why there is no such profile.
fn refuse(reason: &str) -> Response {
    failure(StatusCode::NOT_IMPLEMENTED, &format!("no such profile: {reason}"))
}

fn failure(status: StatusCode, text: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (IS_PPROF, HeaderValue::from_static("1")),
    ];
    with_nosniff((status, headers, format!("{text}\n")).into_response())
}

fn with_nosniff(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
