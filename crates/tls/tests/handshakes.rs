//! Both sides of real handshakes over loopback sockets: who is let in, who is not, and what changes without a restart.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use tls::{Acceptor, Ciphers, Connector, Names, Pair, Settings, Versions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// An authority, whose certificates are files in a folder.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    next_serial: AtomicU64,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        Self::until(folder, name, 4096)
    }

    /// With a last year.
    fn until(folder: &Path, name: &str, year: i32) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder, next_serial: AtomicU64::new(0x1f) }
    }

    fn ca(&self) -> Option<PathBuf> {
        Some(self.folder.join("ca.pem"))
    }

    /// Signs; the files carry the name, as the certificate does.
    fn sign(&self, name: &str, hosts: &[&str]) -> Pair {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        self.finish(name, params)
    }

    fn finish(&self, name: &str, mut params: CertificateParams) -> Pair {
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}-key.pem")),
        };
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        pair
    }

    /// Revokes serial numbers, as DER or PEM.
    fn revoke(&self, serials: &[u64], is_pem: bool) -> Vec<u8> {
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2044, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|&serial| RevokedCertParams {
                    serial_number: SerialNumber::from(serial),
                    revocation_time: rcgen::date_time_ymd(2024, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap();
        if is_pem { list.pem().unwrap().into_bytes() } else { list.der().to_vec() }
    }
}

/// What became of a connection: what each side says, or the text of its error.
async fn meet(
    server: &Settings,
    client: &Settings,
    name: &str,
) -> (Result<(), String>, Result<(), String>) {
    let acceptor = Acceptor::new(server, &["h2", "http/1.1"]).unwrap();
    let connector = Connector::new(client, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (socket, _) = listener.accept().await?;
        let mut stream = acceptor.accept(socket).await?;
        let mut read = [0; 4];
        stream.read_exact(&mut read).await?;
        assert_eq!(&read, b"ping");
        stream.write_all(b"pong").await?;
        stream.shutdown().await
    };
    let dialling = async {
        let socket = TcpStream::connect(address).await?;
        let mut stream = connector.connect(socket, name).await?;
        stream.write_all(b"ping").await?;
        // With TLS 1.3 a client learns only here that its certificate was not believed.
        let mut read = [0; 4];
        stream.read_exact(&mut read).await?;
        assert_eq!(&read, b"pong");
        Ok(())
    };
    let (accepted, dialled): (io::Result<()>, io::Result<()>) = tokio::join!(accepting, dialling);
    let text = |error: io::Error| error.to_string();
    (accepted.map_err(text), dialled.map_err(text))
}

async fn is_let_in(server: &Settings, client: &Settings) -> bool {
    matches!(meet(server, client, "127.0.0.1").await, (Ok(()), Ok(())))
}

#[tokio::test]
async fn a_server_is_believed_for_its_authority_and_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) =
        (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "other"));
    let server = Settings {
        pair: Some(ours.sign("server", &["127.0.0.1", "localhost"])),
        ..Settings::default()
    };
    let client = |ca| Settings { trusted_ca: ca, ..Settings::default() };
    for name in ["127.0.0.1", "localhost"] {
        assert_eq!(meet(&server, &client(ours.ca()), name).await, (Ok(()), Ok(())), "{name}");
    }
    let (_, refused) = meet(&server, &client(ours.ca()), "elsewhere").await;
    assert_eq!(
        refused.unwrap_err(),
        "tls: failed to verify certificate: x509: certificate is valid for 127.0.0.1, localhost, not elsewhere"
    );
    let (_, refused) = meet(&server, &client(other.ca()), "localhost").await;
    let unknown =
        "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(refused.unwrap_err(), unknown);
    let careless = Settings { skip_server_check: true, ..Settings::default() };
    assert_eq!(meet(&server, &careless, "elsewhere").await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_caller_without_a_believed_certificate_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) =
        (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "other"));
    // Authorities alone make a certificate necessary.
    let server = Settings {
        pair: Some(ours.sign("server", &["127.0.0.1"])),
        trusted_ca: ours.ca(),
        ..Settings::default()
    };
    let client = |pair| Settings { trusted_ca: ours.ca(), pair, ..Settings::default() };
    assert!(is_let_in(&server, &client(Some(ours.sign("client", &[])))).await);
    let (refused, _) = meet(&server, &client(None), "127.0.0.1").await;
    assert_eq!(refused.unwrap_err(), "tls: client didn't provide a certificate");
    let (refused, _) = meet(&server, &client(Some(other.sign("client", &[]))), "127.0.0.1").await;
    assert!(refused.unwrap_err().ends_with("x509: certificate signed by unknown authority"));
    // What is shown to servers can be another pair than what is shown to callers.
    let two = Settings {
        client_pair: Some(ours.sign("as-client", &[])),
        ..client(Some(other.sign("as-server", &[])))
    };
    assert!(is_let_in(&server, &two).await);
}

