//! Sealing keys are replaced while everything goes on: replicas with the old order, one that dies in the middle.

use std::{sync::Arc, time::Duration};

use nats_authority::{
    authority::{
        Authority,
        requests::{NewCredential, NewOrganization, Reseal},
    },
    entropy::{Entropy, SystemEntropy},
    model::OrgSlug,
    signer::{SealingKey, SealingKeys, Signer},
    store::{Store, audit, page::Page},
};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use crate::ledger::{Ledger, ledger_sealed_with};

/// A sealing key in its text form: it can be had as often as there are replicas.
fn text() -> String {
    SealingKey::generate(&SystemEntropy::new()).to_string()
}

fn signer(texts: &[&String]) -> Arc<Signer> {
    let keys = texts.iter().map(|text| SealingKey::parse(text).unwrap()).collect();
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    Arc::new(Signer::new(SealingKeys::new(keys).unwrap(), entropy))
}

fn id(text: &str) -> String {
    SealingKey::parse(text).unwrap().id()
}

async fn onboard(authority: &Authority, l: &Ledger, slug: &str) {
    let environments = ["prod", "dev"].map(str::to_owned).to_vec();
    let plan = Some("s".to_owned());
    let request = NewOrganization { slug: slug.to_owned(), environments, plan, ..NewOrganization::default() };
    authority.onboard(&l.actor, request).await.unwrap();
}

/// One under a scoped key and one under the plain key.
async fn issue(authority: &Authority, l: &Ledger, slug: &str) {
    let (slug, env): (OrgSlug, _) = (slug.parse().unwrap(), "prod".parse().unwrap());
    for allowed_cidrs in [Vec::new(), vec!["127.0.0.0/8".to_owned()]] {
        let (name, role) = ("c".to_owned(), "viewer".to_owned());
        let request = NewCredential { name, role, allowed_cidrs, ..NewCredential::default() };
        authority.issue(&l.actor, &slug, &env, request).await.unwrap();
    }
}

async fn everybody_signs(authority: &Authority, l: &Ledger, orgs: usize) {
    for n in 0..orgs {
        issue(authority, l, &format!("org{n}")).await;
    }
    // And the operator's key.
    onboard(authority, l, &format!("x{}", &authority.id().simple().to_string()[8..])).await;
}

