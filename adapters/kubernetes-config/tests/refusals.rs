//! What the API server refuses by itself, with the shipped definitions: their schemas and rules say what galley says, and nothing more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use xebec_galley::decode::{Outcome, decode};
use xebec_galley::yaml;
use xebec_testkit::api::Refused;
use xebec_testkit::{Kube, Workdir};

/// Kind, spec, and what the API server says; each is refused by galley too.
const BAD: &[(&str, &str, &str)] = &[
    ("VirtualService", "{}", "a VirtualService without hosts is a delegate"),
    ("VirtualService", "{hosts: [a]}", "there are no routes"),
    (
        "VirtualService",
        "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}",
        "`*` cannot be routed for sidecars",
    ),
    ("VirtualService", "{hosts: [a], http: [{}]}", "exactly one of route"),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}], redirect: {uri: /}}]}",
        "exactly one of route",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
        "the weights add up to 0",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{redirect: {uri: /}, rewrite: {uri: /}}]}",
        "a redirect does not forward requests",
    ),
    ("VirtualService", "{hosts: [a], tcp: [{route: []}]}", "the route has no destination"),
    (
        "VirtualService",
        "{hosts: [a], tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
        "the weights add up to 0",
    ),
    (
        "VirtualService",
        "{hosts: [a], tls: [{match: [{sniHosts: []}], route: [{destination: {host: a}}]}]}",
        "at least 1",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{redirect: {port: 80, derivePort: FROM_REQUEST_PORT}}]}",
        "port and derivePort both choose the port",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{redirect: {uri: /, prefixRewrite: /b}}]}",
        "uri replaces the whole path and prefixRewrite its beginning",
    ),
    ("VirtualService", "{hosts: [a], http: [{redirect: {redirectCode: 200}}]}", "redirectCode"),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}], rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}}]}",
        "keep one of uri and uriRegexRewrite",
    ),
    ("VirtualService", "{hosts: [a], http: [{directResponse: {status: 99}}]}", "status"),
    ("VirtualService", "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: 70000}}}]}]}", "65535"),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{uri: {exact: a, prefix: b}}], route: [{destination: {host: a}}]}]}",
        "at most 1",
    ),
    ("VirtualService", "{hosts: [a], http: [{route: [{destination: {host: a}}], timeout: soon}]}", "timeout"),
    ("VirtualService", "{hosts: [a], http: [{route: [{destination: {host: a}}], bogus: 1}]}", "bogus"),
    ("DestinationRule", "{host: ''}", "host"),
    ("DestinationRule", "{host: a, subsets: [{}]}", "name"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}}",
        "both choose the algorithm",
    ),
    ("DestinationRule", "{host: a, trafficPolicy: {loadBalancer: {simple: ANY}}}", "simple"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {}}}}",
        "exactly one of httpHeaderName",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {}, maglev: {}}}}}",
        "keep one of ringHash and maglev",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 50, b: 40}}]}}}}",
        "the shares must add up to 100",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]}}}}",
        "keep one of distribute and failover",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 100}}], failoverPriority: [a]}}}}",
        "keep one of distribute and failoverPriority",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}}}",
        "keep one of localityLbSetting and zoneAwareLbSetting",
    ),
    ("DestinationRule", "{host: a, trafficPolicy: {connectionPool: {}}}", "the connection pool says nothing"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}}",
        "maxEjectionPercent",
    ),
    ("Gateway", "{servers: []}", "servers"),
    ("Gateway", "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: []}]}", "hosts"),
    ("Gateway", "{servers: [{port: {name: h, protocol: HTTP}, hosts: ['*']}]}", "a port is a number from 1 to 65535"),
    ("Gateway", "{servers: [{port: {number: 80}, hosts: ['*']}]}", "the port needs a name and a protocol"),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: a, credentialNames: [b]}}]}",
        "keep one of credentialName, credentialNames and tlsCertificates",
    ),
    ("ServiceEntry", "{hosts: []}", "the service has no hosts"),
    ("ServiceEntry", "{hosts: ['*']}", "`*` alone is not a service's name"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: b}}, endpoints: [{address: 1.2.3.4}]}",
        "keep one of workloadSelector and endpoints",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], addresses: [10.0.0.0/8], resolution: DNS, ports: [{number: 80, name: http}]}",
        "networks are possible with the resolutions NONE and STATIC only",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], endpoints: [{address: 1.2.3.4}]}",
        "endpoints have no effect with the resolution NONE",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: DYNAMIC_DNS}", "DYNAMIC_DNS is for wildcard hosts"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.c}, {address: a.d}]}",
        "DNS_ROUND_ROBIN takes at most one endpoint",
    ),
    ("WorkloadEntry", "{}", "the address is missing"),
    ("Sidecar", "{}", "the Sidecar says nothing"),
    ("Sidecar", "{egress: [{hosts: []}]}", "hosts"),
    (
        "Sidecar",
        "{ingress: [{port: {name: http, protocol: HTTP}, defaultEndpoint: '127.0.0.1:80'}]}",
        "a port is a number from 1 to 65535",
    ),
];

