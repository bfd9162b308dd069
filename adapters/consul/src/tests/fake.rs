//! Against a server that answers as no good Consul would: nothing of it is ever taken for a deletion.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use xebec_galley::spec;
use xebec_pilot::model::Health;
use xebec_testkit::eventually;

use super::{LIMIT, Live};
use crate::Settings;

const NAMES: &str = "/v1/catalog/services";
const WEB: &str = "/v1/health/service/web";
const HOST: &str = "web.service.consul";

/// A server that behaves like Consul, long polls included, but for the replies that a test has put in.
pub(super) struct Fake {
    pub(super) address: String,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    state: Mutex<Inner>,
    /// Says that something is different, so that polls look again.
    changed: watch::Sender<()>,
}

struct Inner {
    /// The index of every answer. Without one, or with 0, nothing is waited for.
    index: Option<u64>,
    answers: BTreeMap<String, Value>,
    odd: Vec<Odd>,
    requests: Vec<String>,
}

/// A reply that is given instead of the good answer.
#[derive(Debug, Clone)]
pub(super) struct Odd {
    /// To requests whose path and query hold all of this.
    to: Vec<&'static str>,
    reply: Reply,
    /// How often.
    times: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// A status, headers and a body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Nothing, for as long as the client likes.
    Hang,
}

// === impl Fake ===

impl Fake {
    /// One with these answers by path.
    pub(super) async fn with(answers: impl IntoIterator<Item = (&str, Value)>) -> Self {
        let answers = answers.into_iter().map(|(path, body)| (path.to_owned(), body)).collect();
        let state = Inner { index: Some(10), answers, odd: Vec::new(), requests: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(()) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared, server }
    }

    /// One with a service of one instance, and a registry that has read it.
    async fn with_web(settings: Settings) -> (Self, Live) {
        let fake = Self::with([(NAMES, json!({"consul": [], "web": []})), (WEB, json!([row(1)]))]).await;
        let mut live = Live::start(Settings { address: fake.address.clone(), ..settings });
        live.synced().await;
        assert_eq!(live.count(HOST), Some(1));
        live.said.clear();
        (fake, live)
    }

    /// Answers this from now on, at this index.
    fn set(&self, index: Option<u64>, path: &str, body: Value) {
        let mut state = self.shared.state.lock().unwrap();
        state.index = index;
        state.answers.insert(path.to_owned(), body);
        self.shared.changed.send_replace(());
    }

