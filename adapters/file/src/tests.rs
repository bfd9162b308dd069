#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A registry that runs on a temporary directory, and what it says.
struct Running {
    dir: TempDir,
    events: mpsc::Receiver<(RegistryId, Vec<RegistryEvent>)>,
    stop: CancellationToken,
    /// Said and not yet looked at.
    rest: Vec<String>,
}

fn service(host: &str, addresses: &[&str]) -> String {
    let instances: Vec<String> = addresses.iter().map(|address| format!("{{address: {address}}}")).collect();
    format!(
        "services:\n- host: {host}\n  ports: [{{name: http, number: 80}}]\n  instances: [{}]\n",
        instances.join(", ")
    )
}

fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Starts on `root` within a directory that `prepare` has filled.
fn start(root: &str, prepare: impl FnOnce(&Path)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let registry = FileRegistry::new(dir.path().join(root));
    let (sender, events) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let sink = RegistrySink::new(registry.id(), sender);
    tokio::spawn(Box::new(registry).run(sink, stop.clone()));
    Running { dir, events, stop, rest: Vec::new() }
}

impl Running {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes as careful programs do: beside it, then renamed over it.
    fn replace(&self, name: &str, text: &str) {
        let temporary = self.path(&format!("{name}.tmp1234"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// The next event in short.
    async fn next(&mut self) -> String {
        while self.rest.is_empty() {
            let (_, events) =
                timeout(Duration::from_secs(10), self.events.recv()).await.expect("an event").expect("running");
            self.rest.extend(events.into_iter().map(|event| match event {
                RegistryEvent::UpsertService(service) => format!("+{}", service.key.hostname),
                RegistryEvent::RemoveService(key) => format!("-{}", key.hostname),
                RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                    let each: Vec<String> = endpoints.iter().map(|e| format!("{:?}", e.address)).collect();
                    format!("={} {}", key.hostname, each.join(" ").replace("Ip(", "").replace(')', ""))
                }
                RegistryEvent::Degraded(_) => "degraded".into(),
                RegistryEvent::Recovered => "recovered".into(),
                RegistryEvent::Synced => "synced".into(),
                other => format!("{other:?}"),
            }));
        }
        self.rest.remove(0)
    }

    /// Why it is degraded, which is the next event.
    async fn next_degraded(&mut self) -> String {
        assert!(self.rest.is_empty(), "{:?}", self.rest);
        let (_, events) =
            timeout(Duration::from_secs(10), self.events.recv()).await.expect("an event").expect("running");
        match &events[..] {
            [RegistryEvent::Degraded(why)] => why.clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn expect(&mut self, expected: &[&str]) {
        for event in expected {
            assert_eq!(self.next().await, *event);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn the_first_listing_ends_with_synced_and_changes_follow() {
    let mut run = start("", |dir| fs::write(dir.join("a.yaml"), service("a", &["10.0.0.1"])).unwrap());
    run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
    run.write("a.yaml", &service("a", &["10.0.0.1", "10.0.0.2"]));
    run.expect(&["=a 10.0.0.1 10.0.0.2"]).await;
    run.write("b.yaml", &service("b", &["10.0.0.3"]));
    run.expect(&["+b", "=b 10.0.0.3"]).await;
    fs::remove_file(run.path("a.yaml")).unwrap();
    run.expect(&["-a"]).await;
    fs::create_dir(run.path("sub")).unwrap();
    run.write("sub/c.yaml", &service("c", &["10.0.0.4"]));
    run.expect(&["+c", "=c 10.0.0.4"]).await;
    run.write("sub/c.yaml", &service("c", &["10.0.0.5"]));
    run.expect(&["=c 10.0.0.5"]).await;
}

#[tokio::test]
async fn an_empty_directory_is_synced_too() {
    start("", |_| {}).expect(&["synced"]).await;
}

#[tokio::test]
async fn a_file_replaced_by_rename_is_followed_again_and_again() {
    for root in ["", "a.yaml"] {
        let mut run = start(root, |dir| fs::write(dir.join("a.yaml"), service("a", &["10.0.0.1"])).unwrap());
        run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
        for last in 2..5 {
            run.replace("a.yaml", &service("a", &[&format!("10.0.0.{last}")]));
            run.expect(&[&format!("=a 10.0.0.{last}")]).await;
        }
    }
}

#[tokio::test]
async fn a_file_moved_aside_and_written_anew_is_a_change_and_no_removal() {
    let mut run = start("", |dir| fs::write(dir.join("a.yaml"), service("a", &["10.0.0.1"])).unwrap());
    run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
    fs::rename(run.path("a.yaml"), run.path("a.yaml~")).unwrap();
    run.write("a.yaml", &service("a", &["10.0.0.2"]));
    run.expect(&["=a 10.0.0.2"]).await;
}

#[tokio::test]
async fn a_swapped_link_to_a_new_version_is_one_change() {
    // As Kubernetes lays out a ConfigMap volume.
    let mut run = start("", |dir| {
        fs::create_dir(dir.join("..v1")).unwrap();
        fs::write(dir.join("..v1/a.yaml"), service("a", &["10.0.0.1"])).unwrap();
        symlink("..v1", dir.join("..data")).unwrap();
        symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    });
    run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
    for (version, address) in [("..v2", "10.0.0.2"), ("..v3", "10.0.0.3")] {
        fs::create_dir(run.path(version)).unwrap();
        run.write(&format!("{version}/a.yaml"), &service("a", &[address]));
        symlink(version, run.path("..data_tmp")).unwrap();
        fs::rename(run.path("..data_tmp"), run.path("..data")).unwrap();
        run.expect(&[&format!("=a {address}")]).await;
    }
}

#[tokio::test]
async fn a_root_that_is_a_swapped_link_is_followed() {
    let mut run = start("current", |dir| {
        for (version, address) in [("v1", "10.0.0.1"), ("v2", "10.0.0.2")] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("a.yaml"), service("a", &[address])).unwrap();
        }
        symlink("v1", dir.join("current")).unwrap();
    });
    run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
    symlink("v2", run.path("next")).unwrap();
    fs::rename(run.path("next"), run.path("current")).unwrap();
    run.expect(&["=a 10.0.0.2"]).await;
    run.write("v2/a.yaml", &service("a", &["10.0.0.3"]));
    run.expect(&["=a 10.0.0.3"]).await;
}

#[tokio::test]
async fn a_removed_directory_degrades_without_removing_and_recovers_when_it_is_back() {
    let mut run = start("conf", |dir| {
        fs::create_dir(dir.join("conf")).unwrap();
        fs::write(dir.join("conf/a.yaml"), service("a", &["10.0.0.1"])).unwrap();
    });
    run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
    for round in 2..4 {
        fs::rename(run.path("conf"), run.path(&format!("away{round}"))).unwrap();
        run.expect(&["degraded"]).await;
        fs::create_dir(run.path("new")).unwrap();
        run.write("new/a.yaml", &service("a", &[&format!("10.0.0.{round}")]));
        fs::rename(run.path("new"), run.path("conf")).unwrap();
        run.expect(&[&format!("=a 10.0.0.{round}"), "recovered"]).await;
        run.write("conf/b.yaml", &service(&format!("b{round}"), &[]));
        let first = run.next().await;
        assert_eq!(first, format!("+b{round}"));
        fs::remove_file(run.path("conf/b.yaml")).unwrap();
        run.expect(&[&format!("-b{round}")]).await;
    }
}

#[tokio::test]
async fn a_root_that_does_not_exist_yet_is_degraded_and_not_synced() {
    let mut run = start("deep/conf", |_| {});
    run.expect(&["degraded"]).await;
    fs::create_dir_all(run.path("deep/conf")).unwrap();
    run.expect(&["synced", "recovered"]).await;
    run.write("deep/conf/a.yaml", &service("a", &["10.0.0.1"]));
    run.expect(&["+a", "=a 10.0.0.1"]).await;
}

#[tokio::test]
async fn what_is_there_and_cannot_be_read_is_degraded_and_not_synced() {
    // Links to themselves, and memory at address 0, cannot be read by anybody.
    for (name, target) in [("sub", "sub"), ("b.yaml", "b.yaml"), ("b.yaml", "/proc/self/mem")] {
        let mut run = start("", |dir| {
            fs::write(dir.join("a.yaml"), service("a", &["10.0.0.1"])).unwrap();
            fs::write(dir.join("mistake.yaml"), "services: [").unwrap();
            symlink(target, dir.join(name)).unwrap();
        });
        run.expect(&["+a", "=a 10.0.0.1", "degraded"]).await;
        run.write("c.yaml", &service("c", &["10.0.0.3"]));
        run.expect(&["+c", "=c 10.0.0.3"]).await;
        fs::remove_file(run.path(name)).unwrap();
        run.expect(&["synced", "recovered"]).await;
    }
}

#[tokio::test]
async fn a_pipe_as_the_root_is_degraded_and_a_file_in_its_place_is_read() {
    let mut run = start("pipe", |dir| make_pipe(&dir.join("pipe")));
    assert!(run.next_degraded().await.contains("not a regular file"));
    run.replace("pipe", &service("a", &["10.0.0.1"]));
    run.expect(&["+a", "=a 10.0.0.1", "synced", "recovered"]).await;
}

#[tokio::test]
async fn what_is_no_file_in_the_place_of_a_file_is_degraded_and_removes_nothing() {
    for (root, name) in [("", "a.yaml"), ("a.yaml", "a.yaml")] {
        for (make, says) in [
            (make_pipe as fn(&Path), "not a regular file"),
            (|path| fs::create_dir(path).unwrap(), "is a directory where a file was"),
        ] {
            let mut run = start(root, |dir| fs::write(dir.join(name), service("a", &["10.0.0.1"])).unwrap());
            run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
            fs::rename(run.path(name), run.path("old")).unwrap();
            make(&run.path(name));
            assert!(run.next_degraded().await.contains(says));
            // A look at everything does not take it for gone either.
            fs::create_dir(run.path("sub")).unwrap();
            if root.is_empty() {
                run.write("sub/b.yaml", &service("b", &["10.0.0.2"]));
                run.expect(&["+b", "=b 10.0.0.2"]).await;
            }
            // A directory cannot be replaced in one step: it is gone for a moment, and its services may be as well.
            let _ = fs::remove_dir(run.path(name));
            run.replace(name, &service("a", &["10.0.0.3"]));
            while run.next().await != "=a 10.0.0.3" {}
        }
    }
}

#[tokio::test]
async fn a_bad_file_degrades_and_leaves_its_last_good_version_and_the_other_files_alone() {
    let mut run = start("", |dir| fs::write(dir.join("a.yaml"), service("a", &["10.0.0.1"])).unwrap());
    run.expect(&["+a", "=a 10.0.0.1", "synced"]).await;
    run.write("a.yaml", "services:\n- hots: a\n");
    run.expect(&["degraded"]).await;
    run.write("b.yaml", &service("b", &["10.0.0.2"]));
    run.expect(&["+b", "=b 10.0.0.2"]).await;
    run.write("a.yaml", &service("a", &["10.0.0.3"]));
    run.expect(&["=a 10.0.0.3", "recovered"]).await;
    run.write("a.yaml", "services: [");
    run.expect(&["degraded"]).await;
    fs::remove_file(run.path("a.yaml")).unwrap();
    run.expect(&["-a", "recovered"]).await;
}

#[tokio::test]
async fn it_stops_when_told_and_when_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    for by_token in [true, false] {
        let registry = FileRegistry::new(dir.path().to_owned());
        let (sender, mut events) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let task = tokio::spawn(Box::new(registry.clone()).run(RegistrySink::new(registry.id(), sender), stop.clone()));
        events.recv().await.unwrap();
        if by_token {
            stop.cancel();
        } else {
            drop(events);
            fs::write(dir.path().join("a.yaml"), service("a", &[])).unwrap();
        }
        timeout(Duration::from_secs(10), task).await.expect("it returns").unwrap();
    }
}

#[test]
fn loading_once_gives_all_entries_or_all_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), service("a", &["10.0.0.1"])).unwrap();
    assert_eq!(FileRegistry::load(dir.path()).entries.len(), 1);
    fs::write(dir.path().join("b.yaml"), "x: 1").unwrap();
    fs::write(dir.path().join("c.yaml"), "y: 1").unwrap();
    let loaded = FileRegistry::load(dir.path());
    assert_eq!((loaded.entries.len(), loaded.diagnostics.len()), (1, 2));
    assert_eq!(FileRegistry::load(Path::new("/nowhere")).diagnostics.len(), 1);
}
