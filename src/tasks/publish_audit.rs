//! Publishes the chain of audit events to the stream in the platform account: each event once, in order,
//! also after outages. The position that the ledger remembers may lag behind the stream when a process
//! dies; where to go on is what the stream says.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TICK;
use crate::{
    authority::Authority,
    error::{Error, Result},
    model::audit::{ExportedLink, FoundLink},
    resolver::{
        SystemResolver, UserCredential,
        audit_stream::{self, AuditStream, End, Message},
    },
};

/// How many events are on their way at a time.
const AT_ONCE: i64 = 200;

/// How long a replica has the right to publish without a sign of life.
const LEASE: TimeDelta = TimeDelta::seconds(30);

/// How much of its user's life is left when a session ends.
const RESERVE: TimeDelta = TimeDelta::seconds(60);

/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Publisher {
    authority: Arc<Authority>,
    resolver: Arc<SystemResolver>,
    replicas: Option<usize>,
    /// Who this replica is to the others.
    me: Uuid,
}

/// A connection to the stream, and how far it is.
struct Session {
    stream: AuditStream,
    sequence: u64,
    position: i64,
    ends_at: chrono::DateTime<chrono::Utc>,
}

impl Publisher {
    pub(super) fn new(authority: Arc<Authority>, resolver: Arc<SystemResolver>, replicas: Option<usize>) -> Self {
        let me = authority.id();
        Self { authority, resolver, replicas, me }
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let mut session = None;
        loop {
            let pause = match self.publish(&mut session).await {
                Ok(()) => TICK,
                Err(error) => {
                    tracing::warn!(%error, cause = error.internal_report(), "the audit log is not published");
                    session = None;
                    PAUSE
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Publishes what is linked and not published, if it is ours to do.
    async fn publish(&self, session: &mut Option<Session>) -> Result<()> {
        let store = self.authority.store();
        let waiting = store.audit_unpublished().await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("nats_authority_audit_events_unpublished").set(waiting as f64);
        let now = self.authority.now();
        if session.as_ref().is_some_and(|session| session.ends_at <= now) {
            *session = None;
        }
        if waiting == 0 || self.authority.standing().jetstream_servers() == 0 {
            return Ok(());
        }
        if store.lease_publishing(self.me, now, now + LEASE).await?.is_none() {
            *session = None;
            return Ok(());
        }
        let session = match session {
            Some(session) => session,
            None => session.insert(self.open().await?),
        };
        self.everything(session).await
    }

    async fn everything(&self, session: &mut Session) -> Result<()> {
        let store = self.authority.store();
        loop {
            let now = self.authority.now();
            if session.ends_at <= now || store.lease_publishing(self.me, now, now + LEASE).await?.is_none() {
                return Ok(());
            }
            let links = store.audit_links(session.position, AT_ONCE).await?;
            let Some(last) = links.last().map(|link| link.position) else { return Ok(()) };
            let messages = links.into_iter().map(message).collect::<Result<_>>()?;
            session.sequence = session.stream.publish(session.sequence, messages).await?;
            session.position = last;
            store.audit_was_published(last).await?;
        }
    }

    async fn open(&self) -> Result<Session> {
        let user = self.authority.platform_user("publish-audit", audit_stream::permissions()).await?;
        let expires_at = chrono::DateTime::from_timestamp(user.expires_at, 0).unwrap_or_default();
        let credential = UserCredential { jwt: user.jwt, key: user.key, expires_at };
        let client = self.resolver.connection().connect_as(credential).await?;
        let servers = self.authority.standing().jetstream_servers();
        let replicas = self.replicas.unwrap_or(if servers >= 3 { 3 } else { 1 });
        let (stream, end) = AuditStream::open(client, replicas).await?;
        let position = self.position_of(&end).await?;
        Ok(Session { stream, sequence: end.sequence, position, ends_at: expires_at - RESERVE })
    }

    /// Where the stream ends in the chain. A stream that says something else than the ledger is evidence:
    /// nothing is published over it.
    async fn position_of(&self, end: &End) -> Result<i64> {
        let store = self.authority.store();
        let Some(line) = &end.line else {
            // New, or lost with the servers' disks: it gets the whole log again.
            return Ok(0);
        };
        let published = serde_json::from_slice::<ExportedLink>(line).ok().and_then(ExportedLink::into_found);
        let published = published.ok_or_else(|| diverged("its last message is no audit event"))?;
        let found = store.audit_links(published.position - 1, 1).await?;
        match found.first() {
            Some(known) if known.position == published.position && known.hash == published.hash => {
                store.audit_was_published(known.position).await?;
                Ok(known.position)
            }
            Some(_) => Err(diverged("its last event has another hash than the ledger: the log was written anew")),
            None => Err(diverged("it has events that the ledger does not have: the database was set back")),
        }
    }
}

fn diverged(why: &str) -> Error {
    let name = audit_stream::NAME;
    Error::conflict("audit-stream-diverged", format!("the stream {name} does not fit the audit log: {why}"))
}

fn message(link: FoundLink) -> Result<Message> {
    let event = link.event.as_ref();
    let removed = || Error::internal("a linked audit event is gone; `audit verify` names it");
    let (org, action) = event.map(|event| (event.org.clone(), event.action.clone())).ok_or_else(removed)?;
    let id = link.event_id.to_string();
    let text = serde_json::to_string(&ExportedLink::from(link));
    let text = text.map_err(|error| Error::internal("an audit event is no JSON").with_source(error))?;
    Ok(Message { id, org, action, text })
}
