//! From `headers.{request,response}` to Envoy's header operations, and the rewrite of the host that they may ask for.

use xebec_galley::spec::{HeaderOperations, Headers};
use xebec_proto::envoy::config::core::v3 as core;

/// What is done to the headers of a request and its response.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderOps {
    /// Set on and added to the request.
    pub request_add: Vec<core::HeaderValueOption>,
    /// Taken from the request.
    pub request_remove: Vec<String>,
    /// Set on and added to the response.
    pub response_add: Vec<core::HeaderValueOption>,
    /// Taken from the response.
    pub response_remove: Vec<String>,
    /// The request's new host: Envoy does not let header operations change it.
    pub host: Option<String>,
}

/// Translates `headers`; absent ones do nothing.
pub fn header_ops(from: Option<&Headers>) -> HeaderOps {
    let Some(from) = from else { return HeaderOps::default() };
    let (request_add, request_remove) = from.request.as_ref().map(operations).unwrap_or_default();
    let (response_add, response_remove) = from.response.as_ref().map(operations).unwrap_or_default();
    HeaderOps { request_add, request_remove, response_add, response_remove, host: from.request.as_ref().and_then(host) }
}

fn operations(from: &HeaderOperations) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    use core::header_value_option::HeaderAppendAction;
    let mut add = Vec::new();
    for (list, action) in
        [(&from.set, HeaderAppendAction::OverwriteIfExistsOrAdd), (&from.add, HeaderAppendAction::AppendIfExistsOrAdd)]
    {
        for (key, value) in list {
            if is_protected(key) {
                continue;
            }
            add.push(core::HeaderValueOption {
                header: Some(core::HeaderValue { key: key.clone(), value: value.clone(), ..Default::default() }),
                append_action: action as i32,
                ..Default::default()
            });
        }
    }
    let remove = from.remove.iter().filter(|key| !is_protected(key)).cloned().collect();
    (add, remove)
}

/// Headers that Envoy refuses to change: pseudo headers, and the host, which is rewritten instead.
fn is_protected(key: &str) -> bool {
    key.starts_with(':') || key.eq_ignore_ascii_case("host")
}

/// The host that `set` or else `add` asks for.
fn host(from: &HeaderOperations) -> Option<String> {
    [&from.set, &from.add].into_iter().find_map(|list| {
        list.iter()
            .find(|(key, _)| key.eq_ignore_ascii_case("host") || key.eq_ignore_ascii_case(":authority"))
            .map(|(_, value)| value.clone())
    })
}
