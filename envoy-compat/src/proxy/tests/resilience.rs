//! Retries, timeouts, breakers, dead connections.

use super::fixture::*;
use crate::model::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn failed_answers_are_tried_again_up_to_the_limit() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    let mut host = VirtualHost::new("shop", ["*"], forward(|forward| forward.retry = retry("5xx", 2)));
    host.request_attempt_count = true;
    proxy.host(host);
    proxy.apply();
    let mut client = proxy.client().await;
    upstream.failures.store(2, Ordering::SeqCst);
    let reply = client.send(post("/echo", "kept")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "kept"), "the body is sent again");
    assert_eq!(upstream.count(), 3);
    assert_eq!(upstream.last("x-envoy-attempt-count").as_deref(), Some("3"));
    upstream.failures.store(3, Ordering::SeqCst);
    assert_eq!(client.get("/").await.status, 503);
    let lines = proxy.log_lines(2).await;
    assert!(lines[1].contains(" 503 URX "), "{}", lines[1]);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_retry"), 4);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_retry_success"), 1);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_retry_limit_exceeded"), 1);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_total"), 6);
    assert_eq!(proxy.stat("http.in.downstream_rq_total"), 2);
}

#[tokio::test]
async fn a_retry_is_not_counted_twice_by_the_request_limit() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("c", &[upstream.address], |cluster| cluster.breakers.max_requests = 1);
    proxy.routes(forward(|forward| forward.retry = retry("5xx", 1)));
    proxy.apply();
    upstream.failures.store(1, Ordering::SeqCst);
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_pending_overflow"), 0);
}

#[tokio::test]
async fn the_retry_limit_counts_retries_until_they_are_answered() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("c", &[upstream.address], |cluster| cluster.breakers.max_retries = 1);
    proxy.routes(forward(|forward| forward.retry = retry("5xx", 2)));
    proxy.apply();
    let address = proxy.address("http");
    upstream.failures.store(1, Ordering::SeqCst);
    let slow = tokio::spawn(async move { Client::h1(address).await.get("/slow").await });
    eventually(|| upstream.count() == 2).await;
    let mut client = proxy.client().await;
    upstream.failures.store(1, Ordering::SeqCst);
    assert_eq!(client.get("/").await.status, 503, "the only retry is under way");
    assert_eq!(proxy.stat("cluster.c.upstream_rq_retry_overflow"), 1);
    slow.abort();
    proxy.until(|stats| stats.get("cluster.c.upstream_rq_active") == Some(0)).await;
    upstream.failures.store(2, Ordering::SeqCst);
    assert_eq!(client.get("/").await.status, 200, "a second retry of a request replaces its first");
}

#[tokio::test]
async fn no_retry_starts_after_the_routes_time() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.routes(forward(|forward| {
        // Drawn from a time so long that the pause cannot be a short one.
        let pause = Duration::from_secs(1_000_000);
        let policy = retry("5xx", 1).unwrap();
        forward.retry = Some(Arc::new(RetryPolicy { base_interval: pause, max_interval: pause, ..(*policy).clone() }));
        forward.timeout = Some(Duration::from_millis(50));
    }));
    proxy.apply();
    upstream.failures.store(1, Ordering::SeqCst);
    let reply = proxy.client().await.get("/").await;
    assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"));
    assert_eq!(upstream.count(), 1);
    assert!(proxy.log_lines(1).await[0].contains(" 504 UT "));
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_streamed_and_not_tried_again() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.routes(forward(|forward| forward.retry = retry("5xx", 2)));
    proxy.apply();
    upstream.failures.store(1, Ordering::SeqCst);
    let reply = proxy.client().await.send(post("/echo", vec![b'x'; 200_000])).await;
    assert_eq!((reply.status, upstream.count()), (503, 1));
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_not_noticed_by_clients() {
    let upstream = Upstream::start("alive", false).await;
    let mut proxy = Proxy::simple(&[closed_port().await, upstream.address]);
    proxy.routes(forward(|forward| {
        let policy = RetryPolicy {
            on: RetryOn::parse("connect-failure").0,
            retries: 2,
            avoid_previous_hosts: true,
            host_attempts: 5,
            base_interval: Duration::from_millis(1),
            ..RetryPolicy::default()
        };
        forward.retry = Some(Arc::new(policy));
    }));
    proxy.apply();
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.body, "alive");
    }
    assert!(proxy.stat("cluster.c.upstream_cx_connect_fail") >= 10);
}

