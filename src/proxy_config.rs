//! `xebec proxy-config`: what a proxy has been sent, from our server or from a dump.

use std::io::Read;

use serde_json::Value;

use crate::cli::{ProxyConfigArgs, ProxyConfigPart};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::server_api;

/// Shows one part of a proxy's configuration.
pub(crate) async fn run(args: ProxyConfigArgs) -> Result<(), Failure> {
    let dump = match (&args.filename, &args.proxy) {
        (Some(file), _) => read_dump(file)?,
        (None, Some(proxy)) => {
            let query: String = proxy.bytes().map(escape).collect();
            server_api::get(&args.server, &format!("/debug/config_dump?proxyID={query}")).await?
        }
        (None, None) => return Err(Failure::usage("name a proxy, or a dump with -f")),
    };
    if args.part == ProxyConfigPart::Bootstrap && args.filename.is_none() {
        return Err(Failure::usage("the control plane does not know a proxy's bootstrap")
            .help("save the proxy's own dump, and read it with -f: curl -s ADMIN/config_dump > dump.json"));
    }
    let parts: &[Part] = match args.part {
        ProxyConfigPart::Cluster => &[Part::Clusters],
        ProxyConfigPart::Listener => &[Part::Listeners],
        ProxyConfigPart::Route => &[Part::Routes],
        ProxyConfigPart::Endpoint => &[Part::Endpoints],
        ProxyConfigPart::Secret => &[Part::Secrets],
        ProxyConfigPart::Bootstrap => &[Part::Bootstrap],
        ProxyConfigPart::All => &[Part::Clusters, Part::Listeners, Part::Routes, Part::Endpoints],
    };
    if args.part == ProxyConfigPart::All && matches!(args.output, Format::Json | Format::Yaml) {
        return if args.output == Format::Json { output::json(&dump) } else { output::yaml(&dump) };
    }
    for (index, part) in parts.iter().enumerate() {
        let resources = part.resources(&dump);
        match args.output {
            Format::Json => output::json(&resources)?,
            Format::Yaml => output::yaml(&resources)?,
            Format::Jsonl => {
                for resource in resources {
                    output::line(&resource.to_string())?;
                }
            }
            Format::Name => {
                for resource in resources {
                    output::line(part.name(resource))?;
                }
            }
            Format::Table | Format::Wide => {
                if index > 0 {
                    output::line("")?;
                }
                let rows: Vec<_> = resources.iter().flat_map(|r| part.rows(r)).collect();
                output::table(part.headings(), &rows)?;
            }
        }
    }
    Ok(())
}

fn escape(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

fn read_dump(file: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut f| f.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::not_found(format!("cannot read {}: {error}", file.display())))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::finding(format!("{}:{}:{}: not a config dump: {error}", file.display(), error.line(), error.column()))
            .help("a dump is what a proxy answers at /config_dump")
    })
}

/// One kind of resource in a config dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Clusters,
    Listeners,
    Routes,
    Endpoints,
    Secrets,
    Bootstrap,
}

// === impl Part ===

