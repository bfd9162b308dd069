//! Random walks: whatever happens on the way, client and server end up with the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Answer, Session};
use crate::resources::{ResourceType, ShapeSnapshot};
use crate::xds::fixture::{delta_of, snapshot};
use crate::xds::request::{Fault, Request, Variant};
use crate::xds::seats::{Inbox, Seat};
use crate::xds::shape::Shape;

/// Clusters and listeners are wildcards; endpoints and routes are named.
const TYPES: [(&str, ResourceType); 4] = [
    ("c", ResourceType::Cluster),
    ("e", ResourceType::Endpoint),
    ("l", ResourceType::Listener),
    ("r", ResourceType::Route),
];

#[derive(Debug, Clone)]
enum Move {
    /// Set a resource's revision; 0 removes it.
    Publish(usize, usize, u32),
    /// Subscribe to a name of a named type.
    Subscribe(bool, usize),
    /// Unsubscribe from it.
    Unsubscribe(bool, usize),
    /// Take one answer off the wire and accept or refuse it.
    Deliver(bool),
    /// Answer to something long gone.
    Stale(usize),
    /// Lose the stream and come back with what there is.
    Reconnect,
    /// Belong to another, equal shape.
    Migrate,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..4_usize, 0..4_usize, 0..4_u32).prop_map(|(t, n, r)| Move::Publish(t, n, r)),
        2 => (any::<bool>(), 0..4_usize).prop_map(|(t, n)| Move::Subscribe(t, n)),
        1 => (any::<bool>(), 0..4_usize).prop_map(|(t, n)| Move::Unsubscribe(t, n)),
        6 => prop::bool::weighted(0.9).prop_map(Move::Deliver),
        1 => (0..4_usize).prop_map(Move::Stale),
        1 => Just(Move::Reconnect),
        1 => Just(Move::Migrate),
    ];
    proptest::collection::vec(one, 1..60)
}

fn name(index: usize) -> String {
    format!("n{index}")
}

/// A client of the delta protocol, as strict as one can be.
struct Client {
    shape: Arc<Shape>,
    world: BTreeMap<(usize, String), u32>,
    session: Session,
    /// Per type: what it has, by name.
    has: [BTreeMap<String, u64>; 4],
    /// Per type: the names it subscribed to.
    names: [BTreeSet<String>; 4],
    /// Sent, not yet delivered.
    wire: Vec<Answer>,
    /// Refused content, which the server counts as sent.
    refused: BTreeSet<(usize, String, u64)>,
    /// What may be sent although the client has it: asked for by name, or endpoints of a cluster that warms again.
    excused: BTreeMap<(usize, String), u32>,
}

impl Client {
    fn new() -> Self {
        let shape = Shape::new(ShapeSnapshot::default());
        let session = Session::new(Variant::Delta, Seat::new(Arc::clone(&shape), Arc::new(Inbox::default())));
        let mut client = Self {
            shape,
            world: BTreeMap::new(),
            session,
            has: Default::default(),
            names: Default::default(),
            wire: Vec::new(),
            refused: BTreeSet::new(),
            excused: BTreeMap::new(),
        };
        client.connect();
        client
    }

    fn snapshot(&self) -> ShapeSnapshot {
        let paths: Vec<(String, u32)> =
            self.world.iter().map(|((t, n), r)| (format!("{}/{n}", TYPES[*t].0), *r)).collect();
        snapshot(&paths.iter().map(|(path, revision)| (path.as_str(), *revision)).collect::<Vec<_>>())
    }

    fn connect(&mut self) {
        for (index, (_, kind)) in TYPES.iter().enumerate() {
            let names: Vec<&str> = self.names[index].iter().map(String::as_str).collect();
            let wildcard = matches!(kind, ResourceType::Cluster | ResourceType::Listener);
            if !wildcard && names.is_empty() {
                continue;
            }
            let versions: Vec<(&str, String)> =
                self.has[index].iter().map(|(n, v)| (n.as_str(), format!("{v:016x}"))).collect();
            let request = Request {
                type_url: kind.type_url(),
                names,
                initial: versions.iter().map(|(n, v)| (*n, v.as_str())).collect(),
                ..Request::default()
            };
            self.session.on_request(&request).unwrap();
            self.pump();
        }
    }

    fn ask(&mut self, index: usize, request: Request<'_>) {
        self.session.on_request(&Request { type_url: TYPES[index].1.type_url(), ..request }).unwrap();
        self.pump();
    }

    /// Everything that the server wants to send goes onto the wire.
    fn pump(&mut self) {
        while let Some(answer) = self.session.next_answer() {
            let kind = answer.kind.unwrap();
            let clash = self.wire.iter().any(|a| a.kind == answer.kind);
            assert!(!clash, "two answers of {kind} in flight");
            self.wire.push(answer);
        }
    }

