//! The type URLs of what travels inside `google.protobuf.Any`, in one place.
//!
//! Each constant is checked against the message that it names, so a typing error cannot reach the wire.

/// What Envoy puts before the full name of every type.
pub const PREFIX: &str = "type.googleapis.com/";

/// The full name of the type that `url` names: everything after its last `/`.
pub fn name_of(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

/// The URL of the type with this full name.
pub fn of_name(full_name: &str) -> String {
    format!("{PREFIX}{full_name}")
}

/// Declares constants together with the messages that they name.
macro_rules! type_urls {
    ($( $(#[$doc:meta])* $name:ident = $full:literal is $message:path; )*) => {
        $( $(#[$doc])* pub const $name: &str = concat!("type.googleapis.com/", $full); )*

        /// Every constant of this module, for tables and completion.
        pub const ALL: &[&str] = &[$( $name ),*];

        #[cfg(test)]
        fn declared() -> Vec<(&'static str, String)> {
            vec![$( ($name, <$message as prost::Name>::type_url()) ),*]
        }
    };
}

type_urls! {    // Resources of the discovery services
    /// A cluster (CDS).
    CLUSTER = "envoy.config.cluster.v3.Cluster" is crate::envoy::config::cluster::v3::Cluster;
    /// The endpoints of a cluster (EDS).
    CLUSTER_LOAD_ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment" is crate::envoy::config::endpoint::v3::ClusterLoadAssignment;
    /// One endpoint (LEDS).
    LB_ENDPOINT = "envoy.config.endpoint.v3.LbEndpoint" is crate::envoy::config::endpoint::v3::LbEndpoint;
    /// A listener (LDS).
    LISTENER = "envoy.config.listener.v3.Listener" is crate::envoy::config::listener::v3::Listener;
    /// A route configuration (RDS).
    ROUTE_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration" is crate::envoy::config::route::v3::RouteConfiguration;
    /// A scope of routes (SRDS).
    SCOPED_ROUTE_CONFIGURATION = "envoy.config.route.v3.ScopedRouteConfiguration" is crate::envoy::config::route::v3::ScopedRouteConfiguration;
    /// One virtual host (VHDS).
    VIRTUAL_HOST = "envoy.config.route.v3.VirtualHost" is crate::envoy::config::route::v3::VirtualHost;
    /// A certificate, a trust bundle or another secret (SDS).
    SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret" is crate::envoy::extensions::transport_sockets::tls::v3::Secret;
    /// The configuration of a named extension (ECDS).
    EXTENSION_CONFIG = "envoy.config.core.v3.TypedExtensionConfig" is crate::envoy::config::core::v3::TypedExtensionConfig;
    /// A layer of runtime values (RTDS).
    RUNTIME = "envoy.service.runtime.v3.Runtime" is crate::envoy::service::runtime::v3::Runtime;
    /// The configuration that Envoy starts with.
    BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap" is crate::envoy::config::bootstrap::v3::Bootstrap;

    // Transport sockets and protocols
    /// TLS towards an upstream.
    UPSTREAM_TLS_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" is crate::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
    /// TLS towards a client.
    DOWNSTREAM_TLS_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" is crate::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
    /// Plain text.
    RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" is crate::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
    /// The PROXY protocol towards an upstream.
    UPSTREAM_PROXY_PROTOCOL = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport" is crate::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
    /// To an internal listener.
    INTERNAL_UPSTREAM = "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport" is crate::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
    /// HTTP versions and limits of a cluster.
    HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" is crate::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;

    // Listener filters
    /// Reads SNI and ALPN.
    TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" is crate::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
    /// Tells HTTP from other protocols.
    HTTP_INSPECTOR = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" is crate::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
    /// Restores the address that was dialled.
    ORIGINAL_DST = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" is crate::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
    /// Dials with the client's address.
    ORIGINAL_SRC = "envoy.extensions.filters.listener.original_src.v3.OriginalSrc" is crate::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
    /// Reads the PROXY protocol.
    PROXY_PROTOCOL = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" is crate::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;

    // Network filters
    /// HTTP.
    HTTP_CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" is crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    /// Opaque bytes.
    TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" is crate::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
    /// Access rules for connections.
    NETWORK_RBAC = "envoy.extensions.filters.network.rbac.v3.RBAC" is crate::envoy::extensions::filters::network::rbac::v3::Rbac;
    /// Limits new connections.
    NETWORK_LOCAL_RATE_LIMIT = "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" is crate::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
    /// Asks a service whether a connection may pass.
    NETWORK_EXT_AUTHZ = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz" is crate::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz;
    /// Limits concurrent connections.
    CONNECTION_LIMIT = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" is crate::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
    /// Answers bytes and closes.
    DIRECT_RESPONSE = "envoy.extensions.filters.network.direct_response.v3.Config" is crate::envoy::extensions::filters::network::direct_response::v3::Config;
    /// Takes the cluster's name from SNI.
    SNI_CLUSTER = "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" is crate::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
    /// MongoDB statistics.
    MONGO_PROXY = "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy" is crate::envoy::extensions::filters::network::mongo_proxy::v3::MongoProxy;
    /// Redis.
    REDIS_PROXY = "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy" is crate::envoy::extensions::filters::network::redis_proxy::v3::RedisProxy;

    // HTTP filters
    /// Sends requests upstream; always last.
    ROUTER = "envoy.extensions.filters.http.router.v3.Router" is crate::envoy::extensions::filters::http::router::v3::Router;
    /// Injects delays and aborts.
    FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault" is crate::envoy::extensions::filters::http::fault::v3::HttpFault;
    /// Cross-origin requests.
    CORS = "envoy.extensions.filters.http.cors.v3.Cors" is crate::envoy::extensions::filters::http::cors::v3::Cors;
    /// Cross-origin rules of a route.
    CORS_POLICY = "envoy.extensions.filters.http.cors.v3.CorsPolicy" is crate::envoy::extensions::filters::http::cors::v3::CorsPolicy;
    /// Counts gRPC messages.
    GRPC_STATS = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" is crate::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig;
    /// Translates gRPC-Web.
    GRPC_WEB = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb" is crate::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
    /// Serves gRPC as JSON.
    GRPC_JSON_TRANSCODER = "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder" is crate::envoy::extensions::filters::http::grpc_json_transcoder::v3::GrpcJsonTranscoder;
    /// Access rules for requests.
    RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC" is crate::envoy::extensions::filters::http::rbac::v3::Rbac;
    /// Access rules of a route.
    RBAC_PER_ROUTE = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" is crate::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
    /// Asks a service whether a request may pass.
    EXT_AUTHZ = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" is crate::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
    /// Its settings of a route.
    EXT_AUTHZ_PER_ROUTE = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" is crate::envoy::extensions::filters::http::ext_authz::v3::ExtAuthzPerRoute;
    /// Lets a service change requests.
    EXT_PROC = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor" is crate::envoy::extensions::filters::http::ext_proc::v3::ExternalProcessor;
    /// Checks JSON Web Tokens.
    JWT_AUTHN = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" is crate::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
    /// Limits requests within one proxy.
    LOCAL_RATE_LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" is crate::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
    /// Limits requests with a service's help.
    RATE_LIMIT = "envoy.extensions.filters.http.ratelimit.v3.RateLimit" is crate::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
    /// Changes headers.
    HEADER_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" is crate::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
    /// Sets filter state per request.
    SET_FILTER_STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config" is crate::envoy::extensions::filters::http::set_filter_state::v3::Config;
    /// Keeps sessions on one host.
    STATEFUL_SESSION = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession" is crate::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
    /// Its settings of a route.
    STATEFUL_SESSION_PER_ROUTE = "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute" is crate::envoy::extensions::filters::http::stateful_session::v3::StatefulSessionPerRoute;
    /// Sessions by cookie.
    COOKIE_BASED_SESSION_STATE = "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState" is crate::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
    /// Sessions by header.
    HEADER_BASED_SESSION_STATE = "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState" is crate::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
    /// Buffers whole requests.
    BUFFER = "envoy.extensions.filters.http.buffer.v3.Buffer" is crate::envoy::extensions::filters::http::buffer::v3::Buffer;
    /// Compresses bodies.
    COMPRESSOR = "envoy.extensions.filters.http.compressor.v3.Compressor" is crate::envoy::extensions::filters::http::compressor::v3::Compressor;
    /// Answers health checks.
    HEALTH_CHECK = "envoy.extensions.filters.http.health_check.v3.HealthCheck" is crate::envoy::extensions::filters::http::health_check::v3::HealthCheck;
    /// Scripts.
    LUA = "envoy.extensions.filters.http.lua.v3.Lua" is crate::envoy::extensions::filters::http::lua::v3::Lua;
    /// WebAssembly.
    WASM = "envoy.extensions.filters.http.wasm.v3.Wasm" is crate::envoy::extensions::filters::http::wasm::v3::Wasm;
    /// Wraps a route's settings of a filter, with flags.
    HTTP_FILTER_CONFIG = "envoy.config.route.v3.FilterConfig" is crate::envoy::config::route::v3::FilterConfig;

    // HTTP extensions
    /// Request ids and trace sampling.
    UUID_REQUEST_ID = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" is crate::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
    /// Keeps the case of header names.
    PRESERVE_CASE = "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig" is crate::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
    /// The client's address from x-forwarded-for.
    XFF_ORIGINAL_IP = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" is crate::envoy::extensions::http::original_ip_detection::xff::v3::XffConfig;
    /// Paths by template.
    URI_TEMPLATE_MATCH = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" is crate::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
    /// Rewrites by template.
    URI_TEMPLATE_REWRITE = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig" is crate::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
    /// Retries elsewhere.
    PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" is crate::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
    /// Retries at another priority.
    PREVIOUS_PRIORITIES = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig" is crate::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

    // Access logs and tracing
    /// To a file.
    FILE_ACCESS_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog" is crate::envoy::extensions::access_loggers::file::v3::FileAccessLog;
    /// To standard output.
    STDOUT_ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" is crate::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
    /// To standard error.
    STDERR_ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" is crate::envoy::extensions::access_loggers::stream::v3::StderrAccessLog;
    /// Requests to a service (ALS).
    HTTP_GRPC_ACCESS_LOG = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig" is crate::envoy::extensions::access_loggers::grpc::v3::HttpGrpcAccessLogConfig;
    /// Connections to a service (ALS).
    TCP_GRPC_ACCESS_LOG = "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" is crate::envoy::extensions::access_loggers::grpc::v3::TcpGrpcAccessLogConfig;
    /// To an OpenTelemetry collector.
    OPEN_TELEMETRY_ACCESS_LOG = "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig" is crate::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
    /// Spans to an OpenTelemetry collector.
    OPEN_TELEMETRY_TRACING = "envoy.config.trace.v3.OpenTelemetryConfig" is crate::envoy::config::trace::v3::OpenTelemetryConfig;
    /// Spans to Zipkin.
    ZIPKIN_TRACING = "envoy.config.trace.v3.ZipkinConfig" is crate::envoy::config::trace::v3::ZipkinConfig;

    // Clusters and load balancing
    /// A cluster of clusters.
    AGGREGATE_CLUSTER = "envoy.extensions.clusters.aggregate.v3.ClusterConfig" is crate::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
    /// A cluster resolved by DNS.
    DNS_CLUSTER = "envoy.extensions.clusters.dns.v3.DnsCluster" is crate::envoy::extensions::clusters::dns::v3::DnsCluster;
    /// A cluster resolved per request.
    DYNAMIC_FORWARD_PROXY_CLUSTER = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" is crate::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
    /// A Redis cluster.
    REDIS_CLUSTER = "envoy.extensions.clusters.redis.v3.RedisClusterConfig" is crate::envoy::extensions::clusters::redis::v3::RedisClusterConfig;
    /// In turns.
    LB_ROUND_ROBIN = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin" is crate::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
    /// The less busy of two.
    LB_LEAST_REQUEST = "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest" is crate::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
    /// At random.
    LB_RANDOM = "envoy.extensions.load_balancing_policies.random.v3.Random" is crate::envoy::extensions::load_balancing_policies::random::v3::Random;
    /// Consistent hashing by ring.
    LB_RING_HASH = "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash" is crate::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
    /// Consistent hashing by table.
    LB_MAGLEV = "envoy.extensions.load_balancing_policies.maglev.v3.Maglev" is crate::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
    /// As the cluster's type says.
    LB_CLUSTER_PROVIDED = "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided" is crate::envoy::extensions::load_balancing_policies::cluster_provided::v3::ClusterProvided;
    /// Subsets by metadata.
    LB_SUBSET = "envoy.extensions.load_balancing_policies.subset.v3.Subset" is crate::envoy::extensions::load_balancing_policies::subset::v3::Subset;
    /// By weight of locality.
    LB_WRR_LOCALITY = "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality" is crate::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;

    // Free-form and well-known types
    /// A message given as a Struct.
    TYPED_STRUCT = "xds.type.v3.TypedStruct" is crate::typed_struct::TypedStruct;
    /// An object.
    STRUCT = "google.protobuf.Struct" is crate::google::protobuf::Struct;
    /// A boxed string.
    STRING_VALUE = "google.protobuf.StringValue" is crate::google::protobuf::StringValue;
    /// Nothing.
    EMPTY = "google.protobuf.Empty" is crate::google::protobuf::Empty;

    // Dumps of Envoy's admin interface
    /// What one client has (CSDS).
    CLIENT_CONFIG = "envoy.service.status.v3.ClientConfig" is crate::envoy::service::status::v3::ClientConfig;
    /// All of `/config_dump`.
    CONFIG_DUMP = "envoy.admin.v3.ConfigDump" is crate::envoy::admin::v3::ConfigDump;
    /// Its clusters.
    CLUSTERS_CONFIG_DUMP = "envoy.admin.v3.ClustersConfigDump" is crate::envoy::admin::v3::ClustersConfigDump;
    /// Its listeners.
    LISTENERS_CONFIG_DUMP = "envoy.admin.v3.ListenersConfigDump" is crate::envoy::admin::v3::ListenersConfigDump;
    /// Its routes.
    ROUTES_CONFIG_DUMP = "envoy.admin.v3.RoutesConfigDump" is crate::envoy::admin::v3::RoutesConfigDump;
    /// Its endpoints.
    ENDPOINTS_CONFIG_DUMP = "envoy.admin.v3.EndpointsConfigDump" is crate::envoy::admin::v3::EndpointsConfigDump;
    /// Its secrets.
    SECRETS_CONFIG_DUMP = "envoy.admin.v3.SecretsConfigDump" is crate::envoy::admin::v3::SecretsConfigDump;
    /// Its bootstrap.
    BOOTSTRAP_CONFIG_DUMP = "envoy.admin.v3.BootstrapConfigDump" is crate::envoy::admin::v3::BootstrapConfigDump;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_constant_is_the_url_of_its_message() {
        for (constant, of_message) in declared() {
            assert_eq!(constant, of_message);
        }
    }

    #[test]
    fn every_constant_has_a_descriptor_so_that_json_knows_it() {
        for url in ALL {
            assert!(crate::json::pool().get_message_by_name(name_of(url)).is_some(), "{url}");
        }
    }

    #[test]
    fn a_name_is_what_follows_the_last_slash() {
        assert_eq!(name_of(CLUSTER), "envoy.config.cluster.v3.Cluster");
        assert_eq!(name_of("a/b/c.D"), "c.D");
        assert_eq!(name_of("c.D"), "c.D");
        assert_eq!(of_name("envoy.config.cluster.v3.Cluster"), CLUSTER);
    }
}
