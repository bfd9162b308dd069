//! What is there is listed, and what changes is said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use xebec_adapter_kubernetes::Settings;
use xebec_pilot::model::{Health, Prefer, Resolution, Visibility};
use xebec_testkit::{Kube, Workdir, eventually};

use crate::heard::{SOON, host, listen, put_service};

#[tokio::test(flavor = "multi_thread")]
async fn services_and_their_pods_are_followed_as_they_come_change_and_go() {
    let work = Workdir::new("kubernetes-follow");
    let Some(kube) = Kube::start(&work).await else { return };
    let zone = json!({"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": "z1"});
    kube.put_node("node-a", zone).await;
    kube.run_pod("default", "reviews-1", "node-a", "10.244.0.1", json!({"app": "reviews", "version": "v1"}), true)
        .await;
    let spec = json!({"selector": {"app": "reviews"}, "ports": [
        {"name": "http-web", "port": 80, "targetPort": 8080}, {"name": "db", "port": 3306, "appProtocol": "mysql"}]});
    put_service(&kube, "reviews", spec.clone()).await;
    let slices =
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=reviews";
    eventually(SOON, "the controller makes a slice", async || {
        !kube.get(slices).await["items"][0]["endpoints"].is_null()
    })
    .await;

    let listener = listen(kube.kubeconfig(), Settings { cluster_id: "one".to_owned(), ..Settings::default() });
    let reviews = host("reviews");
    listener.until("the registry is synced", |heard| heard.synced).await;
    {
        let heard = listener.heard.lock();
        assert!(heard.before_synced >= 2, "reviews and kubernetes come before `Synced`: {:?}", heard.log);
        let service = &heard.services[&reviews];
        assert_eq!(service.addresses.len(), 1);
        assert_eq!(service.resolution, Resolution::Static);
        let ports: Vec<_> = service.ports.iter().map(|p| format!("{} {} {:?}", p.name, p.number, p.protocol)).collect();
        assert_eq!(ports, ["http-web 80 Http", "db 3306 MySql"]);
        assert!(service.created > 1_700_000_000);
        let [endpoint] = &*heard.endpoints[&reviews] else { panic!("{:?}", heard.log) };
        assert_eq!(endpoint.ports[&Arc::from("http-web")], 8080);
        assert_eq!(endpoint.ports[&Arc::from("db")], 3306);
        assert_eq!(&*endpoint.labels[&Arc::from("version")], "v1");
        assert_eq!(&*endpoint.labels[&Arc::from("topology.istio.io/cluster")], "one");
        assert_eq!((&*endpoint.locality.region, &*endpoint.locality.zone), ("r1", "z1"));
        assert_eq!(endpoint.service_account.as_deref(), Some("default"));
        assert_eq!(endpoint.workload.as_deref(), Some("reviews-1"));
        assert_eq!(endpoint.node.as_deref(), Some("node-a"));
        assert!(heard.workloads.contains_key("reviews-1"));
    }

    // An instance comes, fails, recovers, drains, goes.
    kube.run_pod("default", "reviews-2", "node-a", "10.244.0.2", json!({"app": "reviews", "version": "v2"}), true)
        .await;
    let both = ["10.244.0.1 Healthy", "10.244.0.2 Healthy"];
    listener.until("the second pod is an endpoint", |heard| heard.addresses(&reviews) == both).await;
    kube.set_pod("default", "reviews-2", "10.244.0.2", false).await;
    let failing = ["10.244.0.1 Healthy", "10.244.0.2 Unhealthy"];
    listener.until("an unready pod is unhealthy", |heard| heard.addresses(&reviews) == failing).await;
    kube.set_pod("default", "reviews-2", "10.244.0.2", true).await;
    listener.until("it recovers", |heard| heard.addresses(&reviews) == both).await;
    let pod = "/api/v1/namespaces/default/pods/reviews-2";
    kube.kubectl(&["delete", "pod", "reviews-2", "--wait=false", "--grace-period=30"]).await;
    let draining = ["10.244.0.1 Healthy", "10.244.0.2 Draining"];
    listener.until("a pod that is being deleted drains", |heard| heard.addresses(&reviews) == draining).await;
    kube.kubectl(&["delete", "pod", "reviews-2", "--force", "--grace-period=0"]).await;
    listener
        .until("it is gone", |heard| {
            heard.addresses(&reviews) == ["10.244.0.1 Healthy"] && !heard.workloads.contains_key("reviews-2")
        })
        .await;
    assert!(kube.api().json("GET", pod, None).await.is_err());

    // Labels of a node move endpoints and nothing else.
    kube.put_node("node-a", json!({"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": "z2"})).await;
    listener.until("the zone changes", |heard| &*heard.endpoints[&reviews][0].locality.zone == "z2").await;

    // Other kinds of services.
    let headless =
        json!({"clusterIP": "None", "selector": {"app": "reviews"}, "ports": [{"port": 80, "targetPort": 8080}]});
    put_service(&kube, "headless", headless).await;
    put_service(&kube, "shop", json!({"type": "ExternalName", "externalName": "shop.example.com"})).await;
    listener
        .until("a headless service has endpoints", |heard| {
            heard.services.get(&host("headless")).is_some_and(|s| s.addresses.is_empty())
                && heard.addresses(&host("headless")) == ["10.244.0.1 Healthy"]
        })
        .await;
    listener
        .until("an external name is resolved by DNS", |heard| {
            heard.services.get(&host("shop")).is_some_and(|s| s.resolution == Resolution::Dns && s.external)
                && heard.addresses(&host("shop")) == ["Dns(\"shop.example.com\")"]
        })
        .await;
    let tuned = json!({
        "metadata": {"annotations": {"networking.istio.io/exportTo": ".,other,Not A Namespace"}},
        "spec": {"sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"},
    });
    kube.merge("/api/v1/namespaces/default/services/reviews", &tuned).await;
    listener
        .until("annotations and policies are read", |heard| {
            let service = &heard.services[&reviews];
            service.distribution.by_client_address
                && service.distribution.node_local
                && service.distribution.prefer == Prefer::Zone
                && service.visibility == Visibility::Namespaces(vec!["default".into(), "other".into()])
        })
        .await;

    // Renamed: made under another name, then deleted.
    put_service(&kube, "ratings", spec).await;
    kube.delete("/api/v1/namespaces/default/services/reviews").await;
    listener
        .until("the service has its new name", |heard| {
            !heard.services.contains_key(&reviews) && heard.addresses(&host("ratings")).len() == 1
        })
        .await;

    // No instances: the service stays, and is not resurrected.
    kube.kubectl(&["delete", "pod", "reviews-1", "--force", "--grace-period=0"]).await;
    listener
        .until("the service is empty", |heard| {
            heard.services.contains_key(&host("ratings")) && heard.addresses(&host("ratings")).is_empty()
        })
        .await;
    assert!(listener.heard.lock().degraded.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_a_thousand_changes_ends_in_the_last_state_and_a_ready_pod_is_said_at_once() {
    let work = Workdir::new("kubernetes-burst");
    let Some(kube) = Kube::start(&work).await else { return };
    kube.put_node("node-a", json!({})).await;
    put_service(&kube, "app", json!({"selector": {"app": "app"}, "ports": [{"name": "http", "port": 80}]})).await;
    let listener = listen(kube.kubeconfig(), Settings::default());
    listener.until("the registry is synced", |heard| heard.synced).await;
    let app = host("app");

    kube.run_pod("default", "app-0", "node-a", "10.244.0.1", json!({"app": "app"}), false).await;
    listener.until("the pod is known", |heard| heard.addresses(&app).len() == 1).await;
    let (mut from_patch, mut from_slice) = (Vec::new(), Vec::new());
    for round in 0..100 {
        let ready = round % 2 == 0;
        let wanted = if ready { Health::Healthy } else { Health::Unhealthy };
        let slice_of =
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=app";
        let begun = Instant::now();
        kube.set_pod("default", "app-0", "10.244.0.1", ready).await;
        let mut written = None;
        while listener.heard.lock().endpoints[&app][0].health != wanted {
            if round % 10 == 0 && written.is_none() {
                let slices = kube.get(slice_of).await;
                if slices["items"][0]["endpoints"][0]["conditions"]["ready"] == ready {
                    written = Some(begun.elapsed());
                }
            } else {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            assert!(begun.elapsed() < SOON, "round {round}");
        }
        let heard = listener.heard.lock();
        let at = heard.log.iter().rev().find(|(_, text)| text.starts_with(&format!("={app}"))).unwrap().0;
        from_patch.push(at.duration_since(begun));
        if let Some(written) = written {
            from_slice.push(at.duration_since(begun).saturating_sub(written));
        }
    }
    from_patch.sort();
    eprintln!("patch of the pod's status -> event: p50 {:?}, p99 {:?}", from_patch[50], from_patch[98]);
    eprintln!("slice seen by a second client -> event (upper bounds): {from_slice:?}");

    // The last state of many pods, each changed several times, however the changes are joined.
    for pod in 1..=50 {
        let address = format!("10.244.1.{pod}");
        kube.run_pod("default", &format!("app-{pod}"), "node-a", &address, json!({"app": "app"}), false).await;
    }
    let kube = Arc::new(kube);
    let mut tasks = tokio::task::JoinSet::new();
    for pod in 1..=50 {
        let kube = Arc::clone(&kube);
        tasks.spawn(async move {
            for change in 0..20 {
                kube.set_pod(
                    "default",
                    &format!("app-{pod}"),
                    &format!("10.244.1.{pod}"),
                    change % 2 == 1 || pod % 5 == 0,
                )
                .await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    listener
        .until("every pod is in its last state", |heard| {
            let all = heard.addresses(&app);
            all.len() == 51
                && all.iter().filter(|text| text.ends_with("Healthy") && !text.ends_with("Unhealthy")).count() == 50
        })
        .await;
    let heard = listener.heard.lock();
    assert!(heard.workloads.len() >= 51);
    assert!(heard.degraded.is_none(), "{:?}", heard.degraded);
}
