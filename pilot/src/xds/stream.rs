//! One connected stream, as the response body that HTTP/2 pulls.
//!
//! The body is the whole stream: when HTTP/2 can take more, it reads the requests that arrived, asks the
//! [`Session`] for the next answer and hands it over in chunks. So a stream is one small task, nothing is queued, and a
//! client that does not read is not computed for.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use xebec_proto::envoy::config::core::v3::Node;

use super::frames::Frames;
use super::grpc::Status;
use super::meters::Connected;
use super::request::{Request, Variant};
use super::response::Outgoing;
use super::seats::Seat;
use super::server::Core;
use super::session::{Answer, Event, Session};
use super::shape::{AttachError, ShapeLease};
use super::status::{Listed, Mark};
use crate::proxy::Proxy;
use crate::resources::ResourceType;

/// How many requests are read before others get the thread.
const BURST: usize = 32;

type Attaching = Pin<Box<dyn Future<Output = Result<ShapeLease, AttachError>> + Send>>;

/// The response body of a discovery stream.
pub struct XdsBody<B>(Option<Box<Stream<B>>>);

struct Stream<B> {
    core: Arc<Core>,
    incoming: B,
    frames: Frames,
    variant: Variant,
    only: Option<ResourceType>,
    peer: Option<SocketAddr>,
    phase: Phase,
    outgoing: Option<Outgoing>,
}

enum Phase {
    /// Nobody has said who they are.
    Greeting,
    /// The engine finds the proxy's shape; the first request waits.
    Attaching(Attaching, Arc<Proxy>, Bytes),
    Open(Box<Open>),
}

struct Open {
    session: Session,
    lease: ShapeLease,
    moves: u64,
    listed: Listed,
    _connected: Connected,
    /// When the oldest change entered the mesh that this proxy has not accepted yet.
    behind: Option<Instant>,
    /// The proxy was in sync once: what follows is convergence, not start.
    settled: bool,
}

enum Step {
    Send(Outgoing),
    End(Status),
    Wait,
}

// === impl XdsBody ===

impl<B> XdsBody<B> {
    pub(crate) fn new(
        core: Arc<Core>,
        incoming: B,
        variant: Variant,
        only: Option<ResourceType>,
        peer: Option<SocketAddr>,
    ) -> Self {
        let frames = Frames::new(core.options.max_request_bytes);
        let phase = Phase::Greeting;
        Self(Some(Box::new(Stream { core, incoming, frames, variant, only, peer, phase, outgoing: None })))
    }

    /// A body that has ended already.
    pub(crate) fn ended() -> Self {
        Self(None)
    }
}

impl<B> Body for XdsBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some(stream) = &mut this.0 else { return Poll::Ready(None) };
        loop {
            if let Some(outgoing) = &mut stream.outgoing {
                match outgoing.next_chunk() {
                    Some(chunk) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                    None => stream.outgoing = None,
                }
            }
            match stream.step(cx) {
                Step::Send(outgoing) => stream.outgoing = Some(outgoing),
                Step::End(status) => {
                    this.0 = None;
                    return Poll::Ready(Some(Ok(Frame::trailers(status.headers()))));
                }
                Step::Wait => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

// === impl Stream ===

impl<B> Stream<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        loop {
            match &mut self.phase {
                Phase::Greeting => {
                    let message = match self.poll_message(cx) {
                        Poll::Pending => return Step::Wait,
                        Poll::Ready(Err(status)) => return Step::End(status),
                        Poll::Ready(Ok(None)) => return Step::End(Status::ok()),
                        Poll::Ready(Ok(Some(message))) => message,
                    };
                    match greet(self.variant, &message) {
                        Ok(proxy) => {
                            let (shapes, guest) = (Arc::clone(&self.core.shapes), Arc::clone(&proxy));
                            let future = Box::pin(async move { shapes.attach(guest).await });
                            self.phase = Phase::Attaching(future, proxy, message);
                        }
                        Err(status) => return Step::End(status),
                    }
                }
                Phase::Attaching(future, proxy, first) => {
                    let lease = match future.as_mut().poll(cx) {
                        Poll::Pending => return Step::Wait,
                        Poll::Ready(Ok(lease)) => lease,
                        Poll::Ready(Err(error)) => return Step::End(refusal_of(&error)),
                    };
                    let (proxy, first) = (Arc::clone(proxy), std::mem::take(first));
                    let mut open = Box::new(self.open(proxy, lease));
                    open.lease.inbox().register(cx.waker());
                    let outcome = open.take(&self.core, self.only, self.variant, &first);
                    self.phase = Phase::Open(open);
                    if let Err(status) = outcome {
                        return Step::End(status);
                    }
                }
                Phase::Open(_) => return self.serve(cx),
            }
        }
    }

    fn open(&self, proxy: Arc<Proxy>, lease: ShapeLease) -> Open {
        let (moves, shape, inbox) = (lease.moved(), lease.shape(), Arc::clone(lease.inbox()));
        let seat = Seat::new(Arc::clone(&shape), Arc::clone(&inbox));
        let connected = Connected::new(&proxy.version);
        let method = (self.variant, self.only);
        Open {
            session: Session::new(self.variant, seat),
            lease,
            moves,
            listed: Listed::new(&self.core.streams, proxy, self.peer, method, inbox, shape),
            _connected: connected,
            behind: None,
            settled: false,
        }
    }

    fn serve(&mut self, cx: &mut Context<'_>) -> Step {
        for turn in 0.. {
            if turn == BURST {
                cx.waker().wake_by_ref();
                break;
            }
            let message = match self.poll_message(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(status)) => return Step::End(status),
                Poll::Ready(Ok(None)) => return Step::End(Status::ok()),
                Poll::Ready(Ok(Some(message))) => message,
            };
            if let Phase::Open(open) = &mut self.phase
                && let Err(status) = open.take(&self.core, self.only, self.variant, &message)
            {
                return Step::End(status);
            }
        }
        let Phase::Open(open) = &mut self.phase else { return Step::Wait };
        open.lease.inbox().register(cx.waker());
        if self.core.stopping.load(Ordering::Acquire) {
            return Step::End(Status::unavailable("the control plane is stopping; connect to another replica"));
        }
        open.follow_moves();
        let began = Instant::now();
        match open.session.next_answer() {
            Some(answer) => {
                let outgoing = Outgoing::new(self.variant, &answer);
                open.note_sent(&self.core, &answer, &outgoing, began);
                Step::Send(outgoing)
            }
            None => {
                open.note_settled(&self.core);
                Step::Wait
            }
        }
    }

    /// The next request. `None` when the client has ended its side.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.frames.next()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.frames.push(data);
                    }
                }
                // A reset or a lost connection is an end like any other.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(None)),
            }
        }
    }
}

