//! Pure: which servers are live, judged from what was heard of them. No I/O and no clock lives here.
//!
//! A server is known by its name, for its id is new at each start. It leaves when it says so
//! (SHUTDOWN). A killed server says nothing, but neither does one that is busy: some requests keep a
//! server from reading for seconds. What tells them apart is that a dead server has no routes: it
//! leaves when it stays silent and no server of its cluster that answers has a route to it, or when it stays silent
//! for long. When nobody answers, it is our own connection that is silent and nothing is learned
//! about the servers.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    answers::{ServerInfo, ServerRef},
    kind::{Ears, ResolverKind},
};

/// What was heard in one round of pings.
#[derive(Debug, Default)]
pub struct Round {
    /// The ids of the servers that said anything.
    pub heard: HashSet<String>,
    /// By cluster, the names of the servers to which those that answered have routes. Nothing of
    /// clusters in which nobody was asked, answered or could tell.
    pub routes: BTreeMap<String, HashSet<String>>,
}

/// A server that was heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its id since its last start.
    pub id: String,
    /// It answers.
    pub live: bool,
    /// When it was last heard of.
    pub last_seen: DateTime<Utc>,
    /// How it last described itself under this id.
    pub info: Option<ServerInfo>,
    /// Its kind of resolver; none: it has not told yet.
    pub resolver: Option<ResolverKind>,
    /// It is in the cluster to which we are connected, or we cannot tell. Questions to *one* server, such
    /// as PACK, do not cross gateways while a server on this side listens to them.
    pub near: bool,
}

impl Known {
    /// It keeps every account, or may do so.
    pub fn may_be_full(&self) -> bool {
        matches!(self.resolver, None | Some(ResolverKind::Full))
    }

    /// It has a directory for accounts, or may have one: it answers LIST and DELETE.
    pub fn may_store(&self) -> bool {
        self.resolver != Some(ResolverKind::Url)
    }

    /// Changes when the server restarts or reloads its configuration.
    pub fn stamp(&self) -> String {
        let reload = self.info.as_ref().filter(|info| info.is_reloaded()).and_then(|info| info.config_loaded);
        reload.map_or_else(|| self.id.clone(), |at| format!("{} reloaded {at}", self.id))
    }
}

/// The servers at one moment; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    /// Grows each time that a server appears, restarts, leaves or returns.
    pub epoch: u64,
    /// The servers that are expected to answer.
    pub live: Arc<[ServerRef]>,
    /// The servers that are known and not live.
    pub gone: Arc<[ServerRef]>,
}

/// What became of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new, under a new id, or answers again.
    Joined,
    /// It told something that changes what is expected of it: its kind of resolver, a reload.
    Told,
    /// It ended or is silent.
    Left,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    ears: Ears,
    /// It was silent in the last round.
    silent: bool,
    /// It said that it ends: what is still heard under this id was said before.
    ended: bool,
}

/// The servers by name.
#[derive(Debug, Default)]
pub struct Members {
    servers: BTreeMap<String, Entry>,
    epoch: u64,
}

impl Members {
    /// A server said something at `now`.
    pub fn heard(&mut self, server: &ServerRef, now: DateTime<Utc>) -> Option<Change> {
        match self.servers.get_mut(&server.name) {
            Some(entry) if entry.known.id == server.id => {
                if entry.ended {
                    return None;
                }
                entry.silent = false;
                entry.known.last_seen = now;
                if std::mem::replace(&mut entry.known.live, true) {
                    return None;
                }
            }
            _ => {
                let known = Known {
                    name: server.name.clone(),
                    id: server.id.clone(),
                    live: true,
                    last_seen: now,
                    info: None,
                    resolver: None,
                    near: true,
                };
                let entry = Entry { known, ears: Ears::default(), silent: false, ended: false };
                self.servers.insert(server.name.clone(), entry);
            }
        }
        self.epoch += 1;
        Some(Change::Joined)
    }

    /// A server said that it ends.
    pub fn ended(&mut self, server: &ServerRef) -> Option<Change> {
        let entry = self.servers.get_mut(&server.name).filter(|entry| entry.known.id == server.id)?;
        entry.ended = true;
        let was_live = std::mem::replace(&mut entry.known.live, false);
        self.epoch += u64::from(was_live);
        was_live.then_some(Change::Left)
    }

    /// A round of pings is over. Live servers that stay silent for `patience` leave; servers that are
    /// not live are forgotten `forget` after they were last heard of.
    pub fn round_over(
        &mut self,
        round: &Round,
        now: DateTime<Utc>,
        patience: TimeDelta,
        forget: TimeDelta,
    ) -> Option<Change> {
        let before = self.servers.len();
        self.servers.retain(|_, entry| entry.known.live || now - entry.known.last_seen < forget);
        let mut left = self.servers.len() != before;
        if !round.heard.is_empty() {
            for entry in self.servers.values_mut().filter(|entry| entry.known.live) {
                entry.silent = !round.heard.contains(&entry.known.id);
                if !entry.silent {
                    entry.known.last_seen = now;
                    continue;
                }
                let cluster = entry.known.info.as_ref().and_then(|info| info.cluster.as_ref());
                let routes = cluster.and_then(|cluster| round.routes.get(cluster));
                let cut_off = routes.is_some_and(|routes| !routes.contains(&entry.known.name));
                entry.known.live = !cut_off && now - entry.known.last_seen < patience;
                left |= !entry.known.live;
            }
        }
        self.epoch += u64::from(left);
        left.then_some(Change::Left)
    }

