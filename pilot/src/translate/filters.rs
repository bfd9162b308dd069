//! The filters of listeners: the HTTP connection manager, the TCP proxy, inspectors, and access logs.
//!
//! HTTP filters keep Istio's order, without the ones that only Istio's build of Envoy has: gRPC-Web, fault, CORS, router.

use std::collections::BTreeMap;
use std::time::Duration;

use xebec_galley::spec::PathNormalizationType;
use xebec_proto::envoy::config::accesslog::v3 as accesslog;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::listener::v3 as listener;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::extensions::access_loggers::file::v3 as file_log;
use xebec_proto::envoy::extensions::filters::http as http_filters;
use xebec_proto::envoy::extensions::filters::listener as listener_filters;
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xebec_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use xebec_proto::google::protobuf as google;

use super::wire::{ads, any, bool_value, duration};

/// Names that Envoy gives to its filters.
pub const FAULT: &str = "envoy.filters.http.fault";
/// See [`FAULT`].
pub const CORS: &str = "envoy.filters.http.cors";
const ROUTER: &str = "envoy.filters.http.router";
const GRPC_WEB: &str = "envoy.filters.http.grpc_web";
const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// On which side of the proxy a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Requests of the local application to others.
    Outbound,
    /// Requests of others to the local application.
    Inbound,
    /// Requests from outside of the mesh.
    Gateway,
}

/// Where an HTTP connection manager finds its routes.
pub enum Routes {
    /// By RDS, under this name.
    Named(String),
    /// In place.
    Inline(Box<route::RouteConfiguration>),
}

/// What differs between HTTP connection managers.
pub struct Http<'a> {
    /// On which side.
    pub side: Side,
    /// The name in its statistics.
    pub stat_prefix: String,
    /// Its routes.
    pub routes: Routes,
    /// Translate gRPC-Web to gRPC.
    pub grpc_web: bool,
    /// Accept HTTP/1.0.
    pub http10: bool,
    /// How many proxies in front of this one may be trusted to say the client's address.
    pub trusted_hops: u32,
    /// The access log, when there is one.
    pub access_log: Option<&'a AccessLog>,
    /// How paths are made canonical before they are matched.
    pub paths: PathNormalizationType,
}

/// Where requests and connections are logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccessLog {
    /// A file's path, such as `/dev/stdout`.
    pub path: String,
    /// Envoy's format string, or a JSON object of them. `None` is Envoy's default format.
    pub format: Option<LogFormat>,
}

/// How a log line looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// A text with Envoy's command operators.
    Text(String),
    /// One JSON object per line: its keys, and texts with command operators.
    Json(BTreeMap<String, String>),
}

/// Makes a network filter of an HTTP connection manager.
pub fn http_connection_manager(http: Http<'_>) -> listener::Filter {
    network_filter(HTTP_CONNECTION_MANAGER, any(&connection_manager(http)))
}

