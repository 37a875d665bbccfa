//! Keeps [`Members`] up to date: listens to what servers say of themselves and pings them.
//!
//! What lives here only watches. Everything that it sends is a ping or a question for a description.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use futures::StreamExt;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    answers::{self, Presence, ServerInfo, ServerRef},
    connection::{Link, SystemConnection},
    kind,
    members::{Change, Known, Members, Roll, Round},
    mux::Listener,
    system::Timing,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
};

struct Shared {
    members: Mutex<Members>,
    /// What was heard since the present round began. Any answer is a sign of life, for a server that
    /// works through a thousand updates answers a ping only after them.
    round: Mutex<Round>,
    roll: watch::Sender<Roll>,
    doubt: Notify,
    clock: Arc<dyn Clock>,
    timing: Timing,
}

/// The servers of the cluster, kept up to date until dropped.
pub struct Registry {
    shared: Arc<Shared>,
    connection: Arc<SystemConnection>,
    _task: AbortOnDropHandle<()>,
}

impl Registry {
    /// Begins to watch.
    pub fn start(connection: Arc<SystemConnection>, clock: Arc<dyn Clock>, timing: Timing) -> Self {
        let shared = Arc::new(Shared {
            members: Mutex::default(),
            round: Mutex::default(),
            roll: watch::Sender::new(Roll::default()),
            doubt: Notify::new(),
            clock,
            timing,
        });
        let task = tokio::spawn(watch(shared.clone(), connection.clone()));
        Self { shared, connection, _task: AbortOnDropHandle::new(task) }
    }

    /// The servers that are expected to answer now.
    pub fn expected(&self) -> Arc<[ServerRef]> {
        self.shared.roll.borrow().live.clone()
    }

    /// All servers that were heard of within the last hour, with how they describe themselves.
    pub fn known(&self) -> Vec<Known> {
        let mut known = lock(&self.shared.members).known();
        let Ok(link) = self.connection.link() else { return known };
        let ours = link.client().server_info().server_id;
        let cluster = |known: &Known| known.info.as_ref().and_then(|info| info.cluster.clone());
        if let Some(ours) = known.iter().find(|known| known.id == ours).and_then(cluster) {
            for known in &mut known {
                known.near = cluster(known).is_none_or(|theirs| theirs == ours);
            }
        }
        known
    }

    /// Who is live and who is not; changes when a server appears, restarts, leaves or returns.
    pub fn roll(&self) -> watch::Receiver<Roll> {
        self.shared.roll.subscribe()
    }

    /// Someone waits for a server that does not answer: asks now whether it lives.
    pub fn doubt(&self) {
        self.shared.doubt.notify_one();
    }

    /// A server said something. Cheap: it is called for every answer.
    pub fn heard(&self, server: &ServerRef) {
        self.shared.note(server);
        if !self.shared.roll.borrow().live.contains(server) {
            self.shared.heard(server);
        }
    }

    /// A server described itself.
    pub fn learned(&self, info: ServerInfo) {
        self.shared.learned(info);
    }
}

impl Shared {
    fn note(&self, server: &ServerRef) {
        let mut round = lock(&self.round);
        if !round.heard.contains(&server.id) {
            round.heard.insert(server.id.clone());
        }
    }

    fn heard(&self, server: &ServerRef) -> Option<Change> {
        if server.id.is_empty() {
            return None;
        }
        self.note(server);
        self.change(|members| members.heard(server, self.clock.now()))
    }

    fn learned(&self, info: ServerInfo) {
        self.heard(&info.server());
        self.change(|members| members.learned(info));
    }

    /// Changes the members and tells of it.
    fn change(&self, how: impl FnOnce(&mut Members) -> Option<Change>) -> Option<Change> {
        let mut members = lock(&self.members);
        let change = how(&mut members)?;
        // Under the lock, so that rolls are told in their order.
        let roll = members.roll();
        tracing::info!(epoch = roll.epoch, live = roll.live.len(), gone = roll.gone.len(), "the NATS servers changed");
        self.roll.send_replace(roll);
        Some(change)
    }
}

/// How often servers are asked to describe themselves again: their configuration can be reloaded, and they
/// tell nobody. An answer costs a server a few hundred microseconds.
const DESCRIBE: Duration = Duration::from_secs(10);
/// The pause when the connection cannot be used.
const RETRY: Duration = Duration::from_millis(200);

