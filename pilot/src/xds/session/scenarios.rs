//! The protocol's rules, one scenario each, as values in and values out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use rstest::rstest;

use super::{Answer, Event, MAX_NAMES, Session};
use crate::resources::{ResourceType, ShapeSnapshot};
use crate::xds::fixture::{delta_of, kind_of, snapshot};
use crate::xds::request::{Fault, Request, Variant};
use crate::xds::seats::{Inbox, Seat};
use crate::xds::shape::Shape;

/// A shape and one stream on it.
struct Bench {
    shape: Arc<Shape>,
    now: ShapeSnapshot,
    session: Session,
}

/// What arrived, as text: `c +a +b -z` is a cluster answer with a and b, in which z is removed.
fn text(answer: &Answer) -> String {
    let letter = match answer.kind {
        Some(kind) => ["c", "e", "l", "r", "v"][kind as usize],
        None => "?",
    };
    let added = answer.items.iter().map(|r| format!(" +{}", String::from_utf8_lossy(&r.body).replace("#1", "")));
    let removed = answer.removed.iter().map(|n| format!(" -{n}"));
    std::iter::once(letter.to_owned()).chain(added).chain(removed).collect()
}

fn url(letter: &str) -> &'static str {
    kind_of(letter).type_url()
}

impl Bench {
    fn new(variant: Variant, resources: &[(&str, u32)]) -> Self {
        let now = snapshot(resources);
        let shape = Shape::new(now.clone());
        let session = Session::new(variant, Seat::new(Arc::clone(&shape), Arc::new(Inbox::default())));
        Self { shape, now, session }
    }

    fn delta(resources: &[(&str, u32)]) -> Self {
        Self::new(Variant::Delta, resources)
    }

    fn full(resources: &[(&str, u32)]) -> Self {
        Self::new(Variant::StateOfTheWorld, resources)
    }

    fn publish(&mut self, resources: &[(&str, u32)]) {
        let next = snapshot(resources);
        self.shape.publish(next.clone(), &delta_of(&self.now, &next));
        self.now = next;
    }

    fn ask(&mut self, letter: &str, request: Request<'_>) -> Event {
        self.session.on_request(&Request { type_url: url(letter), ..request }).unwrap()
    }

    fn subscribe(&mut self, letter: &str, names: &[&str]) -> Event {
        self.ask(letter, Request { names: names.to_vec(), ..Request::default() })
    }

    fn rejoin(&mut self, letter: &str, names: &[&str], has: &[(&str, u32)]) {
        let versions: Vec<_> = has
            .iter()
            .map(|(name, revision)| (*name, crate::xds::fixture::resource(name, *revision).version_text()))
            .collect();
        let initial = versions.iter().map(|(name, version)| (*name, version.as_str())).collect();
        self.ask(letter, Request { names: names.to_vec(), initial, ..Request::default() });
    }

    fn next(&mut self) -> Option<Answer> {
        self.session.next_answer()
    }

    /// What is sent now without any acknowledgement.
    fn sends(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).map(|a| text(&a)).collect()
    }

    fn accept(&mut self, letter: &str) -> Event {
        let nonce = format!("{:x}", self.last(letter));
        self.ask(letter, Request { nonce: &nonce, ..Request::default() })
    }

    fn last(&self, letter: &str) -> u64 {
        self.session.channels[kind_of(letter) as usize].as_ref().unwrap().last
    }

    /// Accepts everything and collects what is sent, until there is no more.
    fn settles(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let sent = self.sends();
            all.extend(sent);
            let Some(busy) = ["c", "e", "l", "r", "v"]
                .into_iter()
                .find(|l| self.session.channels[kind_of(l) as usize].as_ref().is_some_and(|c| c.flight.is_some()))
            else {
                return all;
            };
            self.accept(busy);
        }
    }

    /// Accepts in state of the world, where every request repeats the names.
    fn accept_names(&mut self, letter: &str, names: &[&str]) -> Event {
        let nonce = format!("{:x}", self.last(letter));
        self.ask(letter, Request { nonce: &nonce, names: names.to_vec(), ..Request::default() })
    }
}

// === delta: subscribing ===

#[rstest]
#[case::clusters("c")]
#[case::listeners("l")]
#[case::virtual_hosts("v")]
fn an_empty_first_delta_request_is_a_wildcard(#[case] letter: &str) {
    let (a, b) = (format!("{letter}/a"), format!("{letter}/b"));
    let mut bench = Bench::delta(&[(&a, 1), (&b, 1)]);
    bench.subscribe(letter, &[]);
    assert_eq!(bench.sends(), [format!("{letter} +a +b")]);
}

