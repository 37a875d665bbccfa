//! What JetStream has, of all accounts at once (`$SYS.REQ.SERVER.PING.JSZ`): streams and consumers by
//! name. Whether that is right is not judged here.
//!
//! Every server tells of the replicas that it holds itself, accounts in the order of their names, at
//! most so many as it is asked for (nats-server 2.15.1).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{answers::ServerRef, gather::Asker};
use crate::{
    error::{Error, Result},
    nkey::{Account, PublicKey},
};

/// The streams of each account, with the names of their consumers.
pub type Assets = BTreeMap<PublicKey<Account>, BTreeMap<String, BTreeSet<String>>>;

/// Accounts in one answer: about 1 KB each.
const PAGE: usize = 256;

/// One page of what one server holds.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    assets: Assets,
    /// How many accounts use JetStream there.
    total: usize,
    /// It is part of a cluster that has not elected its leader: streams may be there and not be told.
    leaderless: bool,
}

/// Everything that the servers hold. Fails unless all live ones tell, and know what they should hold.
pub(super) async fn assets(asker: &Asker<'_>) -> Result<Assets> {
    let mut all = Assets::new();
    let (mut offset, mut total) = (0, 1);
    while offset < total {
        let question = json!({"accounts": true, "streams": true, "consumer": true, "limit": PAGE, "offset": offset});
        let gathered = asker.patient().all("$SYS.REQ.SERVER.PING.JSZ", question.to_string().into(), page).await?;
        if let Some(server) = gathered.missing.first() {
            return Err(Error::unavailable("nats-no-answer", format!("{} does not tell its streams", server.name)));
        }
        for (server, page) in gathered.answers {
            if page.leaderless {
                let words = format!("JetStream on {} has no leader yet", server.name);
                return Err(Error::unavailable("nats-no-answer", words));
            }
            total = total.max(page.total);
            for (account, streams) in page.assets {
                let known = all.entry(account).or_default();
                for (stream, consumers) in streams {
                    known.entry(stream).or_default().extend(consumers);
                }
            }
        }
        offset += PAGE;
    }
    Ok(all)
}

fn page(json: &[u8]) -> Option<(ServerRef, Page)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let server = ServerRef { name: text(&value["server"], "name"), id: text(&value["server"], "id") };
    let data = value.get("data").filter(|data| data.is_object())?;
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let streams = |account: &Value| {
        let streams = list(account, "stream_detail").into_iter();
        streams
            .map(|stream| {
                let consumers =
                    list(&stream, "consumer_detail").iter().map(|consumer| text(consumer, "name")).collect();
                (text(&stream, "name"), consumers)
            })
            .collect()
    };
    let accounts = list(data, "account_details");
    let assets = accounts.iter().filter_map(|account| Some((account["id"].as_str()?.parse().ok()?, streams(account))));
    let total = data["total"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or(accounts.len());
    let leaderless = data.get("meta_cluster").is_some_and(|meta| text(meta, "leader").is_empty());
    Some((server, Page { assets: assets.collect(), total, leaderless }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded from nats-server 2.15.1, shortened.
    const ACCOUNT: &str = "ADKH3PZWVWUK5FA5BXSDOIKHKMW2RBZMALC46RUKH4MUERGRJ56GPGGC";

    fn answer(leader: &str) -> String {
        format!(
            r#"{{"server":{{"name":"n2","id":"NC7X"}},"data":{{"memory":0,"meta_cluster":{{"name":"test"{leader}}},"total":5,
            "account_details":[{{"name":"org-0","id":"{ACCOUNT}","stream_detail":[
                {{"name":"ws-org-0-prod-events","consumer_detail":[{{"stream_name":"s","name":"orders"}}]}},
                {{"name":"KV_ws-org-0-prod-state"}}]}},
              {{"name":"$G","id":"$G"}}]}}}}"#
        )
    }

    #[test]
    fn streams_and_consumers_are_told_by_account() {
        let (server, page) = page(answer(r#","leader":"n3""#).as_bytes()).unwrap();
        assert_eq!((server.name.as_str(), page.total, page.leaderless), ("n2", 5, false));
        assert_eq!(page.assets.len(), 1);
        let streams = &page.assets[&ACCOUNT.parse().unwrap()];
        assert_eq!(streams["ws-org-0-prod-events"], BTreeSet::from(["orders".to_owned()]));
        assert!(streams["KV_ws-org-0-prod-state"].is_empty());
    }

    #[test]
    fn a_cluster_without_a_leader_is_told_from_a_server_without_jetstream() {
        assert!(page(answer("").as_bytes()).unwrap().1.leaderless);
        let disabled = br#"{"server":{"name":"n1","id":"N"},"data":{"disabled":true,"total":0}}"#;
        let (_, page) = page(disabled).unwrap();
        assert_eq!(page, Page { assets: Assets::new(), total: 0, leaderless: false });
        assert!(super::page(br#"{"server":{"name":"n1"},"error":{"code":500}}"#).is_none());
    }
}
