//! Every finding that this build can make: its code, name, level, sentence and meaning.
//!
//! The codes, names and levels are Istio's, so that lists of suppressions and dashboards carry over; the sentences are ours. What Istio has
//! no code for is an `XBC` code. The table in `docs/src/reference/analysis.md` is this one, and a test holds them together.

use xebec_galley::Severity;

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// `IST` or `XBC` with four digits.
    pub code: &'static str,
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub level: Severity,
    /// The sentence; each `{}` is one argument.
    pub template: &'static str,
    /// What it means and what to do about it, for the documentation.
    pub about: &'static str,
}

macro_rules! codes {
    ($($constant:ident $code:literal $name:ident $level:ident $template:literal $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $constant: Message = Message {
                code: $code,
                name: stringify!($name),
                level: Severity::$level,
                template: $template,
                about: $about,
            };
        )*

        /// All of them, by code.
        pub const ALL: &[&Message] = &[$(&$constant),*];
    };
}

codes! {
    DEPRECATED "IST0002" Deprecated Warning
        "{}"
        "A field is used that Istio has deprecated. Write what the finding names instead.";
    NOT_FOUND "IST0101" ReferencedResourceNotFound Error
        "there is no {} `{}`"
        "Something is referred to that does not exist: a destination's host, port or subset, a gateway, a secret, a delegate, or workloads with the labels of a selector.";
    NOT_INJECTED "IST0102" NamespaceNotInjected Info
        "nothing says whether workloads of the namespace `{}` get a sidecar"
        "Label the namespace `istio-injection: enabled`, or `disabled` to say that it is meant to stay without.";
    NO_PROXY "IST0103" PodMissingProxy Warning
        "the pod `{}` runs without a sidecar in a namespace with injection"
        "The pod is older than the namespace's label. Start it anew.";
    INVALID "IST0106" SchemaValidationError Error
        "{}"
        "The document is refused: a control plane keeps the last good version of it. `xebec validate` says the same.";
    MISPLACED_ANNOTATION "IST0107" MisplacedAnnotation Warning
        "the annotation `{}` has no effect here; it belongs on {}"
        "The annotation is Istio's, and is read on other kinds of resources only.";
    UNKNOWN_ANNOTATION "IST0108" UnknownAnnotation Warning
        "Istio has no annotation `{}`"
        "The annotation has one of Istio's prefixes and is none of its annotations: probably it is misspelt.";
    SAME_HOST "IST0109" ConflictingMeshGatewayVirtualServiceHosts Error
        "the VirtualServices {} route `{}` for the same sidecars; only the oldest has an effect"
        "Sidecars use one VirtualService per host. Merge them into one, or let one delegate to the others.";
    SAME_WORKLOAD_SIDECARS "IST0110" ConflictingSidecarWorkloadSelectors Error
        "the Sidecars {} of the namespace `{}` select the same workload `{}`; only the oldest has an effect"
        "Make the selectors exclude each other.";
    SEVERAL_DEFAULT_SIDECARS "IST0111" MultipleSidecarsWithoutWorkloadSelectors Error
        "the Sidecars {} of the namespace `{}` have no selector; only the oldest has an effect"
        "Keep one of them as the namespace's default.";
    PORT_NEEDED "IST0112" VirtualServiceDestinationPortSelectorRequired Error
        "the destination `{}` has the ports {}; say which one is meant"
        "Add `port: { number: … }` to the destination.";
    SERVICES_DIFFER_IN_TRANSPORT "IST0116" DeploymentAssociatedToMultipleServices Warning
        "the services {} select the workload `{}` with port {}, and differ in its protocol"
        "One port of a workload speaks one protocol. Give the services different ports, or the same protocol.";
    PORT_NAME "IST0118" PortNameIsNotUnderNamingConvention Info
        "the port {} with the name `{}` does not say its protocol, so that it is detected"
        "Name the port `PROTOCOL` or `PROTOCOL-SUFFIX`, such as `http-web`, or set `appProtocol`.";
    SEVERAL_INJECTION_LABELS "IST0123" NamespaceMultipleInjectionLabels Warning
        "the namespace `{}` has both of the labels `istio-injection` and `istio.io/rev`"
        "Keep one of them: the first wins over the second.";
    INVALID_ANNOTATION "IST0125" InvalidAnnotation Warning
        "the annotation `{}` does not hold {}"
        "The annotation's value cannot be read, and has no effect.";
    NO_WORKLOADS "IST0127" NoMatchingWorkloadsFound Warning
        "no workload has the labels {}"
        "A policy or rule selects workloads, and none has these labels.";
    UNVERIFIED_SERVER "IST0128" NoServerCertificateVerificationDestinationLevel Warning
        "TLS of mode {} to `{}` names no authorities: {}"
        "Name the authorities that vouch for the server in `caCertificates`, or a secret in `credentialName`.";
    UNVERIFIED_PORT "IST0129" NoServerCertificateVerificationPortLevel Warning
        "TLS of mode {} to port {} of `{}` names no authorities: {}"
        "As IST0128, for one port.";
    UNREACHABLE_RULE "IST0130" VirtualServiceUnreachableRule Warning
        "the rule {} is never used: {}"
        "Rules are tried in order. Move the more specific one up, or remove it.";
    INEFFECTIVE_MATCH "IST0131" VirtualServiceIneffectiveMatch Info
        "match {} of the rule {} is never used: {} has it already"
        "Remove the match, or move its rule up.";
    NOT_IN_GATEWAY "IST0132" VirtualServiceHostNotFoundInGateway Warning
        "the Gateway `{}` serves none of the hosts {} to this namespace"
        "Add the host to a server of the gateway, or correct the VirtualService's.";
    SUSPICIOUS "IST0133" SchemaWarning Warning
        "{}"
        "The document is valid, and probably does not do what was meant.";
    ADDRESSES_NEEDED "IST0134" ServiceEntryAddressesRequired Warning
        "port {} carries TCP, and the ServiceEntry has no addresses to tell its connections by"
        "Add `addresses:`. Without them the port's number alone decides, for every destination.";
    DEPRECATED_ANNOTATION "IST0135" DeprecatedAnnotation Info
        "the annotation `{}` is deprecated{}"
        "The annotation will have no effect in a later version of Istio.";
    ALPHA_ANNOTATION "IST0136" AlphaAnnotation Info
        "the annotation `{}` is of an alpha feature of Istio's"
        "The annotation may change or go, and may not be supported everywhere.";
    SERVICES_DIFFER_IN_PORT "IST0137" DeploymentConflictingPorts Warning
        "the services {} select the workload `{}` and its port {} as different ports: {}"
        "Services that share a workload's port need the same port of their own: a proxy tells connections to one port not apart.";
    SAME_CERTIFICATE "IST0138" GatewayDuplicateCertificate Warning
        "the Gateways {} use one certificate: clients that reuse a connection for another host get 404"
        "Serve all hosts of a certificate from one Gateway.";
    SUBSETS_BYPASSED "IST0140" IngressRouteRulesNotAffected Warning
        "requests through a gateway go to all of `{}`: the subsets that the VirtualService `{}` chooses apply to sidecars' clients only"
        "Let this VirtualService choose the subset too.";
    RESERVED_USER "IST0144" InvalidApplicationUID Warning
        "the container `{}` runs as user 1337, which is the sidecar's: its traffic is not captured"
        "Choose another `runAsUser`.";
    SAME_SERVER "IST0145" ConflictingGateways Error
        "the Gateway `{}` has a server for the same workloads, port {} and hosts {}"
        "Merge the two servers, or tell them apart by host or port.";
    AUTO_IMAGE_OF_TEMPLATE "IST0146" ImageAutoWithoutInjectionWarning Warning
        "the workload `{}` has a container with `image: auto`, and injection does not apply to it"
        "Label its namespace for injection, or name an image.";
    AUTO_IMAGE_OF_POD "IST0147" ImageAutoWithoutInjectionError Error
        "the pod `{}` has a container with `image: auto`, and injection does not apply to it"
        "As IST0146; a pod as such cannot start.";
    CLAIMS_UNVERIFIED "IST0149" JwtClaimBasedRoutingWithoutRequestAuthN Error
        "`{}` matches a claim of a token, and no RequestAuthentication verifies tokens at the gateway `{}`"
        "Apply a RequestAuthentication to the gateway's workloads.";
    EXTERNAL_PORT_NAME "IST0150" ExternalNameServiceTypeInvalidPortName Warning
        "the port {} with the name `{}` of an ExternalName service catches the connections of every destination with that port"
        "Name the port by its protocol: `http`, `https`, `tls` or the like, not `tcp`.";
    RELATIVE_FILTER "IST0151" EnvoyFilterUsesRelativeOperation Warning
        "{} depends on what other EnvoyFilters have done, and there is no priority"
        "Set `priority`, or use `INSERT_FIRST` or `ADD`.";
    REPLACED_WRONGLY "IST0152" EnvoyFilterUsesReplaceOperationIncorrectly Error
        "REPLACE is for HTTP_FILTER and NETWORK_FILTER, not for {}"
        "The patch has no effect. Use `MERGE`, or `REMOVE` and `ADD`.";
    ADDED_WRONGLY "IST0153" EnvoyFilterUsesAddOperationIncorrectly Error
        "ADD has no effect on {}"
        "Use `MERGE` or one of the `INSERT` operations.";
    REMOVED_WRONGLY "IST0154" EnvoyFilterUsesRemoveOperationIncorrectly Error
        "REMOVE has no effect on {}"
        "Use `MERGE`.";
    RELATIVE_VERSIONED_FILTER "IST0155" EnvoyFilterUsesRelativeOperationWithProxyVersion Warning
        "{} depends on what other EnvoyFilters have done, there is no priority, and it is for one version of proxies only"
        "As IST0151; during an upgrade the order changes under it.";
    SAME_WORKLOAD_TELEMETRIES "IST0159" ConflictingTelemetryWorkloadSelectors Error
        "the Telemetries {} of the namespace `{}` select the same workload `{}`; only the oldest has an effect"
        "Make the selectors exclude each other.";
    SEVERAL_DEFAULT_TELEMETRIES "IST0160" MultipleTelemetriesWithoutWorkloadSelectors Error
        "the Telemetries {} of the namespace `{}` have no selector; only the oldest has an effect"
        "Keep one of them as the namespace's default.";
    UNUSABLE_SECRET "IST0161" InvalidGatewayCredential Error
        "the secret `{}` holds no certificate with its key"
        "A secret for a gateway has `tls.crt` and `tls.key`, or `cert` and `key`.";
    PORT_NOT_EXPOSED "IST0162" GatewayPortNotDefinedOnService Warning
        "no service of the gateway's workloads has the port {}"
        "Add the port to the Service in front of the gateway; through the Service it cannot be reached else.";
    EMPTY_SUBSET "IST0173" DestinationRuleSubsetNotSelectPods Warning
        "no workload of `{}` is in the subset `{}`"
        "The service has workloads, and none has the subset's labels: requests to the subset are answered with 503.";
    UNKNOWN_RULE_HOST "IST0174" UnknownDestinationRuleHost Warning
        "there is no host `{}` that this rule could apply to"
        "The host is not registered. A short name belongs to the rule's own namespace.";
    ENTRIES_DISAGREE "IST0177" ConflictingServiceEntryProtocol Warning
        "the ServiceEntries {} say different protocols for port {} of `{}`: {}"
        "The oldest ServiceEntry decides. Let them agree.";
    NOT_HONOURED "XBC0001" NotHonoured Warning
        "{}"
        "The field is Istio's, is accepted, and has no effect in this version.";
    REGISTRIES_DISAGREE "XBC0101" RegistriesDisagree Warning
        "{} of `{}` is {} by {}, which holds, and {} by {}"
        "Several registries have the same service and differ. The oldest registration decides; the endpoints of all take part.";
}

