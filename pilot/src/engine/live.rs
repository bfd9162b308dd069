//! The shapes that connected proxies are served from, and the parts that they are made of.
//!
//! A shape is an outbound part, shared with every other shape of the same [`OutboundShape`], and the few inbound resources of its
//! workload on top. A change is computed once per part; each shape on it takes the part's sets by pointer.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxBuildHasher;

use super::dirty;
use super::part::{Part, Work};
use super::pool::Pool;
use crate::mesh::{ChangeSet, Mesh};
use crate::proxy::{InboundShape, OutboundShape, Proxy, ProxyKind};
use crate::resources::{Delta, Encoded, ResourceSet, ResourceType, ShapeSnapshot};
use crate::translate::{grpc, inbound};
use crate::xds::shape::{Published, Shape, ShapeLease, ShapeMover};

/// Names one connection.
pub type LeaseId = u64;

/// Everything that is computed for connected proxies.
#[derive(Debug, Default)]
pub struct Live {
    parts: HashMap<Arc<OutboundShape>, LivePart, FxBuildHasher>,
    shapes: HashMap<ShapeKey, LiveShape, FxBuildHasher>,
    leases: HashMap<LeaseId, Lease, FxBuildHasher>,
    by_ip: HashMap<IpAddr, BTreeSet<LeaseId>, FxBuildHasher>,
    next_lease: LeaseId,
    pool: Pool,
    /// What has been computed so far.
    pub work: Work,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ShapeKey {
    outbound: Arc<OutboundShape>,
    inbound: Arc<InboundShape>,
}

#[derive(Debug)]
struct LivePart {
    part: Part,
    /// Publishes the part alone to nobody; shapes are derived from it without hashing everything anew.
    base: Arc<Shape>,
    shapes: usize,
}

#[derive(Debug)]
struct LiveShape {
    shape: Arc<Shape>,
    inbound: Inbound,
    leases: BTreeSet<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    proxy: Arc<Proxy>,
    key: ShapeKey,
    mover: ShapeMover,
}

/// The inbound resources of one workload, by type.
type Inbound = [Vec<Arc<Encoded>>; 5];

/// What a proxy like this is served, computed from nothing.
pub fn translate_once(mesh: &Mesh, proxy: &Proxy) -> ShapeSnapshot {
    let (mut pool, mut work) = (Pool::default(), Work::default());
    let part = Part::new(mesh, Arc::new(mesh.outbound_shape(proxy)), &mut pool, &mut work);
    let inbound = inbound_of(mesh, &mesh.inbound_shape(proxy), &mut pool);
    ShapeSnapshot { generation: 1, sets: compose(part.sets(), &inbound) }
}

fn inbound_of(mesh: &Mesh, shape: &InboundShape, pool: &mut Pool) -> Inbound {
    let drafts = match shape.kind {
        ProxyKind::Sidecar => inbound::resources(mesh, shape),
        ProxyKind::Grpc => grpc::inbound(shape),
        ProxyKind::Router => Vec::new(),
    };
    let mut made = Inbound::default();
    for draft in drafts {
        made[draft.kind as usize].push(pool.share(draft.kind, draft.seal()));
    }
    made
}

/// Whether other DestinationRules than before may hold for what a workload serves: one changed, or a name that one writes means another
/// service now. An upper bound, by the first labels of names.
fn may_limit(change: &ChangeSet, shape: &InboundShape) -> bool {
    fn first(name: &str) -> &str {
        name.split('.').next().unwrap_or_default()
    }
    let changed: BTreeSet<&str> = (change.destination_rules.iter().flat_map(|(_, host)| host.candidates()))
        .chain(change.appeared.iter().map(|key| &key.hostname))
        .chain(&change.siblings)
        .map(|name| first(name))
        .collect();
    !changed.is_empty()
        && shape.instances.iter().any(|instance| {
            let service = &instance.service;
            changed.contains("*")
                || std::iter::once(&service.key.hostname)
                    .chain(&service.aliases)
                    .any(|name| changed.contains(first(name)))
        })
}

/// Inbound resources take the place of outbound ones of the same name: an address that both would bind is the workload's own.
fn compose(outbound: &[ResourceSet; 5], inbound: &Inbound) -> [ResourceSet; 5] {
    let mut sets = outbound.clone();
    for (set, resources) in sets.iter_mut().zip(inbound) {
        for resource in resources {
            set.insert(Arc::clone(&resource.name), Arc::clone(resource));
        }
    }
    sets
}

/// The candidates that really are different between two snapshots.
fn compare<'a>(
    old: &[ResourceSet; 5],
    new: &[ResourceSet; 5],
    candidates: impl Iterator<Item = (ResourceType, &'a Arc<str>)>,
) -> Delta {
    let mut delta = Delta::default();
    let mut seen: BTreeSet<(ResourceType, &Arc<str>)> = BTreeSet::new();
    for (kind, name) in candidates {
        let version = |sets: &[ResourceSet; 5]| sets[kind as usize].get(name).map(|r| r.version);
        if version(old) != version(new) && seen.insert((kind, name)) {
            delta.names[kind as usize].push(Arc::clone(name));
        }
    }
    delta
}

fn names_of(inbound: &Inbound) -> impl Iterator<Item = (ResourceType, &Arc<str>)> {
    ResourceType::ALL.into_iter().flat_map(|kind| inbound[kind as usize].iter().map(move |r| (kind, &r.name)))
}

fn names_in(delta: &Delta) -> impl Iterator<Item = (ResourceType, &Arc<str>)> {
    ResourceType::ALL.into_iter().flat_map(|kind| delta.names[kind as usize].iter().map(move |name| (kind, name)))
}

// === impl Live ===

impl Live {
    /// Gives a proxy its shape, computed first if nobody like it is connected.
    pub fn attach(&mut self, mesh: &Mesh, proxy: Arc<Proxy>) -> (ShapeLease, LeaseId) {
        let key =
            ShapeKey { outbound: Arc::new(mesh.outbound_shape(&proxy)), inbound: Arc::new(mesh.inbound_shape(&proxy)) };
        let id = self.next_lease;
        self.next_lease += 1;
        let (shape, key) = self.join(mesh, key, id);
        let (lease, mover) = ShapeLease::new(shape);
        for ip in &proxy.ips {
            self.by_ip.entry(*ip).or_default().insert(id);
        }
        self.leases.insert(id, Lease { proxy, key, mover });
        (lease, id)
    }

