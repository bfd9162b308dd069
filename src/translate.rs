//! `xebec translate`: the resources that a proxy would get, offline.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use xebec_envoy_compat::node::NodeKind;
use xebec_galley::ConfigEvent;
use xebec_galley::check::{Input, check};
use xebec_pilot::engine::{Engine, EngineOptions, translate_once};
use xebec_pilot::proxy::Proxy;
use xebec_pilot::registry::RegistryEvent;
use xebec_pilot::resources::{ResourceType, ShapeSnapshot};
use xebec_pilot::translate::static_config;
use xebec_proto::google::protobuf::Any;

use crate::cli::{SourceFlags, TranslateArgs, TranslateType};
use crate::control_plane::{check_sources, settings};
use crate::exit::Failure;
use crate::output;
use crate::registry_spec::RegistrySpec;

/// Prints resources as Envoy JSON.
pub(crate) async fn run(args: TranslateArgs) -> Result<(), Failure> {
    if args.sources.config.is_empty() && args.sources.registry.is_empty() {
        return Err(Failure::usage("there is nothing to translate")
            .help("name a directory with --config DIR, or a platform with --registry SPEC"));
    }
    if args.inline && args.types.iter().any(|t| shown(*t).is_some()) {
        return Err(Failure::usage(
            "--static prints one whole configuration; it cannot be combined with a --type of resource",
        ));
    }
    let kind = if args.types.contains(&TranslateType::Router) { NodeKind::Router } else { NodeKind::Sidecar };
    let node = args.proxy.node(kind)?.to_proto();
    // Inline virtual hosts are what people want to read, and what a static configuration needs.
    let proxy = Proxy::from_node(&node, false).map_err(Failure::usage)?;
    let snapshot = translate(&args.sources, &proxy).await?;
    if args.inline {
        let admin = match args.proxy.admin_addr {
            address if address.port() == 0 => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000),
            address => address,
        };
        let bootstrap = static_config::bootstrap(&snapshot, node, admin).map_err(Failure::bug)?;
        return output::json(&xebec_proto::json::encode(&bootstrap).map_err(Failure::bug)?);
    }
    let resources: Result<Vec<Value>, Failure> = ResourceType::ALL
        .into_iter()
        .filter(|kind| wanted(&args.types, *kind))
        .flat_map(|kind| snapshot.set(kind).values().map(move |r| (kind, r)))
        .map(|(kind, resource)| {
            let any = Any { type_url: kind.type_url().to_owned(), value: resource.body.to_vec() };
            xebec_proto::json::encode_any(&any).map_err(Failure::bug)
        })
        .collect();
    output::json(&resources?)
}

/// The type of resource that a value of `--type` asks for, if it does.
fn shown(value: TranslateType) -> Option<ResourceType> {
    match value {
        TranslateType::Cds => Some(ResourceType::Cluster),
        TranslateType::Lds => Some(ResourceType::Listener),
        TranslateType::Rds => Some(ResourceType::Route),
        TranslateType::Eds => Some(ResourceType::Endpoint),
        TranslateType::All | TranslateType::Sidecar | TranslateType::Router => None,
    }
}

fn wanted(types: &[TranslateType], kind: ResourceType) -> bool {
    let mut chosen = types.iter().copied().filter_map(shown).peekable();
    chosen.peek().is_none() || types.contains(&TranslateType::All) || chosen.any(|t| t == kind)
}

/// Reads everything once and translates it for one proxy.
async fn translate(sources: &SourceFlags, proxy: &Proxy) -> Result<ShapeSnapshot, Failure> {
    check_sources(sources)?;
    let engine = Engine::start(EngineOptions {
        settings: settings(sources.mesh_config.as_deref())?,
        ..EngineOptions::default()
    });
    let mut invalid = 0;
    for path in sources.registry.iter().map(|RegistrySpec::File(path)| path).chain(&sources.config) {
        let registry = xebec_adapter_file::FileRegistry::new(path.clone());
        let sink = engine.registry_sink(xebec_pilot::registry::Registry::id(&registry));
        let mut events = Vec::new();
        let loaded = xebec_adapter_file::FileRegistry::load(path);
        for diagnostic in loaded.diagnostics.iter().filter(|d| d.is_error()) {
            invalid += 1;
            output::note(&diagnostic.render(false));
        }
        for entry in loaded.entries {
            let key = entry.service.key.clone();
            events.push(RegistryEvent::UpsertService(entry.service));
            events.push(RegistryEvent::ReplaceEndpoints(key, entry.endpoints));
        }
        events.push(RegistryEvent::Synced);
        sink.send(events).await.map_err(Failure::bug)?;
    }
    let sink = engine.config_sink("files");
    let inputs: Vec<_> = sources.config.iter().cloned().map(Input::Path).collect();
    let report = check(&inputs);
    for diagnostic in report.diagnostics().filter(|d| d.is_error()) {
        invalid += 1;
        output::note(&diagnostic.render(false));
    }
    let configs = report.documents.into_iter().filter_map(|d| d.config);
    sink.send(configs.map(ConfigEvent::Upsert).collect()).await.map_err(Failure::bug)?;
    sink.synced().await.map_err(Failure::bug)?;
    if invalid > 0 {
        return Err(Failure::finding(format!("{invalid} problems in the configuration"))
            .help("`xebec validate` says more; nothing is translated from invalid documents"));
    }
    engine.wait_ready().await;
    engine.settled().await.map_err(Failure::bug)?;
    let mesh = engine.mesh();
    for note in xebec_pilot::translate::notes(&mesh) {
        let place = note.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
        output::note(&format!("note: {place}{}: {}", note.subject, note.text));
    }
    Ok(translate_once(&mesh, proxy))
}
