//! What is set on every TCP connection, accepted and dialled.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Without a word for so long, the other side's system is asked whether it is there, as on a member's connections.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Sends what is written at once, and notices when the other side's machine is gone. A socket that cannot be set serves all the same.
pub(crate) fn set_up(socket: impl AsFd) {
    let socket = socket.as_fd();
    // Each may fail on a socket that is closed already: the first read tells.
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE);
}
