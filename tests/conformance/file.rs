//! Files: the platform that is always there. Its outage is a file that cannot be read as services any more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use xebec_testkit::Workdir;

use crate::platform::{Health, Instance, PORT, Platform, Source};

pub struct File {
    folder: PathBuf,
    services: BTreeMap<String, BTreeMap<String, (Instance, Health)>>,
}

// === impl File ===

impl File {
    fn write(&self) {
        let mut text = String::from("services:\n");
        for (service, instances) in &self.services {
            let _ = writeln!(text, "- host: {service}\n  ports:\n  - {{name: http, number: 80, protocol: http}}");
            text.push_str(if instances.is_empty() { "  instances: []\n" } else { "  instances:\n" });
            for (instance, health) in instances.values() {
                let health = match health {
                    Health::Healthy => "healthy",
                    Health::Unhealthy => "unhealthy",
                    Health::Draining => "draining",
                };
                let Instance { id, address, version } = instance;
                let _ = writeln!(
                    text,
                    "  - {{name: {id}, address: {address}, ports: {{http: {PORT}}}, health: {health}, labels: {{version: {version}}}}}"
                );
            }
        }
        replace(&self.folder, &text);
    }
}

fn replace(folder: &Path, text: &str) {
    std::fs::write(folder.join(".new"), text).unwrap();
    std::fs::rename(folder.join(".new"), folder.join("services.yaml")).unwrap();
}

impl Platform for File {
    const EMPTY: bool = true;

    async fn start(work: &Workdir) -> Option<Self> {
        Some(Self { folder: work.create_dir("registry"), services: BTreeMap::new() })
    }

    fn source(&self) -> Source {
        Source { spec: format!("file:{}", self.folder.display()), settings: String::new() }
    }

    fn host(&self, service: &str) -> String {
        service.to_owned()
    }

    async fn put_empty(&mut self, service: &str) {
        self.services.entry(service.to_owned()).or_default();
        self.write();
    }

    async fn put(&mut self, service: &str, instance: &Instance) {
        let instances = self.services.entry(service.to_owned()).or_default();
        instances.insert(instance.id.clone(), (instance.clone(), Health::Healthy));
        self.write();
    }

    async fn remove(&mut self, service: &str, instance: &Instance) {
        self.services.get_mut(service).unwrap().remove(&instance.id);
        self.write();
    }

    async fn set_health(&mut self, service: &str, instance: &Instance, health: Health) {
        self.services.get_mut(service).unwrap().get_mut(&instance.id).unwrap().1 = health;
        self.write();
    }

    async fn burst(&mut self, service: &str) -> BTreeMap<String, String> {
        let mut last = BTreeMap::new();
        for change in 0..1000_u16 {
            let number = (change % 50) as u8;
            let version = format!("v{}", change / 50);
            let instance = Instance { version: version.clone(), ..Instance::numbered(service, number, self.network()) };
            last.insert(instance.endpoint(), version);
            self.put(service, &instance).await;
        }
        last
    }

    async fn kill(&mut self) {
        replace(&self.folder, "services: [ this is no list of services\n");
    }

    async fn restart(&mut self) {
        self.write();
    }
}
