//! The tour that proves itself: a private deployment, two organizations, real clients, and at each
//! step the question whether it held. Ends 0 only when everything did.

#![expect(clippy::print_stdout, reason = "a demo talks")]

mod client;
mod deployment;
mod steps;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use deployment::Deployment;
use steps::Steps;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\n  FAILED  {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    let mut steps = Steps::new();
    println!("\nnats-authority: one service that signs for every tenant of a NATS cluster\n");
    let mut deployment =
        steps.run("start Postgres, three nats-servers in operator mode and the service", Deployment::start()).await?;

    steps.chapter("Two organizations, two environments each");
    for org in ["acme", "globex"] {
        steps
            .run(&format!("onboard {org} (prod, dev) and wait until all servers run it"), deployment.onboard(org))
            .await?;
    }
    let view = deployment.cli(&["org", "show", "acme", "--output", "json"])?;
    ensure!(view["resolver"]["state"] == "converged", "acme is not converged: {}", view["resolver"]);

    steps.chapter("Credentials through the CLI, used by a real client");
    let prod = deployment.issue("acme", "prod", "env-admin").await?;
    let dev = deployment.issue("acme", "dev", "env-admin").await?;
    let globex = deployment.issue("globex", "prod", "env-admin").await?;
    steps.done("issued env-admin credentials for acme-prod, acme-dev and globex-prod (files with mode 0600)");
    let mut acme = steps.run("connect to acme-prod", deployment.connect(&prod, 0)).await?;
    steps.run("publish with ack", acme.publish("ws.acme-prod.orders.1")).await?;
    steps.run("durable pull consumer: create, fetch, ack", acme.consume("ws-acme-prod-events", "orders")).await?;
    steps.run("KV put, get, watch", acme.key_value("ws-acme-prod-state")).await?;

    steps.chapter("The same is refused elsewhere");
    for (what, env) in
        [("the sibling environment acme-dev", "acme-dev"), ("the other organization's globex-prod", "globex-prod")]
    {
        steps.run(&format!("publish in {what}"), acme.refused_publish(&format!("ws.{env}.orders.1"))).await?;
        steps.run(&format!("consumer in {what}"), acme.refused_consume(&format!("ws-{env}-events"))).await?;
        steps.run(&format!("KV in {what}"), acme.refused_key_value(&format!("ws-{env}-state"))).await?;
        steps.run(&format!("subscribe in {what}"), acme.refused_subscribe(&format!("ws.{env}.>"))).await?;
    }

    steps.chapter("Revoke, suspend, resume");
    let mut developer = deployment.connect(&dev, 1).await?;
    let revoke = async {
        deployment.cli(&["cred", "revoke", &prod.id, "--reason", "demo", "--output", "json"])?;
        acme.closed().await
    };
    steps.run("revoke the acme-prod credential: its client is closed", revoke).await?;
    steps.run("and stays out", deployment.refused(&prod)).await?;
    ensure!(developer.is_connected(), "revoking one credential closed another one");
    let suspend = async {
        deployment.cli(&["org", "suspend", "acme", "--reason", "demo", "--output", "json"])?;
        developer.closed().await
    };
    steps.run("suspend acme: every client is closed", suspend).await?;
    steps.run("and nobody gets in", deployment.refused(&dev)).await?;
    let resume = async {
        deployment.cli(&["org", "resume", "acme", "--wait", "10", "--output", "json"])?;
        deployment.connect(&dev, 1).await
    };
    let mut developer = steps.run("resume acme: its clients are back", resume).await?;
    steps.run("and work", developer.publish("ws.acme-dev.orders.1")).await?;

    steps.chapter("A server is restarted");
    steps.run("kill -9 n3 and start it again", deployment.restart_server(2)).await?;
    let mut other =
        steps.run("globex connects to the restarted server", deployment.connect_patiently(&globex, 2)).await?;
    steps.run("publish with ack there", other.publish_patiently("ws.globex-prod.orders.1")).await?;
    steps.run("the revoked credential is still refused there", deployment.refused_by(&prod, 2)).await?;

    steps.chapter("Nothing secret was left behind");
    steps.run("only the files that are meant to hold seeds do", deployment.search_for_seeds()).await?;
    deployment.stop().await.context("stop")?;
    println!("\nAll {} steps held, in {:.1} s.\n", steps.count(), steps.elapsed().as_secs_f64());
    Ok(())
}
