//! TCP proxying, and the choice of a chain by the first bytes.

use super::fixture::*;
use crate::model::*;
use crate::proxy::sniff::tests::hello;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Reads to the end, then answers with its name and what it read.
async fn parrot(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                if tcp.read_to_end(&mut all).await.is_ok() {
                    let _ = tcp.write_all(name.as_bytes()).await;
                    let _ = tcp.write_all(&all).await;
                }
            });
        }
    });
    address
}

fn tcp_filter(cluster: &str) -> NetworkFilter {
    NetworkFilter::Tcp(Arc::new(TcpProxy::to("t", cluster)))
}

async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut out = Vec::new();
    let _ = tcp.read_to_end(&mut out).await;
    out
}

#[tokio::test]
async fn bytes_pass_and_each_direction_is_closed_on_its_own() {
    let mut proxy = Proxy::start();
    proxy.cluster("c", &[parrot("p").await], |_| ());
    let mut filter = TcpProxy::to("t", "c");
    let mut log = AccessLog::text(AccessLogSink::File(proxy.log.path().into()));
    let format = Format::parse("%UPSTREAM_CLUSTER% %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS%\n").unwrap();
    log.format = AccessLogFormat::Text(format);
    filter.access_logs = vec![log];
    proxy.listen("tcp", NetworkFilter::Tcp(Arc::new(filter)), |_| ());
    proxy.apply();
    let body = vec![7u8; 3_000_000];
    let out = exchange(proxy.address("tcp"), &body).await;
    assert!(out.len() == body.len() + 1 && out[1..] == body, "{} bytes came back", out.len());
    assert_eq!(proxy.log_lines(1).await[0], "c 3000000 3000001 -");
    proxy.until(|stats| stats.get("cluster.c.upstream_cx_active") == Some(0)).await;
}

#[tokio::test]
async fn tls_connections_are_routed_by_server_name_without_being_opened() {
    let mut proxy = Proxy::start();
    for name in ["one", "two", "rest"] {
        proxy.cluster(name, &[parrot(name).await], |_| ());
    }
    let chain = |name: &str, server_name: &str| {
        let matcher = FilterChainMatch { server_names: vec![server_name.into()], ..Default::default() };
        Arc::new(FilterChain::new(name, matcher, tcp_filter(name)))
    };
    proxy.listen("tls", tcp_filter("rest"), |listener| {
        listener.default_chain = listener.chains.pop();
        listener.chains = vec![chain("one", "one.example"), chain("two", "*.example")];
        listener.listener_filters = vec![ListenerFilter::TlsInspector];
    });
    proxy.apply();
    let address = proxy.address("tls");
    for (server_name, wanted) in [("one.example", "one"), ("x.example", "two"), ("other", "rest")] {
        let bytes = hello(server_name, &["h2"]);
        let out = exchange(address, &bytes).await;
        assert_eq!(out, [wanted.as_bytes(), &bytes].concat(), "{server_name}: every byte is passed on");
    }
    assert_eq!(exchange(address, b"plain text").await, b"restplain text");
}

#[tokio::test]
async fn an_undeclared_port_serves_http_and_anything_else() {
    let upstream = Upstream::start("web", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("raw", &[parrot("raw").await], |_| ());
    let http = proxy.snapshot.listeners[0].chains[0].filter.clone();
    let matcher = FilterChainMatch {
        transport_protocol: "raw_buffer".into(),
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        ..Default::default()
    };
    proxy.listen("auto", tcp_filter("raw"), |listener| {
        listener.default_chain = listener.chains.pop();
        listener.chains = vec![Arc::new(FilterChain::new("http", matcher, http))];
        listener.listener_filters = vec![ListenerFilter::HttpInspector];
        listener.listener_filters_timeout = Some(Duration::from_millis(100));
        listener.continue_on_timeout = true;
    });
    proxy.apply();
    let address = proxy.address("auto");
    assert_eq!(Client::h1(address).await.get("/").await.body, "web");
    assert_eq!(Client::h2(address).await.get("/").await.body, "web");
    assert_eq!(exchange(address, b"\x01binary").await, b"raw\x01binary");
    let mut silent = TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    silent.shutdown().await.unwrap();
    let mut out = Vec::new();
    silent.read_to_end(&mut out).await.unwrap();
    assert_eq!(out, b"raw", "a silent client is served after the timeout");
}

#[tokio::test]
async fn a_redirected_connection_is_handed_to_the_listener_of_its_destination() {
    let mut proxy = Proxy::start();
    for name in ["exact", "port", "rest"] {
        proxy.cluster(name, &[parrot(name).await], |_| ());
    }
    let free = closed_port().await;
    proxy.listen("virtual", tcp_filter("rest"), |listener| {
        listener.address = free;
        listener.use_original_dst = true;
    });
    proxy.apply();
    assert_eq!(exchange(free, b"").await, b"rest");
    proxy.listen("0.0.0.0_P", tcp_filter("port"), |listener| {
        listener.address = SocketAddr::new("0.0.0.0".parse().unwrap(), free.port());
        listener.bind_to_port = false;
    });
    assert!(proxy.apply().errors.is_empty());
    assert_eq!(exchange(free, b"").await, b"port");
    proxy.listen("ip_P", tcp_filter("exact"), |listener| {
        listener.address = free;
        listener.bind_to_port = false;
    });
    proxy.apply();
    assert_eq!(exchange(free, b"").await, b"exact");
}

#[tokio::test]
async fn an_original_destination_cluster_goes_where_the_connection_went() {
    let mut proxy = Proxy::start();
    let target = parrot("direct").await;
    let mut cluster = Cluster::new("passthrough", Discovery::OriginalDst);
    cluster.use_original_dst_header = true;
    let entry = ClusterEntry { cluster: Arc::new(cluster), endpoints: Arc::default() };
    proxy.snapshot.clusters.insert("passthrough".into(), entry);
    let upstream = Upstream::start("web", false).await;
    proxy.routes(vec![Route::new(RouteMatch::prefix("/"), Forward::to("passthrough").into())]);
    proxy.http(|_| ());
    proxy.apply();
    let request =
        http::Request::get("/").header("host", "x").header("x-envoy-original-dst-host", upstream.address.to_string());
    let reply = proxy.client().await.send(request.body(Default::default()).unwrap()).await;
    assert_eq!(reply.body, "web");
    let _ = target;
}

#[tokio::test]
async fn a_quiet_tcp_connection_is_closed() {
    let mut proxy = Proxy::start();
    proxy.cluster("c", &[parrot("p").await], |_| ());
    let mut filter = TcpProxy::to("t", "c");
    filter.idle_timeout = Some(Duration::from_millis(40));
    proxy.listen("tcp", NetworkFilter::Tcp(Arc::new(filter)), |_| ());
    proxy.apply();
    let mut tcp = TcpStream::connect(proxy.address("tcp")).await.unwrap();
    let mut out = Vec::new();
    tcp.read_to_end(&mut out).await.unwrap();
    assert_eq!(proxy.stat("tcp.t.idle_timeout"), 1);
}
