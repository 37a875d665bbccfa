//! The migrations that the binary brings, and running them. What they do stands in `migrations/`.
//!
//! Listed here, not by `sqlx::migrate!`: that macro is all that the whole of sqlx would be compiled a second time for.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// Name of a file in `migrations/`, and its content.
macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../migrations/", $name, ".sql")))),*] };
}

const ALL: &[(&str, &str)] = files![
    "20261124120000_create_ledger",
    "20261124150000_rewrite_accounts",
    "20261124180000_create_consumers",
    "20261124200000_supersede_credentials",
    "20261124210000_allow_organization_reach",
    "20261124210100_create_streams",
    "20261124220000_revoke_in_bulk",
    "20261124230000_apply_policies",
    "20261124230100_rotate_signing_keys",
    "20261125000000_create_platform_account",
    "20261125000100_renew_credentials",
    "20261125010000_scope_api_tokens",
    "20261125020000_chain_audit_events",
    "20261125030000_create_idempotency_keys",
    "20261125040000_order_credentials_by_end",
    "20261125050000_check_minted_accounts_only",
    "20261125060000_rotate_operator_key",
    "20261125070000_leave_nobody_behind",
    "20261125071000_index_policies_of_accounts",
    "20261125080000_look_for_clients_that_stayed",
    "20261125110000_find_what_is_valid",
    "20261126100000_queue_pushes",
];

/// Runs what is missing, in the order of the names.
pub(super) fn migrator() -> Migrator {
    Migrator::with_migrations(ALL.iter().map(|(name, sql)| migration(name, sql)).collect())
}

/// As sqlx reads it from a file: the version stands before the first underscore, what it does behind that.
fn migration(name: &str, sql: &'static str) -> Migration {
    let (version, description) = name.split_once('_').unwrap_or((name, ""));
    // A name without a number is found by the test below, not by who starts the service.
    let version = version.parse().unwrap_or_default();
    let description = Cow::Owned(description.replace('_', " "));
    Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn all_are_listed_as_sqlx_reads_them() {
        let read = Migrator::new(Path::new("migrations")).await.unwrap();
        let of = |migrator: &Migrator| -> Vec<_> {
            let all = migrator
                .iter()
                .map(|one| (one.version, one.description.clone(), one.migration_type, one.checksum.clone(), one.no_tx));
            all.collect()
        };
        assert_eq!(of(&migrator()), of(&read));
    }
}
