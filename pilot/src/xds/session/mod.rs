//! One stream as a pure state machine: requests go in, the next answer comes out. No I/O, no clock.
//!
//! A session remembers, per type, the version map that its client was last brought to. Those maps share structure with the
//! published ones, so what to send is a comparison that costs what differs, however long the client was busy, and an
//! idle session costs a few pointers. State of the world and delta are two ways of writing the same comparison down.
//!
//! - ALWAYS: at most one answer of a type is unacknowledged; what changes meanwhile is sent as one answer afterwards.
//! - ALWAYS: clusters and their endpoints are in place before listeners and routes that may use them are sent; removed
//!   clusters follow when listeners and routes are acknowledged.
//! - ALWAYS: a cluster that is sent again is followed by its endpoints, because Envoy warms it until they arrive.
//! - NEVER: a resource is sent again that the client has, unless it asks by name.
//! - NEVER: a refused resource is sent again before it changes.

mod channel;
mod refusal;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod walks;

use std::sync::Arc;

use rustc_hash::FxHashSet;

pub use self::channel::Items;
use self::channel::{Channel, Comparison, Flight, Owed};
pub use self::refusal::{Refusal, RefusedResource};
use super::request::{Request, Variant};
use super::seats::Seat;
use super::shape::{Published, Shape};
use crate::resources::ResourceType;

/// How many names one stream may subscribe to.
pub const MAX_NAMES: u32 = 200_000;

/// How many types that we do not serve are answered (emptily) on one stream.
const MAX_UNKNOWN_TYPES: usize = 32;

/// The longest URL of a type that is not served and yet remembered.
const MAX_TYPE_URL: usize = 256;

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    seat: Seat,
    channels: [Option<Channel>; 5],
    nonces: u64,
    unknown: Vec<Unknown>,
    /// Clusters that this stream was sent after a reconnect, before it subscribed to endpoints.
    rewarmed: FxHashSet<Arc<str>>,
}

/// A type that is not served: answered once, emptily, so that the client does not wait.
#[derive(Debug)]
struct Unknown {
    type_url: Arc<str>,
    answered: bool,
}

/// What is sent next.
#[derive(Debug)]
pub struct Answer {
    /// Its type; `None` for one that we do not serve.
    pub kind: Option<ResourceType>,
    /// The type's URL.
    pub type_url: Arc<str>,
    /// The digest of the whole type at the moment of sending.
    pub version: u64,
    /// The nonce that the client will acknowledge.
    pub nonce: u64,
    /// The resources.
    pub items: Items,
    /// Delta: names that the client should forget.
    pub removed: Vec<Arc<str>>,
}

/// What a request meant.
#[derive(Debug)]
pub enum Event {
    /// It changed or began a subscription.
    Subscribed(ResourceType),
    /// It accepted the last answer of its type.
    Accepted(ResourceType, u64),
    /// It refused the last answer of its type.
    Refused(Refusal),
    /// It answered to something older than the last answer, and was ignored.
    Stale(ResourceType),
    /// It asked for a type that is not served. `true` the first time.
    UnknownType(bool),
}

/// The client asks for more than a stream may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream subscribes to more than {MAX_NAMES} names; use wildcards, or narrow the proxy's Sidecar resource")]
pub struct TooManyNames;

/// The two passes of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Additions,
    Removals,
}

// === impl Session ===

impl Session {
    /// Begins a stream that is served from the seat's shape.
    pub fn new(variant: Variant, seat: Seat) -> Self {
        Self {
            variant,
            seat,
            channels: Default::default(),
            nonces: 0,
            unknown: Vec::new(),
            rewarmed: FxHashSet::default(),
        }
    }

    /// Serves the stream from another shape. What both have is not sent again.
    pub fn move_to(&mut self, shape: Arc<Shape>) {
        self.seat.move_to(shape);
    }

    /// The shape that the stream is served from.
    pub fn shape(&self) -> &Arc<Shape> {
        self.seat.shape()
    }

    /// Whether any answer waits to be acknowledged.
    pub fn in_flight(&self) -> bool {
        self.channels.iter().flatten().any(|c| c.flight.is_some())
    }

