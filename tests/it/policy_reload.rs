//! Plans and roles that change under living organizations reach exactly the accounts that they touch.

use std::{collections::BTreeMap, fs};

use nats_authority::{
    authority::requests::{NewCredential, NewOrganization},
    model::CallerRole,
    policy::{
        Policies,
        access::{Resource, Standing},
    },
    store::{audit, page::Page},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    ledger::{Ledger, ledger},
    support,
    support::stack::{Stack, eventually},
};

/// A copy of the policies that come with the program.
pub fn policies() -> TempDir {
    let dir = support::temp_dir();
    support::copy_policies(dir.path());
    dir
}

pub fn edit(dir: &TempDir, file: &str, from: &str, to: &str) {
    support::edit(dir.path().join(file), from, to);
}

/// Generations by slug.
pub async fn generations(l: &Ledger) -> BTreeMap<String, i64> {
    let page = Page { limit: 1000, after: None };
    let (orgs, _) = l.authority.organizations(None, None, None, &page).await.unwrap();
    orgs.into_iter().map(|org| (org.slug, org.resolver.generation)).collect()
}

async fn actions(l: &Ledger, org: Option<&str>) -> Vec<String> {
    let filter = audit::Filter { org: org.map(|org| org.parse().unwrap()), ..audit::Filter::default() };
    let (events, _) = l.authority.store().audit_events(&filter, &Page { limit: 1000, after: None }).await.unwrap();
    events.into_iter().map(|event| event.action).collect()
}

pub async fn onboarded() -> Ledger {
    let l = ledger().await;
    for (slug, plan) in [("acme", "s"), ("globex", "m"), ("initech", "s")] {
        let request = NewOrganization {
            slug: slug.to_owned(),
            plan: Some(plan.to_owned()),
            environments: vec!["prod".to_owned()],
            ..NewOrganization::default()
        };
        l.authority.onboard(&l.actor, request).await.unwrap();
    }
    l
}

