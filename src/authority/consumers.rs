//! Durable pull consumers of environments, on the event stream or a further one: what may be asked for. Strict
//! roles create nothing in JetStream, so the authority does; the provision task makes and removes
//! them. Nothing here lets a caller choose where a consumer delivers: it pulls, always.

use uuid::Uuid;

use super::{items::ItemKind, requests::NewConsumer};
use crate::{
    error::{Error, Result},
    jwt::subject,
    model::{
        ConsumerConfig, Environment, ItemName, ItemState,
        size::{format_duration, parse_duration},
        view::ConsumerView,
    },
    store::{
        Connection,
        items::{CONSUMERS, Item, STREAMS, Table},
    },
};

/// How long a consumer waits for an acknowledgement when nothing is said, seconds: JetStream's own default.
const ACK_WAIT: i64 = 30;

/// The longest wait for an acknowledgement, seconds.
const MAX_ACK_WAIT: i64 = 86_400;

/// How many messages may be unacknowledged when nothing is said: JetStream's own default.
const MAX_ACK_PENDING: i64 = 1000;

/// The highest of the counts that a caller may set.
const MAX_COUNT: i64 = 1_000_000;

/// The most filter subjects. Each also stands in the audit log.
const MAX_FILTERS: usize = 32;

/// The longest filter subject, bytes: it stands in the subject of the request that makes the consumer.
const MAX_FILTER: usize = 255;

/// Durable pull consumers.
#[derive(Debug)]
pub struct Consumers;

impl ItemKind for Consumers {
    type Config = ConsumerConfig;
    type Request = NewConsumer;
    type View = ConsumerView;

    const TABLE: &'static Table<ConsumerConfig> = &CONSUMERS;
    const NAME: &'static str = "consumer";
    const FULL_NAME: &'static str = "consumer";
    const CODES: [&'static str; 3] = ["consumer-deleting", "consumer-exists", "no-consumer"];
    const EVENTS: [&'static str; 2] = ["consumer.create", "consumer.delete"];

    fn config(environment: &Environment, _name: &ItemName, request: &NewConsumer) -> Result<ConsumerConfig> {
        config(environment, request)
    }

    fn stream(environment: &Environment, _name: &ItemName, config: &ConsumerConfig) -> String {
        config.stream_in(environment)
    }

    async fn may_begin(rows: &mut Connection, environment: Uuid, config: &ConsumerConfig) -> Result<()> {
        let Some(stream) = &config.stream else { return Ok(()) };
        let found = STREAMS.find(rows, environment, stream).await?;
        if found.is_some_and(|found| found.state != ItemState::Deleting) {
            return Ok(());
        }
        let detail = format!("the environment has no further stream '{stream}'; add it with PUT …/streams/{stream}");
        Err(Error::field("no-stream", "/stream", detail))
    }

    async fn may_end(_rows: &mut Connection, _environment: Uuid, _name: &ItemName) -> Result<()> {
        Ok(())
    }

    fn view(environment: &Environment, row: &Item<ConsumerConfig>) -> ConsumerView {
        ConsumerView {
            name: row.name.to_string(),
            stream: row.config.stream_in(environment),
            filter_subjects: row.config.filter_subjects.clone(),
            ack_wait: format_duration(row.config.ack_wait_seconds),
            max_deliver: row.config.max_deliver,
            max_ack_pending: row.config.max_ack_pending,
            deliver_policy: row.config.deliver_policy,
            state: row.state,
            error: row.error.clone(),
        }
    }

    fn progress(view: &mut ConsumerView) -> (&mut ItemState, &mut Option<String>) {
        (&mut view.state, &mut view.error)
    }
}

/// What was asked for, checked, with every default filled in.
fn config(environment: &Environment, request: &NewConsumer) -> Result<ConsumerConfig> {
    let ack_wait_seconds = match &request.ack_wait {
        None => ACK_WAIT,
        Some(text) => parse_duration("/ackWait", text)?,
    };
    if ack_wait_seconds > MAX_ACK_WAIT {
        return Err(Error::field("invalid-duration", "/ackWait", "a consumer waits at most 24h"));
    }
    let stream = request.stream.as_deref().map(str::parse::<ItemName>).transpose();
    Ok(ConsumerConfig {
        stream: stream.map_err(|error| Error::field(error.code(), "/stream", error.to_string()))?,
        filter_subjects: filters(environment, &request.filter_subjects)?,
        ack_wait_seconds,
        max_deliver: request.max_deliver.map(|count| bounded("/maxDeliver", count)).transpose()?,
        max_ack_pending: bounded("/maxAckPending", request.max_ack_pending.unwrap_or(MAX_ACK_PENDING))?,
        deliver_policy: request.deliver_policy.unwrap_or_default(),
    })
}

pub(super) fn filters(environment: &Environment, asked: &[String]) -> Result<Vec<String>> {
    if asked.len() > MAX_FILTERS {
        return Err(invalid_filter("", format!("there are at most {MAX_FILTERS} filter subjects")));
    }
    let territory = environment.subjects();
    for (index, filter) in asked.iter().enumerate() {
        let at = format!("/{index}");
        if filter.len() > MAX_FILTER || !subject::is_valid(filter) {
            let words =
                format!("this is no subject of at most {MAX_FILTER} bytes; write ws.{}.orders.>", environment.name());
            return Err(invalid_filter(&at, words));
        }
        if !subject::contains(&territory, filter) {
            return Err(invalid_filter(&at, format!("'{filter}' is not inside '{territory}'")));
        }
        // JetStream refuses it as well, but only later, where the caller may no longer look.
        if let Some(other) = asked.iter().take(index).find(|other| subject::overlap(other, filter)) {
            return Err(invalid_filter(&at, format!("'{filter}' overlaps '{other}'; filters have to be apart")));
        }
    }
    // Sorted: the same filters in another order are the same consumer.
    let mut sorted = asked.to_vec();
    sorted.sort_unstable();
    Ok(sorted)
}

fn invalid_filter(at: &str, detail: String) -> Error {
    Error::field("invalid-filter", format!("/filterSubjects{at}"), detail)
}

pub(super) fn bounded(pointer: &str, count: i64) -> Result<i64> {
    if (1..=MAX_COUNT).contains(&count) {
        return Ok(count);
    }
    Err(Error::field("invalid-count", pointer, format!("this is a number from 1 to {MAX_COUNT}")))
}
