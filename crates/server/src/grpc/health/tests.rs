use proto::etcdserverpb::DefragmentRequest;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use rpc::health::health_client::HealthClient;

use super::*;
use crate::config::Config;
use crate::member::unconnected;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_while_the_database_is_defragmented() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { stops_grpc_on_defrag: true, ..unconnected::config(dir.path()) };
    let (member, routes) = unconnected::start(config).await;
    let core = unconnected::core(&member);
    let mut client = HealthClient::new(routes.clone());
    let mut answers = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let all = HealthCheckRequest::default;
    // One defragmentation within another, as the service counts them.
    for (change, expected) in [
        (0, ServingStatus::Serving),
        (1, ServingStatus::NotServing),
        (1, ServingStatus::NotServing),
        (-1, ServingStatus::NotServing),
        (-1, ServingStatus::Serving),
    ] {
        let before = status_of(*core.defragmentations.borrow());
        core.defragmentations.send_modify(|count| *count = count.saturating_add_signed(change));
        assert_eq!(client.check(all()).await.unwrap().into_inner().status(), expected);
        if change == 0 || before != expected {
            assert_eq!(answers.message().await.unwrap().unwrap().status(), expected);
        }
    }
    MaintenanceClient::new(routes).defragment(DefragmentRequest {}).await.unwrap();
    assert_eq!(*core.defragmentations.borrow(), 0);
    let unknown = HealthCheckRequest { service: "other".to_owned() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
}