    /// A proxy is gone.
    pub fn detach(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        for ip in &lease.proxy.ips {
            if let Some(ids) = self.by_ip.get_mut(ip) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_ip.remove(ip);
                }
            }
        }
        self.leave(&lease.key, id);
    }

    /// Brings everything that connected proxies are served in line with `new`. Shapes of which nothing came out different are not
    /// published.
    pub fn update(&mut self, old: &Mesh, new: &Mesh, change: &ChangeSet, since: Instant) {
        // A part that nobody uses is not worth keeping up to date; until a change it may serve a proxy that comes back.
        self.parts.retain(|_, part| part.shapes > 0);
        let mut deltas: HashMap<Arc<OutboundShape>, Delta, FxBuildHasher> = HashMap::default();
        for (shape, live) in &mut self.parts {
            let dirty = {
                let part = &live.part;
                dirty::dirty(old, new, change, shape, || part.hosts())
            };
            let delta = live.part.update(new, dirty, &mut self.pool, &mut self.work);
            if !delta.is_empty() {
                live.base.publish_since(next(&live.base, live.part.sets().clone()), &delta, since);
                deltas.insert(Arc::clone(shape), delta);
            }
        }
        let everything = change.settings || !change.sidecars.is_empty();
        for (key, shape) in &mut self.shapes {
            let delta = deltas.get(&key.outbound);
            let stale = everything || may_limit(change, &key.inbound);
            if stale && let Some(part) = self.parts.get(&key.outbound) {
                let inbound = inbound_of(new, &key.inbound, &mut self.pool);
                shape.publish(part.part.sets(), delta, Some(inbound), since);
            } else if let (Some(delta), Some(part)) = (delta, self.parts.get(&key.outbound)) {
                shape.publish(part.part.sets(), Some(delta), None, since);
            }
        }
        let affected: BTreeSet<LeaseId> = if change.selection {
            self.leases.keys().copied().collect()
        } else {
            change.workloads.iter().flat_map(|(ip, workload)| self.leases_at(*ip, workload.as_ref())).collect()
        };
        for id in affected {
            self.reconsider(new, id, since);
        }
    }

    /// How many shapes and parts there are, and how many proxies are connected.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.shapes.len(), self.parts.len(), self.leases.len())
    }

    fn leases_at(&self, ip: IpAddr, workload: Option<&Arc<str>>) -> Vec<LeaseId> {
        let ids = self.by_ip.get(&ip).into_iter().flatten().copied();
        ids.filter(|id| workload.is_none_or(|w| self.leases.get(id).is_some_and(|l| l.proxy.name == *w))).collect()
    }

    /// A proxy's own inputs may have changed: it may need another shape, or its shape other inbound resources.
    fn reconsider(&mut self, mesh: &Mesh, id: LeaseId, since: Instant) {
        let Some(lease) = self.leases.get(&id) else { return };
        let inbound = mesh.inbound_shape(&lease.proxy);
        let outbound = mesh.outbound_shape(&lease.proxy);
        let old = lease.key.clone();
        let same_outbound = *old.outbound == outbound;
        if same_outbound && *old.inbound == inbound {
            return;
        }
        let key = ShapeKey {
            outbound: if same_outbound { Arc::clone(&old.outbound) } else { Arc::new(outbound) },
            inbound: Arc::new(inbound),
        };
        let alone = self.shapes.get(&old).is_some_and(|s| s.leases.len() == 1);
        if same_outbound && alone && !self.shapes.contains_key(&key) {
            // Nobody else is served from this shape: it becomes the new one, and streams need not move.
            if let (Some(mut shape), Some(part)) = (self.shapes.remove(&old), self.parts.get(&key.outbound)) {
                let inbound = inbound_of(mesh, &key.inbound, &mut self.pool);
                shape.publish(part.part.sets(), None, Some(inbound), since);
                self.shapes.insert(key.clone(), shape);
            }
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.key = key;
            }
            return;
        }
        let (shape, key) = self.join(mesh, key, id);
        self.leave(&old, id);
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.mover.move_to(shape);
            lease.key = key;
        }
    }

    fn join(&mut self, mesh: &Mesh, key: ShapeKey, id: LeaseId) -> (Arc<Shape>, ShapeKey) {
        if let Some(shape) = self.shapes.get_mut(&key) {
            shape.leases.insert(id);
            return (Arc::clone(&shape.shape), key);
        }
        let Self { parts, pool, work, .. } = self;
        let part = parts.entry(Arc::clone(&key.outbound)).or_insert_with(|| {
            let part = Part::new(mesh, Arc::clone(&key.outbound), pool, work);
            let base = Shape::new(ShapeSnapshot { generation: 1, sets: part.sets().clone() });
            LivePart { part, base, shapes: 0 }
        });
        part.shapes += 1;
        let key = ShapeKey { outbound: Arc::clone(part.part.shape()), ..key };
        let inbound = inbound_of(mesh, &key.inbound, pool);
        let base = part.base.published();
        let shape = derive(&base, part.part.sets(), &inbound);
        self.shapes.insert(key.clone(), LiveShape { shape: Arc::clone(&shape), inbound, leases: BTreeSet::from([id]) });
        (shape, key)
    }

    fn leave(&mut self, key: &ShapeKey, id: LeaseId) {
        let Some(shape) = self.shapes.get_mut(key) else { return };
        shape.leases.remove(&id);
        if shape.leases.is_empty() {
            self.shapes.remove(key);
            if let Some(part) = self.parts.get_mut(&key.outbound) {
                part.shapes -= 1;
            }
        }
    }
}

