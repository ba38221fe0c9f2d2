//! Clients that ping too often are sent away, by the rules of grpc-go's servers, which etcd's are.
//!
//! HTTP/2's library answers pings and tells nobody. So what a connection reads and writes goes by here: nine bytes of each frame are
//! looked at, and no frame is kept. A frame's own sense is the library's business; what is no HTTP/2 at all is left alone.
//!
//! The rules: a ping that comes sooner after the one before than it may is a strike, and the third strike ends the connection, with
//! `too_many_pings` as the reason, on which grpc's clients ping less often. A ping may come after `--grpc-keepalive-min-time`
//! while a call is open, and after two hours while none is. Strikes are forgotten when the server has sent headers or data since the last
//! ping: there are pings that measure how much is on its way.
//!
//! Upstream: grpc-go's `internal/transport/http2_server.go`.

use std::time::{Duration, Instant};

/// The first bytes of a client that speaks HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Of pings that are answers.
const ACK: u8 = 1;
/// Of the last frame of one side of a stream.
const END_STREAM: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 0x0b;
const REASON: &[u8; 14] = b"too_many_pings";
/// The head of a GOAWAY with two numbers and [`REASON`].
const FAREWELL_HEAD: [u8; HEAD_BYTES] = [0, 0, 8 + 14, GOAWAY, 0, 0, 0, 0, 0];

/// More strikes end the connection.
const STRIKES_MAX: u8 = 2;
/// Between two pings while no call is open.
const IDLE_MIN: Duration = Duration::from_secs(2 * 3600);
/// Between two pings where nothing is asked for.
const MIN_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// What a frame's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Where one direction of a connection is within its frames.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Of the frame that is under way.
    rest: usize,
}

impl Frames {
    /// Takes what follows, and returns the first head that is complete in it, with what is behind it.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<(Head, &'a [u8])> {
        let skipped = self.rest.min(bytes.len());
        self.rest -= skipped;
        let bytes = bytes.get(skipped..).unwrap_or_default();
        let missing = HEAD_BYTES - self.head_bytes;
        let (of_head, behind) = bytes.split_at(missing.min(bytes.len()));
        let end = self.head_bytes + of_head.len();
        if let Some(place) = self.head.get_mut(self.head_bytes..end) {
            place.copy_from_slice(of_head);
        }
        self.head_bytes = end;
        if end < HEAD_BYTES {
            return None;
        }
        let [l0, l1, l2, kind, flags, stream @ ..] = self.head;
        self.head_bytes = 0;
        self.rest = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        // The first bit is reserved.
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Some((Head { kind, flags, stream }, behind))
    }

    fn is_between_frames(&self) -> bool {
        self.rest == 0 && self.head_bytes == 0
    }
}

/// The pings of one connection.
#[derive(Debug)]
pub struct Pings {
    /// Between two pings while a call is open.
    min: Duration,
    /// So many bytes of [`PREFACE`] have come; `None` if the connection speaks something else.
    preface_bytes: Option<usize>,
    received: Frames,
    sent: Frames,
    /// Calls that are open, ascending: a client counts its calls up.
    open: Vec<u32>,
    /// The server has said that it takes no more calls.
    is_going: bool,
    /// The last one that was opened.
    last_stream: u32,
    /// Whether the server has sent headers or data since the last ping.
    has_answered: bool,
    last: Option<Instant>,
    strikes: u8,
}

impl Pings {
    /// `min` is the shortest time between two pings; zero is grpc's five minutes, as in etcd.
    #[must_use]
    pub fn new(min: Duration) -> Self {
        Self {
            min: if min.is_zero() { MIN_DEFAULT } else { min },
            preface_bytes: Some(0),
            received: Frames::default(),
            sent: Frames::default(),
            open: Vec::new(),
            is_going: false,
            last_stream: 0,
            has_answered: false,
            last: None,
            strikes: 0,
        }
    }

    /// Whether there were too many.
    #[must_use]
    pub fn are_too_many(&self) -> bool {
        self.strikes > STRIKES_MAX
    }

