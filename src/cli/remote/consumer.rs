//! `consumer`

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;

use super::{
    Outcome,
    client::{Answer, Client},
    org::name_of,
    preview::Try,
};
use crate::{
    api::page::List,
    authority::requests::NewConsumer,
    cli::output::{fields, table},
    model::{DeliverPolicy, ItemState, view::ConsumerView},
};

/// What can be done with consumers.
#[derive(Debug, Subcommand)]
pub enum ConsumerCommand {
    /// Add a durable pull consumer; one that is there with the same content is found.
    Add(AddArgs),
    /// List the consumers of an environment.
    List {
        /// Organization.
        org: String,
        /// Environment type.
        env_type: String,
    },
    /// Show a consumer.
    Show(Place),
    /// Remove a consumer. How far it has read is forgotten; the messages stay.
    Remove {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        how: Try,
    },
}

/// A consumer.
#[derive(Debug, Args)]
pub struct Place {
    /// Organization.
    org: String,
    /// Environment type.
    env_type: String,
    /// Name of the consumer.
    name: String,
}

/// What a new consumer does.
#[derive(Debug, Args)]
pub struct AddArgs {
    #[command(flatten)]
    place: Place,
    /// Further stream that it reads [default: the event stream].
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Subject that it delivers, such as `ws.acme-prod.orders.>`; may be repeated. Without: all.
    #[arg(long = "filter", value_name = "SUBJECT")]
    filters: Vec<String>,
    /// How long it waits for an acknowledgement before it delivers again [default: 30s].
    #[arg(long, value_name = "DURATION")]
    ack_wait: Option<String>,
    /// How often it delivers a message [default: until it is acknowledged].
    #[arg(long, value_name = "NUMBER")]
    max_deliver: Option<i64>,
    /// How many messages may be unacknowledged [default: 1000].
    #[arg(long, value_name = "NUMBER")]
    max_ack_pending: Option<i64>,
    /// Where it begins [default: all].
    #[arg(long, value_enum)]
    deliver: Option<Deliver>,
    #[command(flatten)]
    how: Try,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Deliver {
    /// With the first message that the stream has.
    All,
    /// With messages that come after it was made.
    New,
    /// With the last message that the stream has.
    Last,
}

impl From<Deliver> for DeliverPolicy {
    fn from(deliver: Deliver) -> Self {
        match deliver {
            Deliver::All => Self::All,
            Deliver::New => Self::New,
            Deliver::Last => Self::Last,
        }
    }
}

impl Place {
    fn path(&self) -> [&str; 6] {
        ["orgs", &self.org, "envs", &self.env_type, "consumers", &self.name]
    }
}

/// Runs a command.
pub(super) async fn run(command: ConsumerCommand, client: &Client) -> Outcome<()> {
    match command {
        ConsumerCommand::Add(args) => {
            let place = args.place;
            let request = NewConsumer {
                stream: args.stream,
                filter_subjects: args.filters,
                ack_wait: args.ack_wait,
                max_deliver: args.max_deliver,
                max_ack_pending: args.max_ack_pending,
                deliver_policy: args.deliver.map(Into::into),
            };
            let answer = args.how.change(client, Method::PUT, &place.path(), &[], Some(&request)).await?;
            let Some(answer) = answer else { return Ok(()) };
            changed(client, &answer, &place, ItemState::Ready)
        }
        ConsumerCommand::List { org, env_type } => {
            let answer = client.get(&["orgs", &org, "envs", &env_type, "consumers"], &[]).await?;
            client.print(&answer, |list: &List<ConsumerView>| rows(&list.items))?;
            Ok(())
        }
        ConsumerCommand::Show(place) => {
            let answer = client.get(&place.path(), &[]).await?;
            client.print(&answer, details)?;
            Ok(())
        }
        ConsumerCommand::Remove { place, how } => {
            let answer = how.change(client, Method::DELETE, &place.path(), &[], None::<&()>).await?;
            let Some(answer) = answer else { return Ok(()) };
            changed(client, &answer, &place, ItemState::Deleted)
        }
    }
}

fn changed(client: &Client, answer: &Answer, place: &Place, wanted: ItemState) -> Outcome<()> {
    client.print(answer, details)?;
    let view: ConsumerView = answer.read()?;
    let why = view.error.as_deref().unwrap_or("it is not finished");
    let Place { org, env_type, name } = place;
    client.require_done(view.state == wanted, why, &format!("nats-authority consumer show {org} {env_type} {name}"))
}

fn rows(consumers: &[ConsumerView]) -> String {
    let rows = consumers.iter().map(|consumer| {
        [
            consumer.name.clone(),
            consumer.state.as_str().to_owned(),
            consumer.stream.clone(),
            filters(consumer),
            name_of(&consumer.deliver_policy),
            consumer.ack_wait.clone(),
            max_deliver(consumer),
            consumer.max_ack_pending.to_string(),
            consumer.error.clone().unwrap_or_default(),
        ]
    });
    table(
        ["CONSUMER", "STATE", "STREAM", "FILTERS", "DELIVER", "ACK WAIT", "MAX DELIVER", "MAX PENDING", "ERROR"],
        rows,
    )
}

fn details(consumer: &ConsumerView) -> String {
    fields(&[
        ("consumer", consumer.name.clone()),
        ("state", name_of(&consumer.state)),
        ("stream", consumer.stream.clone()),
        ("filters", filters(consumer)),
        ("deliver", name_of(&consumer.deliver_policy)),
        ("ack wait", consumer.ack_wait.clone()),
        ("max deliver", max_deliver(consumer)),
        ("max ack pending", consumer.max_ack_pending.to_string()),
        ("error", consumer.error.clone().unwrap_or_default()),
    ])
}

fn filters(consumer: &ConsumerView) -> String {
    if consumer.filter_subjects.is_empty() { "all".to_owned() } else { consumer.filter_subjects.join(", ") }
}

fn max_deliver(consumer: &ConsumerView) -> String {
    consumer.max_deliver.map_or_else(|| "unlimited".to_owned(), |count| count.to_string())
}
