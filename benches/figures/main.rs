//! The figures, each measured beside its limit in the same run: what the machine could do at best
//! with the same cryptography, the same database and the same servers. Prints a table and writes
//! `target/bench/report.json`. Nothing fails because a machine is slow.

#![expect(clippy::print_stdout, reason = "a report")]

mod deployment;
mod http;
mod issue;
mod latency;
mod mint;
mod push;
mod report;

use anyhow::Result;
use deployment::Deployment;
use report::Report;

fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut report = Report::default();
    mint::run(&mut report)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let deployment = Deployment::start().await?;
        latency::onboard(&mut report, &deployment).await?;
        latency::revoke(&mut report, &deployment).await?;
        issue::single(&mut report, &deployment).await?;
        issue::batch(&mut report, &deployment).await?;
        push::run(&mut report, &deployment).await?;
        deployment.stop().await
    })?;
    println!("\n{}", report.table());
    report.write()
}
