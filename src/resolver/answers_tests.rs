//! Answers recorded from nats-server 2.15.1, shortened.

use super::*;

const SERVER: &str = r#"{"name":"n1","host":"127.0.0.1","id":"ND36SVJGDRMM66G7MLWZXZ7QB6ZPSLRXKN3JFDGSULQD5HQUIUI6KQR3","cluster":"c","ver":"2.15.1","feature_flags":{"js_ack_fc_v2":false},"jetstream":true,"flags":7,"seq":24,"time":"2026-11-24T07:59:43.890588625Z"}"#;
const ID: &str = "ND36SVJGDRMM66G7MLWZXZ7QB6ZPSLRXKN3JFDGSULQD5HQUIUI6KQR3";
const SYSTEM: &str = "AC3HEK65WEDYO4EYTV5BWZUBVGFMH33P27KPX32TITIGZWZ73GQC5UWK";
const ACCOUNT: &str = "AB2BHTPP67K6ZBS75SMFV7XOHRKTW7XUILEFHKPJZQQOGABHVXCJ2GAQ";
const IDENTITY: &str = "ODXWDW3H3L5RGCR7CYS5RXJ2BUQPD45P2ADKXNLSJE43CJCOTSHGAMBI";
const SIGNING: &str = "ODHWWDUJDDDJIRFUTNF2BVOHWXRJESKCAXHHT6YQ3DLITD5V7KPLXK34";

fn n1() -> ServerRef {
    ServerRef { name: "n1".to_owned(), id: ID.to_owned() }
}

