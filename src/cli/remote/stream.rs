//! `stream`

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
    authority::requests::NewStream,
    cli::output::{fields, table},
    model::{ItemState, Retention, size::format_size, view::StreamView},
};

/// What can be done with further streams.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Add a stream that copies from the event stream; one that is there with the same content is found.
    Add(AddArgs),
    /// List the further streams of an environment.
    List {
        /// Organization.
        org: String,
        /// Environment type.
        env_type: String,
    },
    /// Show a further stream.
    Show(Place),
    /// Remove a further stream with what it has copied; the event stream keeps its messages.
    Remove {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        how: Try,
    },
}

/// A further stream.
#[derive(Debug, Args)]
pub struct Place {
    /// Organization.
    org: String,
    /// Environment type.
    env_type: String,
    /// Name of the stream; in JetStream `ws-<org>-<env>-<name>`.
    name: String,
}

/// What a new stream does.
#[derive(Debug, Args)]
pub struct AddArgs {
    #[command(flatten)]
    place: Place,
    /// Subject that it copies, such as `ws.acme-prod.jobs.>`; may be repeated. Without: all.
    #[arg(long = "filter", value_name = "SUBJECT")]
    filters: Vec<String>,
    /// Its size, each replica, such as 16MiB; it counts against the organization's plan.
    #[arg(long, value_name = "SIZE")]
    max_bytes: String,
    /// How long it keeps a message [default: as long as there is room].
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// How many messages of one subject it keeps [default: as many as there is room for].
    #[arg(long, value_name = "NUMBER")]
    max_messages_per_subject: Option<i64>,
    /// When messages go [default: limits].
    #[arg(long, value_enum)]
    retention: Option<Keep>,
    #[command(flatten)]
    how: Try,
}

/// When messages go.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Keep {
    /// When they are too old or there is no room.
    Limits,
    /// When a consumer has acknowledged them: each is worked on once.
    WorkQueue,
    /// When every consumer has acknowledged them.
    Interest,
}

impl From<Keep> for Retention {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::Limits => Self::Limits,
            Keep::WorkQueue => Self::WorkQueue,
            Keep::Interest => Self::Interest,
        }
    }
}

impl Place {
    fn path(&self) -> [&str; 6] {
        ["orgs", &self.org, "envs", &self.env_type, "streams", &self.name]
    }
}

/// Runs a command.
pub(super) async fn run(command: StreamCommand, client: &Client) -> Outcome<()> {
    match command {
        StreamCommand::Add(args) => {
            let place = args.place;
            let request = NewStream {
                filter_subjects: args.filters,
                max_bytes: args.max_bytes,
                max_age: args.max_age,
                max_messages_per_subject: args.max_messages_per_subject,
                retention: args.retention.map(Into::into),
            };
            let answer = args.how.change(client, Method::PUT, &place.path(), &[], Some(&request)).await?;
            let Some(answer) = answer else { return Ok(()) };
            changed(client, &answer, &place, ItemState::Ready)
        }
        StreamCommand::List { org, env_type } => {
            let answer = client.get(&["orgs", &org, "envs", &env_type, "streams"], &[]).await?;
            client.print(&answer, |list: &List<StreamView>| rows(&list.items))?;
            Ok(())
        }
        StreamCommand::Show(place) => {
            let answer = client.get(&place.path(), &[]).await?;
            client.print(&answer, details)?;
            Ok(())
        }
        StreamCommand::Remove { place, how } => {
            let answer = how.change(client, Method::DELETE, &place.path(), &[], None::<&()>).await?;
            let Some(answer) = answer else { return Ok(()) };
            changed(client, &answer, &place, ItemState::Deleted)
        }
    }
}

fn changed(client: &Client, answer: &Answer, place: &Place, wanted: ItemState) -> Outcome<()> {
    client.print(answer, details)?;
    let view: StreamView = answer.read()?;
    let why = view.error.as_deref().unwrap_or("it is not finished");
    let Place { org, env_type, name } = place;
    client.require_done(view.state == wanted, why, &format!("nats-authority stream show {org} {env_type} {name}"))
}

fn rows(streams: &[StreamView]) -> String {
    let rows = streams.iter().map(|stream| {
        [
            stream.name.clone(),
            stream.state.as_str().to_owned(),
            stream.stream.clone(),
            filters(stream),
            name_of(&stream.retention),
            format_size(stream.max_bytes),
            stream.max_age.clone().unwrap_or_default(),
            stream.error.clone().unwrap_or_default(),
        ]
    });
    table(["NAME", "STATE", "STREAM", "FILTERS", "RETENTION", "SIZE", "MAX AGE", "ERROR"], rows)
}

fn details(stream: &StreamView) -> String {
    fields(&[
        ("name", stream.name.clone()),
        ("state", name_of(&stream.state)),
        ("stream", stream.stream.clone()),
        ("copies from", stream.source.clone()),
        ("filters", filters(stream)),
        ("retention", name_of(&stream.retention)),
        ("size", format_size(stream.max_bytes)),
        ("max age", stream.max_age.clone().unwrap_or_default()),
        ("max messages per subject", stream.max_messages_per_subject.map(|n| n.to_string()).unwrap_or_default()),
        ("error", stream.error.clone().unwrap_or_default()),
    ])
}

fn filters(stream: &StreamView) -> String {
    if stream.filter_subjects.is_empty() { "all".to_owned() } else { stream.filter_subjects.join(", ") }
}