#[tokio::test]
async fn exactly_the_accounts_that_a_file_touches_are_minted() {
    let l = onboarded().await;
    let dir = policies();
    let load = || Policies::load(dir.path());
    assert_eq!(l.authority.apply_policies().await.unwrap(), 0, "all were composed with what is in force");

    // Other text, same meaning: looked at, not minted.
    edit(&dir, "plans/s.toml", "name", "# a remark\nname");
    l.authority.reload(load()).await.unwrap();
    let signed = l.authority.tokens_signed();
    assert_eq!(l.authority.apply_policies().await.unwrap(), 0);
    assert_eq!(l.authority.tokens_signed(), signed);
    assert!(!actions(&l, None).await.contains(&"organization.recompose".to_owned()));

    edit(&dir, "plans/s.toml", "connections = 100", "connections = 90");
    l.authority.reload(load()).await.unwrap();
    assert_eq!(l.authority.apply_policies().await.unwrap(), 2);
    let expected = [("acme", 2), ("globex", 1), ("initech", 2)].map(|(slug, n)| (slug.to_owned(), n));
    assert_eq!(generations(&l).await, expected.into());
    assert_eq!(actions(&l, Some("acme")).await[0], "organization.recompose");
    assert_eq!(actions(&l, Some("globex")).await, ["organization.onboard"]);
    assert_eq!(l.authority.apply_policies().await.unwrap(), 0, "done is done");

    // A role that comes later can be issued in older environments.
    let role = fs::read_to_string(dir.path().join("roles/viewer.toml")).unwrap();
    fs::write(dir.path().join("roles/reader.toml"), role.replace("\"viewer\"", "\"reader\"")).unwrap();
    l.authority.reload(load()).await.unwrap();
    assert_eq!(l.authority.apply_policies().await.unwrap(), 3);
    let reader = NewCredential { name: "r".to_owned(), role: "reader".to_owned(), ..NewCredential::default() };
    l.authority.issue(&l.actor, &"acme".parse().unwrap(), &"prod".parse().unwrap(), reader).await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_taken_leave_the_old_ones_in_force() {
    let l = onboarded().await;
    let (dir, before) = (policies(), l.authority.policies());
    fs::remove_file(dir.path().join("plans/m.toml")).unwrap();
    let error = l.authority.reload(Policies::load(dir.path())).await.unwrap_err();
    assert_eq!(error.code(), "plan-in-use");
    fs::write(dir.path().join("plans/s.toml"), "name = ").unwrap();
    let error = l.authority.reload(Policies::load(dir.path())).await.unwrap_err();
    assert_eq!(error.code(), "invalid-policy");
    assert_eq!(l.authority.loaded().refused, Some(error.to_string()));
    assert_eq!(l.authority.policies().fingerprint, before.fingerprint);
    assert_eq!(l.authority.apply_policies().await.unwrap(), 0);
    l.authority.reload(Policies::builtin()).await.unwrap();
    assert_eq!(l.authority.loaded().refused, None);
}

#[tokio::test]
async fn the_access_policy_is_replaced_and_a_bad_one_keeps_the_old() {
    let l = onboarded().await;
    let dir = policies();
    let mut admin = Standing::default();
    admin.add(CallerRole::SovereignAdmin, []);
    let may_list = || {
        let access = &l.authority.policies().access;
        access.decide("anna", &admin, "list_plans", &Resource::Deployment).unwrap().allowed
    };
    assert!(may_list());
    let file = dir.path().join("api.cedar");
    let replaced = "@id(\"officers\") permit (principal in Role::\"security-officer\", action, resource);";
    fs::write(&file, replaced).unwrap();
    l.authority.reload(Policies::load(dir.path())).await.unwrap();
    assert!(!may_list(), "what is in force is what is in the file");
    let filter = audit::Filter { action: Some("access.load".to_owned()), ..audit::Filter::default() };
    let page = Page { limit: 10, after: None };
    let (events, _) = l.authority.store().audit_events(&filter, &page).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].detail, json!({"builtin": false, "policies": ["officers"]}));
    assert_eq!(l.authority.apply_policies().await.unwrap(), 0, "no account follows from it");

    fs::write(&file, "@id(\"all\") permit (principal, action == Action::\"fly\", resource);").unwrap();
    let error = l.authority.reload(Policies::load(dir.path())).await.unwrap_err();
    assert_eq!(error.code(), "invalid-policy");
    assert!(error.to_string().contains("api.cedar"), "{error}");
    assert_eq!(l.authority.loaded().refused, Some(error.to_string()));
    assert!(!may_list());
    fs::remove_file(&file).unwrap();
    l.authority.reload(Policies::load(dir.path())).await.unwrap();
    assert!(may_list(), "the built-in one");
    let (events, _) = l.authority.store().audit_events(&filter, &page).await.unwrap();
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn replicas_with_other_files_do_not_undo_each_others_work() {
    let l = onboarded().await;
    let dir = policies();
    edit(&dir, "plans/s.toml", "connections = 100", "connections = 90");
    l.authority.reload(Policies::load(dir.path())).await.unwrap();
    // Another replica loads others, later: its files are in force, and this one leaves the accounts alone.
    let event = audit::Event {
        id: l.authority.id(),
        at: l.authority.now(),
        actor: "task:policies".to_owned(),
        action: "policies.load",
        org: None,
        target: "other".to_owned(),
        origin: audit::Origin::default(),
        detail: json!({}),
    };
    assert!(l.authority.store().put_in_force(&[9; 32], &event).await.unwrap());
    assert_eq!(l.authority.apply_policies().await.unwrap(), 0);
    assert!(generations(&l).await.values().all(|generation| *generation == 1));
    // Loaded again, they are in force again.
    l.authority.reload(Policies::load(dir.path())).await.unwrap();
    assert_eq!(l.authority.apply_policies().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_role_closes_its_users_and_reaches_every_server() {
    let stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let issued = stack.issue("acme", "prod", "viewer").await;
    let client = stack.connect(&issued, 1).await.unwrap();
    let connected = client.statistics();
    let count = || connected.connects.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(count(), 1);
    let dir = policies();
    let role = fs::read_to_string(dir.path().join("roles/viewer.toml")).unwrap();
    fs::write(dir.path().join("roles/viewer.toml"), role.replacen("allow = [", "allow = [\n  \"{{subjects}}\",", 1))
        .unwrap();
    stack.authority.reload(Policies::load(dir.path())).await.unwrap();
    eventually("the task has minted the account", || async {
        stack.authority.organization(&"acme".parse().unwrap()).await.unwrap().resolver.generation == 2
    })
    .await;
    stack.converged("acme").await;
    // A server that has not got the account yet may let it in once more.
    eventually("the client was closed and is back", || async { count() >= 2 }).await;
    client.publish("ws.acme-prod.x", json!({}).to_string().into()).await.unwrap();
}