/// Reads who is calling from a stream's first request.
fn greet(variant: Variant, message: &[u8]) -> Result<Arc<Proxy>, Status> {
    let request = Request::parse(variant, message).map_err(|error| Status::invalid(error.to_string()))?;
    let node = request.node.ok_or_else(|| {
        Status::invalid("the first request of a stream must carry its node; set `node.id` in the bootstrap")
    })?;
    let node = Node::decode(node).map_err(|error| Status::invalid(format!("the node cannot be read: {error}")))?;
    let proxy =
        Proxy::from_node(&node, variant == Variant::Delta).map_err(|error| Status::invalid(error.to_string()))?;
    Ok(Arc::new(proxy))
}

fn refusal_of(error: &AttachError) -> Status {
    match error {
        AttachError::Stopping => Status::unavailable(error.to_string()),
    }
}

// === impl Open ===

impl Open {
    /// Takes one request.
    fn take(
        &mut self,
        core: &Core,
        only: Option<ResourceType>,
        variant: Variant,
        message: &[u8],
    ) -> Result<(), Status> {
        let mut request = Request::parse(variant, message).map_err(|error| Status::invalid(error.to_string()))?;
        if let Some(only) = only {
            if request.type_url.is_empty() {
                request.type_url = only.type_url();
            }
            if request.type_url != only.type_url() {
                let text = format!("this service serves {} and not {:?}", only.type_url(), request.type_url);
                return Err(Status::invalid(text));
            }
        } else if request.type_url.is_empty() {
            return Err(Status::invalid("a request on an aggregated stream must name its type_url"));
        }
        let status = &self.listed.status;
        match self.session.on_request(&request) {
            Err(error) => return Err(Status::exhausted(error.to_string())),
            Ok(Event::Subscribed(kind)) => status.subscribed(kind, self.session.has_all(kind)),
            Ok(Event::Accepted(kind, nonce)) => status.accepted(kind, nonce),
            Ok(Event::Stale(kind)) => core.meters.stale_nonce(kind),
            Ok(Event::UnknownType(true)) => {
                tracing::info!(proxy = %status.proxy.id, type_url = %request.type_url, "a type that is not served; answered with nothing");
            }
            Ok(Event::UnknownType(false)) => {}
            Ok(Event::Refused(refusal)) => {
                let origins: Vec<String> =
                    refusal.resources.iter().flat_map(|r| r.origins.iter()).map(ToString::to_string).collect();
                tracing::warn!(
                    proxy = %status.proxy.id,
                    kind = %refusal.kind,
                    resources = ?refusal.resources.iter().map(|r| &r.name).take(5).collect::<Vec<_>>(),
                    origins = ?origins.iter().take(5).collect::<Vec<_>>(),
                    "refused: {}", refusal.message
                );
                core.meters.refused(&status.proxy, &refusal);
                status.refused(refusal);
            }
        }
        Ok(())
    }

    fn follow_moves(&mut self) {
        let moves = self.lease.moved();
        if moves != self.moves {
            self.moves = moves;
            let shape = self.lease.shape();
            self.session.move_to(Arc::clone(&shape));
            self.listed.status.moved(shape);
        }
    }

    fn note_sent(&mut self, core: &Core, answer: &Answer, outgoing: &Outgoing, began: Instant) {
        let Some(kind) = answer.kind else { return };
        core.meters.pushed(kind, began.elapsed(), outgoing.length());
        let mark = Mark { nonce: answer.nonce, version: answer.version, at: SystemTime::now() };
        self.listed.status.sent(kind, mark, answer.items.len(), outgoing.length());
        if self.behind.is_none() {
            self.behind = Some(self.session.shape().published().since);
        }
    }

    fn note_settled(&mut self, core: &Core) {
        if self.behind.is_some() && !self.session.in_flight() {
            let since = self.behind.take();
            if self.settled
                && let Some(since) = since
            {
                core.meters.converged(since.elapsed());
            }
            self.settled = true;
        }
    }
}