    /// Gives this reply so often to requests that hold all of `to`, open polls first.
    pub(super) fn odd(&self, to: &[&'static str], reply: Reply, times: usize) {
        self.shared.state.lock().unwrap().odd.push(Odd { to: to.to_vec(), reply, times });
        self.shared.changed.send_replace(());
    }

    /// Whether every odd reply was given.
    fn is_good(&self) -> bool {
        self.shared.state.lock().unwrap().odd.iter().all(|odd| odd.times == 0)
    }

    /// How many requests held all of `what`.
    pub(super) fn asked(&self, what: &[&str]) -> usize {
        let state = self.shared.state.lock().unwrap();
        state.requests.iter().filter(|request| what.iter().all(|text| request.contains(text))).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

// === impl Reply ===

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), "on purpose".to_owned())
    }

    /// The page of something else that answers in Consul's place.
    pub(super) fn page(body: &str) -> Self {
        Self::Answer(200, Vec::new(), body.to_owned())
    }

    /// An answer at this index.
    pub(super) fn at(index: &str, body: &str) -> Self {
        Self::Answer(200, vec![("x-consul-index", index.to_owned())], body.to_owned())
    }

    /// News, with these headers besides.
    fn news(headers: &[(&'static str, &str)], body: &str) -> Self {
        let mut all = vec![("x-consul-index", "11".to_owned())];
        all.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Self::Answer(200, all, body.to_owned())
    }

    async fn give(self) -> Response {
        let Self::Answer(status, headers, body) = self else { return std::future::pending().await };
        let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }
}

fn row(number: u8) -> Value {
    json!({
        "Node": {"Node": "n1", "Address": "10.9.9.9", "Datacenter": "dc1"},
        "Service": {"ID": format!("web-{number}"), "Service": "web", "Address": format!("10.0.0.{number}"), "Port": 80},
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
    })
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let request = uri.to_string();
    let parameter = |name: &str| {
        uri.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let index: Option<u64> = parameter("index").map(|text| text.parse().unwrap());
    let wait = parameter("wait").map_or(0, |text| text.strip_suffix("ms").unwrap().parse().unwrap());
    let end = tokio::time::Instant::now() + Duration::from_millis(wait);
    shared.state.lock().unwrap().requests.push(request.clone());
    let mut changed = shared.changed.subscribe();
    let mut over = false;
    loop {
        changed.mark_unchanged();
        let odd = shared.state.lock().unwrap().take(&request);
        if let Some(reply) = odd {
            return reply.give().await;
        }
        if let Some(reply) = shared.state.lock().unwrap().good(uri.path(), index, over) {
            return reply;
        }
        over = tokio::time::timeout_at(end, changed.changed()).await.is_err();
    }
}

// === impl Inner ===

impl Inner {
    /// The odd reply to this request, if any is left.
    fn take(&mut self, request: &str) -> Option<Reply> {
        let odd = self.odd.iter_mut().find(|odd| odd.times > 0 && odd.to.iter().all(|text| request.contains(text)))?;
        odd.times -= 1;
        Some(odd.reply.clone())
    }

    /// The good answer, unless it is to be waited for.
    fn good(&self, path: &str, index: Option<u64>, over: bool) -> Option<Response> {
        let now = self.index.unwrap_or(0);
        // Consul ends polls with an index that it has not reached yet only when their time is over.
        if now > 0 && index.is_some_and(|index| index >= now) && !over {
            return None;
        }
        let Some(body) = self.answers.get(path) else { return Some(StatusCode::NOT_FOUND.into_response()) };
        let mut response = body.to_string().into_response();
        if self.index.is_some() {
            // As Consul does since it streams what long polls of health wait for.
            let streams = path.starts_with("/v1/health/") && index.is_some();
            let (backend, leader) = if streams { ("streaming", "false") } else { ("blocking-query", "true") };
            for (name, value) in [
                ("x-consul-index", &*now.to_string()),
                ("x-consul-knownleader", leader),
                ("x-consul-query-backend", backend),
            ] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        Some(response)
    }
}

#[tokio::test]
async fn a_tenants_huge_tags_do_not_hide_the_others() {
    let huge = "x".repeat(65 << 20);
    let fake = Fake::with([(NAMES, json!({"consul": [], "web": [huge]})), (WEB, json!([row(1)]))]).await;
    let mut live = Live::start(Settings { address: fake.address.clone(), ..Settings::default() });
    live.synced().await;
    assert_eq!((live.count(HOST), &live.degraded), (Some(1), &None));
    live.end().await;
}

#[tokio::test]
async fn a_refusal_that_is_over_is_reported_as_over_within_a_second_although_nothing_changed() {
    let (fake, mut live) = Fake::with_web(Settings::default()).await;
    for path in [WEB, NAMES] {
        for (status, word) in [(403, "403"), (500, "500")] {
            fake.odd(&[path], Reply::status(status), 1);
            live.until("it is degraded", |l| l.degraded.as_ref().is_some_and(|d| d.contains(word))).await;
            let refused = Instant::now();
            live.until("it has recovered", |l| l.degraded.is_none()).await;
            assert!(refused.elapsed() < Duration::from_secs(1), "{path}: {status}: {:?}", refused.elapsed());
        }
    }
    assert!(live.said.iter().all(|s| s.starts_with("degraded") || s == "recovered"), "{:?}", live.said);
    live.end().await;
}

#[tokio::test]
async fn a_change_costs_one_answer_and_nothing_else_is_asked() {
    let (fake, mut live) = Fake::with_web(Settings::default()).await;
    eventually(LIMIT, "both are waited for", async || {
        fake.asked(&[NAMES, "index="]) + fake.asked(&[WEB, "index="]) == 2
    })
    .await;
    for number in 2..7 {
        fake.set(Some(10 + u64::from(number)), WEB, (1..=number).map(row).collect());
        live.until("it is seen", |l| l.count(HOST) == Some(number.into())).await;
        eventually(LIMIT, "the next one is waited for", async || fake.asked(&[WEB, "index="]) == usize::from(number))
            .await;
    }
    assert_eq!(fake.asked(&[WEB]) - fake.asked(&[WEB, "index="]), 1, "the first read");
    live.end().await;
}

#[tokio::test]
async fn nothing_odd_is_taken_for_a_deletion_and_it_is_reported() {
    let (fake, mut live) = Fake::with_web(Settings::default()).await;
    let page = || Reply::page("<html>please sign in</html>");
    for (replies, word) in [
        ([Reply::status(500), Reply::status(500)], "HTTP 500"),
        ([Reply::status(404), Reply::status(404)], "HTTP 404"),
        ([Reply::status(429), Reply::status(429)], "limits requests"),
        (
            [Reply::news(&[], r#"{"consul": [], "we"#), Reply::news(&[], r#"[{"Node": {"Node": "n1""#)],
            "cannot be understood",
        ),
        ([Reply::news(&[], ""), Reply::news(&[], "")], "cannot be understood"),
        ([page(), page()], "cannot be understood"),
        (
            [
                Reply::news(&[("x-consul-knownleader", "false")], "{}"),
                Reply::news(&[("x-consul-knownleader", "false")], "[]"),
            ],
            "no leader",
        ),
        (
            [
                Reply::news(&[("x-consul-results-filtered-by-acls", "true")], r#"{"consul": []}"#),
                Reply::news(&[("x-consul-results-filtered-by-acls", "true")], "[]"),
            ],
            "the token may not see",
        ),
        ([Reply::news(&[], "{}"), Reply::status(503)], "not even Consul itself"),
        ([Reply::news(&[], "null"), Reply::status(503)], "not even Consul itself"),
    ] {
        let [names, rows] = replies;
        let what = format!("{names:?} {rows:?}");
        for (path, reply) in [(NAMES, names), (WEB, rows)] {
            // More than once: one connection that ends is not worth a word.
            fake.odd(&[path], reply, 3);
        }
        live.until(&what, |l| l.degraded.as_ref().is_some_and(|d| d.contains(word))).await;
        eventually(LIMIT, "both were answered oddly", async || fake.is_good()).await;
        live.until("it has recovered", |l| l.degraded.is_none()).await;
        assert_eq!((live.count(HOST), live.services.len()), (Some(1), 1), "{what}");
    }
    assert!(live.said.iter().all(|s| s.starts_with("degraded") || s == "recovered"), "{:?}", live.said);
    // And a deletion is one.
    fake.set(Some(12), WEB, json!([]));
    live.until("it is empty", |l| l.count(HOST) == Some(0)).await;
    live.end().await;
}

#[tokio::test]
async fn an_empty_answer_that_may_not_be_consuls_is_checked_first() {
    let (fake, mut live) = Fake::with_web(Settings::default()).await;
    let nothing = Reply::page("[]");
    // To the poll, and to the question whether that is so.
    fake.odd(&[WEB], nothing.clone(), 2);
    fake.odd(&[NAMES, "consistent"], nothing, 1);
    live.until("it is degraded", |l| l.degraded.as_ref().is_some_and(|d| d.contains("cannot be understood"))).await;
    live.until("it has recovered", |l| l.degraded.is_none()).await;
    assert_eq!(live.count(HOST), Some(1));
    // Where it is Consul after all, behind something that drops headers, the service is empty.
    fake.set(None, WEB, json!([]));
    live.until("it is empty", |l| l.count(HOST) == Some(0)).await;
    live.end().await;
}

#[tokio::test]
async fn an_index_that_goes_back_is_checked_with_the_leader() {
    let (fake, mut live) = Fake::with_web(Settings::default()).await;
    // A server that has just started and knows less than the leader.
    let behind = |body: &str| Reply::at("3", body);
    fake.odd(&[WEB, "stale"], behind("[]"), 1);
    fake.odd(&[NAMES, "stale"], behind(r#"{"consul": []}"#), 1);
    // Names are asked of the leader at the start, too.
    eventually(LIMIT, "the leader was asked for both", async || {
        fake.asked(&[WEB, "consistent"]) == 1 && fake.asked(&[NAMES, "consistent"]) == 2
    })
    .await;
    fake.set(Some(11), WEB, json!([row(1), row(2)]));
    live.until("changes are still seen", |l| l.count(HOST) == Some(2)).await;
    // Nor is it believed after somebody has said that there is no leader.
    fake.odd(&[WEB], Reply::news(&[("x-consul-knownleader", "false")], "[]"), 1);
    fake.odd(&[WEB, "stale"], behind("[]"), 1);
    eventually(LIMIT, "the leader was asked again", async || fake.asked(&[WEB, "consistent"]) == 2).await;
    fake.set(Some(12), WEB, json!([row(1), row(2), row(3)]));
    live.until("changes are still seen", |l| l.count(HOST) == Some(3)).await;
    assert_eq!(live.said, [format!("{HOST}=2"), format!("{HOST}=3")], "and nothing else was said");
    // A leader whose data was restored from a snapshot: its index is lower, and what it says counts.
    fake.set(Some(4), WEB, json!([row(3)]));
    fake.odd(&[WEB, "stale"], behind(&json!([row(3)]).to_string()), 1);
    live.until("the snapshot is what counts", |l| l.said.last().is_some_and(|s| *s == format!("{HOST}=1"))).await;
    assert_eq!(live.said.len(), 3, "{:?}", live.said);
    fake.set(Some(5), WEB, json!([]));
    live.until("it goes on from there", |l| l.count(HOST) == Some(0)).await;
    live.end().await;
}

#[tokio::test]
async fn a_server_without_an_index_is_neither_stormed_nor_forgotten() {
    for index in [Some(0), None] {
        let (fake, mut live) = Fake::with_web(Settings::default()).await;
        fake.set(index, WEB, json!([row(1), row(2)]));
        live.until("the change is seen", |l| l.count(HOST) == Some(2)).await;
        let before = fake.asked(&[]);
        // Nothing is to happen: there is no condition to wait for.
        tokio::time::timeout(Duration::from_secs(2), live.until("never", |_| false)).await.unwrap_err();
        let asked = fake.asked(&[]) - before;
        assert!((2..40).contains(&asked), "{index:?}: {asked} requests in two seconds");
        fake.set(index, WEB, json!([row(1)]));
        live.until("a later change is seen", |l| l.count(HOST) == Some(1)).await;
        assert!(!live.said.iter().any(|s| s.ends_with("=0") || s.starts_with('-')), "{:?}", live.said);
        live.end().await;
    }
}

#[tokio::test]
async fn a_connection_that_hangs_is_left_after_a_while_and_nothing_is_lost() {
    let (fake, mut live) = Fake::with_web(Settings { wait: spec::Duration::from_secs(1), ..Settings::default() }).await;
    fake.odd(&[WEB], Reply::Hang, 1);
    live.until("it is degraded", |l| l.degraded.as_ref().is_some_and(|d| d.contains("no answer for 11 s"))).await;
    live.until("it has recovered", |l| l.degraded.is_none()).await;
    assert_eq!(live.count(HOST), Some(1));
    fake.set(Some(11), WEB, json!([row(1), row(2)]));
    live.until("changes are seen again", |l| l.count(HOST) == Some(2)).await;
    live.end().await;
}

#[tokio::test]
async fn a_name_that_left_the_list_stays_while_it_has_instances() {
    let (fake, mut live) =
        Fake::with_web(Settings { keep_empty: spec::Duration::from_millis(200), ..Settings::default() }).await;
    fake.set(Some(11), NAMES, json!({"consul": []}));
    fake.set(Some(12), WEB, json!([row(1), row(2)]));
    live.until("it is still followed", |l| l.count(HOST) == Some(2)).await;
    fake.set(Some(13), WEB, json!([]));
    live.until("it is gone", |l| l.services.is_empty()).await;
    assert_eq!(live.said, [format!("{HOST}=2"), format!("{HOST}=0"), format!("-{HOST}")]);
    live.end().await;
}

#[tokio::test]
async fn a_new_instance_waits_for_its_checks_where_that_is_wanted() {
    let (fake, mut live) =
        Fake::with_web(Settings { hold_down: spec::Duration::from_millis(700), ..Settings::default() }).await;
    let seen = Instant::now();
    fake.set(Some(11), WEB, json!([row(1), row(2)]));
    live.until("the new one waits", |l| l.health(HOST) == [Health::Healthy, Health::Unhealthy]).await;
    live.until("it has waited long enough", |l| l.health(HOST) == [Health::Healthy; 2]).await;
    assert!(seen.elapsed() >= Duration::from_millis(700), "{:?}", seen.elapsed());
    let mut checked = row(3);
    checked["Checks"].as_array_mut().unwrap().push(json!({"CheckID": "service:web-3", "Status": "passing"}));
    fake.set(Some(12), WEB, json!([row(1), row(2), checked]));
    live.until("one with a check of its own need not", |l| l.health(HOST) == [Health::Healthy; 3]).await;
    live.end().await;
}

#[tokio::test]
async fn a_hostname_that_no_instance_joins_any_more_is_kept_empty_for_a_while() {
    let settings = Settings {
        mesh_hostnames: vec!["shop.example".into()],
        keep_empty: spec::Duration::from_secs(2),
        ..Settings::default()
    };
    let (fake, mut live) = Fake::with_web(settings).await;
    let mut joined = row(2);
    joined["Service"]["Meta"] = json!({"mesh-hostname": "shop.example"});
    let shop = "shop.example";
    for (index, end) in [(20, false), (30, true)] {
        fake.set(Some(index), WEB, json!([row(1), joined]));
        live.until("it is joined", |l| l.count(shop) == Some(1)).await;
        fake.set(Some(index + 1), WEB, json!([row(1)]));
        live.until("it is left", |l| l.count(shop) == Some(0)).await;
        if end {
            live.until("it is gone", |l| !l.services.contains_key(shop)).await;
        }
    }
    assert_eq!(live.said.iter().filter(|s| **s == format!("-{shop}")).count(), 1, "{:?}", live.said);
    live.end().await;
}