fn connection_manager(http: Http<'_>) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager as parts;
    let Http { side, stat_prefix, routes, grpc_web, http10, trusted_hops, access_log, paths } = http;
    let mut filters = Vec::with_capacity(4);
    if grpc_web {
        filters.push(http_filter(GRPC_WEB, any(&http_filters::grpc_web::v3::GrpcWeb {})));
    }
    if side != Side::Inbound {
        filters.push(http_filter(FAULT, any(&http_filters::fault::v3::HttpFault::default())));
    }
    filters.push(http_filter(CORS, any(&http_filters::cors::v3::Cors {})));
    filters.push(router());
    hcm::HttpConnectionManager {
        stat_prefix,
        http_filters: filters,
        http_protocol_options: http10
            .then(|| core::Http1ProtocolOptions { accept_http_10: true, ..Default::default() }),
        server_name: if side == Side::Outbound { String::new() } else { "istio-envoy".to_owned() },
        server_header_transformation: if side == Side::Outbound {
            parts::ServerHeaderTransformation::PassThrough as i32
        } else {
            parts::ServerHeaderTransformation::Overwrite as i32
        },
        stream_idle_timeout: Some(duration(Duration::ZERO)),
        access_log: access_log.map(file_access_log).into_iter().collect(),
        use_remote_address: bool_value(side == Side::Gateway),
        xff_num_trusted_hops: trusted_hops,
        generate_request_id: bool_value(true),
        forward_client_cert_details: match side {
            Side::Outbound => parts::ForwardClientCertDetails::Sanitize as i32,
            Side::Inbound => parts::ForwardClientCertDetails::AppendForward as i32,
            Side::Gateway => parts::ForwardClientCertDetails::SanitizeSet as i32,
        },
        set_current_client_cert_details: (side != Side::Outbound).then(|| parts::SetCurrentClientCertDetails {
            subject: bool_value(true),
            dns: true,
            uri: true,
            ..Default::default()
        }),
        upgrade_configs: vec![parts::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        normalize_path: bool_value(paths != PathNormalizationType::None),
        merge_slashes: matches!(
            paths,
            PathNormalizationType::MergeSlashes | PathNormalizationType::DecodeAndMergeSlashes
        ),
        path_with_escaped_slashes_action: match paths {
            PathNormalizationType::DecodeAndMergeSlashes => {
                parts::PathWithEscapedSlashesAction::UnescapeAndForward as i32
            }
            _ => parts::PathWithEscapedSlashesAction::ImplementationSpecificDefault as i32,
        },
        route_specifier: Some(match routes {
            Routes::Named(name) => {
                parts::RouteSpecifier::Rds(hcm::Rds { config_source: Some(ads()), route_config_name: name })
            }
            Routes::Inline(config) => parts::RouteSpecifier::RouteConfig(*config),
        }),
        ..Default::default()
    }
}

/// A connection manager as gRPC's own xDS clients read it: routes by RDS or in place, fault injection, and the router.
pub fn grpc_connection_manager(routes: Routes, fault: bool) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::RouteSpecifier;
    let mut filters = Vec::with_capacity(2);
    if fault {
        filters.push(http_filter(FAULT, any(&http_filters::fault::v3::HttpFault::default())));
    }
    filters.push(router());
    hcm::HttpConnectionManager {
        http_filters: filters,
        route_specifier: Some(match routes {
            Routes::Named(name) => RouteSpecifier::Rds(hcm::Rds {
                config_source: Some(core::ConfigSource { initial_fetch_timeout: None, ..ads() }),
                route_config_name: name,
            }),
            Routes::Inline(config) => RouteSpecifier::RouteConfig(*config),
        }),
        ..Default::default()
    }
}

/// The same connection manager as a network filter, for the listeners of gRPC servers.
pub fn grpc_server_filter(routes: Routes) -> listener::Filter {
    network_filter(HTTP_CONNECTION_MANAGER, any(&grpc_connection_manager(routes, false)))
}

/// Where a TCP proxy sends its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpTarget {
    /// A cluster's name.
    pub cluster: String,
    /// Its share.
    pub weight: u32,
}

/// What differs between TCP proxies.
pub struct Tcp<'a> {
    /// One target, or several by weight.
    pub targets: Vec<TcpTarget>,
    /// The access log, when there is one.
    pub access_log: Option<&'a AccessLog>,
    /// Close a connection on which nothing moves for this long; zero never does. `None` is Envoy's hour.
    pub idle_timeout: Option<Duration>,
    /// Close a connection after this long.
    pub max_duration: Option<Duration>,
    /// Choose the endpoint by the client's address.
    pub hash_source_ip: bool,
}

