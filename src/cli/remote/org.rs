//! `org`

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Outcome,
    client::{Answer, Client, note_more},
    preview::Try,
};
use crate::{
    api::page::List,
    authority::requests::{ChangeOrganization, NewOrganization, Reason},
    cli::output::{fields, table, time},
    error::{Error, Result},
    model::view::{OrganizationView, ResolverView},
};

/// What can be done with organizations.
#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// Onboard an organization; one that is there with the same content is found.
    Create {
        /// Its slug, which cannot be changed later.
        slug: String,
        /// Its name for people.
        #[arg(long)]
        display_name: Option<String>,
        /// Its plan.
        #[arg(long)]
        plan: Option<String>,
        /// An environment type; may be repeated.
        #[arg(long = "env", value_name = "ENV_TYPE", value_delimiter = ',')]
        environments: Vec<String>,
        #[command(flatten)]
        how: Try,
    },
    /// List organizations.
    List {
        /// Only those in this state.
        #[arg(long, value_parser = ["active", "suspended", "deleting", "deleted"])]
        state: Option<String>,
        /// Only those on this plan.
        #[arg(long)]
        plan: Option<String>,
        /// How many at most.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on behind this one.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show an organization and what every server has of it.
    Show {
        /// Its slug.
        slug: String,
    },
    /// Change an organization.
    Update {
        /// Its slug.
        slug: String,
        /// Its name for people.
        #[arg(long)]
        display_name: Option<String>,
        /// Its plan.
        #[arg(long)]
        plan: Option<String>,
        /// A limit over the plan's, such as `conn=500` or `tieredLimits.R3.diskStorage=20GiB`; may be
        /// repeated. Together they replace all earlier ones.
        #[arg(long = "set-limit", value_name = "NAME=VALUE", conflicts_with = "clear_limits")]
        limits: Vec<String>,
        /// Go back to the plan's limits.
        #[arg(long)]
        clear_limits: bool,
        /// Whether credentials of roles that reach the whole organization may be issued from now on.
        #[arg(long, value_name = "WHETHER", value_parser = ["allow", "forbid"])]
        organization_reach: Option<String>,
        #[command(flatten)]
        how: Try,
    },
    /// Close every connection of an organization; its data stays.
    Suspend {
        /// Its slug.
        slug: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        how: Try,
    },
    /// Undo a suspension.
    Resume {
        /// Its slug.
        slug: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        how: Try,
    },
    /// Delete an organization. That cannot be undone.
    Delete {
        /// Its slug.
        slug: String,
        /// Also free its JetStream data.
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        how: Try,
    },
}

/// Runs a command.
pub(super) async fn run(command: OrgCommand, client: &Client) -> Outcome<()> {
    match command {
        OrgCommand::Create { slug, display_name, plan, environments, how } => {
            let body = NewOrganization { slug, display_name, plan, environments };
            let Some(mut answer) = how.change(client, Method::POST, &["orgs"], &[], Some(&body)).await? else {
                return Ok(());
            };
            if client.waits() {
                // The service answers when the servers have the account; that stream and bucket are
                // made is what finding each environment again waits for.
                for env_type in &body.environments {
                    let path = ["orgs", &body.slug, "envs", env_type];
                    client.change(Method::PUT, &path, &[], None::<&()>).await?;
                }
                answer = client.get(&["orgs", &body.slug], &[]).await?;
            }
            changed(client, &answer, true)
        }
        OrgCommand::List { state, plan, limit, cursor } => {
            let query = [("state", state), ("plan", plan), ("limit", limit.map(|n| n.to_string())), ("cursor", cursor)];
            let answer = client.get(&["orgs"], &query).await?;
            client.print(&answer, list)?;
            Ok(())
        }
        OrgCommand::Show { slug } => {
            let answer = client.get(&["orgs", &slug], &[]).await?;
            client.print(&answer, details)?;
            Ok(())
        }
        OrgCommand::Update { slug, display_name, plan, limits, clear_limits, organization_reach, how } => {
            let limits = if clear_limits || !limits.is_empty() { Some(parse_limits(&limits)?) } else { None };
            let allow_organization_reach = organization_reach.map(|whether| whether == "allow");
            let body = ChangeOrganization { display_name, plan, limits, allow_organization_reach };
            let answer = how.change(client, Method::PATCH, &["orgs", &slug], &[], Some(&body)).await?;
            answer.map_or(Ok(()), |answer| changed(client, &answer, false))
        }
        OrgCommand::Suspend { slug, reason, how } => {
            let body = Reason { reason };
            let answer = how.change(client, Method::POST, &["orgs", &slug, "suspend"], &[], Some(&body)).await?;
            answer.map_or(Ok(()), |answer| changed(client, &answer, false))
        }
        OrgCommand::Resume { slug, reason, how } => {
            let body = Reason { reason };
            let answer = how.change(client, Method::POST, &["orgs", &slug, "resume"], &[], Some(&body)).await?;
            answer.map_or(Ok(()), |answer| changed(client, &answer, false))
        }
        OrgCommand::Delete { slug, purge, how } => {
            let query = [("purge", purge.then(|| "true".to_owned()))];
            let answer = how.change(client, Method::DELETE, &["orgs", &slug], &query, None::<&()>).await?;
            answer.map_or(Ok(()), |answer| changed(client, &answer, false))
        }
    }
}

