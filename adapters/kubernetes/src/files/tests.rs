#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use tokio::sync::mpsc;

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: a}}\nstatus: {podIP: 10.0.0.1}\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}\n";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: a-1, labels: {kubernetes.io/service-name: a}}\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}]\n";

fn manifests() -> Manifests {
    Manifests::new(&ManifestRegistry::new("x".into()))
}

fn short(events: &[RegistryEvent]) -> Vec<String> {
    let each = events.iter().map(|event| match event {
        RegistryEvent::UpsertService(s) => format!("+{}", s.key),
        RegistryEvent::ReplaceEndpoints(k, e) => format!("={k}:{}", e.len()),
        RegistryEvent::RemoveService(k) => format!("-{k}"),
        RegistryEvent::UpsertWorkload(k, _) => format!("+w {}", k.name),
        RegistryEvent::RemoveWorkload(k) => format!("-w {}", k.name),
        other => format!("{other:?}"),
    });
    each.collect()
}

const A: &str = "default/a.default.svc.cluster.local";

#[test]
fn documents_and_lists_say_services() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), format!("{POD}---\n{SERVICE}---\n{SLICE}")).unwrap();
    let loaded = ManifestRegistry::new(folder.path().to_owned()).load();
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    assert_eq!(short(&loaded.events), ["+w p".to_owned(), format!("+{A}"), format!("={A}:1")]);
    let RegistryEvent::UpsertService(service) = &loaded.events[1] else { panic!("{:?}", loaded.events) };
    let written = service.origin.as_ref().map(ToString::to_string);
    assert_eq!(written, Some(format!("{}:6:1", folder.path().join("a.yaml").display())));
    let list =
        r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}]}"#;
    let mut manifests = manifests();
    assert!(manifests.put(&"l.json".into(), list.as_bytes()).is_empty());
    assert_eq!(short(&manifests.state.settle()), [format!("+{A}")]);
}

#[test]
fn a_document_with_a_mistake_keeps_its_last_good_version_and_says_where() {
    let mut manifests = manifests();
    let name: Arc<str> = "a.yaml".into();
    manifests.put(&name, format!("{SERVICE}---\n{POD}").as_bytes());
    manifests.state.settle();
    let bad = format!("{}---\n{}", SERVICE.replace("port: 80", "port: eighty"), POD.replace("app: a", "app: b"));
    let problems = manifests.put(&name, bad.as_bytes());
    assert!(problems[0].render(false).contains("a.yaml:4"), "{}", problems[0].render(false));
    assert_eq!(short(&manifests.state.settle()), ["+w p"], "the other document takes effect");
    manifests.put(&name, b"kind: Service\napiVersion: [");
    assert!(manifests.state.settle().is_empty(), "nobody knows what is in it");
    manifests.put(&name, POD.as_bytes());
    assert_eq!(short(&manifests.state.settle()), ["+w p".to_owned(), format!("-{A}")]);
}

#[test]
fn a_fault_of_form_spoils_only_the_item_that_it_stands_in() {
    let item = |name: &str, more: &str| {
        format!("- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec: {{clusterIP: None{more}}}\n")
    };
    let list = |middle: &str| {
        format!("apiVersion: v1\nkind: List\nitems:\n{}{}{}", item("a", ""), item("b", middle), item("c", ""))
    };
    let mut manifests = manifests();
    let name: Arc<str> = "l.yaml".into();
    let problems = manifests.put(&name, list(", clusterIP: None").as_bytes());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].source.line, 11);
    let service = |name: &str| format!("+default/{name}.default.svc.cluster.local");
    assert_eq!(short(&manifests.state.settle()), [service("a"), service("c")]);
    assert!(manifests.put(&name, list("").as_bytes()).is_empty());
    assert_eq!(short(&manifests.state.settle()), [service("b")]);
}

#[test]
fn the_items_of_a_list_are_moved_and_not_copied() {
    const ITEMS: usize = 20_000;
    let one = |i: usize| format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"n{i}"}}}}"#);
    let list = format!(r#"{{"kind":"List","items":[{}]}}"#, (0..ITEMS).map(one).collect::<Vec<_>>().join(","));
    let document = yaml::parse_with("l.json", list.as_bytes(), limits()).documents.remove(0);
    let names = |parts: &[Document]| parts.iter().filter_map(|part| Some(part.root.as_ref()?.at)).count();
    let before = document.root.as_ref().unwrap().get("items").unwrap().items()[7]
        .get("kind")
        .unwrap()
        .as_str()
        .unwrap()
        .as_ptr();
    let (parts, rest) = parts(document);
    assert_eq!((names(&parts), rest.len()), (ITEMS, 0));
    let after = parts[7].root.as_ref().unwrap().get("kind").unwrap().as_str().unwrap().as_ptr();
    assert_eq!(before, after, "it is the same text");
}