    /// Whether the client has everything of `kind` that it subscribed to, without having been sent anything now.
    pub fn has_all(&self, kind: ResourceType) -> bool {
        let now = self.seat.published();
        self.channels[kind as usize].as_ref().is_some_and(|c| c.rejoined && c.is_current(now.versions(kind)))
    }

    /// Takes one request.
    ///
    /// # Errors
    /// [`TooManyNames`] ends the stream.
    pub fn on_request(&mut self, request: &Request<'_>) -> Result<Event, TooManyNames> {
        let Some(kind) = ResourceType::from_type_url(request.type_url) else {
            return Ok(self.on_unknown_type(request));
        };
        // Before any name is kept: the names that proxies of one shape share are shared with those who publish it.
        if request.names.len() > MAX_NAMES as usize {
            return Err(TooManyNames);
        }
        let event = match self.variant {
            Variant::StateOfTheWorld => self.on_full_request(kind, request),
            Variant::Delta => self.on_delta_request(kind, request),
        };
        if self.seat.count() > MAX_NAMES { Err(TooManyNames) } else { Ok(event) }
    }

    /// What to send now, if anything. Call again until there is nothing.
    pub fn next_answer(&mut self) -> Option<Answer> {
        if let Some(answer) = self.answer_unknown_type() {
            return Some(answer);
        }
        let now = self.seat.published();
        for kind in ResourceType::ALL {
            let held = kind >= ResourceType::Listener && self.warming();
            if !held && let Some(answer) = self.answer(kind, &now, Pass::Additions) {
                return Some(answer);
            }
        }
        let busy = |kind: ResourceType| self.channels[kind as usize].as_ref().is_some_and(|c| c.flight.is_some());
        let quiet = !self.warming()
            && !busy(ResourceType::Cluster)
            && !busy(ResourceType::Listener)
            && !busy(ResourceType::Route)
            && !busy(ResourceType::VirtualHost);
        if !quiet {
            return None;
        }
        // A cluster's removal makes Envoy drop its subscription to the endpoints: asked first, it saves their removal.
        self.answer(ResourceType::Cluster, &now, Pass::Removals)
            .or_else(|| self.answer(ResourceType::Endpoint, &now, Pass::Removals))
    }

    /// Whether clusters or their endpoints are still on their way, so that what refers to them has to wait.
    fn warming(&self) -> bool {
        let clusters = self.channels[ResourceType::Cluster as usize].as_ref();
        let endpoints = self.channels[ResourceType::Endpoint as usize].as_ref();
        clusters.is_some_and(|c| c.flight.is_some())
            || endpoints.is_some_and(|c| c.flight.is_some() && !c.owed.is_empty())
    }

    // --- requests

    fn on_unknown_type(&mut self, request: &Request<'_>) -> Event {
        let known = self.unknown.iter().any(|u| &*u.type_url == request.type_url);
        let room = self.unknown.len() < MAX_UNKNOWN_TYPES && request.type_url.len() <= MAX_TYPE_URL;
        let first = !known && room;
        if first {
            self.unknown.push(Unknown { type_url: request.type_url.into(), answered: false });
        }
        Event::UnknownType(first)
    }

    /// Notes whether the request accepts or refuses the answer in flight. `None` when it does neither.
    fn on_nonce(&mut self, kind: ResourceType, request: &Request<'_>) -> Option<Event> {
        let channel = self.channels[kind as usize].as_mut()?;
        if request.nonce.is_empty() {
            return None;
        }
        if u64::from_str_radix(request.nonce, 16) != Ok(channel.last) {
            return Some(Event::Stale(kind));
        }
        // Without one in flight this is a client that changes its subscriptions and repeats its last nonce.
        let flight = channel.flight.take()?;
        let Some(fault) = request.error else { return Some(Event::Accepted(kind, channel.last)) };
        let refusal = Refusal::new(kind, channel.last, fault, &flight.items);
        channel.repeat_removals(flight);
        Some(Event::Refused(refusal))
    }

