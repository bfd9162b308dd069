//! The shop's programs: four services, six instances, each an ordinary HTTP server that knows nothing of a mesh.
//!
//! An instance calls others by name (`http://ratings:9083/`) through the HTTP proxy that its environment names, and passes
//! on the headers that tracing and routing need, as any well-behaved application does. Answers are JSON that says who
//! answered, with what the called ones answered inside. That a callee failed is said in the answer; only the front, which
//! cannot do without catalogue and reviews, fails with them (502).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::client::Client;
use crate::plan::{InstancePlan, Plan, Service};
use crate::stats::Stats;

/// The header in which every instance names its version.
pub const VERSION: HeaderName = HeaderName::from_static("x-shop-version");

/// The header in which the front names the customer; the demo routes by it.
pub const USER: HeaderName = HeaderName::from_static("end-user");

/// What an instance passes on from the call that it answers to the calls that it makes.
const PASSED_ON: [HeaderName; 8] = [
    USER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
];

/// All instances, running until this is dropped.
#[derive(Debug)]
pub struct Shop {
    stats: Stats,
    _stop: DropGuard,
}

/// Why the shop does not open.
#[derive(Debug, thiserror::Error)]
#[error("{instance} cannot listen on {address}: {source}")]
pub struct ShopError {
    instance: String,
    address: SocketAddr,
    source: io::Error,
}

/// One program.
struct Instance {
    service: Service,
    version: &'static str,
    name: String,
    client: Client,
    stats: Stats,
}

// === impl Shop ===

impl Shop {
    /// Starts every instance of `plan`. Within a tokio runtime.
    ///
    /// # Errors
    /// When a port is taken meanwhile.
    pub async fn start(plan: &Plan) -> Result<Self, ShopError> {
        let stats = Stats::default();
        let stop = CancellationToken::new();
        for planned in &plan.instances {
            let error = |source| ShopError { instance: planned.name(), address: planned.app, source };
            let listener = TcpListener::bind(planned.app).await.map_err(error)?;
            let instance = Arc::new(Instance::new(planned, stats.clone()));
            tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, instance, stop.clone())));
        }
        Ok(Self { stats, _stop: stop.drop_guard() })
    }

    /// The book of all calls between instances. Clones share it.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }
}

