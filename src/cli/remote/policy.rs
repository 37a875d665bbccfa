//! `plan`, `role` and `can-i`

use clap::{Args, Subcommand};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Outcome, client::Client, org::name_of};
use crate::{
    api::{
        page::List,
        policies::{JetStreamView, PlanView, PoliciesView, RoleView},
    },
    authority::requests::{CanI, Verdict},
    cli::output::{OutputFormat, fields, print, table},
    error::{Error, Result},
    model::size::format_size,
};

/// What can be done with plans.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// List the plans.
    List,
    /// Which files of plans and roles are in force, and whether every account follows them.
    Status,
    /// What files of plans and roles would do to all organizations if they were put in force: exit code 1 when they would
    /// be refused or an organization could not follow. JSON is one page a line.
    Diff(super::policy_diff::DiffArgs),
    /// Show a plan.
    Show {
        /// Its name.
        name: String,
    },
}

/// What can be done with roles.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// List the roles.
    List,
    /// Show a role and what it may do.
    Show {
        /// Its name.
        name: String,
    },
}

/// The question.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("who").required(true).args(["role", "credential"])))]
#[command(group(clap::ArgGroup::new("what").required(true).args(["publish", "subscribe"])))]
pub struct CanIArgs {
    /// Organization.
    org: String,
    /// Environment type.
    env_type: String,
    /// A role.
    #[arg(long)]
    role: Option<String>,
    /// A credential's id.
    #[arg(long, value_name = "ID")]
    credential: Option<Uuid>,
    /// A subject to publish to.
    #[arg(long, value_name = "SUBJECT")]
    publish: Option<String>,
    /// A subject to subscribe to.
    #[arg(long, value_name = "SUBJECT")]
    subscribe: Option<String>,
}

/// Runs a command about plans; the answer is the exit code.
pub(super) async fn plan(command: PlanCommand, client: &Client) -> Outcome<u8> {
    match command {
        PlanCommand::Diff(args) => return super::policy_diff::run(args, client).await,
        PlanCommand::Status => client.print(&client.get(&["policies"], &[]).await?, status)?,
        PlanCommand::List => client.print(&client.get(&["plans"], &[]).await?, plans)?,
        PlanCommand::Show { name } => {
            let plans: List<PlanView> = client.get(&["plans"], &[]).await?.read()?;
            show(client, plans.items.iter().find(|plan| plan.name == name), &name, plan_details)?;
        }
    }
    Ok(0)
}

/// Runs a command about roles.
pub(super) async fn role(command: RoleCommand, client: &Client) -> Outcome<()> {
    let answer = client.get(&["roles"], &[]).await?;
    match command {
        RoleCommand::List => client.print(&answer, roles)?,
        RoleCommand::Show { name } => {
            let roles: List<RoleView> = answer.read()?;
            show(client, roles.items.iter().find(|role| role.name == name), &name, role_details)?;
        }
    }
    Ok(())
}

/// Asks; the exit code is 1 if it is not allowed.
pub(super) async fn can_i(args: CanIArgs, client: &Client) -> Outcome<u8> {
    let CanIArgs { org, env_type, role, credential, publish, subscribe } = args;
    let answer = client.post(&["can-i"], &CanI { org, env_type, role, credential, publish, subscribe }).await?;
    client.print(&answer, |verdict: &Verdict| {
        format!("{}: {}", if verdict.allowed { "yes" } else { "no" }, verdict.rule)
    })?;
    let verdict: Verdict = answer.read()?;
    Ok(u8::from(!verdict.allowed))
}

fn show<T: Serialize + DeserializeOwned>(
    client: &Client,
    item: Option<&T>,
    name: &str,
    details: impl FnOnce(&T) -> String,
) -> Result<()> {
    let item =
        item.ok_or_else(|| Error::not_found("no-policy", format!("there is none called '{name}'; list them")))?;
    match client.format {
        OutputFormat::Json => {
            print(&serde_json::to_string(item).map_err(|error| Error::internal("policy").with_source(error))?)
        }
        OutputFormat::Table => print(&details(item)),
    }
}

