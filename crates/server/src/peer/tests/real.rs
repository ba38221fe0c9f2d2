//! This transport as the other half of a cluster of two, whose first half is real etcd. Skipped without `RETCD_REAL_ETCD`, the
//! folder of an unpacked Debian package.

use std::process::{Child, Command, Stdio};

use super::*;

/// Ends with the test.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A cluster of etcd and a transport that read each other's streams.
struct Pair {
    _etcd: Etcd,
    _dir: tempfile::TempDir,
    clients_url: String,
    their_id: u64,
    ours: Member,
}

impl Pair {
    async fn start(flags: &[&str]) -> Option<Self> {
        let Ok(folder) = std::env::var("RETCD_REAL_ETCD") else {
            println!("skipped: RETCD_REAL_ETCD is not set");
            return None;
        };
        let (theirs, clients, ours) = (free_address(), free_address(), free_address());
        let (theirs_url, clients_url) = (format!("http://{theirs}"), format!("http://{clients}"));
        let dir = tempfile::tempdir().unwrap();
        let etcd = Command::new(format!("{folder}/usr/bin/etcd"))
            .args(["--name", "theirs", "--data-dir"])
            .arg(dir.path())
            .args(["--listen-peer-urls", &theirs_url, "--initial-advertise-peer-urls", &theirs_url])
            .args(["--listen-client-urls", &clients_url, "--advertise-client-urls", &clients_url])
            .arg("--initial-cluster")
            .arg(format!("theirs={theirs_url},ours=http://{ours}"))
            .args(flags)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd(etcd);
        let client = PeerClient::new(Dialler::new(PATIENCE, None));
        let members = loop {
            match client.call(&theirs_url, Question::get("/members"), PATIENCE).await {
                Ok(members) => break members,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        let cluster = members.headers.get(headers::CLUSTER_ID).unwrap().to_str().unwrap();
        let cluster = headers::parse_id(cluster).unwrap();
        let members: serde_json::Value = serde_json::from_slice(&members.body).unwrap();
        let id_of = |url: &str| {
            let members = members.as_array().unwrap();
            let member = members.iter().find(|member| member["peerURLs"][0] == url).unwrap();
            member["id"].as_u64().unwrap()
        };
        let (their_id, our_id) = (id_of(&theirs_url), id_of(&format!("http://{ours}")));
        let ours = Member::start_at(our_id, ours, cluster).await;
        ours.transport.add_peer(their_id, std::slice::from_ref(&theirs_url));
        until("streams", || ours.is_read_by(their_id)).await;
        until("active", || ours.transport.active_since(their_id).is_some()).await;
        Some(Self { _etcd: etcd, _dir: dir, clients_url, their_id, ours })
    }

    async fn next(&mut self) -> Message {
        let message = self.ours.next().await;
        let ids = (NodeId(self.their_id), NodeId(self.ours.id));
        assert_eq!((message.from, message.to), ids);
        message
    }

    /// Votes for it, and holds whatever it sends.
    fn agree(&self, message: &Message) {
        let body = if let Body::PreVote(_) = message.body {
            Body::PreVoteResponse { reject: false }
        } else if let Body::Vote(_) = message.body {
            Body::VoteResponse { reject: false }
        } else if let Body::Append { prev, entries, .. } = &message.body {
            let index = prev.index.plus(entries.len());
            Body::AppendResponse { index, rejection: None }
        } else if let Body::Heartbeat { context, .. } = &message.body {
            Body::HeartbeatResponse { context: context.clone() }
        } else {
            return;
        };
        self.answer(message.term, body);
    }

    fn answer(&self, term: Term, body: Body) {
        let (from, to) = (NodeId(self.ours.id), NodeId(self.their_id));
        self.ours.transport.send(vec![Message { to, from, term, body }]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_member_is_elected_by_this_one_and_replicates_to_it() {
    let Some(mut pair) = Pair::start(&[]).await else { return };
    // It asks for votes, is elected, and commits what both have.
    let (mut appends, mut committed) = (0, LogIndex(0));
    while committed < LogIndex(5) {
        let message = pair.next().await;
        if let Body::Append { commit, .. } = message.body {
            (appends, committed) = (appends + 1, commit);
        }
        pair.agree(&message);
    }
    assert!(appends > 1);
    while let Ok(told) = pair.ours.told.try_recv() {
        assert!(matches!(told, Told::Unreachable(_)), "{told:?}");
    }
    pair.ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_member_sends_its_database() {
    let flags = ["--snapshot-count", "5", "--experimental-snapshot-catchup-entries", "5"];
    let Some(mut pair) = Pair::start(&flags).await else { return };
    let clients_url = pair.clients_url.clone();
    let putting = tokio::spawn(async move {
        let client = PeerClient::new(Dialler::new(PATIENCE, None));
        for key in 0..40 {
            // In base64, which four digits are.
            let put = format!("{{\"key\":\"{key:04}\",\"value\":\"{}\"}}", "v".repeat(4000));
            let question = Question::post("/v3/kv/put", put);
            let put = client.call(&clients_url, question, PATIENCE).await;
            assert_eq!(put.unwrap().status, 200);
        }
    });
    let mut term = Term(0);
    while !putting.is_finished() {
        let message = pair.next().await;
        term = term.max(message.term);
        pair.agree(&message);
    }
    putting.await.unwrap();
    // An election begins, in which this member wants all that it has been sent again.
    let vote = Body::Vote(raft::VoteRequest { last: EntryId::ZERO, transfer: true });
    pair.answer(term.next(), vote);
    let snapshot = loop {
        let message = pair.next().await;
        if let Body::Append { prev, .. } = message.body {
            let rejection = Some(raft::Rejection::default());
            pair.answer(message.term, Body::AppendResponse { index: prev.index, rejection });
        } else if let Body::Snapshot(snapshot) = message.body {
            break snapshot;
        } else {
            pair.agree(&message);
        }
    };
    assert!(snapshot.metadata.index > LogIndex(30));
    assert_eq!(snapshot.metadata.conf_state.voters.len(), 2);
    let name = backend::snapshot_db_name(snapshot.metadata.index.0);
    assert_eq!(pair.ours.files(), std::slice::from_ref(&name));
    let view = backend::open_view(&pair.ours.disk.dir(), &name).unwrap();
    assert_eq!(view.check(), []);
    assert!(view.size().total_bytes > 100_000);
    pair.ours.stop().await;
}
