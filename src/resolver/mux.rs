//! Many requests in flight over one subscription.
//!
//! Each request has an inbox of its own below one wildcard that is subscribed once for each
//! connection: a subscription for each request would cost a round of interest propagation through the
//! whole cluster, and answers of far servers could be lost before it is known there.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{Client, Message, client::PublishErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Kind, Result};

type Routes = Arc<Mutex<HashMap<u64, UnboundedSender<Message>>>>;

/// The inboxes of one connection.
pub struct Mux {
    prefix: String,
    next: AtomicU64,
    routes: Routes,
    _task: AbortOnDropHandle<()>,
}

impl Mux {
    /// Subscribes to the wildcard.
    pub async fn new(client: &Client) -> Result<Self> {
        let prefix = format!("{}.", client.new_inbox());
        let mut answers = client.subscribe(format!("{prefix}*")).await.map_err(not_sent)?;
        let routes = Routes::default();
        let (table, skip) = (routes.clone(), prefix.len());
        let task = tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(token) = message.subject.get(skip..).and_then(|token| token.parse().ok()) else { continue };
                if let Some(route) = lock(&table).get(&token) {
                    // The listener may have gone in this moment; then nobody wants the answer.
                    let _ = route.send(message);
                }
            }
        });
        Ok(Self { prefix, next: AtomicU64::new(0), routes, _task: AbortOnDropHandle::new(task) })
    }

    /// Opens an inbox.
    pub fn listen(&self) -> Listener {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (route, answers) = unbounded_channel();
        lock(&self.routes).insert(token, route);
        Listener { inbox: format!("{}{token}", self.prefix), token, answers, routes: self.routes.clone() }
    }
}

/// An open inbox; closed when dropped.
pub struct Listener {
    inbox: String,
    token: u64,
    answers: UnboundedReceiver<Message>,
    routes: Routes,
}

impl Listener {
    /// Where answers go.
    pub fn inbox(&self) -> &str {
        &self.inbox
    }

    /// The next answer; none once the connection is closed for good. No answer is lost when
    /// the future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<Message> {
        self.answers.recv().await
    }

    /// Publishes `payload` to `subject`, to be answered here. Without headers and without a trailing
    /// newline: several 2.11 and 2.12 servers cannot parse claims requests that have them.
    pub async fn publish(&self, client: &Client, subject: &str, payload: Bytes) -> Result<()> {
        let sent = client.publish_with_reply(subject.to_owned(), self.inbox.clone(), payload).await;
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Error::new(
                Kind::TooLarge,
                "nats-max-payload",
                format!("longer than the {} bytes that the server takes (max_payload)", client.max_payload()),
            ),
            _ => not_sent(error),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.routes).remove(&self.token);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_sent(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("nats-not-sent", "the request could not be sent to the NATS servers").with_source(error)
}
