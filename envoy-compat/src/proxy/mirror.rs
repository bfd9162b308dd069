//! Copies of requests for `request_mirror_policies`.

use super::attempt::Bodies;
use super::h1::{Answer, RequestHead};
use super::live::Live;
use super::pool::Ready;
use super::record::{ActiveRequest, Record};
use crate::model::{Forward, UpstreamProtocol};
use std::future::poll_fn;
use std::time::Duration;

/// Sends copies; nobody waits for their answers.
pub(super) fn mirror(record: &Record, bodies: &Bodies, forward: &Forward, live: &Live) {
    for mirror in &forward.mirrors {
        let worker = record.conn.worker.clone();
        if !mirror.share.takes(worker.random()) || (bodies.upload.is_some() && !bodies.is_complete()) {
            continue;
        }
        let Some(cluster) = live.clusters.get(&mirror.cluster).cloned() else { continue };
        let Some(body) = bodies.copy() else { continue };
        let Ok(host) = cluster.choose(&mut || worker.random(), None, &[], 1, Some(record.conn.facts.destination))
        else {
            continue;
        };
        let method = record.head.method.clone();
        let path: Box<str> = record.path().into();
        let headers = record.head.headers.clone();
        let authority = match record.authority.rsplit_once(':') {
            Some((name, port)) => format!("{name}-shadow:{port}"),
            None => format!("{}-shadow", record.authority),
        };
        let limit = forward.timeout.unwrap_or(Duration::from_secs(15));
        tokio::task::spawn_local(async move {
            if cluster.config.protocol == UpstreamProtocol::Http2 {
                return;
            }
            let pool = worker.pools.of(&host, &cluster.config);
            let _counted = ActiveRequest::uncounted(&cluster, &host, worker.id);
            let send = async {
                let Ok(Ready::H1 { conn, .. }) = pool.h1(&worker, &cluster, false).await else { return };
                let head = RequestHead {
                    method: &method,
                    path: &path,
                    authority: authority.as_bytes(),
                    headers: &headers,
                    upgrade: false,
                    attempt: None,
                };
                let mut exchange = conn.start(&head, body, pool.clone());
                let Ok((head, framing)) = poll_fn(|cx| exchange.poll_head(cx)).await else { return };
                if let Answer::Body(mut body) = exchange.into_answer(head.status, framing) {
                    while let Some(Ok(_)) = poll_fn(|cx| body.poll_frame(cx)).await {}
                }
            };
            // A mirror's failure concerns nobody.
            let _ = tokio::time::timeout(limit, send).await;
        });
    }
}
