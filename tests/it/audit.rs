//! The audit log: whoever changes it with the rights of a superuser is seen.

use nats_authority::{
    authority::{
        audit_log::AuditVerdict,
        requests::{NewCredential, NewOrganization, Reason},
    },
    model::audit::ChainHash,
};
use sqlx::{Connection, PgConnection};

use crate::{
    ledger::{Ledger, ledger},
    support::stack::eventually,
};

/// A superuser at work: no trigger stands in the way.
struct Superuser(PgConnection);

impl Superuser {
    async fn of(ledger: &Ledger) -> Self {
        let mut connection = PgConnection::connect(ledger.database.url()).await.unwrap();
        sqlx::query("SET session_replication_role = replica").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    async fn alter(&mut self, sql: &'static str) {
        sqlx::query(sql).execute(&mut self.0).await.unwrap();
    }

    async fn run(&mut self, sql: &'static str) {
        assert!(sqlx::query(sql).execute(&mut self.0).await.unwrap().rows_affected() > 0, "{sql}");
    }
}

/// Checks once so many events are linked. Transactions of other databases in the same Postgres keep them
/// waiting for a moment.
async fn verified(ledger: &Ledger, events: i64) -> AuditVerdict {
    eventually("all events are linked", async || {
        let verdict = ledger.authority.verify_audit(None).await.unwrap();
        !verdict.intact || verdict.verified >= events
    })
    .await;
    ledger.authority.verify_audit(None).await.unwrap()
}

/// A log of some events: an organization, ten credentials, one of them revoked.
async fn history() -> Ledger {
    let ledger = ledger().await;
    let org = NewOrganization {
        slug: "acme".to_owned(),
        environments: vec!["prod".to_owned()],
        ..NewOrganization::default()
    };
    ledger.authority.onboard(&ledger.actor, org).await.unwrap();
    let (org, env_type) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    for n in 0..10 {
        let new = NewCredential { name: format!("c{n}"), role: "viewer".to_owned(), ..NewCredential::default() };
        let issued = ledger.authority.issue(&ledger.actor, &org, &env_type, new).await.unwrap();
        if n == 5 {
            ledger.authority.revoke(&ledger.actor, issued.credential.id, Reason::default()).await.unwrap();
        }
    }
    ledger
}

#[tokio::test]
async fn an_untouched_log_is_intact_and_goes_on() {
    let ledger = history().await;
    let first = verified(&ledger, 14).await;
    assert!(first.intact, "{first:?}");
    // Adopting the operator, the platform account, onboarding, ten issues, one revocation.
    assert_eq!(first.verified, 14);
    let org = NewOrganization { slug: "other".to_owned(), ..NewOrganization::default() };
    ledger.authority.onboard(&ledger.actor, org).await.unwrap();
    assert!(verified(&ledger, 15).await.intact);
    let anchor = (first.verified, ChainHash::parse(&first.hash).unwrap());
    let second = ledger.authority.verify_audit(Some(anchor)).await.unwrap();
    assert!(second.intact && second.verified == 15, "{second:?}");
    let wrong = ledger.authority.verify_audit(Some((14, ChainHash::START))).await.unwrap();
    assert_eq!(wrong.broken.unwrap().position, Some(14));
    let beyond = ledger.authority.verify_audit(Some((20, anchor.1))).await.unwrap();
    assert_eq!(beyond.broken.unwrap().position, Some(16));
}

#[tokio::test]
async fn what_a_superuser_does_is_named() {
    // What is done, and the position that shows it; none: an event that the chain does not know.
    let cases: [(&'static str, Option<i64>); 7] = [
        (
            "UPDATE audit_events SET actor = 'nobody' WHERE id = (SELECT event FROM audit_chain WHERE position = 4)",
            Some(4),
        ),
        (
            "UPDATE audit_events SET detail = '{}' WHERE id = (SELECT event FROM audit_chain WHERE position = 14)",
            Some(14),
        ),
        ("DELETE FROM audit_events WHERE id = (SELECT event FROM audit_chain WHERE position = 6)", Some(6)),
        (
            "WITH c AS (DELETE FROM audit_chain WHERE position = 7 RETURNING event)
          DELETE FROM audit_events WHERE id IN (SELECT event FROM c)",
            Some(7),
        ),
        (
            "UPDATE audit_chain a SET event = b.event FROM audit_chain b
          WHERE (a.position, b.position) IN ((8, 9), (9, 8))",
            Some(8),
        ),
        ("UPDATE audit_chain SET hash = sha256('x') WHERE position = 2", Some(2)),
        (
            "INSERT INTO audit_events (id, at, actor, action, target, xid)
          SELECT gen_random_uuid(), at, actor, action, target, xid FROM audit_events ORDER BY seq LIMIT 1",
            None,
        ),
    ];
    for (sql, position) in cases {
        let ledger = history().await;
        assert!(verified(&ledger, 14).await.intact);
        let mut superuser = Superuser::of(&ledger).await;
        if sql.contains("UPDATE audit_chain a SET event") {
            // The unique index is checked row by row.
            superuser.alter("ALTER TABLE audit_chain DROP CONSTRAINT audit_chain_event_key").await;
        }
        superuser.run(sql).await;
        let verdict = ledger.authority.verify_audit(None).await.unwrap();
        assert!(!verdict.intact, "{sql}");
        let broken = verdict.broken.unwrap();
        assert_eq!(broken.position, position, "{sql}: {broken:?}");
        assert_eq!(verdict.verified, position.map_or(14, |position| position - 1), "{sql}");
    }
}

#[tokio::test]
async fn without_its_triggers_off_nothing_can_be_changed() {
    let ledger = history().await;
    verified(&ledger, 14).await;
    let mut connection = PgConnection::connect(ledger.database.url()).await.unwrap();
    for sql in [
        "UPDATE audit_events SET actor = 'nobody'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events CASCADE",
        "UPDATE audit_chain SET hash = sha256('x')",
        "DELETE FROM audit_chain",
        "TRUNCATE audit_chain",
    ] {
        let error = sqlx::query(sql).execute(&mut connection).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
}

/// Two replicas link at the same time, while a third writes: each event gets one place.
#[tokio::test]
async fn many_link_one_chain() {
    let ledger = history().await;
    let authority = &ledger.authority;
    let writers = (0..40).map(|n| {
        let slug = format!("org-{n}");
        authority.onboard(&ledger.actor, NewOrganization { slug, ..NewOrganization::default() })
    });
    let linkers = (0..40).map(|_| authority.link_audit_events());
    let (written, linked) = futures::join!(futures::future::join_all(writers), futures::future::join_all(linkers));
    assert!(written.iter().all(Result::is_ok) && linked.iter().all(Result::is_ok));
    let verdict = verified(&ledger, 54).await;
    assert!(verdict.intact && verdict.verified == 54, "{verdict:?}");
}

/// An event whose transaction stays open while younger ones commit comes into the chain when it commits.
#[tokio::test]
async fn late_commits_are_not_forgotten() {
    let ledger = history().await;
    verified(&ledger, 14).await;
    let mut late = PgConnection::connect(ledger.database.url()).await.unwrap();
    let mut late = late.begin().await.unwrap();
    let insert =
        "INSERT INTO audit_events (id, at, actor, action, target) VALUES (gen_random_uuid(), now(), 'x', 'late', 'x')";
    sqlx::query(insert).execute(&mut *late).await.unwrap();
    let org = NewOrganization { slug: "other".to_owned(), ..NewOrganization::default() };
    ledger.authority.onboard(&ledger.actor, org).await.unwrap();
    assert_eq!(ledger.authority.verify_audit(None).await.unwrap().verified, 14);
    late.commit().await.unwrap();
    let verdict = verified(&ledger, 16).await;
    assert!(verdict.intact && verdict.verified == 16, "{verdict:?}");
}