#[tokio::test]
async fn time_runs_out_for_the_route_and_for_an_attempt() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.routes(forward(|forward| forward.timeout = Some(Duration::from_millis(50))));
    proxy.apply();
    let mut client = proxy.client().await;
    let reply = client.get("/slow").await;
    assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"));
    assert_eq!(upstream.last("x-envoy-expected-rq-timeout-ms").as_deref(), Some("50"));
    proxy.routes(forward(|forward| {
        let policy = retry("5xx", 1).unwrap();
        forward.retry =
            Some(Arc::new(RetryPolicy { per_try_timeout: Some(Duration::from_millis(30)), ..(*policy).clone() }));
    }));
    proxy.apply();
    let reply = client.get("/slow").await;
    assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"));
    assert_eq!(upstream.count(), 3);
    let lines = proxy.log_lines(2).await;
    assert!(
        lines[0].contains(" 504 UT ") && lines[1].contains(" 504 UT,URX ") || lines[1].contains(" 504 URX,UT "),
        "{lines:?}"
    );
    assert_eq!(proxy.stat("cluster.c.upstream_rq_timeout"), 1);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_per_try_timeout"), 2);
    assert_eq!(proxy.stat("cluster.c.upstream_rq_active"), 0);
}

#[tokio::test]
async fn the_routes_time_also_ends_a_response_that_has_started() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.routes(forward(|forward| forward.timeout = Some(Duration::from_millis(60))));
    proxy.apply();
    let request = http::Request::get("/endless").header("host", "shop").body(Default::default()).unwrap();
    assert!(proxy.client().await.try_send(request).await.is_err(), "the response breaks off");
    let line = &proxy.log_lines(1).await[0];
    assert!(line.contains(" 200 UT 0 4 "), "{line}");
}

/// Reads until `end` has come, or the peer closes.
async fn read_until(tcp: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) && tcp.read_buf(&mut text).await.unwrap() > 0 {}
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_response_beside_an_upload_is_not_cut_while_the_upload_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut proxy = Proxy::simple(&[listener.local_addr().unwrap()]);
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        // However the body was cut into chunks on its way.
        read_until(&mut tcp, "o\r\n").await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n").await.unwrap();
        read_until(&mut tcp, "0\r\n\r\n").await;
        tcp.write_all(b"4\r\nlate\r\n0\r\n\r\n").await.unwrap();
        read_until(&mut tcp, "never").await;
    });
    let limit = Duration::from_millis(60);
    proxy.routes(forward(|forward| forward.timeout = Some(limit)));
    proxy.apply();
    let mut client = TcpStream::connect(proxy.address("http")).await.unwrap();
    let request = b"POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    client.write_all(request).await.unwrap();
    assert!(read_until(&mut client, "early\r\n").await.starts_with("HTTP/1.1 200 "));
    tokio::time::sleep(limit * 3).await;
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut client, "0\r\n\r\n").await, "4\r\nlate\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_upstream() {
    let upstream = Upstream::start("a", false).await;
    let proxy = Proxy::simple(&[upstream.address]);
    let address = proxy.address("http");
    let task = tokio::spawn(async move { Client::h1(address).await.get("/slow").await });
    eventually(|| upstream.count() == 1).await;
    assert_eq!(proxy.stat("cluster.c.upstream_rq_active"), 1);
    task.abort();
    proxy.until(|stats| stats.get("cluster.c.upstream_cx_active") == Some(0)).await;
    assert_eq!(proxy.stat("cluster.c.upstream_rq_active"), 0);
    let line = &proxy.log_lines(1).await[0];
    assert!(line.contains(" 0 DC "), "{line}");
}

