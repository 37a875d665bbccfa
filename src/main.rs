//! The `nats-authority` binary: installs the crypto provider, parses, runs, exits.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Two providers may be compiled in; rustls panics unless one is chosen before the first use.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    nats_authority::cli::main(nats_authority::cli::Cli::parse())
}