/// Makes a network filter of a TCP proxy. Without targets, connections are refused.
pub fn tcp_proxy(tcp: Tcp<'_>) -> listener::Filter {
    use xebec_proto::envoy::r#type::v3 as envoy_type;
    let Tcp { mut targets, access_log, idle_timeout, max_duration, hash_source_ip } = tcp;
    let (stat_prefix, specifier) = match targets.len() {
        0 => (
            super::names::BLACK_HOLE_CLUSTER.to_owned(),
            tcp::tcp_proxy::ClusterSpecifier::Cluster(super::names::BLACK_HOLE_CLUSTER.to_owned()),
        ),
        1 => {
            let cluster = targets.remove(0).cluster;
            (cluster.clone(), tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster))
        }
        _ => (
            targets.iter().max_by_key(|t| t.weight).map(|t| t.cluster.clone()).unwrap_or_default(),
            tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp::tcp_proxy::WeightedCluster {
                clusters: targets
                    .into_iter()
                    .map(|t| tcp::tcp_proxy::weighted_cluster::ClusterWeight {
                        name: t.cluster,
                        weight: t.weight,
                        metadata_match: None,
                    })
                    .collect(),
            }),
        ),
    };
    let proxy = tcp::TcpProxy {
        stat_prefix,
        cluster_specifier: Some(specifier),
        access_log: access_log.map(file_access_log).into_iter().collect(),
        idle_timeout: idle_timeout.map(duration),
        max_downstream_connection_duration: max_duration.map(duration),
        hash_policy: if hash_source_ip {
            vec![envoy_type::HashPolicy {
                policy_specifier: Some(envoy_type::hash_policy::PolicySpecifier::SourceIp(
                    envoy_type::hash_policy::SourceIp {},
                )),
            }]
        } else {
            Vec::new()
        },
        ..Default::default()
    };
    network_filter(TCP_PROXY, any(&proxy))
}

/// Sends connections to one cluster.
pub fn tcp_to(cluster: &str, access_log: Option<&AccessLog>) -> listener::Filter {
    tcp_proxy(Tcp {
        targets: vec![TcpTarget { cluster: cluster.to_owned(), weight: 1 }],
        access_log,
        idle_timeout: None,
        max_duration: None,
        hash_source_ip: false,
    })
}

/// Recovers where an intercepted connection meant to go.
pub fn original_dst() -> listener::ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", any(&listener_filters::original_dst::v3::OriginalDst {}))
}

/// Reads the server name and ALPN of TLS connections.
pub fn tls_inspector() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.tls_inspector",
        any(&listener_filters::tls_inspector::v3::TlsInspector::default()),
    )
}

/// Tells HTTP from other plain text by its first bytes.
pub fn http_inspector() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.http_inspector",
        any(&listener_filters::http_inspector::v3::HttpInspector {}),
    )
}

/// What the HTTP inspector calls what it recognises.
pub fn sniffed_http() -> Vec<String> {
    vec!["http/1.1".to_owned(), "h2c".to_owned()]
}

fn listener_filter(name: &str, config: google::Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn network_filter(name: &str, config: google::Any) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) }
}

fn http_filter(name: &str, config: google::Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn router() -> hcm::HttpFilter {
    http_filter(ROUTER, any(&http_filters::router::v3::Router::default()))
}

fn file_access_log(log: &AccessLog) -> accesslog::AccessLog {
    use core::substitution_format_string::Format;
    use file_log::file_access_log::AccessLogFormat;
    let format = log.format.as_ref().map(|format| {
        let format = match format {
            // Envoy ends its default lines itself, and leaves the ends of others to whoever wrote them.
            LogFormat::Text(text) if text.ends_with('\n') => Format::TextFormatSource(inline(text.clone())),
            LogFormat::Text(text) => Format::TextFormatSource(inline(format!("{text}\n"))),
            LogFormat::Json(fields) => Format::JsonFormat(google::Struct {
                fields: fields
                    .iter()
                    .map(|(k, v)| {
                        (k.clone(), google::Value { kind: Some(google::value::Kind::StringValue(v.clone())) })
                    })
                    .collect(),
            }),
        };
        AccessLogFormat::LogFormat(core::SubstitutionFormatString { format: Some(format), ..Default::default() })
    });
    let file = file_log::FileAccessLog { path: log.path.clone(), access_log_format: format };
    accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: None,
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&file))),
    }
}

/// A text in place.
pub fn inline(text: String) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::InlineString(text)), ..Default::default() }
}
