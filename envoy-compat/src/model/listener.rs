//! Listeners, filter chains and network filters.

use super::filter::HttpFilter;
use super::format::{Format, JsonFormat};
use super::route::WeightedCluster;
use super::table::RouteTable;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `envoy.config.listener.v3.Listener`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique; keeps its identity across updates.
    pub name: Arc<str>,
    /// In statistics (`stat_prefix`, or the address with `:` as `_`).
    pub stat_name: Arc<str>,
    /// Where it listens, or which original destination it stands for.
    pub address: SocketAddr,
    /// `additional_addresses`.
    pub more_addresses: Vec<SocketAddr>,
    /// `false`: never bound; connections are handed over by a listener with `use_original_dst`.
    pub bind_to_port: bool,
    /// Connections are handed to the listener of their original destination, if there is one.
    pub use_original_dst: bool,
    /// Sockets are transparent (TPROXY): the local address is the original destination.
    pub transparent: bool,
    /// Listener filters, in order.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long listener filters may take; `None`: without limit. Envoy's default: 15 s.
    pub listener_filters_timeout: Option<Duration>,
    /// After that timeout the connection goes on with what is known.
    pub continue_on_timeout: bool,
    /// Chains to choose from.
    pub chains: Vec<Arc<FilterChain>>,
    /// The chain when none matches; without it the connection is closed.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Inbound, outbound or neither.
    pub direction: TrafficDirection,
    /// Connections at most, for this listener.
    pub max_connections: Option<u32>,
    /// Logs of connections that found no chain.
    pub access_logs: Vec<AccessLog>,
}

/// `ListenerFilter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerFilter {
    /// Reads server name and ALPN from a TLS ClientHello.
    TlsInspector,
    /// Recognises plain-text HTTP.
    HttpInspector,
    /// Restores the address before redirection.
    OriginalDst,
}

/// `traffic_direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// `FilterChain`.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// For logs.
    pub name: Arc<str>,
    /// Which connections.
    pub matcher: FilterChainMatch,
    /// What happens: exactly one terminal filter.
    pub filter: NetworkFilter,
}

/// `FilterChainMatch`; empty lists and `None` match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination address.
    pub prefix_ranges: Vec<IpNet>,
    /// SNI: names or `*.suffix`, lower case.
    pub server_names: Vec<Box<str>>,
    /// `tls` or `raw_buffer`; empty: any.
    pub transport_protocol: Box<str>,
    /// ALPN, or what the HTTP inspector recognised.
    pub application_protocols: Vec<Box<str>>,
    /// Peer address of the socket.
    pub direct_source_ranges: Vec<IpNet>,
    /// Local or external peers.
    pub source_type: SourceType,
    /// Peer address.
    pub source_ranges: Vec<IpNet>,
    /// Peer port.
    pub source_ports: Vec<u16>,
}

/// `FilterChainMatch.source_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    /// Anyone.
    #[default]
    Any,
    /// The same host.
    Local,
    /// Another host.
    External,
}

/// What is known about a connection when its chain is chosen.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// Destination (original, if restored).
    pub destination: SocketAddr,
    /// Peer.
    pub source: SocketAddr,
    /// SNI, lower case; empty if none.
    pub server_name: Box<str>,
    /// A TLS ClientHello was seen.
    pub tls: bool,
    /// ALPN of the ClientHello, or the sniffed protocol.
    pub protocols: Vec<Box<str>>,
}

/// The terminal network filter.
#[derive(Clone, Debug)]
pub enum NetworkFilter {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}