#[tokio::test]
async fn names_of_callers_are_restricted() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = |names| Settings {
        pair: Some(ours.sign("server", &["127.0.0.1"])),
        trusted_ca: ours.ca(),
        names,
        ..Settings::default()
    };
    let client = |pair| Settings { trusted_ca: ours.ca(), pair: Some(pair), ..Settings::default() };
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let (alice, bob) =
        (ours.sign("alice", &["a.example.org"]), ours.sign("bob", &["b.example.org"]));
    for names in [
        Names::Common(list(&["carol", "alice"])),
        Names::Hosts(list(&["a.example.org", "10.0.0.1"])),
    ] {
        let server = server(names);
        assert!(is_let_in(&server, &client(alice.clone())).await);
        let (refused, _) = meet(&server, &client(bob.clone()), "127.0.0.1").await;
        assert!(refused.unwrap_err().contains("client certificate authentication failed"));
        // What the caller is told, which an operator searches its log for.
        let acceptor = Acceptor::new(&server, &["h2"]).unwrap();
        let connector = Connector::new(&client(bob.clone()), &[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refusing = async { acceptor.accept(listener.accept().await.unwrap().0).await.is_err() };
        let told = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect(socket, "127.0.0.1").await?;
            stream.read_u8().await
        };
        let (is_refused, told) = tokio::join!(refusing, told);
        assert!(is_refused);
        assert_eq!(told.unwrap_err().to_string(), "remote error: tls: bad certificate");
    }
    assert!(Names::of(list(&["a"]), list(&["b"])).is_err());
}

#[tokio::test]
async fn what_is_revoked_while_the_listener_runs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let list = folder.path().join("revoked.crl");
    let server = Settings {
        pair: Some(ours.sign("server", &["127.0.0.1"])),
        trusted_ca: ours.ca(),
        revoked: Some(list.clone()),
        ..Settings::default()
    };
    // The server's own is 0x1f.
    let client = Settings {
        trusted_ca: ours.ca(),
        pair: Some(ours.sign("client", &[])),
        ..Settings::default()
    };
    for is_pem in [false, true] {
        fs::write(&list, ours.revoke(&[0x77], is_pem)).unwrap();
        assert!(is_let_in(&server, &client).await);
        fs::write(&list, ours.revoke(&[0x77, 0x20], is_pem)).unwrap();
        let (refused, _) = meet(&server, &client, "127.0.0.1").await;
        assert!(refused.unwrap_err().contains("transport: certificate serial 20 revoked"));
    }
    fs::write(&list, "not a list").unwrap();
    assert!(!is_let_in(&server, &client).await);
}

#[tokio::test]
async fn a_replaced_pair_is_shown_from_the_next_handshake_on() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(folder.path(), "old"), Authority::new(folder.path(), "new"));
    let pair = old.sign("server", &["127.0.0.1"]);
    let acceptor =
        Acceptor::new(&Settings { pair: Some(pair.clone()), ..Settings::default() }, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shows = async |ca: Option<PathBuf>| {
        let trusting = Settings { trusted_ca: ca, ..Settings::default() };
        let connector = Connector::new(&trusting, &[]).unwrap();
        let accepting = async { acceptor.accept(listener.accept().await?.0).await };
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_, dialled) = tokio::join!(accepting, connector.connect(socket, "127.0.0.1"));
        dialled.is_ok()
    };
    assert!(shows(old.ca()).await);
    let replacement = new.sign("server", &["127.0.0.1"]);
    fs::rename(replacement.key, &pair.key).unwrap();
    // Half-way the two do not belong together, and nobody is served.
    assert!(!shows(old.ca()).await);
    fs::rename(replacement.certificate, &pair.certificate).unwrap();
    assert!(shows(new.ca()).await);
    assert!(!shows(old.ca()).await);
}

