//! Four platforms, one mesh: a service with one version on each of Kubernetes, Consul and Nomad, and another service from a file.

use std::time::Duration;

use serde_json::json;
use xebec_testkit::client;
use xebec_testkit::load::Running;
use xebec_testkit::{
    Backend, Consul, ConsulMode, ControlPlane, DataPlane, Kube, Load, Nomad, NomadMode, ProxySpec, Workdir,
    eventually_ok, netns,
};

use crate::stage::{loopback, routes, service_at, until_synced};

const REVIEWS: &str = "reviews.default.svc.cluster.local";
const RATINGS: &str = "ratings.default.svc.cluster.local";
const PORT: u16 = 9080;
/// How long a platform may take to be reported as away, or as back.
const NOTICED: Duration = Duration::from_secs(60);
const SHARES: [(&str, f64); 3] = [("v1", 0.5), ("v2", 0.3), ("v3", 0.2)];

struct Platforms {
    kube: Kube,
    consul: Consul,
    nomad: Nomad,
}

/// v1 is a pod, v2 an instance in Consul's catalog, v3 an allocation of Nomad's, and ratings are in a file.
#[test]
fn one_route_splits_over_all_platforms_and_survives_the_loss_of_each() {
    netns::inside(async || {
        let work = Workdir::new("together");
        let (kube, consul, nomad) = tokio::join!(
            Kube::start(&work),
            Consul::start(&work, ConsulMode::Plain),
            Nomad::start(&work, NomadMode::Plain)
        );
        let (Some(kube), Some(consul), Some(nomad)) = (kube, consul, nomad) else { return };
        let mut platforms = Platforms { kube, consul, nomad };
        let v1 = Backend::start_at("v1", "10.244.1.1:9080".parse().unwrap()).await;
        let v2 = Backend::start("v2").await;
        let v3 = Backend::start("v3").await;
        let ratings = Backend::start("ratings").await;
        platforms.register(&v1, &v2, &v3).await;

        let instances = service_at("ratings", PORT, "http", &[("v1", ratings.port())]);
        let instances = instances.replace("host: ratings", &format!("host: {RATINGS}"));
        work.write("config/services.yaml", format!("services:\n{instances}"));
        work.write("config/reviews.yaml", rules());
        let mesh = platforms.control_plane(&work).await;

        let mut proxies = Vec::new();
        for plane in DataPlane::ALL {
            let Some(plane) = plane.or_skip() else { continue };
            let ip = loopback();
            let spec = ProxySpec::sidecar(&format!("client-{plane:?}").to_lowercase()).server(mesh.xds_addr()).ip(ip);
            proxies.push((plane, ip, plane.start(&work, spec).await));
        }
        until_synced(&mesh, proxies.len()).await;
        // An authority of a service's name is what an application's request has.
        let calls: Vec<_> = proxies
            .iter()
            .flat_map(|(plane, ip, _)| {
                [REVIEWS, RATINGS].map(|host| (*plane, host, client::get((*ip, PORT).into(), host, "/")))
            })
            .collect();
        for (plane, host, call) in &calls {
            eventually_ok(NOTICED, &format!("{plane:?} reaches {host}"), async || {
                let reply = call.clone().send().await.map_err(|failure| failure.to_string())?;
                if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
            })
            .await;
        }

        let start = || -> Vec<_> {
            calls.iter().map(|(plane, host, call)| (*plane, *host, Load::new(100, call.clone()).start())).collect()
        };
        split(start(), 1000, "while all are there").await;
        for platform in ["kubernetes:", "consul:", "nomad:"] {
            let running = start();
            platforms.kill(platform);
            until_status(&mesh, platform, "degraded").await;
            // Twenty seconds of each, one after the other: more than a minute in all.
            for (_, _, load) in &running {
                load.more(2000).await;
            }
            platforms.restart(platform).await;
            until_status(&mesh, platform, "synced").await;
            split(running, 2000, platform).await;
        }
        // After all that, changes still arrive: nothing is sent to v3 any more, and then it leaves without a failure.
        work.write("config/reviews.yaml", rules().replace("weight: 20", "weight: 0"));
        for (plane, host, call) in &calls {
            eventually_ok(NOTICED, &format!("{plane:?} sends nothing to v3"), async || {
                let load = Load::new(500, call.clone()).start();
                load.more(100).await;
                let report = load.stop().await;
                if report.failed == 0 && report.share_of("v3") == 0.0 {
                    Ok(())
                } else {
                    Err(format!("{host}: {report}"))
                }
            })
            .await;
        }
        let running = start();
        platforms.nomad.stop_job("reviews-v3").await;
        eventually_ok(NOTICED, "v3 has left", async || {
            let page = mesh.json("/debug/endpointz").await?;
            let row = page.as_array().into_iter().flatten().find(|row| row["svc"] == REVIEWS).ok_or("no reviews")?;
            if row["ep"].as_array().is_some_and(|list| list.len() == 2) { Ok(()) } else { Err(row.to_string()) }
        })
        .await;
        for (plane, host, load) in running {
            load.more(100).await;
            let report = load.stop().await;
            assert!(report.failed == 0 && report.share_of("v3") == 0.0, "{plane:?} {host}: {report}");
        }
        let refused = crate::stage::refusals(&mesh.json("/debug/syncz").await.unwrap());
        assert!(refused.is_empty(), "{refused:?}");
    });
}

