//! Telling systemd that the member serves, and that it lives: datagrams to the socket that `NOTIFY_SOCKET` names
//! (`sd_notify(3)`).

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::request::Core;

/// Says that the member is ready. Without anybody who asked for it, this is only a line in the log, as with etcd.
pub fn ready() {
    tracing::info!("notifying init daemon");
    match notify(b"READY=1") {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(error = %error, "failed to notify systemd for readiness"),
    }
}

fn notify(message: &[u8]) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) {
        Some(socket) => send(socket.as_bytes(), message),
        None => Ok(()),
    }
}

/// How often systemd wants to hear of this process (`WatchdogSec=`), if it does.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let text = |name: &str| std::env::var(name).ok();
    text("NOTIFY_SOCKET")?;
    interval_of(&text("WATCHDOG_USEC")?, text("WATCHDOG_PID").as_deref(), std::process::id())
}

fn interval_of(micros: &str, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    micros.parse().ok().filter(|micros| *micros > 0).map(Duration::from_micros)
}

/// Tells systemd twice in each interval that the member lives: that the loop that holds consensus together still turns.
pub(crate) async fn watch(core: Arc<Core>, interval: Duration) {
    loop {
        // A loop that stands still is what the watchdog is for: it is not told of.
        if !core.board.is_silent_for(interval)
            && let Err(error) = notify(b"WATCHDOG=1")
        {
            tracing::warn!(error = %error, "failed to notify the watchdog of systemd");
        }
        tokio::time::sleep(interval / 2).await;
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
    fn the_watchdog_is_for_the_process_that_is_named() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(interval_of("1000000", None, 7), second);
        assert_eq!(interval_of("1000000", Some("7"), 7), second);
        assert_eq!(interval_of("1000000", Some("8"), 7), None);
        assert_eq!(interval_of("0", None, 7), None);
        assert_eq!(interval_of("x", None, 7), None);
    }

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
