//! Gateway and ListenerSet.

use gateway_api::experimental::{gateways as api, listenersets as sets};

use crate::model::{
    CertificateRef, Gateway, Identity, LabelSelector, Listener, ListenerSet, ListenerTls, NamespaceChoice, ParentRef,
};

/// A label selector, whatever its generated type.
macro_rules! selector {
    ($from:expr) => {
        LabelSelector {
            labels: $from.match_labels.unwrap_or_default(),
            expressions: $from
                .match_expressions
                .into_iter()
                .flatten()
                .map(|e| (e.key, e.operator, e.values.unwrap_or_default()))
                .collect(),
        }
    };
}

/// A listener; Gateway and ListenerSet have types of their own for it.
macro_rules! listener {
    ($name:ident, $api:ident, $listener:ident, $mode:ident, $from:ident) => {
        fn $name(from: $api::$listener) -> Listener {
            let $api::$listener { allowed_routes, hostname, name, port, protocol, tls } = from;
            let (kinds, namespaces) = match allowed_routes {
                None => (None, None),
                Some(allowed) => (
                    allowed
                        .kinds
                        .filter(|kinds| !kinds.is_empty())
                        .map(|kinds| kinds.into_iter().map(|kind| (kind.group, kind.kind)).collect()),
                    allowed.namespaces,
                ),
            };
            let namespaces = match namespaces {
                None => NamespaceChoice::Same,
                Some(namespaces) => match namespaces.from {
                    None | Some($api::$from::Same) => NamespaceChoice::Same,
                    Some($api::$from::All) => NamespaceChoice::All,
                    // A choice without a selector is nobody's.
                    Some($api::$from::Selector) => {
                        namespaces.selector.map_or(NamespaceChoice::Nobody, |s| NamespaceChoice::Selector(selector!(s)))
                    }
                },
            };
            let tls = tls.map(|tls| ListenerTls {
                passthrough: matches!(tls.mode, Some($api::$mode::Passthrough)),
                certificates: tls
                    .certificate_refs
                    .into_iter()
                    .flatten()
                    .map(|r| CertificateRef { group: r.group, kind: r.kind, namespace: r.namespace, name: r.name })
                    .collect(),
                has_options: tls.options.is_some_and(|options| !options.is_empty()),
            });
            let hostname = hostname.filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase());
            Listener { name, hostname, port, protocol, tls, kinds, namespaces }
        }
    };
}

listener!(of_gateway, api, GatewayListeners, GatewayListenersTlsMode, GatewayListenersAllowedRoutesNamespacesFrom);
listener!(
    of_set,
    sets,
    ListenerSetListeners,
    ListenerSetListenersTlsMode,
    ListenerSetListenersAllowedRoutesNamespacesFrom
);

/// Reads a Gateway.
pub fn gateway(id: Identity, from: api::GatewaySpec) -> Gateway {
    let api::GatewaySpec {
        addresses,
        allowed_listeners,
        default_scope,
        gateway_class_name,
        infrastructure,
        listeners,
        tls,
    } = from;
    let mut without_effect = Vec::new();
    if default_scope.is_some() {
        without_effect.push("defaultScope".to_owned());
    }
    let mut has_parameters = false;
    if let Some(infrastructure) = infrastructure {
        has_parameters = infrastructure.parameters_ref.is_some();
        if infrastructure.labels.is_some() || infrastructure.annotations.is_some() {
            without_effect.push("infrastructure".to_owned());
        }
    }
    let (mut validates_clients, mut backend) = (None, None);
    if let Some(tls) = tls {
        backend = tls.backend;
        validates_clients = tls.frontend.and_then(|frontend| {
            if frontend.default.validation.is_some() {
                // No list of ports is all of them.
                return Some(Vec::new());
            }
            let ports: Vec<u16> = frontend
                .per_port
                .into_iter()
                .flatten()
                .filter(|port| port.tls.validation.is_some())
                .filter_map(|port| u16::try_from(port.port).ok())
                .collect();
            (!ports.is_empty()).then_some(ports)
        });
    }
    if backend.is_some() {
        without_effect.push("tls.backend".to_owned());
    }
    let sets_from = match allowed_listeners.and_then(|allowed| allowed.namespaces) {
        None => NamespaceChoice::Nobody,
        Some(namespaces) => match namespaces.from {
            None | Some(api::GatewayAllowedListenersNamespacesFrom::None) => NamespaceChoice::Nobody,
            Some(api::GatewayAllowedListenersNamespacesFrom::All) => NamespaceChoice::All,
            Some(api::GatewayAllowedListenersNamespacesFrom::Same) => NamespaceChoice::Same,
            Some(api::GatewayAllowedListenersNamespacesFrom::Selector) => {
                namespaces.selector.map_or(NamespaceChoice::Nobody, |s| NamespaceChoice::Selector(selector!(s)))
            }
        },
    };
    Gateway {
        id,
        class: gateway_class_name,
        listeners: listeners.into_iter().map(of_gateway).collect(),
        sets_from,
        addresses: addresses.into_iter().flatten().map(|address| (address.r#type, address.value)).collect(),
        validates_clients,
        has_parameters,
        without_effect,
    }
}

/// Reads a ListenerSet.
pub fn listener_set(id: Identity, from: sets::ListenerSetSpec) -> ListenerSet {
    let sets::ListenerSetSpec { listeners, parent_ref } = from;
    let sets::ListenerSetParentRef { group, kind, name, namespace } = parent_ref;
    ListenerSet {
        id,
        parent: ParentRef { group, kind, namespace, name, section: None, port: None },
        listeners: listeners.into_iter().map(of_set).collect(),
    }
}