    fn on_full_request(&mut self, kind: ResourceType, request: &Request<'_>) -> Event {
        let star = request.names.contains(&"*");
        let names: Vec<&str> = request.names.iter().copied().filter(|n| *n != "*").collect();
        if self.channels[kind as usize].is_none() || request.nonce.is_empty() {
            // The first request, also of a client that comes back with a version in hand.
            let wildcard = star || (names.is_empty() && is_full(kind));
            self.seat.set_wildcard(kind, wildcard);
            self.seat.replace(kind, &names, |_| {});
            let owed = if names.is_empty() { Owed::Nothing } else { Owed::All };
            let due = wildcard || !names.is_empty();
            self.channels[kind as usize] = Some(Channel { due, owed, ..Channel::default() });
            return Event::Subscribed(kind);
        }
        let event = self.on_nonce(kind, request).unwrap_or(Event::Subscribed(kind));
        if matches!(event, Event::Stale(_)) {
            return event;
        }
        let wildcard = star || (names.is_empty() && self.seat.is_wildcard(kind));
        self.seat.set_wildcard(kind, wildcard);
        let Some(channel) = self.channels[kind as usize].as_mut() else { return event };
        self.seat.replace(kind, &names, |name| channel.owed.add(name));
        channel.due |= is_full(kind) && !channel.owed.is_empty();
        event
    }

    fn on_delta_request(&mut self, kind: ResourceType, request: &Request<'_>) -> Event {
        let event = self.on_nonce(kind, request).unwrap_or(Event::Subscribed(kind));
        match self.channels[kind as usize].take() {
            None => self.begin_delta(kind, request),
            Some(channel) => {
                let channel = self.continue_delta(kind, channel, request);
                self.channels[kind as usize] = Some(channel);
            }
        }
        event
    }

    fn begin_delta(&mut self, kind: ResourceType, request: &Request<'_>) {
        let names = request.names.iter().copied().filter(|n| *n != "*");
        // Endpoints and routes have no implied wildcard: a proxy without clusters asks for no endpoints.
        let implied = !matches!(kind, ResourceType::Endpoint | ResourceType::Route) && request.names.is_empty();
        let wildcard = implied || request.names.contains(&"*");
        self.seat.set_wildcard(kind, wildcard);
        let mut channel = Channel::default();
        let now = self.seat.published();
        let versions = now.versions(kind);
        if request.initial.is_empty() {
            self.seat.subscribe(kind, names, |_| {});
            channel.due = wildcard;
            channel.owed = if self.seat.count_of(kind) == 0 { Owed::Nothing } else { Owed::All };
            if !wildcard {
                channel.sent = versions.clone();
            }
        } else {
            channel.rejoined = true;
            channel.sent = versions.clone();
            let unchanged = self.rewarmed.is_empty() && channel::holds_all(&request.initial, &now, kind);
            if unchanged
                && (wildcard && request.names.is_empty() || channel::names_held(&request.initial, &request.names))
            {
                self.seat.subscribe(kind, names, |_| {});
            } else {
                let has = channel::versions_held(&request.initial);
                self.seat.subscribe(kind, names, |name| {
                    let current = versions.get(&name);
                    let same = current.is_some() && has.get(&*name) == current;
                    let rewarmed = kind == ResourceType::Endpoint && self.rewarmed.contains(&name);
                    if !same || rewarmed {
                        channel.owed.add(name);
                    }
                });
                if wildcard {
                    channel.sent = channel::sent_before(versions, &has);
                }
            }
        }
        if kind == ResourceType::Endpoint {
            self.rewarmed = FxHashSet::default();
        }
        self.channels[kind as usize] = Some(channel);
    }

    fn continue_delta(&mut self, kind: ResourceType, mut channel: Channel, request: &Request<'_>) -> Channel {
        if request.names.contains(&"*") && !self.seat.is_wildcard(kind) {
            // Only what was subscribed by name is known to have arrived.
            let sent = std::mem::take(&mut channel.sent);
            channel.sent =
                self.seat.filter(kind, |subscribed| sent.into_iter().filter(|(name, _)| subscribed(name)).collect());
            self.seat.set_wildcard(kind, true);
            channel.due = true;
        }
        if request.dropped.contains(&"*") {
            self.seat.set_wildcard(kind, false);
        }
        let names = request.names.iter().copied().filter(|n| *n != "*");
        self.seat.subscribe(kind, names, |name| channel.owed.add(name));
        let wildcard = self.seat.is_wildcard(kind);
        self.seat.unsubscribe(kind, request.dropped.iter().copied(), |name| {
            // Under a wildcard the client cannot know whether the name is still part of it, so it is told.
            if wildcard { channel.owed.add(name) } else { channel.owed.remove(&name) }
        });
        channel
    }

