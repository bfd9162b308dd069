//! Requests and responses on their way through.

use super::fixture::*;
use crate::model::*;
use crate::proxy::body::REPLAY_LIMIT;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_request_is_forwarded_identified_counted_and_logged() {
    let upstream = Upstream::start("a", false).await;
    let proxy = Proxy::simple(&[upstream.address]);
    let mut client = proxy.client().await;
    let reply = client.get("/x?y=1").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "a"));
    assert_eq!(reply.header("server"), "envoy");
    assert!(reply.header("x-envoy-upstream-service-time").parse::<u64>().is_ok());
    assert!(!reply.header("date").is_empty());
    let seen = upstream.seen.lock()[0].head.clone();
    assert_eq!((seen.uri.to_string().as_str(), &seen.headers["host"]), ("/x?y=1", &"shop".parse().unwrap()));
    assert_eq!(seen.headers["x-forwarded-proto"], "http");
    assert_eq!(seen.headers["x-request-id"].len(), 36);
    client.get("/again").await;
    assert_eq!(upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 1, "the connection is reused");
    let lines = proxy.log_lines(2).await;
    let wanted = "\"GET /x?y=1 HTTP/1.1\" 200 - 0 1 ";
    assert!(lines[0].contains(wanted), "{}", lines[0]);
    assert!(lines[0].ends_with(&format!("\"shop\" \"{}\"", upstream.address)), "{}", lines[0]);
    for (name, value) in [
        ("cluster.c.upstream_rq_total", 2),
        ("cluster.c.upstream_rq_2xx", 2),
        ("cluster.c.upstream_rq_active", 0),
        ("cluster.c.upstream_cx_total", 1),
        ("cluster.c.upstream_cx_active", 1),
        ("http.in.downstream_rq_total", 2),
        ("http.in.downstream_rq_2xx", 2),
        ("http.in.downstream_rq_active", 0),
        ("http.in.downstream_cx_active", 1),
        ("listener.http.downstream_cx_total", 1),
    ] {
        assert_eq!(proxy.stat(name), value, "{name}");
    }
    drop(client);
    proxy.until(|stats| stats.get("listener.http.downstream_cx_active") == Some(0)).await;
}

#[tokio::test]
async fn what_cannot_be_routed_is_answered_in_envoys_words() {
    let mut proxy = Proxy::simple(&[]);
    let unknown = Route::new(RouteMatch::prefix("/unknown"), Forward::to("nobody").into());
    let empty = Route::new(RouteMatch::prefix("/empty"), Forward::to("c").into());
    let refused = Route::new(RouteMatch::prefix("/refused"), Forward::to("refused").into());
    proxy.routes(vec![unknown, empty, refused]);
    proxy.cluster("refused", &[closed_port().await], |_| ());
    proxy.apply();
    let mut client = proxy.client().await;
    let replies = [client.get("/none").await, client.get("/unknown").await, client.get("/empty").await];
    assert_eq!(replies.each_ref().map(|reply| reply.status), [404, 503, 503]);
    assert_eq!(replies[2].body, "no healthy upstream");
    let refused = client.get("/refused").await;
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
             transport failure reason: delayed connect error: Connection refused"
        )
    );
    let lines = proxy.log_lines(4).await;
    for (line, flag) in lines.iter().zip([" 404 NR ", " 503 NC ", " 503 UH ", " 503 UF "]) {
        assert!(line.contains(flag), "{line}");
    }
}

#[tokio::test]
async fn grpc_clients_get_local_answers_as_grpc_statuses() {
    let proxy = Proxy::simple(&[]);
    let mut client = Client::h2(proxy.address("http")).await;
    let request = Request::post("http://shop/s/m").header("content-type", "application/grpc");
    let reply = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, "14"));
    assert_eq!(reply.header("grpc-message"), "no healthy upstream");
}

#[tokio::test]
async fn trailers_pass_from_an_http2_upstream_to_an_http2_client() {
    let upstream = Upstream::start("h2", true).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.cluster("c", &[upstream.address], |cluster| cluster.protocol = UpstreamProtocol::Http2);
    proxy.apply();
    let mut client = Client::h2(proxy.address("http")).await;
    for _ in 0..3 {
        let request = Request::post("http://shop/trailers").header("te", "trailers");
        let reply = client.send(request.body(Full::new("ping".into())).unwrap()).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "ping"));
        assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
    }
    assert_eq!(upstream.last("te").as_deref(), Some("trailers"));
    let seen = upstream.seen.lock()[0].head.clone();
    assert_eq!(seen.uri.to_string(), "http://shop/trailers");
    assert_eq!(proxy.stat("cluster.c.upstream_cx_http2_total"), 1);
    assert_eq!(proxy.stat("http.in.downstream_cx_http2_total"), 1);
}

