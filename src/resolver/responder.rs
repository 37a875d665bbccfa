//! Requests to the authority that come over NATS: one queue subscription that follows the connection. When
//! the connection is replaced, it is on the new one before it leaves the old one, and what came over the old
//! one is answered there. Knows nothing of what is asked.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::connection::{Link, SystemConnection};
use crate::error::{Error, Result};

/// How many requests wait here at most; behind them the client library keeps 64 Ki of a connection.
const WAITING: usize = 1024;

/// For so long a subscription stays beside the one that follows it: other servers hear of that over their routes.
const OVERLAP: Duration = Duration::from_millis(250);

/// More requests than are on their way to one subscription at a time.
const ON_THEIR_WAY: u64 = 256;

/// For so long as many more requests are waited for; less than the old connection lasts, as a rule.
const COUNTING: Duration = Duration::from_secs(10);

/// One request.
pub struct Request {
    message: Message,
    client: Client,
}

impl Request {
    /// What it asks on.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// What it says.
    pub fn payload(&self) -> &[u8] {
        &self.message.payload
    }

    /// Answers.
    pub async fn answer(&self, text: String) -> Result<()> {
        self.send(None, text).await
    }

    /// Refuses, as NATS services do: code and words are headers. **The body is plain text and never JSON or
    /// empty**: servers send it to whatever reply subject the requester named, JetStream's API included, which
    /// would take an empty body, or an object of which it knows no field, for a request without options.
    pub async fn refuse(&self, code: &str, words: &str) -> Result<()> {
        let words = words.replace(['\r', '\n'], " ");
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", code);
        headers.insert("Nats-Service-Error", words.as_str());
        self.send(Some(headers), format!("{code}: {words}")).await
    }

    async fn send(&self, headers: Option<HeaderMap>, text: String) -> Result<()> {
        // Without a reply subject nobody waits.
        let Some(reply) = self.message.reply.clone() else { return Ok(()) };
        let sent = match headers {
            Some(headers) => self.client.publish_with_headers(reply, headers, Bytes::from(text)).await,
            None => self.client.publish(reply, Bytes::from(text)).await,
        };
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::unavailable("nats-not-sent", "the answer could not be sent").with_source(error)
        };
        sent.map_err(|error| failed(error.into()))?;
        // Of a connection that was replaced we may be the last to hold it, and what is not written then never is.
        self.client.flush().await.map_err(|error| failed(error.into()))
    }
}

/// The requests on `subject` that this member of the group `queue` gets, as long as the receiver is held.
pub fn requests(connection: Arc<SystemConnection>, subject: String, queue: String) -> Requests {
    let (sender, waiting) = mpsc::channel(WAITING);
    let task = tokio::spawn(follow(connection, subject, queue, sender));
    Requests { waiting, _task: AbortOnDropHandle::new(task) }
}

/// See [`requests`].
pub struct Requests {
    waiting: mpsc::Receiver<Request>,
    _task: AbortOnDropHandle<()>,
}

impl Requests {
    /// The next one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Request>> {
        self.waiting.poll_recv(context)
    }
}

async fn follow(connection: Arc<SystemConnection>, subject: String, queue: String, sender: mpsc::Sender<Request>) {
    let mut state = connection.state();
    let (mut served, mut serving) = (0, None);
    loop {
        let link = connection.link().ok().filter(|link| link.generation() != served);
        if let Some(link) = link {
            match subscribe(&link, &subject, &queue).await {
                Ok(subscriber) => {
                    served = link.generation();
                    let told = CancellationToken::new();
                    tokio::spawn(forward(link, subscriber, sender.clone(), told.clone()));
                    // The one before is told when its guard goes, and all are when this task ends.
                    drop(serving.replace(told.drop_guard()));
                }
                Err(error) => {
                    tracing::warn!(%error, cause = error.internal_report(), subject, "no subscription");
                    tokio::time::sleep(super::connection::RETRY).await;
                    continue;
                }
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

async fn subscribe(link: &Link, subject: &str, queue: &str) -> Result<Subscriber> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::unavailable("nats-not-sent", "the subscription could not be made").with_internal(error.to_string())
    };
    let subscriber = link.client().queue_subscribe(subject.to_owned(), queue.to_owned()).await;
    let subscriber = subscriber.map_err(|error| failed(&error))?;
    link.client().flush().await.map_err(|error| failed(&error))?;
    Ok(subscriber)
}

/// Passes requests on until told to leave, and then those that are on their way.
///
/// The client library forgets a subscription at once when it is drained, and drops what servers have sent by then. It and
/// the server agree on the end where they count: after so many more requests. Where fewer come, hardly any is on its way
/// when it is drained in the end.
async fn forward(link: Arc<Link>, mut subscriber: Subscriber, sender: mpsc::Sender<Request>, leave: CancellationToken) {
    let (mut leaving, mut count) = (Leaving::No, 0);
    loop {
        tokio::select! {
            message = subscriber.next() => {
                let Some(message) = message else { return };
                count += 1;
                let request = Request { message, client: link.client().clone() };
                if sender.send(request).await.is_err() {
                    return;
                }
            }
            // Nobody answers any more.
            () = sender.closed() => return,
            () = leaving.over(&leave) => {
                let told = match leaving {
                    Leaving::No => Ok(()),
                    Leaving::Overlapping(_) => subscriber.unsubscribe_after(count + ON_THEIR_WAY).await,
                    Leaving::Counting(_) => subscriber.drain().await,
                    // It ends by itself.
                    Leaving::Drained => return,
                };
                if told.is_err() {
                    return;
                }
                leaving = leaving.next();
            }
        }
    }
}

/// How a subscription is left, step by step.
enum Leaving {
    No,
    /// Until then the servers learn of the one that follows.
    Overlapping(Instant),
    /// Until then as many come as were agreed on.
    Counting(Instant),
    Drained,
}

impl Leaving {
    /// Waits until it is time for the next step.
    async fn over(&self, leave: &CancellationToken) {
        match self {
            Self::No => leave.cancelled().await,
            Self::Overlapping(until) | Self::Counting(until) => tokio::time::sleep_until(*until).await,
            Self::Drained => std::future::pending().await,
        }
    }

    fn next(&self) -> Self {
        match self {
            Self::No => Self::Overlapping(Instant::now() + OVERLAP),
            Self::Overlapping(_) => Self::Counting(Instant::now() + COUNTING),
            Self::Counting(_) | Self::Drained => Self::Drained,
        }
    }
}
