//! The attacks: their names, what memory each may cost, and how each is made.

use anyhow::Result;

use super::client::Client;
use super::force::Force;
use super::victim::{Port, Victim};
use super::{Config, connections, http1, http2, streams};

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// What it is called in reports and filters.
    pub name: &'static str,
    /// Memory that it may take, whatever its size, in MiB.
    fixed_mib: u64,
    /// Memory that each of its connections, streams or watches may take, in KiB.
    each_kib: u64,
    /// Connections, streams or watches: the configured number divided by this.
    divisor: usize,
    means: Means,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    SilentTls,
    SilentPlain,
    SilentPeer,
    SilentPeerTls,
    HalfAClientHello,
    HalfAPeerClientHello,
    HalfAPreface,
    PrefaceAndSilence,
    Garbage,
    ComeAndGo,
    OutOfDescriptors,
    EndlessHeaders,
    EndlessHeader,
    SlowHeaders,
    SlowBodies,
    LargeBodies,
    EndlessChunks,
    StrangeJson,
    DeafGatewayWatches,
    SilentWebSockets,
    EndlessWebSocketMessages,
    HugeMessages,
    CompressedMessages,
    HeaderLists,
    Continuations,
    RapidResets,
    MadeToReset,
    Pings,
    Settings,
    EmptyData,
    WindowUpdates,
    NotGrpc,
    DeafRanges,
    DeafStreams,
    DeafWatches,
    ManyStreams,
    SilentStreams,
}

const fn attack(
    name: &'static str,
    fixed_mib: u64,
    each_kib: u64,
    divisor: usize,
    means: Means,
) -> Attack {
    Attack { name, fixed_mib, each_kib, divisor, means }
}

/// All attacks, in the order in which they run.
pub const fn attacks() -> &'static [Attack] {
    const ALL: &[Attack] = &[
        attack("silent-tls", 32, 16, 1, Means::SilentTls),
        attack("silent-plain", 32, 32, 4, Means::SilentPlain),
        attack("silent-peer", 32, 16, 10, Means::SilentPeer),
        attack("silent-peer-tls", 32, 16, 10, Means::SilentPeerTls),
        attack("half-client-hello", 32, 64, 10, Means::HalfAClientHello),
        attack("half-peer-client-hello", 32, 64, 10, Means::HalfAPeerClientHello),
        attack("half-preface", 32, 64, 10, Means::HalfAPreface),
        attack("preface-and-silence", 32, 64, 10, Means::PrefaceAndSilence),
        attack("garbage", 32, 64, 10, Means::Garbage),
        attack("come-and-go", 32, 4, 2, Means::ComeAndGo),
        attack("out-of-descriptors", 32, 0, 1, Means::OutOfDescriptors),
        attack("endless-headers", 32, 0, 1, Means::EndlessHeaders),
        attack("endless-header", 32, 0, 1, Means::EndlessHeader),
        attack("slow-headers", 32, 64, 10, Means::SlowHeaders),
        attack("slow-bodies", 32, 64, 10, Means::SlowBodies),
        attack("large-bodies", 64, 0, 1, Means::LargeBodies),
        attack("endless-chunks", 64, 0, 1, Means::EndlessChunks),
        attack("strange-json", 96, 0, 100, Means::StrangeJson),
        attack("deaf-gateway-watches", 64, 16, 10, Means::DeafGatewayWatches),
        attack("silent-websockets", 32, 64, 10, Means::SilentWebSockets),
        attack("endless-websocket-messages", 64, 0, 1, Means::EndlessWebSocketMessages),
        attack("huge-messages", 64, 0, 1, Means::HugeMessages),
        attack("compressed-messages", 32, 0, 1, Means::CompressedMessages),
        attack("header-lists", 32, 0, 1, Means::HeaderLists),
        attack("continuations", 32, 0, 1, Means::Continuations),
        attack("rapid-resets", 64, 0, 1, Means::RapidResets),
        attack("made-to-reset", 64, 0, 1, Means::MadeToReset),
        attack("pings", 32, 0, 1, Means::Pings),
        attack("settings", 32, 0, 1, Means::Settings),
        attack("empty-data", 32, 0, 1, Means::EmptyData),
        attack("window-updates", 32, 0, 1, Means::WindowUpdates),
        attack("not-grpc", 64, 0, 1, Means::NotGrpc),
        attack("deaf-ranges", 256, 0, 1, Means::DeafRanges),
        attack("deaf-streams", 256, 0, 1, Means::DeafStreams),
        attack("deaf-watches", 64, 16, 10, Means::DeafWatches),
        attack("many-streams", 32, 32, 10, Means::ManyStreams),
        attack("silent-streams", 32, 32, 10, Means::SilentStreams),
    ];
    ALL
}

