//! What a caller may ask for beyond the role, and what organization and plan let it have. How a
//! credential is made and signed stands in `issue`.

use super::{Actor, Authority, mint::limits as limits_of};
use crate::{
    error::{Error, FieldError, Kind, Result},
    jwt::limits::{TimeRange, UserLimits},
    model::{Reach, TimeWindow, credential::Options},
    policy::Role,
    store::keys::IssuingContext,
};

const CONNECTION_TYPES: [&str; 7] =
    ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"];

/// The most times of day.
const MAX_TIMES: usize = 16;

impl Authority {
    /// Refuses what the organization or its plan forbid. What was issued before stays as it is.
    pub(super) fn require_allowed(
        &self,
        actor: &Actor,
        context: &IssuingContext,
        role: &Role,
        options: &Options,
    ) -> Result<()> {
        let policies = self.policies();
        if role.reach == Reach::Organization {
            if actor.confined {
                let detail = format!(
                    "the role '{}' reaches the whole organization; you may issue what stays in one environment",
                    role.name
                );
                return Err(Error::new(Kind::Forbidden, "organization-reach-not-granted", detail));
            }
            let by = if !context.allow_organization_reach {
                Some("the organization does not allow such credentials (allowOrganizationReach)".to_owned())
            } else if !policies.plan(&context.plan)?.organization_reach {
                Some(format!("its plan '{}' does not allow such credentials", context.plan))
            } else {
                None
            };
            if let Some(by) = by {
                let detail = format!("the role '{}' reaches the whole organization, and {by}", role.name);
                return Err(Error::field("organization-reach-forbidden", "/role", detail));
            }
        }
        if options.bearer && limits_of(&policies, &context.plan, &context.limits)?.disallow_bearer {
            let detail = "the organization's plan does not allow bearer credentials";
            return Err(Error::field("bearer-not-allowed", "/bearer", detail));
        }
        Ok(())
    }
}

/// The time zone of `times`. A server without one would take its own.
pub(super) fn zone(times: &[TimeWindow], asked: Option<String>) -> Option<String> {
    asked.or_else(|| (!times.is_empty()).then(|| "UTC".to_owned()))
}

/// The limits of a user that carries its own: the role's, narrowed by what the caller asked for. An
/// absent number would mean 0 here, where it means unlimited in a scope (nats-server 2.15.1).
pub(super) fn limits(role: &UserLimits, options: &Options) -> UserLimits {
    let mut limits = role.clone();
    if !options.allowed_cidrs.is_empty() {
        limits.src.clone_from(&options.allowed_cidrs);
    }
    if !options.connection_types.is_empty() {
        limits.allowed_connection_types.clone_from(&options.connection_types);
    }
    for number in [&mut limits.subs, &mut limits.data, &mut limits.payload] {
        number.get_or_insert(-1);
    }
    limits.times = options
        .times
        .iter()
        .map(|TimeWindow { start, end }| TimeRange { start: start.clone(), end: end.clone() })
        .collect();
    limits.times_location.clone_from(&options.times_location);
    limits.bearer_token = options.bearer;
    limits
}

/// Refuses what the role does not allow or nobody understands.
pub(super) fn check(options: &Options, role: &Role) -> Result<()> {
    let of_role: Vec<_> = role.limits.allowed_connection_types.iter().map(String::as_str).collect();
    let allowed = if of_role.is_empty() { &CONNECTION_TYPES[..] } else { &of_role };
    for (index, kind) in options.connection_types.iter().enumerate() {
        if !allowed.contains(&kind.as_str()) {
            return Err(Error::field(
                "invalid-connection-type",
                format!("/connectionTypes/{index}"),
                format!("'{kind}' is none of those that the role '{}' allows: {}", role.name, allowed.join(", ")),
            ));
        }
    }
    for (index, cidr) in options.allowed_cidrs.iter().enumerate() {
        if cidr.parse::<ipnet::IpNet>().is_err() {
            return Err(Error::field(
                "invalid-cidr",
                format!("/allowedCidrs/{index}"),
                format!("'{cidr}' is no network such as 10.0.0.0/8"),
            ));
        }
    }
    for (index, tag) in options.tags.iter().enumerate() {
        let fits = (1..=100).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic());
        if !fits || options.tags.len() > 20 {
            return Err(Error::field(
                "invalid-tag",
                format!("/tags/{index}"),
                "there are at most 20 tags of 1 to 100 printable ASCII characters without spaces",
            ));
        }
    }
    if options.bearer && !role.bearer_allowed {
        let detail = format!("the role '{}' does not allow bearer credentials", role.name);
        return Err(Error::field("bearer-not-allowed", "/bearer", detail));
    }
    check_times(options)
}

fn check_times(options: &Options) -> Result<()> {
    let refuse = |pointer: &str, detail: &str| Err(Error::field("invalid-times", pointer, detail));
    if options.times.len() > MAX_TIMES {
        return refuse("/times", "there are at most 16 times of day");
    }
    for (index, TimeWindow { start, end }) in options.times.iter().enumerate() {
        let time = |text: &str| chrono::NaiveTime::parse_from_str(text, "%H:%M:%S").ok().filter(|_| text.len() == 8);
        match (time(start), time(end)) {
            (Some(start), Some(end)) if start != end => {}
            _ => return refuse(&format!("/times/{index}"), "start and end are two times of day such as 08:30:00"),
        }
    }
    match &options.times_location {
        Some(_) if options.times.is_empty() => refuse("/timesLocation", "a time zone goes with times"),
        Some(zone) if zone.parse::<chrono_tz::Tz>().is_err() => {
            refuse("/timesLocation", "this is no time zone such as Europe/Berlin")
        }
        _ => Ok(()),
    }
}

/// Names the field that makes the claims unacceptable: all that a caller can make too long are the
/// lists of its options.
pub(super) fn blame(error: Error, options: &Options) -> Error {
    let length = |texts: &[String]| texts.iter().map(|text| text.len() + 3).sum::<usize>();
    let own = options.permissions.iter().flat_map(|own| [&own.publish, &own.subscribe]);
    let lists = [
        ("/allowedCidrs", length(&options.allowed_cidrs)),
        ("/connectionTypes", length(&options.connection_types)),
        ("/tags", length(&options.tags)),
        ("/times", options.times.len() * 40),
        ("/permissions", own.map(|part| length(&part.allow) + length(&part.deny)).sum()),
    ];
    let longest = lists.into_iter().max_by_key(|(_, length)| *length).filter(|(_, length)| *length > 0);
    let field = longest.map(|(pointer, _)| FieldError { pointer: pointer.to_owned(), detail: error.to_string() });
    error.with_fields(field)
}