#[test]
fn of_two_files_with_one_object_the_first_wins_and_the_second_takes_over() {
    let mut manifests = manifests();
    let (x, y): (Arc<str>, Arc<str>) = ("x.yaml".into(), "y.yaml".into());
    manifests.put(&y, SERVICE.as_bytes());
    manifests.put(&x, SERVICE.replace("port: 80", "port: 81").as_bytes());
    let events = manifests.state.settle();
    assert!(matches!(&events[..], [RegistryEvent::UpsertService(s)] if s.ports[0].number == 81), "{events:?}");
    manifests.replace(&x, BTreeMap::new());
    let events = manifests.state.settle();
    assert!(matches!(&events[..], [RegistryEvent::UpsertService(s)] if s.ports[0].number == 80), "{events:?}");
}

#[test]
fn files_of_other_kinds_are_not_parsed() {
    assert!(!is_worth_parsing(b"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"));
    assert!(!is_worth_parsing(b"services: []\n"));
    assert!(is_worth_parsing(b"\"kind\": \"Pod\""));
    assert!(is_worth_parsing(b"kind: ServiceList\n"));
    assert!(is_worth_parsing(b"# kind\nkind:   'EndpointSlice'\n"));
}

/// What a running registry has said, in short, in order.
struct Live {
    said: mpsc::Receiver<(RegistryId, Vec<RegistryEvent>)>,
    all: Vec<String>,
    stop: CancellationToken,
}

impl Live {
    fn start(root: &Path) -> Self {
        let registry = ManifestRegistry::new(root.to_owned());
        let (sender, said) = mpsc::channel(64);
        let stop = CancellationToken::new();
        tokio::spawn(Box::new(registry.clone()).run(RegistrySink::new(registry.id(), sender), stop.clone()));
        Self { said, all: Vec::new(), stop }
    }

    /// Waits until this was said after everything that was waited for before, and returns what came with it and in between.
    async fn until(&mut self, wanted: &str) -> Vec<String> {
        let mut since = Vec::new();
        while !since.iter().any(|text: &String| text.starts_with(wanted)) {
            let next = tokio::time::timeout(Duration::from_secs(15), self.said.recv()).await;
            let (_, events) = next.unwrap_or_else(|_| panic!("no {wanted:?}: {since:?}")).unwrap();
            since.extend(short(&events));
        }
        self.all.extend(since.iter().cloned());
        since
    }
}

/// Puts a file into its place at once, as editors do.
fn save(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_as_they_come_change_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("manifests");
    let mut live = Live::start(&root);
    assert_eq!(live.until("Degraded").await.len(), 1, "a folder that is not there is said, and no empty mesh");
    std::fs::create_dir(&root).unwrap();
    live.until("Recovered").await;
    assert!(live.all.contains(&"Synced".to_owned()), "{:?}", live.all);
    let (pods, services) = (root.join("pods.yaml"), root.join("services.yaml"));
    save(&pods, POD);
    live.until("+w p").await;
    save(&services, &format!("{SERVICE}---\n{SLICE}"));
    live.until(&format!("={A}:1")).await;
    let many = SLICE.replace("endpoints: [", "endpoints: [{addresses: [10.0.0.2]}, ");
    save(&services, &format!("{SERVICE}---\n{many}"));
    assert_eq!(live.until(&format!("={A}:2")).await, [format!("={A}:2")], "nothing but the endpoints");
    // A mistake takes nothing away, and what is good in other files still takes effect.
    save(&services, "kind: Service\napiVersion: [");
    save(&pods, &POD.replace("app: a", "app: b"));
    let said = live.until("+w p").await;
    assert!(said.iter().all(|text| !text.starts_with('-')), "{said:?}");
    save(&services, SERVICE);
    live.until(&format!("={A}:0")).await;
    std::fs::remove_file(&services).unwrap();
    assert_eq!(live.until("-").await, [format!("-{A}")]);
    // A folder that vanishes may be one that is not mounted: what is known stays until it is back.
    std::fs::remove_dir_all(&root).unwrap();
    let said = live.until("Degraded").await;
    assert!(said.iter().all(|text| !text.starts_with('-')), "{said:?}");
    std::fs::create_dir(&root).unwrap();
    live.until("-w p").await;
    live.stop.cancel();
}
