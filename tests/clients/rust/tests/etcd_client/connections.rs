//! How the crate connects: its settings, endpoints that come and go, channels that are made outside of it, and its parts alone.

use std::collections::BTreeSet;

use etcd_client::{BalancedChannelBuilder, Channel, LockClient};
use tonic::transport::channel::Change;
use tonic::transport::{Channel as Transport, Endpoint, Uri};

use super::*;

/// Makes the channel that the crate would make, as somebody with wishes of his own would.
struct Own;

impl BalancedChannelBuilder for Own {
    type Error = tonic::transport::Error;

    fn balanced_channel(
        self,
        buffer_size: usize,
    ) -> Result<(Channel, tokio::sync::mpsc::Sender<Change<Uri, Endpoint>>), Self::Error> {
        let (channel, endpoints) = Transport::balance_channel(buffer_size);
        Ok((Channel::Tonic(channel), endpoints))
    }
}

/// Who has answered the next `count` requests.
async fn answering(client: &mut Client, count: usize) -> BTreeSet<u64> {
    let mut members = BTreeSet::new();
    for _ in 0..count {
        let answer = client.get("rust/endpoints", None).await.expect("get");
        members.insert(answer.header().expect("header").member_id());
    }
    members
}

#[tokio::test]
async fn endpoints_come_and_go() {
    let addresses = addresses("ETCD_CLUSTER");
    let mut ids = Vec::new();
    for client in &mut cluster().await {
        let status = client.status().await.expect("status");
        ids.push(status.header().expect("header").member_id());
    }
    let mut client = connect(&addresses[..1], ConnectOptions::new()).await;
    assert_eq!(answering(&mut client, 5).await, BTreeSet::from([ids[0]]));
    client.add_endpoint(&addresses[1]).await.expect("add");
    soon(async { while answering(&mut client, 5).await.len() < 2 {} }).await;
    client.remove_endpoint(format!("http://{}", addresses[0])).await.expect("remove");
    soon(async { while answering(&mut client, 10).await != BTreeSet::from([ids[1]]) {} }).await;
    assert!(matches!(client.add_endpoint("http://no port:x").await, Err(Error::InvalidUri(_))));

    let nobody: [&str; 0] = [];
    assert!(matches!(Client::connect(nobody, None).await, Err(Error::InvalidArgs(_))));
}

#[tokio::test]
async fn channels_of_the_caller() {
    let address = addresses("ETCD_MEMBER").remove(0);
    let mut balanced =
        Client::connect_with_balanced_channel([&address], None, Own).await.expect("connect");
    put(&mut balanced, "rust/channel", "1").await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("endpoint");
    let channel = endpoint.connect().await.expect("connects");
    let mut one = Client::from_channel(Channel::Tonic(channel), None).await.expect("client");
    assert_eq!(value(&mut one, "rust/channel").await.as_deref(), Some("1"));
    // It has one connection, and that is the caller's.
    assert!(matches!(one.add_endpoint(&address).await, Err(Error::EndpointsNotManaged)));
    assert!(matches!(one.remove_endpoint(&address).await, Err(Error::EndpointsNotManaged)));
}

#[tokio::test]
async fn settings() {
    let address = addresses("ETCD_MEMBER");
    let patient = ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(600), PATIENCE)
        .with_keep_alive_while_idle(true)
        .with_tcp_keepalive(Duration::from_secs(60))
        .with_require_leader(true);
    let mut client = connect(&address, patient).await;
    put(&mut client, "rust/settings", "1").await;

    // Whoever asks all the time whether the member is there is sent away.
    let hasty = ConnectOptions::new().with_keep_alive(Duration::from_millis(50), PATIENCE);
    let mut hasty = Client::connect(&address, Some(hasty)).await.expect("connect");
    let ended: Result<(), Error> = soon(async {
        let mut stream = hasty.watch("rust/settings", None).await?;
        while stream.message().await?.is_some() {}
        Ok(())
    })
    .await;
    assert!(ended.is_err(), "the watch ends as if it had been canceled");
    assert_eq!(value(&mut client, "rust/settings").await.as_deref(), Some("1"));

    // Messages have the bounds that they are given.
    let big = vec![b'x'; 100_000];
    client.put("rust/settings", big.clone(), None).await.expect("put");
    let mut narrow = client.kv_client().max_decoding_message_size(1000);
    let Err(Error::GRpcStatus(status)) = narrow.get("rust/settings", None).await else {
        panic!("a large answer is taken")
    };
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    let mut narrow = client.kv_client().max_encoding_message_size(1000);
    assert!(narrow.put("rust/settings", big, None).await.is_err());
    assert_eq!(narrow.get("rust/settings", None).await.expect("get").kvs()[0].version(), 2);
    let mut narrow = client.watch_client().max_decoding_message_size(1000);
    let revision = client.get("rust/settings", None).await.expect("get").kvs()[0].mod_revision();
    let from = WatchOptions::new().with_start_revision(revision);
    let mut stream = narrow.watch("rust/settings", Some(from)).await.expect("watch");
    let refused = soon(async {
        loop {
            match stream.message().await {
                Ok(Some(response)) => assert!(response.events().is_empty()),
                Ok(None) => panic!("the watch ends without a reason"),
                Err(error) => break error,
            }
        }
    })
    .await;
    assert!(
        matches!(refused, Error::GRpcStatus(status) if status.code() == tonic::Code::OutOfRange)
    );
}

#[tokio::test]
async fn parts_alone() {
    let mut client = member().await;
    let id = client.status().await.expect("status").header().expect("header").member_id();
    client.kv_client().put("rust/parts", "1", None).await.expect("put");
    let mut stream = client.watch_client().watch("rust/parts", None).await.expect("watch");
    assert!(soon(stream.message()).await.expect("response").expect("open").created());
    let lease = client.lease_client().grant(600, None).await.expect("grant").id();
    let leases = client.lease_client().leases().await.expect("leases");
    assert!(leases.leases().iter().any(|each| each.id() == lease));
    let members = client.cluster_client().member_list().await.expect("members");
    assert_eq!(members.members()[0].id(), id);
    assert_eq!(client.maintenance_client().status().await.expect("status").leader(), id);
    assert!(
        !client
            .auth_client()
            .user_list()
            .await
            .expect("users")
            .users()
            .iter()
            .any(|user| user == "root")
    );
    let mut locks: LockClient = client.lock_client();
    let options = LockOptions::new().with_lease(lease);
    let locked = soon(locks.lock("rust/lock of parts", Some(options))).await.expect("lock");
    assert_eq!(client.get(locked.key(), None).await.expect("get").kvs()[0].lease(), lease);
    locks.unlock(locked.key()).await.expect("unlock");
    assert_eq!(client.get(locked.key(), None).await.expect("get").count(), 0);
    let mut elections = client.election_client();
    let won =
        soon(elections.campaign("rust/election of parts", "one", lease)).await.expect("campaign");
    let told = elections.leader("rust/election of parts").await.expect("leader");
    assert_eq!(told.kv().expect("key").key(), won.leader().expect("leader").key());
    client.lease_client().revoke(lease).await.expect("revoke");
    assert_eq!(refusal(elections.leader("rust/election of parts").await), "election: no leader");
}
