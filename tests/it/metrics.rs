//! What a running service tells of itself, compared with `docs/METRICS.md` and the source.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::json;

use crate::support::{site::Site, stack::eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A metric as the document has it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    kind: String,
    labels: BTreeSet<String>,
}

fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn document() -> BTreeMap<String, Described> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/METRICS.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `nats_authority_"));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(!cells[3].is_empty(), "{line}");
        let name = quoted(cells[0]).pop_first().unwrap();
        (name, Described { kind: cells[1].to_owned(), labels: quoted(cells[2]) })
    })
    .collect()
}

/// The metrics that the source names, with their kind.
fn source() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![Path::new(ROOT).join("src")];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for kind in ["counter", "gauge", "histogram"] {
                for (at, opening) in text.match_indices(&format!("metrics::{kind}!(")) {
                    let name = text[at + opening.len()..].trim_start().strip_prefix('"').unwrap();
                    let name = name.split('"').next().unwrap().to_owned();
                    let before = found.insert(name.clone(), kind.to_owned());
                    assert!(before.is_none_or(|before| before == kind), "{name}");
                }
            }
        }
    }
    found
}

/// Name, labels and value of each line of an exposition.
fn lines(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.map(|label| {
                let (name, value) = label.split_once("=\"").unwrap();
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            });
            (name.to_owned(), labels.collect(), value.parse().unwrap())
        })
        .collect()
}

async fn scrape(site: &Site) -> String {
    reqwest::get(&site.replicas[0].metrics).await.unwrap().text().await.unwrap()
}

/// The sum of the series of this name that have all these labels; none: there is none.
fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let has =
        |its: &BTreeMap<String, String>| labels.iter().all(|(name, value)| its.get(*name).is_some_and(|v| v == value));
    let those = lines(text).into_iter().filter(|(its, with, _)| its == name && has(with)).map(|(_, _, value)| value);
    those.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[test]
fn the_document_has_every_metric_of_the_source_and_the_rules_use_only_these() {
    let document = document();
    let kinds: BTreeMap<_, _> = document.iter().map(|(name, of)| (name.clone(), of.kind.clone())).collect();
    assert_eq!(kinds, source());
    for (name, of) in &document {
        let suffix = of.kind == "counter";
        assert_eq!(suffix, name.ends_with("_total"), "{name}: counters, and only they, end in _total");
    }
    let page = fs::read_to_string(Path::new(ROOT).join("docs/METRICS.md")).unwrap();
    let rules = fs::read_to_string(Path::new(ROOT).join("deploy/alerts/nats-authority.yaml")).unwrap();
    for expr in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let named: Vec<_> = words.filter(|word| word.starts_with("nats_authority_")).collect();
        assert!(!named.is_empty() && named.iter().all(|name| document.contains_key(*name)), "{expr}");
    }
    let alerts: BTreeSet<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let mentioned: BTreeSet<_> = quoted(&page).into_iter().filter(|word| word.starts_with("NatsAuthority")).collect();
    for alert in mentioned {
        assert!(alerts.contains(alert.as_str()), "{alert} is no rule");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_tells_what_the_document_says() {
    let site = Site::start(1, 1).await;
    let http = site.http();
    let onboard = json!({"slug": "acme", "environments": ["prod"]});
    assert_eq!(http.post("/api/v1/orgs", onboard).await.0, 201);
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let body = json!({"name": name, "role": "viewer"});
        let (status, issued) = http.post("/api/v1/orgs/acme/envs/prod/credentials", body).await;
        assert_eq!(status, 201, "{issued}");
        ids.push(issued["credential"]["id"].as_str().unwrap().to_owned());
    }
    let (status, answer) = http.post(&format!("/api/v1/credentials/{}/revoke", ids[0]), json!({})).await;
    assert!((200..300).contains(&status), "{answer}");
    eventually("converged", || async {
        let text = scrape(&site).await;
        sum(&text, "nats_authority_converged", &[]) == Some(1.0)
            && sum(&text, "nats_authority_accounts", &[("state", "converged")]) == Some(3.0)
            && sum(&text, "nats_authority_agreed_timestamp_seconds", &[]).is_some()
    })
    .await;
    let text = scrape(&site).await;
    let document = document();
    for (name, labels, _) in lines(&text) {
        let parts = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let described = parts.and_then(|name| document.get(name).filter(|of| of.kind == "histogram"));
        let described = described.or_else(|| document.get(&name).filter(|of| of.kind != "histogram"));
        let Some(described) = described else { panic!("{name} is not in docs/METRICS.md as what it is") };
        let labels: BTreeSet<_> = labels.into_keys().filter(|label| label != "le").collect();
        assert_eq!(labels, described.labels, "{name}");
    }
    // What there is without anything going wrong; only what needs a failure or another event may be absent.
    let eventful = [
        "nats_authority_lookups_total",
        "nats_authority_renewals_total",
        "nats_authority_issuer_key_fetches_total",
        "nats_authority_issuer_keys_timestamp_seconds",
    ];
    for (name, of) in &document {
        let series = if of.kind == "histogram" { format!("{name}_count") } else { name.clone() };
        assert!(eventful.contains(&name.as_str()) || sum(&text, &series, &[]).is_some(), "{name} is absent:\n{text}");
    }
    let at = |name: &str, labels: &[(&str, &str)]| sum(&text, name, labels).unwrap();
    assert_eq!(at("nats_authority_servers", &[("state", "live"), ("resolver", "full")]), 1.0);
    assert_eq!(at("nats_authority_servers", &[]), 1.0);
    assert_eq!(at("nats_authority_connected", &[]), 1.0);
    assert!(at("nats_authority_push_duration_seconds_bucket", &[("le", "+Inf")]) >= 2.0, "histograms, not summaries");
    assert!(at("nats_authority_account_jwt_bytes_bucket", &[("le", "+Inf")]) >= 2.0);
    let requests = [("method", "POST"), ("route", "/api/v1/orgs"), ("status", "201")];
    assert_eq!(at("nats_authority_http_requests_total", &requests), 1.0);
    assert!(!text.contains("acme"), "no label names an organization");
}
