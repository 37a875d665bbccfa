//! `Prefer: wait=N` (RFC 7240): hold the answer until the servers have the change.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};
use utoipa::IntoParams;

use crate::{
    authority::Authority,
    error::Result,
    model::{OrgSlug, view::OrganizationView},
};

/// The longest wait, seconds.
pub const MAX_WAIT: u64 = 60;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The header, as the document describes it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only described; it is read by `Prefer::of`")]
pub(super) struct PreferHeader {
    /// `wait=N`: answer when every live server has the change, a deletion is finished, and an environment
    /// or consumer that is added or removed is made or gone; or after N seconds, at most 60.
    #[param(rename = "Prefer", example = "wait=10")]
    prefer: Option<String>,
}

/// How long the caller wants to wait; none: not at all.
#[derive(Clone, Copy, Debug)]
pub struct Prefer {
    wait: Option<Duration>,
}

impl Prefer {
    /// The wish in these headers. One that cannot be read is ignored, as the RFC wants it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let wishes = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let seconds = wishes.flat_map(|value| value.split([',', ';'])).find_map(|wish| {
            let (name, value) = wish.split_once('=')?;
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("wait").then(|| value.parse::<u64>().ok()).flatten()
        });
        Self { wait: seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_WAIT))) }
    }

    /// How long the answer may take because of the wish.
    pub(super) fn wait(self) -> Duration {
        self.wait.unwrap_or_default()
    }

    /// The organization after the wait, if one is wanted. With `environments`, the wait is also for
    /// streams and buckets.
    pub(super) async fn settle(
        self,
        authority: &Authority,
        org: &OrgSlug,
        environments: bool,
    ) -> Result<Option<OrganizationView>> {
        match self.wait {
            None => Ok(None),
            Some(wait) => authority.wait_converged(org, wait, environments).await.map(Some),
        }
    }

    /// As [`Self::settle`]; without a wait, the organization as it is now.
    pub(super) async fn settled_or_now(
        self,
        authority: &Authority,
        org: &OrgSlug,
        environments: bool,
    ) -> Result<OrganizationView> {
        match self.settle(authority, org, environments).await? {
            Some(view) => Ok(view),
            None => authority.organization(org).await,
        }
    }

    /// The header that says that the wish was followed.
    pub(super) fn applied(self) -> HeaderMap {
        self.wait.map(|_| (PREFERENCE_APPLIED, HeaderValue::from_static("wait"))).into_iter().collect()
    }
}

impl<S: Sync> FromRequestParts<S> for Prefer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let wait = |text: &'static str| {
            let headers = [(PREFER, HeaderValue::from_static(text))].into_iter().collect();
            Prefer::of(&headers).wait.map(|wait| wait.as_secs())
        };
        assert_eq!(wait("wait=5"), Some(5));
        assert_eq!(wait("respond-async, Wait = \"7\""), Some(7));
        assert_eq!(wait("wait=100000"), Some(MAX_WAIT));
        assert_eq!(wait("wait=0"), Some(0));
        for none in ["wait", "wait=-1", "wait=x", "", "return=minimal"] {
            assert_eq!(wait(none), None, "{none}");
        }
    }
}
