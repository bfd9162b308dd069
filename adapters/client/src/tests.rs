#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::{Client, ClientError, Endpoint, Options, TlsFiles, TokenSource, json};

const WAIT: Duration = Duration::from_secs(1);

/// Reads one request's head; `None` at the end.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

/// A server that answers every request with what `answer` makes of its head, and closes.
async fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                if let Some(head) = head(&mut stream).await {
                    stream.write_all(&answer(&head)).await.unwrap();
                }
            });
        }
    });
    address
}

fn reply(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

fn client(address: &str) -> Client {
    client_with(address, Options::default())
}

fn client_with(address: &str, options: Options) -> Client {
    Client::new(Endpoint { address: address.to_owned(), ..Endpoint::default() }, "X-Consul-Token", options).unwrap()
}

async fn failure(answer: &'static str) -> ClientError {
    let address = server(move |_| answer.as_bytes().to_vec()).await;
    client(&address).get("/v1/catalog/services?stale", WAIT).await.unwrap_err()
}

#[tokio::test]
async fn refusals_say_what_they_are_and_how_long_to_wait() {
    let error = failure("HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\n\r\nPermission denied").await;
    assert!(error.is_permission() && !error.is_throttled(), "{error:?}");
    assert_eq!(
        error.to_string(),
        "/v1/catalog/services: the token's permissions do not suffice (HTTP 403: Permission denied)"
    );
    let error = failure("HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
    assert!(error.is_throttled());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let error = failure("HTTP/1.1 429 Slow\r\nretry-after: 99999999\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
    let error = failure("HTTP/1.1 500 Oops\r\ncontent-length: 12\r\n\r\nNo\x1b[31m\nheap").await;
    assert!(matches!(&error, ClientError::Status { code: 500, body_start, .. } if body_start == "No [31m heap"));
}

#[tokio::test]
async fn a_redirect_is_refused_and_not_followed() {
    let error = failure("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await;
    assert!(matches!(error, ClientError::Status { code: 302, .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    let error = failure("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}").await;
    assert!(matches!(error, ClientError::Cut { .. }) && error.is_disconnect(), "{error:?}");
    let error = failure("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n").await;
    assert!(matches!(error, ClientError::Cut { .. }), "{error:?}");
    let error = failure("HTTP/0.0 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(matches!(&error, ClientError::Protocol { problem, .. } if problem.contains("version")), "{error:?}");
}

#[tokio::test]
async fn text_that_is_not_the_expected_json_names_the_path() {
    for body in ["{\"a\": [", "<html>", "", "[]"] {
        let address = server(move |_| reply("200 OK", body)).await;
        let answer = client(&address).get("/v1/x?index=1", WAIT).await.unwrap();
        let error = json::<std::collections::BTreeMap<String, Vec<String>>>(&answer).unwrap_err();
        assert!(matches!(&error, ClientError::NotJson { path, .. } if path == "/v1/x"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_the_wait_and_some_patience() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let options = Options { patience: Duration::from_millis(100), ..Options::default() };
    let client = Client::new(Endpoint { address, ..Endpoint::default() }, "X-Token", options).unwrap();
    let start = Instant::now();
    let error = client.get("/v1/x", Duration::from_millis(320)).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() >= Duration::from_millis(440), "it was left while the server might still answer");
    // Within an answer too.
    let stuck = server(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[".to_vec()).await;
    let client = client_with(&stuck, Options { patience: Duration::from_millis(100), ..Options::default() });
    let error = client.get("/v1/x", WAIT).await.unwrap_err();
    assert!(error.is_disconnect(), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_trickles_is_left_and_one_that_flows_is_read_for_as_long_as_it_takes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let piece = if head(&mut stream).await.unwrap().contains("/trickle") { 1 } else { 32 << 10 };
                let whole = 30 * piece;
                let start = format!("HTTP/1.1 200 OK\r\ncontent-length: {whole}\r\n\r\n");
                stream.write_all(start.as_bytes()).await.unwrap();
                for _ in 0..30 {
                    if stream.write_all(&vec![b'x'; piece]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
            });
        }
    });
    let client = client_with(&address, Options { patience: Duration::from_millis(300), ..Options::default() });
    let error = client.get("/trickle", WAIT).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert_eq!(client.get("/flow", WAIT).await.unwrap().body.len(), 30 * (32 << 10));
}

#[test]
fn what_a_server_writes_into_a_problem_is_short_and_harmless() {
    #[derive(Debug, serde::Deserialize)]
    enum Known {
        One,
    }
    let _ = Known::One;
    let body = "y".repeat(1 << 20);
    let answer = crate::Answer {
        headers: http::HeaderMap::new(),
        // An enum's error repeats the server's word as it is.
        body: format!("\"\\u001b]0;{body}\"").into(),
        path: "/v1/x".into(),
    };
    let text = json::<Known>(&answer).unwrap_err().to_string();
    assert!(text.len() < 500 && !text.contains(char::is_control) && text.contains("yyy..."), "{text}");
}

#[tokio::test]
async fn nobody_listening_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&address).get("/v1/x", WAIT).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot connect to {address}: ")), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read_whether_it_is_declared_or_not() {
    let limit = |address: String| {
        let options = Options { body_limit: 1000, ..Options::default() };
        Client::new(Endpoint { address, ..Endpoint::default() }, "X-Token", options).unwrap()
    };
    let declared = server(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".to_vec()).await;
    let error = limit(declared).get("/v1/x", WAIT).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { limit: 1000, .. }), "{error:?}");
    let endless = server(|_| {
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
            format!("190\r\n{}\r\n", "x".repeat(400)).repeat(9)
        )
        .into()
    })
    .await;
    let error = limit(endless.clone()).get("/v1/x", WAIT).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { limit: 1000, .. }), "{error:?}");
    let error = limit(endless).lines("/v1/x", WAIT).await.unwrap().next().await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { limit: 1000, .. }), "{error:?}");
}

#[tokio::test]
async fn lines_come_one_by_one_and_a_broken_last_one_is_an_error() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n7\r\n:1}\n{}\n\r\n";
    let whole = server(move |_| format!("{chunks}0\r\n\r\n").into()).await;
    let mut lines = client(&whole).lines("/v1/event/stream", WAIT).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "{\"a\":1}");
    assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
    assert_eq!(lines.next().await.unwrap(), None);
    for rest in ["3\r\n{\"b\r\n0\r\n\r\n", "3\r\n{\"b\r\n", ""] {
        let cut = server(move |_| format!("{chunks}{rest}").into()).await;
        let mut lines = client(&cut).lines("/v1/event/stream", WAIT).await.unwrap();
        assert!(lines.next().await.unwrap().is_some() && lines.next().await.unwrap().is_some());
        assert!(matches!(lines.next().await.unwrap_err(), ClientError::Cut { .. }), "{rest:?}");
        assert_eq!(lines.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_silent_stream_is_an_error_after_its_idle_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let _server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut lines = client(&address).lines("/v1/event/stream", Duration::from_millis(50)).await.unwrap();
    assert!(lines.next().await.unwrap().is_some());
    assert!(matches!(lines.next().await.unwrap_err(), ClientError::TimedOut { .. }));
}

#[tokio::test]
async fn a_token_is_read_again_when_it_changes_and_never_shown() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("token");
    let address = server(|head| {
        let token = head.lines().find_map(|line| line.strip_prefix("x-consul-token: ")).unwrap_or("none").to_owned();
        if token == "secret-2" { reply("200 OK", "{}") } else { reply("403 Forbidden", "ACL not found") }
    })
    .await;
    let endpoint = Endpoint { address, token: TokenSource::File(path.clone()), ..Endpoint::default() };
    let client = Client::new(endpoint, "X-Consul-Token", Options::default()).unwrap();
    for (content, problem) in [(None, "cannot be read"), (Some(" \n"), "is empty"), (Some("a b"), "something else")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = client.get("/v1/x", WAIT).await.unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains(path.to_str().unwrap()), "{error}");
    }
    std::fs::write(&path, "secret-1\n").unwrap();
    let error = client.get("/v1/x", WAIT).await.unwrap_err();
    assert!(error.is_permission(), "{error}");
    std::fs::write(&path, "secret-2\n").unwrap();
    client.get("/v1/x", WAIT).await.unwrap();
    for text in [format!("{client:?}"), format!("{error:?} {error}")] {
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn addresses_and_settings_that_cannot_be_right_are_refused_without_repeating_secrets() {
    let problem = |address: &str, tls: TlsFiles| {
        let endpoint = Endpoint { address: address.to_owned(), tls, ..Endpoint::default() };
        Client::new(endpoint, "X-Token", Options::default()).unwrap_err().to_string()
    };
    for (address, expected) in [
        ("http://me:hunter2@host:8500", "credentials"),
        ("ftp://host", "neither http nor https"),
        ("http://host:8500/path", "something after the port"),
        ("http://", "no URL"),
        ("127.0.0.1:8500", "no URL"),
        ("", "no URL"),
    ] {
        let text = problem(address, TlsFiles::default());
        assert!(text.contains(expected) && !text.contains("hunter2"), "{address}: {text}");
    }
    let cert = TlsFiles { cert: Some("/c.pem".into()), ..TlsFiles::default() };
    assert!(problem("https://host:1", cert.clone()).contains("set together"));
    assert!(problem("http://host:1", cert).contains("only https"));
    let missing = TlsFiles { ca: Some("/nowhere/ca.pem".into()), ..TlsFiles::default() };
    assert!(problem("https://host:1", missing).contains("/nowhere/ca.pem cannot be read"));
    let name = TlsFiles { server_name: Some("10.0.0.1".into()), ..TlsFiles::default() };
    assert!(problem("https://host:1", name).contains("DNS name"));
}

// What is needed for TLS.

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (cert, key)
    }

    fn write_client(&self, home: &Path) {
        let (cert, key) = self.issue("client");
        std::fs::write(home.join("client.pem"), cert.pem()).unwrap();
        std::fs::write(home.join("client.key"), key.serialize_pem()).unwrap();
    }

    fn write_ca(&self, home: &Path) {
        std::fs::write(home.join("ca.pem"), self.issuer.pem()).unwrap();
    }

    /// A server's side of TLS that wants clients of `clients`.
    fn acceptor(&self, name: &str, clients: &Authority, protocol: &str) -> TlsAcceptor {
        let (cert, key) = self.issue(name);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.issuer.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from(cert.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

fn files(home: &Path, server_name: Option<&str>) -> TlsFiles {
    TlsFiles {
        ca: Some(home.join("ca.pem")),
        cert: Some(home.join("client.pem")),
        key: Some(home.join("client.key")),
        server_name: server_name.map(str::to_owned),
    }
}

async fn serve_once(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some(_head) = head(&mut stream).await {
        let _ = stream.write_all(&reply("200 OK", "{}")).await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test]
async fn certificates_are_renewed_without_a_restart_and_a_bad_file_keeps_the_last_good_ones() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    old.write_ca(home.path());
    old.write_client(home.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (set, acceptor) = tokio::sync::watch::channel(old.acceptor("server.dc1.consul", &old, "http/1.1"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.borrow().clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve_once(stream).await;
                }
            });
        }
    });
    // The address is an IP that the certificate does not have.
    let tls = files(home.path(), Some("server.dc1.consul"));
    let endpoint = Endpoint { address: address.clone(), tls, ..Endpoint::default() };
    let client = Client::new(endpoint, "X-Token", Options::default()).unwrap();
    client.get("/v1/x", WAIT).await.unwrap();

    let other =
        Endpoint { address: address.clone(), tls: files(home.path(), Some("other.consul")), ..Endpoint::default() };
    let error = Client::new(other, "X-Token", Options::default()).unwrap().get("/v1/x", WAIT).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Connect { address: a, problem } if *a == address && problem.contains("certificate")),
        "{error}"
    );

    std::fs::write(home.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    let until = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < until {
        client.get("/v1/x", WAIT).await.expect("a half-written file changes nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    set.send(new.acceptor("server.dc1.consul", &new, "http/1.1")).unwrap();
    let error = client.get("/v1/x", WAIT).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    new.write_ca(home.path());
    new.write_client(home.path());
    let start = Instant::now();
    while let Err(error) = client.get("/v1/x", WAIT).await {
        assert!(start.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn more_requests_than_a_connection_carries_open_another_one() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write_ca(home.path());
    authority.write_client(home.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = authority.acceptor("127.0.0.1", &authority, "h2");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                // The server's settings, and then no answer to anything.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    let endpoint = Endpoint { address, tls: files(home.path(), None), ..Endpoint::default() };
    let client = Client::new(endpoint, "X-Token", Options { pool: 3, ..Options::default() }).unwrap();
    let mut tasks = Vec::new();
    for _ in 0..500 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move { client.get("/v1/x", Duration::from_secs(60)).await.map(drop) }));
    }
    let start = Instant::now();
    while connections.load(Ordering::Relaxed) < 3 {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", connections.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for task in tasks {
        task.abort();
    }
}
