//! Whether the clients of revoked users are gone: the servers are asked, before the change and after they
//! have it. Nothing here is claimed that no server said.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    authority::Authority,
    error::Result,
    model::{
        OrgSlug,
        view::{ClientView, ClientsView},
    },
    nkey::{Account, PublicKey},
    resolver::{Connections, Resolver},
};

/// How long to wait before servers are asked again that still have such a connection.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The connections of an account before a revocation; none: nobody could be asked.
pub async fn before(resolver: Option<&dyn Resolver>, account: PublicKey<Account>) -> Option<Vec<Connections>> {
    resolver?.connections(account).await.ok()
}

/// Asks until no server has a connection of a revoked user, or until `deadline`. With `settled` false the
/// servers do not all have the change, so that nobody can be said to be gone for good.
pub async fn confirm(
    authority: &Authority,
    resolver: Option<&dyn Resolver>,
    (org, account): (&OrgSlug, PublicKey<Account>),
    before: Option<&[Connections]>,
    settled: bool,
    deadline: Instant,
) -> Result<ClientsView> {
    let open_before = match before {
        Some(before) if before.iter().all(told_all) => {
            let refused = refused(authority, org, before).await?;
            Some(before.iter().map(|server| of(server, &refused).count()).sum())
        }
        _ => None,
    };
    loop {
        let after = match resolver {
            Some(resolver) => resolver.connections(account).await.ok(),
            None => None,
        };
        let view = match &after {
            None => judge(&[], &HashSet::new(), open_before, false),
            Some(after) => judge(after, &refused(authority, org, after).await?, open_before, settled),
        };
        if view.left.is_empty() || Instant::now() >= deadline {
            return Ok(view);
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Of the users of these connections, those that no valid credential is left for.
async fn refused(authority: &Authority, org: &OrgSlug, servers: &[Connections]) -> Result<HashSet<String>> {
    let users: HashSet<String> = servers.iter().flat_map(|s| s.list.iter().filter_map(|c| c.user.clone())).collect();
    authority.refused_users(org, &users.into_iter().collect::<Vec<_>>()).await
}

fn of<'a>(
    server: &'a Connections,
    refused: &'a HashSet<String>,
) -> impl Iterator<Item = &'a crate::resolver::ClientConnection> {
    server.list.iter().filter(|connection| connection.user.as_ref().is_some_and(|user| refused.contains(user)))
}

/// The server answered, and listed every connection that it counts.
fn told_all(server: &Connections) -> bool {
    server.total.is_some_and(|total| total <= server.list.len() as u64)
}

/// What the servers' answers say. An empty list of answers says nothing.
fn judge(after: &[Connections], refused: &HashSet<String>, open_before: Option<usize>, settled: bool) -> ClientsView {
    let view = |server: &str, connection: &crate::resolver::ClientConnection| ClientView {
        server: server.to_owned(),
        cid: connection.cid,
        user_key: connection.user.clone().unwrap_or_default(),
        name: connection.name.clone(),
    };
    let left: Vec<_> = after
        .iter()
        .flat_map(|server| of(server, refused).map(move |connection| view(&server.server.name, connection)))
        .collect();
    let unanswered: Vec<_> =
        after.iter().filter(|server| !told_all(server)).map(|server| server.server.name.clone()).collect();
    let gone = settled && !after.is_empty() && left.is_empty() && unanswered.is_empty();
    ClientsView { gone, open_before, left, unanswered }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::{ClientConnection, ServerRef};

    fn server(name: &str, total: Option<u64>, users: &[&str]) -> Connections {
        let connection =
            |user: &&str| ClientConnection { user: Some((*user).to_owned()), ..ClientConnection::default() };
        let server = ServerRef { name: name.to_owned(), ..ServerRef::default() };
        Connections { server, total, list: users.iter().map(connection).collect() }
    }

    #[test]
    fn gone_is_said_only_when_every_server_said_so() {
        let refused = HashSet::from(["U1".to_owned()]);
        let gone = |after: &[Connections], settled| judge(after, &refused, None, settled).gone;
        let (empty, other) = (server("n1", Some(0), &[]), server("n2", Some(1), &["U2"]));
        assert!(gone(&[empty.clone(), other.clone()], true));
        assert!(!gone(&[empty.clone(), other], false), "not every server has the change");
        assert!(!gone(&[], true), "nobody was asked");
        let view = judge(&[empty.clone(), server("n3", None, &[])], &refused, Some(1), true);
        assert_eq!((view.gone, view.unanswered), (false, vec!["n3".to_owned()]));
        assert!(!gone(&[server("n4", Some(3), &["U2"])], true), "it did not list all");
        let view = judge(&[empty, server("n5", Some(1), &["U1"])], &refused, Some(1), true);
        assert_eq!((view.gone, view.left[0].server.as_str()), (false, "n5"));
    }
}
