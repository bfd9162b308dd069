//! HTTP/1.1 to upstreams.
//!
//! The request's own task writes to the socket and reads from it: no second task, no channels, and it is known exactly
//! whether a byte of the response was seen (which decides about retries). Parsing is `httparse`, as in hyper.
//!
//! NEVER: a connection goes back to its pool with unread bytes, with an unfinished request, after `close`, or after
//! somebody asked for an upgrade on it.

use super::body::{BodyError, RequestBody};
use super::pool::{ConnectionGuard, HostPool};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

const MAX_HEADERS: usize = 128;
/// Head of a response at most.
const MAX_HEAD: usize = 256 * 1024;
/// Bytes waiting for the socket before the client's body is asked for more.
const WRITE_AHEAD: usize = 32 * 1024;

/// A pooled connection.
pub(super) struct Connection {
    tcp: TcpStream,
    read: BytesMut,
    write: BytesMut,
    pub guard: ConnectionGuard,
    /// Requests that were sent on it.
    pub served: u32,
}

/// A request under way.
pub(super) struct Exchange {
    conn: Box<Connection>,
    body: RequestBody,
    chunked: bool,
    /// A byte of the request is with the kernel.
    started: bool,
    /// The request is sent completely.
    sent: bool,
    write_failed: bool,
    head_request: bool,
    upgrade: bool,
    pool: Rc<HostPool>,
    saw_bytes: bool,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The upstream closed or reset the connection; `silent`: before any byte of a response.
    Closed { silent: bool },
    /// The answer is not HTTP/1.
    Protocol(&'static str),
    /// The client's body failed.
    Client(BodyError),
}

/// The head of a response.
pub(super) struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// How the request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// By the length that the client told.
    Length,
    Chunked,
    /// There is no body, whatever length the client told: the upstream must not wait for one, or it would take the
    /// connection's next request for it.
    Nothing,
}

/// What follows the head.
pub(super) enum Answer {
    Body(Box<ResponseBody>),
    Empty,
    /// 101: the connection is the caller's.
    Upgraded(TcpStream, Bytes, ConnectionGuard),
}

pub(super) struct ResponseBody {
    exchange: Option<Exchange>,
    decoder: Decoder,
    reusable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoder {
    Done,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
}

/// What the request line and the framing need.
pub(super) struct RequestHead<'a> {
    pub method: &'a http::Method,
    pub path: &'a str,
    pub authority: &'a [u8],
    pub headers: &'a HeaderMap,
    pub upgrade: bool,
    /// Replaces or adds `x-envoy-attempt-count`.
    pub attempt: Option<u32>,
}

// === impl Connection ===

impl Connection {
    pub fn new(tcp: TcpStream, guard: ConnectionGuard) -> Box<Self> {
        Box::new(Self { tcp, read: BytesMut::new(), write: BytesMut::with_capacity(1024), guard, served: 0 })
    }