async fn serve(listener: TcpListener, instance: Arc<Instance>, stop: CancellationToken) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others need time to close theirs.
                warn!("{} cannot accept: {error}", instance.name);
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let instance = instance.clone();
        let connection = async move {
            let service = service_fn(move |request| {
                let instance = instance.clone();
                async move { Ok::<_, std::convert::Infallible>(instance.answer(request).await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                debug!("a connection ended with: {error}");
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

// === impl Instance ===

impl Instance {
    fn new(plan: &InstancePlan, stats: Stats) -> Self {
        Self {
            service: plan.service,
            version: plan.version,
            name: plan.name(),
            client: Client::through_proxy(plan.outbound),
            stats,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return self.respond(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "only GET is answered here"}), false);
        }
        let mut passed_on = HeaderMap::new();
        for name in PASSED_ON {
            for value in request.headers().get_all(&name) {
                passed_on.append(name.clone(), value.clone());
            }
        }
        let mut body = json!({"service": self.service.name(), "version": self.version});
        let mut status = StatusCode::OK;
        match (self.service, self.version) {
            (Service::Front, _) => {
                let (catalogue, reviews) =
                    join(self.call(Service::Catalogue, passed_on.clone()), self.call(Service::Reviews, passed_on))
                        .await;
                if catalogue.is_err() || reviews.is_err() {
                    status = StatusCode::BAD_GATEWAY;
                }
                body["catalogue"] = said(catalogue);
                body["reviews"] = said(reviews);
            }
            (Service::Catalogue, _) => {
                body["items"] = json!([{"name": "Sextant", "price": 129}, {"name": "Spyglass", "price": 79}]);
            }
            (Service::Reviews, "v1") => body["texts"] = json!(["Found my way home.", "Sturdy, and pretty too."]),
            (Service::Reviews, version) => {
                body["texts"] = json!(["Found my way home.", "Sturdy, and pretty too."]);
                body["colour"] = json!(if version == "v2" { "black" } else { "red" });
                body["ratings"] = said(self.call(Service::Ratings, passed_on).await);
            }
            (Service::Ratings, _) => body["stars"] = json!([5, 4]),
        }
        let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.respond(status, &body, accepts.contains("text/html"))
    }

    /// Calls another service, and writes down how that went.
    async fn call(&self, to: Service, headers: HeaderMap) -> Result<Value, String> {
        let start = Instant::now();
        let answer = self.client.get(&format!("http://{}:{}/", to.name(), to.port()), headers).await;
        let latency = start.elapsed();
        let version = answer.as_ref().ok().and_then(|answer| version_of(&answer.headers));
        let result = match answer {
            Ok(answer) if answer.status.is_success() => serde_json::from_slice(&answer.body)
                .map_err(|error| format!("{to} answered something else than JSON: {error}")),
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
                Err(format!("{to} answered {}: {text}", answer.status.as_u16()))
            }
            Err(error) => Err(format!("{to}: {error}")),
        };
        self.stats.record(&self.name, to.name(), latency, result.is_err(), version.as_deref());
        result
    }

    fn respond(&self, status: StatusCode, body: &Value, as_page: bool) -> Response<Full<Bytes>> {
        let text = serde_json::to_string_pretty(body).unwrap_or_default();
        let (kind, text) = if as_page {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
            let page = format!(
                "<!doctype html><meta charset=utf-8><title>Shop</title><h1>The shop</h1><p>Who answered what:<pre>{escaped}</pre>"
            );
            ("text/html; charset=utf-8", page)
        } else {
            ("application/json", text + "\n")
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response.headers_mut().insert(VERSION, header::HeaderValue::from_static(self.version));
        response
    }
}

/// The version that an answer names.
pub(crate) fn version_of(headers: &HeaderMap) -> Option<String> {
    headers.get(VERSION).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn said(result: Result<Value, String>) -> Value {
    result.unwrap_or_else(|error| json!({"error": error}))
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::stats::Edge;
    use parking_lot::Mutex;
    use rand::seq::IndexedRandom as _;
    use std::collections::HashMap;

    /// Where a fake mesh sends each service's calls. `None` refuses them with 503.
    pub(crate) type Routes = Arc<Mutex<HashMap<&'static str, Vec<SocketAddr>>>>;

    /// Stands in for all proxies and the gateway: forwards by the request's host, at random over the known addresses.
    pub(crate) async fn fake_mesh(plan: &Plan) -> (Routes, CancellationToken) {
        let mut map: HashMap<&'static str, Vec<SocketAddr>> = HashMap::new();
        for instance in &plan.instances {
            map.entry(instance.service.name()).or_default().push(instance.app);
        }
        let routes: Routes = Arc::new(Mutex::new(map));
        let stop = CancellationToken::new();
        let listen = plan.instances.iter().map(|i| (i.outbound, None)).chain([(plan.gateway, Some("front"))]);
        for (address, fixed) in listen {
            let listener = TcpListener::bind(address).await.unwrap();
            let (routes, stop2) = (routes.clone(), stop.clone());
            let clients = Arc::new(Mutex::new(HashMap::new()));
            let forever = async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (routes, clients) = (routes.clone(), clients.clone());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (routes, clients) = (routes.clone(), clients.clone());
                        async move { Ok::<_, std::convert::Infallible>(forward(request, fixed, &routes, &clients).await) }
                    });
                    let connection = async move {
                        let _ = auto::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    };
                    tokio::spawn(stop2.clone().run_until_cancelled_owned(connection));
                }
            };
            tokio::spawn(stop.clone().run_until_cancelled_owned(forever));
        }
        (routes, stop)
    }

    async fn forward(
        request: Request<Incoming>,
        fixed: Option<&'static str>,
        routes: &Routes,
        clients: &Mutex<HashMap<SocketAddr, Client>>,
    ) -> Response<Full<Bytes>> {
        let name = match fixed {
            Some(name) => name.to_owned(),
            // Only the absolute form names the host here.
            None => request.uri().host().unwrap_or_default().to_owned(),
        };
        let for_user = request.headers().get(USER).map(|user| format!("{name} for {}", user.to_str().unwrap()));
        let to = {
            let routes = routes.lock();
            let special = for_user.and_then(|key| routes.get(key.as_str()));
            special.or_else(|| routes.get(name.as_str())).cloned().unwrap_or_default()
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let Some(address) = to.choose(&mut rand::rng()) else { return response };
        let client = clients.lock().entry(*address).or_insert_with(|| Client::to_server(*address)).clone();
        if let Ok(answer) = client.get(&format!("http://{name}/"), request.headers().clone()).await {
            response = Response::new(Full::from(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
        }
        response
    }

    async fn get(plan: &Plan, headers: &[(HeaderName, &'static str)]) -> (StatusCode, Value) {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let answer = Client::to_server(plan.gateway).get("http://shop.example/", headers).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn an_answer_tells_the_whole_chain_and_callers_write_it_down() {
        let plan = Plan::pick(0).unwrap();
        let shop = Shop::start(&plan).await.unwrap();
        let (routes, _stop) = fake_mesh(&plan).await;
        let v2 = plan.instances.iter().find(|i| i.name() == "reviews-v2").unwrap().app;
        routes.lock().insert("reviews", vec![v2]);
        let (status, body) = get(&plan, &[]).await;
        assert_eq!(status, 200);
        assert_eq!((&body["service"], &body["version"]), (&json!("front"), &json!("v1")));
        assert_eq!(body["catalogue"]["items"][0]["name"], "Sextant");
        assert_eq!((&body["reviews"]["version"], &body["reviews"]["ratings"]["stars"]), (&json!("v2"), &json!([5, 4])));
        let edges = shop.stats().snapshot().edges;
        let pairs: Vec<_> = edges.keys().map(|Edge { from, to }| format!("{from}>{to}")).collect();
        assert_eq!(pairs, ["front-v1>catalogue", "front-v1>reviews", "reviews-v2>ratings"]);
        let reviews = &edges[&Edge { from: "front-v1".into(), to: "reviews".into() }];
        assert_eq!((reviews.requests, reviews.errors, reviews.versions.get("v2")), (1, 0, Some(&1)));
    }

    #[tokio::test]
    async fn failing_ratings_are_said_and_failing_reviews_fail_the_page() {
        let plan = Plan::pick(0).unwrap();
        let shop = Shop::start(&plan).await.unwrap();
        let (routes, _stop) = fake_mesh(&plan).await;
        let v3 = plan.instances.iter().find(|i| i.name() == "reviews-v3").unwrap().app;
        routes.lock().extend([("reviews", vec![v3]), ("ratings", vec![])]);
        let (status, body) = get(&plan, &[]).await;
        assert_eq!(status, 200);
        assert!(body["reviews"]["ratings"]["error"].as_str().unwrap().contains("503"), "{body}");
        routes.lock().insert("reviews", vec![]);
        let (status, body) = get(&plan, &[]).await;
        assert_eq!(status, 502);
        assert!(body["reviews"]["error"].as_str().unwrap().contains("503"), "{body}");
        let edges = shop.stats().snapshot().edges;
        assert_eq!(edges[&Edge { from: "reviews-v3".into(), to: "ratings".into() }].errors, 1);
    }

    #[tokio::test]
    async fn headers_of_tracing_and_routing_are_passed_on_and_others_are_not() {
        let plan = Plan::pick(0).unwrap();
        let _shop = Shop::start(&plan).await.unwrap();
        let (routes, _stop) = fake_mesh(&plan).await;
        // A server that answers with the headers it got stands in for the catalogue.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        routes.lock().insert("catalogue", vec![listener.local_addr().unwrap()]);
        let echo = service_fn(|request: Request<Incoming>| async move {
            let headers: HashMap<&str, &str> =
                request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(json!(headers).to_string())))
        });
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), echo).await
        });
        let id = HeaderName::from_static("x-request-id");
        let (_, body) = get(&plan, &[(USER, "amelia"), (id, "r-1"), (header::COOKIE, "secret")]).await;
        let seen = &body["catalogue"];
        assert_eq!(
            (&seen["end-user"], &seen["x-request-id"], &seen["cookie"]),
            (&json!("amelia"), &json!("r-1"), &Value::Null)
        );
    }

    #[tokio::test]
    async fn a_browser_gets_a_page_and_anything_but_get_is_refused() {
        let plan = Plan::pick(0).unwrap();
        let _shop = Shop::start(&plan).await.unwrap();
        let catalogue = Client::to_server(plan.instances[1].app);
        let html = [(header::ACCEPT, "text/html".parse().unwrap())].into_iter().collect();
        let answer = catalogue.get("http://catalogue/", html).await.unwrap();
        assert_eq!(answer.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(String::from_utf8_lossy(&answer.body).contains("Sextant"));
        let pool: hyper_util::client::legacy::Client<_, Full<Bytes>> =
            hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://{}/", plan.instances[1].app);
        let post = Request::post(uri).body(Full::default()).unwrap();
        assert_eq!(pool.request(post).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