/// The bundle grows by the new authority before certificates change over, and shrinks by the old one after that.
#[tokio::test]
async fn a_replaced_bundle_counts_from_the_next_handshake_on_for_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(folder.path(), "old"), Authority::new(folder.path(), "new"));
    let read = |authority: &Authority| fs::read(authority.ca().unwrap()).unwrap();
    let bundle = folder.path().join("bundle.pem");
    fs::write(&bundle, read(&old)).unwrap();
    let settings = |pair| Settings {
        pair: Some(pair),
        trusted_ca: Some(bundle.clone()),
        ..Settings::default()
    };
    let acceptor = Acceptor::new(&settings(old.sign("server", &["127.0.0.1"])), &[]).unwrap();
    let of_old = Connector::new(&settings(old.sign("client", &[])), &[]).unwrap();
    let of_new = Connector::new(&settings(new.sign("client2", &[])), &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let meets = async |connector: &Connector| {
        let accepting = async { acceptor.accept(listener.accept().await?.0).await };
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, dialled) = tokio::join!(accepting, connector.connect(socket, "127.0.0.1"));
        (accepted.is_ok(), dialled.is_ok())
    };
    // In TLS 1.3 a caller only learns later that it was turned away.
    assert_eq!(meets(&of_old).await, (true, true));
    assert!(!meets(&of_new).await.0);
    fs::write(&bundle, [read(&old), read(&new)].concat()).unwrap();
    assert_eq!(meets(&of_old).await, (true, true));
    assert_eq!(meets(&of_new).await, (true, true));
    // Half a file changes nothing.
    fs::write(&bundle, "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    assert_eq!(meets(&of_new).await, (true, true));
    fs::write(&bundle, read(&new)).unwrap();
    // The server's own certificate is the old authority's.
    assert!(!meets(&of_new).await.1);
    assert!(!meets(&of_old).await.0);
}

#[tokio::test]
async fn generated_certificates_are_kept_and_serve_those_who_do_not_check() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = folder.path().join("fixtures/peer");
    let hosts = ["127.0.0.1".to_owned(), "127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = tls::generate(&fixtures, &hosts, 1).unwrap();
    assert!(made.is_new);
    let before = fs::read(&made.pair.certificate).unwrap();
    assert!(!tls::generate(&fixtures, &hosts, 1).unwrap().is_new);
    assert_eq!(fs::read(&made.pair.certificate).unwrap(), before);
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(&made.pair.key), mode(&fixtures)), (0o600, 0o700));

    let both =
        Settings { pair: Some(made.pair.clone()), skip_server_check: true, ..Settings::default() };
    assert!(is_let_in(&both, &both).await);
    // Who trusts that very certificate believes it.
    let trusting =
        Settings { trusted_ca: Some(made.pair.certificate.clone()), ..Settings::default() };
    assert!(is_let_in(&both, &trusting).await);
    assert!(tls::generate(&fixtures, &hosts, 0).is_err());
}

#[tokio::test]
async fn a_certificate_that_could_sign_others_is_believed_when_it_is_trusted_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pair =
        Pair { certificate: folder.path().join("one.pem"), key: folder.path().join("one-key.pem") };
    fs::write(&pair.certificate, certificate.pem()).unwrap();
    fs::write(&pair.key, key.serialize_pem()).unwrap();
    let all = Settings {
        trusted_ca: Some(pair.certificate.clone()),
        pair: Some(pair.clone()),
        ..Settings::default()
    };
    assert!(is_let_in(&all, &all).await);
    let (_, refused) = meet(&all, &all, "elsewhere").await;
    assert!(refused.unwrap_err().ends_with("not elsewhere"));
    let other = Authority::new(folder.path(), "other");
    let strangers = Settings { trusted_ca: other.ca(), ..Settings::default() };
    let (_, refused) = meet(&all, &strangers, "127.0.0.1").await;
    refused.unwrap_err();
}

/// DER: what lies in a sequence, one by one.
fn items(sequence: &[u8]) -> Vec<&[u8]> {
    let header = |der: &[u8]| match der[1] {
        len @ ..=0x7f => (2, usize::from(len)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
    };
    let (begin, len) = header(sequence);
    let (mut rest, mut found) = (&sequence[begin..begin + len], Vec::new());
    while !rest.is_empty() {
        let (begin, len) = header(rest);
        let (item, behind) = rest.split_at(begin + len);
        found.push(item);
        rest = behind;
    }
    found
}

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = u16::try_from(contents.len()).unwrap();
    let [high, low] = len.to_be_bytes();
    match len {
        ..=0x7f => [&[tag, low], contents].concat(),
        0x80..=0xff => [&[tag, 0x81, low], contents].concat(),
        _ => [&[tag, 0x82, high, low], contents].concat(),
    }
}

