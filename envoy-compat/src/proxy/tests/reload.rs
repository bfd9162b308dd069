//! New configuration under load, removed listeners, shutdown.

use super::fixture::*;
use crate::model::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_under_load_lose_no_request() {
    let upstreams = [Upstream::start("one", false).await, Upstream::start("two", false).await];
    let mut proxy = Proxy::with_workers(2);
    proxy.cluster("c", &[upstreams[0].address], |_| ());
    proxy.routes(forward(|_| ()));
    proxy.http(|_| ());
    proxy.apply();
    let address = proxy.address("http");
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..6)
        .map(|at| {
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                let mut client = if at % 2 == 0 { Client::h1(address).await } else { Client::h2(address).await };
                while !stop.load(Ordering::SeqCst) {
                    let reply = client.get("/").await;
                    assert_eq!(reply.status, 200, "{reply:?}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for change in 0..1000u32 {
        match change % 4 {
            0 => proxy.cluster("c", &[upstreams[change as usize / 4 % 2].address], |_| ()),
            1 => proxy.routes(forward(|forward| forward.timeout = Some(Duration::from_secs(5 + u64::from(change))))),
            2 => proxy.http(|http| http.server_name = change.to_string().into()),
            _ => {
                let addresses = upstreams.each_ref().map(|upstream| upstream.address);
                proxy.cluster("c", &addresses, |cluster| cluster.lb = LbPolicy::LeastRequest { choices: 2 });
            }
        }
        assert!(proxy.apply().errors.is_empty());
        // Requests have to run between changes: at least one for every five.
        let floor = u64::from(change) / 5;
        eventually(|| served.load(Ordering::SeqCst) >= floor).await;
    }
    let before = served.load(Ordering::SeqCst);
    eventually(|| served.load(Ordering::SeqCst) > before + 20).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.header("server"), "998", "the last change is in effect");
    assert!(upstreams.iter().all(|upstream| upstream.count() > 0));
}

#[tokio::test]
async fn an_open_connection_follows_new_routes_chains_and_clusters() {
    let (one, two) = (Upstream::start("one", false).await, Upstream::start("two", false).await);
    let mut proxy = Proxy::simple(&[one.address]);
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.body, "one");
    proxy.cluster("d", &[two.address], |_| ());
    proxy.routes(vec![Route::new(RouteMatch::prefix("/"), Forward::to("d").into())]);
    proxy.apply();
    assert_eq!(client.get("/").await.body, "two");
    let teapot =
        Route::new(RouteMatch::prefix("/"), RouteAction::Direct(DirectResponse { status: 418, body: "".into() }));
    let table = RouteTable::new("inline", vec![VirtualHost::new("v", ["*"], vec![teapot])]).unwrap();
    proxy.http(|http| http.routes = RouteSource::Inline(Arc::new(table)));
    proxy.apply();
    assert_eq!(client.get("/").await.status, 418);
    assert_eq!(proxy.stat("http.in.downstream_cx_total"), 1);
}

#[tokio::test]
async fn a_connection_whose_chain_is_gone_keeps_its_routes_to_the_end() {
    let upstream = Upstream::start("one", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    let mut client = proxy.client().await;
    client.get("/").await;
    proxy.listen("http", NetworkFilter::Tcp(Arc::new(TcpProxy::to("t", "d"))), |_| ());
    proxy.snapshot.routes.clear();
    proxy.snapshot.clusters.clear();
    proxy.cluster("d", &[upstream.address], |_| ());
    proxy.apply();
    let last = client.get("/").await;
    assert_eq!((last.body.as_str(), last.header("connection")), ("one", "close"));
}

#[tokio::test]
async fn connections_to_a_removed_endpoint_are_closed() {
    let (one, two) = (Upstream::start("one", false).await, Upstream::start("two", false).await);
    let mut proxy = Proxy::simple(&[one.address]);
    let mut client = proxy.client().await;
    client.get("/").await;
    assert_eq!(proxy.stat("cluster.c.upstream_cx_active"), 1);
    proxy.cluster("c", &[two.address], |_| ());
    proxy.apply();
    proxy.until(|stats| stats.get("cluster.c.upstream_cx_active") == Some(0)).await;
    assert_eq!(client.get("/").await.body, "two");
    let hosts = proxy.workers.hosts();
    assert_eq!(hosts.iter().map(|host| (host.address, host.total)).collect::<Vec<_>>(), [(two.address, 1)]);
}

#[tokio::test]
async fn a_removed_listener_stops_to_listen_and_ends_its_connections_politely() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.http(|http| http.drain_timeout = Duration::from_millis(100));
    proxy.apply();
    let address = proxy.address("http");
    let mut busy = proxy.client().await;
    busy.get("/").await;
    let mut idle = Client::h1(address).await;
    idle.get("/").await;
    let mut h2 = Client::h2(address).await;
    h2.get("/").await;
    // A control plane takes the routes and clusters of a removed listener back with it.
    proxy.snapshot = Snapshot::default();
    proxy.apply();
    let last = busy.get("/").await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    proxy.until(|stats| stats.get("http.in.downstream_cx_active") == Some(0)).await;
    assert_eq!(proxy.stat("http.in.downstream_cx_drain_close"), 3);
    eventually(|| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err()).await;
}

