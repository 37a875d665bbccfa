//! Tries the cells with async-nats, as `tests/interop/roles.{py,mjs}` do with their clients.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        self, Context, Message,
        consumer::{PullConsumer, pull},
    },
};
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::mpsc;

use super::matrix::Cell;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What is refused is told at once: nothing here waits for this time to pass.
const TIMEOUT: Duration = Duration::from_secs(20);

pub struct Runner {
    client: Client,
    context: Context,
    violations: mpsc::UnboundedReceiver<String>,
    sentinels: u32,
    pulled: HashMap<String, Message>,
}

/// Results by the id of the cell: `yes`, `no`, or what else happened.
pub async fn run(url: &str, creds: &str, inbox: &str, cells: &[Cell]) -> BTreeMap<String, String> {
    let (told, violations) = mpsc::unbounded_channel();
    let client = ConnectOptions::with_credentials(creds)
        .unwrap()
        .custom_inbox_prefix(inbox)
        .request_timeout(Some(TIMEOUT))
        .event_callback(move |event| {
            let told = told.clone();
            async move {
                if let Event::ServerError(error) = event {
                    let _ = told.send(error.to_string());
                }
            }
        })
        .connect(url)
        .await
        .unwrap();
    let mut context = jetstream::new(client.clone());
    context.set_timeout(TIMEOUT);
    let mut runner = Runner { client, context, violations, sentinels: 0, pulled: HashMap::new() };
    let mut results = BTreeMap::new();
    for cell in cells {
        results.insert(cell.id.clone(), runner.attempt(cell).await);
    }
    results
}

impl Runner {
    async fn attempt(&mut self, cell: &Cell) -> String {
        let doing = does(&self.client, &self.context, &mut self.pulled, cell);
        // What was refused may never end.
        let (outcome, mut told) = tokio::select! {
            outcome = doing => (Some(outcome), Vec::new()),
            refused = self.violations.recv() => (None, vec![refused.unwrap()]),
        };
        told.extend(self.told().await);
        let plain = matches!(cell.does.as_str(), "publish" | "subscribe");
        match outcome {
            Some(Ok(())) if !plain || told.is_empty() => "yes".to_owned(),
            Some(Err(error)) if told.is_empty() => format!("failed: {error}"),
            _ => "no".to_owned(),
        }
    }

    /// What the server has refused up to now: it answers in order, and refuses this as well.
    async fn told(&mut self) -> Vec<String> {
        self.sentinels += 1;
        let sentinel = format!("sentinel.{}", self.sentinels);
        self.client.publish(sentinel.clone(), "".into()).await.unwrap();
        let mut told = Vec::new();
        loop {
            let text = self.violations.recv().await.unwrap();
            if text.contains(&format!("\"{sentinel}\"")) {
                return told;
            }
            told.push(text);
        }
    }
}

async fn does(client: &Client, context: &Context, pulled: &mut HashMap<String, Message>, cell: &Cell) -> Outcome {
    let Cell { env, stream, bucket, run, subject, body, .. } = cell;
    let seed = format!("ws.{env}.seed");
    match cell.does.as_str() {
        "request" => {
            let answer = client.request(subject.clone(), body.clone().into()).await?;
            match serde_json::from_slice::<Value>(&answer.payload) {
                Ok(answer) if answer.get("error").is_some() => return Err(answer.to_string().into()),
                _ => {}
            }
        }
        "publish" => {
            if let Some(before) = &cell.before {
                client.request(before.subject.clone(), before.body.clone().into()).await?;
            }
            match cell.reply.as_str() {
                "" => client.publish(subject.clone(), body.clone().into()).await?,
                reply => client.publish_with_reply(subject.clone(), reply.to_owned(), body.clone().into()).await?,
            }
            client.flush().await?;
        }
        "subscribe" => {
            let mut subscription = client.subscribe(subject.clone()).await?;
            client.flush().await?;
            subscription.unsubscribe().await?;
        }
        "publish-acknowledged" => {
            let ack = context.publish(format!("ws.{env}.rust"), "x".into()).await?.await?;
            assert_eq!(ack.stream, *stream);
        }
        "consumer-info" => drop(context.get_consumer_from_stream::<pull::Config, _, _>("work", stream).await?),
        "pull" => {
            let stream = context.get_stream_no_info(stream).await?;
            // Asks for its information first, as every user of this library does.
            let consumer: PullConsumer = stream.get_consumer("work").await?;
            let mut messages = consumer.fetch().max_messages(1).expires(TIMEOUT).messages().await?;
            pulled.insert(env.clone(), messages.next().await.ok_or("no message")??);
        }
        "acknowledge" => match pulled.get(env) {
            Some(message) => message.double_ack().await?,
            None => drop(client.request(format!("$JS.ACK.{stream}.work.1.1.1.1.0"), "+ACK".into()).await?),
        },
        "ordered-consumer" => {
            let config = pull::OrderedConfig { filter_subject: seed, ..pull::OrderedConfig::default() };
            let consumer = context.get_stream(stream).await?.create_consumer(config).await?;
            consumer.messages().await?.next().await.ok_or("no message")??;
        }
        "direct-get" => {
            let stream = context.get_stream_no_info(stream).await?;
            assert_eq!(&stream.direct_get_last_for_subject(seed).await?.payload[..], b"seed");
        }
        "get" => {
            let stream = context.get_stream_no_info(stream).await?;
            assert_eq!(&stream.get_last_raw_message_by_subject(&seed).await?.payload[..], b"seed");
        }
        "stream-info" => drop(context.get_stream(stream).await?),
        "kv-get" => {
            let value = context.get_key_value(bucket).await?.get("seed").await?;
            assert_eq!(value.as_deref(), Some(&b"seed"[..]));
        }
        // Not by opening the bucket: a refusal to open it would hide whether writing is refused.
        "kv-put" => drop(context.publish(format!("$KV.{bucket}.by-{run}"), "x".into()).await?.await?),
        "kv-watch" => {
            let mut watch = context.get_key_value(bucket).await?.watch_with_history("seed").await?;
            assert_eq!(&watch.next().await.ok_or("no entry")??.value[..], b"seed");
        }
        "consumer-create" => {
            let config = pull::Config { durable_name: Some(format!("try-{run}")), ..pull::Config::default() };
            context.create_consumer_on_stream(config, stream).await?;
        }
        "consumer-delete" => {
            context.delete_consumer_from_stream(&format!("try-{run}"), stream).await?;
        }
        "account-info" => drop(context.query_account().await?),
        other => panic!("matrix.toml names '{other}', which is not known here"),
    }
    Ok(())
}
