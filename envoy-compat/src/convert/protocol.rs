//! Which HTTP a cluster's connections speak, and their limits.

use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::extensions::upstreams::http::v3::{
    self as upstream,
    http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};
use xebec_proto::google::protobuf::Any;
use xebec_proto::type_url;

use super::place::{Outcome, Place, ignored, inert};
use super::value;
use crate::model::{Cluster, UpstreamProtocol};

pub(super) fn common_http(at: Place<'_>, value: &core::HttpProtocolOptions, out: &mut Cluster) -> Outcome<()> {
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
    ignored!(at; max_connection_duration, max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
        max_stream_duration, headers_with_underscores_action);
    out.idle_timeout = value::timeout(at.field("idle_timeout"), idle_timeout.as_ref(), out.idle_timeout)?;
    if let Some(limit) = value::number(max_requests_per_connection.as_ref()) {
        out.max_requests_per_connection = limit;
    }
    Ok(())
}

pub(super) fn http2_options(at: Place<'_>, value: &core::Http2ProtocolOptions, out: &mut Cluster) {
    if let Some(streams) = http2_streams(at, value) {
        out.max_concurrent_streams = streams;
    }
}

/// Streams at once; everything else about HTTP/2 is left to the library's own limits.
pub(super) fn http2_streams(at: Place<'_>, value: &core::Http2ProtocolOptions) -> Option<u32> {
    let core::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = value;
    ignored!(at; hpack_table_size, initial_stream_window_size, initial_connection_window_size, allow_connect, allow_metadata,
        max_outbound_frames, max_outbound_control_frames, max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream, max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message, custom_settings_parameters,
        connection_keepalive, max_metadata_size, max_header_field_size_kb, disallow_obs_text, stream_reset_burst,
        stream_reset_rate);
    inert!(use_oghttp2_codec, enable_huffman_encoding);
    value::number(max_concurrent_streams.as_ref())
}

pub(super) fn extension(at: Place<'_>, any: &Any, out: &mut Cluster) -> Outcome<()> {
    if type_url::name_of(&any.type_url) != type_url::name_of(type_url::HTTP_PROTOCOL_OPTIONS) {
        at.ignored("");
        return Ok(());
    }
    let upstream::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = &value::unpack(at, any)?;
    ignored!(at; header_validation_config, outlier_detection, request_mirror_policies, hash_policy, retry_policy);
    inert!(upstream_http_protocol_options);
    if http_filters.iter().any(|filter| filter.name != "envoy.filters.http.upstream_codec") {
        return Err(at.field("http_filters").refuse("filters towards the upstream are not supported"));
    }
    if let Some(common) = common_http_protocol_options {
        common_http(at.field("common_http_protocol_options"), common, out)?;
    }
    match upstream_protocol_options {
        None => {}
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            let at = at.field("explicit_http_config");
            match &explicit.protocol_config {
                None | Some(ProtocolConfig::HttpProtocolOptions(_)) => out.protocol = UpstreamProtocol::Http1,
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    out.protocol = UpstreamProtocol::Http2;
                    http2_options(at.field("http2_protocol_options"), http2, out);
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    return Err(at.field("http3_protocol_options").refuse("HTTP/3 is not supported"));
                }
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(downstream)) => {
            let at = at.field("use_downstream_protocol_config");
            let upstream::http_protocol_options::UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = downstream;
            inert!(http_protocol_options);
            ignored!(at; http3_protocol_options);
            out.protocol = UpstreamProtocol::Downstream;
            if let Some(http2) = http2_protocol_options {
                http2_options(at.field("http2_protocol_options"), http2, out);
            }
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            // Without TLS there is no ALPN to choose by, and HTTP/1.1 is what it falls back to.
            at.field("auto_config").ignored("HTTP/1.1 is spoken");
            out.protocol = UpstreamProtocol::Http1;
        }
    }
    Ok(())
}
