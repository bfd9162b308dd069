//! One type on one stream: what the client has, what it is owed, and the comparison of that with the present.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::resources::{Encoded, ResourceType, ShapeSnapshot};
use crate::xds::seats::Seat;
use crate::xds::shape::{self, Published, Versions};

/// One type on one stream.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// What the client has, or is being sent. For a subscription by name this may hold more than was subscribed: names
    /// outside of the subscription mean nothing.
    pub(super) sent: Versions,
    /// What must be answered although nothing differs.
    pub(super) owed: Owed,
    /// An answer is due even if it is empty.
    pub(super) due: bool,
    /// The answer that waits to be acknowledged.
    pub(super) flight: Option<Flight>,
    /// The nonce of the last answer; 0 before the first.
    pub(super) last: u64,
    /// The client brought versions from an earlier stream.
    pub(super) rejoined: bool,
    /// State of the world clusters: the snapshot of the last answer, where the bodies of withheld removals are found.
    pub(super) base: Option<Arc<ShapeSnapshot>>,
    /// State of the world clusters: what the last answer held although that snapshot did not.
    pub(super) kept: Vec<Arc<Encoded>>,
}

/// An answer that waits to be acknowledged.
#[derive(Debug)]
pub(super) struct Flight {
    /// What it held, to say what a refusal was about.
    pub(super) items: Items,
    /// What it removed.
    pub(super) removed: Vec<Arc<str>>,
}

/// Names that must be answered although nothing differs: new subscriptions, and endpoints of clusters that warm again.
#[derive(Debug, Default)]
pub(super) enum Owed {
    /// None.
    #[default]
    Nothing,
    /// These.
    Names(FxHashSet<Arc<str>>),
    /// Everything that is subscribed.
    All,
}

/// The resources of an answer.
#[derive(Debug, Clone)]
pub enum Items {
    /// These, in the order of their names.
    Some(Arc<[Arc<Encoded>]>),
    /// All of the type: its framed form is shared by all streams that are sent it.
    Whole(Arc<Published>, ResourceType),
}

/// How a channel differs from the present.
#[derive(Debug)]
pub(super) struct Comparison {
    /// New and changed resources, and owed ones.
    pub(super) items: Items,
    /// What the client has and should no longer have, with the version that it has.
    pub(super) gone: Vec<(Arc<str>, u64)>,
    /// Owed names that do not exist.
    missing: Vec<Arc<str>>,
}

// === impl Items ===

impl Items {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Some(list) => list.len(),
            Self::Whole(published, kind) => published.snapshot.set(*kind).len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In the order of their names, or nearly so.
    pub fn iter(&self) -> Box<dyn Iterator<Item = &Arc<Encoded>> + '_> {
        match self {
            Self::Some(list) => Box::new(list.iter()),
            Self::Whole(published, kind) => Box::new(published.snapshot.set(*kind).values()),
        }
    }
}

impl Default for Items {
    fn default() -> Self {
        Self::Some(Arc::default())
    }
}

// === impl Owed ===

impl Owed {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Names(names) => names.is_empty(),
            Self::All => false,
        }
    }

    pub(super) fn add(&mut self, name: Arc<str>) {
        match self {
            Self::Nothing => *self = Self::Names(std::iter::once(name).collect()),
            Self::Names(names) => {
                names.insert(name);
            }
            Self::All => {}
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Self::Names(names) = self {
            names.remove(name);
        }
    }
}

// === impl Channel ===

impl Channel {
    /// Has removals repeated that came with refused resources: nobody knows whether the client followed them. A refused
    /// answer of removals alone is not repeated, or it would be for ever.
    pub(super) fn repeat_removals(&mut self, flight: Flight) {
        if flight.items.is_empty() {
            return;
        }
        for name in flight.removed {
            self.sent.insert(name, 0);
        }
    }

    /// Whether there is certainly nothing to say.
    pub(super) fn is_current(&self, versions: &Versions) -> bool {
        !self.due && self.owed.is_empty() && self.sent.ptr_eq(versions)
    }

    /// Keeps the bodies of what is withheld from removal, which may have been withheld before, and of nothing else.
    pub(super) fn keep(&mut self, kind: ResourceType, withheld: &[(Arc<str>, u64)]) {
        let old = self.base.as_ref().map(|base| base.set(kind));
        let before = std::mem::take(&mut self.kept);
        let body = |name: &Arc<str>| {
            let present = old.and_then(|set| set.get(name));
            present.or_else(|| before.iter().find(|resource| resource.name == *name)).cloned()
        };
        self.kept = withheld.iter().filter_map(|(name, _)| body(name)).collect();
    }

    /// Everything that is subscribed, and what is kept, for protocols that delete what is not listed.
    pub(super) fn full_set(&self, kind: ResourceType, now: &Arc<Published>, seat: &Seat) -> Items {
        let items = everything(kind, now, seat);
        if self.kept.is_empty() {
            return items;
        }
        Items::Some(items.iter().chain(&self.kept).cloned().collect())
    }
}

// === impl Comparison ===