    // --- answers

    fn answer_unknown_type(&mut self) -> Option<Answer> {
        let unknown = self.unknown.iter_mut().find(|u| !u.answered)?;
        unknown.answered = true;
        self.nonces += 1;
        Some(Answer {
            kind: None,
            type_url: Arc::clone(&unknown.type_url),
            version: 0,
            nonce: self.nonces,
            items: Items::default(),
            removed: Vec::new(),
        })
    }

    fn answer(&mut self, kind: ResourceType, now: &Arc<Published>, pass: Pass) -> Option<Answer> {
        let channel = self.channels[kind as usize].as_mut()?;
        if channel.flight.is_some() || channel.is_current(now.versions(kind)) {
            return None;
        }
        let mut found = Comparison::new(channel, kind, now, &self.seat);
        // Clusters and endpoints are made before they are broken; everything else changes in one step.
        let withheld = match (kind, pass) {
            (ResourceType::Cluster | ResourceType::Endpoint, Pass::Additions) => std::mem::take(&mut found.gone),
            _ => Vec::new(),
        };
        let removed = match self.variant {
            Variant::Delta => found.removed_names(),
            Variant::StateOfTheWorld => Vec::new(),
        };
        let silent = match self.variant {
            Variant::Delta => found.items.is_empty() && removed.is_empty(),
            Variant::StateOfTheWorld => found.items.is_empty() && (found.gone.is_empty() || !is_full(kind)),
        };
        if silent && !channel.due {
            channel.owed = Owed::Nothing;
            channel.sent = channel::sent_after(now.versions(kind), &withheld);
            return None;
        }
        let changed = found.items.clone();
        let items = match self.variant {
            Variant::StateOfTheWorld if is_full(kind) => {
                channel.keep(kind, &withheld);
                channel.full_set(kind, now, &self.seat)
            }
            _ => found.items,
        };
        self.nonces += 1;
        channel.sent = channel::sent_after(now.versions(kind), &withheld);
        channel.owed = Owed::Nothing;
        channel.due = false;
        channel.last = self.nonces;
        channel.flight = Some(Flight { items: items.clone(), removed: removed.clone() });
        if self.variant == Variant::StateOfTheWorld && kind == ResourceType::Cluster {
            channel.base = Some(Arc::clone(&now.snapshot));
        }
        let rejoined = channel.rejoined;
        if kind == ResourceType::Cluster {
            self.rewarm(&changed, rejoined);
        }
        Some(Answer {
            kind: Some(kind),
            type_url: kind.type_url().into(),
            version: now.digests[kind as usize],
            nonce: self.nonces,
            items,
            removed,
        })
    }

    /// Owes the endpoints of clusters that are sent again. A cluster's endpoints have the cluster's name.
    fn rewarm(&mut self, clusters: &Items, rejoined: bool) {
        match self.channels[ResourceType::Endpoint as usize].as_mut() {
            Some(endpoints) => {
                let wanted = |name: &str| {
                    self.seat.is_wildcard(ResourceType::Endpoint) || self.seat.names_it(ResourceType::Endpoint, name)
                };
                for cluster in clusters.iter() {
                    if endpoints.sent.contains_key(&cluster.name) && wanted(&cluster.name) {
                        endpoints.owed.add(Arc::clone(&cluster.name));
                    }
                }
            }
            None if rejoined => self.rewarmed.extend(clusters.iter().map(|c| Arc::clone(&c.name))),
            None => {}
        }
    }
}

/// Whether answers of `kind` in state of the world always hold everything: what they lack is deleted by the client.
fn is_full(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Cluster | ResourceType::Listener)
}