    /// Whether the connection can take a request: nothing was sent by the peer, not even an end.
    ///
    /// Costs no system call while the socket is quiet, because the runtime knows that it is not readable.
    pub fn is_usable(&self) -> bool {
        let mut byte = [0u8; 1];
        matches!(self.tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Starts a request.
    pub fn start(mut self: Box<Self>, head: &RequestHead<'_>, body: RequestBody, pool: Rc<HostPool>) -> Exchange {
        self.served += 1;
        let length = head.headers.get(CONTENT_LENGTH);
        let framing = match length {
            Some(length) if !body.is_empty() || length == "0" => Sent::Length,
            _ if body.is_empty() => Sent::Nothing,
            _ => Sent::Chunked,
        };
        encode(&mut self.write, head, framing);
        self.guard.sent(self.write.len());
        Exchange {
            conn: self,
            body,
            chunked: framing == Sent::Chunked,
            started: false,
            sent: false,
            write_failed: false,
            head_request: head.method == http::Method::HEAD,
            upgrade: head.upgrade,
            pool,
            saw_bytes: false,
        }
    }
}

fn encode(out: &mut BytesMut, head: &RequestHead<'_>, framing: Sent) {
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(head.authority);
    out.put_slice(b"\r\n");
    for (name, value) in head.headers {
        if name == HOST || (head.attempt.is_some() && name == "x-envoy-attempt-count") {
            continue;
        }
        if name == CONTENT_LENGTH && framing != Sent::Length {
            continue;
        }
        put_header(out, name, value);
    }
    if let Some(attempt) = head.attempt {
        out.put_slice(b"x-envoy-attempt-count: ");
        out.put_slice(attempt.to_string().as_bytes());
        out.put_slice(b"\r\n");
    }
    if framing == Sent::Chunked {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    } else if framing == Sent::Nothing
        && matches!(*head.method, http::Method::POST | http::Method::PUT | http::Method::PATCH)
    {
        out.put_slice(b"content-length: 0\r\n");
    }
    out.put_slice(b"\r\n");
}

fn put_header(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

// === impl Exchange ===

impl Exchange {
    /// Sends what can be sent. Ready when the whole request is with the kernel.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        while !self.sent && !self.write_failed {
            let mut waiting = false;
            if !self.body.is_empty() && self.conn.write.len() < WRITE_AHEAD {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.put_frame(frame);
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(ExchangeError::Client(error))),
                    Poll::Ready(None) => {
                        if self.chunked {
                            self.conn.write.put_slice(b"0\r\n\r\n");
                        }
                        self.body = RequestBody::Empty;
                    }
                    Poll::Pending => waiting = true,
                }
            }
            if self.conn.write.is_empty() {
                if waiting {
                    return Poll::Pending;
                }
                self.sent = self.body.is_empty();
                continue;
            }
            let conn = &mut *self.conn;
            match ready!(Pin::new(&mut conn.tcp).poll_write(cx, &conn.write)) {
                Ok(written) if written > 0 => {
                    conn.write.advance(written);
                    self.started = true;
                }
                // The answer may have arrived before the peer closed: reading decides.
                _ => self.write_failed = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn put_frame(&mut self, frame: Frame<Bytes>) {
        let out = &mut self.conn.write;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                self.conn.guard.sent(data.len());
                if self.chunked {
                    out.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
                }
                out.put_slice(&data);
                if self.chunked {
                    out.put_slice(b"\r\n");
                }
            }
            Err(_) => {
                // Trailers: an upstream that merged them into its headers would take them past everything that looks at headers. Envoy
                // does not forward them to HTTP/1 either, unless it is asked to.
                if self.chunked {
                    out.put_slice(b"0\r\n\r\n");
                    self.chunked = false;
                }
                self.body = RequestBody::Empty;
            }
        }
    }

    /// Whether the upstream may have got any part of the request.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// Drives the request and waits for the head of the final response.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Head, Framing), ExchangeError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if !self.conn.read.is_empty() {
                match parse_head(&mut self.conn.read, self.head_request) {
                    Ok(Some((head, framing))) => {
                        if head.status.is_informational()
                            && !(self.upgrade && head.status == StatusCode::SWITCHING_PROTOCOLS)
                        {
                            continue;
                        }
                        return Poll::Ready(Ok((head, framing)));
                    }
                    Ok(None) if self.conn.read.len() > MAX_HEAD => {
                        return Poll::Ready(Err(ExchangeError::Protocol("the response's head is too large")));
                    }
                    Ok(None) => {}
                    Err(why) => return Poll::Ready(Err(ExchangeError::Protocol(why))),
                }
            }
            match ready!(self.poll_read(cx, 8 * 1024)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(ExchangeError::Closed { silent: !self.saw_bytes })),
                Ok(_) => self.saw_bytes = true,
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        let conn = &mut *self.conn;
        conn.read.reserve(room);
        let filled = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut conn.tcp), cx, &mut conn.read))?;
        conn.guard.received(filled);
        Poll::Ready(Ok(filled))
    }

    /// Turns a finished head into what follows it.
    pub fn into_answer(self, status: StatusCode, framing: Framing) -> Answer {
        if self.upgrade && status == StatusCode::SWITCHING_PROTOCOLS {
            let Connection { tcp, read, guard, .. } = *self.conn;
            return Answer::Upgraded(tcp, read.freeze(), guard);
        }
        let mut body = ResponseBody { exchange: Some(self), decoder: framing.decoder, reusable: framing.keep_alive };
        if framing.decoder == Decoder::Done {
            body.finish();
            return Answer::Empty;
        }
        Answer::Body(Box::new(body))
    }
}

