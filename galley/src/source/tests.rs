#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::ledger::{Changes, Ledger};
use super::*;
use crate::diagnostic::Code;
use crate::watch::WatchError;

/// A valid resource whose number tells its states apart.
fn entry(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: [{name}.com], ports: [{{number: {port}, name: p}}]}}\n"
    )
}

/// The events as texts: `+name:port` and `-name`.
fn texts(events: &[ConfigEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            ConfigEvent::Upsert(crate::Config::ServiceEntry(entry)) => {
                format!("+{}:{}", entry.meta.key.name, entry.spec.ports[0].number)
            }
            ConfigEvent::Upsert(other) => panic!("{other:?}"),
            ConfigEvent::Remove(key) => format!("-{}", key.name),
        })
        .collect()
}

mod the_ledger {
    use super::*;

    /// Applies one change and says the events and the codes of problems.
    fn put(ledger: &mut Ledger, file: &str, content: &str) -> (Vec<String>, Vec<Code>) {
        let mut changes = Changes::default();
        ledger.put(&file.into(), content.as_bytes(), &mut changes);
        let (events, _, diagnostics) = ledger.settle(changes);
        (texts(&events), diagnostics.iter().map(|d| d.code).collect())
    }

    fn remove(ledger: &mut Ledger, file: &str) -> Vec<String> {
        let mut changes = Changes::default();
        ledger.remove(&file.into(), &mut changes);
        texts(&ledger.settle(changes).0)
    }

    #[test]
    fn only_what_changed_is_said() {
        let mut ledger = Ledger::default();
        let (a, b) = (entry("a", 1), entry("b", 1));
        assert_eq!(put(&mut ledger, "f", &format!("{a}---\n{b}")).0, ["+a:1", "+b:1"]);
        assert_eq!(put(&mut ledger, "f", &format!("# moved\n\n{a}---\n{}", entry("b", 2))).0, ["+b:2"]);
        assert_eq!(put(&mut ledger, "f", &entry("b", 2)).0, ["-a"]);
        assert_eq!(remove(&mut ledger, "f"), ["-b"]);
        assert_eq!(remove(&mut ledger, "f"), [] as [&str; 0]);
    }

    #[test]
    fn the_same_bytes_are_not_even_parsed() {
        let mut ledger = Ledger::default();
        put(&mut ledger, "f", &entry("a", 1));
        put(&mut ledger, "f", &entry("a", 1));
        assert_eq!(ledger.parsed, 1);
    }

    #[test]
    fn a_refused_resource_stays_as_it_was_and_its_neighbours_change() {
        let mut ledger = Ledger::default();
        put(&mut ledger, "f", &format!("{}---\n{}", entry("a", 1), entry("b", 1)));
        let broken = format!("{}---\n{}", entry("a", 1).replace("number: 1", "number: x"), entry("b", 2));
        assert_eq!(put(&mut ledger, "f", &broken), (vec!["+b:2".to_owned()], vec![Code::WrongType]));
        assert_eq!(put(&mut ledger, "f", &entry("b", 2)).0, ["-a"]);
    }

    #[test]
    fn nothing_of_a_file_is_removed_while_a_part_of_it_is_unreadable() {
        let mut ledger = Ledger::default();
        put(&mut ledger, "f", &format!("{}---\n{}", entry("a", 1), entry("b", 1)));
        assert_eq!(
            put(&mut ledger, "f", &format!("{}---\nkind: [\n", entry("b", 2))),
            (vec!["+b:2".to_owned()], vec![Code::Syntax])
        );
        assert_eq!(put(&mut ledger, "f", "a: \u{0}"), (vec![], vec![Code::Syntax]));
        assert_eq!(put(&mut ledger, "f", &entry("a", 1)).0, ["-b"]);
    }

    #[test]
    fn of_two_files_with_one_resource_the_first_wins_and_the_other_is_told() {
        let mut ledger = Ledger::default();
        assert_eq!(put(&mut ledger, "m", &entry("a", 1)).0, ["+a:1"]);
        assert_eq!(put(&mut ledger, "z", &entry("a", 2)), (vec![], vec![Code::Conflict]));
        assert_eq!(put(&mut ledger, "b", &entry("a", 3)).0, ["+a:3"]);
        assert_eq!(remove(&mut ledger, "m"), [] as [&str; 0]);
        assert_eq!(remove(&mut ledger, "b"), ["+a:2"]);
        assert_eq!(remove(&mut ledger, "z"), ["-a"]);
    }

