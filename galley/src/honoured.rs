//! Which accepted fields have no effect yet.
//!
//! A field of Istio's API that is read and not translated is said aloud, by name and place, and never silently dropped. The table is
//! the whole truth: work that honours a field deletes its line.

use crate::resource::Kind;
use crate::yaml::{Node, Path, Segment, Value};

use Kind::{DestinationRule, Gateway, ServiceEntry, Sidecar, VirtualService};

/// Where a field is, and why it has no effect yet.
///
/// `[]` is every item of a list and `{PREFIX}` every value of a mapping whose key begins so; `=VALUE` at the end means that value
/// only, `!=VALUE` any other.
type Line = (Kind, &'static str, &'static str);

/// The fields that have no effect yet.
pub const NOT_YET: &[Line] = &[
    (VirtualService, "spec.http[].delegate", DELEGATES),
    (VirtualService, "spec.http[].match[].headers{@}", CLAIMS),
    (VirtualService, "spec.http[].match[].withoutHeaders{@}", CLAIMS),
    (VirtualService, "spec.http[].fault.delay.exponentialDelay", NEITHER),
    (VirtualService, "spec.http[].fault.abort.http2Error", NEITHER),
    (VirtualService, "spec.tcp[].match[].sourceSubnet", NEITHER),
    (DestinationRule, "spec.trafficPolicy.loadBalancer.zoneAwareLbSetting", "use `localityLbSetting`"),
    (DestinationRule, "spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes", "5xx counts as an error"),
    (DestinationRule, "spec.trafficPolicy.outlierDetection.consecutiveErrors", NEITHER),
    (DestinationRule, "spec.trafficPolicy.tls.mode=ISTIO_MUTUAL", IDENTITY),
    (DestinationRule, "spec.trafficPolicy.tls.credentialName", "secrets are not served yet; use file paths"),
    (DestinationRule, "spec.trafficPolicy.tunnel", "TCP goes to the destination itself"),
    (Gateway, "spec.servers[].defaultEndpoint", NEITHER),
    (Gateway, "spec.servers[].tls.mode=SIMPLE", TERMINATION),
    (Gateway, "spec.servers[].tls.mode=MUTUAL", TERMINATION),
    (Gateway, "spec.servers[].tls.mode=OPTIONAL_MUTUAL", TERMINATION),
    (Gateway, "spec.servers[].tls.mode=ISTIO_MUTUAL", TERMINATION),
    (Gateway, "spec.servers[].tls.mode=AUTO_PASSTHROUGH", "use `PASSTHROUGH` and VirtualServices with `tls` routes"),
    (ServiceEntry, "spec.resolution=DYNAMIC_DNS", "traffic goes where the client dialled, as with `NONE`"),
    (ServiceEntry, "spec.subjectAltNames", "name them in a DestinationRule's `tls`"),
    (Sidecar, "spec.ingress[].captureMode", CAPTURE),
    (Sidecar, "spec.ingress[].tls", TERMINATION),
    (Sidecar, "spec.outboundTrafficPolicy.egressProxy", "calls to unknown hosts go where the client dialled"),
];

const NEITHER: &str = "it has no effect in Istio either";
const CLAIMS: &str = "tokens are not checked yet, so this condition never holds";
const DELEGATES: &str = "the route is left out";
const IDENTITY: &str = "mesh identities are not issued yet, so connections are in plain text";
const TERMINATION: &str = "TLS is not terminated yet";
const CAPTURE: &str = "the proxy's own interception mode decides";

/// Where DestinationRules have traffic policies besides `spec.trafficPolicy`.
const MORE_POLICIES: [&str; 3] = [
    "spec.trafficPolicy.portLevelSettings[]",
    "spec.subsets[].trafficPolicy",
    "spec.subsets[].trafficPolicy.portLevelSettings[]",
];

/// The fields of a document that are accepted and have no effect yet, with the reason.
pub(crate) fn not_yet(kind: Kind, root: &Node) -> Vec<(Path, &'static str)> {
    let mut found = Vec::new();
    for (_, pattern, reason) in NOT_YET.iter().filter(|(of, _, _)| *of == kind) {
        search(root, pattern, &mut Vec::new(), reason, &mut found);
        if let Some(rest) = pattern.strip_prefix("spec.trafficPolicy").filter(|_| kind == DestinationRule) {
            for policy in MORE_POLICIES {
                search(root, &format!("{policy}{rest}"), &mut Vec::new(), reason, &mut found);
            }
        }
    }
    found
}