impl Part {
    /// The resources of this kind: `configs[].LIST[].PATH`, as Envoy lays out its dump.
    fn resources(self, dump: &Value) -> Vec<&Value> {
        let (suffix, places): (&str, &[(&str, &str)]) = match self {
            Self::Clusters => (
                "ClustersConfigDump",
                &[
                    ("static_clusters", "/cluster"),
                    ("dynamic_active_clusters", "/cluster"),
                    ("dynamic_warming_clusters", "/cluster"),
                ],
            ),
            Self::Listeners => (
                "ListenersConfigDump",
                &[("static_listeners", "/listener"), ("dynamic_listeners", "/active_state/listener")],
            ),
            Self::Routes => (
                "RoutesConfigDump",
                &[("static_route_configs", "/route_config"), ("dynamic_route_configs", "/route_config")],
            ),
            Self::Endpoints => (
                "EndpointsConfigDump",
                &[("static_endpoint_configs", "/endpoint_config"), ("dynamic_endpoint_configs", "/endpoint_config")],
            ),
            Self::Secrets => ("SecretsConfigDump", &[("dynamic_active_secrets", "")]),
            Self::Bootstrap => ("BootstrapConfigDump", &[]),
        };
        let dumps = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mine = dumps.iter().filter(|d| d["@type"].as_str().is_some_and(|t| t.ends_with(suffix)));
        if self == Self::Bootstrap {
            return mine.filter_map(|d| d.get("bootstrap")).collect();
        }
        mine.flat_map(|d| places.iter().map(move |(list, path)| (d, list, path)))
            .flat_map(|(d, list, path)| {
                let entries = d[*list].as_array().map(Vec::as_slice).unwrap_or_default();
                entries.iter().filter_map(move |e| e.pointer(path))
            })
            .collect()
    }

    fn name(self, resource: &Value) -> &str {
        let field = if self == Self::Endpoints { "cluster_name" } else { "name" };
        resource[field].as_str().unwrap_or_default()
    }

    fn headings(self) -> &'static [&'static str] {
        match self {
            Self::Clusters => &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"],
            Self::Listeners => &["NAME", "ADDRESS", "PORT", "MATCH", "DESTINATION"],
            Self::Routes => &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "DESTINATION"],
            Self::Endpoints => &["ENDPOINT", "HEALTH", "LOCALITY", "WEIGHT", "CLUSTER"],
            Self::Secrets => &["NAME", "LAST UPDATED"],
            Self::Bootstrap => &["NODE", "CLUSTER"],
        }
    }

    fn rows(self, resource: &Value) -> Vec<Vec<String>> {
        match self {
            Self::Clusters => vec![cluster_row(resource)],
            Self::Listeners => listener_rows(resource),
            Self::Routes => route_rows(resource),
            Self::Endpoints => endpoint_rows(resource),
            Self::Secrets => vec![vec![text(resource, "/name"), text(resource, "/last_updated")]],
            Self::Bootstrap => vec![vec![text(resource, "/node/id"), text(resource, "/node/cluster")]],
        }
    }
}

fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(other) => other.to_string(),
    }
}

fn cluster_row(cluster: &Value) -> Vec<String> {
    let name = text(cluster, "/name");
    let kind = discovery(cluster);
    let rule = text(cluster, "/metadata/filter_metadata/istio/config");
    let rule = rule.rsplit('/').next().unwrap_or("-").to_owned();
    let parts: Vec<_> = name.splitn(4, '|').collect();
    match parts[..] {
        [direction, port, subset, host] => {
            let or_dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
            vec![or_dash(host), port.into(), or_dash(subset), direction.into(), kind, rule]
        }
        _ => vec![name, "-".into(), "-".into(), "-".into(), kind, rule],
    }
}

/// How a cluster finds its endpoints. Discovery by DNS is an extension, and shown under the names of its two kinds.
fn discovery(cluster: &Value) -> String {
    let Some(extension) = cluster.get("cluster_type") else { return text(cluster, "/type") };
    let config = &extension["typed_config"];
    if !text(config, "/@type").ends_with(".DnsCluster") {
        return text(extension, "/name");
    }
    let as_one = config["all_addresses_in_single_endpoint"].as_bool() == Some(true);
    if as_one { "LOGICAL_DNS" } else { "STRICT_DNS" }.to_owned()
}

fn listener_rows(listener: &Value) -> Vec<Vec<String>> {
    let address = text(listener, "/address/socket_address/address");
    let port = text(listener, "/address/socket_address/port_value");
    let name = text(listener, "/name");
    let chains = listener["filter_chains"].as_array().map(Vec::as_slice).unwrap_or_default();
    let default = listener.get("default_filter_chain");
    chains
        .iter()
        .chain(default)
        .map(|chain| vec![name.clone(), address.clone(), port.clone(), chain_match(chain), chain_destination(chain)])
        .collect()
}

