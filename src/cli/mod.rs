//! The commands. Local ones (`init`, `serve`, `migrate`, `doctor`, `dev`, `inspect`) work on this
//! machine; remote ones (`remote`) are thin clients of the REST API and have no other way in.

mod dev;
mod doctor;
mod files;
mod init;
mod inspect;
pub mod output;
pub mod remote;
mod renew;
mod serve;
mod shell;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    error::{Error, Result},
    telemetry::LogFormat,
};

/// The authority behind NATS operator mode: holds the keys, decides, signs, pushes, revokes, remembers.
#[derive(Debug, Parser)]
#[command(name = "nats-authority", version, max_term_width = 100)]
pub struct Cli {
    /// How to reach the service, and how to print.
    #[command(flatten)]
    pub global: remote::GlobalOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an operator: keys, the system account, and what servers need to trust them.
    Init(init::InitArgs),
    /// Run the service.
    Serve(ServeArgs),
    /// Bring the database to this version.
    Migrate(ConfigArgs),
    /// Check configuration, database, keys and servers, and say what to do.
    Doctor(ConfigArgs),
    /// Run a private Postgres, a NATS cluster in operator mode and the service, until interrupted.
    Dev(dev::DevArgs),
    /// Decode a JWT or creds file, verify it and say in words what it allows.
    Inspect(inspect::InspectArgs),
    /// Renew the credential in a creds file over NATS, once or for as long as it is needed.
    Renew(renew::RenewArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder.
    Man {
        /// The folder.
        dir: PathBuf,
    },
    /// Commands that talk to the service.
    #[command(flatten)]
    Remote(remote::RemoteCommand),
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file, TOML; environment variables such as `NATS_AUTHORITY__HTTP__LISTEN` win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How to run the service.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Address and port of the API; wins over file and environment.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// Log filter, such as `info` or `nats_authority=debug,info`.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How logs are written.
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
}

/// Runs a command; the exit code is 0 for done, 1 for refused or failed, 2 for usage, 3 for not
/// converged in time.
pub fn main(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Error::internal("no runtime").with_source(error)),
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => report(&error),
    }
}

async fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Init(args) => init::run(&args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Migrate(args) => serve::migrate(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Dev(args) => dev::run(&args).await,
        Command::Inspect(args) => inspect::run(&args, cli.global.output),
        Command::Renew(args) => renew::run(&args).await,
        Command::Completions { shell } => Ok(shell::completions(shell)),
        Command::Man { dir } => shell::man_pages(&dir),
        Command::Remote(command) => remote::run(command, &cli.global).await,
    }
}

#[expect(clippy::print_stderr, reason = "errors of commands go to standard error")]
fn report(error: &Error) -> ExitCode {
    let cause = error.internal_report();
    let cause = if cause.is_empty() { String::new() } else { format!(" [{cause}]") };
    eprintln!("error[{}]: {error}{cause}", error.code());
    ExitCode::from(1)
}
