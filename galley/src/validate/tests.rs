#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde::de::DeserializeOwned;

use super::*;

/// `path: message` of every error and warning of a spec, in the order found.
fn findings<T: DeserializeOwned + Validate>(spec: &str) -> Vec<String> {
    let read = crate::yaml::parse_documents::<T>("spec.yaml", spec.as_bytes()).remove(0);
    assert_eq!(read.diagnostics, [], "{spec}");
    let found = Findings::of(&read.value.unwrap());
    found.0.into_iter().map(|finding| format!("{} {}: {}", finding.severity, finding.path, finding.message)).collect()
}

macro_rules! rules {
    ($kind:ident { $($name:ident: $spec:expr => [$($expected:expr),* $(,)?];)* }) => {
        $(#[test]
        fn $name() {
            assert_eq!(findings::<crate::spec::$kind>($spec), [$($expected),*] as [&str; rules!(@count $($expected)*)]);
        })*
    };
    (@count $($expected:expr)*) => { <[&str]>::len(&[$($expected),*]) };
}

rules! { VirtualService {
    a_plain_route_is_fine: "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}" => [];
    what_goes_on_the_wire_is_one_line:
        "{hosts: [a], http: [{route: [{destination: {host: a}}], rewrite: {uri: '/a b', authority: \"a\\r\\nx: y\"}}]}" => [
        "error spec.http[0].rewrite.uri: there is white space or a control character in it",
        "error spec.http[0].rewrite.authority: there is white space or a control character in it",
    ];
    headers_that_frame_a_message_are_left_alone:
        "{hosts: [a], http: [{route: [{destination: {host: a}}], headers: {request: {set: {Content-Length: '1', x-a: '100%', x-b: \"v\\r\\ny: z\", x-c: '%REQ(x-user):5%%%'}, remove: [transfer-encoding]}}}]}" => [
        "error spec.http[0].headers.request.set.Content-Length: `Content-Length` belongs to the connection and cannot be changed",
        "error spec.http[0].headers.request.set.x-a: `100%` has a `%` that begins no variable",
        "error spec.http[0].headers.request.set.x-b: a header's value is one line without control characters",
        "error spec.http[0].headers.request.remove[0]: `transfer-encoding` belongs to the connection and cannot be changed",
    ];
    hosts_are_needed_and_are_names:
        "{hosts: ['http://a', 'a.*.b', '', a, A], http: [{route: [{destination: {host: a}}]}]}" => [
        "error spec.hosts[0]: `http://a` is not a host",
        "error spec.hosts[1]: `a.*.b` is not a host",
        "error spec.hosts[2]: a host is empty",
        "error spec.hosts[4]: the host `A` is used twice",
    ];
    everything_cannot_be_routed_for_sidecars: "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}" =>
        ["error spec.hosts[0]: `*` cannot be routed for sidecars"];
    everything_can_be_routed_at_a_gateway: "{hosts: ['*'], gateways: [edge/g], http: [{route: [{destination: {host: a}}]}]}" => [];
    a_route_does_exactly_one_thing:
        "{hosts: [a], http: [{match: [{uri: {prefix: /x}}]}, {redirect: {uri: /x}, directResponse: {status: 200}}]}" => [
        "error spec.http[0]: the route says nothing about what happens to requests",
        "error spec.http[1]: the route has both `redirect` and `directResponse`",
    ];
    weights_are_shares:
        "{hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}, {destination: {host: b}, weight: 5}]}], tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}" => [
        "error spec.http[0].route[0].weight: the weight -1 is negative",
        "error spec.tcp[0].route: the weights add up to 0, so no destination would get anything",
    ];
    expressions_compile:
        "{hosts: [a], http: [{match: [{uri: {regex: '['}, headers: {x: {regex: '(?=a)'}, y: {regex: '*'}}}], route: [{destination: {host: a}}]}]}" => [
        "error spec.http[0].match[0].uri.regex: the expression does not compile: unclosed character class",
        "error spec.http[0].match[0].headers.x.regex: the expression does not compile: look-around, including look-ahead and look-behind, is not supported",
    ];
    a_route_behind_one_that_takes_everything_is_never_reached:
        "{hosts: [a], http: [{route: [{destination: {host: a}}]}, {match: [{uri: {exact: /x}}], route: [{destination: {host: b}}]}]}" =>
        ["warning spec.http[1]: this route is never reached: `spec.http[0]` takes every request"];
    redirects_have_their_codes:
        "{hosts: [a], http: [{redirect: {redirectCode: 304, scheme: ftp, uri: /a, prefixRewrite: /b, port: 80, derivePort: FROM_REQUEST_PORT}}]}" => [
        "error spec.http[0].redirect.redirectCode: 304 is not a redirect that can be sent",
        "error spec.http[0].redirect.scheme: `ftp` is not a scheme to redirect to",
        "error spec.http[0].redirect: `uri` replaces the whole path and `prefixRewrite` its beginning",
        "error spec.http[0].redirect: `port` and `derivePort` both choose the port",
    ];
    retries_are_checked:
        "{hosts: [a], http: [{route: [{destination: {host: a}}], retries: {attempts: 0, perTryTimeout: 0s, retryOn: 'gateway_error,503,5xx'}}]}" => [
        "error spec.http[0].retries: retries are off (`attempts` is 0), so the other settings have no effect",
        "error spec.http[0].retries.perTryTimeout: the duration is shorter than 1ms",
        "error spec.http[0].retries.retryOn: `gateway_error` is not a condition for retries",
    ];
    faults_are_checked:
        "{hosts: [a], http: [{route: [{destination: {host: a}}], fault: {delay: {percentage: {value: 101}}, abort: {httpStatus: 99, grpcStatus: NOPE}}}]}" => [
        "error spec.http[0].fault.delay.percentage.value: 101 is not a percentage",
        "error spec.http[0].fault.delay.fixedDelay: how long the delay takes is missing",
        "error spec.http[0].fault.abort: more than one of `httpStatus`, `grpcStatus` and `http2Error`",
        "error spec.http[0].fault.abort.httpStatus: 99 is not a status to answer with",
        "error spec.http[0].fault.abort.grpcStatus: `NOPE` is not a gRPC status",
    ];
    server_names_belong_to_the_hosts:
        "{hosts: ['*.a.com'], gateways: [g], tls: [{match: [{sniHosts: [x.a.com, b.com], port: 443}], route: [{destination: {host: a}}]}, {route: []}]}" => [
        "error spec.tls[0].match[0].sniHosts[1]: `b.com` is not among the hosts of this resource",
        "error spec.tls[1].match: a TLS route needs a match",
        "error spec.tls[1].route: the route has no destination",
    ];
    header_names_and_export_are_checked:
        "{hosts: [a], exportTo: ['*', x y], http: [{route: [{destination: {host: a}}], headers: {request: {set: {'a b': c, ':authority': d}}, response: {remove: ['']}}}]}" => [
        "error spec.exportTo[1]: `x y` is not a namespace",
        "error spec.exportTo[0]: `*` stands beside other namespaces",
        "error spec.http[0].headers.request.set[\"a b\"]: `a b` is not a header's name",
        "error spec.http[0].headers.response.remove[0]: `` is not a header's name",
    ];
}}