    /// The frame that tells the client why its connection ends; `None` where another frame is half sent.
    #[must_use]
    pub fn farewell(&self) -> Option<Vec<u8>> {
        if !self.sent.is_between_frames() {
            return None;
        }
        let mut frame = FAREWELL_HEAD.to_vec();
        frame.extend_from_slice(&self.last_stream.to_be_bytes());
        frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend_from_slice(REASON);
        Some(frame)
    }

    /// The client has sent this. `now` is asked at most once for each ping.
    pub fn receive(&mut self, bytes: &[u8], now: impl Fn() -> Instant) {
        let Some(mut bytes) = self.behind_preface(bytes) else { return };
        while let Some((head, behind)) = self.received.next(bytes) {
            bytes = behind;
            match head.kind {
                HEADERS if head.stream > self.last_stream => {
                    self.last_stream = head.stream;
                    if !self.is_going {
                        self.open.push(head.stream);
                    }
                }
                RST_STREAM => self.close(head.stream),
                PING if head.flags & ACK == 0 => self.ping(now()),
                _ => {}
            }
        }
    }

    /// The server has sent this.
    pub fn send(&mut self, mut bytes: &[u8]) {
        if self.preface_bytes != Some(PREFACE.len()) {
            return;
        }
        while let Some((head, behind)) = self.sent.next(bytes) {
            bytes = behind;
            let is_answer = matches!(head.kind, DATA | HEADERS);
            self.has_answered |= is_answer;
            self.is_going |= head.kind == GOAWAY;
            if head.kind == RST_STREAM || (is_answer && head.flags & END_STREAM != 0) {
                self.close(head.stream);
            }
        }
    }

    fn close(&mut self, stream: u32) {
        if let Ok(place) = self.open.binary_search(&stream) {
            self.open.remove(place);
        }
    }

    /// Bytes until the client has sent a whole frame, or the head of one of which it has sent a part.
    #[must_use]
    pub fn missing(&self) -> usize {
        match (self.received.rest, self.received.head_bytes) {
            (0, 0) => 0,
            (0, head_bytes) => HEAD_BYTES - head_bytes,
            (rest, _) => rest,
        }
    }

