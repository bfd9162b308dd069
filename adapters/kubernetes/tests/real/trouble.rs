//! A server that is away, stops, forgets or refuses.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use xebec_adapter_kubernetes::Settings;
use xebec_testkit::{Fault, FaultProxy, Kube, Workdir, eventually, eventually_ok};

use crate::heard::{Listener, SOON, host, listen, put_service};

/// A watch that is only silent is not trouble, so that a server that stops takes some seconds to be noticed.
const NOTICED: Duration = Duration::from_secs(15);

/// Two services with a pod each.
async fn two_services(kube: &Kube) {
    kube.put_node("node-a", json!({})).await;
    for (name, address) in [("a", "10.244.0.1"), ("b", "10.244.0.2")] {
        put_service(kube, name, json!({"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]})).await;
        kube.run_pod("default", &format!("{name}-1"), "node-a", address, json!({"app": name}), true).await;
    }
}

async fn until_both_are_known(listener: &Listener) {
    listener
        .until("both are known", |heard| {
            heard.synced && heard.addresses(&host("a")).len() == 1 && heard.addresses(&host("b")).len() == 1
        })
        .await;
}

/// A kubeconfig of the administrator that goes through a proxy.
fn through(work: &Workdir, kube: &Kube, proxy: &FaultProxy) -> PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": proxy.url()}}],
        "users": [{"name": "u", "user": {"token": kube.token()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    work.write("kubeconfig-through-the-proxy", config.to_string())
}

/// What was said since an index of the log, but for trouble and its end.
fn said_since(listener: &Listener, index: usize) -> Vec<String> {
    let heard = listener.heard.lock();
    let texts = heard.log[index..].iter().map(|(_, text)| text.clone());
    texts.filter(|text| !text.starts_with("degraded") && text != "recovered").collect()
}
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_dies_and_returns_removes_nothing_and_what_was_missed_is_said() {
    let work = Workdir::new("kubernetes-outage");
    let Some(mut kube) = Kube::start(&work).await else { return };
    two_services(&kube).await;
    let listener = listen(kube.kubeconfig(), Settings::default());
    until_both_are_known(&listener).await;
    let before = listener.heard.lock().log.len();
    kube.kill_api();
    listener.until("the outage is said", |heard| heard.degraded.is_some()).await;
    {
        let heard = listener.heard.lock();
        assert!(heard.degraded.as_ref().unwrap().contains("cannot be reached"), "{:?}", heard.degraded);
    }
    kube.restart_api().await;
    let back = Instant::now();
    listener.until("it recovers", |heard| heard.degraded.is_none()).await;
    assert!(back.elapsed() < Duration::from_secs(8), "{:?}", back.elapsed());
    {
        let heard = listener.heard.lock();
        let since: Vec<&str> = heard.log[before..].iter().map(|(_, text)| text.as_str()).collect();
        let flaps = since.iter().filter(|text| !text.starts_with("degraded") && **text != "recovered").count();
        assert_eq!(flaps, 0, "{since:?}");
        assert_eq!(since.iter().filter(|text| **text == "recovered").count(), 1, "{since:?}");
    }
    // And what changes afterwards, or changed meanwhile, arrives.
    kube.delete("/api/v1/namespaces/default/services/b").await;
    kube.run_pod("default", "a-2", "node-a", "10.244.0.3", json!({"app": "a"}), true).await;
    listener
        .until("changes arrive again", |heard| {
            !heard.services.contains_key(&host("b")) && heard.addresses(&host("a")).len() == 2
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_without_closing_anything_is_noticed_and_so_is_its_return() {
    let work = Workdir::new("kubernetes-frozen");
    let Some(mut kube) = Kube::start(&work).await else { return };
    two_services(&kube).await;
    let listener = listen(kube.kubeconfig(), Settings::default());
    until_both_are_known(&listener).await;
    let before = listener.heard.lock().log.len();
    let frozen = Instant::now();
    kube.freeze_api();
    eventually(NOTICED, "the silence is noticed", async || listener.heard.lock().degraded.is_some()).await;
    eprintln!("noticed after {:?}", frozen.elapsed());
    let said = listener.heard.lock().degraded.clone().unwrap_or_default();
    assert!(said.contains("has not answered"), "{said}");
    kube.thaw_api();
    let thawed = Instant::now();
    listener.until("it recovers", |heard| heard.degraded.is_none()).await;
    eprintln!("recovered after {:?}", thawed.elapsed());
    assert_eq!(said_since(&listener, before), [""; 0]);
    kube.delete("/api/v1/namespaces/default/services/b").await;
    listener.until("changes arrive again", |heard| !heard.services.contains_key(&host("b"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_server_was_away_is_said_also_when_it_has_forgotten_where_the_watch_was() {
    let work = Workdir::new("kubernetes-forgotten");
    let Some(mut kube) = Kube::start(&work).await else { return };
    two_services(&kube).await;
    let proxy = FaultProxy::start(&kube.api_addr(), Some(&kube.ca_file())).await;
    let listener = listen(through(&work, &kube, &proxy), Settings::default());
    until_both_are_known(&listener).await;

    let before = listener.heard.lock().log.len();
    proxy.set(Fault::Refuse);
    listener.until("the outage is said", |heard| heard.degraded.is_some()).await;
    kube.delete("/api/v1/namespaces/default/services/b").await;
    kube.run_pod("default", "a-2", "node-a", "10.244.0.3", json!({"app": "a"}), true).await;
    assert_eq!(said_since(&listener, before), [""; 0]);
    proxy.set(Fault::None);
    listener
        .until("what was missed is said", |heard| {
            let known = !heard.services.contains_key(&host("b")) && heard.addresses(&host("a")).len() == 2;
            known && heard.degraded.is_none()
        })
        .await;

    let place = kube.get("/api/v1/services").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let before = listener.heard.lock().log.len();
    proxy.set(Fault::Refuse);
    listener.until("the second outage is said", |heard| heard.degraded.is_some()).await;
    kube.delete("/api/v1/namespaces/default/services/a").await;
    put_service(&kube, "c", json!({"ports": [{"name": "http", "port": 80}]})).await;
    // A server remembers from its start on; what was before is gone from its memory.
    kube.restart_api().await;
    eventually_ok(SOON, "the server has forgotten the place of the watch", async || {
        let old = format!("/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion={place}");
        match kube.api().json("GET", &old, None).await {
            Ok(line) if line["object"]["code"] == 410 => Ok(()),
            Err(refused) if refused.status == Some(410) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(said_since(&listener, before), [""; 0]);
    proxy.set(Fault::None);
    listener.until("all is well", |heard| heard.degraded.is_none()).await;
    let heard = listener.heard.lock();
    assert!(!heard.services.contains_key(&host("a")) && heard.services.contains_key(&host("c")), "{:?}", heard.log);
    let removed: Vec<_> = heard.log[before..].iter().filter(|(_, text)| text.starts_with("-")).collect();
    assert!(removed.iter().all(|(_, text)| *text == format!("-{}", host("a"))), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_off_or_refuse_take_nothing_away() {
    let work = Workdir::new("kubernetes-answers");
    let Some(kube) = Kube::start(&work).await else { return };
    two_services(&kube).await;
    let proxy = FaultProxy::start(&kube.api_addr(), Some(&kube.ca_file())).await;
    let faults =
        [Fault::status(403), Fault::status(401), Fault::status(503), Fault::CutAfter(100), Fault::EndAfter(100)];
    // From the start: nothing is known, and nothing is said to be complete.
    proxy.set(Fault::status(403));
    let listener = listen(through(&work, &kube, &proxy), Settings::default());
    for fault in &faults {
        proxy.set(fault.clone());
        listener.until(&format!("{fault:?} is said"), |heard| heard.degraded.is_some()).await;
        assert!(!listener.heard.lock().synced, "{fault:?}");
    }
    proxy.set(Fault::None);
    until_both_are_known(&listener).await;
    listener.until("it is well", |heard| heard.degraded.is_none()).await;
    // Later: what is known stays. A watch on which nothing happens cannot break off.
    let before = listener.heard.lock().log.len();
    for fault in faults.into_iter().filter(|fault| matches!(fault, Fault::Answer { .. })) {
        let what = format!("{fault:?}");
        proxy.set(fault);
        listener.until(&format!("{what} is said"), |heard| heard.degraded.is_some()).await;
        proxy.set(Fault::None);
        listener.until(&format!("it recovers from {what}"), |heard| heard.degraded.is_none()).await;
        assert_eq!(said_since(&listener, before), [""; 0], "{what}");
    }
}
