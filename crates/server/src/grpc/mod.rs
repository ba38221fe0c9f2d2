//! The gRPC services: they check the shape of a request, bring it through [`Core`], and fill in the
//! header of the answer. What a request means is decided below.
//!
//! Locks and elections are clients of the others, within this process ([`own`]).

mod auth;
mod cluster;
mod downgrade;
mod election;
mod health;
mod kv;
mod lease;
mod limits;
mod lock;
mod maintenance;
mod own;
mod range_stream;
mod services;
mod slow;
mod status;
mod watch;
mod wording;

pub(crate) use cluster::promote;
pub(crate) use downgrade::cancel as cancel_downgrade;
#[cfg(test)]
pub(crate) use downgrade::carry_out as downgrade;
pub(crate) use health::tell as tell_serving;
pub(crate) use lease::{TimeToLive, expire as expire_leases, renew_here, time_to_live_here};
pub(crate) use maintenance::alarm_text;
pub(crate) use services::{Answer, Services};

use std::sync::Arc;

use rpc::etcdserverpb::auth_server::AuthServer;
use rpc::etcdserverpb::cluster_server::ClusterServer;
use rpc::etcdserverpb::lease_server::LeaseServer;
use rpc::etcdserverpb::maintenance_server::MaintenanceServer;
use rpc::health::health_server::HealthServer;
use rpc::v3electionpb::election_server::ElectionServer;
use rpc::v3lockpb::lock_server::LockServer;
use tonic::codec::CompressionEncoding;

use crate::request::Core;
use crate::watching::Watching;
use services::Gathering;
use wording::Worded;

/// How clients may pack their messages.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// Every service.
pub(crate) fn services(core: &Arc<Core>, watching: &Arc<Watching>) -> Services {
    let bytes_max = core.message_bytes_max();
    // What is set on every generated server; they have no trait in common. grpc-go takes gzip wherever it is registered, as it is
    // in etcd. Answers are not packed: clients take them either way, and the processor has better to do.
    macro_rules! served {
        ($server:expr) => {
            Worded($server.max_decoding_message_size(bytes_max).accept_compressed(GZIP))
        };
    }
    let kv = |is_for_clients| Worded(kv::Ranges::new(core, bytes_max, is_for_clients));
    let watches = || Worded(watch::Watches::new(core, watching, bytes_max));
    let leases = || served!(LeaseServer::new(lease::Service::new(core)));
    // What lock and election do for their callers is no call of a client.
    let own = own::Own::new(
        Gathering::new(core)
            .with_inner(kv(false))
            .with_inner(watches())
            .with_inner(leases())
            .services(),
    );
    Gathering::new(core)
        .with(kv(true))
        .with(watches())
        .with(leases())
        .with(served!(ClusterServer::new(cluster::Service::new(core))))
        .with(served!(MaintenanceServer::new(maintenance::Service::new(core))))
        .with(served!(AuthServer::new(auth::Service::new(core))))
        .with(served!(HealthServer::new(health::Service::new(core))))
        .with(served!(LockServer::new(lock::Service::new(core, &own))))
        .with(served!(ElectionServer::new(election::Service::new(core, &own))))
        .services()
}

/// The text that a client is told for a refusal.
pub(crate) fn text_of(refusal: &crate::request::Refusal) -> String {
    status::of(refusal).message().to_owned()
}

#[cfg(test)]
mod tests;
