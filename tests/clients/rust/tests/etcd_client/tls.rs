//! The member that takes only who has a certificate. Without one, a client is refused before any request; with one, it is the user of
//! the common name.

use etcd_client::{Certificate, Channel, Identity, TlsOptions};
use tonic::transport::Endpoint;

use super::*;

fn read(name: &str) -> Vec<u8> {
    let folder = addresses("ETCD_CERTIFICATES").remove(0);
    std::fs::read(std::path::Path::new(&folder).join(name)).expect("a certificate or key")
}

fn url() -> String {
    format!("https://{}", addresses("ETCD_TLS_MEMBER")[0])
}

fn trusting(authority: &str) -> TlsOptions {
    TlsOptions::new().ca_certificate(Certificate::from_pem(read(&format!("{authority}.crt"))))
}

fn identity(name: &str) -> Identity {
    Identity::from_pem(read(&format!("{name}.crt")), read(&format!("{name}.key")))
}

async fn secure(name: &str) -> Client {
    let options = ConnectOptions::new().with_tls(trusting("ca").identity(identity(name)));
    connect(&[url()], options).await
}

#[tokio::test]
async fn a_certificate_is_needed() {
    let address = addresses("ETCD_TLS_MEMBER").remove(0);
    let refused = [
        Some(trusting("ca")),
        Some(trusting("ca").identity(identity("stranger"))),
        Some(trusting("other-ca").identity(identity("root"))),
        Some(trusting("ca").identity(identity("root")).domain_name("elsewhere.example")),
        None,
    ];
    for (i, options) in refused.into_iter().enumerate() {
        let endpoint = match options {
            Some(options) => {
                Endpoint::from_shared(url()).expect("url").tls_config(options).expect("TLS")
            }
            None => Endpoint::from_shared(format!("http://{address}")).expect("url"),
        };
        // The crate's own connections are made anew for ever.
        let Ok(channel) = endpoint.connect().await else { continue };
        let channel = Channel::Tonic(channel);
        let mut client = Client::from_channel(channel, None).await.expect("client");
        assert!(soon(client.put("rust/tls", "refused", None)).await.is_err(), "client {i}");
    }
    assert_eq!(value(&mut secure("root").await, "rust/tls").await, None);
    // An address alone is reached with TLS when there are options for it, and by the name that they say.
    let named = trusting("ca").identity(identity("alice")).domain_name("localhost");
    let mut named =
        connect(std::slice::from_ref(&address), ConnectOptions::new().with_tls(named)).await;
    put(&mut named, "rust/tls", "1").await;
    named.delete("rust/tls", None).await.expect("delete");
    let plain = ConnectOptions::new().with_tls(trusting("ca"));
    let plain = Client::connect([format!("http://{address}")], Some(plain)).await;
    assert!(matches!(plain, Err(Error::InvalidArgs(_))));
}

#[tokio::test]
async fn everything_over_tls() {
    let (mut root, mut alice) = (secure("root").await, secure("alice").await);
    let mut stream = watch(&mut alice, "rust/secure/a", WatchOptions::new()).await;
    let lease = root.lease_grant(600, None).await.expect("grant").id();
    let (mut keeper, mut renewals) = root.lease_keep_alive(lease).await.expect("keep alive");
    keeper.keep_alive().await.expect("renew");
    assert_eq!(soon(renewals.message()).await.expect("response").expect("open").ttl(), 600);
    let leased = PutOptions::new().with_lease(lease);
    let base = root.put("rust/secure/a", "1", Some(leased)).await.expect("put");
    let base = base.header().expect("header").revision();
    root.lease_revoke(lease).await.expect("revoke");
    assert_eq!(events(&mut stream, 2, base).await, ["put a=1@0", "delete a@1"]);
    let big = vec![b'x'; 1_000_000];
    root.put("rust/secure/big", big.clone(), None).await.expect("put");
    assert_eq!(alice.get("rust/secure/big", None).await.expect("get").kvs()[0].value(), big);
    alice.delete("rust/secure/big", None).await.expect("delete");
    let members = root.member_list().await.expect("members");
    assert_eq!(members.members()[0].client_urls(), [url()]);
}

#[tokio::test]
async fn users_by_certificate() {
    let (mut root, mut alice) = (secure("root").await, secure("alice").await);
    for name in ["root", "alice"] {
        let options = UserAddOptions::new().with_no_pwd();
        root.user_add(name, "", Some(options)).await.expect("user");
        root.role_add(name).await.expect("role");
        root.user_grant_role(name, name).await.expect("grant");
    }
    let shared = Permission::read("shared/").with_prefix();
    root.role_grant_permission("alice", shared).await.expect("grant");
    root.user_add("bob", "bob's password", None).await.expect("user");
    root.auth_enable().await.expect("enable");
    put(&mut root, "shared/a", "root's").await;
    assert_eq!(value(&mut alice, "shared/a").await.as_deref(), Some("root's"));
    let denied = "etcdserver: permission denied";
    assert_eq!(refusal(alice.put("shared/a", "alice's", None).await), denied);
    assert_eq!(refusal(alice.get("elsewhere", None).await), denied);
    // A password weighs more than the certificate.
    root.update_user(Some(("bob".into(), "bob's password".into()))).await.expect("login");
    assert_eq!(refusal(root.get("shared/a", None).await), denied);
    root.update_user(None).await.expect("the certificate again");
    root.auth_disable().await.expect("disable");
    put(&mut alice, "shared/a", "anybody's").await;
}