/// How the response is framed.
pub(super) struct Framing {
    decoder: Decoder,
    keep_alive: bool,
}

/// A head, if it is complete; it is taken out of `buffer`.
fn parse_head(buffer: &mut BytesMut, head_request: bool) -> Result<Option<(Head, Framing)>, &'static str> {
    let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_HEADERS];
    let mut spans = [(0u32, 0u32, 0u32, 0u32); MAX_HEADERS];
    let base = buffer.as_ptr() as usize;
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut slots);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("the response's head is malformed"),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("the status is out of range")?;
    let http_10 = response.version == Some(0);
    let count = response.headers.len();
    for (span, header) in spans.iter_mut().zip(response.headers.iter()) {
        let name = header.name.as_ptr() as usize - base;
        let value = header.value.as_ptr() as usize - base;
        *span = (name as u32, header.name.len() as u32, value as u32, header.value.len() as u32);
    }
    let head = buffer.split_to(length).freeze();
    // Room for what a proxy adds.
    let mut headers = HeaderMap::with_capacity(count + 4);
    for (name, name_length, value, value_length) in spans.into_iter().take(count) {
        let (name, value) = (name as usize, value as usize);
        let name = HeaderName::from_bytes(&head[name..name + name_length as usize])
            .map_err(|_| "a header's name is malformed")?;
        let value = HeaderValue::from_maybe_shared(head.slice(value..value + value_length as usize))
            .map_err(|_| "a header's value is malformed")?;
        headers.append(name, value);
    }
    let framing = framing(status, &mut headers, http_10, head_request)?;
    Ok(Some((Head { status, headers }, framing)))
}

fn framing(
    status: StatusCode,
    headers: &mut HeaderMap,
    http_10: bool,
    head_request: bool,
) -> Result<Framing, &'static str> {
    let says = |headers: &HeaderMap, token: &str| {
        headers.get_all(CONNECTION).iter().any(|value| {
            value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
        })
    };
    let keep_alive = if http_10 { says(headers, "keep-alive") } else { !says(headers, "close") };
    let chunked =
        headers.get_all(TRANSFER_ENCODING).iter().next_back().map(|value| value.to_str().is_ok_and(is_chunked));
    let decoder = if head_request || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        Decoder::Done
    } else if let Some(chunked) = chunked {
        // RFC 9112 6.3: with both, the transfer encoding counts and the length must not be passed on.
        headers.remove(CONTENT_LENGTH);
        if chunked { Decoder::ChunkSize } else { Decoder::UntilClose }
    } else {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        match lengths.next() {
            None => Decoder::UntilClose,
            Some(first) => {
                if lengths.any(|other| other != first) {
                    return Err("content-length is contradictory");
                }
                let text = first.to_str().map_err(|_| "content-length is not a number")?;
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err("content-length is not a number");
                }
                match text.parse::<u64>().map_err(|_| "content-length is out of range")? {
                    0 => Decoder::Done,
                    length => Decoder::Length(length),
                }
            }
        }
    };
    Ok(Framing { decoder, keep_alive: keep_alive && decoder != Decoder::UntilClose })
}

/// Whether the last transfer coding is `chunked`.
fn is_chunked(codings: &str) -> bool {
    codings.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
}

// === impl ResponseBody ===

impl ResponseBody {
    pub fn is_end(&self) -> bool {
        self.decoder == Decoder::Done
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::Done => SizeHint::with_exact(0),
            Decoder::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }

