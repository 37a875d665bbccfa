//! What can be asked for beyond the role when a credential is issued, and how it is shown.

use clap::Args;

use crate::{
    authority::requests::{NewCredential, NewPermission, NewPermissions},
    error::{Error, Result},
    model::{
        TimeWindow,
        view::{CredentialView, PermissionView},
    },
};

/// Options of a new credential.
#[derive(Debug, Args)]
pub struct OptionArgs {
    /// A network that it is bound to; may be repeated.
    #[arg(long = "cidr", value_name = "CIDR")]
    cidrs: Vec<String>,
    /// A connection type that it is bound to, such as STANDARD; may be repeated.
    #[arg(long = "connection-type", value_name = "TYPE")]
    connection_types: Vec<String>,
    /// A time of day at which it works, such as 08:00:00-18:00:00; may be repeated.
    #[arg(long = "time", value_name = "START-END")]
    times: Vec<String>,
    /// The time zone of --time, such as Europe/Berlin [default: UTC].
    #[arg(long, requires = "times", value_name = "ZONE")]
    time_zone: Option<String>,
    /// The JWT alone shall be enough to connect; role and plan have to allow it.
    #[arg(long)]
    bearer: bool,
    /// With --role custom: a subject that it may publish to; may be repeated.
    #[arg(long = "allow-pub", value_name = "SUBJECT")]
    allow_publish: Vec<String>,
    /// With --role custom: a subject that it may not publish to; may be repeated.
    #[arg(long = "deny-pub", value_name = "SUBJECT")]
    deny_publish: Vec<String>,
    /// With --role custom: a subject that it may subscribe to beside its inbox; may be repeated.
    #[arg(long = "allow-sub", value_name = "SUBJECT")]
    allow_subscribe: Vec<String>,
    /// With --role custom: a subject that it may not subscribe to; may be repeated.
    #[arg(long = "deny-sub", value_name = "SUBJECT")]
    deny_subscribe: Vec<String>,
    /// A label; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

impl OptionArgs {
    /// The request with these options.
    pub(super) fn apply(self, request: NewCredential) -> Result<NewCredential> {
        let times = self.times.iter().map(|text| {
            let (start, end) = text.split_once('-').ok_or_else(|| {
                Error::invalid("invalid-times", format!("'{text}' is not START-END, such as 08:00:00-18:00:00"))
            })?;
            Ok(TimeWindow { start: start.to_owned(), end: end.to_owned() })
        });
        let permissions = NewPermissions {
            publish: NewPermission { allow: self.allow_publish, deny: self.deny_publish },
            subscribe: NewPermission { allow: self.allow_subscribe, deny: self.deny_subscribe },
        };
        Ok(NewCredential {
            connection_types: self.connection_types,
            allowed_cidrs: self.cidrs,
            times: times.collect::<Result<_>>()?,
            times_location: self.time_zone,
            bearer: self.bearer,
            permissions: (permissions != NewPermissions::default()).then_some(permissions),
            tags: self.tags,
            ..request
        })
    }
}

/// Allowed and denied subjects in one line.
pub(super) fn permissions(part: &PermissionView) -> String {
    let denied = part.deny.iter().map(|subject| format!("not {subject}"));
    part.allow.iter().cloned().chain(denied).collect::<Vec<_>>().join(", ")
}

/// Times of day in one line.
pub(super) fn times(credential: &CredentialView) -> String {
    let times: Vec<_> = credential.times.iter().map(|TimeWindow { start, end }| format!("{start}-{end}")).collect();
    match &credential.times_location {
        Some(zone) => format!("{} {zone}", times.join(", ")),
        None => times.join(", "),
    }
}
