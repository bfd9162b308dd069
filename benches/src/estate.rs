//! The mesh that is measured: services, endpoints and rules as files, one service or rule per file.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

/// The port that every service listens on.
pub const PORT: u16 = 8080;

/// How many instances a service has.
pub const ENDPOINTS: usize = 10;

/// Every how many services a VirtualService shifts traffic.
const RULE_EVERY: usize = 10;

/// A directory of configuration.
#[derive(Debug)]
pub struct Estate {
    folder: TempDir,
    services: usize,
}

impl Estate {
    /// Writes `services` services of ten endpoints, and a VirtualService for every tenth.
    pub fn new(services: usize) -> Result<Self> {
        let estate = Self { folder: tempfile::tempdir()?, services };
        fs::create_dir(estate.path().join("services"))?;
        fs::create_dir(estate.path().join("rules"))?;
        for index in 0..services {
            fs::write(estate.service_file(index), service(index, 0))?;
        }
        for index in (0..services).step_by(RULE_EVERY) {
            fs::write(estate.rule_file(index), rule(index, services, 90))?;
        }
        Ok(estate)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Moves one endpoint of a service to another address.
    pub fn change_endpoint(&self, index: usize, revision: usize) -> Result<()> {
        replace(&self.service_file(index), &service(index, revision))
    }

    /// Changes the weights of the rule of a service that has one.
    pub fn change_weight(&self, index: usize, weight: usize) -> Result<()> {
        replace(&self.rule_file(self.ruled(index)), &rule(self.ruled(index), self.services, weight))
    }

    /// Adds a service.
    pub fn add_service(&self, index: usize) -> Result<()> {
        replace(&self.service_file(index), &service(index, 0))
    }

    /// The nearest service that has a rule.
    pub fn ruled(&self, index: usize) -> usize {
        index / RULE_EVERY * RULE_EVERY
    }

    fn service_file(&self, index: usize) -> PathBuf {
        self.path().join("services").join(format!("service-{index:05}.yaml"))
    }

    fn rule_file(&self, index: usize) -> PathBuf {
        self.path().join("rules").join(format!("rule-{index:05}.yaml"))
    }
}

/// The name of a service.
pub fn host(index: usize) -> String {
    format!("service-{index:05}.default.svc.cluster.local")
}

fn service(index: usize, revision: usize) -> String {
    let mut text = format!(
        "services:\n- host: {}\n  addresses: [10.{}.{}.{}]\n  ports:\n  - {{name: http, number: {PORT}, protocol: http}}\n  instances:\n",
        host(index),
        100 + index / 65536,
        index / 256 % 256,
        index % 256,
    );
    for endpoint in 0..ENDPOINTS {
        let number = index * ENDPOINTS + endpoint;
        let (second, low) = match (endpoint, revision) {
            (0, 1..) => (250, revision),
            _ => (10 + number / 65536, number),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  - {{address: 10.{second}.{}.{}, labels: {{app: service-{index:05}, version: v1}}}}",
            low / 256 % 256,
            low % 256,
        );
    }
    text
}

fn rule(index: usize, services: usize, weight: usize) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: rule-{index:05}, namespace: default}}\nspec:\n  hosts: [{host}]\n  http:\n  - route:\n    - destination: {{host: {host}}}\n      weight: {weight}\n    - destination: {{host: {other}}}\n      weight: {rest}\n",
        host = host(index),
        other = host((index + 1) % services),
        rest = 100 - weight,
    )
}

/// Replaces a file as editors and ConfigMaps do: by a rename.
fn replace(path: &Path, text: &str) -> Result<()> {
    let mut draft = path.to_path_buf();
    draft.set_extension("draft");
    fs::write(&draft, text)?;
    fs::rename(&draft, path)?;
    Ok(())
}