#[rstest]
#[case::endpoints("e")]
#[case::routes("r")]
fn an_empty_first_delta_request_for_named_types_is_nothing(#[case] letter: &str) {
    let a = format!("{letter}/a");
    let mut bench = Bench::delta(&[(&a, 1)]);
    bench.subscribe(letter, &[]);
    assert!(bench.sends().is_empty());
}

#[rstest]
fn a_star_is_a_wildcard_for_every_type(#[values("c", "e", "l", "r", "v")] letter: &str) {
    let a = format!("{letter}/a");
    let mut bench = Bench::delta(&[(&a, 1)]);
    bench.subscribe(letter, &["*"]);
    assert_eq!(bench.sends(), [format!("{letter} +a")]);
}

#[test]
fn a_wildcard_with_nothing_behind_it_is_answered_so_that_the_client_goes_on() {
    let mut bench = Bench::delta(&[]);
    bench.subscribe("c", &[]);
    bench.subscribe("l", &["*"]);
    assert_eq!(bench.sends(), ["c"]);
    bench.accept("c");
    assert_eq!(bench.sends(), ["l"]);
}

#[test]
fn named_resources_are_sent_and_unknown_ones_are_said_to_be_absent() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1), ("e/c", 1)]);
    bench.subscribe("e", &["a", "nobody"]);
    assert_eq!(bench.sends(), ["e +a -nobody"]);
}

#[test]
fn an_unknown_name_is_sent_once_it_exists() {
    let mut bench = Bench::delta(&[]);
    bench.subscribe("e", &["a"]);
    assert_eq!(bench.settles(), ["e -a"]);
    bench.publish(&[("e/a", 1)]);
    assert_eq!(bench.settles(), ["e +a"]);
}

#[test]
fn names_added_later_are_sent_alone() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["a"]);
    bench.settles();
    bench.subscribe("e", &["b"]);
    assert_eq!(bench.settles(), ["e +b"]);
}

#[test]
fn a_name_subscribed_again_is_sent_again() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["a", "b"]);
    bench.settles();
    bench.subscribe("e", &["a"]);
    assert_eq!(bench.settles(), ["e +a"]);
}

#[test]
fn an_unsubscribed_name_is_never_sent_again() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["a", "b"]);
    bench.settles();
    bench.ask("e", Request { dropped: vec!["a"], ..Request::default() });
    bench.publish(&[("e/a", 2), ("e/b", 2)]);
    assert_eq!(bench.settles(), ["e +b#2"]);
}

#[test]
fn a_name_dropped_under_a_wildcard_is_told_whether_it_stays() {
    let mut bench = Bench::delta(&[("c/a", 1)]);
    bench.subscribe("c", &["*", "a", "x"]);
    assert_eq!(bench.settles(), ["c +a -x"]);
    bench.ask("c", Request { dropped: vec!["a", "x"], ..Request::default() });
    assert_eq!(bench.settles(), ["c +a -x"]);
}

#[test]
fn a_wildcard_that_is_dropped_leaves_the_names() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 1)]);
    bench.subscribe("c", &["*", "a"]);
    bench.settles();
    bench.ask("c", Request { dropped: vec!["*"], ..Request::default() });
    bench.publish(&[("c/a", 2), ("c/b", 2)]);
    assert_eq!(bench.settles(), ["c +a#2"]);
}

#[test]
fn a_wildcard_after_names_sends_the_rest_only() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 1)]);
    bench.subscribe("c", &["a"]);
    assert_eq!(bench.settles(), ["c +a"]);
    bench.subscribe("c", &["*"]);
    assert_eq!(bench.settles(), ["c +b"]);
}

#[test]
fn on_demand_virtual_hosts_are_served_beside_the_wildcard() {
    let mut bench = Bench::delta(&[("v/80/a", 1)]);
    bench.subscribe("v", &[]);
    bench.settles();
    bench.subscribe("v", &["80/a", "80/unknown"]);
    assert_eq!(bench.settles(), ["v +80/a -80/unknown"]);
    bench.publish(&[("v/80/a", 1), ("v/80/unknown", 1)]);
    assert_eq!(bench.settles(), ["v +80/unknown"]);
}

