//! A host for a member that listens everywhere and does not say where others find it.
//!
//! `localhost` is then nobody else's way to it. etcd takes the address of the default route; here the system is asked which one
//! it would send from, which is the same, without reading its tables. Nothing is sent. A machine without a route keeps `localhost`.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use server::config::Url;

use super::table::Flag;

/// Any address out there: one of those kept for documentation.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// URLs to advertise instead, if they are the flag's default while the member listens at `0.0.0.0`.
pub(super) fn instead_of_default(
    advertised: &[Url],
    flag: Option<&Flag>,
    listened: &[Url],
) -> Option<Vec<Url>> {
    let [url] = advertised else { return None };
    let is_default = flag.is_some_and(|flag| flag.default == url.to_string());
    let first = listened.first()?;
    if !is_default || first.host() != "0.0.0.0" {
        return None;
    }
    let scheme = if url.is_secure() { "https" } else { "http" };
    let own = Url::parse(&format!("{scheme}://{}:{}", outgoing()?, first.port())).ok()?;
    Some(vec![own])
}

/// The address that this machine would send from.
fn outgoing() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::super::table::find;
    use super::*;

    #[test]
    fn only_the_default_gives_way_and_only_to_an_address_of_this_machine() {
        let flag = find("initial-advertise-peer-urls");
        let of = |advertised: &str, listened: &str| {
            let list = |text| Url::parse_list(text).unwrap();
            instead_of_default(&list(advertised), flag, &list(listened))
        };
        let default = "http://localhost:2380";
        assert_eq!(of(default, "http://127.0.0.1:2380"), None);
        assert_eq!(of("http://localhost:2381", "http://0.0.0.0:2381"), None);
        match (of(default, "http://0.0.0.0:7"), outgoing()) {
            (None, None) => {}
            (Some(found), Some(own)) => {
                assert_eq!(found[0].to_string(), format!("http://{own}:7"));
                // Binding is what a foreign address fails at.
                UdpSocket::bind((own, 0)).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}
