//! What a cluster of machines would do with pods, on this one: each pod is given an address of its own, and the commands of its
//! containers run as processes here. Images are ignored, so that a command must be one that this machine has.
//!
//! Addresses are those of [`netns`](crate::netns): whoever wants to reach the pods is in such a network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{Api, Kube, Process, Workdir};

/// The node that all pods run on.
const NODE: &str = "node-1";
const LOOK: Duration = Duration::from_millis(100);

/// Runs pods. Dropping it ends their processes.
#[derive(Debug)]
pub struct Kubelet {
    task: JoinHandle<()>,
}

/// Pods by their unique ids.
struct Pods {
    api: Api,
    folder: PathBuf,
    running: BTreeMap<String, (String, Vec<Process>)>,
    addresses: u8,
}

// === impl Kubelet ===

impl Kubelet {
    /// Starts to run the pods of this cluster, of all namespaces.
    ///
    /// # Panics
    /// When the node cannot be made.
    pub async fn start(work: &Workdir, kube: &Kube) -> Self {
        kube.put_node(NODE, json!({"topology.kubernetes.io/region": "local", "topology.kubernetes.io/zone": "here"}))
            .await;
        let folder = work.create_dir("pods");
        let mut pods = Pods { api: kube.api().clone(), folder, running: BTreeMap::new(), addresses: 0 };
        let task = tokio::spawn(async move {
            loop {
                // A server that is away now is asked again.
                if let Ok(list) = pods.api.json("GET", "/api/v1/pods", None).await {
                    pods.run(list["items"].as_array().map(Vec::as_slice).unwrap_or_default()).await;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { task }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Pods ===

impl Pods {
    async fn run(&mut self, pods: &[Value]) {
        let there: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
        self.running.retain(|uid, _| there.contains(uid.as_str()));
        for pod in pods {
            let meta = &pod["metadata"];
            let text = |key: &str| meta[key].as_str().unwrap_or_default().to_owned();
            let (name, namespace, uid) = (text("name"), text("namespace"), text("uid"));
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            if !meta["deletionTimestamp"].is_null() {
                self.running.remove(&uid);
                // Whoever changed it meanwhile is followed the next time, here and below.
                let _ = self.api.json("DELETE", &format!("{path}?gracePeriodSeconds=0"), None).await;
            } else if pod["spec"]["nodeName"].is_null() {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
                let _ = self.api.json("POST", &format!("{path}/binding"), Some(&binding)).await;
            } else if !self.running.contains_key(&uid) {
                self.addresses += 1;
                let address = format!("10.244.0.{}", self.addresses);
                let processes = self.start(pod, &address);
                self.running.insert(uid, (address, processes));
            }
            if let Some((address, _)) = self.running.get(meta["uid"].as_str().unwrap_or_default())
                && pod["status"]["podIP"].is_null()
            {
                let yes = json!([{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]);
                let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                    "conditions": yes}});
                let body = Some(("application/merge-patch+json", status.to_string().into_bytes()));
                let _ = self.api.send("PATCH", &format!("{path}/status"), body).await;
            }
        }
    }

    fn start(&self, pod: &Value, address: &str) -> Vec<Process> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let own = self.folder.join(name);
        let _ = std::fs::create_dir_all(&own);
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        containers.filter_map(|container| self.container(container, pod, address, &own)).collect()
    }

    fn container(&self, container: &Value, pod: &Value, address: &str, own: &Path) -> Option<Process> {
        let strings = |key: &str| {
            let all = container[key].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut variables = Vec::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("status.podIP") => address,
                Some("metadata.name") => pod["metadata"]["name"].as_str()?,
                Some("metadata.namespace") => pod["metadata"]["namespace"].as_str()?,
                _ => variable["value"].as_str().unwrap_or_default(),
            };
            variables.push((variable["name"].as_str()?, value));
        }
        let expanded = |word: String| {
            variables.iter().fold(word, |word, (name, value)| word.replace(&format!("$({name})"), value))
        };
        let words: Vec<String> = [strings("command"), strings("args")].concat().into_iter().map(expanded).collect();
        let mut command = Command::new(words.first()?);
        command.args(&words[1..]).current_dir(own).envs(variables);
        let name = format!("pod-{}-{}", pod["metadata"]["name"].as_str()?, container["name"].as_str()?);
        Some(Process::start_in(self.folder.parent()?, &name, command))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{client, eventually, netns};

    const DEPLOYMENT: &str = r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2,
        selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{
        name: web, image: any, command: [python3, -m, http.server], args: ["8080", --bind, "$(POD_IP)"],
        env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}]}}}}"#;

    #[test]
    fn the_pods_of_a_deployment_run_answer_at_their_addresses_and_end_with_it() {
        netns::inside(async || {
            let work = Workdir::new("kubelet");
            let Some(kube) = Kube::start(&work).await else { return };
            let _kubelet = Kubelet::start(&work, &kube).await;
            kube.apply(DEPLOYMENT).await;
            let answers = async |last: u8| client::page(([10, 244, 0, last], 8080).into(), "/").await.is_ok();
            let patience = Duration::from_secs(30);
            eventually(patience, "both pods answer", async || answers(1).await && answers(2).await).await;
            let path = "/apis/apps/v1/namespaces/default/deployments/web";
            eventually(patience, "the deployment is available", async || {
                kube.get(path).await["status"]["availableReplicas"] == 2
            })
            .await;
            kube.merge(path, &json!({"spec": {"replicas": 1}})).await;
            eventually(patience, "one pod is gone", async || answers(1).await != answers(2).await).await;
        });
    }
}