/// Whoever replaces the sealing key waits with its third batch for this connection.
async fn hold_third_batch(l: &Ledger) -> PgConnection {
    let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
    let sql = "SELECT pg_advisory_lock(3);
        CREATE FUNCTION third() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) FROM audit_events WHERE action = NEW.action) >= 2 THEN
                PERFORM pg_advisory_xact_lock(3);
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER third BEFORE INSERT ON audit_events FOR EACH ROW WHEN (NEW.action = 'sealing-key.reseal')
            EXECUTE FUNCTION third()";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_goes_over_to_the_new_key_also_when_it_is_killed_in_the_middle() {
    const ORGS: usize = 40;
    let (old, new) = (text(), text());
    let l = ledger_sealed_with(SealingKey::parse(&old).unwrap()).await;
    for n in 0..ORGS {
        onboard(&l.authority, &l, &format!("org{n}")).await;
    }
    // The new key is known everywhere before it seals anywhere.
    let behind = l.reopen_with(&signer(&[&old, &new])).await.unwrap();
    let first = l.reopen_with(&signer(&[&new, &old])).await.unwrap();
    let view = first.sealing_keys().await.unwrap();
    let rows = view.left;
    assert!(rows > 400, "{rows}");
    assert_eq!(
        view.keys.iter().map(|key| (&key.id, key.rows)).collect::<Vec<_>>(),
        [(&id(&new), 0), (&id(&old), rows)]
    );
    let to_old = Reseal { to: Some(id(&old)) };
    assert_eq!(first.reseal(&l.actor, &to_old).await.unwrap_err().code(), "sealing-key-not-first");

    // Dropped in the middle, as if the process were gone: what would be the third batch waits until then.
    let mut held = hold_third_batch(&l).await;
    let request = Reseal { to: Some(id(&new)) };
    let left = {
        let mut work = Box::pin(first.reseal(&l.actor, &request));
        loop {
            tokio::select! {
                done = &mut work => panic!("it was to be killed in the middle, and ended: {done:?}"),
                view = behind.sealing_keys() => {
                    // Of this replica the old key is the first.
                    let moved = view.unwrap().left;
                    if moved > 0 {
                        break rows - moved;
                    }
                }
            }
        }
    };
    sqlx::raw_sql("SELECT pg_advisory_unlock(3); DROP TRIGGER third ON audit_events").execute(&mut held).await.unwrap();
    assert!(left > 0 && left < rows, "{left} of {rows}");

    // Goes on beside replicas that sign, and one that still makes new keys under the old one.
    let beside = l.reopen_with(&signer(&[&old, &new])).await.unwrap();
    let (done, (), ()) = tokio::join!(
        async { first.reseal(&l.actor, &request).await.unwrap() },
        onboard(&behind, &l, "late"),
        everybody_signs(&beside, &l, ORGS / 4),
    );
    assert!(done.resealed.unwrap() >= left - 100, "{done:?}");
    onboard(&behind, &l, "later").await;
    let view = first.reseal(&l.actor, &request).await.unwrap();
    assert_eq!((view.left, view.problems.len()), (0, 0), "{view:?}");
    assert_eq!(first.reseal(&l.actor, &Reseal::default()).await.unwrap().resealed, Some(0), "twice is no change");
    let total = view.keys[0].rows;
    let filter = audit::Filter { action: Some("sealing-key.reseal".to_owned()), ..audit::Filter::default() };
    let store =
        Store::connect(&SecretString::from(l.database.url().to_owned()), 2, Duration::from_secs(10)).await.unwrap();
    let (events, _) = store.audit_events(&filter, &Page { limit: 1000, after: None }).await.unwrap();
    let audited: i64 = events.iter().map(|event| event.detail["rows"].as_i64().unwrap()).sum();
    assert_eq!(audited, total, "every row once");

    // Both kinds of replica go on, and so does one without the old key.
    everybody_signs(&behind, &l, ORGS).await;
    first.reseal(&l.actor, &request).await.unwrap();
    let only_new = l.reopen_with(&signer(&[&new])).await.unwrap();
    everybody_signs(&only_new, &l, ORGS).await;
    issue(&only_new, &l, "late").await;
    assert_eq!(only_new.sealing_keys().await.unwrap().keys.len(), 1);
    assert_eq!(l.reopen_with(&signer(&[&old])).await.err().unwrap().code(), "wrong-sealing-key");
}

#[tokio::test]
async fn a_row_that_cannot_be_opened_is_named_and_holds_up_no_other() {
    let (old, new) = (text(), text());
    let l = ledger_sealed_with(SealingKey::parse(&old).unwrap()).await;
    onboard(&l.authority, &l, "org0").await;
    let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
    let changed: String = sqlx::query_scalar(
        "UPDATE signing_keys SET sealed_seed = decode('0102030405060708', 'hex') || substring(sealed_seed FROM 9)
         WHERE public_key = (SELECT min(public_key) FROM signing_keys WHERE role = 'publisher') RETURNING public_key",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let first = l.reopen_with(&signer(&[&new, &old])).await.unwrap();
    let view = first.reseal(&l.actor, &Reseal::default()).await.unwrap();
    assert_eq!((view.left, view.problems.len()), (1, 1), "{view:?}");
    assert!(view.problems[0].starts_with(&changed) && view.problems[0].contains("0102030405060708"), "{view:?}");
    let unknown = view.keys.last().unwrap();
    assert_eq!((unknown.id.as_str(), unknown.rows, unknown.configured), ("0102030405060708", 1, false));
}
