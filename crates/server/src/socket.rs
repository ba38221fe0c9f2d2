//! What is set on every TCP connection, of clients and of members, accepted and dialled.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Without a word for so long, the other side's system is asked whether it is there; and again, if it does not say so. For all
/// connections, as in etcd.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Sets up a TCP connection; others need nothing.
pub(crate) fn set_up_any(socket: &tls::Socket) {
    if let Some(socket) = socket.tcp() {
        set_up(socket);
    }
}

/// Sends what is written at once, and notices when the other side's machine is gone. A socket that cannot be set serves all
/// the same.
pub(crate) fn set_up(socket: impl AsFd) {
    // It may be closed already: the first read tells.
    let _ = try_set_up(socket.as_fd());
}

fn try_set_up(socket: impl AsFd + Copy) -> io::Result<()> {
    // Messages and answers are small, and waiting to fill a packet costs a round trip.
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_ends_are_set_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        for socket in [&dialled, &accepted] {
            assert!(!sockopt::socket_keepalive(socket).unwrap());
            set_up(socket);
            assert!(sockopt::tcp_nodelay(socket).unwrap());
            assert!(sockopt::socket_keepalive(socket).unwrap());
            assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), Duration::from_secs(30));
            assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), Duration::from_secs(30));
        }
    }
}