#[tokio::test]
async fn a_busy_address_is_reported_and_nothing_else_suffers() {
    for workers in [1, 2] {
        let upstream = Upstream::start("a", false).await;
        let mut proxy = Proxy::with_workers(workers);
        proxy.cluster("c", &[upstream.address], |_| ());
        proxy.routes(forward(|_| ()));
        proxy.http(|_| ());
        let taken = upstream.address;
        let filter = proxy.snapshot.listeners[0].chains[0].filter.clone();
        proxy.listen("busy", filter, |listener| listener.address = taken);
        let applied = proxy.apply();
        assert_eq!(applied.errors.len(), 1, "{applied:?}");
        assert_eq!((&*applied.errors[0].listener, applied.errors[0].address), ("busy", taken));
        assert_eq!(proxy.client().await.get("/").await.status, 200);
        // Another proxy of the same user cannot share the address unnoticed.
        let other = Proxy::with_workers(workers);
        let mut snapshot = proxy.snapshot.clone();
        let mut listener = (*snapshot.listeners[0]).clone();
        listener.address = proxy.address("http");
        snapshot.listeners = vec![Arc::new(listener)];
        assert_eq!(other.workers.apply(Arc::new(snapshot)).errors.len(), 1);
    }
}

#[tokio::test]
async fn shutdown_waits_for_requests_under_way() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    let mut routes = forward(|_| ());
    let delay = FaultDelay { duration: Duration::from_millis(150), share: Fraction::ALL };
    routes[0].per_route.fault = Some(Arc::new(Fault { delay: Some(delay), ..Fault::default() }));
    proxy.routes(routes);
    proxy.apply();
    let address = proxy.address("http");
    let request = tokio::spawn(async move { Client::h1(address).await.get("/").await });
    proxy.until(|stats| stats.get("http.in.downstream_rq_active") == Some(1)).await;
    assert_eq!(proxy.workers.drain(Duration::from_secs(5)).await, 0);
    let reply = request.await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[upstream.address]);
    proxy.http(|http| http.idle_timeout = Some(Duration::from_millis(50)));
    proxy.cluster("c", &[upstream.address], |cluster| cluster.idle_timeout = Some(Duration::from_millis(50)));
    proxy.apply();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    proxy.until(|stats| stats.get("http.in.downstream_cx_active") == Some(0)).await;
    proxy.until(|stats| stats.get("cluster.c.upstream_cx_active") == Some(0)).await;
    assert_eq!(proxy.stat("http.in.downstream_cx_idle_timeout"), 1);
}

#[tokio::test]
async fn names_of_dns_clusters_are_resolved() {
    let upstream = Upstream::start("a", false).await;
    let mut proxy = Proxy::simple(&[]);
    let address = EndpointAddress::Name { host: "localhost".into(), port: upstream.address.port() };
    let endpoint = Endpoint { address, ..Endpoint::new(upstream.address) };
    let group = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: 1, endpoints: vec![endpoint] };
    let endpoints = Arc::new(Endpoints { localities: vec![group], overprovisioning: 140 });
    let cluster = Arc::new(Cluster::new("c", Discovery::StrictDns));
    proxy.snapshot.clusters.insert("c".into(), ClusterEntry { cluster, endpoints });
    proxy.routes(forward(|forward| forward.retry = retry("connect-failure", 3)));
    proxy.apply();
    proxy.until(|stats| stats.get("cluster.c.membership_total") > Some(0)).await;
    // `localhost` may be ::1 too, where nobody listens: the retry finds the other address.
    assert_eq!(proxy.client().await.get("/").await.body, "a");
}