    /// Gives the connection back, or drops it.
    fn finish(&mut self) {
        self.decoder = Decoder::Done;
        if let Some(exchange) = self.exchange.take()
            && self.reusable
            && exchange.sent
            && !exchange.upgrade
            && exchange.conn.read.is_empty()
        {
            exchange.pool.put(exchange.conn);
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            // The rest of the request may still be on its way.
            if let Poll::Ready(Err(ExchangeError::Client(error))) = exchange.poll_send(cx) {
                return Poll::Ready(Some(Err(error)));
            }
            match decode(&mut self.decoder, &mut exchange.conn.read) {
                Err(why) => return Poll::Ready(Some(Err(BodyError::Upstream(why.into())))),
                Ok(Some(frame)) => {
                    if self.decoder == Decoder::Done {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) => {}
            }
            if self.decoder == Decoder::Done {
                self.finish();
                return Poll::Ready(None);
            }
            let room = match self.decoder {
                Decoder::Length(left) => left.clamp(4 * 1024, 64 * 1024) as usize,
                Decoder::ChunkData(left) => left.clamp(8 * 1024, 64 * 1024) as usize,
                _ => 8 * 1024,
            };
            match ready!(exchange.poll_read(cx, room)) {
                Ok(0) if self.decoder == Decoder::UntilClose => self.finish(),
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Upstream("the connection was closed".into())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Upstream(error.to_string())))),
            }
        }
    }
}

/// The next frame in `buffer`, or `None` when more bytes are needed or the body is over.
fn decode(decoder: &mut Decoder, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, &'static str> {
    loop {
        match decoder {
            Decoder::Done => return Ok(None),
            _ if buffer.is_empty() => return Ok(None),
            Decoder::UntilClose => return Ok(Some(Frame::data(buffer.split().freeze()))),
            Decoder::Length(left) => {
                let take = (buffer.len() as u64).min(*left);
                *left -= take;
                if *left == 0 {
                    *decoder = Decoder::Done;
                }
                return Ok(Some(Frame::data(buffer.split_to(take as usize).freeze())));
            }
            Decoder::ChunkSize => match httparse::parse_chunk_size(buffer) {
                Ok(httparse::Status::Complete((length, 0))) => {
                    buffer.advance(length);
                    *decoder = Decoder::Trailers;
                }
                Ok(httparse::Status::Complete((length, size))) => {
                    buffer.advance(length);
                    *decoder = Decoder::ChunkData(size);
                }
                Ok(httparse::Status::Partial) if buffer.len() > 4096 => return Err("a chunk's size line is too long"),
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(_) => return Err("a chunk's size is malformed"),
            },
            Decoder::ChunkData(left) => {
                let take = (buffer.len() as u64).min(*left);
                *left -= take;
                if *left == 0 {
                    *decoder = Decoder::ChunkEnd;
                }
                let data = buffer.split_to(take as usize).freeze();
                // The end of a small body usually came along: seeing it now saves a round through the runtime.
                while *decoder == Decoder::ChunkEnd && buffer.len() >= 2 {
                    decode_chunk_end(decoder, buffer)?;
                    if buffer.starts_with(b"0\r\n\r\n") {
                        buffer.advance(5);
                        *decoder = Decoder::Done;
                    }
                }
                return Ok(Some(Frame::data(data)));
            }
            Decoder::ChunkEnd => {
                if buffer.len() < 2 {
                    return Ok(None);
                }
                decode_chunk_end(decoder, buffer)?;
            }
            Decoder::Trailers => {
                let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
                let (length, trailers) = match httparse::parse_headers(buffer, &mut slots) {
                    Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD => {
                        return Err("the trailers are too large");
                    }
                    Ok(httparse::Status::Partial) => return Ok(None),
                    Err(_) => return Err("the trailers are malformed"),
                    Ok(httparse::Status::Complete((length, headers))) => {
                        let mut trailers = HeaderMap::with_capacity(headers.len());
                        for header in headers {
                            let name = HeaderName::from_bytes(header.name.as_bytes())
                                .map_err(|_| "a trailer's name is malformed")?;
                            let value =
                                HeaderValue::from_bytes(header.value).map_err(|_| "a trailer's value is malformed")?;
                            trailers.append(name, value);
                        }
                        (length, trailers)
                    }
                };
                buffer.advance(length);
                *decoder = Decoder::Done;
                return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
            }
        }
    }
}

