//! Rules that several kinds share.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Findings;
use super::names::{is_dns_name, is_label, is_label_key, is_label_value, is_token, is_wildcard_name};
use crate::spec::{
    ConnectionPoolSettings, Destination, Duration, LabelMap, Percent, ServerTlsMode, ServerTlsSettings, StringMatch,
};
use crate::yaml::At;

/// The protocols that ports can declare.
const PROTOCOLS: [&str; 16] = [
    "HTTP",
    "HTTP_PROXY",
    "HTTP2",
    "H2C",
    "HTTPS",
    "GRPC",
    "GRPC-WEB",
    "GRPC-WEB-TEXT",
    "TCP",
    "TLS",
    "MONGO",
    "REDIS",
    "MYSQL",
    "UDP",
    "HBONE",
    "DOUBLE-HBONE",
];

/// Whether `text` declares a protocol.
pub(super) fn is_protocol(text: &str) -> bool {
    PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(text))
}

/// A protocol's name, which may be empty where the port's name tells it.
pub(super) fn protocol(text: &str, needed: bool, at: &At<'_>, findings: &mut Findings) {
    if text.is_empty() {
        if needed {
            findings.missing(
                at,
                "the port has no protocol",
                "add `protocol:`, such as `HTTP`, `HTTPS`, `GRPC`, `TCP` or `TLS`",
            );
        }
    } else if !is_protocol(text) {
        let near =
            crate::yaml::suggest(text, PROTOCOLS).map_or(String::new(), |near| format!("did you mean `{near}`? "));
        findings.invalid(
            at,
            format!("`{text}` is not a protocol"),
            &format!("{near}The protocols are {}", PROTOCOLS.join(", ")),
        );
    }
}

/// A port that traffic goes to or comes from.
pub(super) fn port(number: u16, at: &At<'_>, findings: &mut Findings) {
    if number == 0 {
        findings.invalid(at, "a port is a number from 1 to 65535", "");
    }
}

/// A host that traffic goes to: a DNS name or short name, or an IP address.
pub(super) fn host(name: &str, at: &At<'_>, findings: &mut Findings) {
    if name.is_empty() {
        findings.missing(
            at,
            "the host is missing",
            "name a service, such as `reviews` or `reviews.default.svc.cluster.local`",
        );
    } else if !is_dns_name(name) && name.parse::<IpAddr>().is_err() {
        findings.invalid(
            at,
            format!("`{name}` is not a host"),
            "write a DNS name or an IP address, without scheme, port or path",
        );
    }
}

/// A host that may be a wildcard.
pub(super) fn wildcard_host(name: &str, at: &At<'_>, findings: &mut Findings) {
    if name.is_empty() {
        findings.missing(at, "a host is empty", "write a DNS name, or `*` for all");
    } else if !is_wildcard_name(name) && name.parse::<IpAddr>().is_err() {
        let help = if name.contains('*') {
            "a wildcard stands alone or is the whole first label, as in `*.example.com`"
        } else {
            "write a DNS name or an IP address, without scheme, port or path"
        };
        findings.invalid(at, format!("`{name}` is not a host"), help);
    }
}

/// A destination of traffic.
pub(super) fn destination(destination: &Destination, at: &At<'_>, findings: &mut Findings) {
    host(&destination.host, &at.key("host"), findings);
    if !destination.subset.is_empty() && !is_label(&destination.subset) {
        findings.invalid(
            &at.key("subset"),
            format!("`{}` is not the name of a subset", destination.subset),
            "use lower-case letters, digits and hyphens",
        );
    }
    if let Some(selector) = &destination.port {
        port(selector.number, &at.key("port").key("number"), findings);
    }
}

/// Relative shares: none negative, and some above zero where there is a choice.
pub(super) fn weights(weights: &[i32], at: &At<'_>, findings: &mut Findings) {
    for (index, weight) in weights.iter().enumerate() {
        if *weight < 0 {
            findings.invalid(
                &at.index(index).key("weight"),
                format!("the weight {weight} is negative"),
                "use 0 or more",
            );
        }
    }
    if weights.len() > 1 && weights.iter().all(|weight| *weight == 0) {
        findings.invalid(
            at,
            "the weights add up to 0, so no destination would get anything",
            "give at least one destination a `weight`",
        );
    }
}

