//! Configuration in a real Consul.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xebec_galley::source::SourceUpdate;
use xebec_galley::{Code, ConfigEvent};
use xebec_testkit::consul::{Consul, ConsulMode};
use xebec_testkit::{Workdir, eventually};

use super::LIMIT;
use super::fake::{Fake, Reply};
use crate::{KvSource, KvStore, Settings};

fn rule(name: &str, host: &str) -> Vec<u8> {
    format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: {host}}}\n")
        .into_bytes()
}

struct Live {
    updates: mpsc::Receiver<SourceUpdate>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// The resources in effect, and what is wrong by text.
    there: std::collections::BTreeSet<String>,
    problems: std::collections::BTreeMap<Arc<str>, Vec<(Code, String)>>,
    synced: bool,
    removals: usize,
}

impl Live {
    fn start(settings: Settings) -> Self {
        let source = KvSource::new(settings, "/xebec/").unwrap();
        let (sender, updates) = mpsc::channel(100);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { source.run(sender, stopped.cancelled()).await });
        Self {
            updates,
            stop,
            task,
            there: Default::default(),
            problems: Default::default(),
            synced: false,
            removals: 0,
        }
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = tokio::time::Instant::now() + LIMIT;
        while !condition(self) {
            let update = tokio::time::timeout_at(end, self.updates.recv()).await;
            let update = update.unwrap_or_else(|_| panic!("{what}: {:?} {:?}", self.there, self.problems)).unwrap();
            for event in update.events {
                match event {
                    ConfigEvent::Upsert(config) => drop(self.there.insert(config.meta().key.name.to_string())),
                    ConfigEvent::Remove(key) => {
                        self.removals += 1;
                        assert!(self.there.remove(&*key.name));
                    }
                }
            }
            for file in update.files {
                self.problems.remove(&file);
            }
            for problem in update.diagnostics {
                self.problems.entry(problem.source.file.clone()).or_default().push((problem.code, problem.message));
            }
            self.synced = update.synced;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn keys_are_texts_that_come_change_and_go_and_a_bad_one_keeps_its_last_good_version() {
    let work = Workdir::new("consul-kv");
    let Some(mut consul) = Consul::start(&work, ConsulMode::Plain).await else { return };
    let settings =
        Settings { address: consul.address(), wait: xebec_galley::spec::Duration::from_secs(5), ..Settings::default() };
    let store = KvStore::new(&settings).unwrap();
    let mut live = Live::start(settings.clone());
    live.until("an empty prefix is synced", |l| l.synced).await;

    assert!(store.put("xebec/shop/reviews", &rule("a", "a"), 0).await.unwrap());
    assert!(store.put("xebec/ratings.yaml", &rule("b", "b"), 0).await.unwrap());
    assert!(store.put("xebecother", &rule("c", "c"), 0).await.unwrap());
    live.until("both are there", |l| l.there.len() == 2).await;
    assert!(!store.put("xebec/ratings.yaml", b"lost", 0).await.unwrap(), "it is there already");
    let stored = store.get("xebec/ratings.yaml").await.unwrap().unwrap();
    assert_eq!(stored.value, rule("b", "b"));
    assert_eq!(store.get("xebec/nothing").await.unwrap(), None);

    assert!(store.put("xebec/ratings.yaml", b"spec: [", stored.index).await.unwrap());
    assert!(!store.put("xebec/ratings.yaml", b"lost", stored.index).await.unwrap(), "somebody wrote it since");
    let name = format!("consul:{}/xebec/ratings.yaml", consul.address());
    live.until("the mistake is reported", |l| l.problems.contains_key(&*name)).await;
    assert_eq!(live.there.len(), 2, "and the last good version stays");
    let stored = store.get("xebec/ratings.yaml").await.unwrap().unwrap();
    assert!(store.put("xebec/ratings.yaml", &rule("b2", "b"), stored.index).await.unwrap());
    live.until("it is corrected", |l| l.there.contains("b2") && l.problems.is_empty()).await;

    let removals = live.removals;
    consul.kill();
    let prefix = format!("consul:{}/xebec", consul.address());
    live.until("the outage is reported", |l| l.problems.contains_key(&*prefix)).await;
    consul.restart().await;
    live.until("it is over", |l| l.problems.is_empty()).await;
    assert_eq!((live.there.len(), live.removals), (2, removals), "an outage removes nothing");

    consul.delete("/v1/kv/xebec/shop/reviews").await;
    live.until("one is gone", |l| l.there.len() == 1).await;
    consul.delete("/v1/kv/xebec?recurse").await;
    live.until("all are gone", |l| l.there.is_empty()).await;
    live.end().await;
}

#[tokio::test]
async fn a_refusal_that_is_over_is_reported_as_over_within_a_second_although_no_key_changed() {
    const KEYS: &str = "/v1/kv/xebec/";
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, rule("a", "a"));
    let fake = Fake::with([(KEYS, json!([{"Key": "xebec/a", "Value": encoded, "ModifyIndex": 7}]))]).await;
    let mut live = Live::start(Settings { address: fake.address.clone(), ..Settings::default() });
    live.until("it is there", |l| l.synced && l.there.len() == 1).await;
    for reply in [Reply::status(403), Reply::status(500), Reply::page("[{\"Key\": \"xeb"), Reply::page("<html>")] {
        let what = format!("{reply:?}");
        // What has no index is asked for again at once: that answer is odd too.
        let times = if what.contains("200") { 2 } else { 1 };
        fake.odd(&[KEYS], reply, times);
        live.until(&what, |l| !l.problems.is_empty()).await;
        let refused = std::time::Instant::now();
        live.until("it is over", |l| l.problems.is_empty()).await;
        assert!(refused.elapsed() < Duration::from_secs(1), "{what}: {:?}", refused.elapsed());
    }
    // A page that says that there is no such thing is no word of Consul's about keys.
    fake.odd(&[KEYS], Reply::status(404), 1);
    live.until("it is reported", |l| !l.problems.is_empty()).await;
    live.until("it is over", |l| l.problems.is_empty()).await;
    // A server that has just started, and has not read its log to the end.
    let before = fake.asked(&[KEYS, "consistent"]);
    fake.odd(&[KEYS, "stale"], Reply::at("3", "[]"), 1);
    eventually(LIMIT, "the leader was asked", async || fake.asked(&[KEYS, "consistent"]) == before + 1).await;
    fake.odd(&[KEYS], Reply::status(500), 1);
    live.until("it is still followed", |l| !l.problems.is_empty()).await;
    assert_eq!((live.there.len(), live.removals), (1, 0));
    live.end().await;
}

#[tokio::test]
async fn keys_that_the_token_may_not_see_any_more_are_not_gone() {
    let work = Workdir::new("consul-kv-acl");
    let Some(consul) = Consul::start(&work, ConsulMode::Acl).await else { return };
    for name in ["a", "b"] {
        let settings = Settings {
            address: consul.address(),
            token_file: Some(work.write("management", consul.token().unwrap())),
            ..Settings::default()
        };
        assert!(KvStore::new(&settings).unwrap().put(&format!("xebec/{name}"), &rule(name, name), 0).await.unwrap());
    }
    let both = "key_prefix \"xebec/\" { policy = \"read\" }";
    let policy = consul.put("/v1/acl/policy", json!({"Name": "kv", "Rules": both})).await;
    let id = policy["ID"].as_str().unwrap();
    let token = consul.put("/v1/acl/token", json!({"Policies": [{"Name": "kv"}]})).await;
    let settings = Settings {
        address: consul.address(),
        token_file: Some(work.write("token", token["SecretID"].as_str().unwrap())),
        wait: xebec_galley::spec::Duration::from_secs(1),
        ..Settings::default()
    };
    let mut live = Live::start(settings.clone());
    live.until("both are there", |l| l.synced && l.there.len() == 2).await;
    for rules in ["key \"xebec/a\" { policy = \"read\" }", "key_prefix \"other/\" { policy = \"read\" }"] {
        consul.put(&format!("/v1/acl/policy/{id}"), json!({"ID": id, "Name": "kv", "Rules": rules})).await;
        live.until("it is reported", |l| l.problems.values().flatten().any(|(_, text)| text.contains("key_prefix")))
            .await;
        consul.put(&format!("/v1/acl/policy/{id}"), json!({"ID": id, "Name": "kv", "Rules": both})).await;
        live.until("it is over", |l| l.problems.is_empty()).await;
    }
    assert_eq!((live.there.len(), live.removals), (2, 0));
    live.end().await;
    let mut stranger = Live::start(Settings { token_file: None, ..settings });
    stranger.until("a stranger is told so", |l| !l.problems.is_empty()).await;
    assert!(!stranger.synced);
    tokio::time::timeout(Duration::from_secs(1), stranger.until("never", |l| l.synced)).await.unwrap_err();
    stranger.end().await;
}
