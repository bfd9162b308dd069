//! How listeners and connections end.

use super::fixture::*;
use crate::model::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// An HTTP server that answers each request when it is told to.
async fn patient_server(go: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        while tcp.read(&mut buffer).await.unwrap() > 0 {
            go.notified().await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        }
    });
    address
}

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = tcp.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

async fn websocket(address: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /upgrade HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = Vec::new();
    while !buffer.ends_with(b"\r\n\r\n") {
        buffer.push(tcp.read_u8().await.unwrap());
    }
    assert!(buffer.starts_with(b"HTTP/1.1 101 "));
    assert_echoes(&mut tcp).await;
    tcp
}

async fn assert_echoes(tcp: &mut TcpStream) {
    tcp.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    tcp.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

/// Waits for the end of the connection, which has to come soon.
async fn assert_ends(tcp: &mut TcpStream) {
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut rest)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "it ended after {:?}", start.elapsed());
}

fn refuses(address: SocketAddr) -> bool {
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err()
}

#[tokio::test]
async fn a_workload_can_call_others_until_its_last_request_is_answered() {
    let go = Arc::new(Notify::new());
    let other = Upstream::start("other", false).await;
    let mut proxy = Proxy::simple(&[patient_server(go.clone()).await]);
    proxy.cluster("other", &[other.address], |_| ());
    let table =
        vec![VirtualHost::new("o", ["*"], vec![Route::new(RouteMatch::prefix("/"), Forward::to("other").into())])];
    let mut http =
        HttpConnectionManager::new("out", RouteSource::Inline(Arc::new(RouteTable::new("o", table).unwrap())));
    http.drain_timeout = Duration::from_millis(50);
    let inbound = proxy.snapshot.listeners[0].chains[0].filter.clone();
    proxy.listen("http", inbound, |listener| listener.direction = TrafficDirection::Inbound);
    proxy
        .listen("out", NetworkFilter::Http(Arc::new(http)), |listener| listener.direction = TrafficDirection::Outbound);
    proxy.cluster("raw", &[echo().await], |_| ());
    let raw = NetworkFilter::Tcp(Arc::new(TcpProxy::to("raw", "raw")));
    proxy.listen("raw", raw, |listener| listener.direction = TrafficDirection::Outbound);
    proxy.apply();
    let (inbound, outbound) = (proxy.address("http"), proxy.address("out"));
    let mut database = TcpStream::connect(proxy.address("raw")).await.unwrap();
    let mut early = Client::h1(outbound).await;
    let request = tokio::spawn(async move { Client::h1(inbound).await.get("/").await });
    proxy.until(|stats| stats.get("cluster.c.upstream_rq_active") == Some(1)).await;
    let script = async {
        eventually(|| refuses(inbound)).await;
        // Longer than it takes to close what is drained.
        tokio::time::sleep(Duration::from_millis(700)).await;
        for client in [&mut early, &mut Client::h1(outbound).await] {
            let reply = client.get("/").await;
            assert_eq!((reply.body.as_str(), reply.header("connection")), ("other", ""));
        }
        assert_echoes(&mut database).await;
        drop(database);
        go.notify_one();
    };
    let (open, ()) = tokio::join!(proxy.workers.drain(Duration::from_secs(10)), script);
    assert_eq!(open, 0);
    assert_eq!(request.await.unwrap().body, "done");
    assert!(refuses(outbound), "in the end nobody is served");
}

#[tokio::test]
async fn a_configuration_that_comes_during_the_shutdown_opens_nothing() {
    let mut proxy = Proxy::simple(&[]);
    let address = proxy.address("http");
    assert_eq!(proxy.workers.drain(Duration::from_secs(5)).await, 0);
    let applied = proxy.apply();
    assert!(applied.bound.is_empty() && applied.errors.is_empty(), "{applied:?}");
    assert!(refuses(address));
}

#[tokio::test]
async fn a_tunnel_is_a_connection_until_its_end() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    let address = proxy.address("http");
    let mut tunnel = websocket(address).await;
    assert_eq!(proxy.stat("http.in.downstream_cx_active"), 1);
    // A removed listener ends its tunnels after the drain time, although their requests never end.
    let listeners = std::mem::take(&mut proxy.snapshot.listeners);
    proxy.apply();
    assert_ends(&mut tunnel).await;
    proxy.until(|stats| stats.get("server.total_connections") == Some(0)).await;
    proxy.snapshot.listeners = listeners;
    proxy.apply();
    // The shutdown waits for tunnels, as long as it may.
    let mut tunnel = websocket(proxy.address("http")).await;
    let script = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_echoes(&mut tunnel).await;
        drop(tunnel);
        Instant::now()
    };
    let drain = async { (proxy.workers.drain(Duration::from_secs(10)).await, Instant::now()) };
    let ((open, drained), dropped) = tokio::join!(drain, script);
    assert!(open == 0 && drained > dropped, "the process would have ended before the tunnel");
}

#[tokio::test]
async fn a_tcp_connection_of_a_removed_listener_may_go_on_for_the_drain_time() {
    let mut proxy = Proxy::start();
    proxy.cluster("c", &[echo().await], |_| ());
    proxy.listen("tcp", NetworkFilter::Tcp(Arc::new(TcpProxy::to("t", "c"))), |_| ());
    proxy.apply();
    let mut tcp = TcpStream::connect(proxy.address("tcp")).await.unwrap();
    assert_echoes(&mut tcp).await;
    proxy.snapshot.listeners.clear();
    proxy.apply();
    assert_echoes(&mut tcp).await;
    assert_ends(&mut tcp).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    let mut proxy = Proxy::simple(&[]);
    proxy.http(|http| http.idle_timeout = Some(Duration::from_millis(50)));
    proxy.apply();
    let mut silent = TcpStream::connect(proxy.address("http")).await.unwrap();
    assert_ends(&mut silent).await;
    proxy.http(|http| http.drain_timeout = Duration::from_millis(50));
    proxy.apply();
    let mut silent = TcpStream::connect(proxy.address("http")).await.unwrap();
    proxy.until(|stats| stats.get("server.total_connections") == Some(1)).await;
    assert_eq!(proxy.workers.drain(Duration::from_secs(10)).await, 0);
    assert_ends(&mut silent).await;
}

#[tokio::test]
async fn open_connections_do_not_keep_old_configurations() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("raw", &[echo().await], |_| ());
    proxy.listen("tcp", NetworkFilter::Tcp(Arc::new(TcpProxy::to("t", "raw"))), |_| ());
    proxy.apply();
    let mut tcp = TcpStream::connect(proxy.address("tcp")).await.unwrap();
    assert_echoes(&mut tcp).await;
    let mut silent = TcpStream::connect(proxy.address("http")).await.unwrap();
    silent.write_all(b"P").await.unwrap();
    let mut client = proxy.client().await;
    client.get("/").await;
    assert_eq!(proxy.stat("cluster.c.upstream_cx_active"), 1);
    let table = Arc::downgrade(&proxy.snapshot.routes["r"]);
    let endpoints = Arc::downgrade(&proxy.snapshot.clusters["c"].endpoints);
    proxy.cluster("c", &[upstream.address], |_| ());
    proxy.routes(forward(|_| ()));
    proxy.apply();
    eventually(|| table.strong_count() == 0 && endpoints.strong_count() == 0).await;
    assert_eq!(proxy.stat("cluster.c.upstream_cx_active"), 1, "the upstream's connection is still there");
    assert_echoes(&mut tcp).await;
}
