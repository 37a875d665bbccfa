//! Dry runs: what a change would do, and that trying it does nothing.

use nats_authority::{
    authority::{
        Actor, Proposal,
        requests::{ChangeOrganization, NewCredential, NewOrganization, Reason},
    },
    error::Kind,
    model::{EnvType, OrgSlug},
};
use sqlx::{Connection, PgConnection, Row};

use crate::ledger::{Ledger, acme, ledger};

fn slug() -> OrgSlug {
    "acme".parse().unwrap()
}

fn env(text: &str) -> EnvType {
    text.parse().unwrap()
}

/// Every row of every table, as text.
async fn dump(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut rows = Vec::new();
    for table in tables {
        let sql = format!("SELECT t::text AS row FROM \"{table}\" t ORDER BY 1");
        let found = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        rows.extend(found.iter().map(|row| format!("{table} {}", row.get::<String, _>("row"))));
    }
    rows
}

async fn issue(l: &Ledger, name: &str) -> nats_authority::authority::Issued {
    let request = NewCredential { name: name.to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    l.authority.issue(&l.actor, &slug(), &env("prod"), request).await.unwrap()
}

#[tokio::test]
async fn trying_a_change_signs_nothing_and_leaves_every_row_as_it_was() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let credential = issue(&l, "v1").await.credential;
    let (slug, prod, staging) = (slug(), env("prod"), env("stg"));
    let other = NewOrganization { slug: "other".to_owned(), ..acme(&["prod"]) };
    let reason = Reason::default();
    let limits = ChangeOrganization {
        plan: Some("m".to_owned()),
        limits: Some(serde_json::json!({"conn": 7})),
        ..ChangeOrganization::default()
    };
    let name = ChangeOrganization { display_name: Some("Acme".to_owned()), ..ChangeOrganization::default() };
    let (before, signed) = (dump(l.database.url()).await, l.authority.tokens_signed());
    assert!(signed > 0);
    // The change, and whether a generation would be minted.
    let proposals = [
        (Proposal::Onboard(&other), true),
        (Proposal::Onboard(&acme(&["prod"])), false),
        (Proposal::Change(&slug, &limits), true),
        (Proposal::Change(&slug, &name), false),
        (Proposal::Suspend(&slug, &reason), true),
        (Proposal::Resume(&slug, &reason), false),
        (Proposal::Delete(&slug), true),
        (Proposal::PutEnvironment(&slug, &staging), true),
        (Proposal::PutEnvironment(&slug, &prod), false),
        (Proposal::DeleteEnvironment(&slug, &prod), true),
        (Proposal::Revoke(credential.id, &reason), true),
    ];
    for (proposal, minted) in proposals {
        let preview = l.authority.preview(&l.actor, proposal).await.unwrap();
        let what = format!("{proposal:?}");
        assert_eq!(preview.next_generation, preview.generation + i64::from(minted), "{what}");
        assert_eq!(preview.before.as_ref() != Some(&preview.after), minted, "{what}");
        assert_eq!(dump(l.database.url()).await, before, "{what}");
        assert_eq!(l.authority.tokens_signed(), signed, "{what}");
    }
}

#[tokio::test]
async fn a_change_under_the_previewed_generation_is_that_change_or_refused() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let credential = issue(&l, "v1").await.credential;
    let (slug, reason) = (slug(), Reason::default());
    let preview = l.authority.preview(&l.actor, Proposal::Suspend(&slug, &reason)).await.unwrap();
    let at = |generation| Actor { if_generation: Some(generation), ..l.actor.clone() };

    // Somebody else is faster.
    l.authority.revoke(&l.actor, credential.id, reason.clone()).await.unwrap();
    let before = dump(l.database.url()).await;
    let late = at(preview.generation);
    let codes = [
        l.authority.suspend(&late, &slug, reason.clone()).await.map(drop),
        l.authority.resume(&late, &slug, reason.clone()).await.map(drop),
        l.authority.delete(&late, &slug, false).await.map(drop),
        l.authority.change(&late, &slug, ChangeOrganization::default()).await.map(drop),
        l.authority.put_environment(&late, &slug, &env("prod")).await.map(drop),
        l.authority.delete_environment(&late, &slug, &env("prod")).await.map(drop),
        l.authority.revoke(&late, credential.id, reason.clone()).await.map(drop),
        l.authority.onboard(&late, acme(&["prod"])).await.map(drop),
        l.authority.preview(&late, Proposal::Suspend(&slug, &reason)).await.map(drop),
    ]
    .map(|result| result.err().map(|error| (error.kind(), error.code())));
    assert_eq!(codes, [Some((Kind::Changed, "generation-changed")); 9]);
    assert_eq!(dump(l.database.url()).await, before);

    let preview = l.authority.preview(&l.actor, Proposal::Suspend(&slug, &reason)).await.unwrap();
    let done = l.authority.suspend(&at(preview.generation), &slug, reason).await.unwrap();
    assert_eq!(done.resolver.generation, preview.next_generation);
    let token = l.authority.store().account_jwt(preview.account).await.unwrap().unwrap();
    let claims = nats_authority::jwt::decode::<nats_authority::jwt::Account>(&token).unwrap().claims;
    assert_eq!((claims.nats, token.len()), (preview.after, preview.bytes_after));
}