/// A share from 0 to 100.
pub(super) fn percent(share: Option<Percent>, at: &At<'_>, findings: &mut Findings) {
    if let Some(share) = share
        && !(0.0..=100.0).contains(&share.value)
    {
        findings.invalid(
            &at.key("value"),
            format!("{} is not a percentage", share.value),
            "use a number from 0 to 100",
        );
    }
}

/// A whole share from 0 to 100.
pub(super) fn whole_percent(share: i64, at: &At<'_>, findings: &mut Findings) {
    if !(0..=100).contains(&share) {
        findings.invalid(at, format!("{share} is not a percentage"), "use a number from 0 to 100");
    }
}

/// A length of time that must be at least a millisecond where it is given.
pub(super) fn positive(duration: Option<Duration>, at: &At<'_>, findings: &mut Findings) {
    if duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
        findings.invalid(
            at,
            "the duration is shorter than 1ms",
            "use at least `1ms`, or leave the field out for the default",
        );
    }
}

/// A number that may not be negative.
pub(super) fn not_negative(number: Option<i32>, at: &At<'_>, findings: &mut Findings) {
    if let Some(number) = number.filter(|number| *number < 0) {
        findings.invalid(at, format!("{number} is negative"), "use 0 or more, or leave the field out for the default");
    }
}

/// An expression that Envoy's RE2 understands, judged by Rust's engine of the same family.
pub(super) fn regex(pattern: &str, at: &At<'_>, findings: &mut Findings) {
    if let Err(error) = regex::Regex::new(pattern) {
        // The engine draws the pattern with a caret on several lines; its last line is the reason.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        findings.invalid(
            at,
            format!("the expression does not compile: {reason}"),
            "RE2 has neither look-around nor back-references",
        );
    }
}

/// A text match: the expression compiles.
pub(super) fn string_match(value: &StringMatch, at: &At<'_>, findings: &mut Findings) {
    match value {
        // Istio takes a lone star for "present".
        StringMatch::Regex(pattern) if pattern == "*" => {}
        StringMatch::Regex(pattern) => regex(pattern, &at.key("regex"), findings),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
    }
}

/// A header's name; those of HTTP/2 that begin with a colon only where `pseudo`.
pub(super) fn header_name(name: &str, pseudo: bool, at: &At<'_>, findings: &mut Findings) {
    let plain = if pseudo { name.strip_prefix(':').unwrap_or(name) } else { name };
    if !is_token(plain) {
        findings.invalid(at, format!("`{name}` is not a header's name"), "use letters, digits and hyphens");
    }
}

/// Labels, and what selects by them.
pub(super) fn labels(labels: &LabelMap, at: &At<'_>, findings: &mut Findings) {
    for (key, value) in labels {
        if !is_label_key(key) {
            findings.invalid(
                &at.key(key),
                format!("`{key}` is not a label's key"),
                "use letters, digits, `-`, `_` and `.`, with an optional `prefix/`",
            );
        }
        if !is_label_value(value) {
            let help = if value.contains('*') {
                "labels are compared exactly; wildcards have no meaning"
            } else {
                "use up to 63 letters, digits, `-`, `_` and `.`"
            };
            findings.invalid(&at.key(key), format!("`{value}` is not a label's value"), help);
        }
    }
}

/// The namespaces that see a resource.
pub(super) fn export_to(list: &[String], at: &At<'_>, findings: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, entry) in list.iter().enumerate() {
        if !matches!(entry.as_str(), "*" | "." | "~") && !is_label(entry) {
            findings.invalid(
                &at.index(index),
                format!("`{entry}` is not a namespace"),
                "write `*` for all, `.` for the resource's own, `~` for none, or a name",
            );
        }
        if !seen.insert(entry) {
            findings.invalid(&at.index(index), format!("`{entry}` is listed twice"), "keep one of them");
        }
    }
    for alone in ["*", "~"] {
        if list.len() > 1
            && let Some(index) = list.iter().position(|entry| entry == alone)
        {
            findings.contradiction(
                &at.index(index),
                format!("`{alone}` stands beside other namespaces"),
                "let it stand alone, or remove it",
            );
        }
    }
}