#[test]
fn a_stream_may_not_subscribe_to_endless_names() {
    let mut bench = Bench::delta(&[]);
    let names: Vec<String> = (0..=MAX_NAMES).map(|i| i.to_string()).collect();
    let request =
        Request { type_url: url("e"), names: names.iter().map(String::as_str).collect(), ..Request::default() };
    assert!(bench.session.on_request(&request).is_err());
}

// === delta: changes, credit, nonces ===

#[test]
fn only_what_changed_is_sent() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 1)]);
    bench.subscribe("c", &[]);
    bench.settles();
    bench.publish(&[("c/a", 1), ("c/b", 2), ("c/d", 1)]);
    assert_eq!(bench.settles(), ["c +b#2 +d"]);
    assert!(bench.settles().is_empty());
}

#[test]
fn while_an_answer_is_unacknowledged_changes_gather_and_the_last_one_wins() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["*"]);
    assert_eq!(bench.sends(), ["e +a +b"]);
    bench.publish(&[("e/a", 2), ("e/b", 1)]);
    bench.publish(&[("e/a", 3), ("e/b", 1)]);
    assert!(bench.sends().is_empty());
    bench.accept("e");
    assert_eq!(bench.sends(), ["e +a#3"]);
}

#[test]
fn a_change_that_is_undone_meanwhile_is_never_sent() {
    let mut bench = Bench::delta(&[("e/a", 1)]);
    bench.subscribe("e", &["*"]);
    bench.sends();
    bench.publish(&[("e/a", 2)]);
    bench.publish(&[("e/a", 1)]);
    assert!(matches!(bench.accept("e"), Event::Accepted(ResourceType::Endpoint, 1)));
    assert!(bench.sends().is_empty());
}

#[test]
fn a_stale_nonce_gives_no_credit_but_its_subscription_counts() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["a"]);
    bench.settles();
    bench.publish(&[("e/a", 2), ("e/b", 1)]);
    assert_eq!(bench.sends(), ["e +a#2"]);
    let event = bench.ask("e", Request { nonce: "1", names: vec!["b"], ..Request::default() });
    assert!(matches!(event, Event::Stale(ResourceType::Endpoint)));
    assert!(bench.sends().is_empty());
    bench.accept("e");
    assert_eq!(bench.sends(), ["e +b"]);
}

#[test]
fn types_do_not_wait_for_each_other_where_order_does_not_matter() {
    let mut bench = Bench::delta(&[("e/a", 1), ("r/80", 1)]);
    bench.subscribe("e", &["a"]);
    bench.subscribe("r", &["80"]);
    assert_eq!(bench.sends(), ["e +a", "r +80"]);
    bench.publish(&[("e/a", 1), ("r/80", 2)]);
    bench.accept("r");
    assert_eq!(bench.sends(), ["r +80#2"]);
}

#[test]
fn virtual_hosts_follow_a_route_that_is_not_acknowledged_yet() {
    // Envoy acknowledges the route configuration only after the first answer with virtual hosts.
    let mut bench = Bench::delta(&[("r/80", 1), ("v/80/a", 1)]);
    bench.subscribe("r", &["80"]);
    assert_eq!(bench.sends(), ["r +80"]);
    bench.subscribe("v", &[]);
    assert_eq!(bench.sends(), ["v +80/a"]);
}

#[test]
fn a_type_that_is_not_served_is_answered_once_with_nothing() {
    let mut bench = Bench::delta(&[]);
    let request = Request { type_url: "type.googleapis.com/unheard.Of", ..Request::default() };
    assert!(matches!(bench.session.on_request(&request).unwrap(), Event::UnknownType(true)));
    let answer = bench.next().unwrap();
    assert_eq!((&*answer.type_url, answer.items.len()), ("type.googleapis.com/unheard.Of", 0));
    assert!(matches!(bench.session.on_request(&request).unwrap(), Event::UnknownType(false)));
    assert!(bench.next().is_none());
}

// === delta: refusals ===

#[test]
fn a_refusal_is_kept_with_its_resource_and_origin() {
    let mut bench = Bench::delta(&[("l/a", 1), ("l/b", 7)]);
    bench.subscribe("l", &[]);
    bench.sends();
    let fault = Fault { code: 13, message: "Error adding/updating listener(s) b: no such filter" };
    let event = bench.ask("l", Request { nonce: "1", error: Some(fault), ..Request::default() });
    let Event::Refused(refusal) = event else { panic!("{event:?}") };
    assert_eq!((refusal.kind, refusal.nonce, refusal.code), (ResourceType::Listener, 1, 13));
    assert_eq!(refusal.message, "Error adding/updating listener(s) b: no such filter");
    assert_eq!(refusal.resources.len(), 1);
    assert_eq!(refusal.resources[0].origins[0].to_string(), "b.yaml:7:1");
}