impl Attack {
    /// Begins it.
    pub(super) async fn launch(
        &self,
        victim: &Victim,
        client: &Client,
        connections: usize,
    ) -> Result<Force> {
        let count = connections / self.divisor;
        match self.means {
            Means::SilentTls => connections::silent(victim, Port::Tls, count).await,
            Means::SilentPlain => connections::silent(victim, Port::Plain, count).await,
            Means::SilentPeer => connections::silent(victim, Port::Peer, count).await,
            Means::SilentPeerTls => connections::silent(victim, Port::PeerTls, count).await,
            Means::HalfAClientHello => {
                connections::half_a_client_hello(victim, Port::Tls, count).await
            }
            Means::HalfAPeerClientHello => {
                connections::half_a_client_hello(victim, Port::PeerTls, count).await
            }
            Means::HalfAPreface => connections::half_a_preface(victim, count).await,
            Means::PrefaceAndSilence => connections::preface_and_silence(victim, count).await,
            Means::Garbage => connections::garbage(victim, count).await,
            Means::ComeAndGo => connections::come_and_go(victim, count).await,
            Means::OutOfDescriptors => connections::out_of_descriptors(victim).await,
            Means::EndlessHeaders => http1::endless_headers(victim).await,
            Means::EndlessHeader => http1::endless_header(victim).await,
            Means::SlowHeaders => http1::slow_headers(victim, count).await,
            Means::SlowBodies => http1::slow_bodies(victim, count).await,
            Means::LargeBodies => http1::large_bodies(victim).await,
            Means::EndlessChunks => http1::endless_chunks(victim).await,
            Means::StrangeJson => http1::strange_json(victim, count).await,
            Means::DeafGatewayWatches => http1::deaf_gateway_watches(victim, count).await,
            Means::SilentWebSockets => http1::silent_websockets(victim, count).await,
            Means::EndlessWebSocketMessages => http1::endless_websocket_messages(victim).await,
            Means::HugeMessages => streams::huge_messages(victim).await,
            Means::CompressedMessages => streams::compressed_messages(victim).await,
            Means::HeaderLists => http2::header_lists(victim).await,
            Means::Continuations => http2::continuations(victim).await,
            Means::RapidResets => http2::rapid_resets(victim).await,
            Means::MadeToReset => http2::made_to_reset(victim).await,
            Means::Pings => http2::pings(victim).await,
            Means::Settings => http2::settings(victim).await,
            Means::EmptyData => http2::empty_data(victim).await,
            Means::WindowUpdates => http2::window_updates(victim).await,
            Means::NotGrpc => http2::not_grpc(victim).await,
            Means::DeafRanges => streams::deaf_ranges(victim).await,
            Means::DeafStreams => streams::deaf_streams(victim, client).await,
            Means::DeafWatches => streams::deaf_watches(victim, client, count).await,
            Means::ManyStreams => streams::many_streams(victim, count).await,
            Means::SilentStreams => streams::silent_streams(victim, count).await,
        }
    }

    /// What else must hold at the height.
    pub(super) async fn check_height(&self, victim: &Victim, config: &Config) -> Result<()> {
        let is = |means: &[Means]| means.contains(&self.means);
        // The port under attack serves others too.
        if is(&[Means::SilentTls, Means::HalfAClientHello]) {
            victim.put_securely().await?;
        }
        if is(&[Means::SilentPeer, Means::SilentPeerTls, Means::SlowHeaders, Means::Garbage]) {
            victim.ask_peer_port().await?;
        }
        if is(&[Means::OutOfDescriptors]) && config.is_bound {
            victim.check_idle().await?;
        }
        Ok(())
    }

    /// Takes back what the attack did to the member from outside.
    pub(super) fn let_go(&self, victim: &Victim) -> Result<()> {
        victim.give_descriptors_back()
    }

    /// Whether new connections are answered meanwhile.
    pub(super) fn allows_new_connections(&self) -> bool {
        self.means != Means::OutOfDescriptors
    }

    /// Whether the member is to end these connections by itself, after the time that a handshake may take.
    pub(super) fn ends_by_itself(&self) -> bool {
        self.means == Means::SilentTls
    }

    /// What memory may grow by, in KiB.
    pub(super) fn limit_kib(&self, connections: usize) -> u64 {
        let count = u64::try_from(connections / self.divisor).unwrap_or(u64::MAX);
        self.fixed_mib * 1024 + count.saturating_mul(self.each_kib)
    }
}
