//! The suite itself. Each case is one function over any platform.

use std::time::{Duration, Instant};

use xebec_testkit::{Fault, FaultProxy, Workdir, eventually_ok};

use crate::observer::Set;
use crate::platform::{Health, Instance, Platform};
use crate::stage::{SOON, Stage, healthy};

/// How long the platform is away: longer than caches, leases and pauses between attempts last.
const OUTAGE: Duration = Duration::from_secs(60);
/// How long a broken answer may go without being reported.
const NOTICED: Duration = Duration::from_secs(30);
/// How long nothing may happen while a connection hangs: longer than any adapter's pause between attempts.
const HUNG: Duration = Duration::from_secs(4);

fn instances<P: Platform>(platform: &P, service: &str, count: u8) -> Vec<Instance> {
    (0..count).map(|number| Instance::numbered(service, number, platform.network())).collect()
}

async fn put_all<P: Platform>(platform: &mut P, service: &str, all: &[Instance]) {
    for instance in all {
        platform.put(service, instance).await;
    }
}

/// Lists completely before it is synced; sees instances added, changed, failing, recovering, draining, removed; services renamed,
/// emptied and new. Says how long an instance takes from the platform to a proxy.
pub async fn life<P: Platform>(name: &str) {
    let work = Workdir::new(&format!("life-{name}"));
    let Some(mut platform) = P::start(&work).await else { return };
    let mut all = Vec::new();
    for service in ["reviews", "ratings", "details"] {
        let some = instances(&platform, service, 2);
        put_all(&mut platform, service, &some).await;
        all.push((service, some));
    }
    if P::EMPTY {
        platform.put_empty("empty").await;
    }
    let stage = Stage::start(&work, &platform.source()).await;
    // Ready means synced, and synced means complete.
    let line = stage.registry().await;
    assert_eq!((&line["syncStatus"], &line["synced"]), (&"synced".into(), &true.into()), "{line}");
    for (service, some) in &all {
        let host = platform.host(service);
        let listed = stage.versions(&host).await.unwrap_or_else(|| panic!("{host} is missing although synced"));
        assert_eq!(listed.len(), some.len(), "{host} is incomplete although synced: {listed:?}");
        stage.until(&host, &healthy(some)).await;
    }
    if P::EMPTY {
        assert_eq!(
            stage.versions(&platform.host("empty")).await,
            Some(Default::default()),
            "a service without instances"
        );
    }

    let host = platform.host("reviews");
    let mut reviews = all.remove(0).1;
    latency(&mut platform, &stage, name, &host, &mut reviews).await;

    // Changed.
    reviews[0].version = "v2".to_owned();
    platform.put("reviews", &reviews[0]).await;
    let endpoint = reviews[0].endpoint();
    eventually_ok(SOON, "the changed label is seen", async || {
        let versions = stage.versions(&host).await.unwrap_or_default();
        if versions.get(&endpoint).is_some_and(|v| v == "v2") { Ok(()) } else { Err(format!("{versions:?}")) }
    })
    .await;
    stage.until(&host, &healthy(&reviews)).await;

    // Failing, recovered, draining.
    let mut expected = healthy(&reviews);
    for (health, seen) in
        [(Health::Unhealthy, "unhealthy"), (Health::Healthy, "healthy"), (Health::Draining, "draining")]
    {
        if health == Health::Draining && !P::DRAINS {
            continue;
        }
        platform.set_health("reviews", &reviews[1], health).await;
        expected.insert(reviews[1].endpoint(), seen);
        stage.until(&host, &expected).await;
    }
    // Removed.
    let removed = reviews.remove(1);
    platform.remove("reviews", &removed).await;
    stage.until(&host, &healthy(&reviews)).await;

    // Renamed: the same instances under another name.
    let ratings = all.remove(0).1;
    for instance in &ratings {
        platform.remove("ratings", instance).await;
    }
    let scores: Vec<Instance> =
        ratings.iter().map(|old| Instance { id: old.id.replace("ratings", "scores"), ..old.clone() }).collect();
    put_all(&mut platform, "scores", &scores).await;
    stage.until(&platform.host("scores"), &healthy(&scores)).await;
    stage.until(&platform.host("ratings"), &Set::new()).await;

    // Emptied: kept, and not resurrected by what is said about others.
    let details = all.remove(0).1;
    for instance in &details {
        platform.remove("details", instance).await;
    }
    let host = platform.host("details");
    stage.until(&host, &Set::new()).await;
    let emptied = Instant::now();
    let more = instances(&platform, "orders", 1);
    put_all(&mut platform, "orders", &more).await;
    stage.until(&platform.host("orders"), &healthy(&more)).await;
    assert_eq!(stage.versions(&host).await, Some(Default::default()), "an emptied service is kept, empty");
    let after = stage.observer.since(emptied, &host);
    assert!(after.iter().all(Set::is_empty), "an emptied service came back: {after:?}");
    assert_eq!(stage.registry().await["syncStatus"], "synced");
}