    fn deliver(&mut self, accept: bool) {
        if self.wire.is_empty() {
            return;
        }
        let answer = self.wire.remove(0);
        let index = answer.kind.unwrap() as usize;
        for resource in answer.items.iter() {
            let key = (index, resource.name.to_string());
            let wildcard = index.is_multiple_of(2);
            if accept {
                let old = self.has[index].insert(key.1.clone(), resource.version);
                let again = old == Some(resource.version);
                let excused = !again || self.excuse_used(&key);
                assert!(excused, "{key:?} was sent although the client has it");
                if index == 0 {
                    *self.excused.entry((1, key.1.clone())).or_default() += 1;
                }
            } else {
                self.refused.insert((index, key.1.clone(), resource.version));
                // When it changes back to what the client kept, the server cannot tell that from news.
                *self.excused.entry(key.clone()).or_default() += 1;
            }
            if !wildcard && !self.names[index].contains(&key.1) {
                // It crossed an unsubscription.
                self.has[index].remove(&key.1);
            }
        }
        for removed in &answer.removed {
            if accept {
                self.has[index].remove(&**removed);
            }
        }
        let nonce = format!("{:x}", answer.nonce);
        // A refusal of names to forget makes no sense; a client always accepts those.
        let error = (!accept && !answer.items.is_empty()).then(Fault::default);
        if error.is_none() {
            for removed in &answer.removed {
                self.has[index].remove(&**removed);
            }
        }
        self.ask(index, Request { nonce: &nonce, error, ..Request::default() });
    }

    fn excuse_used(&mut self, key: &(usize, String)) -> bool {
        let left = self.excused.entry(key.clone()).or_default();
        let any = *left > 0;
        *left = left.saturating_sub(1);
        any
    }

    fn take(&mut self, step: &Move) {
        match step {
            Move::Publish(index, n, revision) => {
                let before = self.snapshot();
                let key = (*index, name(*n));
                if *revision == 0 {
                    self.world.remove(&key)
                } else {
                    self.world.insert(key, *revision)
                };
                let after = self.snapshot();
                self.shape.publish(after.clone(), &delta_of(&before, &after));
                self.pump();
            }
            Move::Subscribe(routes, n) => {
                let index = if *routes { 3 } else { 1 };
                self.names[index].insert(name(*n));
                *self.excused.entry((index, name(*n))).or_default() += 1;
                self.ask(index, Request { names: vec![&name(*n)], ..Request::default() });
            }
            Move::Unsubscribe(routes, n) => {
                let index = if *routes { 3 } else { 1 };
                if self.names[index].remove(&name(*n)) {
                    self.has[index].remove(&name(*n));
                    self.ask(index, Request { dropped: vec![&name(*n)], ..Request::default() });
                }
            }
            Move::Deliver(accept) => self.deliver(*accept),
            Move::Stale(index) => {
                if self.session.channels[*index].is_some() {
                    self.ask(*index, Request { nonce: "fffff", ..Request::default() });
                }
            }
            Move::Reconnect => {
                self.wire.clear();
                self.refused.clear();
                let seat = Seat::new(Arc::clone(&self.shape), Arc::new(Inbox::default()));
                self.session = Session::new(Variant::Delta, seat);
                // A cluster that is new to the client brings its endpoints, also if those were held before.
                for held in self.has[1].keys() {
                    *self.excused.entry((1, held.clone())).or_default() += 1;
                }
                self.connect();
            }
            Move::Migrate => {
                self.shape = Shape::new(self.snapshot());
                self.session.move_to(Arc::clone(&self.shape));
                self.pump();
            }
        }
    }

    fn check(&self) {
        let now = self.shape.published();
        for (index, (letter, kind)) in TYPES.iter().enumerate() {
            let wildcard = index.is_multiple_of(2);
            let wanted = |n: &str| wildcard || self.names[index].contains(n);
            for (n, version) in now.versions(*kind) {
                if wanted(n) && !self.refused.contains(&(index, n.to_string(), *version)) {
                    assert_eq!(self.has[index].get(&**n), Some(version), "{letter}/{n} is missing or old");
                }
            }
            for n in self.has[index].keys() {
                assert!(now.versions(*kind).contains_key(n.as_str()), "{letter}/{n} was never removed");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_walk_ends_with_client_and_server_equal(steps in moves()) {
        let mut client = Client::new();
        for step in &steps {
            client.take(step);
        }
        for _ in 0..100 {
            if client.wire.is_empty() {
                break;
            }
            client.deliver(true);
        }
        prop_assert!(client.wire.is_empty(), "the stream never comes to rest");
        client.check();
    }
}
