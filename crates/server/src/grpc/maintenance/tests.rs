use http_body_util::BodyExt as _;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use tower_service::Service as _;

use super::*;
use crate::config::Config;
use crate::member::unconnected;
use crate::version::parse_emulated;

#[tokio::test(flavor = "multi_thread")]
async fn alarms_of_unknown_kinds_are_raised_from_3_6_on() {
    for (version, is_raised) in [("3.5", false), ("3.6", true), ("3.7", true)] {
        let dir = tempfile::tempdir().unwrap();
        let emulated_version = Some(parse_emulated(version).unwrap());
        let config = Config { emulated_version, ..unconnected::config(dir.path()) };
        let (member, routes) = unconnected::start(config).await;
        let mut client = MaintenanceClient::new(routes.clone());
        let mut call = async |action: i32, alarm| {
            let request = AlarmRequest { action, member_id: 5, alarm };
            let answer = client.alarm(request).await.map_err(|error| error.message().to_owned());
            answer.map(|answer| {
                let alarms = answer.into_inner().alarms;
                alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect::<Vec<_>>()
            })
        };
        let [get, activate, deactivate] =
            [AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate].map(i32::from);
        let unknown = "etcdserver: unknown alarm type".to_owned();
        let raised = if is_raised { Ok(vec![(5, 7)]) } else { Err(unknown) };
        let standing = raised.clone().unwrap_or_default();
        assert_eq!(call(activate, 7).await, raised, "{version}");
        assert_eq!(call(get, 0).await, Ok(standing.clone()));
        assert_eq!(call(get, 7).await, Ok(standing.clone()));
        assert_eq!(call(get, 1).await, Ok(vec![]));
        // Who asks for the health hears of it, unless the number is left out.
        for (query, is_healthy) in [("", !is_raised), ("?exclude=7", true)] {
            let request = http::Request::get(format!("/health{query}"));
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = routes.clone().call(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let expected = if is_healthy {
                r#"{"health":"true","reason":""}"#
            } else {
                r#"{"health":"false","reason":"ALARM UNKNOWN"}"#
            };
            assert_eq!(body.trim_ascii_end(), expected.as_bytes(), "{version} {query}");
        }
        assert_eq!(call(deactivate, 7).await, Ok(standing));
        assert_eq!(call(deactivate, 7).await, Ok(vec![]));
        assert_eq!(call(9, 1).await, Err("etcdserver: unknown alarm action".to_owned()));
        member.stop().await;
    }
}