#[tokio::test]
async fn http1_and_http2_meet_in_every_combination() {
    for upstream_h2 in [false, true] {
        let upstream = Upstream::start("x", upstream_h2).await;
        let mut proxy = Proxy::simple(&[upstream.address]);
        let protocol = if upstream_h2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        proxy.cluster("c", &[upstream.address], |cluster| cluster.protocol = protocol);
        proxy.apply();
        let address = proxy.address("http");
        let mut h1 = Client::h1(address).await;
        assert_eq!(h1.send(post("/echo", "one")).await.body, "one");
        let mut h2 = Client::h2(address).await;
        let request = Request::post("http://shop/echo").body(Full::new("two".into())).unwrap();
        assert_eq!(h2.send(request).await.body, "two");
    }
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions() {
    let upstream = Upstream::start("a", false).await;
    let proxy = Proxy::simple(&[upstream.address]);
    let body: String = (0..400_000).map(|at| format!("{at},")).collect();
    let mut client = proxy.client().await;
    assert!(client.send(post("/echo", body.clone())).await.body == body, "the body was changed");
    let mut h2 = Client::h2(proxy.address("http")).await;
    let request = Request::post("http://shop/echo").body(Full::new(Bytes::from(body.clone()))).unwrap();
    assert!(h2.send(request).await.body == body, "the body was changed");
    let line = &proxy.log_lines(2).await[0];
    assert!(line.contains(&format!(" 200 - {0} {0} ", body.len())), "{line}");
    assert_eq!(client.get("/").await.body, "a", "the connection is still good");
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel_and_other_upgrades_are_refused() {
    let upstream = Upstream::start("a", false).await;
    let proxy = Proxy::simple(&[upstream.address]);
    let mut tcp = TcpStream::connect(proxy.address("http")).await.unwrap();
    let head = "GET /upgrade HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = Vec::new();
    while !buffer.ends_with(b"\r\n\r\n") {
        buffer.push(tcp.read_u8().await.unwrap());
    }
    let text = String::from_utf8(buffer).unwrap().to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 101 ") && text.contains("upgrade: websocket"), "{text}");
    for message in ["hello", "again"] {
        tcp.write_all(message.as_bytes()).await.unwrap();
        let mut echoed = [0; 5];
        tcp.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, message.as_bytes());
    }
    drop(tcp);
    let line = &proxy.log_lines(1).await[0];
    assert!(line.contains(" 101 - 10 10 "), "{line}");
    let request = Request::get("/").header("host", "shop").header("connection", "upgrade").header("upgrade", "other");
    let reply = proxy.client().await.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(reply.status, 403);
}

/// A server that answers 404 as soon as it has a head, and only then reads the body. Tells the request lines it saw.
async fn early_server() -> (std::net::SocketAddr, Arc<parking_lot::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, lines) = (listener.local_addr().unwrap(), Arc::new(parking_lot::Mutex::new(Vec::new())));
    let seen = lines.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = tcp.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().push(head.lines().next().unwrap().to_owned());
                    tcp.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                    if tcp.read_exact(&mut body).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, lines)
}

#[tokio::test]
async fn an_upgrade_with_a_body_cannot_swallow_the_next_request() {
    let (address, lines) = early_server().await;
    let proxy = Proxy::simple(&[address]);
    let smuggled = "GET /admin HTTP/1.1\r\nhost: shop\r\n\r\n";
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut tcp = TcpStream::connect(proxy.address("http")).await.unwrap();
        let upgrade = "connection: Upgrade\r\nupgrade: websocket";
        let head = format!("POST /early HTTP/1.1\r\nhost: shop\r\n{upgrade}\r\n{framing}\r\n\r\n{smuggled}");
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 13];
        tcp.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 400 ", "{framing}");
        let mut client = proxy.client().await;
        for _ in 0..2 {
            let reply = tokio::time::timeout(Duration::from_secs(5), client.get("/next")).await;
            assert_eq!(reply.expect("the request was taken for a body").status, 404);
        }
    }
    assert_eq!(*lines.lock(), ["GET /next HTTP/1.1"; 4]);
}

