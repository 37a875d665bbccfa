//! A real client with issued creds, and what it tries.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::{
    Client as Nats, ConnectOptions, Event,
    jetstream::{self, consumer::pull},
};
use futures::StreamExt;
use tokio::sync::mpsc;

/// How long something that must happen may take, and how long something that must not is waited for.
const MUST: Duration = Duration::from_secs(10);
const MUST_NOT: Duration = Duration::from_secs(2);

pub struct Client {
    nats: Nats,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Client {
    /// Connects with a creds file and the inbox prefix that belongs to it.
    pub async fn connect(url: &str, creds: &str, inbox: &str) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let nats = ConnectOptions::with_credentials(creds)?
            .custom_inbox_prefix(inbox.to_owned())
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    // The demo may have lost interest.
                    let _ = sender.send(event);
                }
            })
            .connect(url)
            .await?;
        Ok(Self { nats, events })
    }

    fn context(&self, timeout: Duration) -> jetstream::Context {
        let mut context = jetstream::new(self.nats.clone());
        context.set_timeout(timeout);
        context
    }

    pub fn is_connected(&self) -> bool {
        self.nats.connection_state() == async_nats::connection::State::Connected
    }

    pub async fn publish(&mut self, subject: &str) -> Result<()> {
        self.try_publish(subject, MUST).await
    }

    /// JetStream elects leaders again after a server was lost.
    pub async fn publish_patiently(&mut self, subject: &str) -> Result<()> {
        let end = tokio::time::Instant::now() + 3 * MUST;
        while tokio::time::Instant::now() < end {
            if self.try_publish(subject, MUST_NOT).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.publish(subject).await
    }

    async fn try_publish(&self, subject: &str, timeout: Duration) -> Result<()> {
        let ack = self.context(timeout).publish(subject.to_owned(), "hello".into()).await?;
        tokio::time::timeout(timeout, ack).await.context("no ack")??;
        Ok(())
    }

    pub async fn consume(&mut self, stream: &str, durable: &str) -> Result<()> {
        let context = self.context(MUST);
        let config = pull::Config { durable_name: Some(durable.to_owned()), ..pull::Config::default() };
        let consumer = context.create_consumer_on_stream(config, stream).await?;
        let mut messages = consumer.fetch().max_messages(1).expires(MUST).messages().await?;
        let message = messages.next().await.context("no message")?.map_err(|error| anyhow::anyhow!(error))?;
        message.double_ack().await.map_err(|error| anyhow::anyhow!(error))?;
        Ok(())
    }

    pub async fn key_value(&mut self, bucket: &str) -> Result<()> {
        let store = self.context(MUST).get_key_value(bucket).await?;
        let mut watch = store.watch("pod/web").await?;
        store.put("pod/web", "running".into()).await?;
        ensure!(store.get("pod/web").await?.as_deref() == Some(b"running"), "get gave something else");
        let entry = tokio::time::timeout(MUST, watch.next()).await?.context("the watch ended")??;
        ensure!(&*entry.value == b"running", "the watch gave something else");
        Ok(())
    }

    pub async fn refused_publish(&mut self, subject: &str) -> Result<()> {
        self.forget_events();
        ensure!(self.try_publish(subject, MUST_NOT).await.is_err(), "it was let through");
        self.violation(subject).await
    }

    pub async fn refused_consume(&mut self, stream: &str) -> Result<()> {
        self.forget_events();
        let config = pull::Config { durable_name: Some("stolen".to_owned()), ..pull::Config::default() };
        ensure!(self.context(MUST_NOT).create_consumer_on_stream(config, stream).await.is_err(), "it was let through");
        self.violation(stream).await
    }

    pub async fn refused_key_value(&mut self, bucket: &str) -> Result<()> {
        self.forget_events();
        ensure!(self.context(MUST_NOT).get_key_value(bucket).await.is_err(), "it was let through");
        self.nats.publish(format!("$KV.{bucket}.pod/web"), "stolen".into()).await?;
        self.nats.flush().await?;
        self.violation(&format!("$KV.{bucket}")).await
    }

    pub async fn refused_subscribe(&mut self, subject: &str) -> Result<()> {
        self.forget_events();
        let _subscription = self.nats.subscribe(subject.to_owned()).await?;
        self.nats.flush().await?;
        self.violation(subject).await
    }

    /// The server said that it refused `what`.
    async fn violation(&mut self, what: &str) -> Result<()> {
        let said = async {
            while let Some(event) = self.events.recv().await {
                if let Event::ServerError(error) = event {
                    let words = error.to_string();
                    if words.to_lowercase().contains("permissions violation") && words.contains(what) {
                        return Ok(());
                    }
                }
            }
            bail!("the client ended")
        };
        tokio::time::timeout(MUST, said).await.context("the server did not say that it refused it")?
    }

    /// Waits until the server closes the connection.
    pub async fn closed(&mut self) -> Result<()> {
        let closed = async {
            while let Some(event) = self.events.recv().await {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    return;
                }
            }
        };
        tokio::time::timeout(MUST, closed).await.context("the client was not closed")
    }

    fn forget_events(&mut self) {
        while self.events.try_recv().is_ok() {}
    }
}
