//! The platform account: made once, imported by every organization's account, brought to those that are older.

use futures::future::join_all;
use nats_authority::{
    authority::requests::ChangeOrganization,
    jwt::{self, Permissions, account::Import, envelope, permissions::Permission},
    resolver::Resolver,
    store::{audit::Filter, page::Page},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::{
    ledger::{acme, ledger},
    support::stack::{Stack, eventually},
};

async fn claims(stack: &Stack, account: &str) -> jwt::Claims<jwt::Account> {
    let token = stack.authority.store().account_jwt(account.parse().unwrap()).await.unwrap().unwrap();
    envelope::decode(&token).unwrap().claims
}

fn import(account: &str, platform: &str) -> Import {
    Import {
        name: Some("renew".to_owned()),
        subject: format!("authority.renew.{account}.*"),
        account: Some(platform.parse().unwrap()),
        local_subject: Some("authority.renew.*".to_owned()),
        kind: "service".to_owned(),
        ..Import::default()
    }
}

#[tokio::test]
async fn replicas_that_start_together_make_one() {
    let l = ledger().await;
    let first = l.authority.platform().unwrap();
    let opened = join_all((0..8).map(|_| l.reopen())).await;
    assert!(opened.iter().all(|other| other.platform().unwrap() == first));
    let mut database = PgConnection::connect(l.database.url()).await.unwrap();
    let count = "SELECT count(*) FROM accounts WHERE kind = 'platform'";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut database).await.unwrap(), 1);
    let filter = Filter { action: Some("platform.create".to_owned()), ..Filter::default() };
    let page = Page { limit: 10, after: None };
    assert_eq!(l.authority.store().audit_events(&filter, &page).await.unwrap().0.len(), 1);
    let filter = Filter { action: Some("platform.recompose".to_owned()), ..Filter::default() };
    assert!(l.authority.store().audit_events(&filter, &page).await.unwrap().0.is_empty(), "nothing has changed");
    let again = "INSERT INTO accounts (account_key, kind, created_at) VALUES ($1, 'platform', now())";
    let second = sqlx::query(again).bind(format!("A{}", "B".repeat(55))).execute(&mut database).await;
    assert!(second.unwrap_err().to_string().contains("accounts_platform"));
}

#[tokio::test]
async fn a_fresh_database_gets_one_from_replicas_that_start_together() {
    let l = ledger().await;
    let mut database = PgConnection::connect(l.database.url()).await.unwrap();
    // As before the upgrade, with an organization that was there already.
    let old = l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap().0;
    forget(&mut database).await;
    let opened = join_all((0..8).map(|_| l.reopen())).await;
    let platform = opened[0].platform().unwrap();
    assert_ne!(platform, l.authority.platform().unwrap());
    assert!(opened.iter().all(|other| other.platform().unwrap() == platform));

    l.clock.advance(1);
    let store = l.authority.store();
    assert_eq!(store.older_than_platform(None, 10).await.unwrap().len(), 1);
    let counts = join_all(opened.iter().map(|one| one.recompose_older_than_platform())).await;
    assert!(counts.into_iter().all(|count| count.unwrap() <= 1));
    assert!(store.older_than_platform(None, 10).await.unwrap().is_empty());
    let token = store.account_jwt(old.account_id.parse().unwrap()).await.unwrap().unwrap();
    let account = envelope::decode::<jwt::Account>(&token).unwrap().claims;
    assert_eq!(account.nats.imports, [import(&old.account_id, &platform.to_string())]);
}

/// Makes a database look as if it were from before the platform account.
async fn forget(database: &mut PgConnection) {
    for statement in [
        "UPDATE account_generations SET minted_at = minted_at - interval '1 hour'",
        "DELETE FROM account_servers WHERE account_key IN (SELECT account_key FROM accounts WHERE kind = 'platform')",
        "DELETE FROM account_generations WHERE account_key IN (SELECT account_key FROM accounts WHERE kind = 'platform')",
        "DELETE FROM signing_keys WHERE account_key IN (SELECT account_key FROM accounts WHERE kind = 'platform')",
        "DELETE FROM accounts WHERE kind = 'platform'",
    ] {
        sqlx::query(statement).execute(&mut *database).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_account_imports_it_and_servers_run_it() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    let (_, operator) = http.get("/api/v1/operator").await;
    let platform = operator["platformAccount"].as_str().unwrap();
    assert_eq!(platform, stack.authority.platform().unwrap().to_string());
    stack.onboard("acme", &["prod"]).await;
    let acme = stack.converged("acme").await;
    let of_acme = claims(&stack, &acme.account_id).await.nats;
    assert_eq!(of_acme.imports, [import(&acme.account_id, platform)]);
    let planned = stack.authority.policies().plan("s").unwrap().limits.imports;
    assert_eq!(of_acme.limits.imports, planned + 1);

    // A plan that allows no import at all.
    let none = ChangeOrganization { limits: Some(json!({"imports": 0})), ..ChangeOrganization::default() };
    stack.authority.change(&stack.actor, &"acme".parse().unwrap(), none).await.unwrap();
    stack.converged("acme").await;
    assert_eq!(claims(&stack, &acme.account_id).await.nats.limits.imports, 1);

    // A user of ours works in it, with JetStream, and elsewhere not at all.
    let allow = ["$JS.API.STREAM.CREATE.audit", "$JS.API.INFO"].map(str::to_owned).to_vec();
    let permissions = Permissions { publish: Permission { allow, deny: vec![] }, ..Permissions::default() };
    let user = stack.authority.platform_user("test", permissions).await.unwrap();
    let expires_at = chrono::DateTime::from_timestamp(user.expires_at, 0).unwrap();
    let credential = nats_authority::resolver::UserCredential { jwt: user.jwt, key: user.key, expires_at };
    let client = stack.resolver.connection().connect_as(credential).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let audit = async_nats::jetstream::stream::Config {
        name: "audit".to_owned(),
        subjects: vec!["audit.>".to_owned()],
        max_bytes: 1 << 20,
        num_replicas: 3,
        ..Default::default()
    };
    jetstream.create_stream(audit).await.unwrap();

    // What the platform account has is compared like every account.
    let account = stack.authority.platform().unwrap();
    let stored = stack.resolver.lookup(account).await.unwrap();
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().all(|copy| *copy == stored[0] && copy.is_some()));
    let request = stack.authority.deletion_request(&"acme".parse().unwrap(), account).await.unwrap();
    assert!(
        stack
            .resolver
            .delete(vec![account], request)
            .await
            .per_server
            .iter()
            .all(nats_authority::resolver::ServerAnswer::is_done)
    );
    eventually("it is back on every server", || async {
        stack.authority.reconcile_wanted.notify_one();
        stack.resolver.lookup(account).await.is_ok_and(|stored| stored.iter().flatten().count() == 3)
    })
    .await;
}