fn with_server(rest: &str) -> String {
    format!(r#"{{"server":{SERVER},{rest}}}"#)
}

#[test]
fn updates_are_stored_skipped_or_refused() {
    let read = |rest: &str| store_answer(with_server(rest).as_bytes()).unwrap();
    let stored = read(r#""data":{"account":"AB2B","code":200,"message":"jwt updated"}"#);
    assert_eq!(stored, (n1(), StoreResult::Stored));
    let skipped = read(r#""data":{"account":"AB2B","code":200,"message":"jwt update cache skipped"}"#);
    assert_eq!(skipped.1, StoreResult::Skipped);
    let words = "jwt update resulted in error - expected 3 chunks";
    let refused = read(&format!(r#""error":{{"account":"n/a","code":500,"description":"{words}"}}"#));
    assert_eq!(refused.1, StoreResult::Refused(words.to_owned()));
    let deleted = read(r#""data":{"code":200,"message":"deleted 1 accounts"}"#);
    assert_eq!(deleted.1, StoreResult::Stored);
}

#[test]
fn strange_servers_cost_their_fields_only() {
    let (server, result) = store_answer(br#"{"server":"NAB","data":{"code":"200","message":7}}"#).unwrap();
    assert_eq!((server.name.as_str(), server.id.as_str(), result), ("NAB", "NAB", StoreResult::Stored));
    let (server, result) = store_answer(br#"{"server":{"name":1,"id":"NAB"},"error":"no"}"#).unwrap();
    assert_eq!((server.name.as_str(), result), ("NAB", StoreResult::Refused("no".to_owned())));
    for not_an_answer in ["", "[]", "{}", r#"{"server":{}}"#, "\u{1f980}"] {
        let read = store_answer(not_an_answer.as_bytes());
        assert!(!read.is_some_and(|(_, result)| result == StoreResult::Stored), "{not_an_answer}");
    }
}

#[test]
fn a_server_tells_whom_it_trusts() {
    let rest = format!(
        r#""data":{{"server_id":"{ID}","server_name":"n1","version":"2.15.1","max_control_line":4096,"max_payload":1048576,"cluster":{{"name":"c","addr":"127.0.0.1"}},"jetstream":{{"config":{{"max_memory":104857600,"max_storage":209715200,"store_dir":"/data","strict":true}}}},"start":"2026-11-24T07:59:36.702375155Z","config_load_time":"2026-11-24T07:59:36.702375155Z","trusted_operators_jwt":["a.b.c"],"trusted_operators_claim":[{{"iss":"{IDENTITY}","name":"dev","sub":"{IDENTITY}","nats":{{"signing_keys":["{SIGNING}"],"system_account":"{SYSTEM}","strict_signing_key_usage":true,"type":"operator","version":2}}}}],"system_account":"{SYSTEM}"}}"#
    );
    let info = server_info(with_server(&rest).as_bytes()).unwrap();
    assert_eq!(info.server(), n1());
    assert_eq!((info.version.as_str(), info.cluster.as_deref()), ("2.15.1", Some("c")));
    assert_eq!(info.system_account, Some(SYSTEM.parse().unwrap()));
    assert_eq!((info.max_payload, info.max_control_line), (1 << 20, 4096));
    assert_eq!(info.jetstream, Some(JetStreamCapacity { max_memory: 104_857_600, max_storage: 209_715_200 }));
    assert_eq!(info.started.unwrap().timestamp(), 1_795_507_176);
    assert_eq!(info.started, info.config_loaded);
    assert_eq!(info.operators[0].jwt.as_deref(), Some("a.b.c"));
    assert!(info.trusts(&SIGNING.parse().unwrap()));
    assert!(!info.trusts(&IDENTITY.parse().unwrap()), "strict: signing keys only");
}

#[test]
fn a_server_without_jetstream_cluster_or_operator() {
    let info = server_info(br#"{"server":{"name":"n1","id":"NAB"},"data":{"jetstream":{},"cluster":{}}}"#).unwrap();
    assert_eq!((info.jetstream, info.cluster.as_deref(), info.operators.len()), (None, None, 0));
    assert_eq!(server_info(br#"{"server":{"name":"n1","id":"NAB"},"error":{"code":500}}"#), None);
}

#[test]
fn presence_is_in_the_server_object_or_at_the_top() {
    let statsz = with_server(
        r#""statsz":{"start":"2026-11-24T07:59:36.702375155Z","routes":[{"rid":11,"name":"n2","sent":{"msgs":0,"bytes":0},"pending":0}],"active_servers":3}"#,
    );
    let seen = |active: Option<usize>, routes: Option<&[&str]>| {
        let routes = routes.map(|routes| routes.iter().map(|name| (*name).to_owned()).collect());
        let cluster = active.map(|_| "c".to_owned());
        Some(Presence { server: n1(), cluster, active, routes })
    };
    assert_eq!(presence(statsz.as_bytes()), seen(Some(3), Some(&["n2"])));
    assert_eq!(presence(SERVER.as_bytes()), seen(None, None));
    let alone = with_server(r#""statsz":{"active_servers":1}"#);
    assert_eq!(presence(alone.as_bytes()), seen(Some(1), Some(&[])));
    assert_eq!(presence(b"{}"), None);
}

#[test]
fn what_runs_is_not_what_is_stored() {
    let missing = r#""data":null,"error":{"code":500,"description":"Account AB2B does not exist"}"#;
    assert_eq!(effective(with_server(missing).as_bytes()), Some((n1(), Effective::NotLoaded)));
    let other = r#""error":{"code":500,"description":"too busy"}"#;
    assert_eq!(effective(with_server(other).as_bytes()).unwrap().1, Effective::Failed("too busy".to_owned()));
    let running = format!(
        r#""data":{{"server_id":"{ID}","account_detail":{{"account_name":"{ACCOUNT}","expired":false,"complete":true,"jetstream_enabled":false,"client_connections":1,"jwt":"a.b.c"}}}}"#
    );
    let (_, running) = effective(with_server(&running).as_bytes()).unwrap();
    assert_eq!(running, Effective::Running { jwt: "a.b.c".to_owned(), complete: true, expired: false });
    let heard_of = format!(
        r#""data":{{"server_id":"{ID}","account_detail":{{"account_name":"{ACCOUNT}","expired":true,"complete":false,"jetstream_enabled":false,"client_connections":0}}}}"#
    );
    assert_eq!(effective(with_server(&heard_of).as_bytes()).unwrap().1, Effective::NotLoaded);
}

#[test]
fn lists_packs_connections_and_purges() {
    let list = with_server(&format!(r#""data":["{ACCOUNT}","strange","{SYSTEM}"]"#));
    let accounts = vec![ACCOUNT.parse().unwrap(), SYSTEM.parse().unwrap()];
    assert_eq!(listing(list.as_bytes()), Some((n1(), Ok(accounts))));
    let failed = with_server(r#""error":{"code":500,"description":"no"}"#);
    assert_eq!(listing(failed.as_bytes()), Some((n1(), Err("no".to_owned()))));

    let pack = format!("{ACCOUNT}|a.b.c");
    assert_eq!(packed(pack.as_bytes()), Some((ACCOUNT.parse().unwrap(), "a.b.c".to_owned())));
    assert_eq!(packed(b"nonsense"), None);

    let connz = with_server(
        r#""data":{"num_connections":1,"total":5,"connections":[{"cid":28,"kind":"Client","ip":"127.0.0.1","port":45990,"start":"2026-11-24T07:59:39.872241458Z","authorized_user":"UDRJ","name":"worker"}]}"#,
    );
    let (_, total, list) = connections(connz.as_bytes()).unwrap();
    assert_eq!((total, list[0].cid, list[0].user.as_deref()), (5, 28, Some("UDRJ")));

    assert_eq!(purged(br#"{"type":"io.nats.jetstream.api.v1.account_purge_response","initiated":true}"#), Ok(()));
    assert_eq!(purged(br#"{"error":{"code":503,"description":"no leader"}}"#), Err("no leader".to_owned()));
}
