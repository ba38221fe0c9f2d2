//! TCP between the members, with faults: one listener in front of each member's peer port.
//!
//! The URL of a member is the same for all the others, so the listener cannot tell by the port who dials. It looks the
//! connection up instead: `/proc/net/tcp` has its inode, and one of the members' processes has that socket
//! open. So TLS passes through, and nothing needs to be understood.
//!
//! A link is a *direction* between two members: the bytes that a member sends, on the connections it dialled and on those it
//! answers. (etcd sends most of its messages on the latter.)

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes carried at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a new connection over a cut link is kept before it is closed.
const REFUSE_AFTER: Duration = Duration::from_millis(300);

/// What happens to the bytes of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// They pass.
    #[default]
    Pass,
    /// They pass later.
    Delay(Duration),
    /// They wait; afterwards they go on where they stopped (a half-open connection).
    Stall,
    /// They are lost. A connection that lost some is cut when the link is mended: TCP has no holes.
    Drop,
    /// Connections are cut, new ones too.
    Cut,
}

/// Who sends to whom: indexes of nodes.
type Direction = (usize, usize);

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<Direction, Link>,
    processes: BTreeMap<usize, u32>,
}

#[derive(Debug)]
struct Shared {
    /// Guards the settings; held for a look or a change.
    state: Mutex<State>,
    /// Wakes the connections when a setting has changed.
    changed: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, direction: Direction) -> Link {
        self.lock().links.get(&direction).copied().unwrap_or_default()
    }
}

/// All listeners, and the settings of all links.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: Vec<JoinHandle<()>>,
}

impl Default for Proxy {
    fn default() -> Self {
        let (changed, _) = watch::channel(0);
        Self {
            shared: Arc::new(Shared { state: Mutex::default(), changed }),
            listeners: Vec::new(),
        }
    }
}

impl Proxy {
    /// Listens at `front` for node `target`, whose peer port is `back`.
    pub(crate) fn listen(
        &mut self,
        target: usize,
        front: SocketAddr,
        back: SocketAddr,
    ) -> Result<()> {
        let listener = std::net::TcpListener::bind(front).context("listen for peers")?;
        listener.set_nonblocking(true).context("listen for peers")?;
        let listener = TcpListener::from_std(listener).context("listen for peers")?;
        let shared = Arc::clone(&self.shared);
        self.listeners.push(tokio::spawn(async move {
            // Errors are those of single connections.
            loop {
                if let Ok((stream, from)) = listener.accept().await {
                    tokio::spawn(carry(Arc::clone(&shared), stream, from, front, target, back));
                }
            }
        }));
        Ok(())
    }

    /// Says which process a node is.
    pub(crate) fn set_process(&self, node: usize, pid: Option<u32>) {
        let mut state = self.shared.lock();
        match pid {
            Some(pid) => state.processes.insert(node, pid),
            None => state.processes.remove(&node),
        };
    }

    /// Sets what happens to what `from` sends to `to`.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.shared.lock().links.insert((from, to), link);
        self.shared.changed.send_modify(|version| *version += 1);
    }

    /// Sets both directions.
    pub fn set_both(&self, a: usize, b: usize, link: Link) {
        self.set(a, b, link);
        self.set(b, a, link);
    }

    /// Lets everything pass.
    pub fn heal(&self) {
        self.shared.lock().links.clear();
        self.shared.changed.send_modify(|version| *version += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

/// Carries one connection until either side or a fault ends it.
async fn carry(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    front: SocketAddr,
    target: usize,
    back: SocketAddr,
) {
    // Somebody who is no member, or has gone already: nothing to carry.
    let Some(dialler) = dialler(&shared, from, front) else { return };
    let is_cut = |shared: &Shared| {
        shared.link((dialler, target)) == Link::Cut || shared.link((target, dialler)) == Link::Cut
    };
    if is_cut(&shared) {
        // Who is refused comes again at once, and each look into `/proc/net/tcp` takes the time of many messages.
        tokio::time::sleep(REFUSE_AFTER).await;
        return;
    }
    let Ok(onward) = TcpStream::connect(back).await else { return };
    // Small messages must not wait for others; a socket that refuses is gone anyway.
    let _ = (stream.set_nodelay(true), onward.set_nodelay(true));
    let (near_read, near_write) = stream.into_split();
    let (far_read, far_write) = onward.into_split();
    let mut changed = shared.changed.subscribe();
    let cut = async {
        while !is_cut(&shared) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = pump(&shared, (dialler, target), near_read, far_write) => {}
        () = pump(&shared, (target, dialler), far_read, near_write) => {}
        () = cut => {}
    }
}

/// Carries the bytes of one direction; returns when the connection is to end.
async fn pump(
    shared: &Shared,
    direction: Direction,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) {
    let mut changed = shared.changed.subscribe();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut is_broken = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // The one who waits for the lost bytes says nothing: the connection is cut as soon as the link is mended.
            _ = changed.changed(), if is_broken => {
                if shared.link(direction) == Link::Drop {
                    continue;
                }
                return;
            }
        };
        let Ok(count) = read else { return };
        if count == 0 {
            return;
        }
        loop {
            match shared.link(direction) {
                Link::Stall => {
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
                Link::Drop => {
                    is_broken = true;
                    break;
                }
                Link::Delay(_) | Link::Pass if is_broken => return,
                Link::Delay(time) => {
                    tokio::time::sleep(time).await;
                    if to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                    break;
                }
                Link::Pass => {
                    if to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                    break;
                }
                Link::Cut => return,
            }
        }
    }
}

/// The node whose process holds the other end of a connection.
fn dialler(shared: &Shared, from: SocketAddr, front: SocketAddr) -> Option<usize> {
    let inode = inode_of(from, front)?;
    let wanted = format!("socket:[{inode}]");
    let processes: Vec<(usize, u32)> =
        shared.lock().processes.iter().map(|(node, pid)| (*node, *pid)).collect();
    let holds = |pid: u32| {
        std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry
                    .and_then(|entry| std::fs::read_link(entry.path()))
                    .is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })
        })
    };
    processes.into_iter().find(|(_, pid)| holds(*pid)).map(|(node, _)| node)
}

/// Looks up the socket with these local and remote addresses.
fn inode_of(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { return None };
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (in_table(local), in_table(remote));
    table.lines().find_map(|line| {
        // sl, local_address, rem_address, st, queues, timer, retransmissions, uid, timeout, inode
        let mut fields = line.split_whitespace().skip(1);
        let is_found = fields.next() == Some(&local) && fields.next() == Some(&remote);
        if is_found { fields.nth(6)?.parse().ok() } else { None }
    })
}

/// `0100007F:1F90`: the address as the machine's own 32-bit number, the port in plain hexadecimal.
fn in_table(address: SocketAddrV4) -> String {
    let ip: &Ipv4Addr = address.ip();
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}