/// An IP address or network.
pub(super) fn subnet(text: &str, at: &At<'_>, findings: &mut Findings) {
    if text.parse::<IpNet>().is_err() && text.parse::<IpAddr>().is_err() {
        findings.invalid(
            at,
            format!("`{text}` is neither an IP address nor a network"),
            "write `10.0.0.1` or `10.0.0.0/8`",
        );
    }
}

/// An address to listen on: empty, an IP address, or a Unix socket.
pub(super) fn bind(text: &str, at: &At<'_>, findings: &mut Findings) {
    if !text.is_empty() && text.parse::<IpAddr>().is_err() && !text.starts_with("unix://") {
        findings.invalid(
            at,
            format!("`{text}` is not an address to listen on"),
            "write an IP address, or `unix://` and a path",
        );
    }
}

/// Values that must differ from each other; says which one repeats.
pub(super) fn unique<'a>(
    values: impl Iterator<Item = &'a str>,
    what: &str,
    at: &At<'_>,
    field: &str,
    findings: &mut Findings,
) {
    let mut seen = HashSet::new();
    for (index, value) in values.enumerate() {
        if !value.is_empty() && !seen.insert(value.to_ascii_lowercase()) {
            let item = at.index(index);
            let place = if field.is_empty() { item } else { item.key(field) };
            findings.invalid(&place, format!("the {what} `{value}` is used twice"), "give each its own");
        }
    }
}

/// Headers that say where a message ends, or what becomes of its connection: whoever changes them makes two readers of one connection
/// disagree (RFC 9112, sections 6 and 11.2).
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Headers to set or add.
pub(super) fn header_map(map: &BTreeMap<String, String>, pseudo: bool, at: &At<'_>, findings: &mut Findings) {
    for (name, value) in map {
        let at = at.key(name);
        header_name(name, pseudo, &at, findings);
        not_framing(name, &at, findings);
        if value.chars().any(|c| c.is_control() && c != '\t') {
            findings.invalid(&at, "a header's value is one line without control characters", "remove them");
        } else if !is_format(value) {
            findings.invalid(
                &at,
                format!("`{value}` has a `%` that begins no variable"),
                "write `%%` for a percent sign, or a variable such as `%REQ(x-user)%`",
            );
        }
    }
}

/// Refuses the headers that frame messages.
pub(super) fn not_framing(name: &str, at: &At<'_>, findings: &mut Findings) {
    if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
        findings.invalid(at, format!("`{name}` belongs to the connection and cannot be changed"), "remove it");
    }
}

/// Whether every `%` of a value is doubled, or encloses a variable as Envoy writes them: `%NAME%`, `%NAME(ARGUMENT)%`, `%NAME(..):N%`.
fn is_format(value: &str) -> bool {
    let mut rest = value;
    while let Some(start) = rest.find('%') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let name = rest.bytes().take_while(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_').count();
        rest = &rest[name..];
        if let Some(argument) = rest.strip_prefix('(') {
            let Some(end) = argument.find(')') else { return false };
            rest = &argument[end + 1..];
        }
        if let Some(length) = rest.strip_prefix(':') {
            rest = length.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        match rest.strip_prefix('%') {
            Some(after) if name > 0 => rest = after,
            _ => return false,
        }
    }
    true
}

/// What becomes a part of a request's first line or of its `Host`: a space or a line break there would begin something else.
pub(super) fn wire_text(value: &str, at: &At<'_>, findings: &mut Findings) {
    if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        findings.invalid(at, "there is white space or a control character in it", "remove it, or write it as `%20`");
    }
}

