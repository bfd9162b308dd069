//! Rules of MeshConfig. Its fields are at the root of the document, so the ways begin with the field.

use super::names::{is_dns_name, is_label};
use super::{Findings, destination_rule, rules, virtual_service};
use crate::spec::MeshConfig;
use crate::yaml::At;

pub(super) fn check(config: &MeshConfig, _: &At<'_>, findings: &mut Findings) {
    for (field, port) in
        [("proxyListenPort", config.proxy_listen_port), ("proxyInboundListenPort", config.proxy_inbound_listen_port)]
    {
        if let Some(number) = port {
            rules::port(number, &At::root(field), findings);
        }
    }
    rules::positive(config.connect_timeout, &At::root("connectTimeout"), findings);
    rules::positive(config.dns_refresh_rate, &At::root("dnsRefreshRate"), findings);
    for (field, list) in [
        ("defaultServiceExportTo", &config.default_service_export_to),
        ("defaultVirtualServiceExportTo", &config.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &config.default_destination_rule_export_to),
    ] {
        rules::export_to(list, &At::root(field), findings);
    }
    if let Some(namespace) = config.root_namespace.as_deref().filter(|namespace| !is_label(namespace)) {
        findings.invalid(
            &At::root("rootNamespace"),
            format!("`{namespace}` is not a namespace"),
            "use lower-case letters, digits and hyphens",
        );
    }
    if let Some(domain) = config.trust_domain.as_deref().filter(|domain| !is_dns_name(domain)) {
        findings.invalid(
            &At::root("trustDomain"),
            format!("`{domain}` is not a trust domain"),
            "write it like a DNS name",
        );
    }
    if let Some(setting) = &config.locality_lb_setting {
        destination_rule::locality(setting, &At::root("localityLbSetting"), findings);
    }
    if let Some(retries) = &config.default_http_retry_policy {
        virtual_service::retry(retries, &At::root("defaultHttpRetryPolicy"), findings);
    }
}
