//! The life of a request until it is known where it goes: checks, identification, route, filters.

use super::body::ResponseBody;
use super::connection::Downstream;
use super::cors::{self, Verdict};
use super::flags::Flags;
use super::headers;
use super::record::Record;
use super::reply;
use super::router::{self, Found};
use super::worker::Held;
use crate::model::{Fault, HttpConnectionManager, PerRoute, Redirect, RequestView, Route, RouteAction, RouteMatch};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Instant;

/// Answers a request. Whatever goes wrong becomes a response.
pub(super) async fn handle(
    conn: Rc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let start = Instant::now();
    let (http, live) = conn.serving();
    let (head, body) = request.into_parts();
    let record = Record::new(conn, http, head, start);
    Ok(process(record, body, live).await)
}

async fn process(mut record: Box<Record>, body: Incoming, live: Rc<Held>) -> Response<ResponseBody> {
    let http = record.http.clone();
    let worker = record.conn.worker.clone();
    let upgrade = match prepare(&mut record, &http.config) {
        Ok(upgrade) => upgrade,
        Err(refusal) => {
            record.details = refusal.details.into();
            return reply::local(record, refusal.status, refusal.text);
        }
    };
    let Some(table) = live.routes(&http.config).cloned() else { return no_route(record) };
    let view = RequestView {
        method: record.head.method.as_str(),
        path_and_query: record.path(),
        authority: &record.authority,
        scheme: "http",
        headers: &record.head.headers,
    };
    let Some((host, route)) = table.find(&view, worker.random()) else { return no_route(record) };
    record.route_name = (!route.name.is_empty()).then(|| route.name.clone());
    if host.require_tls {
        let redirect = Redirect { scheme: Some("https".into()), status: 301, ..Redirect::default() };
        return redirect_to(record, &redirect, route);
    }
    let mut found = Found { table: &table, host, route, choice: None, cors: None };
    // The cluster is drawn before the filters run, as in Envoy: faults and CORS may depend on it.
    if let RouteAction::Forward(forward) = &route.action {
        found.choice = forward.target.pick(worker.random());
    }
    if let Some(own) = &http.fault
        && let Some(fault) = found.setting(|setting| setting.fault.as_ref()).or(Some(own))
    {
        match inject(&mut record, fault, found.choice.map(|(cluster, _)| &**cluster)).await {
            Injected::Nothing => {}
            Injected::Status(status) => return reply::local(record, status, "fault filter abort"),
            Injected::Grpc(code) => return reply::grpc(record, code, "fault filter abort"),
        }
    }
    if http.cors
        && let Some(policy) = found.setting(|setting| setting.cors.as_ref())
    {
        match cors::judge(policy, &record.head.method, &record.head.headers) {
            Verdict::Pass => {}
            Verdict::Preflight(headers) => return reply::with_headers(record, 200, headers, Bytes::new()),
            Verdict::Allow(headers) => found.cors = Some(headers),
        }
    }
    match &route.action {
        RouteAction::Forward(forward) => router::forward(record, body, &live, &found, forward, upgrade).await,
        RouteAction::Redirect(redirect) => {
            http.stats.at(worker.id).rq_redirect.inc();
            redirect_to(record, redirect, route)
        }
        RouteAction::Direct(direct) => {
            http.stats.at(worker.id).rq_direct_response.inc();
            record.details = "direct_response".into();
            let mut headers = HeaderMap::new();
            if !direct.body.is_empty() {
                headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            found.change_response(&mut headers, &record);
            reply::with_headers(record, direct.status, headers, direct.body.clone())
        }
        RouteAction::NonForwarding => {
            record.details = "direct_response".into();
            reply::local(record, 500, "")
        }
    }
}

fn no_route(mut record: Box<Record>) -> Response<ResponseBody> {
    record.http.stats.at(record.conn.worker.id).no_route.inc();
    record.flags.set(Flags::NO_ROUTE);
    record.details = "route_not_found".into();
    reply::local(record, 404, "")
}

/// Why a request is not served at all.
struct Refusal {
    status: u16,
    text: &'static str,
    details: &'static str,
}

/// Checks the request and makes its headers what a proxy sends on. Returns the upgrade that the client asks for.
/// Whether everybody who reads this request reads the same one (RFC 9112, sections 3.2 and 6.3). What two readers could take for two
/// different requests is refused, as Envoy does.
fn unambiguous(headers: &HeaderMap, path: &str) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    if let Some(host) = hosts.next() {
        if hosts.next().is_some() {
            return Err("duplicate_host_header");
        }
        if host.as_bytes().iter().any(|byte| *byte <= b' ' || matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'@')) {
            return Err("invalid_authority");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some() && (lengths.next().is_some() || headers.contains_key(TRANSFER_ENCODING)) {
        return Err("ambiguous_length");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err("unsupported_transfer_encoding");
    }
    if path.contains("%00") { Err("nul_in_path") } else { Ok(()) }
}

fn prepare(record: &mut Record, http: &HttpConnectionManager) -> Result<Option<OnUpgrade>, Refusal> {
    let refuse = |status, text, details| Err(Refusal { status, text, details });
    let old = record.head.version < Version::HTTP_11;
    if old && !http.accept_http_10 {
        return refuse(426, "Upgrade Required", "low_version");
    }
    if let Err(details) = unambiguous(&record.head.headers, record.original_path()) {
        return refuse(400, "Bad Request", details);
    }
    let authority = match record.head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => match record.head.headers.get(HOST).map(|value| value.to_str()) {
            Some(Ok(host)) => host,
            Some(Err(_)) => return refuse(400, "Bad Request", "invalid_authority"),
            None if old && !http.default_host.is_empty() => &http.default_host,
            None => return refuse(400, "Bad Request", "missing_host_header"),
        },
    };
    let authority = match authority.rsplit_once(':') {
        Some((host, port)) if http.strip_host_port && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    record.authority = authority.into();
    if http.normalize_path || http.merge_slashes {
        match headers::normalize(record.original_path(), http.normalize_path, http.merge_slashes) {
            Ok(path) => record.path = path.map(Into::into),
            Err(()) => return refuse(400, "Bad Request", "path_normalization_failed"),
        }
    }
    let mut upgrade = None;
    if let Some(wanted) = record.head.headers.get(UPGRADE) {
        let wanted = wanted.as_bytes();
        if http.upgrades.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(wanted)) {
            // What follows the head of an upgrade belongs to the new protocol. With a body in front of it, sidecar and
            // upstream could disagree about where the next request begins.
            let headers = &record.head.headers;
            if !headers::asks_to_upgrade(headers) {
                return refuse(400, "Bad Request", "upgrade_without_connection");
            }
            if headers.contains_key(TRANSFER_ENCODING)
                || headers.get_all(CONTENT_LENGTH).iter().any(|value| value != "0")
            {
                return refuse(400, "Bad Request", "upgrade_with_body");
            }
            upgrade = record.head.extensions.remove::<OnUpgrade>();
        } else if !wanted.eq_ignore_ascii_case(b"h2c") {
            return refuse(403, "", "upgrade_failed");
        }
    }
    if record.head.method == Method::CONNECT {
        return refuse(403, "", "upgrade_failed");
    }
    let map = &mut record.head.headers;
    headers::remove_hop_headers(map, upgrade.is_some());
    if map.contains_key(EXPECT) {
        // hyper answers `100 Continue` when the body is asked for.
        map.remove(EXPECT);
    }
    let worker = &record.conn.worker;
    headers::identify(http, map, record.conn.facts.source.ip(), &mut || worker.random());
    Ok(upgrade)
}

