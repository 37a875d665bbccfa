//! Whether permissions allow a subject and by which rule, as nats-server decides it.

use serde::{Deserialize, Serialize};

use crate::jwt::{
    Permissions,
    permissions::Permission,
    subject::{contains, is_valid, overlap},
};

/// Publish or subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Publish.
    Publish,
    /// Subscribe.
    Subscribe,
}

/// What a server would decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Verdict {
    /// It is allowed.
    pub allowed: bool,
    /// The rule that decided, in words.
    pub rule: String,
}

/// Decides whether `permissions` allow `subject`: deny wins, an empty allow list allows everything.
pub fn explain(permissions: &Permissions, direction: Direction, subject: &str) -> Verdict {
    match direction {
        Direction::Publish => publish(permissions, subject),
        Direction::Subscribe => subscribe(&permissions.subscribe, subject),
    }
}

fn publish(permissions: &Permissions, subject: &str) -> Verdict {
    // Wildcards pass: JetStream clients publish filters such as `$JS.API.CONSUMER.CREATE.S.c.orders.>`.
    if !is_valid(subject) {
        return denied(format!("'{subject}' is no well-formed subject"));
    }
    let Permission { allow, deny } = &permissions.publish;
    if let Some(rule) = deny.iter().find(|rule| admits(rule, subject)) {
        return denied(format!("publish deny '{rule}'"));
    }
    if allow.is_empty() && permissions.response.is_some() {
        // The permission to answer without an allow list turns blanket publish off.
        return denied("only answers to requests are allowed".to_owned());
    }
    if allow.is_empty() {
        return allowed("no publish allow list: everything is allowed".to_owned());
    }
    match allow.iter().find(|rule| admits(rule, subject)) {
        Some(rule) => allowed(format!("publish allow '{rule}'")),
        None => denied("no publish allow rule matches".to_owned()),
    }
}

fn subscribe(permission: &Permission, subject: &str) -> Verdict {
    if !is_valid(subject) {
        return denied(format!("'{subject}' is no well-formed subject"));
    }
    // Rules for one queue group only ("subject queue") say nothing about a plain subscription.
    let plain = |rules: &'_ [String]| rules.iter().filter(|rule| !rule.contains(' ')).cloned().collect::<Vec<_>>();
    let (allow, deny) = (plain(&permission.allow), plain(&permission.deny));
    if let Some(rule) = deny.iter().find(|rule| admits(rule, subject)) {
        return denied(format!("subscribe deny '{rule}'"));
    }
    let rule = if permission.allow.is_empty() {
        "no subscribe allow list: everything is allowed".to_owned()
    } else {
        match allow.iter().find(|rule| admits(rule, subject)) {
            Some(rule) => format!("subscribe allow '{rule}'"),
            None => return denied("no subscribe allow rule contains it".to_owned()),
        }
    };
    let overlapping: Vec<_> = deny.iter().filter(|rule| overlap(rule, subject)).map(|r| format!("'{r}'")).collect();
    if overlapping.is_empty() {
        return allowed(rule);
    }
    // The subscription stands, and servers drop what a deny rule matches on its way out.
    allowed(format!("{rule}; messages are filtered by subscribe deny {}", overlapping.join(", ")))
}

/// Whether a server finds `rule` for a subject. It takes wildcards in the subject for plain tokens, so `*` in a
/// rule also takes a last `>`: `a.*` lets a subscription to `a.>` in, which then receives everything below `a`.
fn admits(rule: &str, subject: &str) -> bool {
    match subject.strip_suffix('>') {
        Some(start) if start.is_empty() || start.ends_with('.') => {
            // Any token that no rule spells out stands for the `>` as a server sees it here.
            contains(rule, subject) || contains(rule, &format!("{start}\u{1}"))
        }
        _ => contains(rule, subject),
    }
}

fn allowed(rule: String) -> Verdict {
    Verdict { allowed: true, rule }
}

fn denied(rule: String) -> Verdict {
    Verdict { allowed: false, rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::permissions::ResponsePermission;

    fn rules(allow: &[&str], deny: &[&str]) -> Permission {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Permission { allow: owned(allow), deny: owned(deny) }
    }

    #[test]
    fn publish_verdicts() {
        for (allow, deny, subject, allowed, rule) in [
            (&["a.>"][..], &[][..], "a.b", true, "publish allow 'a.>'"),
            (&["a.>"], &["a.b"], "a.b", false, "publish deny 'a.b'"),
            (&["a.>"], &[], "a", false, "no publish allow rule matches"),
            (&[], &["a.*"], "b", true, "no publish allow list"),
            (&["a.>"], &[], "a.*", true, "publish allow 'a.>'"),
            (&["a.>"], &[], "a..b", false, "'a..b' is no well-formed subject"),
        ] {
            let permissions = Permissions { publish: rules(allow, deny), ..Permissions::default() };
            let verdict = explain(&permissions, Direction::Publish, subject);
            assert_eq!(verdict.allowed, allowed, "{subject}");
            assert!(verdict.rule.starts_with(rule), "{}", verdict.rule);
        }
        let response = Some(ResponsePermission { max: 1, ttl: 0 });
        let permissions = Permissions { response, ..Permissions::default() };
        assert!(!explain(&permissions, Direction::Publish, "a").allowed);
    }

    #[test]
    fn subscribe_verdicts() {
        for (allow, deny, subject, allowed, rule) in [
            (&["a.>"][..], &[][..], "a.b.>", true, "subscribe allow 'a.>'"),
            (&["a.>"], &[], "a.>", true, "subscribe allow 'a.>'"),
            (&["a.>"], &[], ">", false, "no subscribe allow rule contains it"),
            (&["a.b"], &[], "a.*", false, "no subscribe allow rule contains it"),
            (&["a.*"], &[], "a.>", true, "subscribe allow 'a.*'"),
            (&["a.*.c"], &[], "a.>", false, "no subscribe allow rule contains it"),
            (&[], &["a.>"], "a.*", false, "subscribe deny 'a.>'"),
            (&[], &["a.b"], "a.*", true, "no subscribe allow list: everything is allowed; messages are filtered by"),
            (&["*.b"], &["a.*"], "*.b", true, "subscribe allow '*.b'; messages are filtered by subscribe deny 'a.*'"),
            (&["a q"], &[], "a", false, "no subscribe allow rule contains it"),
            (&["a"], &[], "a b", false, "'a b' is no well-formed subject"),
        ] {
            let permissions = Permissions { subscribe: rules(allow, deny), ..Permissions::default() };
            let verdict = explain(&permissions, Direction::Subscribe, subject);
            assert_eq!(verdict.allowed, allowed, "{subject}");
            assert!(verdict.rule.starts_with(rule), "{}", verdict.rule);
        }
    }
}