async fn watch(shared: Arc<Shared>, connection: Arc<SystemConnection>) {
    loop {
        let mut state = connection.state();
        let Ok(link) = connection.link() else {
            // The connection outlives us, so there is always a next state.
            let _ = state.changed().await;
            continue;
        };
        let replaced = async {
            let other = |generation| generation != link.generation();
            // An error means that the connection is gone for good: then we are as well.
            let _ = state.wait_for(|state| other(state.generation)).await;
        };
        tokio::select! {
            () = replaced => {}
            result = watch_link(&shared, &link) => {
                if let Err(error) = result {
                    tracing::debug!(cause = error.internal_report(), "the NATS servers cannot be watched: {error}");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Watches over one connection; returns when it is closed for good.
async fn watch_link(shared: &Shared, link: &Link) -> Result<()> {
    let client = link.client();
    let subscribe = |subject: &'static str| async move {
        client.subscribe(subject).await.map_err(|error| {
            Error::unavailable("nats-subscribe", "cannot listen to the NATS servers").with_source(error)
        })
    };
    let mut statsz = subscribe("$SYS.SERVER.*.STATSZ").await?;
    let mut shutdown = subscribe("$SYS.SERVER.*.SHUTDOWN").await?;
    let (mut pings, mut descriptions) = (link.mux().listen(), link.mux().listen());
    let (mut packs, mut lists) = (link.mux().listen(), link.mux().listen());
    let timing = shared.timing;
    let mut tick = tokio::time::interval(timing.ping);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut describe = tokio::time::interval(DESCRIBE);
    let delta = |time| TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
    let (patience, forget) = (delta(timing.patience), delta(timing.forget));
    let mut round: Option<Instant> = None;
    let mut doubted = false;
    loop {
        let round_over = async {
            match round {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let mut ping = false;
        tokio::select! {
            Some(message) = shutdown.next() => {
                if let Some(presence) = answers::presence(&message.payload) {
                    shared.change(|members| members.ended(&presence.server));
                }
            }
            message = statsz.next() => {
                let Some(message) = message else { return Ok(()) };
                joined(shared, link, &descriptions, &message.payload).await?;
            }
            message = pings.next() => {
                let Some(message) = message else { return Ok(()) };
                let presence = joined(shared, link, &descriptions, &message.payload).await?;
                if let Some(Presence { cluster: Some(cluster), routes: Some(routes), .. }) = presence {
                    lock(&shared.round).routes.entry(cluster).or_default().extend(routes);
                }
            }
            Some(message) = descriptions.next() => {
                if let Some(info) = answers::server_info(&message.payload) {
                    let system = info.system_account.map(|account| account.to_string());
                    let server = info.server();
                    shared.learned(info);
                    if lock(&shared.members).known().iter().any(|known| known.id == server.id && known.resolver.is_none()) {
                        let subject = format!("$SYS.REQ.SERVER.{}.SUBSZ", server.id);
                        packs.publish(client, &subject, kind::question(kind::PACK, system.clone()).into()).await?;
                        lists.publish(client, &subject, kind::question(kind::LIST, system).into()).await?;
                    }
                }
            }
            Some(message) = packs.next() => {
                if let Some((server, listens)) = kind::listens(&message.payload) {
                    shared.change(|members| members.listens(&server, |ears| ears.pack = Some(listens)));
                }
            }
            Some(message) = lists.next() => {
                if let Some((server, listens)) = kind::listens(&message.payload) {
                    shared.change(|members| members.listens(&server, |ears| ears.list = Some(listens)));
                }
            }
            () = round_over => {
                round = None;
                let heard = std::mem::take(&mut *lock(&shared.round));
                shared.change(|members| members.round_over(&heard, shared.clock.now(), patience, forget));
                // Once more, now asking for routes; if that was asked already, at the next tick.
                ping = heard.routes.is_empty() && lock(&shared.members).in_doubt() && link.is_connected();
            }
            _ = tick.tick() => {
                ping = true;
                // A server that has only just started may have heard of us before it could be asked.
                let known = lock(&shared.members).known();
                for server in known.iter().filter(|server| server.live && (server.info.is_none() || server.resolver.is_none())) {
                    let subject = format!("$SYS.REQ.SERVER.{}.VARZ", server.id);
                    descriptions.publish(client, &subject, "".into()).await?;
                }
            }
            () = shared.doubt.notified() => (ping, doubted) = (true, true),
            _ = describe.tick() => descriptions.publish(client, "$SYS.REQ.SERVER.PING.VARZ", "".into()).await?,
        }
        if ping && round.is_none() {
            *lock(&shared.round) = Round::default();
            let what = if doubted || lock(&shared.members).in_doubt() { "STATSZ" } else { "IDZ" };
            pings.publish(client, &format!("$SYS.REQ.SERVER.PING.{what}"), "".into()).await?;
            round = Some(Instant::now() + timing.ping_window);
            doubted = false;
        }
    }
}

/// Notes who speaks, and asks who is new to describe itself.
async fn joined(shared: &Shared, link: &Link, descriptions: &Listener, json: &[u8]) -> Result<Option<Presence>> {
    let Some(presence) = answers::presence(json) else { return Ok(None) };
    if shared.heard(&presence.server) == Some(Change::Joined) {
        let subject = format!("$SYS.REQ.SERVER.{}.VARZ", presence.server.id);
        descriptions.publish(link.client(), &subject, "".into()).await?;
    }
    Ok(Some(presence))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