    /// A live server was silent in the last round: the next one should ask for routes.
    pub fn in_doubt(&self) -> bool {
        self.servers.values().any(|entry| entry.known.live && entry.silent)
    }

    /// A server described itself.
    pub fn learned(&mut self, info: ServerInfo) -> Option<Change> {
        let entry = self.servers.get_mut(&info.name).filter(|entry| entry.known.id == info.id)?;
        let before = entry.known.stamp();
        entry.known.info = Some(info);
        let news = before != entry.known.stamp();
        self.told(news)
    }

    /// A server does or does not listen to a subject; `note` writes down which.
    pub(super) fn listens(&mut self, server: &ServerRef, note: impl FnOnce(&mut Ears)) -> Option<Change> {
        let entry = self.servers.get_mut(&server.name).filter(|entry| entry.known.id == server.id)?;
        note(&mut entry.ears);
        let before = std::mem::replace(&mut entry.known.resolver, entry.ears.kind());
        let news = before != entry.known.resolver;
        self.told(news)
    }

    fn told(&mut self, news: bool) -> Option<Change> {
        self.epoch += u64::from(news);
        news.then_some(Change::Told)
    }

    /// All servers, by name.
    pub fn known(&self) -> Vec<Known> {
        self.servers.values().map(|entry| entry.known.clone()).collect()
    }

    /// Who is live and who is not.
    pub fn roll(&self) -> Roll {
        let pick = |live: bool| {
            let servers = self.servers.values().filter(|entry| entry.known.live == live);
            servers.map(|entry| ServerRef { name: entry.known.name.clone(), id: entry.known.id.clone() }).collect()
        };
        Roll { epoch: self.epoch, live: pick(true), gone: pick(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, id: &str) -> ServerRef {
        ServerRef { name: name.to_owned(), id: id.to_owned() }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn round(heard: &[&str], routed: Option<&[&str]>) -> Round {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        Round { heard: set(heard), routes: routed.map(|routed| ("c".to_owned(), set(routed))).into_iter().collect() }
    }

    const PATIENCE: TimeDelta = TimeDelta::seconds(10);
    const FORGET: TimeDelta = TimeDelta::seconds(100);

    impl Members {
        fn after(&mut self, round: &Round, second: i64) -> Option<Change> {
            self.round_over(round, at(second), PATIENCE, FORGET)
        }
    }

    fn two() -> Members {
        let mut members = Members::default();
        assert_eq!(members.heard(&server("n1", "A"), at(1)), Some(Change::Joined));
        assert_eq!(members.heard(&server("n2", "B"), at(1)), Some(Change::Joined));
        assert_eq!(members.heard(&server("n2", "B"), at(2)), None);
        let info = br#"{"server":{"name":"n2","id":"B","cluster":"c"},"data":{}}"#;
        members.learned(crate::resolver::answers::server_info(info).unwrap());
        members
    }

    #[test]
    fn silence_without_routes_is_death_and_a_word_is_life() {
        let mut members = two();
        assert_eq!(members.after(&round(&["A"], None), 3), None);
        assert!(members.in_doubt());
        assert_eq!(members.after(&round(&["A"], Some(&[])), 4), Some(Change::Left));
        assert!(!members.in_doubt());
        assert_eq!(&*members.roll().gone, &[server("n2", "B")]);
        assert_eq!(members.heard(&server("n2", "B"), at(5)), Some(Change::Joined));
        assert!(members.roll().gone.is_empty());
    }

    #[test]
    fn silence_with_routes_is_work_for_a_while() {
        let mut members = two();
        for second in 3..12 {
            assert_eq!(members.after(&round(&["A"], Some(&["n2"])), second), None);
        }
        assert_eq!(members.after(&round(&["A"], Some(&["n2"])), 12), Some(Change::Left));
    }

    #[test]
    fn when_nobody_answers_nobody_is_dead() {
        let mut members = two();
        for second in 3..30 {
            assert_eq!(members.after(&round(&[], None), second), None);
        }
        assert_eq!(members.roll().live.len(), 2);
    }

    #[test]
    fn a_restart_is_the_same_name_with_a_new_id() {
        let mut members = two();
        assert_eq!(members.ended(&server("n2", "B")), Some(Change::Left));
        assert_eq!(members.heard(&server("n2", "B"), at(3)), None, "said before it ended");
        assert_eq!(members.heard(&server("n2", "C"), at(4)), Some(Change::Joined));
        assert_eq!(members.ended(&server("n2", "B")), None, "the end of the one before");
        let roll = members.roll();
        assert_eq!(&*roll.live, &[server("n1", "A"), server("n2", "C")]);
        assert_eq!(roll.epoch, 4);
    }

    #[test]
    fn the_long_gone_are_forgotten() {
        let mut members = two();
        members.ended(&server("n2", "B"));
        assert_eq!(members.after(&round(&["A"], None), 102), Some(Change::Left));
        assert_eq!(members.known().len(), 1);
    }
}
