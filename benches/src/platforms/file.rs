//! Files: an instance moves to another address in a file that is renamed into place. The platform's own notification is what
//! the kernel says to a bare watcher of the folder.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use notify::Watcher as _;
use xebec_testkit::Workdir;

use super::serve::Serve;
use super::trial::{Change, Promise, Trial};
use super::{LIMIT, PAUSE, say};
use crate::cli::Cli;
use crate::client::Fleet;
use crate::estate::{self, Estate};
use crate::moments::Moments;
use crate::report::Row;

const SERVICES: usize = 200;

/// Single changes.
pub async fn changes(cli: &Cli) -> Result<Row> {
    say(&format!("files: {} changes among {SERVICES} services", cli.changes))?;
    let work = Workdir::new("bench-file");
    let estate = Estate::new(SERVICES)?;
    let serve = Serve::start(&cli.xebec, &work, ["--registry", &format!("file:{}", estate.path().display())])?;
    serve.ready(LIMIT).await?;
    let fleet = Fleet::connect(serve.plane.xds, 1);
    fleet.synced(LIMIT).await?;
    serve.rest(LIMIT).await?;

    let moments = Arc::new(Moments::default());
    let noted = Arc::clone(&moments);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let now = Instant::now();
        for path in
            event.iter().flat_map(|event| &event.paths).filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        {
            noted.note(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), now);
        }
    })?;
    watcher.watch(&estate.path().join("services"), notify::RecursiveMode::NonRecursive)?;

    let mut trial = Trial::default();
    fleet.sightings().follow((0..SERVICES).map(estate::host));
    for round in 0..cli.changes {
        let (index, revision) = (round % SERVICES, round + 1);
        moments.forget();
        let began = Instant::now();
        estate.change_endpoint(index, revision)?;
        let moved = format!("10.250.{}.{}:{}", revision / 256 % 256, revision % 256, estate::PORT);
        let arrived =
            fleet.sightings().endpoint(&estate::host(index), &moved, LIMIT).await.with_context(|| work.logs())?;
        let notified = moments.of(&format!("service-{index:05}"), LIMIT).await?;
        trial.push(Change { began, notified, arrived });
        tokio::time::sleep(PAUSE).await;
    }
    Ok(trial.row("file: an instance's address", Promise::Beyond(20.0)))
}