/// `HttpConnectionManager`.
#[derive(Clone, Debug)]
pub struct HttpConnectionManager {
    /// In statistics: `http.PREFIX.`.
    pub stat_prefix: Arc<str>,
    /// HTTP/1, HTTP/2 or either.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// HTTP filters; [`HttpFilter::Router`] last.
    pub filters: Vec<HttpFilter>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
    /// Upgrades that are let through (lower case, such as `websocket`).
    pub upgrades: Vec<Box<str>>,
    /// `server` header of responses; Envoy's default is `envoy`.
    pub server_name: Box<str>,
    /// `server_header_transformation: PASS_THROUGH`.
    pub pass_through_server: bool,
    /// A connection without requests is closed after this; `None`: never. Envoy's default: one hour.
    pub idle_timeout: Option<Duration>,
    /// A stream without bytes ends after this; `None`: never. Envoy's default: 5 minutes.
    pub stream_idle_timeout: Option<Duration>,
    /// Whole request received within; `None`: never.
    pub request_timeout: Option<Duration>,
    /// Whole header received within; `None`: never.
    pub request_headers_timeout: Option<Duration>,
    /// Time given to connections when they are drained.
    pub drain_timeout: Duration,
    /// A connection lives at most so long.
    pub max_connection_duration: Option<Duration>,
    /// The peer is the client: `x-forwarded-for` is written, foreign `x-envoy-*` removed.
    pub use_remote_address: bool,
    /// Proxies in front that are trusted.
    pub xff_num_trusted_hops: u32,
    /// `skip_xff_append`.
    pub skip_xff_append: bool,
    /// Dot segments are resolved.
    pub normalize_path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// `generate_request_id`; Envoy's default is true.
    pub generate_request_id: bool,
    /// `preserve_external_request_id`.
    pub preserve_external_request_id: bool,
    /// `always_set_request_id_in_response`.
    pub request_id_in_response: bool,
    /// HTTP/1.0 is answered.
    pub accept_http_10: bool,
    /// For HTTP/1.0 requests without a host.
    pub default_host: Box<str>,
    /// `strip_any_host_port` or `strip_matching_host_port`.
    pub strip_host_port: bool,
    /// HTTP/2 streams at once; Envoy's default is 1024 since 1.34.
    pub max_concurrent_streams: u32,
    /// Bytes of request headers at most; Envoy's default is 60 KiB.
    pub max_request_headers: usize,
    /// `scheme_header_transformation.scheme_to_overwrite`, or what the transport says.
    pub scheme: Option<Box<str>>,
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// By the first bytes.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where a connection manager finds its routes.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// In the listener.
    Inline(Arc<RouteTable>),
    /// By name, in the snapshot; while missing, requests are answered 404.
    Rds(Arc<str>),
}

/// `TcpProxy`.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    /// In statistics: `tcp.PREFIX.`.
    pub stat_prefix: Arc<str>,
    /// Where connections go; one entry of weight 1 for a single cluster.
    pub clusters: Vec<WeightedCluster>,
    /// No bytes in either direction; `None`: never. Envoy's default: one hour.
    pub idle_timeout: Option<Duration>,
    /// Tries until a connection is made.
    pub max_connect_attempts: u32,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
}

/// `AccessLog`.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: AccessLogSink,
    /// What a line is.
    pub format: AccessLogFormat,
    /// Which requests are written.
    pub filter: AccessLogFilter,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccessLogSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// What a line is.
#[derive(Clone, Debug)]
pub enum AccessLogFormat {
    /// Text, written as it is (a newline is part of the format).
    Text(Format),
    /// One JSON object per line.
    Json(JsonFormat),
}

/// Which requests are written.
#[derive(Clone, Debug, Default)]
pub enum AccessLogFilter {
    /// All.
    #[default]
    All,
    /// Status at least this.
    StatusAtLeast(u16),
    /// One of these response flags; empty: any flag.
    ResponseFlags(Vec<Box<str>>),
}

// === impl Listener ===

impl Listener {
    /// A bound listener with one chain for every connection and Envoy's defaults.
    pub fn new(name: &str, address: SocketAddr, filter: NetworkFilter) -> Self {
        Self {
            name: name.into(),
            stat_name: address.to_string().replace(':', "_").into(),
            address,
            more_addresses: Vec::new(),
            bind_to_port: true,
            use_original_dst: false,
            transparent: false,
            listener_filters: Vec::new(),
            listener_filters_timeout: Some(Duration::from_secs(15)),
            continue_on_timeout: false,
            chains: vec![Arc::new(FilterChain { name: "".into(), matcher: FilterChainMatch::default(), filter })],
            default_chain: None,
            direction: TrafficDirection::Unspecified,
            max_connections: None,
            access_logs: Vec::new(),
        }
    }

    /// Whether `filter` is in the chain of listener filters.
    pub fn has(&self, filter: ListenerFilter) -> bool {
        self.listener_filters.contains(&filter)
    }

    /// The chain for a connection, by Envoy's precedence: each criterion in turn keeps only the chains that match
    /// it most specifically; there is no way back to a chain that was less specific earlier.
    pub fn chain(&self, facts: &ConnectionFacts) -> Option<&Arc<FilterChain>> {
        if let [only] = self.chains.as_slice()
            && only.matcher == FilterChainMatch::default()
        {
            return Some(only);
        }
        let mut left: Vec<&Arc<FilterChain>> = self.chains.iter().collect();
        for criterion in CRITERIA {
            let mut best = None;
            let mut kept = Vec::new();
            for chain in left {
                match criterion(&chain.matcher, facts) {
                    Some(rank) if best.is_none_or(|best| rank > best) => {
                        best = Some(rank);
                        kept = vec![chain];
                    }
                    Some(rank) if best == Some(rank) => kept.push(chain),
                    _ => {}
                }
            }
            left = kept;
        }
        left.first().copied().or(self.default_chain.as_ref())
    }
}

