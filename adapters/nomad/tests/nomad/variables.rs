//! Configuration from variables, against a real agent and against one whose answers a test decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use xebec_adapter_nomad::{Settings, Variables, VariablesSource, Written};
use xebec_galley::ConfigEvent;
use xebec_galley::source::SourceUpdate;
use xebec_testkit::{Nomad, NomadMode, Workdir};

use crate::fake::{Fake, How};
use crate::support::{SOON, seconds, settings};

fn rule(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: {name}}}\n"
    )
}

/// Changes in short: `+name`, `-name`.
fn short(update: &SourceUpdate) -> Vec<String> {
    let name = |event: &ConfigEvent| match event {
        ConfigEvent::Upsert(config) => format!("+{}", config.meta().key.name),
        ConfigEvent::Remove(key) => format!("-{}", key.name),
    };
    update.events.iter().map(name).collect()
}

/// A source that runs.
struct Running {
    updates: mpsc::Receiver<SourceUpdate>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: Settings, prefix: &str) -> Self {
        let (sender, updates) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let source = VariablesSource::new(settings, prefix).unwrap();
        let task = tokio::spawn(source.run(sender, async {
            let _ = stopped.await;
        }));
        Self { updates, stop, task }
    }

    async fn next(&mut self) -> SourceUpdate {
        tokio::time::timeout(SOON, self.updates.recv()).await.expect("in time").expect("running")
    }

    /// All changes up to one, and what was last said about the store itself meanwhile.
    async fn until(&mut self, last: &str) -> (Vec<String>, Option<String>) {
        let (mut all, mut trouble) = (Vec::new(), None);
        while !all.iter().any(|change| change == last) {
            let update = self.next().await;
            trouble = update.diagnostics.first().map(|problem| problem.message.clone()).or(trouble);
            all.extend(short(&update));
        }
        (all, trouble)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_configuration_and_are_written_only_when_unchanged() {
    let work = Workdir::new("nomad-variables");
    let Some(mut nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    let settings = Settings { wait: seconds(2.0), ..settings(&nomad.address()) };
    let variables = Variables::new(settings.clone()).unwrap();
    let items = |pairs: &[(&str, String)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), text.clone())).collect()
    };
    let first =
        variables.write("default", "mesh/rules", items(&[("a", rule("a")), ("b", rule("b"))]), 0).await.unwrap();
    let Written::Done(index) = first else { panic!("{first:?}") };
    assert_eq!(
        variables.write("default", "mesh/rules", items(&[("a", rule("x"))]), 0).await.unwrap(),
        Written::Conflict
    );
    variables.write("default", "meshes/other", items(&[("no", rule("no"))]), 0).await.unwrap();

    let mut source = Running::start(settings, "mesh");
    let update = source.next().await;
    assert!(update.synced);
    assert_eq!(short(&update), ["+a", "+b"]);

    let written =
        variables.write("default", "mesh/rules", items(&[("a", rule("a")), ("c", rule("c"))]), index).await.unwrap();
    assert!(matches!(written, Written::Done(later) if later > index));
    assert_eq!(short(&source.next().await), ["-b", "+c"]);

    let broken = items(&[("a", "kind: [".to_owned()), ("c", rule("c"))]);
    let Written::Done(at) = written else { panic!() };
    let Written::Done(at) = variables.write("default", "mesh/rules", broken, at).await.unwrap() else { panic!() };
    let update = source.next().await;
    assert!(
        update.events.is_empty() && update.diagnostics.iter().any(|d| d.source.file.ends_with("/mesh/rules#a")),
        "{update:?}"
    );
    variables.write("default", "mesh/rules", items(&[("a", rule("a")), ("c", rule("c"))]), at).await.unwrap();
    assert!(source.next().await.events.is_empty());

    nomad.kill();
    let update = source.next().await;
    assert!(
        update.events.is_empty() && !update.diagnostics.is_empty(),
        "an outage is reported and removes nothing: {update:?}"
    );
    nomad.restart().await;
    loop {
        let update = source.next().await;
        assert!(update.events.is_empty(), "{update:?}");
        if update.diagnostics.is_empty() {
            break;
        }
    }
    nomad.delete("/v1/var/mesh/rules").await;
    assert_eq!(short(&source.next().await), ["-a", "-c"]);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_the_token_may_no_longer_read_stays_and_holds_back_no_other_one() {
    let work = Workdir::new("nomad-variables-acl");
    let Some(nomad) = Nomad::start(&work, NomadMode::Acl).await else { return };
    let allow = async |paths: &[&str]| {
        let path = |path: &&str| format!("path \"{path}\" {{ capabilities = [\"read\", \"list\"] }}\n");
        let paths: String = paths.iter().map(path).collect();
        let rules = format!("namespace \"default\" {{ variables {{\n{paths}}} }}\n");
        nomad.put("/v1/acl/policy/mesh", json!({"Name": "mesh", "Rules": rules})).await;
    };
    let put = async |path: &str, name: &str| {
        nomad.put(&format!("/v1/var/{path}"), json!({"Path": path, "Items": {"a": rule(name)}})).await;
    };
    allow(&["mesh/*"]).await;
    let token = nomad.put("/v1/acl/token", json!({"Name": "mesh", "Type": "client", "Policies": ["mesh"]})).await;
    let file = work.write("token", token["SecretID"].as_str().unwrap());
    put("mesh/a", "first").await;
    put("mesh/b", "second").await;
    let namespaces = vec!["default".to_owned()];
    let settings = Settings { token_file: Some(file), wait: seconds(1.0), namespaces, ..settings(&nomad.address()) };
    let mut source = Running::start(settings, "mesh");
    assert_eq!(source.until("+second").await.0, ["+first", "+second"]);

    allow(&["mesh/b", "mesh/c", "mesh/d"]).await;
    put("mesh/b", "changed").await;
    let (changes, _) = source.until("+changed").await;
    assert!(!changes.contains(&"-first".to_owned()), "{changes:?}");
    put("mesh/c", "new").await;
    let (changes, trouble) = source.until("+new").await;
    assert!(!changes.contains(&"-first".to_owned()), "{changes:?}");
    assert!(trouble.is_none_or(|text| text.contains("/v1/var/mesh/a") && text.contains("permissions")));
    nomad.delete("/v1/var/mesh/b").await;
    assert_eq!(source.until("-changed").await.0, ["-changed"]);

    nomad.delete("/v1/var/mesh/a").await;
    allow(&["mesh/*"]).await;
    assert_eq!(source.until("-first").await.0, ["-first"], "now it is known to be gone");
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_listed_and_cannot_be_read_is_reported_and_the_others_are_in_effect() {
    let fake = Fake::start().await;
    let stub = |path: &str, index| format!(r#"{{"Namespace":"default","Path":"{path}","ModifyIndex":{index}}}"#);
    let listed = |list: &[String], index| fake.answer("/v1/vars", How::Good(format!("[{}]", list.join(",")), index));
    let answer = |path: &str, name: &str, index: u64| {
        let variable = json!({"Namespace": "default", "Path": path, "Items": {"a": rule(name)}, "ModifyIndex": index});
        fake.answer(&format!("/v1/var/{path}"), How::Good(variable.to_string(), index));
    };
    listed(&[stub("mesh/a", 1), stub("mesh/b", 2)], 2);
    fake.answer("/v1/var/mesh/a", How::Status(500));
    answer("mesh/b", "second", 2);
    let settings = Settings { wait: seconds(1.0), confirm_after: seconds(3.0), ..settings(&fake.address) };
    let mut source = Running::start(settings, "mesh");
    let update = source.next().await;
    assert_eq!(short(&update), ["+second"]);
    assert!(!update.synced, "not everything is known");
    assert!(update.diagnostics[0].message.contains("/v1/var/mesh/a"), "{:?}", update.diagnostics);

    // Meanwhile changes of the others count, and an older list is still looked at twice.
    let begun = Instant::now();
    fake.answer("/v1/var/mesh/b", How::Status(404));
    listed(&[stub("mesh/a", 1)], 1);
    assert_eq!(source.until("-second").await.0, ["-second"]);
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    answer("mesh/a", "first", 1);
    let update = source.next().await;
    assert_eq!(short(&update), ["+first"]);
    assert!(update.synced && update.diagnostics.is_empty(), "{update:?}");
    source.stop().await;
}
