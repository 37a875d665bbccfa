//! What the authority made in JetStream has to be there: what is missing, and having it made again.
//!
//! Data that was in it is lost, and that is on record. A consumer that is made again begins where its
//! configuration says, not where it was.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use uuid::Uuid;

use super::{Actor, Authority};
use crate::{
    error::Result,
    model::{Environment, ItemName},
    store::made::Made,
};

/// What an environment lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its id.
    pub environment: Uuid,
    /// Of its own two streams, the event stream's and the bucket's, those that are missing.
    pub own: Vec<String>,
    /// The further streams.
    pub streams: Vec<ItemName>,
    /// The consumers; all of them when their stream is missing.
    pub consumers: Vec<ItemName>,
}

/// What is missing of `made`, where the servers have `streams` in its account: pure.
pub fn lost(made: &Made, streams: Option<&BTreeMap<String, BTreeSet<String>>>) -> Option<Lost> {
    let environment = Environment::new(made.org.clone(), made.env_type.clone());
    let events = environment.stream();
    let consumers = streams.and_then(|streams| streams.get(&events));
    let has = |name: &String| streams.is_some_and(|streams| streams.contains_key(name));
    let wanted = [events, format!("KV_{}", environment.bucket())];
    let gone = Lost {
        environment: made.environment,
        own: wanted.into_iter().filter(|name| !has(name)).collect(),
        streams: made.streams.iter().filter(|name| !has(&environment.further_stream(name))).cloned().collect(),
        consumers: made
            .consumers
            .iter()
            .filter(|name| consumers.is_none_or(|consumers| !consumers.contains(name.as_str())))
            .cloned()
            .collect(),
    };
    (!gone.own.is_empty() || !gone.streams.is_empty() || !gone.consumers.is_empty()).then_some(gone)
}

impl Authority {
    /// Has what an environment lost made again, with an audit event that says what that was. False: it
    /// is no longer there, or being made already.
    pub async fn restore(&self, made: &Made, lost: &Lost) -> Result<bool> {
        let environment = Environment::new(made.org.clone(), made.env_type.clone());
        let further = lost.streams.iter().map(|name| environment.further_stream(name));
        let streams: Vec<_> = lost.own.iter().cloned().chain(further).collect();
        let detail = json!({"streams": streams, "consumers": lost.consumers});
        let actor = Actor::task("restore");
        let event = self.event(&actor, "environment.restore", Some(&made.org), environment.name(), detail);
        let own = !lost.own.is_empty();
        let again = self.store.make_again(made.environment, own, &lost.streams, &lost.consumers, &event).await?;
        if again {
            self.provision_wanted.notify_one();
            self.announce(made.account);
        }
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entropy::SeededEntropy,
        nkey::{Account, KeyPair},
    };

    fn made() -> Made {
        Made {
            environment: Uuid::from_u128(7),
            org: "acme".parse().unwrap(),
            account: KeyPair::<Account>::generate(&SeededEntropy::new(1)).public(),
            env_type: "prod".parse().unwrap(),
            streams: vec!["jobs".parse().unwrap()],
            consumers: vec!["a".parse().unwrap(), "b".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        const EVENTS: &str = "ws-acme-prod-events";
        const BUCKET: &str = "KV_ws-acme-prod-state";
        const JOBS: &str = "ws-acme-prod-jobs";
        // The streams with their consumers; the environment's own, further streams and consumers that are lost.
        type Streams = &'static [(&'static str, &'static [&'static str])];
        type Names = &'static [&'static str];
        let table: [(Streams, Names, Names, Names); 7] = [
            (&[(EVENTS, &["a", "b", "c"]), (BUCKET, &[]), (JOBS, &[]), ("theirs", &[])], &[], &[], &[]),
            (&[(EVENTS, &["b"]), (BUCKET, &[]), (JOBS, &["a"])], &[], &[], &["a"]),
            (&[(EVENTS, &["a", "b"]), (JOBS, &[])], &[BUCKET], &[], &[]),
            (&[(EVENTS, &["a", "b"]), (BUCKET, &[])], &[], &["jobs"], &[]),
            (&[(BUCKET, &[]), (JOBS, &[])], &[EVENTS], &[], &["a", "b"]),
            (&[("theirs", &["a", "b"])], &[EVENTS, BUCKET], &["jobs"], &["a", "b"]),
            (&[], &[EVENTS, BUCKET], &["jobs"], &["a", "b"]),
        ];
        for (has, own, streams, consumers) in table {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
            let items = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<ItemName>>();
            let has: BTreeMap<String, BTreeSet<String>> = has
                .iter()
                .map(|(name, consumers)| ((*name).to_owned(), owned(consumers).into_iter().collect()))
                .collect();
            let lost = lost(&made(), (!has.is_empty()).then_some(&has));
            let (own, streams, consumers) = (owned(own), items(streams), items(consumers));
            let nothing = own.is_empty() && streams.is_empty() && consumers.is_empty();
            let environment = Uuid::from_u128(7);
            assert_eq!(lost, (!nothing).then_some(Lost { environment, own, streams, consumers }), "{has:?}");
        }
    }
}
