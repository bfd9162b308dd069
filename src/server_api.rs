//! Asking the control plane's HTTP server.

use serde_json::Value;

use crate::cli::ServerFlags;
use crate::exit::Failure;

/// Gets a JSON document from the control plane.
///
/// # Errors
/// With exit code 3 when the server cannot be reached or refuses, 4 when it does not know the thing asked for, 6 when it is too slow.
pub(crate) async fn get(flags: &ServerFlags, path: &str) -> Result<Value, Failure> {
    let base = if flags.server.contains("://") { flags.server.clone() } else { format!("http://{}", flags.server) };
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let client = reqwest::Client::builder().no_proxy().timeout(flags.timeout).build().map_err(Failure::bug)?;
    let response = client.get(&url).send().await.map_err(|error| unreachable(flags, &error))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|error| unreachable(flags, &error))?;
    if status == 404 {
        return Err(Failure::not_found(String::from_utf8_lossy(&body).trim())
            .help("`xebec proxy-status` lists the connected proxies"));
    }
    if !status.is_success() {
        return Err(Failure::unreachable(format!(
            "{url} answered {status}: {}",
            String::from_utf8_lossy(&body).trim()
        )));
    }
    serde_json::from_slice(&body).map_err(|error| {
        Failure::unreachable(format!("{url} did not answer with JSON: {error}"))
            .help("is this the HTTP address of `xebec serve` (15014 by default), and not its xDS address?")
    })
}

fn unreachable(flags: &ServerFlags, error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Failure::timed_out(format!("{} did not answer within {:?}", flags.server, flags.timeout));
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let failure = Failure::unreachable(format!("cannot reach the control plane at {}: {cause}", flags.server));
    if error.is_builder() {
        return Failure::usage(format!("--server {:?} is not an address: {cause}", flags.server))
            .help("write HOST:PORT");
    }
    if error.is_connect() {
        return failure
            .help("start one with `xebec serve --config DIR`, or name another with --server or XEBEC_HTTP_SERVER");
    }
    failure.help("something listens there and does not speak HTTP/1: name the HTTP address of `xebec serve` (15014), not its xDS address (15010)")
}