impl Message {
    /// The message with its arguments.
    pub fn fill(&self, arguments: &[&str]) -> String {
        let mut parts = self.template.split("{}");
        let mut text = parts.next().unwrap_or_default().to_owned();
        debug_assert_eq!(self.template.matches("{}").count(), arguments.len(), "{}", self.code);
        for (argument, part) in arguments.iter().zip(parts) {
            text.push_str(argument);
            text.push_str(part);
        }
        text
    }

    /// Where the documentation speaks of it, relative to the book's root.
    pub fn documentation(&self) -> String {
        format!("reference/analysis.html#{}-{}", self.code.to_ascii_lowercase(), self.name.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn codes_are_in_order_and_each_is_there_once() {
        for pair in ALL.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} {}", pair[0].code, pair[1].code);
        }
    }

    #[test]
    fn the_reference_has_every_code_with_its_level_and_meaning() {
        let page = include_str!("../../docs/src/reference/analysis.md");
        for message in ALL {
            let level = message.level.to_string();
            let section = format!("### {} {}\n\n*{level}.* {}\n", message.code, message.name, message.about);
            assert!(page.contains(&section), "docs/src/reference/analysis.md lacks:\n{section}");
        }
        let headings = page.lines().filter(|line| line.starts_with("### ")).count();
        assert_eq!(headings, ALL.len(), "the page has a code that the table has not");
    }
}