rules! { DestinationRule {
    a_plain_rule_is_fine: "{host: a, subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {loadBalancer: {simple: RANDOM}}}" => [];
    subset_names_are_unique_labels: "{host: a, subsets: [{name: v1}, {name: v1}, {name: 'V 2'}, {labels: {a: 'b*'}}]}" => [
        "error spec.subsets[2].name: `V 2` is not the name of a subset",
        "error spec.subsets[3].name: the subset has no name",
        "error spec.subsets[3].labels.a: `b*` is not a label's value",
        "error spec.subsets[1].name: the subset `v1` is used twice",
    ];
    policies_are_checked:
        "{trafficPolicy: {loadBalancer: {simple: LEAST_CONN, consistentHash: {}}, connectionPool: {}, outlierDetection: {interval: 0s, maxEjectionPercent: 200}, tls: {mode: MUTUAL}, portLevelSettings: [{}]}}" => [
        "error spec.host: a host is empty",
        "error spec.trafficPolicy.loadBalancer: `simple` and `consistentHash` both choose the algorithm",
        "warning spec.trafficPolicy.loadBalancer.simple: `LEAST_CONN` is the deprecated name of `LEAST_REQUEST`",
        "error spec.trafficPolicy.loadBalancer.consistentHash: what is hashed is missing",
        "error spec.trafficPolicy.connectionPool: the connection pool says nothing",
        "error spec.trafficPolicy.outlierDetection.interval: the duration is shorter than 1ms",
        "error spec.trafficPolicy.outlierDetection.maxEjectionPercent: 200 is not a percentage",
        "error spec.trafficPolicy.tls.clientCertificate: `MUTUAL` needs `clientCertificate`",
        "error spec.trafficPolicy.tls.privateKey: `MUTUAL` needs `privateKey`",
        "error spec.trafficPolicy.portLevelSettings[0].port: which port is meant is missing",
    ];
}}

