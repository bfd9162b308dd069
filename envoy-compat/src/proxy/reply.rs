//! Responses that the proxy writes itself, in Envoy's words and shapes.

use super::body::{Inner, ResponseBody};
use super::record::Record;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, SERVER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Answers with `status` and `text`; a gRPC client gets the same as a gRPC status.
pub(super) fn local(mut record: Box<Record>, status: u16, text: impl Into<Bytes>) -> Response<ResponseBody> {
    let text: Bytes = text.into();
    let grpc = is_grpc(&record.head.headers);
    if grpc {
        let mut response = grpc_status(grpc_code(status), &text);
        stamp(&mut record, response.headers_mut());
        record.status = 200;
        record.answered = true;
        return response.map(|_| ResponseBody::new(Inner::Empty, record, None));
    }
    let mut headers = HeaderMap::with_capacity(4);
    if !text.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    with_headers(record, status, headers, text)
}

/// Answers with these headers.
pub(super) fn with_headers(
    mut record: Box<Record>,
    status: u16,
    mut headers: HeaderMap,
    text: Bytes,
) -> Response<ResponseBody> {
    stamp(&mut record, &mut headers);
    record.status = status;
    record.answered = true;
    if record.http.log_response_headers {
        record.response_headers = Some(headers.clone());
    }
    let inner =
        if text.is_empty() || record.head.method == http::Method::HEAD { Inner::Empty } else { Inner::Full(text) };
    let mut response = Response::new(ResponseBody::new(inner, record, None));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// What every response of this connection manager carries.
fn stamp(record: &mut Record, headers: &mut HeaderMap) {
    headers.insert(SERVER, record.http.server.clone());
    if record.conn.control.draining.get() && !record.conn.h2 {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// A response without body that says `code`.
fn grpc_status(code: u32, text: &[u8]) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if !text.is_empty()
        && let Ok(value) = HeaderValue::from_str(&percent_encode(text))
    {
        headers.insert(GRPC_MESSAGE, value);
    }
    response
}

/// Answers a gRPC request with `code` (fault injection).
pub(super) fn grpc(mut record: Box<Record>, code: u32, text: &str) -> Response<ResponseBody> {
    let mut response = grpc_status(code, text.as_bytes());
    stamp(&mut record, response.headers_mut());
    record.status = 200;
    record.answered = true;
    response.map(|_| ResponseBody::new(Inner::Empty, record, None))
}

/// Whether the request is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
    })
}

/// gRPC's mapping of HTTP statuses.
fn grpc_code(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encode("a%b\nü".as_bytes()), "a%25b%0A%C3%BC");
    }
}
