//! Where a strict role may publish and subscribe: the subjects, the streams, the KV bucket and
//! the inbox of one environment, and of JetStream only what creates and deletes nothing.
//!
//! This bounds what a client may *say*. What JetStream does with it is not bounded: servers send
//! the answer to a request to whatever reply subject it names, without a look at permissions.
//! `policies/README.md` says what follows from that.

use crate::{
    jwt::{Permissions, subject},
    model::{Environment, ItemName, names::renewal_subject},
};

use super::explain::Direction;

/// What a user's own key is in a scope's template; the server puts the key there.
pub(super) const SUBJECT: &str = "{{subject()}}";

/// A subject that leaves the territory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Publish or subscribe.
    pub direction: Direction,
    /// The subject; empty when everything is allowed.
    pub subject: String,
    /// Why it is refused and what to do.
    pub reason: String,
}

/// Every allowed subject that is not inside `env`: empty for permissions that a strict role may have.
/// `permissions` are those of the scope, with `{{subject()}}` unresolved.
pub fn strictness_problems(permissions: &Permissions, env: &Environment) -> Vec<Outside> {
    let mut problems = Vec::new();
    for (direction, permission) in
        [(Direction::Publish, &permissions.publish), (Direction::Subscribe, &permissions.subscribe)]
    {
        if permission.allow.is_empty() {
            let reason = "an empty allow list allows everything".to_owned();
            problems.push(Outside { direction, subject: String::new(), reason });
        }
        for subject in &permission.allow {
            if let Some(reason) = outside(direction, subject, env) {
                problems.push(Outside { direction, subject: subject.clone(), reason });
            }
        }
    }
    if permissions.response.is_some() {
        // The reply subject is the requester's choice: answering reaches wherever it points.
        let reason = "a permission to answer reaches any reply subject".to_owned();
        problems.push(Outside { direction: Direction::Publish, subject: String::new(), reason });
    }
    problems
}

/// Why `subject` may not stand in a strict role of `env`.
pub(super) fn outside(direction: Direction, subject: &str, env: &Environment) -> Option<String> {
    let mut territory = match direction {
        Direction::Publish => publish_territory(env),
        Direction::Subscribe => subscribe_territory(env),
    };
    if direction == Direction::Publish {
        territory.extend(subject.split('.').filter(|token| is_own_stream(token, env)).flat_map(stream_territory));
    }
    if territory.iter().any(|pattern| subject::contains(pattern, subject)) {
        return None;
    }
    let hint = if subject.starts_with("$JS.ACK.") {
        "an acknowledgement spells out every token, or it reaches other streams"
    } else if subject.starts_with("$JS.API.") {
        "a strict role creates nothing in JetStream and reads its own stream and bucket only; \
         reach = \"organization\" may do more"
    } else {
        "a strict role stays in its own subjects, stream, bucket and inbox"
    };
    Some(format!("'{subject}' is outside the environment: {hint}"))
}

/// A further stream of `env` is called `ws-{env}-{name}`. In the account of one organization no other
/// environment's streams begin like this, for an environment's type holds no hyphen.
fn is_own_stream(token: &str, env: &Environment) -> bool {
    let name = token.strip_prefix(&format!("ws-{}-", env.name()));
    name.is_some_and(|name| name.parse::<ItemName>().is_ok())
}

fn publish_territory(env: &Environment) -> Vec<String> {
    let bucket = env.bucket();
    let mut territory = vec![env.subjects(), format!("$KV.{bucket}.>"), renewal_subject(SUBJECT)];
    territory.extend(stream_territory(&env.stream()));
    territory.extend(reading(&format!("KV_{bucket}")));
    territory
}

/// What may be said of a stream, which is its environment's alone.
fn stream_territory(stream: &str) -> Vec<String> {
    // Consumers listen on 9 tokens, newer servers on 11 or more. With fewer fixed tokens, the form
    // for one stream would match the other form of another stream.
    let mut territory = vec![
        format!("$JS.ACK.{stream}.*.*.*.*.*.*"),
        format!("$JS.ACK.*.*.{stream}.*.*.*.*.*.*"),
        format!("$JS.ACK.*.*.{stream}.*.*.*.*.*.*.>"),
    ];
    territory.extend(reading(stream));
    territory
}

fn reading(stream: &str) -> [String; 6] {
    [
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
    ]
}

fn subscribe_territory(env: &Environment) -> Vec<String> {
    vec![env.subjects(), format!("$KV.{}.>", env.bucket()), format!("_INBOX.{SUBJECT}.>")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_environment() {
        let env = Environment::new("acme".parse().unwrap(), "prod".parse().unwrap());
        for (direction, subject) in [
            (Direction::Publish, "ws.acme-prod.>"),
            (Direction::Publish, "ws.acme-prod.a.*"),
            (Direction::Publish, "$JS.API.CONSUMER.MSG.NEXT.ws-acme-prod-events.*"),
            (Direction::Publish, "$JS.API.DIRECT.GET.KV_ws-acme-prod-state.$KV.ws-acme-prod-state.>"),
            (Direction::Publish, "$JS.ACK.ws-acme-prod-events.d.*.*.*.*.*"),
            (Direction::Subscribe, "_INBOX.{{subject()}}.>"),
            (Direction::Subscribe, "$KV.ws-acme-prod-state.>"),
        ] {
            assert_eq!(outside(direction, subject, &env), None);
        }
        for (direction, subject) in [
            (Direction::Publish, ">"),
            (Direction::Publish, "ws.>"),
            (Direction::Publish, "ws.*.a"),
            (Direction::Publish, "ws.acme-prod-dev.>"),
            (Direction::Publish, "$JS.API.>"),
            (Direction::Publish, "$JS.API.CONSUMER.CREATE.ws-acme-prod-events"),
            (Direction::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.ws-acme-prod-events.d"),
            (Direction::Publish, "$JS.API.CONSUMER.MSG.NEXT.*.d"),
            (Direction::Publish, "$JS.API.CONSUMER.MSG.NEXT.>"),
            (Direction::Publish, "$JS.API.STREAM.PURGE.ws-acme-prod-events"),
            (Direction::Publish, "$JS.API.STREAM.DELETE.ws-acme-prod-events"),
            (Direction::Publish, "$JS.ACK.ws-acme-prod-events.>"),
            (Direction::Publish, "$JS.ACK.*.*.ws-acme-prod-events.>"),
            (Direction::Publish, "$JS.ACK.*.*.ws-acme-prod-events.*.*.*.*"),
            (Direction::Publish, "_INBOX.>"),
            (Direction::Publish, "$SYS.REQ.USER.INFO"),
            (Direction::Subscribe, "_INBOX.>"),
            (Direction::Subscribe, "_INBOX.*.>"),
            (Direction::Subscribe, "$JS.API.>"),
            (Direction::Subscribe, "$KV.>"),
        ] {
            assert!(outside(direction, subject, &env).is_some(), "{subject}");
        }
        assert_eq!(strictness_problems(&Permissions::default(), &env).len(), 2);
    }
}
