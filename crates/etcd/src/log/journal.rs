//! systemd's journal, by its native protocol: one datagram for each line.
//!
//! ```text
//! KEY=value\n                                   a value without newlines
//! KEY\n | length, 8 bytes little-endian | value | \n
//! ```

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::line::Line;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A socket to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    identifier: String,
}

impl Journal {
    /// Connects to the system's journal.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_at(Path::new(SOCKET)).map_err(|error| {
            io::Error::new(error.kind(), format!("dial unixgram {SOCKET}: {error}"))
        })
    }

    fn open_at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        let program = std::env::args_os().next().unwrap_or_default();
        let identifier = Path::new(&program)
            .file_name()
            .map_or_else(|| "etcd".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { socket, identifier })
    }

    /// Sends a line.
    pub(super) fn write(&self, line: &Line, text: &str) -> io::Result<()> {
        let message = message(line.level, &line.caller, &self.identifier, text.trim_end());
        self.socket.send(&message).map(drop)
    }
}

fn message(level: &str, caller: &str, identifier: &str, text: &str) -> Vec<u8> {
    // syslog's numbers.
    let priority = match level {
        "debug" => "7",
        "info" => "6",
        "warn" => "4",
        "error" => "3",
        _ => "2",
    };
    let package = caller.split('/').next().unwrap_or_default();
    let mut message = Vec::with_capacity(text.len() + 128);
    for (key, value) in [
        ("MESSAGE", text),
        ("PRIORITY", priority),
        ("PACKAGE", package),
        ("SYSLOG_IDENTIFIER", identifier),
    ] {
        message.extend_from_slice(key.as_bytes());
        if value.contains('\n') {
            message.push(b'\n');
            message.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            message.push(b'=');
        }
        message.extend_from_slice(value.as_bytes());
        message.push(b'\n');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_with_its_priority() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open_at(&path).unwrap();
        let sent = message("warn", "server/member.rs:7", "etcd", "{\"msg\":\"a\"}");
        journal.socket.send(&sent).unwrap();
        let mut buffer = [0; 256];
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(
            std::str::from_utf8(&buffer[..length]).unwrap(),
            "MESSAGE={\"msg\":\"a\"}\nPRIORITY=4\nPACKAGE=server\nSYSLOG_IDENTIFIER=etcd\n"
        );
        assert_eq!(message("info", "", "", "a\nb")[..20], *b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n");
        assert!(Journal::open_at(Path::new("/nowhere")).is_err());
    }
}
