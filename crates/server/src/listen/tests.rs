use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tls::{Connector, Pair, Settings};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::Code;

use super::served::Served;
use super::*;

/// Certificates of one authority, in a folder.
struct Certificates {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { folder: folder.to_owned(), issuer }
    }

    /// What somebody goes by who has a certificate with this common name, or with none.
    fn settings(&self, common_name: &str) -> Settings {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, common_name);
        }
        let key = KeyPair::generate().unwrap();
        let pair = Pair {
            certificate: self.folder.join(format!("{common_name}.pem")),
            key: self.folder.join(format!("{common_name}.key")),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(&pair.certificate, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        let trusted_ca = Some(self.folder.join("ca.pem"));
        Settings { pair: Some(pair), trusted_ca, ..Settings::default() }
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor::new(&self.settings("server"), &["h2", "http/1.1"]).unwrap()
    }

    fn connector(&self, common_name: &str) -> Connector {
        self.connector_for(common_name, "http/1.1")
    }

    fn connector_for(&self, common_name: &str, protocol: &str) -> Connector {
        Connector::new(&self.settings(common_name), &[protocol]).unwrap()
    }
}

/// Everything that is answered to a last request.
async fn answer(connection: &mut (impl AsyncRead + AsyncWrite + Unpin), first: &str) -> String {
    let rest = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    connection.write_all(format!("{first} {rest}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

/// `--listen-client-urls http://A,https://A`: the first byte tells.
#[tokio::test(flavor = "multi_thread")]
async fn one_port_serves_with_and_without_tls() {
    let mut server = Served::without_listener(|_| {}).await;
    let certificates = Certificates::new(server.folder());
    server.listen_tcp(Security::Mixed, Some(&certificates.acceptor())).await;
    // Neither is held up by one that says nothing.
    let _silent = server.connect().await;
    for _ in 0..2 {
        let plain = answer(&mut server.connect().await, "GET /version").await;
        assert!(plain.starts_with("HTTP/1.1 200 OK"), "{plain}");
        let socket = server.connect().await;
        let mut secured =
            certificates.connector("client").connect(socket, "127.0.0.1").await.unwrap();
        let secured = answer(&mut secured, "GET /version").await;
        assert!(secured.starts_with("HTTP/1.1 200 OK"), "{secured}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_of_one_address_share_a_listener() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let urls: Vec<Url> = [
        format!("http://127.0.0.1:{free}"),
        format!("https://127.0.0.1:{free}"),
        format!("unixs://{}", path.display()),
    ]
    .iter()
    .map(|url| Url::parse(url).unwrap())
    .collect();
    let listeners = bind(&urls, false).await.unwrap();
    let found: Vec<Security> = listeners.iter().map(|listener| listener.security).collect();
    assert_eq!(found, [Security::Mixed, Security::Secured]);
    assert!(path.exists());
    drop(listeners);
    assert!(!path.exists(), "the socket's file goes with its listener");
}

/// `unixs://`: TLS over a socket of the file system, also where a killed member left its file.
#[tokio::test(flavor = "multi_thread")]
async fn tls_over_a_socket_of_the_file_system() {
    let mut server = Served::without_listener(|_| {}).await;
    let certificates = Certificates::new(server.folder());
    let path = server.folder().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let url = Url::parse(&format!("unixs://{}", path.display())).unwrap();
    let listener = bind(&[url], false).await.unwrap().remove(0);
    server.listen(listener, Some(&certificates.acceptor()));
    let socket = UnixStream::connect(&path).await.unwrap();
    let mut secured = certificates.connector("client").connect(socket, "127.0.0.1").await.unwrap();
    let secured = answer(&mut secured, "GET /version").await;
    assert!(secured.starts_with("HTTP/1.1 200 OK"), "{secured}");
    // Without a handshake there is nothing.
    let mut plain = UnixStream::connect(&path).await.unwrap();
    plain.write_all(b"GET /version HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.stop().await;
}

/// CVE-2018-16886: a client of the gateway is not who its certificate names, and is told so instead of becoming that user.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2018_16886_the_gateway_takes_no_name_from_a_certificate() {
    let mut server =
        Served::without_listener(|config| config.client_tls.client_cert_auth = true).await;
    let certificates = Certificates::new(server.folder());
    server.listen_tcp(Security::Secured, Some(&certificates.acceptor())).await;
    let ask = async |name: &str, request: &str| {
        let socket = server.connect().await;
        let mut connection =
            certificates.connector(name).connect(socket, "127.0.0.1").await.unwrap();
        answer(&mut connection, request).await
    };
    let list = "POST /v3/auth/user/list";
    assert!(ask("root", list).await.starts_with("HTTP/1.1 200 "), "authentication is off");
    server.enable_auth().await;
    let refused = ask("root", list).await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert!(
        refused.contains("CommonName of client sending a request against gateway will be ignored")
    );
    // Nor at the old prefix.
    let old = "POST /v3beta/auth/user/list";
    assert!(ask("root", old).await.starts_with("HTTP/1.1 400 "));
    // Elsewhere the name is no matter, and who has none is nobody.
    assert!(ask("root", "GET /version").await.starts_with("HTTP/1.1 200 "));
    let nobody = ask("", list).await;
    assert!(nobody.contains("etcdserver: user name is empty"), "{nobody}");
    server.stop().await;
}

/// A certificate without a name is nobody's, but somebody's: what everybody may do who is somebody, he may do too.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_a_name_is_enough_to_be_somebody() {
    let mut server =
        Served::without_listener(|config| config.client_tls.client_cert_auth = true).await;
    let certificates = Certificates::new(server.folder());
    server.listen_tcp(Security::Secured, Some(&certificates.acceptor())).await;
    server.enable_auth().await;
    let nameless = certificates.connector_for("", "h2");
    for (path, body, code, message) in [
        ("/etcdserverpb.Cluster/MemberList", &[][..], Code::Ok, ""),
        ("/etcdserverpb.Maintenance/Alarm", &[], Code::Ok, ""),
        ("/etcdserverpb.Lease/LeaseGrant", &[0x08, 60], Code::Ok, ""),
        ("/etcdserverpb.Lease/LeaseLeases", &[], Code::Ok, ""),
        (
            "/etcdserverpb.KV/Range",
            b"\x0a\x01k",
            Code::PermissionDenied,
            "etcdserver: permission denied",
        ),
        (
            "/etcdserverpb.Auth/UserList",
            &[],
            Code::InvalidArgument,
            "etcdserver: user name is empty",
        ),
    ] {
        let connection = nameless.connect(server.connect().await, "127.0.0.1").await.unwrap();
        let length = u8::try_from(body.len()).unwrap();
        let body = [&[0, 0, 0, 0, length][..], body].concat();
        let found = server.grpc_over(connection, path, &[], body.into()).await;
        assert_eq!((found.status.code(), found.status.message()), (code, message), "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_is_named() {
    let server = Served::start(|_| {}).await;
    for (hosts, status) in [("", 400), ("Host: a\r\n", 200), ("Host: a\r\nHost: a\r\n", 400)] {
        let mut connection = server.connect().await;
        let request = format!("GET /version HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{hosts} {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_port_is_shared_by_those_who_ask_for_it() {
    let free = Url::parse_list("http://127.0.0.1:0").unwrap();
    let first = bind(&free, true).await.unwrap();
    let Door::Tcp(socket) = &first[0].door else { panic!("a port") };
    let address = socket.local_addr().unwrap();
    let taken = Url::parse_list(&format!("http://{address}")).unwrap();
    assert_eq!(bind(&taken, true).await.unwrap().len(), 1);
    let refused = bind(&taken, false).await.unwrap_err();
    assert!(matches!(refused, StartError::Listen { .. }), "{refused}");
}
