//! Small constructors for Envoy's messages, and the framing that joins encoded virtual hosts without decoding them.
//!
//! A resource's version is the hash of its bytes, so everything goes through `xebec_proto::stable`: equal messages have equal bytes.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use ipnet::IpNet;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
pub use xebec_proto::any::pack as any;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::r#type::matcher::v3 as matcher;
use xebec_proto::envoy::r#type::v3 as envoy_type;
use xebec_proto::google::protobuf as google;

/// A wrapped `uint32`.
pub fn u32_value(value: u32) -> Option<google::UInt32Value> {
    Some(google::UInt32Value { value })
}

/// A wrapped `bool`.
pub fn bool_value(value: bool) -> Option<google::BoolValue> {
    Some(google::BoolValue { value })
}

/// A protobuf duration.
pub fn duration(length: Duration) -> google::Duration {
    xebec_proto::duration::to_proto(length)
}

/// A TCP address.
pub fn socket_address(ip: IpAddr, port: u16) -> core::Address {
    host_address(ip.to_string(), port)
}

/// A TCP address whose host may be a DNS name.
pub fn host_address(host: String, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// A Unix domain socket.
pub fn pipe(path: &str) -> core::Address {
    core::Address { address: Some(core::address::Address::Pipe(core::Pipe { path: path.to_owned(), mode: 0 })) }
}

/// A network as Envoy writes it.
pub fn cidr(net: &IpNet) -> core::CidrRange {
    core::CidrRange { address_prefix: net.network().to_string(), prefix_len: u32_value(net.prefix_len().into()) }
}

/// Resources of the aggregated stream, waited for without limit: a proxy never starts on half of its configuration.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        initial_fetch_timeout: Some(google::Duration { seconds: 0, nanos: 0 }),
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// A regular expression in RE2's syntax.
pub fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.to_owned(), engine_type: None }
}

/// A percentage from 0 to 100, kept to a millionth.
pub fn fraction(percent: f64) -> envoy_type::FractionalPercent {
    let millionths = (percent.clamp(0.0, 100.0) * 10_000.0).round();
    // In range by the clamp: at most one million.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let numerator = millionths as u32;
    envoy_type::FractionalPercent {
        numerator,
        denominator: envoy_type::fractional_percent::DenominatorType::Million as i32,
    }
}

/// [`fraction`], where Envoy asks for one that its runtime could override.
pub fn runtime_fraction(percent: f64) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent { default_value: Some(fraction(percent)), runtime_key: String::new() }
}

/// Encodes a resource: equal messages have equal bytes.
pub fn encode<M: Message + prost::Name>(message: &M) -> Bytes {
    xebec_proto::stable::encode(message).into()
}

/// What `filter_metadata.istio` says, where Istio's own tools look for it.
pub fn istio_metadata(fields: impl IntoIterator<Item = (&'static str, google::Value)>) -> core::Metadata {
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    core::Metadata { filter_metadata: [("istio".to_owned(), google::Struct { fields })].into(), ..Default::default() }
}

/// A text inside of metadata.
pub fn text(value: impl Into<String>) -> google::Value {
    google::Value { kind: Some(google::value::Kind::StringValue(value.into())) }
}

/// Encodes a route table from one that has no virtual hosts yet and virtual hosts that are encoded already.
pub fn join_virtual_hosts<'a>(
    frame: &route::RouteConfiguration,
    hosts: impl Iterator<Item = &'a Bytes> + Clone,
) -> Bytes {
    const VIRTUAL_HOSTS: u32 = 2;
    let frame = encode(frame);
    let mut out =
        BytesMut::with_capacity(frame.len() + hosts.clone().map(|h| field_len(VIRTUAL_HOSTS, h.len())).sum::<usize>());
    out.put_slice(&frame);
    for host in hosts {
        encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut out);
        encode_varint(host.len() as u64, &mut out);
        out.put_slice(host);
    }
    out.freeze()
}

fn field_len(tag: u32, body: usize) -> usize {
    key_len(tag) + encoded_len_varint(body as u64) + body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn joined_virtual_hosts_decode_to_the_table_that_holds_them() {
        let host =
            |name: &str| route::VirtualHost { name: name.into(), domains: vec![name.into()], ..Default::default() };
        let frame = route::RouteConfiguration {
            name: "80".into(),
            virtual_hosts: vec![host("allow_any")],
            ignore_port_in_host_matching: true,
            ..Default::default()
        };
        let encoded = [encode(&host("a")), encode(&host("b"))];
        let table = route::RouteConfiguration::decode(join_virtual_hosts(&frame, encoded.iter())).unwrap();
        assert_eq!(table.virtual_hosts, [host("allow_any"), host("a"), host("b")]);
        assert!(table.ignore_port_in_host_matching);
    }

    #[test]
    fn a_fraction_keeps_hundredths_of_a_percent_and_never_leaves_its_range() {
        assert_eq!(fraction(0.01).numerator, 100);
        assert_eq!(fraction(50.0).numerator, 500_000);
        assert_eq!(fraction(1e9).numerator, 1_000_000);
        assert_eq!(fraction(f64::NAN).numerator, 0);
    }
}