#[tokio::test]
async fn a_connection_on_which_an_upgrade_was_refused_is_not_used_again() {
    let (address, lines) = early_server().await;
    let proxy = Proxy::simple(&[address]);
    let request =
        Request::get("/ws").header("host", "shop").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(proxy.client().await.send(request.body(Full::default()).unwrap()).await.status, 404);
    assert_eq!(proxy.client().await.get("/next").await.status, 404);
    assert_eq!(lines.lock().len(), 2);
    assert_eq!(proxy.stat("cluster.c.upstream_cx_total"), 2);
}

#[tokio::test]
async fn routes_rewrite_redirect_answer_and_change_headers() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    let op = |name: &str, value: &str| HeaderOp {
        name: name.parse().unwrap(),
        action: AppendAction::OverwriteOrAdd,
        value: Format::parse(value).unwrap(),
        keep_empty: false,
    };
    let mut forward = Forward::to("c");
    forward.path_rewrite = Some(PathRewrite::Prefix("/v2/".into()));
    forward.host_rewrite = Some(HostRewrite::Literal("other".into()));
    let mut api = Route::new(RouteMatch::prefix("/api/"), forward.into());
    api.request_headers = HeaderOps { write: vec![op("x-level", "route")], remove: vec!["x-secret".parse().unwrap()] };
    api.response_headers = HeaderOps { write: vec![op("x-code", "%RESPONSE_CODE% %REQ(:METHOD)%")], remove: vec![] };
    let redirect = Redirect { path: Some(PathRewrite::Full("/new".into())), status: 302, ..Redirect::default() };
    let direct = DirectResponse { status: 418, body: "teapot".into() };
    let mut host = VirtualHost::new(
        "shop",
        ["*"],
        vec![
            api,
            Route::new(RouteMatch::exact("/old"), RouteAction::Redirect(Box::new(redirect))),
            Route::new(RouteMatch::exact("/tea"), RouteAction::Direct(direct)),
            Route::new(RouteMatch::exact("/hop"), Forward::to("c").into()),
        ],
    );
    host.request_headers = HeaderOps { write: vec![op("x-level", "host")], remove: vec![] };
    proxy.host(host);
    proxy.apply();
    let mut client = proxy.client().await;
    let request = Request::get("/api/items?q=1").header("host", "shop").header("x-secret", "s");
    let reply = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(reply.header("x-code"), "200 GET");
    let seen = upstream.seen.lock()[0].head.clone();
    assert_eq!((seen.uri.to_string().as_str(), &seen.headers["host"]), ("/v2/items?q=1", &"other".parse().unwrap()));
    assert_eq!(seen.headers["x-envoy-original-path"], "/api/items?q=1");
    assert_eq!(seen.headers["x-level"], "host", "less specific levels are applied later");
    assert!(!seen.headers.contains_key("x-secret"));
    let moved = client.get("/old").await;
    assert_eq!((moved.status, moved.header("location")), (302, "http://shop/new"));
    let tea = client.get("/tea").await;
    assert_eq!((tea.status, tea.body.as_str(), tea.header("content-type")), (418, "teapot", "text/plain"));
    assert_eq!(client.get("/hop").await.header("x-hop"), "", "hop-by-hop headers end here");
}

#[tokio::test]
async fn weights_decide_the_share_of_each_version() {
    let (one, two) = (Upstream::start("one", false).await, Upstream::start("two", false).await);
    let mut proxy = Proxy::start();
    proxy.cluster("one", &[one.address], |_| ());
    proxy.cluster("two", &[two.address], |_| ());
    let target = Target::weighted(vec![WeightedCluster::new("one", 80), WeightedCluster::new("two", 20)]);
    proxy.routes(vec![Route::new(RouteMatch::prefix("/"), Forward::new(target).into())]);
    proxy.http(|_| ());
    proxy.apply();
    let mut client = proxy.client().await;
    for _ in 0..1000 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Six standard deviations of a binomial distribution around 200.
    assert!((120..=280).contains(&two.count()), "{}", two.count());
    assert_eq!(one.count() + two.count(), 1000);
}

