use std::io;
use std::path::Path;
use std::sync::Mutex;

use http_body_util::BodyExt as _;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::sync::mpsc::UnboundedSender;
use tower_service::Service as _;
use vfs::{Dir, Entry, File, OpenMode};

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

/// A directory in which a defragmentation comes as far as the last step, and waits there.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn Dir>,
    reached: UnboundedSender<()>,
    open: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Dir for Gate {
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if from.starts_with("db.tmp.") {
            self.reached.send(()).unwrap();
            self.open.lock().unwrap().recv().unwrap();
        }
        self.inner.rename(from, to)
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.inner.open(name, mode)
    }
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        self.inner.subdir(name)
    }
    fn create_subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        self.inner.create_subdir(name)
    }
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.inner.list()
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn remove_subdir(&self, name: &str) -> io::Result<()> {
        self.inner.remove_subdir(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
}

/// etcd answers nobody meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_defragmentation_holds_up_neither_reads_nor_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (reached, mut reaches) = mpsc::unbounded_channel();
    let (opens, open) = std::sync::mpsc::channel();
    let gate = |inner| Arc::new(Gate { inner, reached, open: Mutex::new(open) }) as Arc<dyn Dir>;
    let (member, routes) = unconnected::start_on(unconnected::config(dir.path()), gate).await;
    let kv = KvClient::new(routes.clone());
    let put = async |key: &str, value: &str| {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let put = PutRequest { key, value, ..PutRequest::default() };
        kv.clone().put(put).await.unwrap().into_inner().header.unwrap().revision
    };
    let get = async |key: &str, serializable| {
        let key = key.to_owned().into();
        let range = RangeRequest { key, serializable, ..RangeRequest::default() };
        let found = kv.clone().range(range).await.unwrap().into_inner().kvs;
        found.first().map(|found| String::from_utf8_lossy(&found.value).into_owned())
    };
    put("a", "before").await;
    put("b", "before").await;
    let mut maintenance = MaintenanceClient::new(routes);
    let defragmentation =
        tokio::spawn(async move { maintenance.defragment(DefragmentRequest {}).await });
    reaches.recv().await.unwrap();

    assert_eq!(put("a", "meanwhile").await, 4);
    for serializable in [false, true] {
        assert_eq!(get("a", serializable).await.as_deref(), Some("meanwhile"));
        assert_eq!(get("b", serializable).await.as_deref(), Some("before"));
    }
    assert!(!defragmentation.is_finished(), "it waits at the gate");

    opens.send(()).unwrap();
    defragmentation.await.unwrap().unwrap();
    assert_eq!(get("a", false).await.as_deref(), Some("meanwhile"));
    assert_eq!(put("b", "after").await, 5);
    member.stop().await;
}
