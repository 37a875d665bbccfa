//! Every role, every operation, every environment that it could reach for, with three clients on a running
//! server: what is let pass and what is refused, compared with `roles/matrix.toml` and `docs/ROLES.md`.

pub mod matrix;
pub mod native;

use std::{collections::BTreeMap, fs, path::Path};

use async_nats::jetstream::{self, Context, consumer::pull};
use reqwest::Method;
use serde_json::{Value, json};

use self::matrix::{Cell, Matrix, ROLES};
use crate::{
    interop,
    support::{
        deployment,
        http::Http,
        stack::{Stack, eventually},
    },
};

/// Own, sibling, other organization: slug, environment type, name.
const ENVIRONMENTS: [(&str, &str, &str); 3] =
    [("acme", "prod", "acme-prod"), ("acme", "dev", "acme-dev"), ("globex", "prod", "globex-prod")];

const CLIENTS: [&str; 3] = ["rust", "python", "javascript"];

/// A role's credential and cells for one client.
struct Attempt {
    role: &'static str,
    issued: Value,
    cells: Vec<Cell>,
}

type Results = BTreeMap<String, BTreeMap<String, String>>;

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_with_three_clients() {
    let installing = (tokio::task::spawn_blocking(interop::javascript), tokio::task::spawn_blocking(interop::python));
    let matrix = Matrix::read();
    matrix.check();
    let stack = Stack::start(1).await;
    let http = stack.serve().await;
    let witnesses = prepare(&stack, &http).await;
    let stranger = http.issue("acme", "prod", json!({"name": "stranger", "role": "viewer"})).await;
    let stranger = stranger["credential"]["userKey"].as_str().unwrap();
    let mut attempts = Vec::new();
    for client in CLIENTS {
        let mut of_client = Vec::new();
        for role in ROLES {
            let issued = http.issue("acme", "prod", json!({"name": format!("{client}-{role}"), "role": role})).await;
            let cells = matrix.cells(client, role, &ENVIRONMENTS.map(|(_, _, name)| name), stranger);
            victims(&witnesses, &cells).await;
            of_client.push(Attempt { role, issued, cells });
        }
        attempts.push(of_client);
    }
    let dir = crate::support::temp_dir();
    let url = stack.cluster.urls().remove(0);
    let (javascript, python) = (installing.0.await.unwrap(), installing.1.await.unwrap());
    let script = |index: usize, at: Option<std::path::PathBuf>, program: &'static str, file: &'static str| {
        let task = task(&url, dir.path(), &attempts[index]);
        tokio::task::spawn_blocking(move || {
            at.map(|at| {
                let program = if program == "node" { Path::new(program).to_owned() } else { at.join(program) };
                let output = interop::run(program, &[file], &at, &task).unwrap();
                serde_json::from_str::<Results>(&output).unwrap()
            })
        })
    };
    let python = script(1, python, interop::PYTHON, "roles.py");
    let javascript = script(2, javascript, "node", "roles.mjs");
    let rust = futures::future::join_all(attempts[0].iter().map(|attempt| async {
        let creds = attempt.issued["creds"].as_str().unwrap();
        let inbox = attempt.issued["credential"]["inboxPrefix"].as_str().unwrap();
        (attempt.role.to_owned(), native::run(&url, creds, inbox, &attempt.cells).await)
    }));
    let seen = [Some(rust.await.into_iter().collect()), python.await.unwrap(), javascript.await.unwrap()];

    let mut wrong = Vec::new();
    for ((client, seen), attempts) in CLIENTS.iter().zip(&seen).zip(&attempts) {
        let Some(seen) = seen else { continue };
        for attempt in attempts {
            for cell in &attempt.cells {
                let mut got = seen[attempt.role][&cell.id].clone();
                if got == "yes" && !happened(&witnesses[cell.target], cell).await {
                    "nothing happened".clone_into(&mut got);
                }
                if (got == "yes") != cell.expected || !["yes", "no", "nothing happened"].contains(&got.as_str()) {
                    let expected = if cell.expected { "yes" } else { "no" };
                    wrong.push(format!("{client}, {}: {}: {got}, expected {expected}", attempt.role, cell.id));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_document_is_what_the_matrix_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ROLES.md");
    let document = Matrix::read().document();
    if std::env::var_os("UPDATE_ROLES").is_some() {
        fs::write(&path, &document).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), document, "UPDATE_ROLES=1 writes docs/ROLES.md anew");
}

/// Two organizations, a consumer of the authority in each environment, a past event, a key and one that was
/// deleted. Returns somebody in each environment who sees what happens there.
async fn prepare(stack: &Stack, http: &Http) -> Vec<Context> {
    for (slug, envs) in [("acme", json!(["prod", "dev"])), ("globex", json!(["prod"]))] {
        let body = json!({"slug": slug, "plan": "m", "environments": envs});
        let (status, view) = http.post("/api/v1/orgs", body).await;
        assert_eq!(status, 201, "{view}");
    }
    let mut witnesses = Vec::new();
    for (org, env_type, name) in ENVIRONMENTS {
        http.converged(org).await;
        let path = format!("/api/v1/orgs/{org}/envs/{env_type}/consumers/work");
        let (status, view) =
            http.send_and_wait(Method::PUT, &path, Some(json!({"filterSubjects": [format!("ws.{name}.seed")]}))).await;
        assert_eq!((status, &view["state"]), (201, &json!("ready")), "{view}");
        let issued = http.issue(org, env_type, json!({"name": "witness", "role": "env-admin"})).await;
        let client = deployment::connect(&stack.cluster.urls()[0], &issued).await.unwrap();
        let context = jetstream::new(client);
        // One for each role that pulls, with each client, and then some.
        for _ in 0..30 {
            context.publish(format!("ws.{name}.seed"), "seed".into()).await.unwrap().await.unwrap();
        }
        let bucket = context.get_key_value(format!("ws-{name}-state")).await.unwrap();
        bucket.put("seed", "seed".into()).await.unwrap();
        bucket.put("gone", "x".into()).await.unwrap();
        bucket.delete("gone").await.unwrap();
        witnesses.push(context);
    }
    witnesses
}

/// Consumers that are there to be deleted.
async fn victims(witnesses: &[Context], cells: &[Cell]) {
    for cell in cells {
        if let Some(name) = &cell.deletes {
            let config = pull::Config { durable_name: Some(name.clone()), ..pull::Config::default() };
            witnesses[cell.target].create_consumer_on_stream(config, &cell.stream).await.unwrap();
        }
    }
}

/// What a runner reads from standard input.
fn task(url: &str, dir: &Path, attempts: &[Attempt]) -> String {
    let roles: Vec<_> = attempts
        .iter()
        .map(|Attempt { role, issued, cells }| {
            let name = issued["credential"]["name"].as_str().unwrap();
            let creds = dir.join(format!("{name}.creds"));
            fs::write(&creds, issued["creds"].as_str().unwrap()).unwrap();
            json!({"role": role, "creds": creds, "inbox": issued["credential"]["inboxPrefix"], "cells": cells})
        })
        .collect();
    json!({"url": url, "roles": roles}).to_string()
}

/// Whether what a cell is about has come to pass, where its answer is not told to who asked. JetStream works on
/// it after the request, so what is expected is waited for.
async fn happened(witness: &Context, cell: &Cell) -> bool {
    let look = || async {
        let stream = witness.get_stream_no_info(&cell.stream).await.unwrap();
        let has = async |name: &str| stream.get_consumer::<pull::Config>(name).await.is_ok();
        match (&cell.stores, &cell.deletes, &cell.makes) {
            (Some(subject), _, _) => stream.direct_get_last_for_subject(subject.as_str()).await.is_ok(),
            (_, Some(name), _) => !has(name).await,
            (_, _, Some(name)) => has(name).await,
            _ => true,
        }
    };
    if cell.expected {
        eventually(&cell.id, look).await;
    }
    look().await
}