fn status(policies: &PoliciesView) -> String {
    let mut text = fields(&[
        ("fingerprint", policies.fingerprint.clone()),
        ("in force", if policies.in_force { "yes" } else { "no, another replica has loaded others" }.to_owned()),
        ("refused", policies.refused.clone().unwrap_or_default()),
        ("outdated accounts", policies.outdated_accounts.to_string()),
    ]);
    if !policies.held_up.is_empty() {
        let rows = policies.held_up.iter().map(|held_up| [held_up.org.clone(), held_up.reason.clone()]);
        text = text + "\n" + &table(["HELD UP", "REASON"], rows);
    }
    text
}

/// A number that is not a size; -1 is unlimited.
fn amount(number: i64) -> String {
    if number < 0 { "unlimited".to_owned() } else { number.to_string() }
}

fn plans(list: &List<PlanView>) -> String {
    let rows = list.items.iter().map(|plan| {
        [
            plan.name.clone(),
            amount(plan.limits.conn),
            format_size(plan.limits.payload),
            format_size(plan.promise.memory),
            format_size(plan.promise.disk),
            plan.description.clone(),
        ]
    });
    table(["PLAN", "CONNECTIONS", "MESSAGE", "RESERVED MEMORY", "RESERVED DISK", "DESCRIPTION"], rows)
}

fn plan_details(plan: &PlanView) -> String {
    let limits = &plan.limits;
    let mut text = fields(&[
        ("plan", plan.name.clone()),
        ("description", plan.description.clone()),
        ("organization reach", if plan.organization_reach { "allowed" } else { "forbidden" }.to_owned()),
        ("connections", amount(limits.conn)),
        ("leaf nodes", amount(limits.leaf)),
        ("subscriptions", amount(limits.subs)),
        ("message", format_size(limits.payload)),
        ("imports", amount(limits.imports)),
        ("exports", amount(limits.exports)),
        ("event stream", format_size(plan.environment.event_stream_max_bytes)),
        ("bucket", format_size(plan.environment.kv_bucket_max_bytes)),
        ("reserved memory", format_size(plan.promise.memory)),
        ("reserved disk", format_size(plan.promise.disk)),
    ]);
    let flat = limits.jetstream.iter().map(|jetstream| ("all", jetstream));
    let tiers = limits.tiered_limits.iter().map(|(tier, jetstream)| (tier.as_str(), jetstream));
    let rows = flat.chain(tiers).map(|(tier, jetstream): (&str, &JetStreamView)| {
        [
            tier.to_owned(),
            format_size(jetstream.mem_storage),
            format_size(jetstream.disk_storage),
            amount(jetstream.streams),
            amount(jetstream.consumers),
        ]
    });
    text.push('\n');
    text + &table(["TIER", "MEMORY", "DISK", "STREAMS", "CONSUMERS"], rows)
}

fn roles(list: &List<RoleView>) -> String {
    let rows = list.items.iter().map(|role| {
        [
            role.name.clone(),
            name_of(&role.reach),
            role.default_ttl.clone(),
            role.max_ttl.clone(),
            role.env_types.as_ref().map_or_else(|| "all".to_owned(), |types| types.join(",")),
            role.description.clone(),
        ]
    });
    table(["ROLE", "REACH", "TTL", "MAX TTL", "ENVIRONMENTS", "DESCRIPTION"], rows)
}

fn role_details(role: &RoleView) -> String {
    let permissions = &role.example.permissions;
    let mut text = fields(&[
        ("role", role.name.clone()),
        ("description", role.description.clone()),
        ("reach", name_of(&role.reach)),
        ("ttl", role.default_ttl.clone()),
        ("max ttl", role.max_ttl.clone()),
        ("renewable for", role.renewable_for.clone().unwrap_or_default()),
        ("environments", role.env_types.as_ref().map_or_else(|| "all".to_owned(), |types| types.join(", "))),
        ("example", role.example.environment.clone()),
    ]);
    let rows = [("publish", &permissions.publish), ("subscribe", &permissions.subscribe)].into_iter().flat_map(
        |(verb, part)| {
            let row = move |rule: &str, subject: &String| [rule.to_owned(), verb.to_owned(), subject.clone()];
            let allow = part.allow.iter().map(move |subject| row("allow", subject));
            allow.chain(part.deny.iter().map(move |subject| row("deny", subject)))
        },
    );
    text.push('\n');
    text + &table(["RULE", "DIRECTION", "SUBJECT"], rows)
}
