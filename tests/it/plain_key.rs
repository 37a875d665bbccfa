//! Credentials that the account's plain key signed carry their own permissions. The key stays in the account
//! when their environment or role goes, so each of them has to be refused by itself.

use std::fs;

use nats_authority::{
    authority::{
        Issued,
        requests::{NewCredential, Reason},
    },
    model::{CredentialState, EnvType, view::PermissionView, view::PermissionsView},
    policy::Policies,
};

use sqlx::{Connection, PgConnection};

use crate::{
    ledger::{acme, ledger},
    policy_reload::policies,
    support::stack::{Stack, eventually},
};

/// One that is restricted to loopback, of a role or with permissions of its own.
fn restricted(role: &str) -> NewCredential {
    let permissions = (role == "custom").then(|| PermissionsView {
        publish: PermissionView { allow: vec!["ws.acme-prod.orders.>".to_owned()], deny: Vec::new() },
        subscribe: PermissionView::default(),
    });
    NewCredential {
        name: format!("{role}-restricted"),
        role: role.to_owned(),
        allowed_cidrs: vec!["127.0.0.0/8".to_owned()],
        permissions: permissions.map(Into::into),
        ..NewCredential::default()
    }
}

async fn issue(stack: &Stack, env: &str, role: &str) -> Issued {
    let env: EnvType = env.parse().unwrap();
    stack.authority.issue(&stack.actor, &"acme".parse().unwrap(), &env, restricted(role)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_of_a_deleted_environment_gets_in_nor_into_the_next_one_of_its_name() {
    let stack = Stack::start(1).await;
    let (slug, prod) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    stack.onboard("acme", &["prod", "dev"]).await;
    stack.converged("acme").await;
    let gone = [
        issue(&stack, "prod", "viewer").await,
        issue(&stack, "prod", "custom").await,
        stack.issue("acme", "prod", "viewer").await,
    ];
    let stays = issue(&stack, "dev", "viewer").await;
    let open = stack.connect(&gone[0], 0).await.unwrap();
    for issued in &gone {
        stack.connect(issued, 0).await.unwrap();
    }
    stack.authority.delete_environment(&stack.actor, &slug, &prod).await.unwrap();
    eventually("the environment is gone", || async {
        stack.authority.environments(&slug).await.unwrap().iter().all(|env| env.env_type != "prod")
    })
    .await;
    stack.converged("acme").await;
    for issued in &gone {
        let name = &issued.credential.name;
        assert!(stack.connect(issued, 0).await.is_err(), "{name} is let in");
        let state = stack.authority.credential(issued.credential.id).await.unwrap().state;
        assert_eq!(state, CredentialState::Revoked, "{name}");
    }
    stack.connect(&stays, 0).await.unwrap();
    eventually("its connections are closed", || async {
        open.connection_state() != async_nats::connection::State::Connected
    })
    .await;

    stack.authority.put_environment(&stack.actor, &slug, &prod).await.unwrap();
    stack.converged("acme").await;
    for issued in &gone {
        assert!(stack.connect(issued, 0).await.is_err(), "{}", issued.credential.name);
    }
    stack.connect(&issue(&stack, "prod", "viewer").await, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_of_a_role_that_left_gets_in_until_the_role_is_back() {
    let stack = Stack::start(1).await;
    let slug = "acme".parse().unwrap();
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let gone = [issue(&stack, "prod", "viewer").await, stack.issue("acme", "prod", "viewer").await];
    let stay = [issue(&stack, "prod", "publisher").await, issue(&stack, "prod", "custom").await];
    let dir = policies();
    let file = dir.path().join("roles/viewer.toml");
    let text = fs::read_to_string(&file).unwrap();
    let reached = async |generation: i64| {
        eventually("the account follows", || async {
            stack.authority.organization(&slug).await.unwrap().resolver.generation == generation
        })
        .await;
        stack.converged("acme").await;
    };
    fs::remove_file(&file).unwrap();
    stack.authority.reload(Policies::load(dir.path())).await.unwrap();
    reached(2).await;
    for issued in &gone {
        assert!(stack.connect(issued, 0).await.is_err(), "{}", issued.credential.name);
    }
    for issued in &stay {
        stack.connect(issued, 0).await.unwrap();
    }
    fs::write(&file, text).unwrap();
    stack.authority.reload(Policies::load(dir.path())).await.unwrap();
    reached(3).await;
    for issued in gone.iter().chain(&stay) {
        stack.connect(issued, 0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_of_a_suspended_or_deleted_organization_gets_in() {
    let stack = Stack::start(1).await;
    let slug = "acme".parse().unwrap();
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let issued = [issue(&stack, "prod", "viewer").await, stack.issue("acme", "prod", "viewer").await];
    let refused = async |what: &str| {
        eventually(what, || async {
            stack.connect(&issued[0], 0).await.is_err() && stack.connect(&issued[1], 0).await.is_err()
        })
        .await;
    };
    stack.authority.suspend(&stack.actor, &slug, Reason::default()).await.unwrap();
    stack.converged("acme").await;
    assert!(stack.connect(&issued[0], 0).await.is_err());
    refused("suspended").await;
    stack.authority.resume(&stack.actor, &slug, Reason::default()).await.unwrap();
    stack.converged("acme").await;
    for issued in &issued {
        stack.connect(issued, 0).await.unwrap();
    }
    stack.authority.delete(&stack.actor, &slug, true).await.unwrap();
    refused("deleted").await;
    eventually("the slug is free", || async {
        stack.authority.organization(&slug).await.unwrap().state == nats_authority::model::OrgState::Deleted
    })
    .await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    refused("another organization of that name").await;
}

/// It waits for the deletion, and then has to see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_recorded_while_its_environment_goes_is_refused() {
    let l = ledger().await;
    let (slug, prod) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let mut deletion = PgConnection::connect(l.database.url()).await.unwrap();
    let mut onlooker = PgConnection::connect(l.database.url()).await.unwrap();
    for sql in [
        "BEGIN",
        "SELECT FROM organizations WHERE slug = 'acme' FOR UPDATE",
        "UPDATE environments SET state = 'deleting' WHERE env_type = 'prod'",
    ] {
        sqlx::query(sql).execute(&mut deletion).await.unwrap();
    }
    let (authority, actor) = (l.authority.clone(), l.actor.clone());
    let issue =
        tokio::spawn(async move { authority.issue(&actor, &slug, &prod, restricted("viewer")).await.map(drop) });
    loop {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut onlooker).await.unwrap();
        if waiting > 0 {
            break;
        }
        assert!(!issue.is_finished(), "it did not wait");
        tokio::task::yield_now().await;
    }
    sqlx::query("COMMIT").execute(&mut deletion).await.unwrap();
    assert_eq!(issue.await.unwrap().unwrap_err().code(), "not-active");
}

/// The plain key goes where entries would be too many and everybody under it is to go.
#[tokio::test]
async fn a_deleted_environment_of_many_leaves_the_account_small() {
    let l = ledger().await;
    let (slug, prod) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let dev: EnvType = "dev".parse().unwrap();
    let scoped = NewCredential { name: "s".to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    l.authority.issue(&l.actor, &slug, &dev, scoped).await.unwrap();
    l.clock.advance(1000);
    let many = (0..600).map(|_| restricted("viewer")).collect();
    let many = l.authority.issue_batch(&l.actor, &slug, &prod, many).await.unwrap();
    l.authority.delete_environment(&l.actor, &slug, &prod).await.unwrap();
    let view = l.authority.revocations(&slug).await.unwrap();
    assert!(view.entries == 0 && view.bytes < 16 << 10, "{view:?}");
    let keys = l.authority.organization_keys(&slug).await.unwrap();
    let old = keys.iter().find(|key| key.row.public_key == many[0].credential.issuer_key).unwrap();
    assert_eq!(old.row.state, "retired");
}