enum Injected {
    Nothing,
    Status(u16),
    Grpc(u32),
}

async fn inject(record: &mut Record, fault: &Fault, cluster: Option<&str>) -> Injected {
    let view = RequestView {
        method: record.head.method.as_str(),
        path_and_query: record.path(),
        authority: &record.authority,
        scheme: "http",
        headers: &record.head.headers,
    };
    let wanted = fault.headers.iter().all(|matcher| matcher.matches(&view))
        && fault.upstream_cluster.as_deref().is_none_or(|wanted| cluster == Some(wanted));
    if !wanted {
        return Injected::Nothing;
    }
    let worker = record.conn.worker.clone();
    if let Some(delay) = fault.delay.filter(|delay| delay.share.takes(worker.random())) {
        record.flags.set(Flags::DELAY_INJECTED);
        tokio::time::sleep(delay.duration).await;
    }
    if let Some(abort) = fault.abort.filter(|abort| abort.share.takes(worker.random())) {
        record.flags.set(Flags::FAULT_INJECTED);
        record.details = "fault_filter_abort".into();
        return match abort.grpc_status {
            Some(code) => Injected::Grpc(code),
            None => Injected::Status(abort.http_status),
        };
    }
    Injected::Nothing
}

fn redirect_to(mut record: Box<Record>, redirect: &Redirect, route: &Route) -> Response<ResponseBody> {
    record.details = "direct_response".into();
    let location = location(redirect, &route.matcher, record.path(), &record.authority);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&location) {
        headers.insert(LOCATION, value);
    }
    reply::with_headers(record, redirect.status, headers, Bytes::new())
}