/// Kind and spec of what both accept, near what they refuse.
const GOOD: &[(&str, &str)] = &[
    ("VirtualService", "{http: [{route: [{destination: {host: a}}]}]}"),
    ("VirtualService", "{hosts: ['*'], gateways: [edge], http: [{route: [{destination: {host: a}}]}]}"),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}, weight: 1}]}]}",
    ),
    ("VirtualService", "{hosts: [a], http: [{redirect: {derivePort: FROM_REQUEST_PORT, redirectCode: 308}}]}"),
    ("VirtualService", "{hosts: [a], http: [{route: [{destination: {host: a}}], timeout: 1m30.5s}]}"),
    ("DestinationRule", "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}}}"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 50, b: 50}}]}}}}",
    ),
    ("Gateway", "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}"),
    ("ServiceEntry", "{hosts: ['*.a.b'], resolution: DYNAMIC_DNS, ports: [{number: 443, name: tls, protocol: TLS}]}"),
    ("ServiceEntry", "{hosts: [a.b], addresses: [10.0.0.0/8], resolution: STATIC, ports: [{number: 80, name: http}]}"),
    ("WorkloadEntry", "{network: far}"),
    ("Sidecar", "{egress: [{hosts: ['*/*']}]}"),
];

fn document(kind: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: tried, namespace: default}}, spec: {spec}}}"
    )
}

/// What galley says against a document; empty when it takes it.
fn refused_by_galley(document: &str) -> String {
    let stream = yaml::parse("tried.yaml", document.as_bytes());
    let decoded: Vec<_> = stream.documents.iter().flat_map(decode).collect();
    assert_eq!(decoded.len(), 1, "{document}");
    match &decoded[0].outcome {
        Outcome::Accepted(_) => String::new(),
        Outcome::Refused(_) => decoded[0].diagnostics.iter().map(|said| format!("{}\n", said.message)).collect(),
        other => panic!("{document}: {other:?}"),
    }
}

/// Asks the API server what it would do, with unknown fields refused as `kubectl apply --validate` does.
async fn dry_run(kube: &Kube, kind: &str, document: &str) -> Result<Value, Refused> {
    let plural = match kind {
        "ServiceEntry" => "serviceentries".to_owned(),
        "WorkloadEntry" => "workloadentries".to_owned(),
        other => format!("{}s", other.to_lowercase()),
    };
    let path = format!(
        "/apis/networking.istio.io/v1/namespaces/default/{plural}?dryRun=All&fieldValidation=Strict&fieldManager=test"
    );
    kube.api().send("POST", &path, Some(("application/yaml", document.as_bytes().to_vec()))).await
}

/// Every message of a rule below `schema`.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "x-kubernetes-validations" {
                    let rules = value.as_array().into_iter().flatten();
                    found.extend(rules.filter_map(|rule| rule["message"].as_str()).map(str::to_owned));
                } else {
                    messages(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_definitions_are_structural_and_refuse_what_galley_refuses() {
    let work = Workdir::new("refusals");
    let Some(kube) = Kube::start(&work).await else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install/kubernetes/crds");
    let output = kube.kubectl(&["apply", "--server-side", "-f", &folder.display().to_string()]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert!(!output.stderr.contains("Warning"), "{}", output.stderr);
    let output = kube.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=50s"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let list = kube.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").await;
    let definitions = list["items"].as_array().unwrap();
    assert_eq!(definitions.len(), 6);
    let mut rules = BTreeSet::new();
    for definition in definitions {
        let name = &definition["metadata"]["name"];
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        for condition in conditions {
            let wanted = if condition["type"] == "NonStructuralSchema" { "False" } else { "True" };
            assert_eq!(condition["status"], wanted, "{name}: {condition}");
        }
        messages(&definition["spec"], &mut rules);
    }
    assert!(rules.len() > 25, "{rules:?}");

    for (kind, spec, said) in BAD {
        let document = document(kind, spec);
        let refusal = dry_run(&kube, kind, &document).await.err().unwrap_or_else(|| panic!("{document} is let in"));
        assert!(
            matches!(refusal.status, Some(400 | 422)) && refusal.text.contains(said),
            "{document}: {}",
            refusal.text
        );
        assert!(
            !refused_by_galley(&document).is_empty(),
            "{document}: the API server refuses what galley takes: {}",
            refusal.text
        );
        rules.retain(|message| !refusal.text.contains(message.as_str()));
    }
    assert!(rules.is_empty(), "no document breaks these rules: {rules:#?}");
    for (kind, spec) in GOOD {
        let document = document(kind, spec);
        assert_eq!(refused_by_galley(&document), "", "{document}");
        if let Err(refusal) = dry_run(&kube, kind, &document).await {
            panic!("{document}: {}", refusal.text);
        }
    }
}
