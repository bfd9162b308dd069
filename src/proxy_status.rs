//! `xebec proxy-status`: what every proxy was sent, has acknowledged, or has refused.

use std::time::Duration;

use serde_json::Value;

use crate::cli::ProxyStatusArgs;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::server_api;

/// How often a watched status is looked at again.
const AGAIN: Duration = Duration::from_millis(500);

/// Shows the status of one or all proxies.
pub(crate) async fn run(args: ProxyStatusArgs) -> Result<(), Failure> {
    let mut shown = None;
    loop {
        let proxies = fetch(&args).await?;
        if shown.as_ref() != Some(&proxies) {
            if shown.is_some() {
                output::line("")?;
            }
            show(&args, &proxies)?;
        }
        if !args.watch {
            let refused = proxies.iter().filter(|p| current_errors(p).next().is_some()).count();
            return if refused == 0 {
                Ok(())
            } else {
                Err(Failure::finding(format!("{refused} proxies refused configuration")))
            };
        }
        shown = Some(proxies);
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = tokio::signal::ctrl_c() => return Err(Failure::interrupted()),
        }
    }
}

async fn fetch(args: &ProxyStatusArgs) -> Result<Vec<Value>, Failure> {
    let Value::Array(all) = server_api::get(&args.server, "/debug/syncz").await? else {
        return Err(Failure::unreachable(format!(
            "{} answered something that is not a list of proxies",
            args.server.server
        )));
    };
    let Some(wanted) = &args.proxy else { return Ok(all) };
    let mine: Vec<_> = all.into_iter().filter(|p| is_called(p, wanted)).collect();
    match mine.len() {
        0 if args.watch => Ok(mine),
        0 => Err(Failure::not_found(format!("no proxy {wanted:?} is connected"))
            .help("`xebec proxy-status` lists the connected proxies")),
        _ => Ok(mine),
    }
}

fn is_called(proxy: &Value, wanted: &str) -> bool {
    let name = proxy["proxy"].as_str().unwrap_or_default();
    name == wanted || proxy["proxy_id"] == wanted || name.split('.').next() == Some(wanted)
}

fn show(args: &ProxyStatusArgs, proxies: &[Value]) -> Result<(), Failure> {
    match args.output {
        Format::Json => output::json(&proxies),
        Format::Yaml => output::yaml(&proxies),
        Format::Jsonl => proxies.iter().try_for_each(|p| output::line(&p.to_string())),
        Format::Name => proxies.iter().try_for_each(|p| output::line(p["proxy"].as_str().unwrap_or_default())),
        Format::Table | Format::Wide => table(proxies, args.output == Format::Wide),
    }
}

fn table(proxies: &[Value], wide: bool) -> Result<(), Failure> {
    let mut headings = vec!["NAME", "TYPE", "CDS", "EDS", "LDS", "RDS", "VHDS"];
    if wide {
        headings.extend(["CLUSTER", "VERSION", "ID"]);
    }
    let rows: Vec<Vec<String>> = proxies
        .iter()
        .map(|proxy| {
            let text = |field: &str| proxy[field].as_str().filter(|s| !s.is_empty()).unwrap_or("-").to_owned();
            let mut row = vec![text("proxy"), text("proxy_type")];
            row.extend(["CDS", "EDS", "LDS", "RDS", "VHDS"].map(|kind| state(proxy, kind)));
            if wide {
                row.extend([text("cluster_id"), text("istio_version"), text("proxy_id")]);
            }
            row
        })
        .collect();
    output::table(&headings, &rows)?;
    for proxy in proxies {
        for (kind, error) in current_errors(proxy) {
            output::line(&refusal(proxy["proxy"].as_str().unwrap_or_default(), kind, error))?;
        }
    }
    Ok(())
}

/// `SYNCED`, `STALE`, `ERROR`, or `-` where the proxy has asked for nothing.
fn state(proxy: &Value, kind: &str) -> String {
    let found = types(proxy).find(|t| t["type"] == kind).and_then(|t| t["status"].as_str());
    match found {
        None | Some("NOT SENT") => "-".into(),
        Some(status) => status.into(),
    }
}

fn types(proxy: &Value) -> impl Iterator<Item = &Value> {
    proxy["types"].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn current_errors(proxy: &Value) -> impl Iterator<Item = (&str, &Value)> {
    types(proxy).filter_map(|t| {
        let error = t.get("error").filter(|e| e["current"].as_bool().unwrap_or(true))?;
        Some((t["type"].as_str().unwrap_or_default(), error))
    })
}

fn refusal(proxy: &str, kind: &str, error: &Value) -> String {
    let mut text = format!("\n{proxy} refused {kind}: {}\n", error["message"].as_str().unwrap_or_default());
    for resource in error["resources"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let origins: Vec<_> = resource["origins"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let from = if origins.is_empty() { String::new() } else { format!(" (made from {})", origins.join(", ")) };
        text.push_str(&format!("  resource {}{from}\n", resource["name"].as_str().unwrap_or_default()));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_names_the_resource_and_the_place_that_caused_it() {
        let proxy = json!({"proxy": "a.b", "types": [
            {"type": "CDS", "status": "SYNCED"},
            {"type": "LDS", "status": "ERROR", "error": {"message": "no such address", "current": true,
                "resources": [{"name": "l", "origins": ["s.yaml:3:1"]}]}}]});
        assert_eq!((state(&proxy, "CDS").as_str(), state(&proxy, "RDS").as_str()), ("SYNCED", "-"));
        let (kind, error) = current_errors(&proxy).next().unwrap();
        let text = refusal("a.b", kind, error);
        assert_eq!(text, "\na.b refused LDS: no such address\n  resource l (made from s.yaml:3:1)");
        assert!(is_called(&proxy, "a") && is_called(&proxy, "a.b") && !is_called(&proxy, "b"));
    }
}