#[tokio::test]
async fn a_circuit_breaker_refuses_what_is_too_much() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("c", &[upstream.address], |cluster| cluster.breakers.max_requests = 1);
    proxy.apply();
    let address = proxy.address("http");
    let slow = tokio::spawn(async move { Client::h1(address).await.get("/slow").await });
    eventually(|| upstream.count() == 1).await;
    let mut client = proxy.client().await;
    let reply = client.get("/").await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: overflow")
    );
    assert!(proxy.log_lines(1).await[0].contains(" 503 UO "));
    slow.abort();
    proxy.until(|stats| stats.get("cluster.c.upstream_rq_active") == Some(0)).await;
    assert_eq!(client.get("/").await.status, 200, "the unit is given back");
}

#[tokio::test]
async fn requests_wait_for_a_connection_when_all_are_busy() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("c", &[upstream.address], |cluster| cluster.breakers.max_connections = 1);
    proxy.apply();
    let address = proxy.address("http");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::h1(address).await;
                for _ in 0..10 {
                    assert_eq!(client.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

/// A server that promises keep-alive and closes after each response, or without one.
async fn hasty_server(answers: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let length = tcp.read(&mut buffer).await.unwrap();
                if answers && length > 0 {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_pooled_connection_that_the_peer_closed_is_not_noticed() {
    let proxy = Proxy::simple(&[hasty_server(true).await]);
    let mut client = proxy.client().await;
    for _ in 0..300 {
        assert_eq!(client.get("/").await.body, "ok");
    }
}

#[tokio::test]
async fn a_peer_that_closes_without_an_answer_is_reported_as_such() {
    let proxy = Proxy::simple(&[hasty_server(false).await]);
    let reply = proxy.client().await.get("/").await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: connection termination")
    );
    assert!(proxy.log_lines(1).await[0].contains(" 503 UC "));
}

/// Held while an address is to answer nothing: its accept queue is full.
struct BlackHole {
    address: SocketAddr,
    _socket: socket2::Socket,
    _fill: Vec<std::io::Result<std::net::TcpStream>>,
}

fn black_hole() -> BlackHole {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50));
    BlackHole { address, _fill: (0..4).map(|_| connect()).collect(), _socket: socket }
}

#[tokio::test]
async fn a_connect_timeout_is_told_apart() {
    let hole = black_hole();
    let mut proxy = Proxy::simple(&[hole.address]);
    proxy.cluster("c", &[hole.address], |cluster| cluster.connect_timeout = Duration::from_millis(50));
    proxy.apply();
    let reply = proxy.client().await.get("/").await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: connection timeout")
    );
    assert_eq!(proxy.stat("cluster.c.upstream_cx_connect_timeout"), 1);
}

#[tokio::test]
async fn requests_that_wait_for_one_http2_connection_fail_with_it() {
    let hole = black_hole();
    let mut proxy = Proxy::simple(&[hole.address]);
    proxy.cluster("c", &[hole.address], |cluster| {
        cluster.protocol = UpstreamProtocol::Http2;
        cluster.connect_timeout = Duration::from_millis(400);
    });
    proxy.apply();
    let Client::H2(sender) = Client::h2(proxy.address("http")).await else { unreachable!() };
    let requests = (0..4).map(|_| {
        let mut client = Client::H2(sender.clone());
        async move { client.get("/").await.body }
    });
    for body in futures_util::future::join_all(requests).await {
        assert!(body.ends_with("reset reason: connection timeout"), "{body}");
    }
    assert_eq!(proxy.stat("cluster.c.upstream_cx_connect_timeout"), 1, "nobody waits for a second attempt");
}

