//! Looking at the first bytes of a connection: TLS ClientHello, HTTP/1 request line, HTTP/2 preface.
//!
//! The bytes are read into a buffer that goes on with the connection; nothing is consumed.

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Envoy's `max_client_hello_size`.
const MAX_HELLO: usize = 16 * 1024;
/// A request line longer than this is not HTTP.
const MAX_LINE: usize = 8 * 1024;
/// What HTTP/2 clients with prior knowledge send first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What was found out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sniffed {
    pub tls: bool,
    pub server_name: Box<str>,
    /// ALPN of the ClientHello, or the recognised plain-text protocol.
    pub protocols: Vec<Box<str>>,
}

/// One step of looking.
#[derive(Debug, PartialEq, Eq)]
enum Look<T> {
    More,
    Found(T),
    No,
}

/// Reads until it is known what the connection is. An error means that the peer went away.
pub(super) async fn inspect(
    tcp: &mut TcpStream,
    buffer: &mut BytesMut,
    tls: bool,
    http: bool,
) -> std::io::Result<Sniffed> {
    let mut found = Sniffed::default();
    let (mut tls, mut http) = (tls, http);
    while tls || http {
        if tls {
            match client_hello(buffer) {
                Look::More => {}
                Look::No => tls = false,
                Look::Found(hello) => return Ok(hello),
            }
        }
        if http && !tls {
            match http_protocol(buffer) {
                Look::More => {}
                Look::No => http = false,
                Look::Found(name) => {
                    found.protocols.push(name.into());
                    return Ok(found);
                }
            }
        }
        if (tls || http) && tcp.read_buf(buffer).await? == 0 {
            break;
        }
    }
    Ok(found)
}

/// Reads until it is known whether the client speaks HTTP/2.
pub(super) async fn is_http2(tcp: &mut TcpStream, buffer: &mut BytesMut) -> std::io::Result<bool> {
    loop {
        if buffer.len() >= PREFACE.len() {
            return Ok(buffer.starts_with(PREFACE));
        }
        if !PREFACE.starts_with(buffer) {
            return Ok(false);
        }
        if tcp.read_buf(buffer).await? == 0 {
            return Ok(false);
        }
    }
}

fn client_hello(buffer: &[u8]) -> Look<Sniffed> {
    // Record type "handshake", major version 3.
    match buffer {
        [] | [0x16] => return Look::More,
        [0x16, 3, ..] => {}
        _ => return Look::No,
    }
    let mut acceptor = Acceptor::default();
    let mut unread = buffer;
    while !unread.is_empty() {
        if acceptor.read_tls(&mut unread).is_err() {
            return Look::No;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned().into_boxed_str();
                return Look::Found(Sniffed {
                    tls: true,
                    server_name: hello.server_name().unwrap_or("").to_ascii_lowercase().into(),
                    protocols: hello.alpn().map(|names| names.map(text).collect()).unwrap_or_default(),
                });
            }
            Err(_) => return Look::No,
        }
    }
    if buffer.len() > MAX_HELLO { Look::No } else { Look::More }
}

fn http_protocol(buffer: &[u8]) -> Look<&'static str> {
    if PREFACE.starts_with(buffer) {
        return if buffer.len() == PREFACE.len() { Look::Found("h2c") } else { Look::More };
    }
    if buffer.starts_with(PREFACE) {
        return Look::Found("h2c");
    }
    let method =
        buffer.iter().take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'-' || **byte == b'_').count();
    if method == 0 || method > 32 || buffer.get(method).is_some_and(|byte| *byte != b' ') {
        return Look::No;
    }
    match buffer.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
            if line.ends_with(b" HTTP/1.1") {
                Look::Found("http/1.1")
            } else if line.ends_with(b" HTTP/1.0") {
                Look::Found("http/1.0")
            } else {
                Look::No
            }
        }
        None if buffer.len() > MAX_LINE => Look::No,
        None => Look::More,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// A minimal TLS 1.2 ClientHello with a server name and ALPN protocols.
    pub(in crate::proxy) fn hello(server_name: &str, protocols: &[&str]) -> Vec<u8> {
        fn sized(width: usize, body: &[u8]) -> Vec<u8> {
            let length = (body.len() as u32).to_be_bytes();
            [&length[4 - width..], body].concat()
        }
        fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
            [&kind.to_be_bytes()[..], &sized(2, body)].concat()
        }
        let name = [&[0u8][..], &sized(2, server_name.as_bytes())].concat();
        let alpn: Vec<u8> = protocols.iter().flat_map(|name| sized(1, name.as_bytes())).collect();
        let mut extensions = extension(0, &sized(2, &name));
        extensions.extend(extension(16, &sized(2, &alpn)));
        extensions.extend(extension(13, &sized(2, &[4, 3, 8, 4])));
        extensions.extend(extension(10, &sized(2, &[0, 29])));
        let body = [
            &[3u8, 3][..],
            &[7; 32],
            &sized(1, &[]),
            &sized(2, &[0xc0, 0x2f]),
            &sized(1, &[0]),
            &sized(2, &extensions),
        ]
        .concat();
        let handshake = [&[1u8][..], &sized(3, &body)].concat();
        [&[0x16u8, 3, 1][..], &sized(2, &handshake)].concat()
    }

    #[test]
    fn a_client_hello_yields_its_name_and_protocols_however_it_is_cut() {
        let bytes = hello("Some.Example", &["istio", "h2"]);
        let found = Look::Found(Sniffed {
            tls: true,
            server_name: "some.example".into(),
            protocols: vec!["istio".into(), "h2".into()],
        });
        assert_eq!(client_hello(&bytes), found);
        for end in 0..bytes.len() {
            assert_eq!(client_hello(&bytes[..end]), Look::More, "{end}");
        }
    }

    #[test]
    fn what_is_not_tls_is_recognised_at_once() {
        assert_eq!(client_hello(b"GET"), Look::No);
        assert_eq!(client_hello(&[0x16, 9]), Look::No);
        assert_eq!(client_hello(&[0x16, 3, 1, 0, 4, 9, 9, 9, 9]), Look::No);
    }

    #[test]
    fn http_is_recognised_by_its_first_line() {
        assert_eq!(http_protocol(b"GET /x HTTP/1.1\r\n"), Look::Found("http/1.1"));
        assert_eq!(http_protocol(b"GET /x HTTP/1.0\r\n"), Look::Found("http/1.0"));
        assert_eq!(http_protocol(b"GET /x"), Look::More);
        assert_eq!(http_protocol(&PREFACE[..10]), Look::More);
        assert_eq!(http_protocol(PREFACE), Look::Found("h2c"));
        assert_eq!(http_protocol(b"\x00\x01"), Look::No);
        assert_eq!(http_protocol(b"SSH-2.0-OpenSSH\r\n"), Look::No);
    }
}