    #[test]
    fn of_a_thousand_problems_of_one_text_some_are_said_and_the_others_are_counted() {
        let text: String = (0..1000).map(|n| format!("apiVersion: v1\nkind: K{n}\n---\n")).collect();
        let wrong = entry("a", 1).replace("number: 1", "number: x");
        let mut changes = Changes::default();
        let mut ledger = Ledger::default();
        ledger.put(&"f".into(), (text + &wrong).as_bytes(), &mut changes);
        let diagnostics = ledger.settle(changes).2;
        assert_eq!(diagnostics.len(), 201);
        let last = diagnostics.last().unwrap();
        assert_eq!(last.message, "and 801 more problems from here on");
        assert!(last.is_error(), "one of those is an error");
        assert_eq!((last.source.line, diagnostics[0].source.line), (602, 2));
    }

    #[test]
    fn a_resource_that_moves_between_files_in_one_batch_is_not_removed() {
        let mut ledger = Ledger::default();
        put(&mut ledger, "f", &entry("a", 1));
        let mut changes = Changes::default();
        ledger.remove(&"f".into(), &mut changes);
        ledger.put(&"g".into(), entry("a", 2).as_bytes(), &mut changes);
        assert_eq!(texts(&ledger.settle(changes).0), ["+a:2"]);
    }

    #[test]
    fn a_resource_written_twice_in_one_file_is_taken_once() {
        let mut ledger = Ledger::default();
        let text = format!("{}---\n{}", entry("a", 1), entry("a", 2));
        assert_eq!(put(&mut ledger, "f", &text), (vec!["+a:1".to_owned()], vec![Code::Conflict]));
    }

    #[test]
    fn one_changed_file_among_a_thousand_is_the_only_one_that_is_parsed() {
        let mut ledger = Ledger::default();
        for number in 0..1_000 {
            put(&mut ledger, &format!("f{number}"), &entry(&format!("a{number}"), 1));
        }
        assert_eq!(put(&mut ledger, "f500", &entry("a500", 2)).0, ["+a500:2"]);
        assert_eq!(ledger.parsed, 1_001);
    }
}

/// A source that runs on a directory, with what it has said.
struct Live {
    home: tempfile::TempDir,
    updates: mpsc::Receiver<SourceUpdate>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), WatchError>>,
}

impl Live {
    /// Starts on `home/mesh`, and takes the first update, which is complete.
    async fn start(prepare: impl FnOnce(&Path)) -> (Self, SourceUpdate) {
        let (live, first) = Self::begin(prepare).await;
        assert!(first.synced);
        (live, first)
    }