/// Makes of a certificate of v3 one of v1, as `openssl x509 -req` did for long: without version and extensions.
fn make_old(pair: &Pair, signer: &KeyPair) {
    use base64::Engine as _;
    use rcgen::SigningKey as _;
    use rustls::pki_types::pem::PemObject as _;
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(&pair.certificate).unwrap();
    let [signed, algorithm, _] = items(&certificate)[..] else { panic!("no certificate") };
    let kept = items(signed).into_iter().filter(|item| !matches!(item[0], 0xa0 | 0xa3));
    let signed = der(0x30, &kept.collect::<Vec<_>>().concat());
    let signature = der(0x03, &[&[0], &signer.sign(&signed).unwrap()[..]].concat());
    let old = der(0x30, &[&signed, algorithm, &signature].concat());
    let text = base64::prelude::BASE64_STANDARD.encode(old);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    fs::write(&pair.certificate, pem).unwrap();
}

#[tokio::test]
async fn a_certificate_of_v1_is_believed_for_who_signed_it_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) =
        (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "other"));
    let server = |names, versions| Settings {
        pair: Some(ours.sign("server", &["127.0.0.1"])),
        trusted_ca: ours.ca(),
        check_origin: true,
        names,
        versions,
        ..Settings::default()
    };
    let old = |authority: &Authority, name: &str, signer: &KeyPair| {
        let pair = authority.sign(name, &["10.9.9.9"]);
        make_old(&pair, signer);
        Settings { trusted_ca: ours.ca(), pair: Some(pair), ..Settings::default() }
    };
    let client = old(&ours, "client", ours.issuer.key());
    let list = |name: &str| vec![name.to_owned()];
    for (versions, names, passes) in [
        (("TLS1.2", "TLS1.2"), Names::Any, true),
        (("TLS1.3", ""), Names::Any, true),
        (("", ""), Names::Common(list("client")), true),
        (("", ""), Names::Common(list("somebody")), false),
        // Names of hosts are in what v1 does not have.
        (("", ""), Names::Hosts(list("10.9.9.9")), false),
    ] {
        let server = server(names.clone(), Versions::parse(versions.0, versions.1).unwrap());
        assert_eq!(is_let_in(&server, &client).await, passes, "{versions:?} {names:?}");
    }
    let any = server(Names::Any, Versions::default());
    // Signed by another, whether or not it says so; and shown by somebody without its key.
    let mut thief = client.clone();
    thief.pair = Some(Pair {
        key: ours.sign("thief", &[]).key,
        certificate: client.pair.clone().unwrap().certificate,
    });
    assert!(Connector::new(&thief, &[]).is_err());
    for stranger in
        [old(&other, "stranger", other.issuer.key()), old(&ours, "forged", other.issuer.key())]
    {
        let (refused, _) = meet(&any, &stranger, "127.0.0.1").await;
        assert!(refused.unwrap_err().ends_with("x509: certificate signed by unknown authority"));
    }
    // Revoked.
    let revoked = folder.path().join("revoked.crl");
    fs::write(&revoked, ours.revoke(&(0..0x80).collect::<Vec<_>>(), true)).unwrap();
    assert!(!is_let_in(&Settings { revoked: Some(revoked), ..any.clone() }, &client).await);
    // A server starts with one, and only those who do not check it are content.
    let server = Settings { pair: client.pair.clone(), ..Settings::default() };
    let careless = Settings { skip_server_check: true, ..Settings::default() };
    assert!(is_let_in(&server, &careless).await);
    let careful = Settings { trusted_ca: ours.ca(), ..Settings::default() };
    let (_, refused) = meet(&server, &careful, "127.0.0.1").await;
    assert!(refused.unwrap_err().contains("legacy Common Name"));
}