/// Whether a field is at `pattern` (see [`NOT_YET`]), and where.
pub(crate) fn find(root: &Node, pattern: &str) -> Vec<Path> {
    let mut found = Vec::new();
    search(root, pattern, &mut Vec::new(), "", &mut found);
    found.into_iter().map(|(path, _)| path).collect()
}

fn search(
    node: &Node,
    pattern: &str,
    way: &mut Vec<Segment>,
    reason: &'static str,
    found: &mut Vec<(Path, &'static str)>,
) {
    if let Some(rest) = pattern.strip_prefix("[]") {
        for (index, item) in node.items().iter().enumerate() {
            way.push(Segment::Index(index));
            search(item, rest.trim_start_matches('.'), way, reason, found);
            way.pop();
        }
        return;
    }
    if let Some((prefix, rest)) = pattern.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        for entry in node.entries().iter().filter(|entry| entry.key.starts_with(prefix)) {
            way.push(Segment::Key(entry.key.clone()));
            search(&entry.node, rest.trim_start_matches('.'), way, reason, found);
            way.pop();
        }
        return;
    }
    let end = pattern.find(['.', '[', '{', '=', '!']).unwrap_or(pattern.len());
    let (key, rest) = pattern.split_at(end);
    if key.is_empty() {
        let fits = match (rest.strip_prefix("!="), rest.strip_prefix('=')) {
            (Some(other), _) => node.as_str().is_some_and(|text| text != other),
            (None, Some(value)) => node.as_str() == Some(value),
            (None, None) => !matches!(node.value, Value::Null | Value::Faulty),
        };
        if fits {
            found.push((Path(way.clone()), reason));
        }
        return;
    }
    if let Some(part) = node.get(key) {
        way.push(Segment::Key(key.to_owned()));
        search(part, rest.trim_start_matches('.'), way, reason, found);
        way.pop();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn paths(kind: Kind, text: &str) -> Vec<String> {
        let stream = crate::yaml::parse("x.yaml", text.as_bytes());
        not_yet(kind, stream.documents[0].root.as_ref().unwrap())
            .into_iter()
            .map(|(path, _)| path.to_string())
            .collect()
    }

    #[test]
    fn every_place_of_a_field_without_effect_is_found() {
        let text = "spec: {tcp: [{match: [{port: 1}, {sourceSubnet: 1.2.3.4}]}, {match: [{sourceSubnet: 1.2.3.4}]}]}";
        assert_eq!(
            paths(VirtualService, text),
            ["spec.tcp[0].match[1].sourceSubnet", "spec.tcp[1].match[0].sourceSubnet"]
        );
        assert_eq!(paths(DestinationRule, text), [] as [&str; 0]);
    }

    #[test]
    fn a_condition_on_a_claim_is_told_from_one_on_a_header() {
        let text = "spec: {http: [{match: [{headers: {x-a: {exact: b}, '@request.auth.claims.sub': {exact: b}}, withoutHeaders: {'@request.auth.claims[a][b]': {}}}]}]}";
        assert_eq!(
            paths(VirtualService, text),
            [
                r#"spec.http[0].match[0].headers["@request.auth.claims.sub"]"#,
                r#"spec.http[0].match[0].withoutHeaders["@request.auth.claims[a][b]"]"#
            ]
        );
    }

    #[test]
    fn a_value_without_effect_is_told_from_one_with() {
        let text = |mode| format!("spec: {{servers: [{{tls: {{mode: {mode}}}}}]}}");
        assert_eq!(paths(Gateway, &text("AUTO_PASSTHROUGH")), ["spec.servers[0].tls.mode"]);
        assert_eq!(paths(Gateway, &text("PASSTHROUGH")), [] as [&str; 0]);
    }

    #[test]
    fn policies_of_subsets_and_ports_are_searched_too() {
        let text =
            "spec: {subsets: [{trafficPolicy: {portLevelSettings: [{outlierDetection: {consecutiveErrors: 1}}]}}]}";
        assert_eq!(
            paths(DestinationRule, text),
            ["spec.subsets[0].trafficPolicy.portLevelSettings[0].outlierDetection.consecutiveErrors"]
        );
    }
}
