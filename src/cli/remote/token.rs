//! `token`. The text of a token goes to a file that only its owner may read, or to standard output where
//! `--out -` says so.

use std::path::PathBuf;

use clap::Subcommand;
use reqwest::Method;

use super::{
    Outcome,
    client::{Client, note_more},
    secret_file::Place,
};
use crate::{
    api::{page::List, tokens::CreatedToken},
    authority::requests::NewApiToken,
    cli::output::{OutputFormat, fields, note, print, table, time},
    model::view::TokenView,
};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and write it to a file.
    Create {
        /// Its name; the audit log knows its bearer by it.
        name: String,
        /// What its bearer is.
        #[arg(long, value_parser = ["sovereign-admin", "security-officer", "org-admin", "org-developer", "org-viewer"])]
        role: String,
        /// An organization in which the role holds; may be repeated.
        #[arg(long = "org", value_name = "ORG", value_delimiter = ',')]
        organizations: Vec<String>,
        /// How long it lives, 1m to 365d. [default: 90d]
        #[arg(long)]
        ttl: Option<String>,
        /// Where the token goes; `-` is standard output. [default: <name>.token]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace the file if it is there.
        #[arg(long)]
        force: bool,
    },
    /// List tokens, never their text.
    List {
        /// How many at most.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on behind this one.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Revoke a token; within five seconds nobody believes it any more.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// Runs a command.
pub(super) async fn run(command: TokenCommand, client: &Client) -> Outcome<()> {
    match command {
        TokenCommand::Create { name, role, organizations, ttl, out, force } => {
            let path = out.unwrap_or_else(|| PathBuf::from(format!("{name}.token")));
            let place = Place::reserve(&path, force)?;
            let answer = client.post(&["tokens"], &NewApiToken { name, role, organizations, ttl }).await?;
            let created: CreatedToken = answer.read()?;
            let file = place.write(&created.secret)?;
            if let Some(file) = file {
                match client.format {
                    OutputFormat::Json => print(&serde_json::to_string(&created.token).unwrap_or_default())?,
                    OutputFormat::Table => print(&one(&created.token))?,
                }
                note(&format!("wrote {}", file.display()));
            }
        }
        TokenCommand::List { limit, cursor } => {
            let query = [("limit", limit.map(|limit| limit.to_string())), ("cursor", cursor)];
            let answer = client.get(&["tokens"], &query).await?;
            client.print(&answer, rows)?;
            if client.format == OutputFormat::Table {
                note_more(answer.read::<List<TokenView>>()?.next_cursor.as_deref());
            }
        }
        TokenCommand::Revoke { id } => {
            let answer = client.change(Method::DELETE, &["tokens", &id], &[], None::<&()>).await?;
            client.print(&answer, one)?;
        }
    }
    Ok(())
}

fn one(token: &TokenView) -> String {
    let when = |at: Option<_>| at.map(time).unwrap_or_default();
    fields(&[
        ("id", token.id.to_string()),
        ("name", token.name.clone()),
        ("role", token.role.to_string()),
        ("organizations", token.organizations.join(", ")),
        ("expires", when(token.expires_at)),
        ("revoked", when(token.revoked_at)),
    ])
}

fn rows(list: &List<TokenView>) -> String {
    let when = |at: Option<_>| at.map(time).unwrap_or_default();
    let rows = list.items.iter().map(|token| {
        [
            token.id.to_string(),
            token.name.clone(),
            token.role.to_string(),
            token.organizations.join(","),
            when(token.expires_at),
            when(token.revoked_at),
            when(token.last_used_at),
        ]
    });
    table(["ID", "NAME", "ROLE", "ORGANIZATIONS", "EXPIRES", "REVOKED", "USED"], rows)
}
