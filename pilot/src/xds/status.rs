//! Every connected stream, and per type what it was last sent, has accepted or has refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::request::Variant;
use super::seats::Inbox;
use super::session::{Refusal, RefusedResource};
use super::shape::Shape;
use crate::proxy::Proxy;
use crate::resources::ResourceType;

/// Every connected stream of a server.
#[derive(Debug, Default)]
pub struct Streams {
    next: AtomicU64,
    open: Mutex<FxHashMap<u64, Arc<StreamStatus>>>,
}

/// One connected stream.
#[derive(Debug)]
pub struct StreamStatus {
    /// Unique within this server.
    pub id: u64,
    /// Who is connected.
    pub proxy: Arc<Proxy>,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// Which protocol it speaks.
    pub variant: Variant,
    /// The only type of a per-type service's stream; `None` for an aggregated one.
    pub only: Option<ResourceType>,
    /// Since when.
    pub connected: SystemTime,
    pub(crate) inbox: Arc<Inbox>,
    shape: Mutex<Arc<Shape>>,
    types: Mutex<[Option<Box<TypeStatus>>; 5]>,
}

/// One type on one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// The last answer that was sent.
    pub sent: Option<Mark>,
    /// The last answer that was accepted.
    pub accepted: Option<Mark>,
    /// What was refused and is still served, or was refused last.
    pub refused: Option<(Refusal, SystemTime)>,
    /// The client brought everything along from an earlier stream, and nothing had to be sent.
    pub kept: bool,
    /// How many resources were sent on this stream.
    pub resources: u64,
    /// How many bytes were sent on this stream.
    pub bytes: u64,
}

/// A moment in the life of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The answer's nonce.
    pub nonce: u64,
    /// The digest of the type when it was sent.
    pub version: u64,
    /// When.
    pub at: SystemTime,
}

/// What a type's state amounts to, in Istio's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// What was sent last was accepted.
    Synced,
    /// What was sent last is not acknowledged yet.
    Stale,
    /// Nothing was sent.
    NotSent,
    /// Something that is served was refused.
    Error,
}

/// Keeps a stream in the list until dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    streams: Arc<Streams>,
    pub(crate) status: Arc<StreamStatus>,
}

// === impl Streams ===

impl Streams {
    /// All connected streams, in the order in which they connected.
    pub fn list(&self) -> Vec<Arc<StreamStatus>> {
        let mut list: Vec<_> = self.open.lock().values().cloned().collect();
        list.sort_by_key(|s| s.id);
        list
    }

    /// How many streams are connected.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether none is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The streams of one proxy, by its node id.
    pub fn of(&self, id: &str) -> Vec<Arc<StreamStatus>> {
        self.list().into_iter().filter(|s| &*s.proxy.id == id).collect()
    }

    pub(crate) fn wake_all(&self) {
        for stream in self.open.lock().values() {
            stream.inbox.wake();
        }
    }
}

impl Listed {
    pub(crate) fn new(
        streams: &Arc<Streams>,
        proxy: Arc<Proxy>,
        peer: Option<SocketAddr>,
        method: (Variant, Option<ResourceType>),
        inbox: Arc<Inbox>,
        shape: Arc<Shape>,
    ) -> Self {
        let id = streams.next.fetch_add(1, Ordering::Relaxed) + 1;
        let status = Arc::new(StreamStatus {
            id,
            proxy,
            peer,
            variant: method.0,
            only: method.1,
            connected: SystemTime::now(),
            inbox,
            shape: Mutex::new(shape),
            types: Mutex::default(),
        });
        streams.open.lock().insert(id, Arc::clone(&status));
        Self { streams: Arc::clone(streams), status }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.streams.open.lock().remove(&self.status.id);
    }
}

// === impl StreamStatus ===

impl StreamStatus {
    /// The shape that it is served from.
    pub fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape.lock())
    }

    /// The state of one type; `None` when the stream did not subscribe to it. A refusal is over when nothing that was refused is
    /// served any more, not when some later answer about other resources is accepted.
    pub fn of(&self, kind: ResourceType) -> Option<TypeStatus> {
        let mut status = self.types.lock()[kind as usize].as_deref().cloned()?;
        let shape = self.shape();
        let snapshot = shape.snapshot();
        let served = |r: &RefusedResource| snapshot.set(kind).get(&r.name).is_some_and(|now| now.version == r.version);
        let sent = status.sent.map(|m| m.nonce);
        status.refused.take_if(|(refusal, _)| Some(refusal.nonce) != sent && !refusal.resources.iter().any(served));
        Some(status)
    }

    pub(crate) fn moved(&self, shape: Arc<Shape>) {
        *self.shape.lock() = shape;
    }

    fn update(&self, kind: ResourceType, f: impl FnOnce(&mut TypeStatus)) {
        f(self.types.lock()[kind as usize].get_or_insert_default());
    }

    pub(crate) fn subscribed(&self, kind: ResourceType, kept: bool) {
        self.update(kind, |t| t.kept = kept && t.sent.is_none());
    }

    pub(crate) fn sent(&self, kind: ResourceType, mark: Mark, resources: usize, bytes: usize) {
        self.update(kind, |t| {
            t.sent = Some(mark);
            t.kept = false;
            t.resources += resources as u64;
            t.bytes += bytes as u64;
        });
    }

    /// Notes an acceptance.
    pub(crate) fn accepted(&self, kind: ResourceType, nonce: u64) {
        self.update(kind, |t| {
            t.accepted = t.sent.filter(|m| m.nonce == nonce).map(|m| Mark { at: SystemTime::now(), ..m });
        });
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        self.update(refusal.kind, |t| t.refused = Some((refusal, SystemTime::now())));
    }
}

// === impl TypeStatus ===

impl TypeStatus {
    /// What this amounts to.
    pub fn sync(&self) -> Sync {
        let (sent, accepted) = (self.sent.map(|m| m.nonce), self.accepted.map(|m| m.nonce));
        match (&self.refused, sent) {
            (Some(_), Some(_)) => Sync::Error,
            (_, None) if self.kept => Sync::Synced,
            (_, None) => Sync::NotSent,
            (_, Some(_)) if sent == accepted => Sync::Synced,
            (_, Some(_)) => Sync::Stale,
        }
    }
}

// === impl Sync ===

impl Sync {
    /// Istio's word for it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT SENT",
            Self::Error => "ERROR",
        }
    }
}
