//! One answer from each server that is expected to give one.
//!
//! A request is over when every live server has answered; a server that is found
//! dead meanwhile is no longer waited for. After a reconnect the request is published again, for it or
//! its answers may have been lost: everything that is asked here may be asked twice, a push only within a moment.
//! So it is, with growing pauses, while a live server does not answer: of one that has only just started we hear before
//! all others know what it listens to, and what is asked then does not reach it (seen with 2.15.1).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{answers::ServerRef, connection::Link, registry::Registry, system::Timing};
use crate::error::Result;

/// What came back.
#[derive(Debug)]
pub struct Gathered<T> {
    /// The answers, each server's last one.
    pub answers: Vec<(ServerRef, T)>,
    /// The servers that are known and did not answer.
    pub missing: Vec<ServerRef>,
}

impl<T> Gathered<T> {
    /// One item for each server: its answer, or `none` where there is none.
    pub fn into_all<U>(self, mut some: impl FnMut(ServerRef, T) -> U, none: impl FnMut(ServerRef) -> U) -> Vec<U> {
        let answers = self.answers.into_iter().map(|(server, answer)| some(server, answer));
        answers.chain(self.missing.into_iter().map(none)).collect()
    }
}

/// Who asks, over what, and how long.
pub struct Asker<'a> {
    /// The connection.
    pub link: &'a Link,
    /// Who is expected to answer.
    pub registry: &'a Registry,
    /// How long to wait.
    pub timing: Timing,
    /// The names of servers that do not answer what is asked here.
    pub skip: Vec<String>,
    /// Until when what is asked may be sent again, over the next connection.
    pub resend: Duration,
}

/// Until a request is published again for those that have not answered, and twice as long each time: some are busy.
const AGAIN: Duration = Duration::from_secs(1);

/// After so many pauses in a row without a connection nothing more is expected.
const LOST: u32 = 4;

impl Asker<'_> {
    /// The same for requests that keep servers busy.
    pub(super) fn patient(&self) -> Self {
        Asker { timing: Timing { answer: self.timing.slow_answer, ..self.timing }, skip: self.skip.clone(), ..*self }
    }

    /// The same for what may be overtaken: a process that was stopped in the middle does not say again what was true then.
    pub(super) fn prompt(&self) -> Self {
        Asker { resend: self.timing.resend, skip: self.skip.clone(), ..*self }
    }

    /// The same for requests that only resolvers with a directory answer.
    pub(super) fn storing(&self) -> Self {
        let known = self.registry.known().into_iter();
        let skip = known.filter(|server| !server.may_store()).map(|server| server.name).collect();
        Asker { skip, ..*self }
    }

    /// Asks all servers. `parse` reads an answer; what it cannot read is not counted. Fails only when
    /// the request cannot be sent.
    pub async fn all<T>(
        &self,
        subject: &str,
        payload: Bytes,
        parse: impl Fn(&[u8]) -> Option<(ServerRef, T)>,
    ) -> Result<Gathered<T>> {
        let mut roll = self.registry.roll();
        let (mut waiting, gone) = {
            let roll = roll.borrow_and_update();
            let asked = |servers: &[ServerRef]| -> Vec<ServerRef> {
                servers.iter().filter(|server| !self.skip.contains(&server.name)).cloned().collect()
            };
            (asked(&roll.live), asked(&roll.gone))
        };
        // Before the first servers are known there is nobody in particular to wait for.
        let blind = waiting.is_empty() && self.skip.is_empty();
        let mut answers: Vec<(ServerRef, T)> = Vec::with_capacity(waiting.len());
        let mut given_up = Vec::new();
        let mut connects = self.link.connects();
        connects.mark_unchanged();
        let mut listener = self.link.mux().listen();
        listener.publish(self.link.client(), subject, payload.clone()).await?;

        let start = Instant::now();
        let deadline = start + self.timing.answer;
        let mut wake = start + self.timing.doubt;
        let (mut again, mut wait) = (start + AGAIN, AGAIN);
        let mut last_answer = None;
        let mut lost = 0;
        while blind || !waiting.is_empty() {
            tokio::select! {
                biased;
                message = listener.next() => {
                    let Some(message) = message else { break };
                    if message.status.is_some() {
                        // Nobody in the cluster listens to such requests.
                        break;
                    }
                    let Some((server, answer)) = parse(&message.payload) else { continue };
                    self.registry.heard(&server);
                    waiting.retain(|other| other.name != server.name);
                    given_up.retain(|other: &ServerRef| other.name != server.name);
                    answers.retain(|(other, _)| *other != server);
                    answers.push((server, answer));
                    last_answer = Some(Instant::now());
                }
                // The registry outlives us, so that there is no end to its changes.
                _ = roll.changed() => {
                    let roll = roll.borrow_and_update();
                    let (live, dead) = waiting.into_iter().partition(|server| roll.live.contains(server));
                    waiting = live;
                    given_up.extend::<Vec<_>>(dead);
                }
                Ok(()) = connects.changed() => {
                    if start.elapsed() > self.resend {
                        break;
                    }
                    listener.publish(self.link.client(), subject, payload.clone()).await?;
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    lost = if self.link.is_connected() { 0 } else { lost + 1 };
                    let idle = blind && last_answer.is_some_and(|last| now - last >= self.timing.idle);
                    if now >= deadline || idle || lost >= LOST {
                        break;
                    }
                    self.registry.doubt();
                    if now >= again && now - start < self.resend {
                        wait *= 2;
                        again = now + wait;
                        listener.publish(self.link.client(), subject, payload.clone()).await?;
                    }
                    wake = (now + self.timing.doubt).min(deadline);
                }
            }
        }
        let unheard = gone.iter().filter(|server| !answers.iter().any(|(other, _)| other.name == server.name));
        let missing = waiting.into_iter().chain(given_up).chain(unheard.cloned()).collect();
        Ok(Gathered { answers, missing })
    }
}