#[tokio::test]
async fn faults_abort_and_delay_their_share() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    let mut routes = forward(|_| ());
    let share = Fraction { numerator: 50, denominator: 100 };
    let abort = FaultAbort { http_status: 555, grpc_status: None, share };
    routes[0].per_route.fault = Some(Arc::new(Fault { abort: Some(abort), ..Fault::default() }));
    proxy.routes(routes);
    proxy.apply();
    let mut client = proxy.client().await;
    let mut aborted = 0;
    for _ in 0..400 {
        let reply = client.get("/").await;
        if reply.status == 555 {
            assert_eq!(reply.body, "fault filter abort");
            aborted += 1;
        }
    }
    assert!((140..=260).contains(&aborted), "{aborted}");
    assert!(proxy.log_lines(400).await.iter().any(|line| line.contains(" 555 FI ")));
    let mut routes = forward(|_| ());
    let delay = FaultDelay { duration: Duration::from_millis(60), share: Fraction::ALL };
    routes[0].per_route.fault = Some(Arc::new(Fault { delay: Some(delay), ..Fault::default() }));
    proxy.routes(routes);
    proxy.apply();
    let start = std::time::Instant::now();
    assert_eq!(client.get("/").await.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(60));
    assert!(proxy.log_lines(401).await[400].contains(" 200 DI "));
}

#[tokio::test]
async fn old_and_broken_requests_are_refused_and_absolute_form_is_served() {
    let upstream = Upstream::start("a", false).await;
    let proxy = Proxy::simple(&[upstream.address]);
    let ask = async |text: &str| {
        let mut tcp = TcpStream::connect(proxy.address("http")).await.unwrap();
        tcp.write_all(text.as_bytes()).await.unwrap();
        let mut out = String::new();
        tcp.read_to_string(&mut out).await.unwrap();
        out
    };
    assert!(ask("GET / HTTP/1.0\r\n\r\n").await.contains(" 426 "));
    assert!(ask("GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await.contains(" 400 "));
    let mut tcp = TcpStream::connect(proxy.address("http")).await.unwrap();
    tcp.write_all(b"GET http://abs.example/p?q HTTP/1.1\r\nhost: ignored\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut out = String::new();
    tcp.read_to_string(&mut out).await.unwrap();
    assert!(out.starts_with("HTTP/1.1 200 OK"), "{out}");
    assert_eq!(upstream.last("host").as_deref(), Some("abs.example"));
    assert_eq!(upstream.seen.lock()[0].head.uri.to_string(), "/p?q");
}

#[tokio::test]
async fn a_length_beside_chunks_cannot_smuggle_a_second_request() {
    let upstream = Upstream::start("a", false).await;
    let proxy = Proxy::simple(&[upstream.address]);
    let mut tcp = TcpStream::connect(proxy.address("http")).await.unwrap();
    let inner = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let text = format!(
        "POST /echo HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
        inner.len()
    );
    tcp.write_all(text.as_bytes()).await.unwrap();
    let mut out = String::new();
    tcp.read_to_string(&mut out).await.unwrap();
    assert!(upstream.seen.lock().iter().all(|seen| seen.head.uri.path() == "/echo"), "{out}");
    assert!(upstream.seen.lock().iter().all(|seen| seen.body == inner), "the body is whole, or refused: {out}");
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_never_delays_the_answer() {
    let (main, copy) = (Upstream::start("main", false).await, Upstream::start("copy", false).await);
    let mut proxy = Proxy::simple(&[main.address]);
    proxy.cluster("copy", &[copy.address], |_| ());
    proxy.routes(forward(|forward| forward.mirrors = vec![Mirror { cluster: "copy".into(), share: Fraction::ALL }]));
    proxy.apply();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/slow-not").await.body, "main");
    assert_eq!(client.send(post("/echo", "body")).await.body, "body");
    eventually(|| copy.count() == 2).await;
    assert_eq!(copy.last("host").as_deref(), Some("shop-shadow"));
    assert!(copy.seen.lock().iter().any(|seen| seen.body == "body"));
    let large = "x".repeat(REPLAY_LIMIT + 1);
    assert_eq!(client.send(post("/echo", large.clone())).await.body, large);
    assert_eq!(client.get("/").await.status, 200);
    eventually(|| copy.count() == 3).await;
}