    /// What follows the preface, as far as it has come.
    fn behind_preface<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let known = self.preface_bytes?;
        let missing = PREFACE.get(known..).unwrap_or_default();
        let (of_preface, behind) = bytes.split_at(missing.len().min(bytes.len()));
        let is_preface = missing.starts_with(of_preface);
        self.preface_bytes = is_preface.then_some(known + of_preface.len());
        is_preface.then_some(behind)
    }

    fn ping(&mut self, now: Instant) {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.has_answered) {
            self.strikes = 0;
            return;
        }
        let min = if self.open.is_empty() { IDLE_MIN } else { self.min };
        if last.is_some_and(|last| now.duration_since(last) < min) {
            self.strikes = self.strikes.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN: Duration = Duration::from_secs(5);

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [&head, payload].concat()
    }

    fn ping() -> Vec<u8> {
        frame(PING, 0, 0, &[7; 8])
    }

    /// A connection that has begun.
    fn begun() -> Pings {
        let mut pings = Pings::new(MIN);
        pings.receive(PREFACE, Instant::now);
        pings
    }

    /// How many pings, this far from each other, until the connection ends; at most ten.
    fn until_end(pings: &mut Pings, apart: Duration) -> Option<usize> {
        let start = Instant::now();
        (1..=10_u32).find_map(|number| {
            pings.receive(&ping(), || start + apart * number);
            pings.are_too_many().then_some(number as usize)
        })
    }

    #[test]
    fn the_fourth_ping_in_a_row_is_one_too_many() {
        let mut pings = begun();
        pings.receive(&frame(HEADERS, 4, 1, b"block"), Instant::now);
        assert_eq!(until_end(&mut pings, Duration::from_secs(1)), Some(4));
        let farewell = pings.farewell().unwrap();
        let expected =
            [&[0, 0, 22, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11][..], REASON].concat();
        assert_eq!(farewell, expected);
    }

    #[test]
    fn pings_may_come_when_it_is_time_while_a_call_is_open() {
        let mut pings = begun();
        pings.receive(&frame(HEADERS, 4, 1, b"block"), Instant::now);
        assert_eq!(until_end(&mut pings, MIN), None);
        // Closed from either side, it is open no more.
        for end in
            [frame(HEADERS, 5, 1, b""), frame(DATA, 1, 1, b"x"), frame(RST_STREAM, 0, 1, &[0; 4])]
        {
            let mut pings = begun();
            pings.receive(&frame(HEADERS, 4, 1, b"block"), Instant::now);
            pings.send(&end);
            // The first forgets what was before it.
            assert!(until_end(&mut pings, MIN).is_some_and(|pings| pings >= 4), "{end:?}");
        }
        let mut pings = begun();
        pings.receive(&frame(HEADERS, 5, 1, b"block"), Instant::now);
        assert_eq!(until_end(&mut pings, MIN), None, "half open is open");
        pings.receive(&frame(RST_STREAM, 0, 1, &[0; 4]), Instant::now);
        assert!(until_end(&mut pings, MIN).is_some());
        assert_eq!(until_end(&mut begun(), IDLE_MIN), None);
    }

    #[test]
    fn answers_forgive() {
        let mut pings = begun();
        let start = Instant::now();
        for _ in 0..20 {
            pings.receive(&ping(), || start);
            pings.receive(&ping(), || start);
            pings.receive(&ping(), || start);
            assert!(!pings.are_too_many());
            pings.send(&frame(DATA, 0, 1, b"event"));
        }
        // Other frames do not.
        pings.send(&frame(PING, ACK, 0, &[0; 8]));
        pings.send(&frame(8, 0, 0, &[0; 4]));
        assert!(until_end(&mut pings, Duration::ZERO).is_some());
    }

    #[test]
    fn answers_to_pings_and_other_protocols_are_no_pings() {
        let mut pings = begun();
        for _ in 0..10 {
            pings.receive(&frame(PING, ACK, 0, &[0; 8]), Instant::now);
        }
        assert!(!pings.are_too_many());
        let mut http1 = Pings::new(MIN);
        http1.receive(b"PRI / HTTP/1.1\r\nhost: x\r\n\r\n", Instant::now);
        assert_eq!(until_end(&mut http1, Duration::ZERO), None);
    }

    #[test]
    fn what_is_missing_of_a_frame_is_known() {
        let mut pings = begun();
        let data = frame(DATA, 0, 1, b"event");
        for (sent, missing) in
            [(&data[..3], 6), (&data[3..9], 5), (&data[9..12], 2), (&data[12..], 0)]
        {
            pings.receive(sent, Instant::now);
            assert_eq!(pings.missing(), missing);
        }
    }

    #[test]
    fn no_farewell_within_a_frame() {
        let mut pings = begun();
        let data = frame(DATA, 0, 1, b"event");
        pings.send(&data[..11]);
        assert!(pings.farewell().is_none());
        pings.send(&data[11..]);
        assert!(pings.farewell().is_some());
    }

    proptest! {
        /// However the bytes are cut, the same is seen.
        #[test]
        fn cuts_do_not_matter(
            frames in prop::collection::vec(
                (0..10_u8, any::<u8>(), 0..9_u32, prop::collection::vec(any::<u8>(), 0..40)),
                0..40,
            ),
            size in 1..30_usize,
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload))
                .collect();
            let now = Instant::now();
            let (mut whole, mut cut) = (begun(), begun());
            whole.receive(&bytes, || now);
            for piece in bytes.chunks(size) {
                cut.receive(piece, || now);
            }
            prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        }

        #[test]
        fn any_bytes_are_taken(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20)) {
            let mut pings = begun();
            for piece in pieces {
                pings.receive(&piece, Instant::now);
                pings.send(&piece);
                let _ = pings.farewell();
            }
        }
    }
}