#[test]
fn a_refused_resource_is_sent_again_only_when_it_changed() {
    let mut bench = Bench::delta(&[("l/a", 1), ("l/b", 1)]);
    bench.subscribe("l", &[]);
    bench.sends();
    bench.ask("l", Request { nonce: "1", error: Some(Fault::default()), ..Request::default() });
    assert!(bench.sends().is_empty());
    bench.publish(&[("l/a", 2), ("l/b", 1)]);
    assert_eq!(bench.settles(), ["l +a#2"]);
    bench.publish(&[("l/a", 2), ("l/b", 2)]);
    assert_eq!(bench.settles(), ["l +b#2"]);
}

#[test]
fn removals_that_came_with_a_refused_resource_are_repeated_once() {
    let mut bench = Bench::delta(&[("l/a", 1), ("l/b", 1)]);
    bench.subscribe("l", &[]);
    bench.settles();
    bench.publish(&[("l/a", 2)]);
    assert_eq!(bench.sends(), ["l +a#2 -b"]);
    bench.ask("l", Request { nonce: "2", error: Some(Fault::default()), ..Request::default() });
    assert_eq!(bench.sends(), ["l -b"]);
    bench.ask("l", Request { nonce: "3", error: Some(Fault::default()), ..Request::default() });
    assert!(bench.sends().is_empty());
}

#[test]
fn what_changed_during_a_refused_answer_is_sent_after_it() {
    let mut bench = Bench::delta(&[("l/a", 1)]);
    bench.subscribe("l", &[]);
    bench.sends();
    bench.publish(&[("l/a", 2)]);
    bench.ask("l", Request { nonce: "1", error: Some(Fault::default()), ..Request::default() });
    assert_eq!(bench.sends(), ["l +a#2"]);
}

// === delta: order ===

