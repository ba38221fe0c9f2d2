//! Telling systemd that the member serves: one datagram to the socket that `NOTIFY_SOCKET` names (`sd_notify(3)`).

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the member is ready. Does nothing when nobody asked for it.
pub(crate) fn ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    match send(socket.as_bytes(), b"READY=1") {
        Ok(()) => tracing::info!("notifying init daemon of readiness"),
        Err(error) => tracing::error!(error = %error, "failed to notify systemd for readiness"),
    }
}

/// A name that begins with `@` is one of the kernel's, not a path.
fn send(socket: &[u8], message: &[u8]) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_arrives_at_a_path_and_at_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("retcd-test-{}", std::process::id());
        let at_path = SocketAddr::from_pathname(&path).unwrap();
        let at_name = SocketAddr::from_abstract_name(&name).unwrap();
        let given_name = format!("@{name}");
        let given_path = path.to_str().unwrap().to_owned();
        for (address, given) in [(at_path, given_path), (at_name, given_name)] {
            let init = UnixDatagram::bind_addr(&address).unwrap();
            send(given.as_bytes(), b"READY=1").unwrap();
            let mut message = [0; 16];
            let length = init.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
        assert!(send(b"/nowhere/notify", b"READY=1").is_err());
    }
}
