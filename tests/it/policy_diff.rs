//! What other plans and roles would do, told before they are put in force.

use std::{collections::BTreeSet, fs, process::Stdio};

use nats_authority::{
    authority::{
        Following,
        requests::{CanI, NewCredential},
    },
    policy::Policies,
    resolver::Resolver,
    store::policies::COUNT_COMPOSED_OTHERWISE,
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    ledger::ledger,
    policy_reload::{edit, generations, onboarded, policies},
    preview::dump,
    support::{
        http::Http,
        stack::{Stack, eventually},
    },
};

fn body(dir: &TempDir) -> Value {
    let (plans, roles) = Policies::texts(dir.path()).unwrap();
    json!({"plans": plans, "roles": roles})
}

#[tokio::test]
async fn a_diff_tells_what_the_reload_then_does_and_does_nothing_itself() {
    let l = onboarded().await;
    let dir = policies();
    edit(&dir, "plans/s.toml", "connections = 100", "connections = 90");
    let role = fs::read_to_string(dir.path().join("roles/viewer.toml")).unwrap();
    fs::write(dir.path().join("roles/reader.toml"), role.replace("\"viewer\"", "\"reader\"")).unwrap();
    let new = Policies::load(dir.path()).unwrap();
    let (before, signed) = (dump(l.database.url()).await, l.authority.tokens_signed());

    let (first, more) = l.authority.preview_policies(&new, None, 2).await.unwrap();
    assert!(more);
    let (rest, more) = l.authority.preview_policies(&new, Some(&first[1].0), 2).await.unwrap();
    assert!(!more);
    let told: Vec<_> = first.into_iter().chain(rest).collect();
    assert_eq!(told.iter().map(|(slug, _)| slug.as_str()).collect::<Vec<_>>(), ["acme", "globex", "initech"]);
    assert_eq!(dump(l.database.url()).await, before);
    assert_eq!(l.authority.tokens_signed(), signed);

    l.authority.reload(Ok(new)).await.unwrap();
    assert_eq!(l.authority.apply_policies().await.unwrap(), 3);
    let generations = generations(&l).await;
    for (slug, following) in told {
        let Following::Changed { preview, .. } = following else { panic!("{slug}: {following:?}") };
        assert_eq!(preview.next_generation, generations[slug.as_str()], "{slug}");
        let token = l.authority.store().account_jwt(preview.account).await.unwrap().unwrap();
        let claims = nats_authority::jwt::decode::<nats_authority::jwt::Account>(&token).unwrap().claims;
        // The keys of the new role are others each time.
        let keyless = |account: &nats_authority::jwt::Account| {
            let mut account = account.clone();
            account.signing_keys.0.clear();
            account
        };
        assert_eq!(keyless(&claims.nats), keyless(&preview.after), "{slug}");
        assert_eq!(claims.nats.signing_keys.0.len(), preview.after.signing_keys.0.len(), "{slug}");
        assert_eq!(token.len(), preview.bytes_after, "{slug}");
        assert_eq!(claims.nats.limits.conn == 90, slug.as_str() != "globex");
    }
}

#[tokio::test]
async fn a_plan_in_use_that_is_missing_holds_up_who_is_on_it() {
    let l = onboarded().await;
    let dir = policies();
    fs::remove_file(dir.path().join("plans/m.toml")).unwrap();
    edit(&dir, "plans/s.toml", "connections = 100", "connections = 90");
    let new = Policies::load(dir.path()).unwrap();
    assert!(l.authority.would_refuse(&new).await.unwrap().unwrap().contains("'m'"));
    let (told, _) = l.authority.preview_policies(&new, None, 10).await.unwrap();
    let held_up: Vec<_> =
        told.iter().filter(|(_, f)| matches!(f, Following::HeldUp(why) if why.contains("'m'"))).collect();
    assert_eq!(held_up.len(), 1);
    assert_eq!(held_up[0].0.as_str(), "globex");
}

#[tokio::test]
async fn a_credential_whose_role_is_gone_is_shown_to_do_nothing() {
    let l = onboarded().await;
    let (acme, prod) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    let request = NewCredential { name: "v".to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    let id = l.authority.issue(&l.actor, &acme, &prod, request).await.unwrap().credential.id;
    let dir = policies();
    fs::remove_file(dir.path().join("roles/viewer.toml")).unwrap();
    l.authority.reload(Policies::load(dir.path())).await.unwrap();
    let view = l.authority.credential(id).await.unwrap();
    assert_eq!((view.permissions.publish.deny, view.permissions.subscribe.deny), (vec![">".into()], vec![">".into()]));
    let question = CanI {
        org: "acme".to_owned(),
        env_type: "prod".to_owned(),
        credential: Some(id),
        subscribe: Some("ws.acme-prod.x".to_owned()),
        ..CanI::default()
    };
    let verdict = l.authority.can_i(&question).await.unwrap();
    assert!(!verdict.allowed && verdict.rule.contains("'viewer' is no longer"), "{}", verdict.rule);
}

/// The indexes answer which accounts are to follow: with nothing to do nobody reads all of them.
#[tokio::test]
async fn looking_for_accounts_that_are_to_follow_does_not_read_them_all() {
    let l = ledger().await;
    let mut db = PgConnection::connect(l.database.url()).await.unwrap();
    let fingerprint = l.authority.policies().fingerprint;
    let key = "'A' || translate(upper(substr(md5(n::text) || md5((n + 1)::text), 1, 55)), '0189', 'GHJK')";
    for sql in [
        format!(
            "INSERT INTO accounts (account_key, kind, created_at, policies)
             SELECT {key}, 'organization', now(), $1 FROM generate_series(1, 10000) n"
        ),
        format!(
            "INSERT INTO organizations (id, slug, display_name, plan, state, account_key, promised_memory, promised_disk,
                 created_at, updated_at)
             SELECT gen_random_uuid(), 'org-' || n, 'x', 's', 'active', {key}, 0, 0, now(), now()
             FROM generate_series(1, 10000) n WHERE $1::bytea IS NOT NULL"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&fingerprint[..]).execute(&mut db).await.unwrap();
    }
    sqlx::query("ANALYZE").execute(&mut db).await.unwrap();
    let literal = format!("'\\x{}'::bytea", data_encoding::HEXLOWER.encode(&fingerprint));
    let explain = format!("EXPLAIN {}", COUNT_COMPOSED_OTHERWISE.replace("$1", &literal));
    let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&mut db).await.unwrap();
    assert!(plan.iter().all(|line| !line.contains("Seq Scan")), "{plan:#?}");
    assert_eq!(l.authority.store().count_composed_otherwise(&fingerprint).await.unwrap(), 0);
    assert!(l.authority.store().composed_otherwise(&fingerprint, None, 100).await.unwrap().is_empty());
    assert_eq!(l.authority.store().count_composed_otherwise(&[1; 32]).await.unwrap(), 10_000);
}

