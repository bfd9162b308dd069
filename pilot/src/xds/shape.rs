//! The contract between the engine, which computes resources, and the server, which serves them.
//!
//! A [`Shape`] is what every proxy of one kind is served. The engine publishes a new [`ShapeSnapshot`] into it; the
//! shape wakes the streams that subscribed to something that changed, and nobody else. The engine hands shapes out
//! through [`Shapes`], and moves a connected proxy to another shape through its [`ShapeMover`].
//!
//! - ALWAYS: a publication costs what changed and who subscribed to it.
//! - ALWAYS: a reader sees one publication entirely or not at all.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::pack::Pack;
use super::request::Variant;
use super::seats::{Inbox, Seats};
use crate::proxy::Proxy;
use crate::resources::{Delta, ResourceType, ShapeSnapshot};

/// The version of every resource of one type, by name. Copies share structure, so that what a stream was sent is
/// remembered at the price of a pointer, and comparing it with the present costs what differs.
pub type Versions = imbl::OrdMap<Arc<str>, u64>;

/// What proxies with equal inputs are served.
pub struct Shape {
    current: ArcSwap<Published>,
    pub(crate) seats: Mutex<Seats>,
}

/// One publication: a snapshot and the versions in it.
pub struct Published {
    /// The resources.
    pub snapshot: Arc<ShapeSnapshot>,
    /// Their versions, indexed by [`ResourceType`].
    pub versions: [Versions; 5],
    /// A hash over all names and versions of a type: equal digests are equal content.
    pub digests: [u64; 5],
    /// When the change that led here entered the mesh.
    pub since: Instant,
    pub(crate) packs: [Mutex<Weak<Pack>>; Variant::COUNT * 5],
}

/// Gives every connected proxy its shape. The engine implements this.
#[async_trait]
pub trait Shapes: Send + Sync + 'static {
    /// The shape of `proxy`, computed first if nobody like it is connected. May wait until the mesh is ready.
    ///
    /// # Errors
    /// See [`AttachError`]; the client is told and will come back.
    async fn attach(&self, proxy: Arc<Proxy>) -> Result<ShapeLease, AttachError>;
}

/// Why a proxy gets no shape.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The control plane is going away.
    #[error("the control plane is stopping; connect to another replica")]
    Stopping,
}

/// A connected proxy's hold on its shape. Dropping it says that the proxy is gone.
pub struct ShapeLease {
    cell: Arc<LeaseCell>,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

/// The engine's side of a [`ShapeLease`]: moves the proxy to another shape while it is connected.
#[derive(Clone)]
pub struct ShapeMover {
    cell: Weak<LeaseCell>,
}

struct LeaseCell {
    shape: ArcSwap<Shape>,
    moves: AtomicU64,
    inbox: Arc<Inbox>,
}

// === impl Shape ===

impl Shape {
    /// Makes a shape that serves `snapshot`.
    pub fn new(snapshot: ShapeSnapshot) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(Published::from_snapshot(snapshot, Instant::now())),
            seats: Mutex::new(Seats::default()),
        })
    }

    /// Makes a shape that serves `snapshot`, which differs from what `base` serves in what `delta` names: costs the difference.
    pub fn derived(base: &Published, snapshot: ShapeSnapshot, delta: &Delta) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(base.next(snapshot, delta, Instant::now())),
            seats: Mutex::new(Seats::default()),
        })
    }

    /// What is served at this moment.
    pub fn snapshot(&self) -> Arc<ShapeSnapshot> {
        Arc::clone(&self.current.load().snapshot)
    }

    /// The publication that is served at this moment.
    pub fn published(&self) -> Arc<Published> {
        self.current.load_full()
    }

    /// Serves `snapshot` from now on. `delta` names everything that differs from what was served before; a name that
    /// it lacks is not sent. Only the engine's single writer calls this.
    pub fn publish(&self, snapshot: ShapeSnapshot, delta: &Delta) {
        self.publish_since(snapshot, delta, Instant::now());
    }

    /// As [`Shape::publish`], and says when the change that led here entered the mesh: convergence is measured from it.
    pub fn publish_since(&self, snapshot: ShapeSnapshot, delta: &Delta, since: Instant) {
        let next = self.current.load().next(snapshot, delta, since);
        self.current.store(Arc::new(next));
        self.seats.lock().wake(delta);
    }

    /// How many streams are served from this shape.
    pub fn streams(&self) -> usize {
        self.seats.lock().len()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Shape")
            .field("generation", &current.snapshot.generation)
            .field("resources", &current.versions.each_ref().map(Versions::len))
            .finish_non_exhaustive()
    }
}

// === impl Published ===

impl Published {
    fn from_snapshot(snapshot: ShapeSnapshot, since: Instant) -> Self {
        let mut versions: [Versions; 5] = Default::default();
        let mut digests = [0; 5];
        for kind in ResourceType::ALL {
            let set = snapshot.set(kind);
            versions[kind as usize] = set.iter().map(|(name, r)| (Arc::clone(name), r.version)).collect();
            digests[kind as usize] = set.iter().fold(0, |sum, (name, r)| sum ^ mark(name, r.version));
        }
        Self { snapshot: Arc::new(snapshot), versions, digests, since, packs: Default::default() }
    }

