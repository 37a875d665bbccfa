//! When to look at which account: soon after something was said of it, and once more, later. Nothing here asks anybody.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::ledger::Key;

/// The accounts to be looked at.
#[derive(Debug)]
pub(super) struct Looks {
    soon: Duration,
    later: Duration,
    limit: usize,
    due: HashMap<Key, (Instant, u8)>,
}

impl Looks {
    /// The first look comes after `soon`, the second one `later` than that; no more than `limit` accounts wait.
    pub(super) fn new(soon: Duration, later: Duration, limit: usize) -> Self {
        Self { soon, later, limit, due: HashMap::new() }
    }

    /// Something was said of it.
    pub(super) fn add(&mut self, account: Key, now: Instant) {
        if let Some((_, looks)) = self.due.get_mut(&account) {
            // It is looked at soon, or was a moment ago.
            *looks = 2;
        } else if self.due.len() < self.limit {
            self.due.insert(account, (now + self.soon, 2));
        }
    }

    /// Those whose time has come; each is looked at once more, later.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Key> {
        let (later, mut taken) = (self.later, Vec::new());
        self.due.retain(|account, (at, looks)| {
            if *at <= now {
                taken.push(*account);
                *looks -= 1;
                *at = now + later;
            }
            *looks > 0
        });
        taken
    }

    /// Waits until the time of one has come; none waits: forever.
    pub(super) async fn next(&self) {
        match self.due.values().map(|(at, _)| *at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entropy::SystemEntropy,
        nkey::{Account, KeyPair},
    };

    const SOON: Duration = Duration::from_millis(60);
    const LATER: Duration = Duration::from_secs(1);

    fn key() -> Key {
        KeyPair::<Account>::generate(&SystemEntropy::new()).public()
    }

    #[test]
    fn an_account_is_looked_at_soon_and_once_more_however_often_it_is_pushed() {
        let (account, start) = (key(), Instant::now());
        let mut looks = Looks::new(SOON, LATER, 10);
        looks.add(account, start);
        looks.add(account, start);
        assert_eq!(looks.take(start), []);
        assert_eq!(looks.take(start + SOON), [account]);
        assert_eq!(looks.take(start + SOON), []);
        assert_eq!(looks.take(start + SOON + LATER), [account]);
        assert_eq!(looks.take(start + 10 * LATER), [], "nothing came meanwhile");

        // Pushed a thousand times in ten seconds.
        let mut count = 0;
        for step in 0..1000 {
            let now = start + Duration::from_millis(10 * step);
            looks.add(account, now);
            count += looks.take(now).len();
        }
        assert!((9..=11).contains(&count), "{count}");
    }

    #[test]
    fn no_more_than_so_many_wait() {
        let (mut looks, now) = (Looks::new(SOON, LATER, 256), Instant::now());
        for _ in 0..512 {
            looks.add(key(), now);
        }
        assert_eq!(looks.take(now + SOON).len(), 256);
    }
}
