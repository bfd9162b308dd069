//! What a server may do to the registry that a real one does not do on demand.

use std::time::Duration;

use crate::fake::{Fake, How, event, row};
use crate::support::{Live, settings};

const WEB: &str = "web.default.service.nomad";
const BAD: &str = "bad.default.service.nomad";

async fn live(fake: &Fake) -> Live {
    let mut live = Live::start(settings(&fake.address));
    live.until("synced", |live| live.synced).await;
    assert_eq!(live.of(WEB).len(), 2);
    live.log.clear();
    live
}

fn removed(live: &Live) -> bool {
    live.log.iter().any(|line| line.starts_with(['-', '=']))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_error_half_answer_or_garbage_is_a_deletion() {
    let list = r#"[{"Namespace":"default","Services":[]}]"#;
    let broken = [
        How::Status(401),
        How::Status(403),
        How::Status(404),
        How::Status(429),
        How::Status(500),
        How::Status(503),
        How::Truncated(list.into(), 20),
        How::Garbage,
        How::Good("null".into(), 20),
        How::Good(r#"{"a": 1}"#.into(), 20),
    ];
    let mut cases = Vec::new();
    for path in ["/v1/services", "/v1/service/web", "/v1/allocations", "/v1/event/stream"] {
        for how in &broken {
            if path == "/v1/event/stream" && matches!(how, How::Garbage | How::Good(..) | How::Truncated(..)) {
                continue;
            }
            cases.push(survives(path, how.clone()));
        }
    }
    futures_util::future::join_all(cases).await;
}

async fn survives(path: &str, how: How) {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    let what = format!("degraded by {path} {how:?}");
    fake.answer(path, how);
    fake.cut();
    // That a stream ended so soon is a reason of its own.
    let reason = |live: &Live| live.degraded.as_ref().is_some_and(|why| !why.contains("ended the event stream"));
    live.until(&what, reason).await;
    assert_eq!(live.of(WEB).len(), 2, "{what}");
    fake.healthy(&[row("a", 1000), row("b", 1001)], 10);
    live.until("recovered", |live| live.degraded.is_none()).await;
    assert!(!removed(&live), "{what}: {:?}", live.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_reported_and_loses_nothing() {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    fake.answer("/v1/services", How::Hang);
    fake.cut();
    live.until("degraded", |live| live.degraded.as_ref().is_some_and(|why| why.contains("no answer"))).await;
    assert!(!removed(&live), "{:?}", live.log);
    fake.healthy(&[row("b", 1001)], 11);
    live.until("recovered with the difference", |live| live.degraded.is_none() && live.of(WEB).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_after_a_restart_is_believed_at_the_second_look_and_only_when_a_node_is_ready() {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    // A server that has not read its log to the end.
    fake.healthy(&[], 3);
    fake.answer("/v1/nodes", How::Good(r#"[{"ID":"n","Name":"node","Status":"initializing"}]"#.into(), 2));
    fake.cut();
    live.until("doubted", |live| live.degraded.as_ref().is_some_and(|why| why.contains("second look"))).await;
    live.until("no node", |live| live.degraded.as_ref().is_some_and(|why| why.contains("no node is ready"))).await;
    assert!(!removed(&live), "{:?}", live.log);
    fake.healthy(&[row("a", 1000), row("b", 1001)], 10);
    live.until("recovered", |live| live.degraded.is_none()).await;
    assert!(!removed(&live), "its log was read, and all is as it was: {:?}", live.log);
    // One that lost everything says so again and again.
    fake.healthy(&[], 3);
    fake.cut();
    live.until("believed", |live| live.degraded.is_none() && live.of(WEB).is_empty()).await;
    assert!(live.service(WEB).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_and_a_gap_is_found() {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    let third = event(12, "ServiceRegistration", &row("c", 1002));
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into(), third.clone()]));
    fake.cut();
    live.until("the event is taken", |live| live.of(WEB).len() == 3).await;
    // The list is not asked again: it would say less.
    let fourth = event(13, "ServiceRegistration", &row("d", 1003));
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into(), third, fourth]));
    fake.cut();
    live.until("and the next one", |live| live.of(WEB).len() == 4).await;
    assert!(live.degraded.is_none() && !live.log.iter().any(|line| line.ends_with(":2")), "{:?}", live.log);
    // The last event is not repeated: something was missed, and the list says what.
    fake.healthy(&[row("a", 1000)], 19);
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into(), event(20, "ServiceRegistration", &row("e", 1004))]));
    fake.cut();
    live.until("what was missed is there", |live| live.of(WEB).len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_version_that_does_not_exist_falls_back_to_blocking_queries() {
    let fake = Fake::start().await;
    fake.answer("/v1/event/stream", How::NoVersion);
    let mut live = live(&fake).await;
    fake.healthy(&[row("a", 1000)], 11);
    fake.answer("/v1/event/stream", How::NoVersion);
    live.until("the change is seen", |live| live.of(WEB).len() == 1).await;
    fake.answer("/v1/services", How::Status(500));
    live.until("degraded", |live| live.degraded.is_some()).await;
    assert_eq!(live.of(WEB).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_cannot_be_read_leads_to_a_listing() {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into(), r#"{"Index": "x"}"#.into()]));
    fake.answer("/v1/service/web", How::Good(format!("[{}]", row("a", 1000)), 11));
    fake.cut();
    live.until("what is listed is there", |live| live.of(WEB).len() == 1).await;
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into()]));
    live.until("and it settles", |live| live.degraded.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_cut_at_once_are_reported_and_opened_again_with_pauses() {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    let third = event(12, "ServiceRegistration", &row("c", 1002));
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into(), third.clone()]));
    fake.cut();
    live.until("the event is taken", |live| live.of(WEB).len() == 3).await;
    live.log.clear();
    // Each one goes on where the last one was, and ends.
    fake.answer("/v1/event/stream", How::Brief(third));
    fake.cut();
    let times = |live: &Live| live.log.iter().filter(|line| line.starts_with("degraded")).count();
    live.until("reported", |live| times(live) == 1).await;
    let first = live.last;
    assert!(live.degraded.as_ref().unwrap().contains("ended the event stream"), "{:?}", live.degraded);
    live.until("reported each time", |live| times(live) == 5).await;
    assert!(live.last - first > Duration::from_millis(300), "four pauses of at least 0.1 s: {:?}", live.last - first);
    assert!(!removed(&live), "{:?}", live.log);
    fake.answer("/v1/event/stream", How::Stream(vec!["{}".into()]));
    live.until("recovered", |live| live.degraded.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_or_node_that_cannot_be_read_costs_no_other_one() {
    let list = r#"[{"Namespace":"default","Services":[{"ServiceName":"bad"},{"ServiceName":"web"}]}]"#;
    let bad = |rows: &str| How::Good(rows.replace("web", "bad"), 10);
    for (path, how) in [
        ("/v1/service/bad", How::Status(500)),
        ("/v1/service/bad", How::Status(403)),
        ("/v1/service/bad", How::Truncated("[]".repeat(99), 10)),
        ("/v1/service/bad", bad(r#"[{"ServiceName": "web", "Port": "http"}]"#)),
        ("/v1/node/n", How::Status(500)),
    ] {
        let what = format!("{path} {how:?}");
        let fake = Fake::start().await;
        fake.answer("/v1/services", How::Good(list.into(), 10));
        fake.answer("/v1/service/bad", bad(&format!("[{}]", row("z", 1009))));
        fake.answer(path, how.clone());
        let name = if path.contains("node") { "the node \"n\"" } else { "the service \"bad\"" };
        let named = |live: &Live| live.degraded.as_ref().is_some_and(|why| why.contains(name) && why.contains(path));

        // At first the others are served, and more is to come.
        let mut live = Live::start(settings(&fake.address));
        live.until(&what, |live| named(live) && live.of(WEB).len() == 2).await;
        assert!(!live.synced, "{what}: {:?}", live.log);
        fake.answer("/v1/service/bad", bad(&format!("[{}]", row("z", 1009))));
        fake.answer(
            "/v1/node/n",
            How::Good(r#"{"ID":"n","Status":"ready","Meta":{"zone":"z1"},"ModifyIndex":1}"#.into(), 5),
        );
        live.until("read again", |live| live.synced && live.degraded.is_none()).await;
        assert_eq!(live.of(BAD).len(), 1, "{what}");

        // Later it stays as it was, while others change.
        fake.answer(path, how);
        fake.answer("/v1/nodes", How::Good(r#"[{"ID":"n","Status":"ready","ModifyIndex":2}]"#.into(), 6));
        fake.answer("/v1/service/web", How::Good(format!("[{}]", row("a", 1000)), 11));
        fake.cut();
        live.until(&what, |live| named(live) && live.of(WEB).len() == 1).await;
        assert_eq!((live.of(BAD).len(), &*live.of(BAD)[0].locality.zone), (1, "z1"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_never_end_are_reported() {
    let fake = Fake::start().await;
    let mut live = live(&fake).await;
    fake.answer("/v1/allocations", How::Paged("one", "other"));
    fake.cut();
    live.until("reported", |live| live.degraded.as_ref().is_some_and(|why| why.contains("follows twice"))).await;
    assert!(!removed(&live), "{:?}", live.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_during_a_listing_is_dropped_beyond_a_limit_and_it_is_listed_again() {
    let fake = Fake::start().await;
    let long = row("c", 1002).replace(r#""Tags":[]"#, &format!(r#""Tags":["{}"]"#, "x".repeat(1 << 20)));
    let lines = (20..110).map(|index| event(index, "ServiceRegistration", &long)).collect();
    fake.answer("/v1/event/stream", How::Stream(lines));
    fake.answer("/v1/allocations", How::Held("[]".into(), 9));
    let mut live = Live::start(settings(&fake.address));
    live.until("reported", |live| live.degraded.as_ref().is_some_and(|why| why.contains("listed again"))).await;
    assert!(!live.synced, "{:?}", live.log);
    assert_eq!(live.of(WEB).len(), 2, "what was listed is served meanwhile");
    live.until("listed again", |live| live.synced && live.degraded.is_none()).await;
}