    fn next(&self, snapshot: ShapeSnapshot, delta: &Delta, since: Instant) -> Self {
        let mut versions = self.versions.clone();
        let mut digests = self.digests;
        for kind in ResourceType::ALL {
            let (set, map, digest) = (snapshot.set(kind), &mut versions[kind as usize], &mut digests[kind as usize]);
            for name in &delta.names[kind as usize] {
                let after = set.get(name).map(|r| r.version);
                let before = map.get(name).copied();
                if before == after {
                    continue;
                }
                if let Some(version) = before {
                    *digest ^= mark(name, version);
                }
                match after {
                    Some(version) => {
                        *digest ^= mark(name, version);
                        map.insert(Arc::clone(name), version);
                    }
                    None => {
                        map.remove(name);
                    }
                }
            }
        }
        Self { snapshot: Arc::new(snapshot), versions, digests, since, packs: Default::default() }
    }

    /// The versions of one type.
    pub fn versions(&self, kind: ResourceType) -> &Versions {
        &self.versions[kind as usize]
    }

    /// The digest of one type, as it is written on the wire.
    pub fn digest_text(&self, kind: ResourceType) -> String {
        format!("{:016x}", self.digests[kind as usize])
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// What one resource adds to its type's digest. Exclusive-or of these does not depend on order and can be undone.
pub(crate) fn mark(name: &str, version: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), version)
}

// === impl ShapeLease ===

impl ShapeLease {
    /// Makes a lease on `shape`, and the handle that moves it.
    pub fn new(shape: Arc<Shape>) -> (Self, ShapeMover) {
        let cell = Arc::new(LeaseCell {
            shape: ArcSwap::new(shape),
            moves: AtomicU64::new(0),
            inbox: Arc::new(Inbox::default()),
        });
        let mover = ShapeMover { cell: Arc::downgrade(&cell) };
        (Self { cell, _guard: None }, mover)
    }

    /// Attaches something that lives exactly as long as the lease: the engine learns from its drop that the proxy is gone.
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }

    /// The shape that this proxy is served from now.
    pub fn shape(&self) -> Arc<Shape> {
        self.cell.shape.load_full()
    }

    /// Counts the moves so far: a reader that sees another number than before must look at [`ShapeLease::shape`] again.
    pub fn moved(&self) -> u64 {
        self.cell.moves.load(Ordering::Acquire)
    }

    /// Where this proxy's stream is woken.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.cell.inbox
    }
}

impl fmt::Debug for ShapeLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShapeLease").field("shape", &self.shape()).finish_non_exhaustive()
    }
}

// === impl ShapeMover ===

impl ShapeMover {
    /// Serves the proxy from `shape` from now on. Content that both shapes have is not sent again. `false` when the
    /// proxy is no longer connected.
    pub fn move_to(&self, shape: Arc<Shape>) -> bool {
        let Some(cell) = self.cell.upgrade() else { return false };
        if !Arc::ptr_eq(&cell.shape.load(), &shape) {
            cell.shape.store(shape);
            cell.moves.fetch_add(1, Ordering::Release);
            cell.inbox.wake();
        }
        true
    }

    /// Whether the proxy is still connected.
    pub fn is_connected(&self) -> bool {
        self.cell.strong_count() > 0
    }
}

impl fmt::Debug for ShapeMover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShapeMover").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::xds::fixture::{delta_of, snapshot};

    #[test]
    fn a_digest_after_changes_equals_the_digest_of_the_same_content_made_at_once() {
        let first = snapshot(&[("c/a", 1), ("c/b", 1), ("e/a", 1)]);
        let last = snapshot(&[("c/b", 2), ("c/z", 1), ("e/a", 1)]);
        let shape = Shape::new(first.clone());
        shape.publish(last.clone(), &delta_of(&first, &last));
        let changed = shape.published();
        let fresh = Shape::new(last).published();
        assert_eq!(changed.digests, fresh.digests);
        assert_eq!(changed.versions, fresh.versions);
    }

    #[test]
    fn a_type_that_did_not_change_keeps_its_version_map_by_pointer() {
        let first = snapshot(&[("c/a", 1), ("e/a", 1)]);
        let last = snapshot(&[("c/a", 2), ("e/a", 1)]);
        let shape = Shape::new(first.clone());
        let before = shape.published();
        shape.publish(last.clone(), &delta_of(&first, &last));
        let after = shape.published();
        assert!(before.versions(ResourceType::Endpoint).ptr_eq(after.versions(ResourceType::Endpoint)));
        assert!(!before.versions(ResourceType::Cluster).ptr_eq(after.versions(ResourceType::Cluster)));
    }

    #[test]
    fn a_dropped_lease_drops_its_guard_and_disconnects_its_mover() {
        let guard = Arc::new(());
        let (lease, mover) = ShapeLease::new(Shape::new(ShapeSnapshot::default()));
        let lease = lease.with_guard(Arc::clone(&guard));
        assert!(mover.is_connected());
        drop(lease);
        assert_eq!(Arc::strong_count(&guard), 1);
        assert!(!mover.move_to(Shape::new(ShapeSnapshot::default())));
    }
}