    /// Starts on `home/mesh`, and takes the first update.
    async fn begin(prepare: impl FnOnce(&Path)) -> (Self, SourceUpdate) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("mesh")).unwrap();
        prepare(&home.path().join("mesh"));
        let (sender, updates) = mpsc::channel(100);
        let (stop, stopped) = oneshot::channel::<()>();
        let source = DirectorySource::new(vec![home.path().join("mesh")]);
        let task = tokio::spawn(source.run(sender, async {
            let _ = stopped.await;
        }));
        let mut live = Self { home, updates, stop: Some(stop), task };
        let first = live.update().await;
        (live, first)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("mesh").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    async fn update(&mut self) -> SourceUpdate {
        tokio::time::timeout(Duration::from_secs(10), self.updates.recv())
            .await
            .expect("an update")
            .expect("a running source")
    }

    /// Updates until there are events, which it returns.
    async fn events(&mut self) -> Vec<String> {
        loop {
            let update = self.update().await;
            if !update.events.is_empty() {
                return texts(&update.events);
            }
        }
    }

    /// Updates until there is a problem of this kind. No events may come meanwhile.
    async fn problem(&mut self, code: Code) -> Diagnostic {
        loop {
            let update = self.update().await;
            assert_eq!(texts(&update.events), [] as [&str; 0]);
            if let Some(found) = update.diagnostics.into_iter().find(|d| d.code == code) {
                return found;
            }
        }
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_there_at_first_is_said_once_and_changes_afterwards() {
    let (mut live, first) = Live::start(|mesh| {
        std::fs::create_dir_all(mesh.join("sub")).unwrap();
        std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap();
        std::fs::write(mesh.join("sub/b.yml"), entry("b", 1)).unwrap();
        std::fs::write(mesh.join("sub/.b.yml.swp"), "x: [").unwrap();
        std::fs::write(mesh.join(".c.yaml"), "x: [").unwrap();
        std::fs::write(mesh.join("c.yaml~"), "x: [").unwrap();
    })
    .await;
    assert_eq!(texts(&first.events), ["+a:1", "+b:1"]);
    assert_eq!(first.diagnostics, []);
    live.write("sub/b.yml", &entry("b", 2));
    assert_eq!(live.events().await, ["+b:2"]);
    live.write("new.json", r#"{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "n"}, "spec": {"hosts": ["n.com"], "ports": [{"number": 7, "name": "p"}]}}"#);
    assert_eq!(live.events().await, ["+n:7"]);
    std::fs::remove_file(live.path("a.yaml")).unwrap();
    assert_eq!(live.events().await, ["-a"]);
    live.end().await;
}

#[tokio::test]
async fn directories_that_appear_are_looked_into_and_those_that_vanish_take_their_resources_along() {
    let (mut live, _) = Live::start(|_| {}).await;
    std::fs::create_dir_all(live.path("x/y")).unwrap();
    live.write("x/y/a.yaml", &entry("a", 1));
    assert_eq!(live.events().await, ["+a:1"]);
    live.write("x/y/a.yaml", &entry("a", 2));
    assert_eq!(live.events().await, ["+a:2"]);
    std::fs::remove_dir_all(live.path("x")).unwrap();
    assert_eq!(live.events().await, ["-a"]);
    live.end().await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_by_another_of_its_name_is_watched_again() {
    let (mut live, _) = Live::start(|mesh| std::fs::create_dir(mesh.join("x")).unwrap()).await;
    for round in 1..5 {
        std::fs::remove_dir_all(live.path("x")).unwrap();
        std::fs::create_dir(live.path("x")).unwrap();
        for port in [10 * round, 10 * round + 1] {
            live.write("x/a.yaml", &entry("a", port));
            let wanted = format!("+a:{port}");
            while live.events().await.last() != Some(&wanted) {}
        }
    }
    live.end().await;
}

#[tokio::test]
async fn a_file_that_is_replaced_by_a_rename_is_an_update_and_not_a_removal() {
    let (mut live, _) = Live::start(|mesh| std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap()).await;
    live.write(".a.yaml.tmp", &entry("a", 2));
    std::fs::rename(live.path(".a.yaml.tmp"), live.path("a.yaml")).unwrap();
    assert_eq!(live.events().await, ["+a:2"]);
    // As vim saves: the old file becomes a backup, a new one is written, the backup is removed.
    std::fs::rename(live.path("a.yaml"), live.path("a.yaml~")).unwrap();
    live.write("a.yaml", &entry("a", 3));
    std::fs::remove_file(live.path("a.yaml~")).unwrap();
    assert_eq!(live.events().await, ["+a:3"]);
    live.end().await;
}

#[tokio::test]
async fn a_swapped_configmap_mount_is_one_update() {
    let (mut live, first) = Live::start(|mesh| {
        std::fs::create_dir(mesh.join("..1")).unwrap();
        std::fs::write(mesh.join("..1/a.yaml"), entry("a", 1)).unwrap();
        std::fs::write(mesh.join("..1/b.yaml"), entry("b", 1)).unwrap();
        std::os::unix::fs::symlink("..1", mesh.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", mesh.join("a.yaml")).unwrap();
        std::os::unix::fs::symlink("..data/b.yaml", mesh.join("b.yaml")).unwrap();
    })
    .await;
    assert_eq!(texts(&first.events), ["+a:1", "+b:1"]);
    for (generation, port) in [("..2", 2), ("..3", 3)] {
        std::fs::create_dir(live.path(generation)).unwrap();
        live.write(&format!("{generation}/a.yaml"), &entry("a", port));
        live.write(&format!("{generation}/b.yaml"), &entry("b", port));
        std::os::unix::fs::symlink(generation, live.path("..data_tmp")).unwrap();
        std::fs::rename(live.path("..data_tmp"), live.path("..data")).unwrap();
        std::fs::remove_dir_all(live.path(&format!("..{}", port - 1))).unwrap();
        assert_eq!(live.events().await, [format!("+a:{port}"), format!("+b:{port}")]);
    }
    live.end().await;
}

#[tokio::test]
async fn a_root_that_is_a_link_follows_its_target() {
    let home = tempfile::tempdir().unwrap();
    for (release, port) in [("v1", 1), ("v2", 2)] {
        std::fs::create_dir(home.path().join(release)).unwrap();
        std::fs::write(home.path().join(release).join("a.yaml"), entry("a", port)).unwrap();
    }
    let link = home.path().join("current");
    std::os::unix::fs::symlink("v1", &link).unwrap();
    let (sender, mut updates) = mpsc::channel(100);
    let task = tokio::spawn(DirectorySource::new(vec![link.clone()]).run(sender, std::future::pending()));
    assert_eq!(texts(&updates.recv().await.unwrap().events), ["+a:1"]);
    std::os::unix::fs::symlink("v2", home.path().join("next")).unwrap();
    std::fs::rename(home.path().join("next"), &link).unwrap();
    let update = tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap();
    assert_eq!(texts(&update.events), ["+a:2"]);
    std::fs::write(home.path().join("v2/a.yaml"), entry("a", 3)).unwrap();
    let update = tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap();
    assert_eq!(texts(&update.events), ["+a:3"]);
    drop(updates);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_half_written_file_is_left_alone_until_it_is_whole() {
    use std::io::Write;
    let (mut live, _) = Live::start(|mesh| std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap()).await;
    let text = format!("{}---\n{}", entry("a", 2), entry("b", 2));
    let (head, tail) = text.split_at(text.len() - 40);
    let mut file = std::fs::File::create(live.path("a.yaml")).unwrap();
    file.write_all(head.as_bytes()).unwrap();
    file.flush().unwrap();
    // Another file's change is published meanwhile.
    live.write("other.yaml", &entry("o", 1));
    assert_eq!(live.events().await, ["+o:1"]);
    file.write_all(tail.as_bytes()).unwrap();
    drop(file);
    assert_eq!(live.events().await, ["+a:2", "+b:2"]);
    live.end().await;
}

#[tokio::test]
async fn a_file_that_becomes_faulty_keeps_its_last_good_content_until_it_is_repaired() {
    let (mut live, _) = Live::start(|mesh| std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap()).await;
    live.write("a.yaml", "spec: [\n");
    let problem = live.problem(Code::Syntax).await;
    assert!(problem.source.file.ends_with("a.yaml"));
    std::fs::write(live.path("a.yaml"), b"\xff\xfe").unwrap();
    live.problem(Code::NotUtf8).await;
    std::fs::write(live.path("a.yaml"), vec![b'#'; 10 << 20]).unwrap();
    live.problem(Code::TooLarge).await;
    live.write("b.yaml", &entry("b", 1));
    assert_eq!(live.events().await, ["+b:1"]);
    live.write("a.yaml", &entry("a", 2));
    let update = live.update().await;
    assert_eq!((texts(&update.events), update.diagnostics), (vec!["+a:2".to_owned()], vec![]));
    assert_eq!(update.files.len(), 1);
    live.end().await;
}

#[tokio::test]
async fn a_directory_that_is_deleted_keeps_its_configuration_until_it_is_back() {
    let (mut live, _) = Live::start(|mesh| {
        for name in ["a", "b", "c"] {
            std::fs::write(mesh.join(format!("{name}.yaml")), entry(name, 1)).unwrap();
        }
    })
    .await;
    std::fs::remove_dir_all(live.path("")).unwrap();
    let problem = live.problem(Code::Unreadable).await;
    assert!(problem.message.contains("last good configuration stays"), "{}", problem.message);
    std::fs::create_dir(live.path("")).unwrap();
    live.write("a.yaml", &entry("a", 1));
    live.write("b.yaml", &entry("b", 2));
    // What changed is said at once, what did not come back after a while, what is the same never.
    let mut events = Vec::new();
    while !events.contains(&"-c".to_owned()) {
        events.extend(live.events().await);
    }
    assert_eq!(events, ["+b:2", "-c"]);
    live.write("a.yaml", &entry("a", 3));
    assert_eq!(live.events().await, ["+a:3"]);
    live.end().await;
}

#[tokio::test]
async fn it_is_not_synced_before_everything_that_is_there_can_be_read() {
    // Links to themselves, and memory at address 0, cannot be read by anybody.
    for (name, target) in [("sub", "sub"), ("b.yaml", "b.yaml"), ("b.yaml", "/proc/self/mem")] {
        let (mut live, first) = Live::begin(|mesh| {
            std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap();
            std::fs::write(mesh.join("mistake.yaml"), "spec: [\n").unwrap();
            std::os::unix::fs::symlink(target, mesh.join(name)).unwrap();
        })
        .await;
        assert_eq!((texts(&first.events), first.synced), (vec!["+a:1".to_owned()], false), "{target}");
        let said = first.diagnostics.iter().find(|d| d.code == Code::Unreadable).unwrap();
        assert!(said.source.file.ends_with(name), "{said:?}");
        live.write("c.yaml", &entry("c", 1));
        let update = live.update().await;
        assert_eq!((texts(&update.events), update.synced), (vec!["+c:1".to_owned()], false), "{target}");
        std::fs::remove_file(live.path(name)).unwrap();
        let mut update = live.update().await;
        while !update.synced {
            update = live.update().await;
        }
        live.write("b.yaml", &entry("b", 1));
        assert_eq!(live.events().await, ["+b:1"]);
        live.end().await;
    }
}

#[tokio::test]
async fn a_file_or_directory_that_becomes_unreadable_keeps_its_last_good_content() {
    let (mut live, _) = Live::start(|mesh| {
        std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap();
        std::fs::create_dir(mesh.join("../store")).unwrap();
        std::fs::write(mesh.join("../store/b.yaml"), entry("b", 1)).unwrap();
        std::os::unix::fs::symlink("../store", mesh.join("sub")).unwrap();
    })
    .await;
    for name in ["a.yaml", "sub"] {
        let next = live.home.path().join("next");
        std::os::unix::fs::symlink(name, &next).unwrap();
        std::fs::rename(&next, live.path(name)).unwrap();
        loop {
            let update = live.update().await;
            assert_eq!((texts(&update.events), update.synced), (vec![], true));
            if update.diagnostics.iter().any(|d| d.code == Code::Unreadable && d.source.file.ends_with(name)) {
                break;
            }
        }
    }
    let next = live.home.path().join("next");
    std::os::unix::fs::symlink("../store", &next).unwrap();
    std::fs::rename(&next, live.path("sub")).unwrap();
    std::fs::write(&next, entry("a", 2)).unwrap();
    std::fs::rename(&next, live.path("a.yaml")).unwrap();
    assert_eq!(live.events().await, ["+a:2"]);
    live.write("sub/b.yaml", &entry("b", 2));
    assert_eq!(live.events().await, ["+b:2"]);
    live.end().await;
}

#[tokio::test]
async fn what_is_no_file_in_the_place_of_a_file_is_reported_and_removes_nothing() {
    for pipe in [true, false] {
        let (mut live, _) = Live::start(|mesh| std::fs::write(mesh.join("a.yaml"), entry("a", 1)).unwrap()).await;
        std::fs::rename(live.path("a.yaml"), live.path("old")).unwrap();
        if pipe {
            assert!(std::process::Command::new("mkfifo").arg(live.path("a.yaml")).status().unwrap().success());
        } else {
            std::fs::create_dir(live.path("a.yaml")).unwrap();
        }
        let problem = live.problem(Code::Unreadable).await;
        assert!(problem.message.contains(if pipe { "not a regular file" } else { "is a directory" }), "{problem}");
        // A look at everything does not take it for gone either.
        std::fs::create_dir(live.path("sub")).unwrap();
        live.write("sub/b.yaml", &entry("b", 1));
        assert_eq!(live.events().await, ["+b:1"]);
        // A directory cannot be replaced in one step: it is gone for a moment, and its resources may be as well.
        let _ = std::fs::remove_dir(live.path("a.yaml"));
        live.write("next", &entry("a", 2));
        std::fs::rename(live.path("next"), live.path("a.yaml")).unwrap();
        while live.events().await != ["+a:2"] {}
        live.end().await;
    }
}

#[tokio::test]
async fn a_root_that_is_missing_at_first_is_reported_and_read_when_it_appears() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("later/mesh");
    let (sender, mut updates) = mpsc::channel(100);
    let task = tokio::spawn(DirectorySource::new(vec![root.clone()]).run(sender, std::future::pending()));
    let first = updates.recv().await.unwrap();
    assert_eq!((first.diagnostics[0].code, first.synced), (Code::Unreadable, false));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("a.yaml"), entry("a", 1)).unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        events = texts(&tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap().events);
    }
    assert_eq!(events, ["+a:1"]);
    drop(updates);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_single_file_can_be_a_root() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mesh.conf");
    std::fs::write(&file, entry("a", 1)).unwrap();
    let (sender, mut updates) = mpsc::channel(100);
    let task = tokio::spawn(DirectorySource::new(vec![file.clone()]).run(sender, std::future::pending()));
    assert_eq!(texts(&updates.recv().await.unwrap().events), ["+a:1"]);
    std::fs::write(home.path().join("neighbour.yaml"), entry("n", 1)).unwrap();
    std::fs::write(home.path().join("next"), entry("a", 2)).unwrap();
    std::fs::rename(home.path().join("next"), &file).unwrap();
    let update = tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap();
    assert_eq!(texts(&update.events), ["+a:2"]);
    drop(updates);
    task.await.unwrap().unwrap();
}
