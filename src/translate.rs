//! `xebec translate`: the resources that a proxy would get, offline.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use xebec_adapter_file::FileRegistry;
use xebec_adapter_kubernetes::ManifestRegistry;
use xebec_envoy_compat::node::NodeKind;
use xebec_galley::ConfigEvent;
use xebec_galley::check::{Input, check};
use xebec_pilot::engine::{Engine, EngineOptions, translate_once};
use xebec_pilot::proxy::Proxy;
use xebec_pilot::registry::{Registry, RegistryEvent};
use xebec_pilot::resources::{ResourceType, ShapeSnapshot};
use xebec_pilot::translate::static_config;
use xebec_proto::google::protobuf::Any;

use crate::cli::{SourceFlags, TranslateArgs, TranslateType};
use crate::control_plane::{mesh_config, waiting};
use crate::exit::Failure;
use crate::output;
use crate::settings::Settings;
use crate::source_spec::ConfigSpec;
use crate::sources;
use crate::tasks::Tasks;

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

/// How long a platform may take to list everything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads everything once and translates it for one proxy.
async fn translate(flags: &SourceFlags, proxy: &Proxy) -> Result<ShapeSnapshot, Failure> {
    sources::check(flags)?;
    let details = Settings::read(flags.settings.as_deref())?;
    details.check(flags)?;
    let domain = details.domain(flags)?;
    let engine = Engine::start(EngineOptions {
        settings: mesh_config(flags.mesh_config.as_deref())?,
        domain: Arc::clone(&domain),
        ..EngineOptions::default()
    });
    let mut invalid = 0;
    let tasks = Tasks::default();
    let _stop_at_the_end = tasks.stop().clone().drop_guard();
    for registry in sources::platforms(flags, &details)? {
        let sink = engine.registry_sink(registry.id());
        tasks.register(registry, sink);
    }
    for path in sources::paths(flags) {
        let files = FileRegistry::load(&path);
        let manifests = ManifestRegistry::new(path.clone()).with_domain(&domain).load();
        for diagnostic in files.diagnostics.iter().chain(&manifests.diagnostics).filter(|d| d.is_error()) {
            invalid += 1;
            output::note(&diagnostic.render(false));
        }
        let mut events = Vec::new();
        for entry in files.entries {
            let key = entry.service.key.clone();
            events.push(RegistryEvent::UpsertService(entry.service));
            events.push(RegistryEvent::ReplaceEndpoints(key, entry.endpoints));
        }
        events.push(RegistryEvent::Synced);
        let sink = engine.registry_sink(FileRegistry::new(path.clone()).id());
        sink.send(events).await.map_err(Failure::bug)?;
        let mut events = manifests.events;
        events.push(RegistryEvent::Synced);
        let sink = engine.registry_sink(ManifestRegistry::new(path).id());
        sink.send(events).await.map_err(Failure::bug)?;
    }
    let inputs = flags.config.iter().filter_map(|spec| match spec {
        ConfigSpec::Path(path) => Some(Input::Path(path.clone())),
        _ => None,
    });
    let inputs: Vec<_> = inputs.collect();
    let report = check(&inputs);
    for diagnostic in report.diagnostics().filter(|d| d.is_error()) {
        invalid += 1;
        output::note(&diagnostic.render(false));
    }
    let files = report.documents.into_iter().filter_map(|d| d.config).map(ConfigEvent::Upsert).collect();
    sources::start_stores(flags, &details, files, &engine, &tasks).await?;
    if invalid > 0 {
        return Err(Failure::finding(format!("{invalid} problems in the configuration"))
            .help("`xebec validate` says more; nothing is translated from invalid documents"));
    }
    if tokio::time::timeout(PATIENCE, engine.wait_ready()).await.is_err() {
        return Err(Failure::unreachable(format!(
            "not everything can be read: waiting for {}",
            waiting(&engine).join(", ")
        ))
        .help("start the platform, or correct its address"));
    }
    engine.settled().await.map_err(Failure::bug)?;
    let mesh = engine.mesh();
    for note in xebec_pilot::translate::notes(&mesh) {
        let place = note.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
        output::note(&format!("note: {place}{}: {}", note.subject, note.text));
    }
    Ok(translate_once(&mesh, proxy))
}