fn decode_chunk_end(decoder: &mut Decoder, buffer: &mut BytesMut) -> Result<(), &'static str> {
    if !buffer.starts_with(b"\r\n") {
        return Err("a chunk is longer than it says");
    }
    buffer.advance(2);
    *decoder = Decoder::ChunkSize;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn head(text: &str) -> Result<Option<(Head, Framing)>, &'static str> {
        parse_head(&mut BytesMut::from(text), false)
    }

    /// Decodes `bytes` fed in pieces of `step`: data, trailers, whether it ended.
    fn feed(mut decoder: Decoder, bytes: &[u8], step: usize) -> Result<(Vec<u8>, HeaderMap, bool), &'static str> {
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
        for piece in bytes.chunks(step) {
            buffer.put_slice(piece);
            while let Some(frame) = decode(&mut decoder, &mut buffer)? {
                match frame.into_data() {
                    Ok(part) => data.extend_from_slice(&part),
                    Err(frame) => trailers.extend(frame.into_trailers().unwrap()),
                }
            }
        }
        Ok((data, trailers, decoder == Decoder::Done && buffer.is_empty()))
    }

    #[test]
    fn a_response_head_is_read_once_it_is_complete() {
        assert!(head("HTTP/1.1 200 OK\r\ncontent-le").unwrap().is_none());
        let (head, framing) = head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello").unwrap().unwrap();
        assert_eq!((head.status.as_u16(), framing.decoder, framing.keep_alive), (200, Decoder::Length(5), true));
        assert_eq!(head.headers["x-a"], "b");
    }

    #[test]
    fn framing_follows_the_status_and_the_headers() {
        let decoder = |text: &str| head(text).unwrap().unwrap().1;
        assert_eq!(decoder("HTTP/1.1 204 No\r\n\r\n").decoder, Decoder::Done);
        assert_eq!(decoder("HTTP/1.1 304 No\r\ncontent-length: 9\r\n\r\n").decoder, Decoder::Done);
        let until_close = decoder("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((until_close.decoder, until_close.keep_alive), (Decoder::UntilClose, false));
        assert!(!decoder("HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n").keep_alive);
        assert!(!decoder("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").keep_alive);
        let (both, framing) =
            head("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!(framing.decoder, Decoder::ChunkSize);
        assert!(!both.headers.contains_key(CONTENT_LENGTH), "a smuggled length is not passed on");
        let coded = |coding: &str| decoder(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n")).decoder;
        assert_eq!((coded("gzip, Chunked"), coded("chunked")), (Decoder::ChunkSize, Decoder::ChunkSize));
        assert_eq!((coded("xchunked"), coded("chunked, gzip")), (Decoder::UntilClose, Decoder::UntilClose));
    }

    #[test]
    fn a_length_is_only_told_with_a_body_of_that_length() {
        let encoded = |method: http::Method, length: &'static str, framing| {
            let headers: HeaderMap = [(CONTENT_LENGTH, HeaderValue::from_static(length))].into_iter().collect();
            let head = RequestHead {
                method: &method,
                path: "/",
                authority: b"a",
                headers: &headers,
                upgrade: false,
                attempt: None,
            };
            let mut out = BytesMut::new();
            encode(&mut out, &head, framing);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert!(encoded(http::Method::POST, "5", Sent::Length).contains("content-length: 5\r\n"));
        assert!(!encoded(http::Method::GET, "5", Sent::Nothing).contains("content-length"));
        assert!(encoded(http::Method::POST, "5", Sent::Nothing).contains("content-length: 0\r\n"));
    }

    #[test]
    fn malformed_heads_are_refused() {
        assert!(head("garbage\r\n\r\n").is_err());
        assert!(head("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n").is_err());
        assert!(head("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_are_decoded_however_they_are_cut() {
        let wire = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n";
        let with_trailers = b"5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n";
        for step in 1..=wire.len() {
            let (data, _, done) = feed(Decoder::ChunkSize, wire, step).unwrap();
            assert_eq!((data.as_slice(), done), (&b"hello world"[..], true), "step {step}");
            let (data, trailers, done) = feed(Decoder::ChunkSize, with_trailers, step).unwrap();
            assert_eq!((data.as_slice(), done), (&b"hello"[..], true), "step {step}");
            assert_eq!(trailers["grpc-status"], "0");
        }
        assert!(feed(Decoder::ChunkSize, b"5\r\nhelloXX", 64).is_err());
        assert!(feed(Decoder::ChunkSize, b"zz\r\n", 64).is_err());
    }
}