#[tokio::test]
async fn an_authority_may_call_itself_and_one_that_is_trusted_signs_for_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = |ca| Settings {
        pair: Some(ours.sign("server", &["127.0.0.1"])),
        trusted_ca: ca,
        ..Settings::default()
    };
    let calls = |pair| Settings { trusted_ca: ours.ca(), pair: Some(pair), ..Settings::default() };
    // An authority below ours, with a use or without.
    let below = |name: &str, uses: &[ExtendedKeyUsagePurpose]| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = uses.to_vec();
        ours.finish(name, params)
    };
    let (any, servers) =
        (below("any", &[]), below("servers", &[ExtendedKeyUsagePurpose::ServerAuth]));
    assert!(is_let_in(&server(ours.ca()), &calls(any)).await);
    let (refused, _) = meet(&server(ours.ca()), &calls(servers), "127.0.0.1").await;
    assert!(refused.unwrap_err().ends_with("incompatible key usage"));
    // A single caller, believed by its own certificate, which somebody else signed.
    let (one, two) = (ours.sign("one", &[]), ours.sign("two", &[]));
    let pinned = server(Some(one.certificate.clone()));
    assert!(is_let_in(&pinned, &calls(one.clone())).await);
    assert!(!is_let_in(&pinned, &calls(two)).await);
    // With its key it could sign for others, if that were asked.
    let signer = KeyPair::from_pem(&fs::read_to_string(&one.key).unwrap()).unwrap();
    let mut itself = CertificateParams::new(Vec::new()).unwrap();
    itself.distinguished_name.push(DnType::CommonName, "one");
    let issuer = rcgen::Issuer::new(itself, signer);
    let key = KeyPair::generate().unwrap();
    let forged = CertificateParams::new(Vec::new()).unwrap().signed_by(&key, &issuer).unwrap();
    let pair = Pair { certificate: folder.path().join("f.pem"), key: folder.path().join("f.key") };
    fs::write(&pair.certificate, forged.pem()).unwrap();
    fs::write(&pair.key, key.serialize_pem()).unwrap();
    assert!(!is_let_in(&pinned, &calls(pair)).await);
}

#[tokio::test]
async fn an_authority_whose_time_is_over_vouches_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let over = Authority::until(folder.path(), "over", 2020);
    let server = |ca| Settings {
        pair: Some(over.sign("server", &["127.0.0.1"])),
        trusted_ca: ca,
        ..Settings::default()
    };
    let careless = Settings {
        skip_server_check: true,
        pair: Some(over.sign("client", &[])),
        ..Settings::default()
    };
    let (refused, _) = meet(&server(over.ca()), &careless, "127.0.0.1").await;
    assert!(refused.unwrap_err().contains("certificate has expired or is not yet valid"));
    let careful = Settings { trusted_ca: over.ca(), ..Settings::default() };
    let (_, refused) = meet(&server(None), &careful, "127.0.0.1").await;
    assert!(refused.unwrap_err().contains("certificate has expired or is not yet valid"));
}

#[tokio::test]
async fn a_server_shows_what_it_is_told_to_show() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let mut strange = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99], vec![5, 0]);
    strange.set_criticality(true);
    params.custom_extensions = vec![strange];
    let pair = ours.finish("strange", params);
    let server = Settings { pair: Some(pair.clone()), ..Settings::default() };
    let careful = Settings { trusted_ca: ours.ca(), ..Settings::default() };
    let (_, refused) = meet(&server, &careful, "127.0.0.1").await;
    let refused = refused.unwrap_err();
    assert!(refused.ends_with("x509: unhandled critical extension"), "{refused}");
    let other = ours.sign("other", &[]);
    let mixed = Pair { key: other.key, certificate: pair.certificate };
    let mixed = Settings { pair: Some(mixed), ..Settings::default() };
    assert!(Acceptor::new(&mixed, &[]).unwrap_err().to_string().contains("KeyMismatch"));
}