/// Adds instances one by one, and says how long each took from the platform's answer to the proxy's acknowledgement.
async fn latency<P: Platform>(platform: &mut P, stage: &Stage, name: &str, host: &str, reviews: &mut Vec<Instance>) {
    let mut took = Vec::new();
    for instance in instances(platform, "reviews", 12).into_iter().skip(reviews.len()) {
        let start = Instant::now();
        platform.put("reviews", &instance).await;
        let registered = Instant::now();
        let endpoint = instance.endpoint();
        let at = eventually_ok(SOON, &format!("{endpoint} arrives"), async || {
            stage.observer.arrival(start, host, &endpoint).ok_or("not yet")
        })
        .await;
        took.push((at.saturating_duration_since(registered), at - start));
        reviews.push(instance);
    }
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    let whole = took.iter().map(|(_, whole)| *whole).max().unwrap();
    eprintln!(
        "{name}: registered -> acknowledged: median {:?}, most {:?} ({whole:?} with the registering call)",
        median.0, most.0
    );
    stage.until(host, &healthy(reviews)).await;
}

/// A thousand changes as fast as the platform takes them: the last state is what is served.
pub async fn burst<P: Platform>(name: &str) {
    let work = Workdir::new(&format!("burst-{name}"));
    let Some(mut platform) = P::start(&work).await else { return };
    let quiet = instances(&platform, "quiet", 2);
    put_all(&mut platform, "quiet", &quiet).await;
    let stage = Stage::start(&work, &platform.source()).await;
    stage.until(&platform.host("quiet"), &healthy(&quiet)).await;
    let start = Instant::now();
    let expected = platform.burst("noisy").await;
    let made = start.elapsed();
    let host = platform.host("noisy");
    eventually_ok(SOON, "the last state is served", async || {
        let versions = stage.versions(&host).await.unwrap_or_default();
        if versions == expected { Ok(()) } else { Err(format!("{versions:?} instead of {expected:?}")) }
    })
    .await;
    let known = start.elapsed();
    stage.until(&host, &expected.keys().map(|endpoint| (endpoint.clone(), "healthy")).collect()).await;
    eprintln!("{name}: 1,000 changes made in {made:?}, the last state known after {known:?}");
    stage.assert_never_without(start, &platform.host("quiet"), &healthy(&quiet));
    assert_eq!(stage.registry().await["syncStatus"], "synced");
}

