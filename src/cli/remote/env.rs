//! `env`

use clap::Subcommand;
use reqwest::Method;

use super::{
    Outcome,
    client::{Answer, Client},
    org::{name_of, servers},
    preview::Try,
};
use crate::{
    api::{environments::ChangedEnvironment, page::List},
    cli::output::{fields, table},
    model::{
        EnvState,
        view::{Convergence, EnvironmentView},
    },
};

/// What can be done with environments.
#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Add an environment; one that is there is found.
    Add {
        /// Organization.
        org: String,
        /// Environment type.
        env_type: String,
        #[command(flatten)]
        how: Try,
    },
    /// List the environments of an organization.
    List {
        /// Organization.
        org: String,
    },
    /// Show an environment.
    Show {
        /// Organization.
        org: String,
        /// Environment type.
        env_type: String,
    },
    /// Remove an environment with its stream, its bucket and their data. That cannot be undone.
    Remove {
        /// Organization.
        org: String,
        /// Environment type.
        env_type: String,
        #[command(flatten)]
        how: Try,
    },
}

/// Runs a command.
pub(super) async fn run(command: EnvCommand, client: &Client) -> Outcome<()> {
    match command {
        EnvCommand::Add { org, env_type, how } => {
            let answer = how.change(client, Method::PUT, &["orgs", &org, "envs", &env_type], &[], None::<&()>).await?;
            answer.map_or(Ok(()), |answer| changed(client, &answer, &org, EnvState::Ready))
        }
        EnvCommand::List { org } => {
            let answer = client.get(&["orgs", &org, "envs"], &[]).await?;
            client.print(&answer, |list: &List<EnvironmentView>| rows(&list.items))?;
            Ok(())
        }
        EnvCommand::Show { org, env_type } => {
            let answer = client.get(&["orgs", &org, "envs", &env_type], &[]).await?;
            client.print(&answer, details)?;
            Ok(())
        }
        EnvCommand::Remove { org, env_type, how } => {
            let answer =
                how.change(client, Method::DELETE, &["orgs", &org, "envs", &env_type], &[], None::<&()>).await?;
            answer.map_or(Ok(()), |answer| changed(client, &answer, &org, EnvState::Deleted))
        }
    }
}

fn changed(client: &Client, answer: &Answer, org: &str, wanted: EnvState) -> Outcome<()> {
    client.print(answer, |changed: &ChangedEnvironment| details(&changed.environment) + &servers(&changed.resolver))?;
    let changed: ChangedEnvironment = answer.read()?;
    let settled = changed.environment.state == wanted && changed.resolver.state == Convergence::Converged;
    client.require(settled, &changed.resolver, &format!("nats-authority org show {org}"))
}

/// Environments, a line each.
pub(super) fn rows(environments: &[EnvironmentView]) -> String {
    let rows = environments.iter().map(|env| {
        [
            env.env_type.clone(),
            env.state.as_str().to_owned(),
            env.subjects.clone(),
            env.stream.clone(),
            env.kv_bucket.clone(),
            env.error.clone().unwrap_or_default(),
        ]
    });
    table(["ENVIRONMENT", "STATE", "SUBJECTS", "STREAM", "BUCKET", "ERROR"], rows)
}

fn details(env: &EnvironmentView) -> String {
    fields(&[
        ("environment", env.name.clone()),
        ("state", name_of(&env.state)),
        ("subjects", env.subjects.clone()),
        ("stream", env.stream.clone()),
        ("bucket", env.kv_bucket.clone()),
        ("error", env.error.clone().unwrap_or_default()),
    ])
}
