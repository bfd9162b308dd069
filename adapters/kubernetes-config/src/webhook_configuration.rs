//! The ValidatingWebhookConfiguration, kept by the leader: whom the API server trusts, where it calls, and what it does without an answer.

use base64::Engine as _;
use futures_util::StreamExt;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::access::{explain, status_code};
use crate::certificate::Serving;
use crate::feed::jittered;
use crate::settings::{FailurePolicy, WebhookSettings};

const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

/// Keeps it as it must be while this replica leads.
pub(crate) async fn keep(
    client: Client,
    settings: WebhookSettings,
    mut leads: watch::Receiver<bool>,
    mut serving: watch::Receiver<Option<Serving>>,
) {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration");
    let resource = ApiResource::from_gvk_with_plural(&kind, "validatingwebhookconfigurations");
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let (mut said, mut told) = (String::new(), false);
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() || serving.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let Some(authority) = serving.borrow_and_update().as_ref().map(|serving| serving.authority.clone()) else {
            continue;
        };
        let mut events = watcher::watch_object(api.clone(), &settings.configuration).boxed();
        let problem = loop {
            let found = tokio::select! {
                changed = serving.changed() => if changed.is_err() { return } else { break None },
                changed = leads.changed() => if changed.is_err() { return } else { break None },
                found = events.next() => found,
            };
            match found {
                Some(Ok(Some(object))) => match settle(&api, object, &authority, &settings).await {
                    Ok(()) => {
                        said.clear();
                        if !std::mem::replace(&mut told, true) {
                            tell(&settings);
                        }
                    }
                    // Somebody changed it meanwhile: the next event shows what it is now.
                    Err(error) if matches!(status_code(&error), Some(404 | 409)) => {}
                    Err(error) => break Some(explain(&error)),
                },
                Some(Ok(None)) => break Some("it does not exist; apply install/kubernetes".to_owned()),
                Some(Err(error)) => break Some(error.to_string()),
                None => break None,
            }
        };
        if let Some(text) = problem {
            if text != said {
                tracing::warn!("cannot keep the ValidatingWebhookConfiguration {}: {text}", settings.configuration);
                said = text;
            }
            tokio::time::sleep(jittered(PAUSE)).await;
        }
    }
}

async fn settle(
    api: &Api<DynamicObject>,
    mut object: DynamicObject,
    authority: &[u8],
    settings: &WebhookSettings,
) -> Result<(), kube::Error> {
    if !correct(&mut object.data, authority, settings) {
        return Ok(());
    }
    api.replace(&settings.configuration, &PostParams::default(), &object).await?;
    tracing::info!("corrected the ValidatingWebhookConfiguration {}", settings.configuration);
    Ok(())
}

/// Says what an operator must know: what happens without an answer.
fn tell(settings: &WebhookSettings) {
    let meaning = match settings.failure_policy {
        FailurePolicy::Fail => "while nobody answers, changes of configuration are refused",
        FailurePolicy::Ignore => "while nobody answers, changes are let through unseen",
    };
    let policy = settings.failure_policy.as_str();
    tracing::info!("the webhook {} is in effect, with failurePolicy {policy}: {meaning}", settings.configuration);
}

/// Corrects every webhook of a configuration; whether something had to be changed.
fn correct(data: &mut Value, authority: &[u8], settings: &WebhookSettings) -> bool {
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
    let before = data.clone();
    for webhook in data.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(fields) = webhook.as_object_mut() else { continue };
        fields.insert("failurePolicy".to_owned(), settings.failure_policy.as_str().into());
        let client = fields.entry("clientConfig").or_insert_with(|| json!({}));
        match &settings.url {
            Some(url) => *client = json!({ "url": url, "caBundle": bundle }),
            None => {
                if let Some(client) = client.as_object_mut() {
                    client.insert("caBundle".to_owned(), bundle.clone().into());
                }
            }
        }
    }
    *data != before
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_configuration_is_corrected_once_and_keeps_what_is_not_ours() {
        let settings = WebhookSettings { failure_policy: FailurePolicy::Fail, ..Default::default() };
        let mut data = json!({"webhooks": [{"name": "a", "matchPolicy": "Exact", "failurePolicy": "Ignore",
            "clientConfig": {"service": {"name": "xebec", "namespace": "x"}}}]});
        assert!(correct(&mut data, b"pem", &settings));
        assert_eq!(
            data["webhooks"][0]["clientConfig"],
            json!({"service": {"name": "xebec", "namespace": "x"}, "caBundle": "cGVt"})
        );
        assert_eq!(
            (&data["webhooks"][0]["failurePolicy"], &data["webhooks"][0]["matchPolicy"]),
            (&json!("Fail"), &json!("Exact"))
        );
        assert!(!correct(&mut data, b"pem", &settings));
    }
}
