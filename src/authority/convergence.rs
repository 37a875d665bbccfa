//! How far the servers are with one account, and with all: pure.

use crate::{
    authority::Standing,
    model::view::{Convergence, ResolverView, ServerView},
    store::{accounts::AccountServer, figures::AccountsCount},
};

/// What the servers have of an account whose current generation is `generation`.
///
/// | live servers | of them have it | state |
/// |---|---|---|
/// | none | - | unreachable |
/// | some | all, and no known server lacks it | converged |
/// | some | none | pending |
/// | otherwise | | partial |
///
/// A server has it when it acknowledged the generation under its present id and runs it, or has not loaded
/// the account. What it acknowledged before it restarted does not count. A known server that does not answer and lacks the generation makes it partial: when
/// it comes back it runs the old one.
pub fn view(generation: i64, standing: &Standing, has: &[AccountServer]) -> ResolverView {
    let servers: Vec<ServerView> = standing
        .servers
        .iter()
        .map(|server| {
            let row = has.iter().find(|h| h.server == server.row.name && h.server_id == server.row.id);
            ServerView {
                name: server.row.name.clone(),
                id: server.row.id.clone(),
                live: server.row.live,
                stored: row.map_or(0, |h| h.stored),
                effective: row.and_then(|h| h.effective),
                error: row.and_then(|h| h.error.clone()),
            }
        })
        .collect();
    let has_it = |s: &ServerView| {
        s.stored >= generation && s.effective.is_none_or(|runs| runs >= generation) && s.error.is_none()
    };
    let live = servers.iter().filter(|s| s.live).count();
    let live_with_it = servers.iter().filter(|s| s.live && has_it(s)).count();
    let state = if live == 0 {
        Convergence::Unreachable
    } else if live_with_it == live && servers.iter().all(has_it) {
        Convergence::Converged
    } else if live_with_it == 0 {
        Convergence::Pending
    } else {
        Convergence::Partial
    };
    let missing = servers.iter().filter(|server| !has_it(server)).map(|server| server.name.clone()).collect();
    ResolverView { state, generation, missing, servers }
}