/// The `location` of a redirect.
fn location(redirect: &Redirect, matcher: &RouteMatch, path: &str, authority: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (authority, ""),
    };
    // The port of another scheme or another host would be wrong.
    let keep_port = redirect.host.is_none() && (redirect.scheme.is_none() || !matches!(port, "80" | "443"));
    let mut out = format!("{scheme}://{}", redirect.host.as_deref().unwrap_or(host));
    match redirect.port {
        Some(port) if port > 0 => out.push_str(&format!(":{port}")),
        _ if keep_port && !port.is_empty() => out.push_str(&format!(":{port}")),
        _ => {}
    }
    let new = match &redirect.path {
        // A full path brings its own query, or keeps the request's.
        Some(crate::model::PathRewrite::Full(full)) if full.contains('?') => full.to_string(),
        Some(rewrite) => rewrite.apply(matcher, path),
        None => path.to_owned(),
    };
    let end = if redirect.strip_query { new.find('?').unwrap_or(new.len()) } else { new.len() };
    out.push_str(&new[..end]);
    out
}

// === impl Found ===

impl Found<'_> {
    /// The most specific filter setting.
    fn setting<'s, T>(&'s self, pick: impl Fn(&'s PerRoute) -> Option<&'s T>) -> Option<&'s T> {
        let choice = self.choice.and_then(|(_, weighted)| weighted).and_then(|weighted| pick(&weighted.per_route));
        choice
            .or_else(|| pick(&self.route.per_route))
            .or_else(|| pick(&self.host.per_route))
            .or_else(|| pick(&self.table.per_route))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::PathRewrite;

    #[test]
    fn redirects_keep_what_they_do_not_change() {
        let matcher = RouteMatch::prefix("/old");
        let to = |redirect: &Redirect| location(redirect, &matcher, "/old/a?q=1", "a.b:8080");
        let base = Redirect { status: 301, ..Redirect::default() };
        assert_eq!(to(&base), "http://a.b:8080/old/a?q=1");
        assert_eq!(
            to(&Redirect { scheme: Some("https".into()), port: Some(8443), ..base.clone() }),
            "https://a.b:8443/old/a?q=1"
        );
        assert_eq!(to(&Redirect { host: Some("c.d".into()), ..base.clone() }), "http://c.d/old/a?q=1");
        let prefix = Redirect { path: Some(PathRewrite::Prefix("/new".into())), strip_query: true, ..base.clone() };
        assert_eq!(to(&prefix), "http://a.b:8080/new/a");
        let full = Redirect { path: Some(PathRewrite::Full("/x?y=2".into())), ..base.clone() };
        assert_eq!(to(&full), "http://a.b:8080/x?y=2");
        let secure = Redirect { scheme: Some("https".into()), ..base };
        assert_eq!(location(&secure, &matcher, "/", "a.b:80"), "https://a.b/");
    }
}
