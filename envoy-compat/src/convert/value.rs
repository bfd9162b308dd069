//! The small types that appear everywhere: durations, shares, addresses, configuration sources.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use xebec_proto::envoy::config::core::v3::{
    self as core, ConfigSource, address, config_source::ConfigSourceSpecifier, data_source, socket_address,
};
use xebec_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use xebec_proto::google::protobuf::{Any, BoolValue, Duration as ProtoDuration, UInt32Value};
use xebec_proto::prost::{Message, Name};

use super::place::{Outcome, Place, ignored, inert, refused};
use crate::model::Fraction;

/// A duration; `None` when it is not set.
pub(super) fn duration(at: Place<'_>, value: Option<&ProtoDuration>) -> Outcome<Option<Duration>> {
    value
        .map(|value| {
            xebec_proto::duration::from_proto(value).ok_or_else(|| at.refuse("the duration is negative or malformed"))
        })
        .transpose()
}

/// A timeout where zero means without limit and unset means `default`.
pub(super) fn timeout(
    at: Place<'_>,
    value: Option<&ProtoDuration>,
    default: Option<Duration>,
) -> Outcome<Option<Duration>> {
    Ok(match duration(at, value)? {
        None => default,
        Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
    })
}

/// A number that may be left out.
pub(super) fn number(value: Option<&UInt32Value>) -> Option<u32> {
    value.map(|value| value.value)
}

/// A switch that may be left out.
pub(super) fn switch(value: Option<&BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// A share.
pub(super) fn fraction(at: Place<'_>, value: &FractionalPercent) -> Outcome<Fraction> {
    let FractionalPercent { numerator, denominator } = value;
    let denominator = match DenominatorType::try_from(*denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(at.field("denominator").refuse("not a known denominator")),
    };
    Ok(Fraction { numerator: *numerator, denominator })
}

/// A share that a runtime key may change; there is no runtime here, so the default holds. Without a default it is all.
pub(super) fn runtime_fraction(at: Place<'_>, value: &core::RuntimeFractionalPercent) -> Outcome<Fraction> {
    let core::RuntimeFractionalPercent { default_value, runtime_key } = value;
    ignored!(at; runtime_key);
    match default_value {
        Some(value) => fraction(at.field("default_value"), value),
        None => Ok(Fraction::ALL),
    }
}

/// An address or a name, with its port.
pub(super) enum Host {
    Socket(SocketAddr),
    Name(String, u16),
}

/// The address of a listener or endpoint.
pub(super) fn host(at: Place<'_>, value: Option<&core::Address>) -> Outcome<Host> {
    let inner = value.and_then(|value| value.address.as_ref()).ok_or_else(|| at.refuse("an address is required"))?;
    match inner {
        address::Address::SocketAddress(socket) => socket_host(at.field("socket_address"), socket),
        address::Address::Pipe(_) => Err(at.field("pipe").refuse("Unix domain sockets are not supported")),
        address::Address::EnvoyInternalAddress(_) => {
            Err(at.field("envoy_internal_address").refuse("internal listeners are not supported"))
        }
    }
}

/// The address of a socket, or a name to resolve.
pub(super) fn socket_host(at: Place<'_>, value: &core::SocketAddress) -> Outcome<Host> {
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = value;
    if *protocol != socket_address::Protocol::Tcp as i32 {
        return Err(at.field("protocol").refuse("only TCP is supported"));
    }
    refused!(at, "named resolvers are not supported"; resolver_name);
    refused!(at, "network namespaces are not supported"; network_namespace_filepath);
    ignored!(at; ipv4_compat);
    let port = match port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| at.field("port_value").refuse("a port is at most 65535"))?
        }
        Some(socket_address::PortSpecifier::NamedPort(_)) => {
            return Err(at.field("named_port").refuse("named ports are not supported; write the number"));
        }
        None => 0,
    };
    Ok(match address.parse::<IpAddr>() {
        Ok(ip) => Host::Socket(SocketAddr::new(ip, port)),
        Err(_) if address.is_empty() => return Err(at.field("address").refuse("an address is required")),
        Err(_) => Host::Name(address.clone(), port),
    })
}

/// The address of a socket, where names are not allowed.
pub(super) fn socket(at: Place<'_>, value: Option<&core::Address>) -> Outcome<SocketAddr> {
    match host(at, value)? {
        Host::Socket(socket) => Ok(socket),
        Host::Name(name, _) => Err(at.refuse(format_args!("{name:?} is not an IP address"))),
    }
}

/// A range of addresses.
pub(super) fn cidr(at: Place<'_>, value: &core::CidrRange) -> Outcome<IpNet> {
    let core::CidrRange { address_prefix, prefix_len } = value;
    let address: IpAddr = address_prefix
        .parse()
        .map_err(|_| at.field("address_prefix").refuse(format_args!("{address_prefix:?} is not an IP address")))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = number(prefix_len.as_ref()).unwrap_or(0);
    let length = u8::try_from(length)
        .ok()
        .filter(|length| *length <= longest)
        .ok_or_else(|| at.field("prefix_len").refuse(format_args!("at most {longest} for {address}")))?;
    IpNet::new(address, length).map(|net| net.trunc()).map_err(|error| at.refuse(error))
}

/// Where a dependent resource comes from: only the stream that the resource itself came by. Returns how long it is waited for;
/// `None` for without limit.
pub(super) fn from_same_stream(at: Place<'_>, source: Option<&ConfigSource>) -> Outcome<Option<Duration>> {
    let source = source.ok_or_else(|| at.refuse("a configuration source is required; use ads"))?;
    let ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } = source;
    refused!(at, "authorities are not supported"; authorities);
    inert!(resource_api_version);
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => {}
        _ => return Err(at.refuse("only resources of the same stream are supported; use ads")),
    }
    timeout(at.field("initial_fetch_timeout"), initial_fetch_timeout.as_ref(), Some(Duration::from_secs(15)))
}

/// Bytes that are in the configuration itself.
pub(super) fn inline_data(at: Place<'_>, source: &core::DataSource) -> Outcome<Vec<u8>> {
    let core::DataSource { watched_directory, specifier } = source;
    ignored!(at; watched_directory);
    match specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(data_source::Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(data_source::Specifier::Filename(_) | data_source::Specifier::EnvironmentVariable(_)) => {
            Err(at.refuse("only inline data is supported; use inline_string"))
        }
        None => Ok(Vec::new()),
    }
}

/// Takes a message out of its envelope.
pub(super) fn unpack<M: Message + Name + Default>(at: Place<'_>, any: &Any) -> Outcome<M> {
    xebec_proto::any::unpack(any).map_err(|error| at.refuse(error))
}
