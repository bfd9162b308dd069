//! Rules of DestinationRule.

use super::Findings;
use super::names::is_label;
use super::rules;
use crate::spec::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DestinationRule, LoadBalancerSettings,
    LocalityFailover, LocalityLbSetting, OutlierDetection, SimpleLb, TrafficPolicy,
};
use crate::yaml::At;

pub(super) fn check(rule: &DestinationRule, at: &At<'_>, findings: &mut Findings) {
    rules::wildcard_host(&rule.host, &at.key("host"), findings);
    rules::export_to(&rule.export_to, &at.key("exportTo"), findings);
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy(policy, &at.key("trafficPolicy"), findings);
    }
    if let Some(selector) = &rule.workload_selector {
        rules::labels(&selector.match_labels, &at.key("workloadSelector").key("matchLabels"), findings);
    }
    let subsets = at.key("subsets");
    for (index, subset) in rule.subsets.iter().enumerate() {
        let at = subsets.index(index);
        if subset.name.is_empty() {
            findings.missing(&at.key("name"), "the subset has no name", "add `name:`");
        } else if !is_label(&subset.name) {
            findings.invalid(
                &at.key("name"),
                format!("`{}` is not the name of a subset", subset.name),
                "use lower-case letters, digits and hyphens",
            );
        }
        rules::labels(&subset.labels, &at.key("labels"), findings);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &at.key("trafficPolicy"), findings);
        }
    }
    rules::unique(rule.subsets.iter().map(|subset| subset.name.as_str()), "subset", &subsets, "name", findings);
}

fn traffic_policy(policy: &TrafficPolicy, at: &At<'_>, findings: &mut Findings) {
    if *policy == TrafficPolicy::default() {
        findings.missing(at, "the traffic policy says nothing", "add a setting, or remove it");
    }
    blocks(
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        at,
        findings,
    );
    let mut ports = Vec::new();
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let at = at.key("portLevelSettings");
        let at = at.index(index);
        match &settings.port {
            None => findings.missing(&at.key("port"), "which port is meant is missing", "add `port: { number: … }`"),
            Some(port) => {
                rules::port(port.number, &at.key("port").key("number"), findings);
                if ports.contains(&port.number) {
                    findings.suspicious(
                        &at.key("port"),
                        format!("port {} has settings already; these are not used", port.number),
                        "join them",
                    );
                }
                ports.push(port.number);
            }
        }
        blocks(
            settings.load_balancer.as_ref(),
            settings.connection_pool.as_ref(),
            settings.outlier_detection.as_ref(),
            settings.tls.as_ref(),
            &at,
            findings,
        );
    }
    if let Some(tunnel) = &policy.tunnel {
        let at = at.key("tunnel");
        if !matches!(tunnel.protocol.to_ascii_uppercase().as_str(), "" | "CONNECT" | "POST") {
            findings.invalid(
                &at.key("protocol"),
                format!("`{}` is not a way to tunnel", tunnel.protocol),
                "use `CONNECT` or `POST`",
            );
        }
        rules::host(&tunnel.target_host, &at.key("targetHost"), findings);
        rules::port(tunnel.target_port, &at.key("targetPort"), findings);
    }
    if let Some(percent) = policy.retry_budget.as_ref().and_then(|budget| budget.percent)
        && !(0.0..=100.0).contains(&percent)
    {
        findings.invalid(
            &at.key("retryBudget").key("percent"),
            format!("{percent} is not a percentage"),
            "use a number from 0 to 100",
        );
    }
}

fn blocks(
    balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    detection: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    at: &At<'_>,
    findings: &mut Findings,
) {
    if let Some(balancer) = balancer {
        load_balancer(balancer, &at.key("loadBalancer"), findings);
    }
    if let Some(pool) = pool {
        rules::connection_pool(pool, &at.key("connectionPool"), findings);
    }
    if let Some(detection) = detection {
        outlier_detection(detection, &at.key("outlierDetection"), findings);
    }
    if let Some(tls) = tls {
        client_tls(tls, &at.key("tls"), findings);
    }
}