/// How specifically one criterion of a match fits: `None` excludes, 0 is "says nothing", more is better.
type Criterion = fn(&FilterChainMatch, &ConnectionFacts) -> Option<u32>;

const CRITERIA: [Criterion; 9] = [
    |wanted, facts| match wanted.destination_port {
        None => Some(0),
        Some(port) => (port == facts.destination.port()).then_some(1),
    },
    |wanted, facts| best_range(&wanted.prefix_ranges, facts.destination.ip()),
    |wanted, facts| best_name(&wanted.server_names, &facts.server_name),
    |wanted, facts| match &*wanted.transport_protocol {
        "" => Some(0),
        "tls" => facts.tls.then_some(1),
        "raw_buffer" => (!facts.tls).then_some(1),
        _ => None,
    },
    |wanted, facts| {
        if wanted.application_protocols.is_empty() {
            return Some(0);
        }
        // The client's preference decides, so the first offered protocol that a chain names ranks highest.
        let offered = facts.protocols.len() as u32;
        let at = facts.protocols.iter().position(|offer| wanted.application_protocols.contains(offer))?;
        Some(offered - at as u32)
    },
    |wanted, facts| best_range(&wanted.direct_source_ranges, facts.source.ip()),
    |wanted, facts| {
        let local = facts.source.ip().is_loopback() || facts.source.ip() == facts.destination.ip();
        match wanted.source_type {
            SourceType::Any => Some(0),
            SourceType::Local => local.then_some(1),
            SourceType::External => (!local).then_some(1),
        }
    },
    |wanted, facts| best_range(&wanted.source_ranges, facts.source.ip()),
    |wanted, facts| match wanted.source_ports.is_empty() {
        true => Some(0),
        false => wanted.source_ports.contains(&facts.source.port()).then_some(1),
    },
];

fn best_range(ranges: &[IpNet], address: IpAddr) -> Option<u32> {
    if ranges.is_empty() {
        return Some(0);
    }
    let fits = |range: &&IpNet| range.contains(&address);
    ranges.iter().filter(fits).map(|range| u32::from(range.prefix_len()) + 1).max()
}

fn best_name(names: &[Box<str>], wanted: &str) -> Option<u32> {
    if names.is_empty() {
        return Some(0);
    }
    let rank = |name: &str| match name.strip_prefix('*') {
        None => (name == wanted).then_some(u32::MAX),
        Some("") => Some(1),
        Some(suffix) => (wanted.len() > suffix.len() && wanted.ends_with(suffix)).then_some(suffix.len() as u32 + 1),
    };
    names.iter().filter_map(|name| rank(name)).max()
}

// === impl FilterChain ===

impl FilterChain {
    /// A chain.
    pub fn new(name: &str, matcher: FilterChainMatch, filter: NetworkFilter) -> Self {
        Self { name: name.into(), matcher, filter }
    }
}

// === impl HttpConnectionManager ===

impl HttpConnectionManager {
    /// A connection manager with Envoy's defaults and a router.
    pub fn new(stat_prefix: &str, routes: RouteSource) -> Self {
        Self {
            stat_prefix: stat_prefix.into(),
            codec: Codec::Auto,
            routes,
            filters: vec![HttpFilter::Router { suppress_envoy_headers: false }],
            access_logs: Vec::new(),
            upgrades: Vec::new(),
            server_name: "envoy".into(),
            pass_through_server: false,
            idle_timeout: Some(Duration::from_secs(3600)),
            stream_idle_timeout: Some(Duration::from_secs(300)),
            request_timeout: None,
            request_headers_timeout: None,
            drain_timeout: Duration::from_secs(5),
            max_connection_duration: None,
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            normalize_path: false,
            merge_slashes: false,
            generate_request_id: true,
            preserve_external_request_id: false,
            request_id_in_response: false,
            accept_http_10: false,
            default_host: "".into(),
            strip_host_port: false,
            max_concurrent_streams: 1024,
            max_request_headers: 60 * 1024,
            scheme: None,
        }
    }
}

// === impl TcpProxy ===

impl TcpProxy {
    /// Forwards to one cluster.
    pub fn to(stat_prefix: &str, cluster: &str) -> Self {
        Self {
            stat_prefix: stat_prefix.into(),
            clusters: vec![WeightedCluster::new(cluster, 1)],
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connect_attempts: 1,
            access_logs: Vec::new(),
        }
    }
}

// === impl AccessLog ===