rules! { Gateway {
    a_plain_gateway_is_fine: "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}" => [];
    servers_are_needed: "{selector: {a: b}}" => ["error spec.servers: the gateway has no servers"];
    servers_are_checked:
        "{servers: [{port: {number: 0, protocol: HTPP}}, {port: {number: 443, protocol: https, name: s}, hosts: ['x/y/z', 'n s/a.com']}, {port: {number: 80, protocol: HTTP, name: s}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c}}]}" => [
        "error spec.servers[0].port.number: a port is a number from 1 to 65535",
        "error spec.servers[0].port.protocol: `HTPP` is not a protocol",
        "error spec.servers[0].port.name: the port has no name",
        "error spec.servers[0].hosts: the server has no hosts",
        "error spec.servers[1].hosts[0]: `y/z` is not a host",
        "error spec.servers[1].hosts[1]: `n s` is not a namespace",
        "error spec.servers[1].tls: a port of protocol HTTPS needs TLS settings",
        "error spec.servers[2].tls: a port of protocol HTTP is in plain text, and has TLS settings",
        "error spec.servers[2].port.name: the port name `s` is used by `spec.servers[1]` too",
    ];
    tls_modes_need_their_certificates:
        "{servers: [{port: {number: 443, protocol: HTTPS, name: s}, hosts: [a.com], tls: {mode: MUTUAL, serverCertificate: c, privateKey: k}}, {port: {number: 444, protocol: TLS, name: t}, hosts: [a.com], tls: {mode: SIMPLE}}]}" => [
        "error spec.servers[0].tls.caCertificates: clients' certificates cannot be verified",
        "error spec.servers[1].tls: this mode needs a certificate",
    ];
}}

rules! { ServiceEntry {
    a_plain_entry_is_fine: "{hosts: [a.com], ports: [{number: 443, name: https, protocol: HTTPS}], resolution: DNS}" => [];
    fields_fit_the_resolution:
        "{hosts: ['*', '*.a.com'], addresses: [10.0.0.0/8], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}" => [
        "error spec.hosts[0]: `*` alone is not a service's name",
        "error spec.addresses[0]: networks are possible with the resolutions `NONE` and `STATIC` only",
        "error spec.hosts[0]: `*` cannot be resolved by DNS",
        "error spec.hosts[1]: `*.a.com` cannot be resolved by DNS",
    ];
    endpoints_fit_the_service:
        "{hosts: [a.com], ports: [{number: 80, name: http}, {number: 80, name: http}], resolution: STATIC, endpoints: [{address: b.com}, {address: 1.2.3.4, ports: {htpp: 0}}, {}], workloadSelector: {labels: {a: b}}}" => [
        "error spec.ports[1].number: the port 80 is listed twice",
        "error spec.ports[1].name: the port name `http` is used twice",
        "error spec.workloadSelector: both `workloadSelector` and `endpoints`",
        "error spec.endpoints[0].address: `b.com` is a name, which `STATIC` does not resolve",
        "error spec.endpoints[1].ports.htpp: a port is a number from 1 to 65535",
        "error spec.endpoints[1].ports.htpp: the service has no port named `htpp`",
        "error spec.endpoints[2].address: the address is missing",
    ];
    dynamic_dns_is_for_wildcards: "{hosts: [a.com], addresses: [1.2.3.4], ports: [{number: 80, name: http}], resolution: DYNAMIC_DNS}" => [
        "error spec.hosts[0]: `DYNAMIC_DNS` is for wildcard hosts",
        "error spec.addresses: `DYNAMIC_DNS` takes no addresses",
    ];
}}

rules! { WorkloadEntry {
    a_workload_has_an_address_or_a_network: "{labels: {a: b}}" => ["error spec.address: the address is missing"];
    a_workload_behind_a_gateway_needs_no_address: "{network: n2}" => [];
    a_socket_has_no_ports: "{address: 'unix://x/', ports: {http: 80}}" => [
        "error spec.address: `unix://x/` is not a socket",
        "error spec.ports: a Unix socket has no ports",
    ];
}}

rules! { Sidecar {
    a_plain_sidecar_is_fine: "{egress: [{hosts: ['./*', 'istio-system/*', '~/*', '*/*.a.com']}]}" => [];
    a_sidecar_says_something: "{}" => ["error spec: the Sidecar says nothing"];
    listeners_are_checked:
        "{ingress: [{port: {number: 80, protocol: HTTP, name: h}, defaultEndpoint: '10.0.0.1:80'}, {port: {number: 80}, defaultEndpoint: '127.0.0.1:8080'}], egress: [{hosts: [reviews]}, {port: {number: 90}, hosts: []}, {bind: 127.0.0.1, hosts: ['a b/*', './a..b']}]}" => [
        "error spec.ingress[0].defaultEndpoint: `10.0.0.1:80` is not an endpoint of the application",
        "error spec.ingress[1].port.number: the port 80 is listed twice",
        "error spec.egress[0].hosts[0]: `reviews` has no namespace",
        "error spec.egress[1].hosts: the listener has no hosts",
        "error spec.egress[1]: `spec.egress[0]`, which has no port, comes before this listener",
        "error spec.egress[2].port: a listener with `bind` needs a port",
        "error spec.egress[2].hosts[0]: `a b` is not a namespace",
        "error spec.egress[2].hosts[1]: `a..b` is not a host",
        "error spec.egress[2]: there is another listener without a port already",
    ];
}}
