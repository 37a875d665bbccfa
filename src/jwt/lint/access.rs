//! Rules for what a user may do: permissions, limits, templates, and the user claims themselves.

use super::{MAX_USER_TOKEN, NOT_A_SUBJECT, Problems, Rules};
use crate::jwt::{
    Claims, User,
    account::ScopeTemplate,
    limits::{TimeRange, UserLimits},
    permissions::Permissions,
    subject,
};

impl Rules for User {
    const MAX_TOKEN: usize = MAX_USER_TOKEN;

    fn examine(claims: &Claims<Self>, problems: &mut Problems) {
        let user = &claims.nats;
        check_permissions(&user.permissions, Templates::Literal, "/nats", problems);
        check_limits(&user.limits, "/nats", problems);
        // In a user, unlike in a template, an absent number means 0, and servers then refuse every
        // subscription or message. Only under a scoped key nothing at all is said.
        if user.issuer_account.is_none() || !user.is_bare() {
            let UserLimits { subs, data, payload, .. } = user.limits;
            for (name, value) in [("subs", subs), ("data", data), ("payload", payload)] {
                if value.is_none() {
                    problems.add(
                        format!("/nats/{name}"),
                        "absent means 0: say -1 for no limit, or carry neither permissions nor limits under a scoped key",
                    );
                }
            }
        }
    }
}

/// Whether `{{subject()}}` and the like stand for something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Templates {
    Expanded,
    Literal,
}

pub(super) fn check_template(template: &ScopeTemplate, at: &str, problems: &mut Problems) {
    check_permissions(&template.permissions, Templates::Expanded, at, problems);
    check_limits(&template.limits, at, problems);
}

pub(super) fn check_permissions(permissions: &Permissions, templates: Templates, at: &str, problems: &mut Problems) {
    for (side, permission, queues) in [("pub", &permissions.publish, false), ("sub", &permissions.subscribe, true)] {
        for (list, subjects) in [("allow", &permission.allow), ("deny", &permission.deny)] {
            for (index, text) in subjects.iter().enumerate() {
                if let Err(detail) = check_permission(text, queues, templates) {
                    problems.add(format!("{at}/{side}/{list}/{index}"), detail);
                }
            }
        }
    }
}

fn check_permission(text: &str, queues: bool, templates: Templates) -> Result<(), String> {
    let text = match templates {
        Templates::Expanded => expand(text)?,
        Templates::Literal if text.contains("{{") => {
            return Err("templates work only in the scope of a signing key".to_owned());
        }
        Templates::Literal => text.to_owned(),
    };
    let mut words = text.split(' ');
    let (subject, queue, more) = (words.next().unwrap_or_default(), words.next(), words.next());
    if more.is_some() || !subject::is_valid(subject) || queue.is_some_and(|queue| !subject::is_valid(queue)) {
        return Err(NOT_A_SUBJECT.to_owned());
    }
    if queue.is_some() && !queues {
        return Err("a queue name may stand only in subscribe permissions".to_owned());
    }
    Ok(())
}

/// The text with every template replaced by some token.
fn expand(text: &str) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (template, after) = after.split_once("}}").ok_or("a template is not closed by '}}'")?;
        if !is_known(&template.trim().to_lowercase()) {
            return Err(format!(
                "unknown template '{}': there are name(), subject(), account-name(), account-subject(), tag(x) and \
                 account-tag(x)",
                template.escape_debug()
            ));
        }
        expanded.push_str(before);
        expanded.push('x');
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_known(template: &str) -> bool {
    let tag = |function| {
        template.strip_prefix(function).and_then(|rest| rest.strip_suffix(')')).is_some_and(|name| !name.is_empty())
    };
    ["name()", "subject()", "account-name()", "account-subject()"].contains(&template)
        || tag("tag(")
        || tag("account-tag(")
}

/// What servers know. They pass over others, and refuse the user when nothing is left.
const CONNECTION_TYPES: [&str; 7] =
    ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"];

fn check_limits(limits: &UserLimits, at: &str, problems: &mut Problems) {
    for (index, network) in limits.src.iter().enumerate() {
        let network = network.parse::<ipnet::IpNet>();
        problems.add_unless(network.is_ok(), &format!("{at}/src/{index}"), "not a network such as 10.0.0.0/8");
    }
    for (index, TimeRange { start, end }) in limits.times.iter().enumerate() {
        for (name, time) in [("start", start), ("end", end)] {
            let at = format!("{at}/times/{index}/{name}");
            problems.add_unless(is_time_of_day(time), &at, "not a time of day such as 08:30:00");
        }
    }
    if let Some(zone) = &limits.times_location {
        let known = zone.parse::<chrono_tz::Tz>().is_ok();
        problems.add_unless(known, &format!("{at}/times_location"), "not a time zone such as Europe/Berlin");
    }
    for (index, kind) in limits.allowed_connection_types.iter().enumerate() {
        if !CONNECTION_TYPES.contains(&kind.as_str()) {
            let detail = format!("must be one of {}", CONNECTION_TYPES.join(", "));
            problems.add(format!("{at}/allowed_connection_types/{index}"), detail);
        }
    }
}

fn is_time_of_day(text: &str) -> bool {
    let mut parts = text.split(':');
    let mut below = |limit: u8| {
        parts.next().is_some_and(|part| {
            part.len() == 2
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse::<u8>().is_ok_and(|value| value < limit)
        })
    };
    below(24) && below(60) && below(60) && parts.next().is_none()
}