/// How far the servers are with all accounts, and the known servers that lack anything.
///
/// | live servers | servers that lack an account | due accounts | state |
/// |---|---|---|---|
/// | none | | | unreachable |
/// | some | none | none | converged |
/// | some | none | some | pending: something is being pushed or compared |
/// | some | every live one | | pending |
/// | otherwise | | | partial |
///
/// As with one account, a known server that does not answer and lacks something makes it partial.
pub fn whole(standing: &Standing, count: &AccountsCount) -> (Convergence, Vec<String>) {
    let lacks = |name: &String| count.servers.get(name).is_some_and(|server| server.lacking > 0);
    let missing: Vec<_> =
        standing.servers.iter().map(|server| &server.row.name).filter(|name| lacks(name)).cloned().collect();
    let state = if standing.live().next().is_none() {
        Convergence::Unreachable
    } else if missing.is_empty() {
        if count.due == 0 { Convergence::Converged } else { Convergence::Pending }
    } else if standing.live().all(|server| lacks(&server.row.name)) {
        Convergence::Pending
    } else {
        Convergence::Partial
    };
    (state, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::{ServerStanding, Told},
        entropy::SeededEntropy,
        nkey::{Account, KeyPair},
        store::servers::ServerRow,
    };

    fn server(name: &str, live: bool) -> ServerStanding {
        ServerStanding {
            row: ServerRow {
                name: name.to_owned(),
                id: "N".to_owned(),
                cluster: None,
                version: "2.12.0".to_owned(),
                max_memory: 0,
                max_disk: 0,
                max_payload: 1,
                live,
                seen_at: chrono::DateTime::default(),
            },
            trusts_us: Some(true),
            told: Told::default(),
        }
    }

    fn case(servers: &[(bool, i64, Option<i64>)]) -> Convergence {
        let account = KeyPair::<Account>::generate(&SeededEntropy::new(1)).public();
        let mut standing = Standing::default();
        let mut has = Vec::new();
        for (index, (live, stored, effective)) in servers.iter().enumerate() {
            let name = format!("n{index}");
            standing.servers.push(server(&name, *live));
            has.push(AccountServer {
                account,
                server: name,
                server_id: "N".to_owned(),
                stored: *stored,
                effective: *effective,
                error: None,
            });
        }
        view(3, &standing, &has).state
    }

    #[test]
    fn the_whole_is_folded_by_server() {
        use crate::store::figures::ServerCount;
        let whole = |servers: &[(bool, i64)], due: i64| {
            let mut standing = Standing::default();
            let mut count = AccountsCount { due, ..AccountsCount::default() };
            for (index, (live, lacking)) in servers.iter().enumerate() {
                let name = format!("n{index}");
                count.servers.insert(name.clone(), ServerCount { lacking: *lacking, ..ServerCount::default() });
                standing.servers.push(server(&name, *live));
            }
            super::whole(&standing, &count)
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(whole(&[], 0), (Convergence::Unreachable, vec![]));
        assert_eq!(whole(&[(false, 0), (false, 3)], 0), (Convergence::Unreachable, names(&["n1"])));
        assert_eq!(whole(&[(true, 0), (true, 0)], 0), (Convergence::Converged, vec![]));
        assert_eq!(whole(&[(true, 0), (false, 0)], 0), (Convergence::Converged, vec![]));
        assert_eq!(whole(&[(true, 0), (true, 0)], 1), (Convergence::Pending, vec![]));
        assert_eq!(whole(&[(true, 1), (false, 0)], 1), (Convergence::Pending, names(&["n0"])));
        assert_eq!(whole(&[(true, 0), (false, 2)], 0), (Convergence::Partial, names(&["n1"])));
        assert_eq!(whole(&[(true, 1), (true, 0)], 1), (Convergence::Partial, names(&["n0"])));
    }

    #[test]
    fn what_a_server_had_before_it_restarted_does_not_count() {
        let account = KeyPair::<Account>::generate(&SeededEntropy::new(1)).public();
        let row = |id: &str| ServerRow {
            name: "n1".to_owned(),
            id: id.to_owned(),
            cluster: None,
            version: String::new(),
            max_memory: 0,
            max_disk: 0,
            max_payload: 1,
            live: true,
            seen_at: chrono::DateTime::default(),
        };
        let has = AccountServer {
            account,
            server: "n1".to_owned(),
            server_id: "N1".to_owned(),
            stored: 3,
            effective: Some(3),
            error: None,
        };
        let mut standing = Standing::default();
        for (id, state, missing) in [("N1", Convergence::Converged, 0), ("N2", Convergence::Pending, 1)] {
            standing.servers = vec![ServerStanding { row: row(id), trusts_us: Some(true), told: Told::default() }];
            let view = view(3, &standing, std::slice::from_ref(&has));
            assert_eq!((view.state, view.missing.len()), (state, missing), "{id}");
        }
    }

    #[test]
    fn states() {
        use Convergence::{Converged, Partial, Pending, Unreachable};
        // Live, stores, runs.
        type Server = (bool, i64, Option<i64>);
        let table: [(&[Server], Convergence); 8] = [
            (&[], Unreachable),
            (&[(false, 3, Some(3))], Unreachable),
            (&[(true, 3, Some(3)), (true, 3, None)], Converged),
            (&[(true, 3, Some(3)), (true, 3, Some(2))], Partial),
            (&[(true, 2, Some(2)), (true, 2, None)], Pending),
            (&[(true, 3, Some(3)), (true, 2, None)], Partial),
            (&[(true, 3, Some(3)), (false, 2, None)], Partial),
            (&[(true, 3, Some(3)), (false, 3, None)], Converged),
        ];
        for (servers, state) in table {
            assert_eq!(case(servers), state, "{servers:?}");
        }
    }
}
