//! Commands that talk to the service. They are thin: each is one or a few requests of the REST API,
//! and there is no other way in. What they print as JSON is what the API answered.

mod audit;
mod client;
mod consumer;
mod context;
mod cred;
mod cred_format;
mod cred_options;
mod env;
mod key;
mod operator;
mod operator_key;
mod org;
mod policy;
mod policy_diff;
mod preview;
mod resolver;
mod revoke;
mod rotate_journal;
mod rotate_many;
mod secret_file;
mod stream;
mod token;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::client::Client;
use super::output::{OutputFormat, note, plain};
use crate::{
    api::{prefer::MAX_WAIT, problem::Problem},
    error::Error,
};

/// The exit code when the servers do not all have a change in time.
const NOT_CONVERGED: u8 = 3;

/// How to reach the service, and how to print. A flag wins over its environment variable, that one
/// over the context.
#[derive(Clone, Debug, Args)]
pub struct GlobalOptions {
    /// Where the service is, such as `https://nats-authority.example.com`.
    #[arg(long, global = true, env = "NATS_AUTHORITY_URL", value_name = "URL", help_heading = "Service")]
    pub url: Option<String>,
    /// File that holds the API token; it is read at every call.
    #[arg(long, global = true, env = "NATS_AUTHORITY_TOKEN_FILE", value_name = "FILE", help_heading = "Service")]
    pub token_file: Option<PathBuf>,
    /// File that holds a client certificate for a service that is told to believe it, PEM, with those between it and
    /// its authority; a context's token is not shown beside one that is given here.
    #[arg(long, global = true, env = "NATS_AUTHORITY_CLIENT_CERT", value_name = "FILE", help_heading = "Service")]
    pub client_cert: Option<PathBuf>,
    /// File that holds the certificate's private key, PEM, where it is not in the same one.
    #[arg(long, global = true, env = "NATS_AUTHORITY_CLIENT_KEY", value_name = "FILE", help_heading = "Service")]
    pub client_key: Option<PathBuf>,
    /// Context to take URL, token file and certificate from instead of the selected one.
    #[arg(long, global = true, value_name = "NAME", help_heading = "Service")]
    pub context: Option<String>,
    /// Wait until every server has the change, at most so long; exit code 3 if they have not.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = wait_range(), help_heading = "Service")]
    pub wait: Option<u64>,
    /// How answers are printed.
    #[arg(long, short, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub output: OutputFormat,
    #[arg(long, global = true, hide = true, env = "XDG_CONFIG_HOME")]
    config_home: Option<PathBuf>,
    #[arg(long, global = true, hide = true, env = "HOME")]
    home: Option<PathBuf>,
}

fn wait_range() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..=MAX_WAIT)
}

/// The commands, by what they are about.
#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// Organizations: onboard, change, suspend, delete.
    #[command(subcommand)]
    Org(org::OrgCommand),
    /// Environments of organizations.
    #[command(subcommand)]
    Env(env::EnvCommand),
    /// Durable pull consumers of environments.
    #[command(subcommand)]
    Consumer(consumer::ConsumerCommand),
    /// Further streams of environments, which copy from the event stream.
    #[command(subcommand)]
    Stream(stream::StreamCommand),
    /// Credentials: issue, look up, revoke.
    #[command(subcommand)]
    Cred(cred::CredCommand),
    /// Signing keys of organizations.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// The operator: keys, what servers need, users for operations tools.
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// What the servers have.
    #[command(subcommand)]
    Resolver(resolver::ResolverCommand),
    /// Plans in force, and what other ones would do.
    #[command(subcommand)]
    Plan(policy::PlanCommand),
    /// Roles in force.
    #[command(subcommand)]
    Role(policy::RoleCommand),
    /// The audit log.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Tokens of callers of the API.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Ask whether a role or a credential may publish or subscribe, and by which rule; exit code 1 if not.
    CanI(policy::CanIArgs),
    /// Services that commands talk to, by name.
    #[command(subcommand)]
    Context(context::ContextCommand),
}

/// Why a command did not do what it should.
enum Failure {
    /// Nothing was asked, or no answer came.
    Here(Error),
    /// The service refused.
    Refused(Box<Problem>),
    /// Done, but the servers do not all have it.
    NotConverged(String),
}

type Outcome<T> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

/// Runs a command; the answer is the exit code. What the service refused has been reported then.
pub async fn run(command: RemoteCommand, options: &GlobalOptions) -> crate::error::Result<u8> {
    match dispatch(command, options).await {
        Ok(code) => Ok(code),
        Err(Failure::Here(error)) => Err(error),
        Err(Failure::Refused(problem)) => {
            note(&line(&problem));
            Ok(1)
        }
        Err(Failure::NotConverged(words)) => {
            note(&format!("error[not-converged]: {}", plain(&words)));
            Ok(NOT_CONVERGED)
        }
    }
}

async fn dispatch(command: RemoteCommand, options: &GlobalOptions) -> Outcome<u8> {
    if let RemoteCommand::Context(command) = command {
        return Ok(context::run(&command, options)?);
    }
    if let RemoteCommand::Audit(command) = &command
        && let Some(done) = command.local(options.output)
    {
        return Ok(done?);
    }
    if let RemoteCommand::Operator(command) = &command
        && let Some(done) = command.local()
    {
        return Ok(done?);
    }
    let client = Client::connect(options)?;
    match command {
        RemoteCommand::Org(command) => org::run(command, &client).await?,
        RemoteCommand::Env(command) => env::run(command, &client).await?,
        RemoteCommand::Consumer(command) => consumer::run(command, &client).await?,
        RemoteCommand::Stream(command) => stream::run(command, &client).await?,
        RemoteCommand::Cred(command) => cred::run(command, &client).await?,
        RemoteCommand::Key(command) => key::run(command, &client).await?,
        RemoteCommand::Operator(command) => operator::run(command, &client).await?,
        RemoteCommand::Resolver(command) => resolver::run(command, &client).await?,
        RemoteCommand::Plan(command) => return policy::plan(command, &client).await,
        RemoteCommand::Role(command) => policy::role(command, &client).await?,
        RemoteCommand::Token(command) => token::run(command, &client).await?,
        RemoteCommand::Audit(command) => return audit::run(command, &client).await,
        RemoteCommand::CanI(question) => return policy::can_i(question, &client).await,
        RemoteCommand::Context(_) => {}
    }
    Ok(0)
}

/// A problem in one line. The fields are named; their words follow where they say more than the whole.
fn line(problem: &Problem) -> String {
    let fields = problem.errors.iter().filter(|field| !field.pointer.is_empty()).map(|field| {
        let words = if field.detail == problem.detail { String::new() } else { format!(": {}", field.detail) };
        format!(" [{}{words}]", field.pointer)
    });
    let fields: Vec<_> = fields.collect();
    plain(&format!("error[{}]: {}{} — request {}", problem.code, problem.detail, fields.concat(), problem.request_id))
}