fn changed(client: &Client, answer: &Answer, environments: bool) -> Outcome<()> {
    client.print(answer, details)?;
    let view: OrganizationView = answer.read()?;
    client.require(view.settled(environments), &view.resolver, &format!("nats-authority org show {}", view.slug))
}

/// `conn=500` and `tieredLimits.R3.diskStorage=20GiB` as the object that the API takes.
fn parse_limits(texts: &[String]) -> Result<Value> {
    let mut limits = Map::new();
    for text in texts {
        let usage = || Error::invalid("invalid-limit", format!("'{text}' is not NAME=VALUE, such as conn=500"));
        let (name, value) = text.split_once('=').ok_or_else(usage)?;
        // Numbers, true and false as such; sizes and `unlimited` are texts.
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        let mut object = &mut limits;
        let mut steps = name.split('.').peekable();
        while let Some(step) = steps.next() {
            if steps.peek().is_none() {
                object.insert(step.to_owned(), value);
                break;
            }
            object = object.entry(step).or_insert_with(|| json!({})).as_object_mut().ok_or_else(usage)?;
        }
    }
    Ok(Value::Object(limits))
}

fn list(list: &List<OrganizationView>) -> String {
    note_more(list.next_cursor.as_deref());
    let rows = list.items.iter().map(|org| {
        let environments: Vec<_> = org.environments.iter().map(|env| env.env_type.as_str()).collect();
        [
            org.slug.clone(),
            org.state.as_str().to_owned(),
            org.plan.clone(),
            environments.join(","),
            name_of(&org.resolver.state),
            org.account_id.clone(),
        ]
    });
    table(["SLUG", "STATE", "PLAN", "ENVIRONMENTS", "RESOLVER", "ACCOUNT"], rows)
}

fn details(org: &OrganizationView) -> String {
    let limits = if org.limits.as_object().is_some_and(|limits| !limits.is_empty()) {
        org.limits.to_string()
    } else {
        String::new()
    };
    let mut text = fields(&[
        ("slug", org.slug.clone()),
        ("name", org.display_name.clone()),
        ("state", org.state.as_str().to_owned()),
        ("plan", org.plan.clone()),
        ("limits", limits),
        (
            "organization reach",
            if org.allow_organization_reach { "as the plan allows" } else { "forbidden" }.to_owned(),
        ),
        ("account", org.account_id.clone()),
        ("resolver", format!("{}, generation {}", name_of(&org.resolver.state), org.resolver.generation)),
        ("created", time(org.created_at)),
        ("updated", time(org.updated_at)),
    ]);
    if !org.environments.is_empty() {
        text.push('\n');
        text.push_str(&super::env::rows(&org.environments));
        text.push('\n');
    }
    text + &servers(&org.resolver)
}

/// What each server has.
pub(super) fn servers(resolver: &ResolverView) -> String {
    if resolver.servers.is_empty() {
        return String::new();
    }
    let rows = resolver.servers.iter().map(|server| {
        [
            server.name.clone(),
            if server.live { "live" } else { "gone" }.to_owned(),
            server.stored.to_string(),
            server.effective.map_or_else(|| "not loaded".to_owned(), |generation| generation.to_string()),
            server.error.clone().unwrap_or_default(),
        ]
    });
    format!("\n{}", table(["SERVER", "STATE", "STORED", "RUNS", "ERROR"], rows))
}

/// The name of a state on the wire.
pub(super) fn name_of(state: &impl serde::Serialize) -> String {
    serde_json::to_value(state).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let parse = |texts: &[&str]| parse_limits(&texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            parse(&["conn=500", "wildcards=false", "payload=1MiB"]).unwrap(),
            json!({"conn": 500, "wildcards": false, "payload": "1MiB"})
        );
        let tiers = parse(&["tieredLimits.R3.streams=4", "tieredLimits.R3.diskStorage=20GiB"]).unwrap();
        assert_eq!(tiers, json!({"tieredLimits": {"R3": {"streams": 4, "diskStorage": "20GiB"}}}));
        assert!(parse(&["conn"]).is_err());
        assert!(parse(&["conn=1", "conn.x=2"]).is_err());
    }
}
