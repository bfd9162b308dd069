//! Istio's annotations: on which kinds they are read, how mature they are, and what they hold.

/// One annotation.
pub(super) struct Annotation {
    pub name: &'static str,
    /// The kinds that it is read on; empty is any.
    pub kinds: &'static [&'static str],
    pub status: Status,
    /// What it holds, where that can be judged.
    pub value: Option<Value>,
}

/// How mature a feature is.
#[derive(Clone, Copy)]
pub(super) enum Status {
    Stable,
    Alpha,
    /// With what to use instead, as the end of a sentence.
    Deprecated(&'static str),
}

/// What an annotation holds.
#[derive(Clone, Copy)]
pub(super) enum Value {
    Bool,
    Port,
    Number,
    Ports,
    Networks,
    Interception,
}

const fn of(kinds: &'static [&'static str], name: &'static str, status: Status, value: Option<Value>) -> Annotation {
    Annotation { name, kinds, status, value }
}

use Status::{Alpha, Deprecated, Stable};
use Value::{Bool, Interception, Networks, Number, Port, Ports};

const ANY: &[&str] = &[];
const POD: &[&str] = &["Pod"];
const SERVICE: &[&str] = &["Service"];
const ENTRY: &[&str] = &["WorkloadEntry"];
const GATEWAY: &[&str] = &["Gateway", "GatewayClass"];

