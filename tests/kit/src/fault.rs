//! A proxy in front of a platform's real API that passes everything on until it is told to misbehave.
//!
//! It speaks plain HTTP to its clients and HTTP or HTTPS to the server, so that what it does to an answer is an HTTP answer too.
//! Whoever changes the fault cuts every connection, as a server that has trouble does; only [`Fault::Hang`] keeps them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;

use crate::port;

/// How long bytes may take from a server's buffers onto the connection.
const FLUSHED: Duration = Duration::from_millis(20);

type Content = BoxBody<Bytes, Cut>;

/// How the proxy behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Passes everything on.
    None,
    /// Closes every connection at once.
    Refuse,
    /// Takes requests and never answers; what is being answered stops where it is.
    Hang,
    /// Answers every request itself.
    Answer {
        /// The status code.
        status: u16,
        /// Headers, such as `retry-after`.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// Passes requests on, and cuts the connection after so many bytes of each answer's body.
    CutAfter(usize),
    /// Passes requests on, and ends each answer's body after so many bytes as if that were all of it.
    EndAfter(usize),
}

/// A running proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    requests: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

/// An answer was cut on purpose.
#[derive(Debug)]
struct Cut;

#[derive(Clone)]
struct Way {
    client: reqwest::Client,
    server: Arc<str>,
    fault: watch::Receiver<Fault>,
    requests: Arc<AtomicU64>,
}

// === impl Fault ===

impl Fault {
    /// Answers every request with this status and some text.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: format!("{status} on purpose\n") }
    }
}

// === impl FaultProxy ===

impl FaultProxy {
    /// Starts one in front of `server` (`http://HOST:PORT` or `https://HOST:PORT`, then with the certificates to trust).
    ///
    /// # Panics
    /// When it cannot listen, or the certificates cannot be read.
    pub async fn start(server: &str, trusted: Option<&Path>) -> Self {
        let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(path) = trusted {
            let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&bytes).expect("certificates in PEM"));
        }
        let address = port::free();
        let listener = TcpListener::bind(address).await.unwrap_or_else(|e| panic!("cannot listen on {address}: {e}"));
        let (fault, receiver) = watch::channel(Fault::None);
        let requests = Arc::new(AtomicU64::new(0));
        let way = Way {
            client: builder.build().expect("a client"),
            server: server.into(),
            fault: receiver,
            requests: Arc::clone(&requests),
        };
        Self { address, fault, requests, server: tokio::spawn(accept(listener, way)) }
    }

    /// Where clients find it: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Behaves like this from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many requests it has seen.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, way: Way) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, way.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until it is closed, or the fault changes to one that keeps none.
async fn connection(stream: TcpStream, way: Way) {
    let mut fault = way.fault.clone();
    if *fault.borrow_and_update() == Fault::Refuse {
        return;
    }
    let service = service_fn(move |request| answer(way.clone(), request));
    let server = auto::Builder::new(TokioExecutor::new());
    let served = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    loop {
        tokio::select! {
            _ = &mut served => return,
            changed = fault.changed() => {
                if changed.is_err() || *fault.borrow_and_update() != Fault::Hang {
                    return;
                }
            }
        }
    }
}

async fn answer(way: Way, request: Request<Incoming>) -> Result<Response<Content>, Infallible> {
    way.requests.fetch_add(1, Ordering::Relaxed);
    let fault = way.fault.borrow().clone();
    let left = match fault {
        Fault::Hang => return std::future::pending().await,
        Fault::Answer { status, headers, body } => {
            let mut response = Response::new(whole(body.into()));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status code");
            for (name, value) in headers {
                response.headers_mut().insert(HeaderName::from_static(name), value.parse().expect("a header's value"));
            }
            return Ok(response);
        }
        Fault::CutAfter(bytes) => Left::Cut(bytes),
        Fault::EndAfter(bytes) => Left::End(bytes),
        Fault::None | Fault::Refuse => Left::All,
    };
    Ok(pass(&way, request, left).await.unwrap_or_else(|error| {
        let mut response = Response::new(whole(format!("{error:?}\n").into()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }))
}

async fn pass(way: &Way, request: Request<Incoming>, left: Left) -> Result<Response<Content>, reqwest::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = head.headers;
    for name in [HOST, CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let sent = way.client.request(head.method, format!("{}{path}", way.server)).headers(headers).body(body);
    let (mut head, body) = Response::<reqwest::Body>::from(sent.send().await?).into_parts();
    head.headers.remove(CONNECTION);
    head.headers.remove(TRANSFER_ENCODING);
    head.version = http::Version::default();
    if let Left::End(_) = left {
        head.headers.remove(CONTENT_LENGTH);
    }
    let gate = Gate { body, left, fault: way.fault.clone(), flushed: None };
    Ok(Response::from_parts(head, gate.boxed()))
}

fn whole(bytes: Bytes) -> Content {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// How much of an answer's body comes through.
enum Left {
    All,
    Cut(usize),
    End(usize),
}

/// An answer's body on its way.
struct Gate {
    body: reqwest::Body,
    left: Left,
    fault: watch::Receiver<Fault>,
    flushed: Option<Pin<Box<Sleep>>>,
}

// === impl Gate ===

impl Body for Gate {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        // Whoever lets it go on cuts the connection first: nobody needs to be woken.
        if *self.fault.borrow() == Fault::Hang {
            return Poll::Pending;
        }
        match self.left {
            // What came before has to be on its way: a server's buffers are dropped with the connection.
            Left::Cut(0) => {
                let flushed = self.flushed.get_or_insert_with(|| Box::pin(tokio::time::sleep(FLUSHED)));
                return flushed.as_mut().poll(context).map(|()| Some(Err(Cut)));
            }
            Left::End(0) => return Poll::Ready(None),
            _ => {}
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(Cut))),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(None) };
        if let Left::Cut(left) | Left::End(left) = &mut self.left {
            data.truncate(*left);
            *left -= data.len();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, client};

    #[tokio::test]
    async fn it_passes_on_until_it_is_told_otherwise_and_again_after_that() {
        let backend = Backend::start("server").await;
        let proxy = FaultProxy::start(&format!("http://127.0.0.1:{}", backend.port()), None).await;
        let get = || client::get(proxy.address, "h", "/").timeout(Duration::from_millis(500)).send();
        assert_eq!(get().await.unwrap().served_by(), "server");
        proxy.set(Fault::status(403));
        assert_eq!(get().await.unwrap().status, 403);
        proxy.set(Fault::Hang);
        assert!(matches!(get().await, Err(client::Failure::Timeout(_))));
        proxy.set(Fault::Refuse);
        assert!(get().await.is_err());
        let whole = backend_body(&proxy).await;
        proxy.set(Fault::CutAfter(3));
        assert!(matches!(get().await, Err(client::Failure::Body(200, _))), "{:?}", get().await);
        proxy.set(Fault::EndAfter(3));
        assert_eq!(get().await.unwrap().body, whole[..3]);
        proxy.set(Fault::None);
        assert_eq!(get().await.unwrap().body, whole);
        assert!(proxy.requests() >= 7);
    }

    async fn backend_body(proxy: &FaultProxy) -> Bytes {
        proxy.set(Fault::None);
        client::get(proxy.address, "h", "/").send().await.unwrap().body
    }
}
