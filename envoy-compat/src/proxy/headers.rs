//! What a proxy does to headers and paths: cleaning, identification, configured changes.

use super::log::{Facts, render_header};
use super::record::Record;
use crate::model::{AppendAction, HeaderOps, HttpConnectionManager};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use std::net::IpAddr;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub(super) const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
pub(super) const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers that steer this proxy and that nobody outside may set.
const FOREIGN: [HeaderName; 15] = [
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-decorator-operation"),
];

/// Removes what concerns only one connection (RFC 9110, 7.6.1).
pub(super) fn remove_hop_headers(headers: &mut HeaderMap, keep_upgrade: bool) {
    if headers.contains_key(CONNECTION) {
        let plain = |value: &HeaderValue| {
            let text = value.as_bytes();
            text.eq_ignore_ascii_case(b"keep-alive") || text.eq_ignore_ascii_case(b"close")
        };
        if !headers.get_all(CONNECTION).iter().all(plain) {
            let named: Vec<HeaderName> = headers
                .get_all(CONNECTION)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|text| text.split(','))
                .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
                .filter(|name| !(keep_upgrade && *name == UPGRADE) && *name != HOST && *name != TE)
                .collect();
            for name in named {
                headers.remove(name);
            }
        }
        if !keep_upgrade {
            headers.remove(CONNECTION);
        }
    }
    if headers.contains_key(KEEP_ALIVE) {
        headers.remove(KEEP_ALIVE);
    }
    if headers.contains_key(PROXY_CONNECTION) {
        headers.remove(PROXY_CONNECTION);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(TRANSFER_ENCODING);
    }
    if !keep_upgrade && headers.contains_key(UPGRADE) {
        headers.remove(UPGRADE);
    }
    if let Some(value) = headers.get(TE) {
        let trailers = value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim() == "trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Writes `x-forwarded-*` and `x-request-id`, and cleans what an outside client may not set.
pub(super) fn identify(
    http: &HttpConnectionManager,
    headers: &mut HeaderMap,
    source: IpAddr,
    random: &mut dyn FnMut() -> u64,
) {
    // Only a connection that showed a certificate may speak of one, and plain text shows none.
    if headers.contains_key(&CLIENT_CERT) {
        headers.remove(&CLIENT_CERT);
    }
    // How long a request may take is for the route to say, not for whoever calls.
    for name in CALLERS_LIMITS {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
    if http.use_remote_address {
        for name in FOREIGN {
            if headers.contains_key(&name) {
                headers.remove(name);
            }
        }
        let address = source.to_string();
        if !http.skip_xff_append {
            append_forwarded_for(headers, &address);
        }
        if http.xff_num_trusted_hops == 0 {
            if let Ok(value) = HeaderValue::from_str(&address) {
                headers.insert(EXTERNAL_ADDRESS, value);
            }
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if http.generate_request_id {
        let keep = headers.contains_key(REQUEST_ID) && (!http.use_remote_address || http.preserve_external_request_id);
        if !keep {
            headers.insert(REQUEST_ID, request_id(random(), random()));
        }
    }
}

/// Headers in which a caller would say its own limits of time.
const CALLERS_LIMITS: [HeaderName; 2] = [
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
];

fn append_forwarded_for(headers: &mut HeaderMap, address: &str) {
    // All lines are one list: what a trusted proxy added in a line of its own must not get lost.
    let mut list: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    list.push(address.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list.join(&b',')) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Whether `Connection` asks for what `Upgrade` names (RFC 9110, section 7.8).
pub(super) fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    let words = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    words.map(str::trim).any(|word| word.eq_ignore_ascii_case("upgrade"))
}

/// A random UUID, version 4.
fn request_id(high: u64, low: u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for byte in bytes {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// Applies one level of changes to the request in `record`.
pub(super) fn change_request(ops: &HeaderOps, record: &mut Record) {
    if ops.is_empty() {
        return;
    }
    for name in &ops.remove {
        record.head.headers.remove(name);
    }
    for op in &ops.write {
        let value = match op.value.as_literal() {
            Some(text) => HeaderValue::from_str(text),
            None => {
                let mut text = Vec::new();
                let mut facts = Facts::of(record);
                facts.wall = std::time::SystemTime::now();
                render_header(&op.value, &facts, &mut text);
                HeaderValue::from_bytes(&text)
            }
        };
        let Ok(value) = value else { continue };
        if op.name == HOST {
            if let Ok(text) = value.to_str() {
                record.authority = text.into();
            }
            continue;
        }
        write(&mut record.head.headers, &op.name, op.action, value, op.keep_empty);
    }
}

/// Applies one level of changes to a response.
pub(super) fn change_response(ops: &HeaderOps, headers: &mut HeaderMap, record: &Record) {
    for name in &ops.remove {
        headers.remove(name);
    }
    for op in &ops.write {
        let value = match op.value.as_literal() {
            Some(text) => HeaderValue::from_str(text),
            None => {
                let mut text = Vec::new();
                let mut facts = Facts::of(record);
                facts.wall = std::time::SystemTime::now();
                facts.response = Some(headers);
                render_header(&op.value, &facts, &mut text);
                HeaderValue::from_bytes(&text)
            }
        };
        if let Ok(value) = value {
            write(headers, &op.name, op.action, value, op.keep_empty);
        }
    }
}

fn write(headers: &mut HeaderMap, name: &HeaderName, action: AppendAction, value: HeaderValue, keep_empty: bool) {
    if value.is_empty() && !keep_empty {
        return;
    }
    match action {
        AppendAction::AppendOrAdd => {
            headers.append(name, value);
        }
        AppendAction::AddIfAbsent => {
            headers.entry(name).or_insert(value);
        }
        AppendAction::OverwriteOrAdd => {
            headers.insert(name, value);
        }
        AppendAction::OverwriteIfExists => {
            if headers.contains_key(name) {
                headers.insert(name, value);
            }
        }
    }
}

/// Resolves dot segments and merges slashes, if asked. `None`: nothing to change; an error: the path climbs above
/// the root.
pub(super) fn normalize(path_and_query: &str, dots: bool, slashes: bool) -> Result<Option<String>, ()> {
    let end = path_and_query.find(['?', '#']).unwrap_or(path_and_query.len());
    let (path, tail) = path_and_query.split_at(end);
    let suspicious = (dots
        && (path.contains("/.") || path.contains('\\') || path.contains("%2") || path.contains("%5")))
        || (slashes && path.contains("//"));
    if !suspicious {
        return Ok(None);
    }
    let plain = if dots { path.replace('\\', "/").replace("%2e", ".").replace("%2E", ".") } else { path.to_owned() };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = plain.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if dots => {
                if last {
                    kept.push("");
                }
            }
            ".." if dots => {
                kept.pop().ok_or(())?;
                if last {
                    kept.push("");
                }
            }
            "" if slashes && !last => {}
            other => kept.push(other),
        }
    }
    Ok(Some(format!("/{}{tail}", kept.join("/"))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::RouteSource;

    fn map(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn hop_headers_and_those_they_name_are_removed() {
        let mut headers =
            map(&[("connection", "x-a, keep-alive"), ("x-a", "1"), ("te", "gzip, trailers"), ("x-b", "2")]);
        remove_hop_headers(&mut headers, false);
        assert_eq!(headers, map(&[("te", "trailers"), ("x-b", "2")]));
        let mut several = map(&[("connection", "close"), ("connection", "x-a"), ("x-a", "1"), ("x-b", "2")]);
        remove_hop_headers(&mut several, false);
        assert_eq!(several, map(&[("x-b", "2")]));
        let mut upgrade = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        remove_hop_headers(&mut upgrade, true);
        assert_eq!(upgrade.len(), 2);
        remove_hop_headers(&mut upgrade, false);
        assert!(upgrade.is_empty());
    }

    #[test]
    fn an_edge_proxy_trusts_nothing_and_an_inner_one_keeps_what_it_gets() {
        let mut http = HttpConnectionManager::new("p", RouteSource::Rds("r".into()));
        let incoming = [
            ("x-request-id", "mine"),
            ("x-envoy-max-retries", "9"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-client-cert", "URI=spiffe://forged"),
        ];
        let mut inner = map(&incoming);
        identify(&http, &mut inner, "2.2.2.2".parse().unwrap(), &mut || 7);
        assert!(!inner.contains_key("x-forwarded-client-cert"));
        assert_eq!(inner["x-request-id"], "mine");
        assert_eq!(inner["x-forwarded-for"], "1.1.1.1");
        assert_eq!(inner["x-forwarded-proto"], "http");
        http.use_remote_address = true;
        let mut edge = map(&incoming);
        identify(&http, &mut edge, "2.2.2.2".parse().unwrap(), &mut || 7);
        assert_ne!(edge["x-request-id"], "mine");
        assert_eq!(edge["x-forwarded-for"], "1.1.1.1,2.2.2.2");
        assert!(!edge.contains_key("x-envoy-max-retries"));
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = request_id(u64::MAX, 0);
        assert_eq!(id, "ffffffff-ffff-4fff-8000-000000000000");
    }

    #[test]
    fn paths_are_normalised() {
        let all = |path| normalize(path, true, true);
        assert_eq!(all("/a/b?x=/../"), Ok(None));
        assert_eq!(all("/a/../b/./c"), Ok(Some("/b/c".into())));
        assert_eq!(all("/a/%2e%2E/b?q"), Ok(Some("/b?q".into())));
        assert_eq!(all("/a/.."), Ok(Some("/".into())));
        assert_eq!(all("//a///b/"), Ok(Some("/a/b/".into())));
        assert_eq!(all("/../a"), Err(()));
        assert_eq!(normalize("/a//b", true, false), Ok(None));
    }

    #[test]
    fn written_headers_meet_existing_ones_as_told() {
        for (action, there, missing) in [
            (AppendAction::AppendOrAdd, 2, 1),
            (AppendAction::AddIfAbsent, 1, 1),
            (AppendAction::OverwriteOrAdd, 1, 1),
            (AppendAction::OverwriteIfExists, 1, 0),
        ] {
            let (mut full, mut empty) = (map(&[("x", "old")]), HeaderMap::new());
            let name = HeaderName::from_static("x");
            write(&mut full, &name, action, HeaderValue::from_static("new"), false);
            write(&mut empty, &name, action, HeaderValue::from_static("new"), false);
            assert_eq!((full.get_all("x").iter().count(), empty.len()), (there, missing), "{action:?}");
            let kept = full["x"] == "old";
            assert_eq!(kept, matches!(action, AppendAction::AppendOrAdd | AppendAction::AddIfAbsent));
        }
    }
}
