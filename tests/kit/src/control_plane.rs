//! `xebec serve` as a child process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::client;
use crate::process::{self, Process};
use crate::{Workdir, port};

const READY: Duration = Duration::from_secs(20);

/// What a control plane is started with. Paths are relative to the test's folder.
#[derive(Debug)]
pub struct ControlPlaneSpec<'a> {
    work: &'a Workdir,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    xds: SocketAddr,
    http: SocketAddr,
}

/// A running control plane. Dropping it kills it.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    work: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    xds: SocketAddr,
    http: SocketAddr,
}

impl ControlPlane {
    /// Begins to describe one; nothing is started yet.
    pub fn spec(work: &Workdir) -> ControlPlaneSpec<'_> {
        ControlPlaneSpec { work, arguments: Vec::new(), variables: Vec::new(), xds: port::free(), http: port::free() }
    }

    /// Where it serves xDS in plaintext.
    pub fn xds_addr(&self) -> SocketAddr {
        self.xds
    }

    /// Where it serves `/ready`, `/metrics` and `/debug`.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The body of a GET of one of its HTTP pages, such as `/debug/syncz`; an error when the status is not 200.
    ///
    /// # Errors
    /// Says what went wrong, for `eventually_ok`.
    pub async fn page(&self, path: &str) -> Result<String, String> {
        client::page(self.http, path).await
    }

    /// Like [`page`](Self::page), as JSON.
    ///
    /// # Errors
    /// Also when the body is not JSON.
    pub async fn json(&self, path: &str) -> Result<serde_json::Value, String> {
        let page = self.page(path).await?;
        serde_json::from_str(&page).map_err(|e| format!("{path} is not JSON: {e}: {page}"))
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, on the same addresses and with the same arguments, and waits until it is ready.
    pub async fn restart(&mut self, work: &Workdir) {
        self.process.kill();
        self.process = launch(work, &self.arguments, &self.variables);
        self.ready().await;
    }

    /// Runs `xebec ARGUMENTS` to its end, in the test's folder.
    pub async fn xebec(&self, arguments: &[&str]) -> process::Output {
        let mut command = process::xebec(arguments);
        command.current_dir(&self.work);
        process::run(command).await
    }

    async fn ready(&mut self) {
        let http = self.http;
        self.process.until(READY, "it is ready", async || client::page(http, "/ready").await.is_ok()).await;
    }
}

// === impl ControlPlaneSpec ===

impl ControlPlaneSpec<'_> {
    /// Adds `--config DIR`; the folder is made when it is missing.
    #[must_use]
    pub fn config(self, folder: &str) -> Self {
        let path = self.work.create_dir(folder).display().to_string();
        self.argument("--config").argument(path)
    }

    /// Adds `--registry file:DIR`; the folder is made when it is missing.
    #[must_use]
    pub fn registry(self, folder: &str) -> Self {
        let path = format!("file:{}", self.work.create_dir(folder).display());
        self.argument("--registry").argument(path)
    }

    /// Adds any other argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Serves xDS at this address instead of a free one, for example where proxies already look for it.
    #[must_use]
    pub fn xds_addr(mut self, address: SocketAddr) -> Self {
        self.xds = address;
        self
    }

    /// Starts it and waits until `/ready` answers 200.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(self) -> ControlPlane {
        let mut arguments = vec!["serve".to_owned()];
        arguments.extend(self.arguments);
        arguments.extend(["--xds-addr".to_owned(), self.xds.to_string()]);
        arguments.extend(["--http-addr".to_owned(), self.http.to_string()]);
        let mut plane = ControlPlane {
            process: launch(self.work, &arguments, &self.variables),
            work: self.work.path().to_owned(),
            arguments,
            variables: self.variables,
            xds: self.xds,
            http: self.http,
        };
        plane.ready().await;
        plane
    }
}

fn launch(work: &Workdir, arguments: &[String], variables: &[(String, String)]) -> Process {
    let mut command = process::xebec(arguments);
    command.envs(variables.iter().map(|(k, v)| (k, v))).current_dir(work.path());
    Process::start(work, "serve", command)
}