/// Limits on connections and requests.
pub(super) fn connection_pool(pool: &ConnectionPoolSettings, at: &At<'_>, findings: &mut Findings) {
    if pool.tcp.is_none() && pool.http.is_none() {
        findings.missing(at, "the connection pool says nothing", "add `tcp:` or `http:`, or remove it");
    }
    if let Some(tcp) = &pool.tcp {
        let at = at.key("tcp");
        not_negative(tcp.max_connections, &at.key("maxConnections"), findings);
        positive(tcp.connect_timeout, &at.key("connectTimeout"), findings);
        positive(tcp.max_connection_duration, &at.key("maxConnectionDuration"), findings);
        if let Some(keepalive) = &tcp.tcp_keepalive {
            let at = at.key("tcpKeepalive");
            positive(keepalive.time, &at.key("time"), findings);
            positive(keepalive.interval, &at.key("interval"), findings);
        }
    }
    if let Some(http) = &pool.http {
        let at = at.key("http");
        not_negative(http.http1_max_pending_requests, &at.key("http1MaxPendingRequests"), findings);
        not_negative(http.http2_max_requests, &at.key("http2MaxRequests"), findings);
        not_negative(http.max_requests_per_connection, &at.key("maxRequestsPerConnection"), findings);
        not_negative(http.max_retries, &at.key("maxRetries"), findings);
        not_negative(http.max_concurrent_streams, &at.key("maxConcurrentStreams"), findings);
        positive(http.idle_timeout, &at.key("idleTimeout"), findings);
        if let Some(keep_alive) = &http.http2_keep_alive {
            let at = at.key("http2KeepAlive");
            positive(keep_alive.interval, &at.key("interval"), findings);
            positive(keep_alive.timeout, &at.key("timeout"), findings);
        }
        if http.use_client_protocol && http.h2_upgrade_policy == crate::spec::H2UpgradePolicy::Upgrade {
            findings.contradiction(
                &at.key("useClientProtocol"),
                "`useClientProtocol` keeps the client's protocol and `h2UpgradePolicy: UPGRADE` replaces it",
                "keep one of them",
            );
        }
    }
}

/// TLS of a listening port.
pub(super) fn server_tls(tls: &ServerTlsSettings, at: &At<'_>, findings: &mut Findings) {
    use ServerTlsMode as Mode;
    let from_secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let from_files = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let has_certificate = from_secret || from_files || !tls.tls_certificates.is_empty();
    let chosen = [!tls.credential_name.is_empty(), !tls.credential_names.is_empty(), !tls.tls_certificates.is_empty()];
    if chosen.iter().filter(|chosen| **chosen).count() > 1 {
        findings.contradiction(
            at,
            "more than one of `credentialName`, `credentialNames` and `tlsCertificates`",
            "keep one of them",
        );
    }
    for (list, name) in
        [(tls.credential_names.len(), "credentialNames"), (tls.tls_certificates.len(), "tlsCertificates")]
    {
        if list > 2 {
            findings.invalid(&at.key(name), "more than two certificates", "give at most one for RSA and one for ECDSA");
        }
    }
    match tls.mode {
        Mode::Simple | Mode::Mutual | Mode::OptionalMutual if !has_certificate => {
            findings.missing(
                at,
                "this mode needs a certificate",
                "add `credentialName`, or both `serverCertificate` and `privateKey`",
            );
        }
        Mode::Mutual | Mode::OptionalMutual
            if !from_secret
                && tls.ca_certificates.is_empty()
                && tls.ca_cert_credential_name.is_empty()
                && tls.tls_certificates.iter().all(|certificate| certificate.ca_certificates.is_empty()) =>
        {
            findings.missing(
                &at.key("caCertificates"),
                "clients' certificates cannot be verified",
                "add `caCertificates` or use `credentialName`",
            );
        }
        Mode::IstioMutual if has_certificate => {
            findings.contradiction(
                at,
                "`ISTIO_MUTUAL` uses the mesh's own certificates",
                "remove the certificate fields, or use `MUTUAL`",
            );
        }
        Mode::Passthrough | Mode::AutoPassthrough if has_certificate => {
            findings.suspicious(
                at,
                "this mode does not terminate TLS, so certificates have no effect",
                "remove them, or use `SIMPLE`",
            );
        }
        _ => {}
    }
    if tls.max_protocol_version != crate::spec::TlsProtocol::Auto && tls.min_protocol_version > tls.max_protocol_version
    {
        findings.contradiction(&at.key("minProtocolVersion"), "the lowest version is above the highest", "");
    }
    for (index, hash) in tls.verify_certificate_hash.iter().enumerate() {
        let digits = hash.replace(':', "");
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            findings.invalid(
                &at.key("verifyCertificateHash").index(index),
                "not a SHA-256 in hexadecimal",
                "write 64 hexadecimal digits",
            );
        }
    }
    for (index, hash) in tls.verify_certificate_spki.iter().enumerate() {
        if hash.len() != 44 || !hash.ends_with('=') {
            findings.invalid(
                &at.key("verifyCertificateSpki").index(index),
                "not a SHA-256 in base64",
                "write 44 characters of base64",
            );
        }
    }
}
