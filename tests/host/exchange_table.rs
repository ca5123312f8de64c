//! An exchange on the host: the core, with a clock, a store and an upstream that are plain values.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reprise::config::{Config, ConfigError};
use reprise::entry::Entry;
use reprise::flow::{self, Arrival, Failure, Found, Looked, Outbound, Planned, Replay, RequestHead, Verdict};
use reprise::headers::OF_OTHER_BYTES;
use reprise::polish::Polisher;
use reprise::present::{self, Edits};
use std::collections::BTreeMap;

/// A client's request.
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
}

/// The upstream's response, if it is called.
pub struct UpstreamResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// No connection is possible.
    pub unreachable: bool,
    /// The connection breaks before the body's end.
    pub truncated: bool,
}

/// The response that the client receives.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A request that the upstream received.
pub struct Call {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Reprise on the host, configured and with its store.
pub struct Host {
    config: Result<Config, ConfigError>,
    store: BTreeMap<String, Vec<u8>>,
    pub calls: Vec<Call>,
}

fn header_map(pairs: &[(String, String)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .collect()
}

fn own(reply: present::Reply) -> Reply {
    Reply { status: reply.status, headers: header_map(&reply.headers), body: reply.body }
}

fn forwarded(upstream: &UpstreamResponse, edits: Edits, polisher: Option<Polisher>) -> Reply {
    let mut headers = upstream.headers.clone();
    let body = match polisher {
        None => upstream.body.clone(),
        Some(mut polisher) => {
            let others: Vec<_> = headers.keys().filter(|n| OF_OTHER_BYTES.contains(&n.as_str())).cloned().collect();
            for name in others {
                headers.remove(name);
            }
            let mut polished: Vec<u8> = upstream.body.chunks(5).flat_map(|piece| polisher.push(piece)).collect();
            polished.extend(polisher.finish());
            polished
        }
    };
    headers.insert(edits.set.0, edits.set.1.parse().unwrap());
    headers.append(edits.append.0, edits.append.1.parse().unwrap());
    Reply { status: upstream.status.as_u16(), headers, body }
}

impl Host {
    pub fn new(vars: &BTreeMap<String, String>) -> Self {
        Host { config: Config::read(|name| vars.get(name).cloned()), store: BTreeMap::new(), calls: Vec::new() }
    }

    fn call(&mut self, outbound: &Outbound, body: &[u8]) {
        let body = outbound.body.clone().unwrap_or_else(|| body.to_vec());
        self.calls.push(Call {
            method: outbound.method.clone(),
            url: outbound.url.clone(),
            headers: outbound.headers.clone(),
            body,
        });
    }

    /// The exchange as the Worker runs it: the numbers are those of `flow`.
    pub fn exchange(&mut self, now_ms: u64, request: &Request, upstream: &UpstreamResponse) -> Reply {
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (request.target.as_str(), None),
        };
        let head = RequestHead {
            method: request.method.clone(),
            path: path.to_owned(),
            query,
            headers: request.headers.clone(),
            unreadable: None,
        };
        let (status, headers) = (upstream.status, &upstream.headers);
        let body = request.body.clone().unwrap_or_default();
        let config = match &self.config {
            Ok(config) => config.clone(),
            Err(error) => return own(flow::misconfigured(error, &head)),
        };
        // (1)
        let planned = match flow::arrive(&config, head, request.body.is_some()) {
            Arrival::Answer(reply) => Planned::Answer(reply),
            Arrival::Health(target, facts) => {
                if !upstream.unreachable {
                    let outbound =
                        Outbound { method: Method::GET, url: target.clone(), headers: HeaderMap::new(), body: None };
                    self.call(&outbound, &[]);
                }
                return own(present::health(&target, !upstream.unreachable, facts));
            }
            Arrival::Pass(passage) => Planned::Pass(passage),
            Arrival::Read(pending) if body.len() > pending.max_bytes => pending.too_large(),
            // (2)
            Arrival::Operate(order, _) => panic!("{order:?} is for the Worker: the case needs `only`"),
            Arrival::Read(pending) => pending.with_body(&config, &body, true),
        };
        let question = match planned {
            Planned::Answer(reply) => return own(reply),
            Planned::Pass(mut passage) => {
                if upstream.unreachable {
                    return own(passage.failed(Failure::Unreachable));
                }
                self.call(&passage.outbound, &body);
                let edits = passage.answered(status);
                let polisher = passage.polisher(status, headers);
                return forwarded(upstream, edits, polisher);
            }
            Planned::Ask(question) => question,
        };
        // (3)
        let stored = self.store.get(&question.key.to_string()).filter(|_| question.reads());
        let entry = stored.map(|bytes| Entry::decode(bytes).unwrap());
        let found = entry.as_ref().map_or(Found::Nothing, |entry| Found::Entry(entry.head.clone()));
        let looked = match question.look(&found, now_ms) {
            Looked::Render(rendering) => rendering.with_body(&entry.as_ref().unwrap().body),
            Looked::Decided(verdict) => verdict,
        };
        let stored = |replay: Replay| Reply {
            status: replay.status,
            headers: header_map(&replay.headers),
            body: replay.body.unwrap_or_else(|| entry.as_ref().unwrap().body.clone()),
        };
        let (mut asking, served) = match looked {
            Verdict::Answer(reply) => return own(reply),
            Verdict::Replay(replay) => return stored(*replay),
            Verdict::Update(replay, asking) => (asking, Some(stored(*replay))),
            Verdict::Ask(asking) => (asking, None),
        };
        // (4)
        let outcome = if upstream.unreachable { Err(Failure::Unreachable) } else { Ok(status) };
        if outcome.is_ok() {
            self.call(&asking.outbound, &body);
        }
        if let Some(replay) = asking.stand_in(outcome, now_ms, || entry.as_ref().unwrap().body.clone()) {
            return stored(replay);
        }
        if let Err(failure) = outcome {
            return served.unwrap_or_else(|| own(asking.failed(failure)));
        }
        let (edits, capture) = asking.answered(&config, status, headers);
        let polisher = asking.polisher(&config, status, headers);
        // (5)
        if let Ok(mut capture) = capture
            && !upstream.truncated
            && upstream.body.chunks(7).all(|piece| capture.push(piece).is_ok())
            && let Ok(entry) = capture.finish(now_ms)
        {
            self.store.insert(asking.key.to_string(), entry.encode().unwrap());
        }
        served.unwrap_or_else(|| forwarded(upstream, edits, polisher))
    }
}