/// Runs `plan diff` and gives its exit code and what it printed.
async fn plan_diff(http: &Http, stack: &Stack, dir: &TempDir, more: &[&str]) -> (i32, String) {
    let token = dir.path().join("token");
    fs::write(&token, &stack.admin_token).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nats-authority"))
        .args(["plan", "diff", "--url", &http.url, "--token-file"])
        .arg(&token)
        .arg("--policies")
        .arg(dir.path())
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Organization, server and number of every open connection.
async fn open(stack: &Stack) -> BTreeSet<(String, String, u64)> {
    let mut found = BTreeSet::new();
    for slug in ["acme", "globex"] {
        let account = stack.authority.organization(&slug.parse().unwrap()).await.unwrap().account_id.parse().unwrap();
        for server in stack.resolver.connections(account).await.unwrap() {
            found.extend(server.list.iter().map(|c| (slug.to_owned(), server.server.name.clone(), c.cid)));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_those_are_closed_by_a_reload_that_a_diff_names() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    let mut clients = Vec::new();
    for slug in ["acme", "globex"] {
        stack.onboard(slug, &["prod"]).await;
        stack.converged(slug).await;
        for (role, server) in [("viewer", 0), ("viewer", 1), ("publisher", 2)] {
            let issued = stack.issue(slug, "prod", role).await;
            clients.push(stack.connect(&issued, server).await.unwrap());
        }
    }
    let dir = policies();
    let (code, told) = plan_diff(&http, &stack, &dir, &[]).await;
    assert!(code == 0 && told.contains("change                      0"), "{told}");

    edit(&dir, "roles/viewer.toml", "allow = [", "allow = [\n  \"{{subjects}}\",");
    let (status, page) = http.post("/api/v1/policies/diff?limit=1", body(&dir)).await;
    assert_eq!((status, page["items"].as_array().map(Vec::len)), (200, Some(1)), "{page}");
    let next = format!("/api/v1/policies/diff?limit=1&cursor={}", page["nextCursor"].as_str().unwrap());
    let (_, last) = http.post(&next, body(&dir)).await;
    assert_eq!(last["nextCursor"], Value::Null, "{last}");
    let mut forecast = BTreeSet::new();
    for page in [&page, &last] {
        assert_eq!(page["refused"], Value::Null);
        assert_eq!(page["totals"]["byCause"], json!({"role-changed": 2}), "{page}");
        let item = &page["items"][0];
        for example in item["connections"]["byCause"][0]["examples"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            forecast.insert((text(&item["org"]), text(&example["server"]), example["cid"].as_u64().unwrap()));
        }
    }
    let (code, told) = plan_diff(&http, &stack, &dir, &["--details"]).await;
    assert_eq!(code, 0, "{told}");
    for words in
        ["2 role-changed", "/nats/signing_keys/*/template/pub/allow", "connections closed          4", "ws.acme-prod.>"]
    {
        assert!(told.contains(words), "no {words:?} in: {told}");
    }
    let (_, told) = plan_diff(&http, &stack, &dir, &["--output", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["totals"]["closing"], 4, "{told}");

    let before = open(&stack).await;
    assert_eq!((before.len(), forecast.len()), (6, 4));
    stack.authority.reload(Policies::load(dir.path())).await.unwrap();
    eventually("exactly the forecast ones are closed", || async {
        let now = open(&stack).await;
        before.difference(&now).cloned().collect::<BTreeSet<_>>() == forecast
    })
    .await;
    for slug in ["acme", "globex"] {
        stack.converged(slug).await;
    }
    // Files that could not be taken.
    fs::remove_file(dir.path().join("plans/s.toml")).unwrap();
    let (code, told) = plan_diff(&http, &stack, &dir, &[]).await;
    assert!(code == 1 && told.contains("HELD UP") && told.contains("refused"), "{told}");
    edit(&dir, "plans/m.toml", "connections", "conections");
    let (code, _) = plan_diff(&http, &stack, &dir, &[]).await;
    assert_eq!(code, 1);
    let (status, refused) = http.post("/api/v1/policies/diff", body(&dir)).await;
    assert_eq!((status, &refused["code"]), (422, &json!("invalid-policy")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().starts_with("policies/plans/m.toml:"), "{refused}");
}
