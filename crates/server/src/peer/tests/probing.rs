//! How a member watches the answers and the clocks of its peers.

use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::get;

use super::*;
use crate::peer::prober::{Drift, Health, Prober};
use crate::peer::status::Status;

/// Asks once at these URLs, and returns what is known then.
async fn probed(member: &Member, urls: &[String]) -> Health {
    let urls = Arc::new(Urls::parse(urls).unwrap());
    let prober = Prober::new(2, urls, status(), Arc::clone(&member.transport.shared));
    prober.probe().await;
    prober.health()
}

/// A peer port with this answer.
async fn answering(answer: String) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/raft/probing", get(async move || answer));
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(serve(listener, None, routes, stopping));
    (url, stop)
}

fn status() -> Arc<Status> {
    Arc::new(Status::new(2, Arc::default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_is_well_and_its_clock_agrees() {
    let members = connected([1, 2]).await;
    assert_eq!(members[0].transport.health(2).unwrap().asked, 0, "four seconds are not over");
    assert!(members[0].transport.health(3).is_none());
    let health = probed(&members[0], &members[1].urls()).await;
    assert!(health.is_well && health.error.is_none());
    assert_eq!((health.asked, health.lost), (1, 0));
    assert!(!health.round_trip.is_zero());
    let (Drift::Ahead(drift) | Drift::Behind(drift)) = health.clock_ahead;
    assert!(drift <= health.round_trip, "one clock: {health:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_differ_are_noticed_in_any_time_zone() {
    let member = Member::start(1).await;
    let hour = Duration::from_secs(3600);
    let past = timestamp::write(timestamp::now() - hour);
    let (url, _stop) = answering(format!(r#"{{"OK":true,"Now":"{past}"}}"#)).await;
    let Drift::Ahead(ahead) = probed(&member, &[url]).await.clock_ahead else { panic!() };
    assert!(ahead > hour - PATIENCE && ahead < hour + PATIENCE, "{ahead:?}");
    let future = timestamp::write(timestamp::now() + hour);
    let (url, _stop) = answering(format!(r#"{{"OK":true,"Now":"{future}"}}"#)).await;
    let Drift::Behind(behind) = probed(&member, &[url]).await.clock_ahead else { panic!() };
    assert!(behind > hour - PATIENCE && behind < hour + PATIENCE, "{behind:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_so_is_not_well() {
    let member = Member::start(1).await;
    for answer in ["", "{}", r#"{"OK":false,"Now":"2026-11-22T15:32:06Z"}"#, "[[[["] {
        let (url, _stop) = answering(answer.to_owned()).await;
        let health = probed(&member, &[url]).await;
        assert!(!health.is_well, "{answer}");
        assert_eq!(health.error.as_deref(), Some("the answer cannot be read"));
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let health = probed(&member, &[format!("http://{nobody}")]).await;
    assert_eq!((health.asked, health.lost, health.is_well), (1, 1, false));
    assert!(health.error.unwrap().starts_with("dial tcp 127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_url_is_asked_after_a_failure() {
    let member = Member::start(1).await;
    let other = Member::start(2).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = Urls::parse(&[format!("http://{nobody}"), other.url()]).unwrap();
    let prober = Prober::new(2, Arc::new(urls), status(), Arc::clone(&member.transport.shared));
    prober.probe().await;
    assert!(!prober.health().is_well);
    prober.probe().await;
    let health = prober.health();
    assert_eq!((health.asked, health.lost, health.is_well), (2, 1, true));
}