impl Comparison {
    /// Compares what `channel` has with what is published.
    pub(super) fn new(channel: &Channel, kind: ResourceType, now: &Arc<Published>, seat: &Seat) -> Self {
        let fresh = channel.sent.is_empty() && seat.is_wildcard(kind);
        if fresh || matches!(channel.owed, Owed::All) {
            return Self::of_everything(channel, kind, now, seat);
        }
        let set = now.snapshot.set(kind);
        let mut items = Vec::new();
        let mut gone = Vec::new();
        let mut owed = match &channel.owed {
            Owed::Names(names) => names.clone(),
            Owed::Nothing | Owed::All => FxHashSet::default(),
        };
        if !channel.sent.ptr_eq(now.versions(kind)) {
            seat.filter(kind, |subscribed| {
                for item in channel.sent.diff(now.versions(kind)) {
                    match item {
                        DiffItem::Add(name, _) | DiffItem::Update { new: (name, _), .. } => {
                            if subscribed(name)
                                && let Some(resource) = set.get(name)
                            {
                                owed.remove(name);
                                items.push(Arc::clone(resource));
                            }
                        }
                        DiffItem::Remove(name, version) => {
                            if subscribed(name) && !owed.contains(name) {
                                gone.push((Arc::clone(name), *version));
                            }
                        }
                    }
                }
            });
        }
        let mut missing = Vec::new();
        for name in owed {
            match set.get(&name) {
                Some(resource) => items.push(Arc::clone(resource)),
                None => missing.push(name),
            }
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        missing.sort();
        Self { items: Items::Some(items.into()), gone, missing }
    }

    /// As [`Comparison::new`], where everything that is subscribed is to be sent.
    fn of_everything(channel: &Channel, kind: ResourceType, now: &Arc<Published>, seat: &Seat) -> Self {
        let set = now.snapshot.set(kind);
        let items = everything(kind, now, seat);
        let by_name = seat.count_of(kind) as usize;
        let mut missing = Vec::new();
        if by_name > 0 && (seat.is_wildcard(kind) || items.len() < by_name) {
            missing.extend(seat.names(kind).into_iter().filter(|name| !set.contains_key(name)));
            missing.sort();
        }
        if channel.sent.is_empty() || channel.sent.ptr_eq(now.versions(kind)) {
            return Self { items, gone: Vec::new(), missing };
        }
        let gone = seat.filter(kind, |subscribed| {
            let known = |name: &Arc<str>| missing.binary_search(name).is_ok();
            channel
                .sent
                .diff(now.versions(kind))
                .filter_map(|item| match item {
                    DiffItem::Remove(name, version) if subscribed(name) && !known(name) => {
                        Some((Arc::clone(name), *version))
                    }
                    _ => None,
                })
                .collect()
        });
        Self { items, gone, missing }
    }

    /// Everything that a delta client should forget.
    pub(super) fn removed_names(&self) -> Vec<Arc<str>> {
        self.gone.iter().map(|(name, _)| name).chain(&self.missing).cloned().collect()
    }
}

/// Everything that is subscribed and exists.
fn everything(kind: ResourceType, now: &Arc<Published>, seat: &Seat) -> Items {
    let set = now.snapshot.set(kind);
    if seat.is_wildcard(kind) {
        return Items::Whole(Arc::clone(now), kind);
    }
    let all = seat.filter(kind, |subscribed| set.keys().all(|name| subscribed(name)));
    if all {
        return Items::Whole(Arc::clone(now), kind);
    }
    let few = seat.count_of(kind) as usize * 8 < set.len();
    let list: Arc<[Arc<Encoded>]> = if few {
        let mut names = seat.names(kind);
        names.sort();
        names.iter().filter_map(|name| set.get(name)).cloned().collect()
    } else {
        seat.filter(kind, |subscribed| set.values().filter(|r| subscribed(&r.name)).cloned().collect())
    };
    Items::Some(list)
}

/// What the client has after an answer that brought it to `versions`, except for what was withheld from removal.
pub(super) fn sent_after(versions: &Versions, withheld: &[(Arc<str>, u64)]) -> Versions {
    let mut sent = versions.clone();
    for (name, version) in withheld {
        sent.insert(Arc::clone(name), *version);
    }
    sent
}

/// Whether a returning client has exactly what is published of `kind`. When a server restarts, this is what nearly every
/// client asks with thousands of names: the digest answers without looking any of them up.
pub(super) fn holds_all(initial: &[(&str, &str)], now: &Published, kind: ResourceType) -> bool {
    initial.len() == now.versions(kind).len()
        && now.digests[kind as usize]
            == initial
                .iter()
                .fold(0, |sum, (name, version)| sum ^ shape::mark(name, u64::from_str_radix(version, 16).unwrap_or(0)))
}

/// Whether a returning client subscribes to exactly the names that it has.
pub(super) fn names_held(initial: &[(&str, &str)], names: &[&str]) -> bool {
    let sum = |names: &mut dyn Iterator<Item = &str>| names.fold(0, |sum, name| sum ^ shape::mark(name, 0));
    initial.len() == names.len() && sum(&mut initial.iter().map(|(name, _)| *name)) == sum(&mut names.iter().copied())
}

/// What a returning client says that it has. A version that is not ours reads as one that nothing has.
pub(super) fn versions_held<'a>(initial: &[(&'a str, &str)]) -> FxHashMap<&'a str, u64> {
    initial.iter().map(|(name, version)| (*name, u64::from_str_radix(version, 16).unwrap_or(0))).collect()
}

/// The version map of a client that has `has`, sharing all that it can with `versions`.
pub(super) fn sent_before(versions: &Versions, has: &FxHashMap<&str, u64>) -> Versions {
    let mut sent = versions.clone();
    let mut known = 0;
    for (name, version) in versions {
        let held = has.get(&**name);
        known += usize::from(held.is_some());
        match held {
            Some(held) if held == version => {}
            Some(held) => {
                sent.insert(Arc::clone(name), *held);
            }
            None => {
                sent.remove(name);
            }
        }
    }
    if known == has.len() {
        return sent;
    }
    for (name, held) in has {
        if !versions.contains_key(*name) {
            sent.insert(Arc::from(*name), *held);
        }
    }
    sent
}