#[test]
fn a_new_cluster_and_its_endpoints_arrive_before_the_route_that_uses_them() {
    let mut bench = Bench::delta(&[("c/a", 1), ("e/a", 1), ("l/x", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("e", &["a"]);
    bench.subscribe("l", &[]);
    bench.subscribe("r", &["80"]);
    bench.settles();
    bench.publish(&[("c/a", 1), ("c/b", 1), ("e/a", 1), ("e/b", 1), ("l/x", 2), ("r/80", 2)]);
    assert_eq!(bench.sends(), ["c +b"]);
    // Envoy asks for the endpoints before it acknowledges the cluster.
    bench.subscribe("e", &["b"]);
    assert_eq!(bench.sends(), ["e +b"]);
    bench.accept("c");
    assert_eq!(bench.sends(), ["l +x#2", "r +80#2"]);
}

#[test]
fn a_removed_cluster_goes_after_the_route_that_used_it_is_acknowledged() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 1), ("e/a", 1), ("e/b", 1), ("l/x", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("e", &["a", "b"]);
    bench.subscribe("l", &[]);
    bench.subscribe("r", &["80"]);
    bench.settles();
    bench.publish(&[("c/a", 1), ("e/a", 1), ("l/x", 1), ("r/80", 2)]);
    assert_eq!(bench.sends(), ["r +80#2"]);
    bench.accept("r");
    assert_eq!(bench.sends(), ["c -b"]);
    // Envoy drops the endpoints of a cluster that is gone.
    bench.ask("e", Request { dropped: vec!["b"], ..Request::default() });
    bench.accept("c");
    assert!(bench.sends().is_empty());
}

#[test]
fn one_cluster_replaces_another_without_a_gap() {
    let mut bench = Bench::delta(&[("c/old", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("r", &["80"]);
    bench.settles();
    bench.publish(&[("c/new", 1), ("r/80", 2)]);
    assert_eq!(bench.settles(), ["c +new", "r +80#2", "c -old"]);
}

#[test]
fn a_cluster_that_comes_back_before_its_removal_was_sent_is_not_sent_again() {
    let mut bench = Bench::delta(&[("c/a", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("r", &["80"]);
    bench.settles();
    bench.publish(&[("r/80", 2)]);
    assert_eq!(bench.sends(), ["r +80#2"]);
    bench.publish(&[("c/a", 1), ("r/80", 3)]);
    assert_eq!(bench.settles(), ["r +80#3"]);
}

#[test]
fn endpoints_that_vanish_while_their_cluster_stays_are_removed() {
    let mut bench = Bench::delta(&[("c/a", 1), ("e/a", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("e", &["a"]);
    bench.settles();
    bench.publish(&[("c/a", 1)]);
    assert_eq!(bench.settles(), ["e -a"]);
}

#[test]
fn a_cluster_that_is_sent_again_brings_its_endpoints_along() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 1), ("e/a", 1), ("e/b", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("e", &["a", "b"]);
    bench.settles();
    bench.publish(&[("c/a", 2), ("c/b", 1), ("e/a", 1), ("e/b", 1)]);
    assert_eq!(bench.settles(), ["c +a#2", "e +a"]);
}

#[test]
fn a_refused_cluster_does_not_hold_the_routes_back() {
    let mut bench = Bench::delta(&[("c/a", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("r", &["80"]);
    bench.settles();
    bench.publish(&[("c/a", 2), ("r/80", 2)]);
    assert_eq!(bench.sends(), ["c +a#2"]);
    let nonce = format!("{:x}", bench.last("c"));
    bench.ask("c", Request { nonce: &nonce, error: Some(Fault::default()), ..Request::default() });
    assert_eq!(bench.sends(), ["r +80#2"]);
}

// === delta: coming back ===

#[test]
fn a_client_that_comes_back_with_everything_is_sent_nothing() {
    let mut bench = Bench::delta(&[("c/a", 1), ("e/a", 1), ("r/80", 1), ("v/80/a", 1)]);
    bench.rejoin("c", &[], &[("a", 1)]);
    bench.rejoin("e", &["a"], &[("a", 1)]);
    bench.rejoin("r", &["80"], &[("80", 1)]);
    bench.rejoin("v", &[], &[("80/a", 1)]);
    assert!(bench.settles().is_empty());
    assert!(ResourceType::ALL[..2].iter().all(|kind| bench.session.has_all(*kind)));
    bench.publish(&[("c/a", 1), ("e/a", 2), ("r/80", 1), ("v/80/a", 1)]);
    assert_eq!(bench.settles(), ["e +a#2"]);
}

#[test]
fn a_client_that_comes_back_is_sent_what_it_missed() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 2), ("c/new", 1)]);
    bench.rejoin("c", &[], &[("a", 1), ("b", 1), ("gone", 1)]);
    assert_eq!(bench.settles(), ["c +b#2 +new", "c -gone"]);
}

#[test]
fn a_name_that_is_new_on_return_is_answered_beside_those_that_are_held() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.rejoin("e", &["a", "b", "x"], &[("a", 1), ("b", 1)]);
    assert_eq!(bench.settles(), ["e -x"]);
    let mut bench = Bench::delta(&[("c/a", 1)]);
    bench.rejoin("c", &["*", "x"], &[("a", 1)]);
    assert_eq!(bench.settles(), ["c -x"]);
}

#[test]
fn held_names_that_were_not_subscribed_again_are_left_alone() {
    let mut bench = Bench::delta(&[("e/a", 1), ("e/b", 1)]);
    bench.rejoin("e", &["a"], &[("a", 1), ("b", 1)]);
    bench.publish(&[("e/a", 2), ("e/b", 2)]);
    assert_eq!(bench.settles(), ["e +a#2"]);
}

#[test]
fn names_that_a_returning_client_holds_and_nobody_serves_are_removed() {
    let mut bench = Bench::delta(&[("e/a", 1)]);
    bench.rejoin("e", &["a", "gone"], &[("a", 1), ("gone", 1)]);
    assert_eq!(bench.settles(), ["e -gone"]);
}

#[test]
fn a_returning_client_gets_the_endpoints_of_clusters_that_changed_meanwhile() {
    let mut bench = Bench::delta(&[("c/a", 2), ("c/b", 1), ("e/a", 1), ("e/b", 1)]);
    bench.rejoin("c", &[], &[("a", 1), ("b", 1)]);
    assert_eq!(bench.sends(), ["c +a#2"]);
    bench.rejoin("e", &["a", "b"], &[("a", 1), ("b", 1)]);
    assert_eq!(bench.sends(), ["e +a"]);
}

#[test]
fn versions_that_are_not_ours_are_replaced() {
    let mut bench = Bench::delta(&[("c/a", 1)]);
    bench.ask("c", Request { initial: vec![("a", "2026-01-01/7")], ..Request::default() });
    assert_eq!(bench.settles(), ["c +a"]);
}

// === another shape ===

#[test]
fn a_proxy_that_moves_to_another_shape_is_sent_the_difference() {
    let mut bench = Bench::delta(&[("c/a", 1), ("c/b", 1), ("e/a", 1), ("e/b", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("e", &["a", "b"]);
    bench.settles();
    let other = snapshot(&[("c/a", 1), ("c/z", 1), ("e/a", 2), ("e/b", 1)]);
    bench.session.move_to(Shape::new(other));
    assert_eq!(bench.settles(), ["c +z", "e +a#2", "c -b"]);
}

#[test]
fn after_a_move_the_new_shape_is_followed_and_the_old_one_is_not() {
    let mut bench = Bench::delta(&[("e/a", 1)]);
    bench.subscribe("e", &["a"]);
    bench.settles();
    let there = Shape::new(snapshot(&[("e/a", 1)]));
    bench.session.move_to(Arc::clone(&there));
    bench.publish(&[("e/a", 5)]);
    assert!(bench.settles().is_empty());
    let next = snapshot(&[("e/a", 2)]);
    there.publish(next.clone(), &delta_of(&snapshot(&[("e/a", 1)]), &next));
    assert_eq!(bench.settles(), ["e +a#2"]);
}

// === state of the world ===

#[test]
fn full_types_are_always_sent_whole() {
    let mut bench = Bench::full(&[("c/a", 1), ("c/b", 1), ("l/x", 1)]);
    bench.subscribe("c", &[]);
    assert_eq!(bench.settles(), ["c +a +b"]);
    bench.publish(&[("c/a", 1), ("c/b", 2), ("l/x", 1)]);
    assert_eq!(bench.settles(), ["c +a +b#2"]);
}

#[test]
fn named_types_are_sent_where_they_changed() {
    let mut bench = Bench::full(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["a", "b"]);
    assert_eq!(bench.sends(), ["e +a +b"]);
    bench.accept_names("e", &["a", "b"]);
    bench.publish(&[("e/a", 2), ("e/b", 1)]);
    assert_eq!(bench.sends(), ["e +a#2"]);
}

#[test]
fn names_added_in_state_of_the_world_are_sent_and_dropped_ones_are_silent() {
    let mut bench = Bench::full(&[("r/80", 1), ("r/81", 1)]);
    bench.subscribe("r", &["80"]);
    bench.sends();
    bench.accept_names("r", &["80"]);
    bench.accept_names("r", &["80", "81"]);
    assert_eq!(bench.sends(), ["r +81"]);
    bench.accept_names("r", &["81"]);
    assert!(bench.sends().is_empty());
    bench.publish(&[("r/80", 2), ("r/81", 1)]);
    assert!(bench.sends().is_empty());
}

#[test]
fn a_first_request_with_a_version_is_answered() {
    let mut bench = Bench::full(&[("c/a", 1)]);
    bench.subscribe("c", &[]);
    assert_eq!(bench.settles(), ["c +a"]);
    // The same stream begins anew, as behind an agent that reconnected.
    bench.subscribe("c", &[]);
    assert_eq!(bench.settles(), ["c +a"]);
}

#[test]
fn a_stale_nonce_in_state_of_the_world_is_ignored_altogether() {
    let mut bench = Bench::full(&[("e/a", 1), ("e/b", 1)]);
    bench.subscribe("e", &["a"]);
    bench.sends();
    bench.accept_names("e", &["a"]);
    bench.publish(&[("e/a", 2), ("e/b", 1)]);
    bench.sends();
    let event = bench.ask("e", Request { nonce: "1", names: vec!["a", "b"], ..Request::default() });
    assert!(matches!(event, Event::Stale(_)));
    assert!(bench.sends().is_empty());
}

#[test]
fn unknown_names_in_state_of_the_world_are_answered_emptily_and_sent_once_they_exist() {
    let mut bench = Bench::full(&[]);
    bench.subscribe("e", &["a"]);
    assert_eq!(bench.sends(), ["e"]);
    bench.accept_names("e", &["a"]);
    bench.publish(&[("e/a", 1)]);
    assert_eq!(bench.sends(), ["e +a"]);
}

#[test]
fn a_full_set_keeps_a_removed_cluster_until_the_routes_have_moved() {
    let mut bench = Bench::full(&[("c/old", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("r", &["80"]);
    bench.sends();
    bench.accept_names("c", &[]);
    bench.sends();
    bench.accept_names("r", &["80"]);
    bench.publish(&[("c/new", 1), ("r/80", 2)]);
    assert_eq!(bench.sends(), ["c +new +old"]);
    bench.accept_names("c", &[]);
    assert_eq!(bench.sends(), ["r +80#2"]);
    bench.accept_names("r", &["80"]);
    assert_eq!(bench.sends(), ["c +new"]);
}

#[test]
fn a_full_set_keeps_a_removed_cluster_through_further_changes_of_clusters() {
    let mut bench = Bench::full(&[("c/old", 1), ("c/older", 1), ("r/80", 1)]);
    bench.subscribe("c", &[]);
    bench.subscribe("r", &["80"]);
    bench.sends();
    bench.accept_names("c", &[]);
    bench.sends();
    bench.accept_names("r", &["80"]);
    bench.publish(&[("c/new", 1), ("c/older", 1), ("r/80", 2)]);
    assert_eq!(bench.sends(), ["c +new +older +old"]);
    bench.accept_names("c", &[]);
    assert_eq!(bench.sends(), ["r +80#2"]);
    bench.publish(&[("c/new", 1), ("c/third", 1), ("r/80", 2)]);
    assert_eq!(bench.sends(), ["c +new +third +old +older"]);
    bench.publish(&[("c/fourth", 1), ("c/new", 1), ("c/old", 2), ("c/third", 1), ("r/80", 2)]);
    bench.accept_names("c", &[]);
    assert_eq!(bench.sends(), ["c +fourth +new +old#2 +third +older"]);
    bench.accept_names("c", &[]);
    assert!(bench.sends().is_empty());
    bench.accept_names("r", &["80"]);
    assert_eq!(bench.sends(), ["c +fourth +new +old#2 +third"]);
}

#[rstest]
#[case::delta(Variant::Delta)]
#[case::full(Variant::StateOfTheWorld)]
fn too_many_names_are_refused_before_any_is_kept(#[case] variant: Variant) {
    let mut bench = Bench::new(variant, &[("e/a", 1)]);
    let texts: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let names: Vec<&str> = texts.iter().map(String::as_str).collect();
    let request = |names| Request { type_url: url("e"), names, ..Request::default() };
    assert!(bench.session.on_request(&request(names.clone())).is_err());
    assert_eq!(bench.session.seat.count(), 0);
    assert!(bench.session.on_request(&request(names[1..].to_vec())).is_ok());
    assert_eq!(bench.session.seat.count(), MAX_NAMES);
}

#[test]
fn a_type_that_is_not_served_and_has_an_endless_name_is_not_remembered() {
    let mut bench = Bench::delta(&[]);
    let mut ask = |length: usize| {
        let url = "x".repeat(length);
        let event = bench.session.on_request(&Request { type_url: &url, ..Request::default() }).unwrap();
        (matches!(event, Event::UnknownType(true)), bench.session.next_answer().is_some())
    };
    assert_eq!(ask(257), (false, false));
    assert_eq!(ask(256), (true, true));
}

#[test]
fn a_proxyless_client_names_its_listeners_and_clusters() {
    let mut bench = Bench::full(&[("l/a:80", 1), ("l/b:80", 1), ("c/a", 1), ("c/b", 1)]);
    bench.subscribe("l", &["a:80"]);
    assert_eq!(bench.sends(), ["l +a:80"]);
    bench.accept_names("l", &["a:80", "b:80"]);
    assert_eq!(bench.sends(), ["l +a:80 +b:80"]);
    bench.subscribe("c", &["a"]);
    assert_eq!(bench.sends(), ["c +a"]);
}

#[test]
fn a_refusal_in_state_of_the_world_is_answered_with_nothing_until_a_change() {
    let mut bench = Bench::full(&[("l/a", 1)]);
    bench.subscribe("l", &[]);
    bench.sends();
    let event = bench.ask("l", Request { nonce: "1", error: Some(Fault::default()), ..Request::default() });
    assert!(matches!(event, Event::Refused(_)));
    assert!(bench.sends().is_empty());
    bench.publish(&[("l/a", 2)]);
    assert_eq!(bench.sends(), ["l +a#2"]);
}
