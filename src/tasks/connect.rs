//! The users of our own connection to the system account: minted for each connection, never stored.

use std::sync::Arc;

use chrono::DateTime;
use futures::{FutureExt, future::BoxFuture};

use crate::{
    authority::Authority,
    error::Result,
    resolver::{Credentials, UserCredential},
};

/// Mints system users.
pub(super) struct SystemUsers {
    authority: Arc<Authority>,
}

impl SystemUsers {
    pub(super) fn new(authority: Arc<Authority>) -> Self {
        Self { authority }
    }
}

impl Credentials for SystemUsers {
    fn fresh(&self) -> BoxFuture<'_, Result<UserCredential>> {
        async move {
            let user = self.authority.system_user().await?;
            let expires_at = DateTime::from_timestamp(user.expires_at, 0).unwrap_or_default();
            Ok(UserCredential { jwt: user.jwt, key: user.key, expires_at })
        }
        .boxed()
    }
}