#[tokio::test]
async fn who_is_turned_away_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let settings = Settings {
        pair: Some(ours.sign("server", &["127.0.0.1", "localhost"])),
        trusted_ca: ours.ca(),
        check_origin: true,
        ..Settings::default()
    };
    let acceptor = Acceptor::new(&settings, &["h2"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let turned_away = async |caller: &Settings, protocols: &[&str]| {
        let connector = Connector::new(caller, protocols).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepting = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let (accepted, _) = tokio::join!(accepting, connector.connect(socket, "localhost"));
        let error = accepted.unwrap_err().into_inner().unwrap();
        *error.downcast::<tls::Refused>().unwrap()
    };
    let caller = |name, hosts: &[&str]| Settings {
        trusted_ca: ours.ca(),
        pair: Some(ours.sign(name, hosts)),
        ..Settings::default()
    };
    let elsewhere = turned_away(&caller("elsewhere", &["10.4.7.121", "x.invalid"]), &[]).await;
    assert_eq!(elsewhere.server_name, "localhost");
    assert_eq!(elsewhere.addresses, ["10.4.7.121".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(elsewhere.names, ["x.invalid"]);
    let refused = turned_away(&caller("here", &[]), &["foo"]).await;
    assert_eq!(
        refused.to_string(),
        "tls: client requested unsupported application protocols ([\"foo\"])"
    );
    assert_eq!((refused.server_name.as_str(), refused.names.len()), ("localhost", 0));
    let versions = Versions::parse("", "TLS1.2").unwrap();
    let rsa = Ciphers::parse("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", versions).unwrap();
    let refused =
        turned_away(&Settings { versions, ciphers: rsa, ..caller("rsa", &[]) }, &[]).await;
    let text = refused.to_string();
    let (what, offered) = text.split_once("; client offered: ").unwrap();
    assert_eq!(what, "tls: no cipher suite supported by both client and server");
    assert!(offered.contains("c02f") && !offered.contains("c02b"), "{offered}");
    let only_13 = Settings { versions: Versions::parse("TLS1.3", "").unwrap(), ..settings.clone() };
    let (refused, _) =
        meet(&only_13, &Settings { versions, ..caller("old", &[]) }, "localhost").await;
    let refused = refused.unwrap_err();
    assert!(
        refused.starts_with("tls: client offered only unsupported versions: [303"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_member_s_certificate_is_compared_with_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = Settings {
        pair: Some(ours.sign("server", &["127.0.0.1"])),
        trusted_ca: ours.ca(),
        check_origin: true,
        ..Settings::default()
    };
    for (name, hosts, passes) in [
        ("nameless", &[][..], true),
        ("here", &["127.0.0.1"], true),
        ("elsewhere", &["10.4.7.121"], false),
    ] {
        let client = Settings {
            trusted_ca: ours.ca(),
            pair: Some(ours.sign(name, hosts)),
            ..Settings::default()
        };
        assert_eq!(is_let_in(&server, &client).await, passes, "{name}");
    }
}

#[tokio::test]
async fn ghsa_5x4g_q5rc_36jp_versions_and_suites_are_agreed_on_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let pair = Some(ours.sign("server", &["127.0.0.1"]));
    let of = |min, max, ciphers| {
        let versions = Versions::parse(min, max).unwrap();
        Settings {
            pair: pair.clone(),
            trusted_ca: None,
            versions,
            ciphers: match ciphers {
                "" => Ciphers::default(),
                names => Ciphers::parse(names, versions).unwrap(),
            },
            skip_server_check: true,
            ..Settings::default()
        }
    };
    let gcm = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let chacha = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305";
    assert!(is_let_in(&of("", "TLS1.2", gcm), &of("", "", "")).await);
    assert!(!is_let_in(&of("", "TLS1.2", gcm), &of("", "TLS1.2", chacha)).await);
    assert!(!is_let_in(&of("TLS1.3", "", ""), &of("", "TLS1.2", "")).await);
}

#[tokio::test(start_paused = true)]
async fn cve_2026_73500_silence_and_noise_end_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let settings =
        Settings { pair: Some(ours.sign("server", &["127.0.0.1"])), ..Settings::default() };
    let acceptor = Acceptor::new(&settings, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let error = acceptor.accept(socket).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(client);

    client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let error = acceptor.accept(socket).await.unwrap_err();
    assert_eq!(error.to_string(), "tls: first record does not look like a TLS handshake");
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let (one, two) = (ours.sign("one", &[]), ours.sign("two", &[]));
    let text = |settings: &Settings| Acceptor::new(settings, &[]).unwrap_err().to_string();
    let with = |certificate: &Path, key: &Path| Settings {
        pair: Some(Pair { certificate: certificate.into(), key: key.into() }),
        ..Settings::default()
    };
    let absent = folder.path().join("absent.pem");
    assert_eq!(
        text(&with(&absent, &one.key)),
        format!("open {}: No such file or directory (os error 2)", absent.display())
    );
    assert!(text(&with(&one.certificate, &two.key)).contains("one.pem"));
    assert!(text(&with(&one.key, &one.key)).contains("one-key.pem: it holds no certificate"));
    let garbage = folder.path().join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let settings = Settings { trusted_ca: Some(garbage), ..with(&one.certificate, &one.key) };
    assert!(text(&settings).contains("garbage.pem"));
    assert_eq!(
        Pair::of("a", "").unwrap_err().to_string(),
        "KeyFile and CertFile must both be present[key: , cert: a]"
    );
}