/// Each load was flawless, and the shares of the versions are those of the route.
async fn split(loads: Vec<(DataPlane, &str, Running)>, least: u64, when: &str) {
    for (plane, host, load) in loads {
        let so_far = load.so_far().total();
        load.more(least.saturating_sub(so_far)).await;
        let report = load.stop().await;
        assert!(report.failed == 0 && report.ok >= least, "{plane:?} {host} {when}: {report}");
        if host == RATINGS {
            assert_eq!(report.served_by.keys().collect::<Vec<_>>(), ["ratings"]);
            continue;
        }
        #[allow(clippy::cast_precision_loss)]
        let draws = report.ok as f64;
        for (version, share) in SHARES {
            let seen = report.share_of(version);
            // Five standard deviations.
            let bound = 5.0 * (share * (1.0 - share) / draws).sqrt();
            assert!((seen - share).abs() < bound, "{plane:?} {when}: {version} had {seen}: {report}");
        }
    }
}

async fn until_status(mesh: &ControlPlane, platform: &str, status: &str) {
    eventually_ok(NOTICED, &format!("{platform} is {status}"), async || {
        let lines = mesh.json("/debug/clusterz").await?;
        let line = lines.as_array().into_iter().flatten().find(|l| l["id"].as_str().unwrap().starts_with(platform));
        let line = line.ok_or("not listed")?;
        if line["syncStatus"] == status { Ok(()) } else { Err(lines.to_string()) }
    })
    .await;
}

fn rules() -> String {
    let subsets: String =
        SHARES.iter().map(|(v, _)| format!("  - {{name: {v}, labels: {{version: {v}}}}}\n")).collect();
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  host: {REVIEWS}\n  subsets:\n{subsets}"
    );
    let shares: String = SHARES
        .iter()
        .map(|(v, share)| {
            format!("    - {{destination: {{host: {REVIEWS}, subset: {v}}}, weight: {:.0}}}\n", share * 100.0)
        })
        .collect();
    format!("{rule}---\n{}", routes(REVIEWS, &format!("  - route:\n{shares}")))
}

// === impl Platforms ===

impl Platforms {
    async fn register(&self, v1: &Backend, v2: &Backend, v3: &Backend) {
        self.kube.put_node("node-1", json!({})).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews"},
            "spec": {"selector": {"app": "reviews"}, "ports": [{"name": "http", "port": PORT}]},
        });
        self.kube.put_object("/api/v1/namespaces/default/services/reviews", &service).await;
        let labels = json!({"app": "reviews", "version": "v1"});
        let address = v1.addr().ip().to_string();
        self.kube.run_pod("default", "reviews-v1", "node-1", &address, labels, true).await;

        let registration = json!({
            "Node": "machine-1", "Address": "127.0.0.1", "SkipNodeUpdate": true,
            "Service": {
                "ID": "reviews-v2", "Service": "reviews", "Address": "127.0.0.1", "Port": v2.port(),
                "Meta": {"version": "v2", "protocol": "http", "mesh-port": PORT.to_string(), "mesh-hostname": REVIEWS},
            },
        });
        self.consul.put("/v1/catalog/register", registration).await;

        let tags = ["version=v3", "protocol=http", &format!("mesh-port={PORT}"), &format!("mesh-hostname={REVIEWS}")];
        let job = json!({"ID": "reviews-v3", "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [{
            "Name": "reviews",
            "Services": [{
                "Name": "reviews", "Provider": "nomad", "Address": "127.0.0.1", "AddressMode": "auto",
                "PortLabel": v3.port().to_string(), "Tags": tags,
            }],
            "Tasks": [{
                "Name": "reviews", "Driver": "raw_exec", "Config": {"command": "/bin/sleep", "args": ["1000"]},
                "Resources": {"CPU": 20, "MemoryMB": 10},
            }],
        }]});
        self.nomad.run_job_until_running(job, 1).await;
    }

    async fn control_plane(&self, work: &Workdir) -> ControlPlane {
        let settings = format!(
            "consul:\n- address: {}\n  meshHostnames: ['*.svc.cluster.local']\nnomad:\n- address: {}\n  meshHostnames: ['*.svc.cluster.local']\n",
            self.consul.address(),
            self.nomad.address(),
        );
        let settings = work.write("settings.yaml", settings).display().to_string();
        let mut spec = ControlPlane::spec(work).config("config").argument("--settings").argument(settings);
        for registry in [
            format!("kubernetes:{}", self.kube.kubeconfig().display()),
            format!("consul:{}", self.consul.address()),
            format!("nomad:{}", self.nomad.address()),
        ] {
            spec = spec.argument("--registry").argument(registry);
        }
        spec.start().await
    }

    fn kill(&mut self, platform: &str) {
        match platform {
            "kubernetes:" => self.kube.kill_api(),
            "consul:" => self.consul.kill(),
            _ => self.nomad.kill(),
        }
    }

    async fn restart(&mut self, platform: &str) {
        match platform {
            "kubernetes:" => self.kube.restart_api().await,
            "consul:" => self.consul.restart().await,
            _ => self.nomad.restart().await,
        }
    }
}