fn load_balancer(balancer: &LoadBalancerSettings, at: &At<'_>, findings: &mut Findings) {
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        findings.contradiction(at, "`simple` and `consistentHash` both choose the algorithm", "keep one of them");
    }
    if balancer.simple == Some(SimpleLb::LeastConn) {
        findings.deprecated(
            &at.key("simple"),
            "`LEAST_CONN` is the deprecated name of `LEAST_REQUEST`",
            "write `LEAST_REQUEST`",
        );
    }
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(hash, &at.key("consistentHash"), findings);
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        locality(setting, &at.key("localityLbSetting"), findings);
    }
    if let Some(setting) = &balancer.zone_aware_lb_setting {
        let at = at.key("zoneAwareLbSetting");
        failover(&setting.failover, &at.key("failover"), findings);
        if balancer.locality_lb_setting.is_some() {
            findings.contradiction(&at, "both `zoneAwareLbSetting` and `localityLbSetting`", "keep one of them");
        }
        if setting.min_cluster_size == Some(0) {
            findings.invalid(&at.key("minClusterSize"), "0 is not a size", "use 1 or more");
        }
    }
    rules::positive(balancer.warmup_duration_secs, &at.key("warmupDurationSecs"), findings);
    if balancer.warmup_duration_secs.is_some() {
        findings.deprecated(
            &at.key("warmupDurationSecs"),
            "`warmupDurationSecs` is deprecated",
            "write `warmup: { duration: … }`",
        );
    }
    if let Some(warmup) = &balancer.warmup {
        let at = at.key("warmup");
        if warmup.duration.is_none() {
            findings.missing(&at.key("duration"), "how long the warm-up takes is missing", "add `duration:`");
        }
        rules::positive(warmup.duration, &at.key("duration"), findings);
        if let Some(percent) = warmup.minimum_percent
            && !(0.0..=100.0).contains(&percent)
        {
            findings.invalid(
                &at.key("minimumPercent"),
                format!("{percent} is not a percentage"),
                "use a number from 0 to 100",
            );
        }
        if let Some(aggression) = warmup.aggression.filter(|aggression| *aggression < 1.0) {
            findings.invalid(&at.key("aggression"), format!("{aggression} is below 1"), "use 1 or more");
        }
    }
}

fn consistent_hash(hash: &ConsistentHashLb, at: &At<'_>, findings: &mut Findings) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip == Some(true),
        hash.http_query_parameter_name.is_some(),
    ];
    match keys.iter().filter(|given| **given).count() {
        0 => findings.missing(
            at,
            "what is hashed is missing",
            "add one of `httpHeaderName`, `httpCookie`, `useSourceIp` and `httpQueryParameterName`",
        ),
        1 => {}
        _ => findings.contradiction(at, "there is more than one hash key", "keep one of them"),
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        findings.contradiction(at, "both `ringHash` and `maglev`", "keep one of them");
    }
    if hash.minimum_ring_size.is_some() {
        findings.deprecated(
            &at.key("minimumRingSize"),
            "`minimumRingSize` is deprecated",
            "write `ringHash: { minimumRingSize: … }`",
        );
    }
    if let Some(name) = &hash.http_header_name {
        rules::header_name(name, true, &at.key("httpHeaderName"), findings);
    }
    if let Some(cookie) = &hash.http_cookie
        && cookie.name.is_empty()
    {
        findings.missing(&at.key("httpCookie").key("name"), "the cookie has no name", "add `name:`");
    }
    if let Some(size) = hash.maglev.as_ref().and_then(|maglev| maglev.table_size)
        && !is_prime(size)
    {
        findings.invalid(
            &at.key("maglev").key("tableSize"),
            format!("{size} is not a prime of at most 5000011"),
            "use for example 65537",
        );
    }
}

