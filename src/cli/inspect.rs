//! `inspect`: what a token says and whether servers would take it. Works offline.

use std::{io::Read, path::PathBuf};

use clap::Args;

use super::{files::io_error, output::OutputFormat};
use crate::{
    clock::{Clock, SystemClock},
    error::{Error, Result},
    jwt::inspect::{inspect, words},
};

/// What to look at.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A JWT, a file that holds a JWT or creds, or `-` for standard input.
    pub token: String,
}

/// No token is longer than 1 MiB; a creds file is a little longer than its token.
const MAX_INPUT: u64 = 3 << 20;

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) fn run(args: &InspectArgs, format: OutputFormat) -> Result<u8> {
    let text = zeroize::Zeroizing::new(read(&args.token)?);
    let report = inspect(&text, SystemClock.unix());
    match format {
        OutputFormat::Json => {
            let json =
                serde_json::to_string_pretty(&report).map_err(|error| Error::internal("report").with_source(error))?;
            println!("{json}");
        }
        OutputFormat::Table => {
            for line in words(&report) {
                println!("{line}");
            }
        }
    }
    Ok(u8::from(!report.valid))
}

fn read(token: &str) -> Result<String> {
    let mut text = String::new();
    if token == "-" {
        let stdin = PathBuf::from("standard input");
        std::io::stdin().take(MAX_INPUT).read_to_string(&mut text).map_err(|error| io_error("read", &stdin, error))?;
    } else if token.starts_with("eyJ") {
        token.clone_into(&mut text);
    } else {
        let path = PathBuf::from(token);
        let file = std::fs::File::open(&path).map_err(|error| io_error("read", &path, error))?;
        file.take(MAX_INPUT).read_to_string(&mut text).map_err(|error| io_error("read", &path, error))?;
    }
    Ok(text)
}
