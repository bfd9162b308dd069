//! What a route changes about a request and a response, and what it reads from the request: timeout, hash, destination.

use super::headers::{FORWARDED_HOST, ORIGINAL_PATH, change_request, change_response};
use super::record::Record;
use super::router::Found;
use super::upstream::LiveCluster;
use crate::model::{Forward, HashKey, HeaderOps, HostRewrite, RequestView};
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// The route's timeout, or what the client asks for.
pub(super) fn timeout(forward: &Forward, headers: &HeaderMap) -> Option<Duration> {
    if let Some(most) = forward.grpc_timeout_max
        && let Some(asked) = headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?))
    {
        return Some(if most.is_zero() { asked } else { asked.min(most) });
    }
    let asked =
        headers.get("x-envoy-upstream-rq-timeout-ms").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match asked {
        Some(0) => None,
        Some(millis) => Some(Duration::from_millis(millis)),
        None => forward.timeout.filter(|limit| !limit.is_zero()),
    }
}

/// gRPC's `TimeoutValue TimeoutUnit`.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The specification allows eight digits.
    let number: u64 = number.parse().ok().filter(|number| *number < 100_000_000)?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Header changes and rewrites, in Envoy's order.
pub(super) fn rewrite(record: &mut Record, found: &Found<'_>, forward: &Forward) {
    let weighted = found.choice.and_then(|(_, weighted)| weighted);
    let levels = [
        weighted.map(|weighted| &weighted.request_headers),
        Some(&found.route.request_headers),
        Some(&found.host.request_headers),
        Some(&found.table.request_headers),
    ];
    if found.table.most_specific_wins {
        levels.into_iter().rev().flatten().for_each(|ops| change_request(ops, record));
    } else {
        levels.into_iter().flatten().for_each(|ops| change_request(ops, record));
    }
    let host_rewrite = weighted.and_then(|weighted| weighted.host_rewrite.as_ref()).or(forward.host_rewrite.as_ref());
    if let Some(rewrite) = host_rewrite {
        let before = record.authority.clone();
        match rewrite {
            HostRewrite::Literal(name) => record.authority = name.clone(),
            HostRewrite::Header(key) => {
                let view = RequestView {
                    method: record.head.method.as_str(),
                    path_and_query: "",
                    authority: &before,
                    scheme: "http",
                    headers: &record.head.headers,
                };
                if let Some(value) = key.value(&view).filter(|value| !value.is_empty()) {
                    record.authority = value.as_ref().into();
                }
            }
            HostRewrite::Auto => {}
        }
        if forward.append_x_forwarded_host
            && record.authority != before
            && let Ok(value) = HeaderValue::from_str(&before)
        {
            record.head.headers.append(FORWARDED_HOST, value);
        }
    }
    if let Some(rewrite) = &forward.path_rewrite {
        let path = rewrite.apply(&found.route.matcher, record.path());
        if path != record.path() {
            if !record.http.suppress_envoy_headers
                && let Ok(value) = HeaderValue::from_str(record.path())
            {
                record.head.headers.insert(ORIGINAL_PATH, value);
            }
            record.path = Some(path.into());
        }
    }
}

/// What consistent hashing uses. The first policies count; a terminal one with a value ends the list.
pub(super) fn hash(forward: &Forward, record: &Record) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in &forward.hash {
        let headers = &record.head.headers;
        let value = match &policy.key {
            HashKey::Header(key) => {
                let view = RequestView {
                    method: record.head.method.as_str(),
                    path_and_query: record.path(),
                    authority: &record.authority,
                    scheme: "http",
                    headers,
                };
                key.value(&view).map(|value| xxhash_rust::xxh3::xxh3_64(value.as_bytes()))
            }
            HashKey::Cookie { name, .. } => {
                cookie(headers, name).map(|value| xxhash_rust::xxh3::xxh3_64(value.as_bytes()))
            }
            HashKey::SourceIp => Some(xxhash_rust::xxh3::xxh3_64(record.conn.facts.source.ip().to_string().as_bytes())),
            HashKey::Query(name) => {
                query(record.path(), name).map(|value| xxhash_rust::xxh3::xxh3_64(value.as_bytes()))
            }
        };
        if let Some(value) = value {
            hash = Some(hash.map_or(value, |before| before.rotate_left(1) ^ value));
            if policy.terminal {
                break;
            }
        }
    }
    hash
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn query<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

pub(super) fn destination(cluster: &LiveCluster, record: &Record) -> Option<std::net::SocketAddr> {
    let asked = cluster.config.use_original_dst_header.then(|| {
        let value = record.head.headers.get("x-envoy-original-dst-host")?;
        value.to_str().ok()?.parse().ok()
    });
    asked.flatten().or(Some(record.conn.facts.destination))
}

// === impl Found ===

impl Found<'_> {
    /// Applies the configured changes to a response.
    pub fn change_response(&self, headers: &mut HeaderMap, record: &Record) {
        let weighted = self.choice.and_then(|(_, weighted)| weighted).map(|weighted| &weighted.response_headers);
        let levels = [
            weighted,
            Some(&self.route.response_headers),
            Some(&self.host.response_headers),
            Some(&self.table.response_headers),
        ];
        let wanted = |ops: &&HeaderOps| !ops.is_empty();
        if self.table.most_specific_wins {
            levels.into_iter().rev().flatten().filter(wanted).for_each(|ops| change_response(ops, headers, record));
        } else {
            levels.into_iter().flatten().filter(wanted).for_each(|ops| change_response(ops, headers, record));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_in_all_units() {
        assert_eq!(grpc_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(grpc_timeout("150m"), Some(Duration::from_millis(150)));
        assert_eq!(grpc_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(grpc_timeout(""), None);
        assert_eq!(grpc_timeout("5x"), None);
        assert_eq!(grpc_timeout("ü"), None);
    }
}