fn derive(base: &Published, sets: &[ResourceSet; 5], inbound: &Inbound) -> Arc<Shape> {
    let composed = compose(sets, inbound);
    let delta = compare(sets, &composed, names_of(inbound));
    Shape::derived(base, ShapeSnapshot { generation: 1, sets: composed }, &delta)
}

fn next(shape: &Shape, sets: [ResourceSet; 5]) -> ShapeSnapshot {
    ShapeSnapshot { generation: shape.snapshot().generation + 1, sets }
}

// === impl LiveShape ===

impl LiveShape {
    /// Publishes the part's present sets under this shape's inbound resources, or new ones, if anything is different.
    fn publish(
        &mut self,
        outbound: &[ResourceSet; 5],
        delta: Option<&Delta>,
        inbound: Option<Inbound>,
        since: Instant,
    ) {
        let old = self.shape.snapshot();
        let before = inbound.map(|new| std::mem::replace(&mut self.inbound, new));
        let mut sets = old.sets.clone();
        for kind in ResourceType::ALL {
            let at = kind as usize;
            // A type of which the part has nothing different, and the workload nothing new, keeps its set.
            if before.is_some() || delta.is_some_and(|d| !d.names[at].is_empty()) {
                sets[at] = outbound[at].clone();
                for resource in &self.inbound[at] {
                    sets[at].insert(Arc::clone(&resource.name), Arc::clone(resource));
                }
            }
        }
        let candidates =
            delta.into_iter().flat_map(names_in).chain(before.iter().flat_map(names_of)).chain(names_of(&self.inbound));
        let delta = compare(&old.sets, &sets, candidates);
        if !delta.is_empty() {
            self.shape.publish_since(ShapeSnapshot { generation: old.generation + 1, sets }, &delta, since);
        }
    }
}