/// A server that answers every request after reading it, except that it closes on the first `/close`, and that `/hold` waits.
async fn moody_server(release: Arc<tokio::sync::Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closed = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let (release, closed) = (release.clone(), closed.clone());
            tokio::spawn(async move {
                loop {
                    let request = read_until(&mut tcp, "\r\n\r\n").await;
                    if request.is_empty() || request.starts_with("GET /close ") && !closed.swap(true, Ordering::SeqCst)
                    {
                        return;
                    }
                    if request.starts_with("GET /hold ") {
                        release.notified().await;
                    }
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    address
}

/// A fresh connection is needed, the limit is reached, and the host's other connection is busy or idle.
async fn replaces_a_closed_connection(busy: bool) {
    let release = Arc::new(tokio::sync::Notify::new());
    let (host, other) = (moody_server(release.clone()).await, moody_server(Arc::default()).await);
    let mut proxy = Proxy::simple(&[host]);
    proxy.cluster("c", &[], |cluster| {
        cluster.discovery = Discovery::OriginalDst;
        cluster.use_original_dst_header = true;
        cluster.breakers.max_connections = 2;
    });
    proxy.apply();
    let address = proxy.address("http");
    let get = |path: &'static str, destination: SocketAddr| async move {
        let request = http::Request::get(path).header("host", "shop");
        let request = request.header("x-envoy-original-dst-host", destination.to_string());
        Client::h1(address).await.send(request.body(Default::default()).unwrap()).await.status
    };
    let hold = tokio::spawn(get("/hold", host));
    proxy.until(|stats| stats.get("cluster.c.upstream_rq_active") == Some(1)).await;
    assert_eq!(get("/", host).await, 200);
    // Each host may have one connection whatever the limit says, so that now there are more than the limit.
    assert_eq!(get("/", other).await, 200);
    proxy.until(|stats| stats.get("cluster.c.upstream_cx_active") == Some(3)).await;
    if !busy {
        release.notify_one();
        proxy.until(|stats| stats.get("cluster.c.upstream_rq_active") == Some(0)).await;
    }
    let close = tokio::spawn(get("/close", host));
    if busy {
        proxy.until(|stats| stats.get("cluster.c.upstream_rq_pending_active") == Some(1)).await;
        release.notify_one();
    }
    let close = tokio::time::timeout(Duration::from_secs(5), close).await;
    assert_eq!(close.expect("the request got no connection").unwrap(), 200);
    assert_eq!(hold.await.unwrap(), 200);
}

#[tokio::test]
async fn a_request_that_waits_for_a_fresh_connection_takes_one_that_is_released() {
    replaces_a_closed_connection(true).await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_a_fresh_one() {
    replaces_a_closed_connection(false).await;
}

#[tokio::test]
async fn an_idle_connection_does_not_keep_an_old_cluster() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    let old = Arc::downgrade(&proxy.snapshot.clusters["c"].cluster);
    proxy.cluster("c", &[upstream.address], |_| ());
    proxy.apply();
    eventually(|| old.upgrade().is_none()).await;
    assert_eq!(proxy.stat("cluster.c.upstream_cx_active"), 1);
}

#[tokio::test]
async fn a_request_that_was_begun_is_not_repeated_as_one_that_was_never_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let attempts = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = attempts.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            seen.fetch_add(1, Ordering::SeqCst);
            let mut buffer = [0; 4096];
            assert!(tcp.read(&mut buffer).await.unwrap() > 0);
        }
    });
    let mut proxy = Proxy::simple(&[address]);
    proxy.routes(forward(|forward| forward.retry = retry("reset-before-request", 2)));
    proxy.apply();
    let mut client = TcpStream::connect(proxy.address("http")).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 10\r\n\r\nhalf.").await.unwrap();
    let mut status = [0; 13];
    client.read_exact(&mut status).await.unwrap();
    assert_eq!((&status, attempts.load(Ordering::SeqCst)), (b"HTTP/1.1 503 ", 1));
}