fn chain_match(chain: &Value) -> String {
    let Some(matched) = chain.get("filter_chain_match").and_then(Value::as_object).filter(|m| !m.is_empty()) else {
        return "ALL".into();
    };
    let mut parts = Vec::new();
    for (key, value) in matched {
        let shown = match (key.as_str(), value) {
            ("server_names", Value::Array(names)) => format!("SNI: {}", join(names)),
            ("application_protocols", Value::Array(names)) => format!("ALPN: {}", join(names)),
            ("transport_protocol", Value::String(name)) => format!("Trans: {name}"),
            ("destination_port", port) => format!("Port: {port}"),
            ("prefix_ranges", Value::Array(ranges)) => format!(
                "Addr: {}",
                ranges
                    .iter()
                    .map(|r| format!("{}/{}", text(r, "/address_prefix"), text(r, "/prefix_len")))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
            (key, value) => format!("{key}: {value}"),
        };
        parts.push(shown);
    }
    parts.join("; ")
}

fn join(names: &[Value]) -> String {
    names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn chain_destination(chain: &Value) -> String {
    let filters = chain["filters"].as_array().map(Vec::as_slice).unwrap_or_default();
    for filter in filters {
        let config = &filter["typed_config"];
        if let Some(name) = config.pointer("/rds/route_config_name").and_then(Value::as_str) {
            return format!("Route: {name}");
        }
        if let Some(routes) = config.get("route_config") {
            return format!("Inline Route: {}", text(routes, "/name"));
        }
        if let Some(cluster) = config.get("cluster").and_then(Value::as_str) {
            return format!("Cluster: {cluster}");
        }
        if let Some(clusters) = config.pointer("/weighted_clusters/clusters").and_then(Value::as_array) {
            return weighted(clusters);
        }
    }
    "-".into()
}

fn weighted(clusters: &[Value]) -> String {
    let shares: Vec<_> = clusters.iter().map(|c| format!("{} ({})", text(c, "/name"), text(c, "/weight"))).collect();
    format!("Clusters: {}", shares.join(", "))
}

fn route_rows(config: &Value) -> Vec<Vec<String>> {
    let name = text(config, "/name");
    let hosts = config["virtual_hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = Vec::new();
    for host in hosts {
        let domains = host["domains"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shown = match domains {
            [] => "-".to_owned(),
            [first, rest @ ..] if rest.len() > 1 => {
                format!("{} + {} more", first.as_str().unwrap_or_default(), rest.len())
            }
            all => join(all),
        };
        for route in host["routes"].as_array().map(Vec::as_slice).unwrap_or_default() {
            rows.push(vec![
                name.clone(),
                text(host, "/name"),
                shown.clone(),
                route_match(&route["match"]),
                route_destination(route),
            ]);
        }
    }
    rows
}

fn route_match(matched: &Value) -> String {
    let mut parts = Vec::new();
    for (field, form) in [("prefix", "*"), ("path", ""), ("path_separated_prefix", "/*")] {
        if let Some(value) = matched[field].as_str() {
            parts.push(format!("{value}{form}"));
        }
    }
    if let Some(regex) = matched.pointer("/safe_regex/regex").and_then(Value::as_str) {
        parts.push(format!("regex {regex}"));
    }
    for (field, label) in [("headers", "header"), ("query_parameters", "query")] {
        for entry in matched[field].as_array().map(Vec::as_slice).unwrap_or_default() {
            parts.push(format!("{label} {}", text(entry, "/name")));
        }
    }
    if parts.is_empty() { "-".into() } else { parts.join(" & ") }
}

fn route_destination(route: &Value) -> String {
    if let Some(cluster) = route.pointer("/route/cluster").and_then(Value::as_str) {
        return cluster.to_owned();
    }
    if let Some(clusters) = route.pointer("/route/weighted_clusters/clusters").and_then(Value::as_array) {
        return weighted(clusters);
    }
    if let Some(status) = route.pointer("/direct_response/status") {
        return format!("direct response {status}");
    }
    if route.get("redirect").is_some() { "redirect".into() } else { "-".into() }
}

fn endpoint_rows(assignment: &Value) -> Vec<Vec<String>> {
    let cluster = text(assignment, "/cluster_name");
    let mut rows = Vec::new();
    for group in assignment["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let locality: Vec<_> = ["/locality/region", "/locality/zone", "/locality/sub_zone"]
            .iter()
            .filter_map(|p| group.pointer(p).and_then(Value::as_str))
            .filter(|s| !s.is_empty())
            .collect();
        let locality = if locality.is_empty() { "-".to_owned() } else { locality.join("/") };
        for endpoint in group["lb_endpoints"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let socket = "/endpoint/address/socket_address";
            let address = match endpoint.pointer("/endpoint/address/pipe/path").and_then(Value::as_str) {
                Some(path) => format!("unix://{path}"),
                None => format!(
                    "{}:{}",
                    text(endpoint, &format!("{socket}/address")),
                    text(endpoint, &format!("{socket}/port_value"))
                ),
            };
            let health = match text(endpoint, "/health_status").as_str() {
                "-" | "UNKNOWN" => "HEALTHY".to_owned(),
                other => other.to_owned(),
            };
            let weight = text(endpoint, "/load_balancing_weight");
            rows.push(vec![address, health, locality.clone(), weight, cluster.clone()]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump() -> Value {
        json!({"configs": [
            {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": [
                {"cluster": {"name": "outbound|9080|v1|reviews.default.svc.cluster.local", "type": "EDS"}},
                {"cluster": {"name": "PassthroughCluster", "type": "ORIGINAL_DST"}},
                {"cluster": {"name": "outbound|443||api.example", "cluster_type": {"name": "envoy.clusters.dns",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"}}}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": [
                {"route_config": {"name": "9080", "virtual_hosts": [{"name": "a:9080", "domains": ["a", "b", "c"], "routes": [
                    {"match": {"prefix": "/x", "headers": [{"name": "end-user"}]},
                     "route": {"weighted_clusters": {"clusters": [{"name": "one", "weight": 90}, {"name": "two", "weight": 10}]}}}]}]}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": [
                {"endpoint_config": {"cluster_name": "one", "endpoints": [{"locality": {"region": "r"}, "lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 8}}}}]}]}}]}
        ]})
    }

    #[test]
    fn a_cluster_name_is_taken_apart() {
        let dump = dump();
        let rows: Vec<_> = Part::Clusters.resources(&dump).into_iter().flat_map(|r| Part::Clusters.rows(r)).collect();
        assert_eq!(rows[0], ["reviews.default.svc.cluster.local", "9080", "v1", "outbound", "EDS", "-"]);
        assert_eq!(rows[1][0], "PassthroughCluster");
        assert_eq!(rows[2][4], "STRICT_DNS");
    }

    #[test]
    fn a_route_shows_its_match_and_shares() {
        let dump = dump();
        let rows: Vec<_> = Part::Routes.resources(&dump).into_iter().flat_map(|r| Part::Routes.rows(r)).collect();
        assert_eq!(rows, [["9080", "a:9080", "a + 2 more", "/x* & header end-user", "Clusters: one (90), two (10)"]]);
    }

    #[test]
    fn an_endpoint_is_healthy_unless_it_says_otherwise() {
        let dump = dump();
        let rows: Vec<_> = Part::Endpoints.resources(&dump).into_iter().flat_map(|r| Part::Endpoints.rows(r)).collect();
        assert_eq!(rows, [["127.0.0.1:8", "HEALTHY", "r", "-", "one"]]);
    }
}
