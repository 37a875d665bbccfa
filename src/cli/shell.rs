//! Completions and man pages, generated from the commands.

use std::path::Path;

use clap::CommandFactory;

use super::{Cli, files::io_error};
use crate::error::Result;

pub(super) fn completions(shell: clap_complete::Shell) -> u8 {
    clap_complete::generate(shell, &mut Cli::command(), "nats-authority", &mut std::io::stdout());
    0
}

pub(super) fn man_pages(dir: &Path) -> Result<u8> {
    std::fs::create_dir_all(dir).map_err(|error| io_error("make", dir, error))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(|error| io_error("write to", dir, error))?;
    Ok(0)
}
