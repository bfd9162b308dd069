//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use xebec_proto::envoy::config::core::v3::{self as core, scheme_header_transformation};
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as hcm,
    http_connection_manager::{
        CodecType, ForwardClientCertDetails, RouteSpecifier, ServerHeaderTransformation, StripPortMode,
    },
};

use super::place::{Outcome, Place, ignored, inert, refused};
use super::protocol::http2_streams;
use super::{Wait, access_log, filter, route, value};
use crate::model::{Codec, HttpConnectionManager, RouteSource};

/// A connection manager, and how long its routes are waited for.
pub(super) fn manager(at: Place<'_>, value: &hcm::HttpConnectionManager) -> Outcome<(HttpConnectionManager, Wait)> {
    let hcm::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = value;
    refused!(at, "the matcher of client certificates is not supported"; forward_client_cert_matcher);
    ignored!(at; add_user_agent, tracing, http1_safe_max_connection_duration, http3_protocol_options, stream_flush_timeout,
        request_timeout,
        drain_timeout_jitter, delayed_close_timeout, access_log_flush_interval, flush_access_log_on_new_request,
        access_log_options, original_ip_detection_extensions, early_header_mutation_extensions, internal_address_config, via,
        proxy_100_continue, represent_ipv4_remote_address_as_ipv4_mapped_ipv6, path_with_escaped_slashes_action,
        request_id_extension, local_reply_config, stream_error_on_invalid_http_message, path_normalization_options,
        strip_trailing_host_dot, proxy_status_config, typed_header_validation_config, append_x_forwarded_port,
        append_local_overload, forward_proto_config);
    // What is said about client certificates has nothing to act on in plain text.
    inert!(set_current_client_cert_details, add_proxy_protocol_connection_state);
    if *forward_client_cert_details == ForwardClientCertDetails::AlwaysForwardOnly as i32 {
        at.field("forward_client_cert_details")
            .ignored("x-forwarded-client-cert is not trusted from plain-text clients");
    }

    let mut wait = Wait::NONE;
    let routes = match route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            let hcm::Rds { config_source, route_config_name } = rds;
            let at = at.field("rds");
            wait = Wait(value::from_same_stream(at.field("config_source"), config_source.as_ref())?);
            if route_config_name.is_empty() {
                return Err(at.field("route_config_name").refuse("a name is required"));
            }
            RouteSource::Rds(route_config_name.as_str().into())
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            let at = at.field("route_config");
            if config.vhds.is_some() {
                return Err(at
                    .field("vhds")
                    .refuse("virtual hosts are discovered for route configurations by RDS only"));
            }
            RouteSource::Inline(Arc::new(route::inline_table(at, config)?))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(at.field("scoped_routes").refuse("scoped routes are not supported"));
        }
        None => return Err(at.field("rds").refuse("routes are required")),
    };

    let mut out = HttpConnectionManager::new(stat_prefix, routes);
    out.codec = match CodecType::try_from(*codec_type) {
        Ok(CodecType::Auto) => Codec::Auto,
        Ok(CodecType::Http1) => Codec::Http1,
        Ok(CodecType::Http2) => Codec::Http2,
        Ok(CodecType::Http3) => return Err(at.field("codec_type").refuse("HTTP/3 is not supported")),
        Err(_) => return Err(at.field("codec_type").refuse("not a known codec")),
    };
    out.filters = filter::chain(at.field("http_filters"), http_filters)?;
    out.access_logs = access_log::logs(at.field("access_log"), access_log)?;
    for (index, upgrade) in upgrade_configs.iter().enumerate() {
        let list = at.field("upgrade_configs");
        let at = list.index(index);
        let hcm::http_connection_manager::UpgradeConfig { upgrade_type, filters, enabled } = upgrade;
        ignored!(at; filters);
        if value::switch(enabled.as_ref(), true) {
            out.upgrades.push(upgrade_type.to_ascii_lowercase().into());
        }
    }
    if !server_name.is_empty() {
        out.server_name = server_name.as_str().into();
    }
    match ServerHeaderTransformation::try_from(*server_header_transformation) {
        Ok(ServerHeaderTransformation::PassThrough) => out.pass_through_server = true,
        Ok(ServerHeaderTransformation::AppendIfAbsent) => {
            at.field("server_header_transformation").ignored("the header is overwritten");
        }
        _ => {}
    }
    if let Some(core::SchemeHeaderTransformation { transformation, match_upstream }) = scheme_header_transformation {
        let at = at.field("scheme_header_transformation");
        ignored!(at; match_upstream);
        if let Some(scheme_header_transformation::Transformation::SchemeToOverwrite(scheme)) = transformation {
            out.scheme = Some(scheme.as_str().into());
        }
    }
    if let Some(common) = common_http_protocol_options {
        common_options(at.field("common_http_protocol_options"), common, &mut out)?;
    }
    if let Some(http1) = http_protocol_options {
        http1_options(at.field("http_protocol_options"), http1, &mut out);
    }
    if let Some(http2) = http2_protocol_options
        && let Some(streams) = http2_streams(at.field("http2_protocol_options"), http2)
    {
        out.max_concurrent_streams = streams;
    }
    if let Some(kilobytes) = value::number(max_request_headers_kb.as_ref()) {
        if !(1..=8192).contains(&kilobytes) {
            return Err(at.field("max_request_headers_kb").refuse("between 1 and 8192"));
        }
        out.max_request_headers = kilobytes as usize * 1024;
    }
    let stream_idle = Some(Duration::from_secs(300));
    out.stream_idle_timeout =
        value::timeout(at.field("stream_idle_timeout"), stream_idle_timeout.as_ref(), stream_idle)?;
    out.request_headers_timeout =
        value::timeout(at.field("request_headers_timeout"), request_headers_timeout.as_ref(), None)?;
    if let Some(drain) = value::duration(at.field("drain_timeout"), drain_timeout.as_ref())? {
        out.drain_timeout = drain;
    }
    out.use_remote_address = value::switch(use_remote_address.as_ref(), false);
    out.xff_num_trusted_hops = *xff_num_trusted_hops;
    out.skip_xff_append = *skip_xff_append;
    out.generate_request_id = value::switch(generate_request_id.as_ref(), true);
    out.preserve_external_request_id = *preserve_external_request_id;
    out.request_id_in_response = *always_set_request_id_in_response;
    out.normalize_path = value::switch(normalize_path.as_ref(), false);
    out.merge_slashes = *merge_slashes;
    out.strip_host_port =
        *strip_matching_host_port || matches!(strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)));
    Ok((out, wait))
}

fn common_options(at: Place<'_>, value: &core::HttpProtocolOptions, out: &mut HttpConnectionManager) -> Outcome<()> {
    let core::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = value;
    ignored!(at; max_connection_duration, max_connection_duration_jitter, max_headers_count, max_response_headers_kb, max_stream_duration,
        headers_with_underscores_action, max_requests_per_connection);
    out.idle_timeout = value::timeout(at.field("idle_timeout"), idle_timeout.as_ref(), out.idle_timeout)?;
    Ok(())
}

fn http1_options(at: Place<'_>, value: &core::Http1ProtocolOptions, out: &mut HttpConnectionManager) {
    let core::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = value;
    ignored!(at; header_key_format, allow_chunked_length, override_stream_error_on_invalid_http_message,
        send_fully_qualified_url, ignore_http_11_upgrade);
    inert!(allow_absolute_url, enable_trailers, use_balsa_parser, allow_custom_methods);
    out.accept_http_10 = *accept_http_10;
    out.default_host = default_host_for_http_10.as_str().into();
}