/// The platform is gone for a while: nothing is lost, nothing is invented, it is reported, and the return is no flap.
pub async fn outage<P: Platform>(name: &str) {
    let work = Workdir::new(&format!("outage-{name}"));
    let Some(mut platform) = P::start(&work).await else { return };
    let mut all = Vec::new();
    for service in ["reviews", "ratings"] {
        let some = instances(&platform, service, 3);
        put_all(&mut platform, service, &some).await;
        all.push((platform.host(service), some));
    }
    let stage = Stage::start(&work, &platform.source()).await;
    for (host, some) in &all {
        stage.until(host, &healthy(some)).await;
    }
    let start = Instant::now();
    platform.kill().await;
    let reason = stage.until_status("degraded", NOTICED).await;
    assert!(!reason.is_empty(), "a reason that an operator can act on");
    eprintln!("{name}: degraded after {:?}: {reason}", start.elapsed());
    while start.elapsed() < OUTAGE {
        for (host, some) in &all {
            assert_eq!(stage.versions(host).await.map(|v| v.len()), Some(some.len()), "{host} during the outage");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let back = Instant::now();
    platform.restart().await;
    stage.until_status("synced", Duration::from_secs(90)).await;
    eprintln!("{name}: synced again {:?} after the restart began", back.elapsed());
    // A change after the return comes through; what was said until then was whole all the time.
    let new = instances(&platform, "reviews", 4).remove(3);
    platform.put("reviews", &new).await;
    all[0].1.push(new);
    let (host, some) = &all[0];
    stage.until(host, &healthy(some)).await;
    stage.assert_never_without(start, host, &healthy(&some[..3]));
    let (host, some) = &all[1];
    stage.assert_never_without(start, host, &healthy(some));
    for set in stage.observer.since(start, host) {
        assert_eq!(set, healthy(some), "{host} has an invented endpoint");
    }
}

/// A server that answers wrongly, partly or not at all: nothing is taken for a deletion, and what changed meanwhile is seen afterwards.
pub async fn faults<P: Platform>(name: &str) {
    let work = Workdir::new(&format!("faults-{name}"));
    let Some(mut platform) = P::start(&work).await else { return };
    let upstream = platform.upstream().expect("a platform that is a server");
    let proxy = FaultProxy::start(&upstream.url, upstream.ca.as_deref()).await;
    let mut reviews = instances(&platform, "reviews", 2);
    let ratings = instances(&platform, "ratings", 2);
    put_all(&mut platform, "reviews", &reviews).await;
    put_all(&mut platform, "ratings", &ratings).await;
    let stage = Stage::start(&work, &platform.source_at(work.path(), &proxy.url())).await;
    let (host, other) = (platform.host("reviews"), platform.host("ratings"));
    stage.until(&host, &healthy(&reviews)).await;
    stage.until(&other, &healthy(&ratings)).await;
    let throttled =
        Fault::Answer { status: 429, headers: vec![("retry-after", "1".to_owned())], body: "slower\n".to_owned() };
    let faults = [
        Fault::status(403),
        throttled,
        Fault::status(500),
        Fault::EndAfter(20),
        Fault::CutAfter(20),
        Fault::Refuse,
        Fault::Hang,
    ];
    for (fault, number) in faults.into_iter().zip(2..) {
        let start = Instant::now();
        let what = format!("{fault:?}");
        let hangs = fault == Fault::Hang;
        proxy.set(fault);
        // Something happens meanwhile, which only a good answer can tell.
        let new = instances(&platform, "reviews", number + 1).pop().unwrap();
        platform.put("reviews", &new).await;
        if hangs {
            tokio::time::sleep(HUNG).await;
        } else {
            let reason = stage.until_status("degraded", NOTICED).await;
            eprintln!("{name}: {what}: degraded after {:?}: {reason}", start.elapsed());
        }
        for (host, some) in [(&host, &reviews), (&other, &ratings)] {
            assert_eq!(stage.versions(host).await.map(|v| v.len()), Some(some.len()), "{host} under {what}");
        }
        proxy.set(Fault::None);
        let healed = Instant::now();
        reviews.push(new);
        stage.until(&host, &healthy(&reviews)).await;
        stage.until_status("synced", SOON).await;
        eprintln!("{name}: {what}: well again after {:?}", healed.elapsed());
        stage.assert_never_without(start, &host, &healthy(&reviews[..usize::from(number)]));
        stage.assert_never_without(start, &other, &healthy(&ratings));
    }
}