impl AccessLog {
    /// Envoy's default line.
    pub fn text(sink: AccessLogSink) -> Self {
        Self { sink, format: AccessLogFormat::Text(Format::default_access_log()), filter: AccessLogFilter::All }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn listener(chains: Vec<(&str, FilterChainMatch)>) -> Listener {
        let filter = || NetworkFilter::Tcp(Arc::new(TcpProxy::to("t", "c")));
        let mut listener = Listener::new("l", "0.0.0.0:15001".parse().unwrap(), filter());
        listener.chains =
            chains.into_iter().map(|(name, matcher)| Arc::new(FilterChain::new(name, matcher, filter()))).collect();
        listener
    }

    fn facts(destination: &str, server_name: &str, tls: bool, protocols: &[&str]) -> ConnectionFacts {
        ConnectionFacts {
            destination: destination.parse().unwrap(),
            source: "10.9.9.9:999".parse().unwrap(),
            server_name: server_name.into(),
            tls,
            protocols: protocols.iter().map(|name| (*name).into()).collect(),
        }
    }

    fn chosen(listener: &Listener, facts: &ConnectionFacts) -> Option<String> {
        listener.chain(facts).map(|chain| chain.name.to_string())
    }

    #[test]
    fn the_port_comes_before_the_address_and_the_address_before_the_name() {
        let by_port = FilterChainMatch { destination_port: Some(80), ..Default::default() };
        let by_address = FilterChainMatch { prefix_ranges: vec!["10.0.0.1/32".parse().unwrap()], ..Default::default() };
        let by_name = FilterChainMatch { server_names: vec!["a.b".into()], ..Default::default() };
        let listener = listener(vec![("name", by_name), ("address", by_address), ("port", by_port)]);
        assert_eq!(chosen(&listener, &facts("10.0.0.1:80", "a.b", true, &[])).as_deref(), Some("port"));
        assert_eq!(chosen(&listener, &facts("10.0.0.1:81", "a.b", true, &[])).as_deref(), Some("address"));
        assert_eq!(chosen(&listener, &facts("10.0.0.2:81", "a.b", true, &[])).as_deref(), Some("name"));
        assert_eq!(chosen(&listener, &facts("10.0.0.2:81", "c.d", true, &[])), None);
    }

    #[test]
    fn there_is_no_way_back_to_a_less_specific_chain() {
        let narrow = FilterChainMatch {
            prefix_ranges: vec!["10.0.0.0/24".parse().unwrap()],
            server_names: vec!["a.b".into()],
            ..Default::default()
        };
        let wide = FilterChainMatch { prefix_ranges: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() };
        let listener = listener(vec![("wide", wide), ("narrow", narrow)]);
        assert_eq!(chosen(&listener, &facts("10.0.0.1:1", "other", true, &[])), None);
        assert_eq!(chosen(&listener, &facts("10.1.0.1:1", "other", true, &[])).as_deref(), Some("wide"));
    }

    #[test]
    fn names_match_exactly_then_by_the_longest_wildcard() {
        let name = |name: &str| FilterChainMatch { server_names: vec![name.into()], ..Default::default() };
        let listener = listener(vec![
            ("any", FilterChainMatch::default()),
            ("*.b.c", name("*.b.c")),
            ("*.c", name("*.c")),
            ("x.b.c", name("x.b.c")),
        ]);
        for (server_name, wanted) in [("x.b.c", "x.b.c"), ("y.b.c", "*.b.c"), ("z.c", "*.c"), ("", "any"), ("c", "any")]
        {
            assert_eq!(chosen(&listener, &facts("1.1.1.1:1", server_name, true, &[])).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn transport_and_application_protocols_choose_among_inbound_chains() {
        let chain = |transport: &str, protocols: &[&str]| FilterChainMatch {
            transport_protocol: transport.into(),
            application_protocols: protocols.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        };
        let listener = listener(vec![
            ("mtls", chain("tls", &["istio"])),
            ("tls", chain("tls", &[])),
            ("http", chain("raw_buffer", &["http/1.1", "h2c"])),
            ("raw", chain("raw_buffer", &[])),
        ]);
        assert_eq!(chosen(&listener, &facts("1.1.1.1:1", "", true, &["h2", "istio"])).as_deref(), Some("mtls"));
        assert_eq!(chosen(&listener, &facts("1.1.1.1:1", "", true, &["h2"])).as_deref(), Some("tls"));
        assert_eq!(chosen(&listener, &facts("1.1.1.1:1", "", false, &["http/1.1"])).as_deref(), Some("http"));
        assert_eq!(chosen(&listener, &facts("1.1.1.1:1", "", false, &[])).as_deref(), Some("raw"));
    }
}
