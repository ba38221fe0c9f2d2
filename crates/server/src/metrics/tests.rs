use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseRevokeRequest, MemberPromoteRequest, PutRequest, RangeRequest,
};
use rpc::health::{HealthCheckResponse, HealthListRequest, HealthListResponse};
use tonic::Code;

use crate::listen::served::{Served, framed};

/// What etcd counts of the same calls: found by the same work on both, and the pages side by side.
#[tokio::test(flavor = "multi_thread")]
async fn figures_are_etcd_s() {
    let server = Served::start(|config| config.metrics_extensive = true).await;
    // Every method has its times before it is called, but for those that etcd adds late.
    server
        .until_metrics(|page| {
            let begun = |method: &str| {
                let labels = format!("{{grpc_method=\"{method}\"");
                page.contains(&format!("grpc_server_handling_seconds_count{labels}"))
                    && page.contains(&format!("grpc_server_started_total{labels}"))
            };
            begun("Put") && begun("List") && !begun("Lock") && !begun("Campaign")
        })
        .await;
    let leased = PutRequest { key: "k".into(), lease: 5, ..PutRequest::default() };
    let late = RangeRequest { key: "k".into(), revision: 99, ..RangeRequest::default() };
    for (path, body, code) in [
        ("/etcdserverpb.Lease/LeaseGrant", framed(&LeaseGrantRequest { ttl: 60, id: 5 }), Code::Ok),
        ("/etcdserverpb.KV/Put", framed(&leased), Code::Ok),
        ("/etcdserverpb.Lease/LeaseRevoke", framed(&LeaseRevokeRequest { id: 5 }), Code::Ok),
        ("/etcdserverpb.KV/Range", framed(&late), Code::OutOfRange),
        ("/etcdserverpb.Auth/AuthStatus", framed(&()), Code::Ok),
        (
            "/etcdserverpb.Cluster/MemberPromote",
            framed(&MemberPromoteRequest { id: 77 }),
            Code::NotFound,
        ),
    ] {
        let answer = server.grpc(path, &[], body.into()).await;
        assert_eq!(answer.status.code(), code, "{path}");
    }
    for line in [
        "etcd_mvcc_delete_total 1",
        "etcd_mvcc_range_total 1",
        "etcd_server_apply_duration_seconds_count{op=\"unknown\",success=\"true\",version=\"v3\"} 1",
        "etcd_server_learner_promote_failures{Reason=\"membership: ID not found\"} 1",
    ] {
        server.until_metrics(|page| page.lines().any(|found| found == line)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_of_all_services_is_that_of_the_server() {
    let server = Served::start(|_| {}).await;
    let list = framed(&HealthListRequest {});
    let answer = server.grpc("/grpc.health.v1.Health/List", &[], list.into()).await;
    let serving = HealthCheckResponse { status: 1 };
    let expected = HealthListResponse { statuses: [(String::new(), serving)].into() };
    assert_eq!(answer.body, framed(&expected));
    server.stop().await;
}
