//! The operator as this replica last saw it in the ledger. Another replica may have replaced its JWT or its
//! signing key a moment ago; whoever signs an account asks the ledger, in the transaction that records it.

use std::sync::Arc;

use super::{Authority, server_config::Trust};
use crate::{
    error::{Error, Result},
    nkey::{Operator, PublicKey},
    signer::{SealedKey, Signer},
    store::{Store, operator::OperatorRow},
};

/// The operator at one moment.
pub(super) struct OperatorNow {
    row: Arc<OperatorRow>,
    key: SealedKey<Operator>,
    /// All its signing keys that servers may trust.
    keys: Vec<PublicKey<Operator>>,
}

impl OperatorNow {
    /// Reads it; none: the database has adopted none.
    pub(super) async fn read(store: &Store) -> Result<Option<Self>> {
        let Some(row) = store.operator().await? else { return Ok(None) };
        let keys = store.operator_keys().await?;
        let keys = keys.iter().filter(|key| key.state != "retired").map(|key| {
            key.public_key.parse().map_err(|_| Error::internal("the ledger holds an unreadable operator key"))
        });
        Ok(Some(Self {
            row: Arc::new(row),
            key: store.operator_signing_key().await?,
            keys: keys.collect::<Result<_>>()?,
        }))
    }

    pub(super) fn check(&self, signer: &Signer) -> Result<()> {
        signer.check(&self.key)
    }

    fn is(&self, other: &Self) -> bool {
        self.row == other.row && self.key.public == other.key.public && self.keys == other.keys
    }
}

/// What servers have to trust now, as the ledger has it; none: the database has adopted no operator.
pub async fn present_trust(store: &Store) -> Result<Option<Trust>> {
    let Some(operator) = store.operator().await? else { return Ok(None) };
    let system_account_jwt = store
        .account_jwt(operator.system_account)
        .await?
        .ok_or_else(|| Error::internal("the system account has no JWT"))?;
    let system_account = operator.system_account.to_string();
    Ok(Some(Trust { operator_jwt: operator.jwt, system_account, system_account_jwt }))
}

impl Authority {
    /// The operator.
    pub fn operator(&self) -> Arc<OperatorRow> {
        Arc::clone(&self.operator.load().row)
    }

    /// The public key of the operator's signing key.
    pub fn operator_signing_key(&self) -> PublicKey<Operator> {
        self.operator.load().key.public
    }

    /// The operator's signing key, for what is not an account: servers trust it also while it retires.
    pub(super) fn operator_key(&self) -> SealedKey<Operator> {
        self.operator.load().key.clone()
    }

    /// The operator's signing key can be opened with the configured sealing keys.
    pub fn check_signing_key(&self) -> Result<()> {
        self.operator.load().check(&self.signer)
    }

    /// Whether servers may trust this key for what it is to the operator: its identity or a signing key.
    pub fn is_operator_key(&self, key: &str) -> bool {
        let now = self.operator.load();
        now.row.public_key.to_string() == key || now.keys.iter().any(|other| other.to_string() == key)
    }

    /// Takes up what another replica has done to the operator.
    pub async fn refresh_operator(&self) -> Result<()> {
        let Some(now) = OperatorNow::read(&self.store).await? else { return Ok(()) };
        let before = self.operator.load();
        if !before.is(&now) {
            now.check(&self.signer)?;
            tracing::info!(signing_key = %now.key.public, "the operator's JWT or its signing keys have changed");
            self.operator.store(Arc::new(now));
        }
        Ok(())
    }
}