fn is_prime(number: u64) -> bool {
    (2..=5_000_011).contains(&number)
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

/// How localities are preferred, by a rule or for the whole mesh.
pub(super) fn locality(setting: &LocalityLbSetting, at: &At<'_>, findings: &mut Findings) {
    let given = [!setting.distribute.is_empty(), !setting.failover.is_empty()];
    if given.iter().all(|given| *given) {
        findings.contradiction(at, "both `distribute` and `failover`", "keep one of them");
    }
    if !setting.distribute.is_empty() && !setting.failover_priority.is_empty() {
        findings.contradiction(at, "both `distribute` and `failoverPriority`", "keep one of them");
    }
    for (index, distribute) in setting.distribute.iter().enumerate() {
        let at = at.key("distribute");
        let at = at.index(index);
        if distribute.from.is_empty() {
            findings.missing(
                &at.key("from"),
                "the caller's locality is missing",
                "write `region/zone/subzone`, or `*`",
            );
        }
        let total: u64 = distribute.to.values().map(|share| u64::from(*share)).sum();
        if total != 100 {
            findings.invalid(&at.key("to"), format!("the shares add up to {total}"), "make them add up to 100");
        }
    }
    failover(&setting.failover, &at.key("failover"), findings);
}

fn failover(list: &[LocalityFailover], at: &At<'_>, findings: &mut Findings) {
    for (index, failover) in list.iter().enumerate() {
        let at = at.index(index);
        if failover.from.is_empty() || failover.to.is_empty() {
            findings.missing(&at, "a failover needs `from` and `to`", "");
        } else if failover.from == failover.to {
            findings.invalid(&at.key("to"), "a region cannot help out itself", "");
        }
        if failover.from.contains('/')
            || failover.to.contains('/')
            || failover.from.contains('*')
            || failover.to.contains('*')
        {
            findings.invalid(&at, "failover is between regions, without zones and wildcards", "");
        }
    }
}

fn outlier_detection(detection: &OutlierDetection, at: &At<'_>, findings: &mut Findings) {
    rules::positive(detection.interval, &at.key("interval"), findings);
    rules::positive(detection.base_ejection_time, &at.key("baseEjectionTime"), findings);
    rules::whole_percent(detection.max_ejection_percent.into(), &at.key("maxEjectionPercent"), findings);
    rules::whole_percent(detection.min_health_percent.into(), &at.key("minHealthPercent"), findings);
    if detection.consecutive_errors.is_some() {
        findings.deprecated(
            &at.key("consecutiveErrors"),
            "`consecutiveErrors` is deprecated and has no effect",
            "write `consecutive5xxErrors` or `consecutiveGatewayErrors`",
        );
    }
    if detection.consecutive_local_origin_failures.is_some() && !detection.split_external_local_origin_errors {
        findings.suspicious(
            &at.key("consecutiveLocalOriginFailures"),
            "it has an effect only together with `splitExternalLocalOriginErrors: true`",
            "",
        );
    }
    for (index, code) in detection.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(code) {
            findings.invalid(
                &at.key("outlierDetectionHttpErrorCodes").index(index),
                format!("{code} is not an HTTP status"),
                "",
            );
        }
    }
}

fn client_tls(tls: &ClientTlsSettings, at: &At<'_>, findings: &mut Findings) {
    let files = [&tls.client_certificate, &tls.private_key];
    match tls.mode {
        ClientTlsMode::Mutual if tls.credential_name.is_empty() => {
            for (value, field) in files.iter().zip(["clientCertificate", "privateKey"]) {
                if value.is_empty() {
                    findings.missing(
                        &at.key(field),
                        format!("`MUTUAL` needs `{field}`"),
                        "add it, or use `credentialName`",
                    );
                }
            }
        }
        ClientTlsMode::Mutual if files.iter().any(|value| !value.is_empty()) => {
            findings.contradiction(
                at,
                "certificates come both from files and from `credentialName`",
                "keep one of them",
            );
        }
        ClientTlsMode::IstioMutual => {
            let foreign = files.iter().any(|value| !value.is_empty())
                || !tls.ca_certificates.is_empty()
                || !tls.credential_name.is_empty();
            if foreign {
                findings.contradiction(
                    at,
                    "`ISTIO_MUTUAL` uses the mesh's own certificates",
                    "remove the certificate fields, or use `MUTUAL`",
                );
            }
        }
        _ => {}
    }
    if tls.insecure_skip_verify == Some(true) && (!tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty())
    {
        findings.contradiction(
            &at.key("insecureSkipVerify"),
            "the server is not verified, and yet there is something to verify it by",
            "remove `caCertificates` and `subjectAltNames`, or this field",
        );
    }
}