/// All of them.
pub(super) const ANNOTATIONS: &[Annotation] = &[
    of(ANY, "galley.istio.io/analyze-suppress", Stable, None),
    of(ANY, "install.operator.istio.io/chart-owner", Alpha, None),
    of(ANY, "install.operator.istio.io/owner-generation", Alpha, None),
    of(ANY, "install.operator.istio.io/version", Alpha, None),
    of(ANY, "istio.io/rev", Stable, None),
    of(SERVICE, "alpha.istio.io/kubernetes-serviceaccounts", Deprecated(""), None),
    of(SERVICE, "alpha.istio.io/canonical-serviceaccounts", Deprecated(""), None),
    of(&["Service", "ServiceEntry"], "networking.istio.io/exportTo", Stable, None),
    of(&["Service", "ServiceEntry", "Namespace"], "networking.istio.io/traffic-distribution", Stable, None),
    of(GATEWAY, "networking.istio.io/service-type", Stable, None),
    of(GATEWAY, "networking.istio.io/address-type", Stable, None),
    of(GATEWAY, "gateway.istio.io/name-override", Alpha, None),
    of(GATEWAY, "gateway.istio.io/service-account", Alpha, None),
    of(GATEWAY, "gateway.istio.io/controller-version", Alpha, None),
    of(ANY, "internal.istio.io/parents", Alpha, None),
    of(SERVICE, "traffic.istio.io/nodeSelector", Stable, None),
    of(&["Namespace"], "topology.istio.io/controlPlaneClusters", Alpha, None),
    of(POD, "alpha.istio.io/identity", Deprecated(""), None),
    of(POD, "ambient.istio.io/redirection", Alpha, None),
    of(POD, "ambient.istio.io/bypass-inbound-capture", Alpha, None),
    of(POD, "ambient.istio.io/dns-capture", Alpha, None),
    of(&["Gateway"], "ambient.istio.io/waypoint-inbound-binding", Alpha, None),
    of(&["Pod", "Gateway"], "inject.istio.io/templates", Alpha, None),
    of(&["AuthorizationPolicy"], "istio.io/dry-run", Alpha, None),
    of(ENTRY, "istio.io/autoRegistrationGroup", Alpha, None),
    of(ENTRY, "istio.io/workloadController", Alpha, None),
    of(ENTRY, "istio.io/connectedAt", Alpha, None),
    of(ENTRY, "istio.io/disconnectedAt", Alpha, None),
    of(POD, "istio.io/reroute-virtual-interfaces", Alpha, None),
    of(POD, "prometheus.istio.io/merge-metrics", Alpha, Some(Bool)),
    of(POD, "proxy.istio.io/config", Stable, None),
    of(POD, "proxy.istio.io/overrides", Alpha, None),
    of(POD, "readiness.status.sidecar.istio.io/applicationPorts", Alpha, Some(Ports)),
    of(POD, "readiness.status.sidecar.istio.io/failureThreshold", Alpha, Some(Number)),
    of(POD, "readiness.status.sidecar.istio.io/initialDelaySeconds", Alpha, Some(Number)),
    of(POD, "readiness.status.sidecar.istio.io/periodSeconds", Alpha, Some(Number)),
    of(POD, "sidecar.istio.io/agentLogLevel", Alpha, None),
    of(POD, "sidecar.istio.io/bootstrapOverride", Alpha, None),
    of(POD, "sidecar.istio.io/componentLogLevel", Alpha, None),
    of(POD, "sidecar.istio.io/controlPlaneAuthPolicy", Deprecated(""), None),
    of(POD, "sidecar.istio.io/discoveryAddress", Deprecated("; use `proxy.istio.io/config`"), None),
    of(POD, "sidecar.istio.io/enableCoreDump", Alpha, Some(Bool)),
    of(POD, "sidecar.istio.io/extraStatTags", Alpha, None),
    of(POD, "sidecar.istio.io/inject", Deprecated(""), Some(Bool)),
    of(POD, "sidecar.istio.io/interceptionMode", Alpha, Some(Interception)),
    of(POD, "sidecar.istio.io/logLevel", Alpha, None),
    of(POD, "sidecar.istio.io/nativeSidecar", Alpha, Some(Bool)),
    of(POD, "sidecar.istio.io/proxyCPU", Alpha, None),
    of(POD, "sidecar.istio.io/proxyCPULimit", Alpha, None),
    of(POD, "sidecar.istio.io/proxyImage", Alpha, None),
    of(POD, "sidecar.istio.io/proxyImageType", Alpha, None),
    of(POD, "sidecar.istio.io/proxyMemory", Alpha, None),
    of(POD, "sidecar.istio.io/proxyMemoryLimit", Alpha, None),
    of(POD, "sidecar.istio.io/rewriteAppHTTPProbers", Alpha, Some(Bool)),
    of(POD, "sidecar.istio.io/statsCompression", Alpha, Some(Bool)),
    of(POD, "sidecar.istio.io/statsHistogramBuckets", Alpha, None),
    of(POD, "sidecar.istio.io/statsInclusionPrefixes", Deprecated("; use `proxy.istio.io/config`"), None),
    of(POD, "sidecar.istio.io/statsInclusionRegexps", Deprecated("; use `proxy.istio.io/config`"), None),
    of(POD, "sidecar.istio.io/statsInclusionSuffixes", Deprecated("; use `proxy.istio.io/config`"), None),
    of(POD, "sidecar.istio.io/status", Alpha, None),
    of(POD, "sidecar.istio.io/userVolume", Alpha, None),
    of(POD, "sidecar.istio.io/userVolumeMount", Alpha, None),
    of(POD, "status.sidecar.istio.io/port", Alpha, Some(Port)),
    of(POD, "traffic.sidecar.istio.io/excludeInboundPorts", Alpha, Some(Ports)),
    of(POD, "traffic.sidecar.istio.io/excludeInterfaces", Alpha, None),
    of(POD, "traffic.sidecar.istio.io/excludeOutboundIPRanges", Alpha, Some(Networks)),
    of(POD, "traffic.sidecar.istio.io/excludeOutboundPorts", Alpha, Some(Ports)),
    of(POD, "traffic.sidecar.istio.io/includeInboundPorts", Alpha, Some(Ports)),
    of(POD, "traffic.sidecar.istio.io/includeOutboundIPRanges", Alpha, Some(Networks)),
    of(POD, "traffic.sidecar.istio.io/includeOutboundPorts", Alpha, Some(Ports)),
    of(
        POD,
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        Deprecated("; use `istio.io/reroute-virtual-interfaces`"),
        None,
    ),
];
