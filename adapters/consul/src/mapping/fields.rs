//! Single fields of a row.

use std::net::IpAddr;
use std::sync::Arc;

use xebec_pilot::model::{Address, Health, Labels, Locality};

use crate::settings::{LabelSource, LocalityMeta};
use crate::wire::{self, Check, Instance, Row, Weights};
use xebec_pilot::registry::quote;

/// Consul's own limit for the pairs of meta; tags have none.
const LABELS: usize = 64;
const KEY: usize = 128;
const VALUE: usize = 512;
const MOST_WEIGHT: u32 = 65_535;

/// Whether a text is a DNS label (RFC 1123).
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// 1 to 65535.
pub(super) fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// What an instance declares under this key: in its meta, else in a tag `key=value` or `key|value`.
pub(super) fn declared<'a>(instance: &'a Instance, key: &str) -> Option<&'a str> {
    instance.meta.get(key).map(String::as_str).or_else(|| {
        instance.tags.iter().filter_map(|tag| split(tag)).find_map(|(name, value)| (name == key).then_some(value))
    })
}

fn split(tag: &str) -> Option<(&str, &str)> {
    tag.split_once(['=', '|'])
}

/// Where an instance listens, with the port where the address has one of its own. The first address that is written counts: another
/// one may lead to somebody else. As in Consul's own answers about other datacenters, an instance with an address of its own is not
/// behind the outer address of its node.
pub(super) fn address(row: &Row, remote: bool) -> Result<(Address, Option<i64>), (&'static str, String)> {
    let tagged = |name: &str| row.service.tagged_addresses.get(name).map(|t| (t.address.as_str(), Some(t.port)));
    let node_tagged = |name: &str| row.node.tagged_addresses.get(name).map(|address| (address.as_str(), None));
    let service = Some((row.service.address.as_str(), None));
    let node = Some((row.node.address.as_str(), None));
    let order = if remote {
        [tagged("wan"), service, tagged("wan_ipv4"), tagged("wan_ipv6"), node_tagged("wan"), node]
    } else {
        [service, tagged("lan"), tagged("lan_ipv4"), tagged("lan_ipv6"), node, node_tagged("lan")]
    };
    let found = order.into_iter().flatten().find(|(address, _)| !address.is_empty());
    let Some((text, port)) = found else {
        return Err(("invalid_address", "it has no address".to_owned()));
    };
    let port = port.filter(|port| *port != 0);
    if let Ok(ip) = text.parse::<IpAddr>() {
        // A link-local address of IPv6 is one only together with its zone, which is the machine's own affair.
        let local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if ip.is_unspecified() || ip.is_multicast() || local {
            return Err(("invalid_address", format!("nobody can connect to {ip}")));
        }
        return Ok((Address::Ip(ip), port));
    }
    let name = text.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or_default();
    if name.len() <= 253 && name.split('.').all(is_label) && last.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        return Ok((Address::Dns(name.to_ascii_lowercase().into()), port));
    }
    Err(("invalid_address", format!("{} is neither an IP address nor a name", quote(text))))
}

/// The labels of an instance, and what of them was not taken.
pub(super) fn labels(sources: &[LabelSource], row: &Row) -> (Labels, Vec<String>) {
    let mut labels = Labels::new();
    let mut refused = Vec::new();
    for source in [LabelSource::Meta, LabelSource::Tags, LabelSource::NodeMeta] {
        if !sources.contains(&source) {
            continue;
        }
        match source {
            LabelSource::Meta => take(&mut labels, &mut refused, pairs(&row.service.meta)),
            LabelSource::Tags => {
                take(&mut labels, &mut refused, row.service.tags.iter().filter_map(|tag| split(tag)));
            }
            LabelSource::NodeMeta => take(&mut labels, &mut refused, pairs(&row.node.meta)),
        }
    }
    (labels, refused)
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Adds what is not there yet.
fn take<'a>(labels: &mut Labels, refused: &mut Vec<String>, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (key, value) in pairs.filter(|(key, _)| !key.starts_with("mesh-")) {
        let fine = (1..=KEY).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
            && value.len() <= VALUE
            && !value.chars().any(char::is_control);
        if !fine || (labels.len() >= LABELS && !labels.contains_key(key)) {
            // What is written may be megabytes; its beginning is enough.
            refused.push(key.chars().take(KEY).collect());
        } else if !labels.contains_key(key) {
            labels.insert(Arc::from(key), Arc::from(value));
        }
    }
}

/// Consul's own locality of the instance, of its node, then the keys of meta, then the datacenter as the region.
pub(super) fn locality(keys: &LocalityMeta, row: &Row) -> Locality {
    let own = [row.service.locality.as_ref(), row.node.locality.as_ref()];
    if let Some(wire::Locality { region, zone }) = own.into_iter().flatten().find(|l| !l.region.is_empty()) {
        return Locality { region: region.as_str().into(), zone: zone.as_str().into(), subzone: "".into() };
    }
    let meta = |key: &str| {
        let said = [&row.service.meta, &row.node.meta].into_iter().find_map(|meta| meta.get(key));
        said.map(String::as_str).filter(|value| !value.is_empty() && value.len() <= VALUE)
    };
    let region = meta(&keys.region).unwrap_or(&row.node.datacenter);
    Locality { region: region.into(), zone: meta(&keys.zone).unwrap_or_default().into(), subzone: "".into() }
}

/// Checks and weights: an instance in maintenance drains, one without weight in its state takes nothing new either.
pub(super) fn health(checks: &[Check], weights: Option<&Weights>, held: bool) -> (Health, u32) {
    let maintenance = |check: &Check| check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:");
    let any = |status: &str| checks.iter().any(|check| check.status == status);
    let default = Weights::default();
    let weights = weights.unwrap_or(&default);
    let (health, weight) = if checks.iter().any(maintenance) {
        (Health::Draining, weights.passing)
    } else if checks.iter().any(|check| !matches!(check.status.as_str(), "passing" | "warning")) || held {
        (Health::Unhealthy, weights.passing)
    } else if any("warning") {
        (Health::Degraded, weights.warning)
    } else {
        (Health::Healthy, weights.passing)
    };
    let health =
        if weight <= 0.0 && matches!(health, Health::Healthy | Health::Degraded) { Health::Draining } else { health };
    // A conversion from float saturates, and makes 0 of what is no number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let weight = weight.ceil() as u32;
    (health, weight.clamp(1, MOST_WEIGHT))
}

/// Better ones first.
pub(crate) fn rank(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Draining => 2,
        Health::Unhealthy => 3,
    }
}

/// The allocation, where Nomad registered the instance: its ids are `_nomad-task-ALLOCATION-...`. The same instance may come from Nomad too.
pub(super) fn allocation(id: &str) -> Option<&str> {
    let allocation = id.strip_prefix("_nomad-task-")?.get(..36)?;
    let uuid = allocation.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    uuid.then_some(allocation)
}
