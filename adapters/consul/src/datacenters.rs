//! Which datacenters are read.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;
use xebec_adapter_client::{Client, ClientError, json};

use crate::watch::{Message, Origin, Poll, Shared};
use crate::wire::Row;

/// How often it is looked whether there are further datacenters: Consul has no poll for that.
const DATACENTERS: Duration = Duration::from_secs(30);

/// Finds the datacenters that are wanted, and looks for further ones.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut poll = Poll::new(&shared, Origin::Datacenters, "/v1/catalog/datacenters", None);
    let all = shared.settings.datacenters.iter().any(|name| name == "*");
    loop {
        let found = async {
            let own = own_datacenter(&shared.client).await?;
            let mut names = shared.settings.datacenters.clone();
            if all {
                names = json(&shared.client.get("/v1/catalog/datacenters", Duration::ZERO).await?)?;
            }
            Ok::<_, ClientError>((own, names))
        };
        match found.await {
            Err(error) => poll.failed(&error).await,
            Ok((own, names)) => {
                let plain = |name: &String| {
                    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                };
                let list = names
                    .into_iter()
                    .filter(plain)
                    .map(|name| if name == own { None } else { Some(Arc::from(name)) })
                    .collect();
                if shared.out.send(Message::Datacenters(list)).await.is_err() {
                    return;
                }
                poll.fine().await;
                if !all {
                    return;
                }
                sleep(DATACENTERS).await;
            }
        }
    }
}

/// The agent says it where the token may read the agent; otherwise the rows of Consul's own service do.
async fn own_datacenter(client: &Client) -> Result<String, ClientError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        datacenter: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Agent {
        config: Config,
    }
    match client.get("/v1/agent/self", Duration::ZERO).await {
        Ok(answer) => return json::<Agent>(&answer).map(|agent| agent.config.datacenter),
        Err(error) if error.is_permission() => {}
        Err(error) => return Err(error),
    }
    let answer = client.get("/v1/health/service/consul?stale", Duration::ZERO).await?;
    let rows: Vec<Row> = json(&answer)?;
    rows.into_iter().next().map(|row| row.node.datacenter).ok_or_else(|| ClientError::Settings {
        problem: "the agent's own datacenter cannot be told: give the token agent_prefix \"\" read".to_owned(),
    })
}
