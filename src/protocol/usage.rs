//! The token usage of a response, in all protocols.
//!
//! Providers count differently; here `input` is all of the input, and `output` all of the output:
//!
//! | | counted by the provider | here |
//! |---|---|---|
//! | Anthropic | `input_tokens` without tokens read from or written to its cache | with them |
//! | Google | `candidatesTokenCount` without thoughts; tool results beside the prompt | with them |
//! | xAI | `completion_tokens` without `reasoning_tokens` | with them |

use crate::http::sse::Event;
use crate::json::{JsonCursor, TextEdits};
use serde::{Deserialize, Serialize};

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_COUNT: u64 = 999_999_999_999_999;

/// How many levels of a usage are looked at.
const MAX_DEPTH: usize = 6;

/// Numbers of tokens. `None`: the response does not report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// All output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// Input tokens that the provider read from its own prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<u64>,
    /// Input tokens that the provider wrote to its prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Output tokens that were reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
}

impl Usage {
    /// The usage that a plain response reports.
    pub fn of_object(text: &str) -> Usage {
        let mut counters = Counters::default();
        counters.read_root(JsonCursor::root(text));
        counters.usage()
    }

    /// That of `n` responses which are equal to this one.
    pub fn times(self, n: u64) -> Usage {
        let times = |count: Option<u64>| count.map(|count| count.saturating_mul(n));
        Usage {
            input: times(self.input),
            output: times(self.output),
            cached_input: times(self.cached_input),
            cache_write: times(self.cache_write),
            reasoning: times(self.reasoning),
        }
    }

    /// The usage that a stream reports. Its counters are cumulative, so the last of each counts.
    pub fn of_events(events: &[Event]) -> Usage {
        let mut counters = Counters::default();
        let may_count = |text: &str| ["sage", "eval_count", "\"meta\""].iter().any(|sign| text.contains(sign));
        for event in events.iter().filter(|event| may_count(&event.data)) {
            counters.read_root(JsonCursor::root(&event.data));
        }
        counters.usage()
    }
}

/// The counters as providers name them.
#[derive(Default)]
struct Counters {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    /// Part of the input.
    cached: Option<u64>,
    /// Not part of the input.
    cache_read: Option<u64>,
    /// Part of the input.
    written: Option<u64>,
    /// Not part of the input.
    cache_creation: Option<u64>,
    /// Part of the output, except at xAI.
    reasoning: Option<u64>,
    /// Not part of the output.
    thoughts: Option<u64>,
    /// Not part of the input.
    tool_input: Option<u64>,
}

impl Counters {
    /// Reads the usage of a response or an event of any protocol.
    fn read_root(&mut self, root: JsonCursor<'_>) {
        usage_objects(root, &mut |usage| self.read(usage));
        for member in root.members() {
            let is = |name: &str| member.key.eq_str(name);
            if is("meta") {
                self.read(member.value);
            } else if is("response") {
                member.value.get("meta").into_iter().for_each(|meta| self.read(meta));
            } else if is("prompt_eval_count") {
                self.input = count(member.value).or(self.input);
            } else if is("eval_count") {
                self.output = count(member.value).or(self.output);
            }
        }
    }

    fn read(&mut self, usage: JsonCursor<'_>) {
        for member in usage.members() {
            let is = |names: &[&str]| names.iter().any(|name| member.key.eq_str(name));
            let counter = if is(&["prompt_tokens", "input_tokens", "promptTokenCount"]) {
                &mut self.input
            } else if is(&["completion_tokens", "output_tokens", "candidatesTokenCount"]) {
                &mut self.output
            } else if is(&["total_tokens", "totalTokenCount"]) {
                &mut self.total
            } else if is(&["cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount"]) {
                &mut self.cached
            } else if is(&["cache_write_tokens"]) {
                &mut self.written
            } else if is(&["cache_read_input_tokens"]) {
                &mut self.cache_read
            } else if is(&["cache_creation_input_tokens"]) {
                &mut self.cache_creation
            } else if is(&["reasoning_tokens"]) {
                &mut self.reasoning
            } else if is(&["thoughtsTokenCount"]) {
                &mut self.thoughts
            } else if is(&["toolUsePromptTokenCount"]) {
                &mut self.tool_input
            } else {
                // Cohere bills `billed_units`; its `tokens` include tokens that it added itself.
                if is(&[
                    "billed_units",
                    "prompt_tokens_details",
                    "input_tokens_details",
                    "completion_tokens_details",
                    "output_tokens_details",
                ]) {
                    self.read(member.value);
                }
                continue;
            };
            *counter = count(member.value).or(*counter);
        }
    }

    fn usage(self) -> Usage {
        let beside_input = [self.cache_read, self.cache_creation, self.tool_input];
        // Embeddings may have a total only.
        let input = self.input.or(self.total.filter(|_| self.output.is_none()));
        let reasoning_is_beside = match (self.total, self.input, self.output, self.reasoning) {
            (Some(total), Some(input), Some(output), Some(reasoning)) => {
                reasoning > 0 && sum(input, [Some(output), Some(reasoning)]) == total
            }
            _ => false,
        };
        let beside_output = [self.thoughts, self.reasoning.filter(|_| reasoning_is_beside)];
        Usage {
            input: input.map(|input| sum(input, beside_input)),
            output: self.output.or(self.thoughts.map(|_| 0)).map(|output| sum(output, beside_output)),
            cached_input: self.cache_read.or(self.cached),
            cache_write: self.cache_creation.or(self.written),
            reasoning: self.thoughts.or(self.reasoning),
        }
    }
}

/// Gives each usage of a response or an event, wherever its protocol has it.
fn usage_objects<'a>(root: JsonCursor<'a>, give: &mut impl FnMut(JsonCursor<'a>)) {
    let is_usage = |key: JsonCursor<'_>| key.eq_str("usage") || key.eq_str("usageMetadata");
    for member in root.members() {
        if is_usage(member.key) {
            give(member.value);
        } else if ["response", "message", "delta", "x_groq"].iter().any(|name| member.key.eq_str(name)) {
            // Responses, Anthropic, Cohere, Groq. Elsewhere these are texts, or objects without usage.
            member.value.members().filter(|member| is_usage(member.key)).for_each(|member| give(member.value));
        }
    }
}

/// A body with each counter of its usage at 0. Every other byte stays. `essence`: its media type, without parameters. `None`:
/// it has no counter.
pub fn zeroed(body: &[u8], essence: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut edits = TextEdits::default();
    let line_prefix = match essence {
        "text/event-stream" => Some("data:"),
        "application/x-ndjson" => Some(""),
        _ => None,
    };
    match line_prefix {
        Some(prefix) => {
            let mut at = 0usize;
            for line in text.split_inclusive(['\n', '\r']) {
                let end = at.saturating_add(line.len());
                if let Some(data) = line.strip_prefix(prefix) {
                    zero_usage(JsonCursor::root(data), end.saturating_sub(data.len()), &mut edits);
                }
                at = end;
            }
        }
        None => {
            let root = JsonCursor::root(text);
            zero_usage(root, 0, &mut edits);
            // Google's stream without `alt=sse`.
            root.items().for_each(|item| zero_usage(item, 0, &mut edits));
        }
    }
    (!edits.is_empty()).then(|| edits.apply(text))
}

/// `offset`: where the root's text begins.
fn zero_usage(root: JsonCursor<'_>, offset: usize, edits: &mut TextEdits) {
    usage_objects(root, &mut |usage| zero(usage, offset, edits, MAX_DEPTH));
}

fn zero(value: JsonCursor<'_>, offset: usize, edits: &mut TextEdits, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    if value.text().starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        let range = value.range();
        edits.replace(range.start.saturating_add(offset)..range.end.saturating_add(offset), b"0".to_vec());
    }
    value.members().for_each(|member| zero(member.value, offset, edits, depth));
    value.items().for_each(|item| zero(item, offset, edits, depth));
}

fn sum<const N: usize>(first: u64, others: [Option<u64>; N]) -> u64 {
    others.into_iter().flatten().fold(first, u64::saturating_add).min(MAX_COUNT)
}

/// A count. Some providers write whole numbers with a decimal point.
fn count(value: JsonCursor<'_>) -> Option<u64> {
    // `as` saturates and cannot fail.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rounded = || value.text().parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n as u64);
    value.index().or_else(rounded).map(|n| n.min(MAX_COUNT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage<const N: usize>(counts: [u64; N]) -> Usage {
        let at = |i: usize| counts.get(i).copied();
        Usage { input: at(0), output: at(1), cached_input: at(2), cache_write: at(3), reasoning: at(4) }
    }

    #[test]
    fn plain_responses_report_their_usage() {
        for (body, expected) in [
            // Chat completions and compatible APIs.
            (
                r#"{"choices":[{"message":{"usage":{"prompt_tokens":9}}}],"usage":{"prompt_tokens":1234,"completion_tokens":567,
                "total_tokens":1801,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},
                "completion_tokens_details":{"reasoning_tokens":64}}}"#,
                Usage { cache_write: None, ..usage([1234, 567, 1024, 0, 64]) },
            ),
            (r#"{"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_cache_hit_tokens":4}}"#, usage([5, 2, 4])),
            (
                r#"{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2,"cache_write_tokens":3}}}"#,
                usage([9, 1, 2, 3]),
            ),
            // xAI: by the total, reasoning is not in `completion_tokens`.
            (
                r#"{"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":361,
                "completion_tokens_details":{"reasoning_tokens":320}}}"#,
                Usage { cached_input: None, cache_write: None, ..usage([32, 329, 0, 0, 320]) },
            ),
            // Responses.
            (
                r#"{"object":"response","usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4},
                "output_tokens":7,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":17}}"#,
                Usage { cache_write: None, ..usage([10, 7, 4, 0, 5]) },
            ),
            // Anthropic counts tokens of its cache separately.
            (
                r#"{"type":"message","usage":{"input_tokens":3,"cache_creation_input_tokens":20,"cache_read_input_tokens":100,
                "cache_creation":{"ephemeral_5m_input_tokens":20},"output_tokens":8,"service_tier":"standard"}}"#,
                usage([123, 8, 100, 20]),
            ),
            // Google counts thoughts and tool results separately.
            (
                r#"{"candidates":[],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5,"thoughtsTokenCount":7,
                "toolUsePromptTokenCount":2,"cachedContentTokenCount":6,"totalTokenCount":24}}"#,
                Usage { cache_write: None, ..usage([12, 12, 6, 0, 7]) },
            ),
            // Cohere: version 2 and 1, as decimals.
            (
                r#"{"message":{},"usage":{"billed_units":{"input_tokens":11.0,"output_tokens":4},"tokens":{"input_tokens":99}}}"#,
                usage([11, 4]),
            ),
            (r#"{"text":"a","meta":{"billed_units":{"input_tokens":6,"output_tokens":1}}}"#, usage([6, 1])),
            // Ollama.
            (r#"{"response":"usage","done":true,"prompt_eval_count":26,"eval_count":290}"#, usage([26, 290])),
            // Embeddings.
            (r#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#, usage([8])),
            (r#"{"data":[],"usage":{"total_tokens":8}}"#, usage([8])),
            // None.
            (r#"{"usage":null}"#, Usage::default()),
            (r#"{"usage":{"prompt_tokens":-1,"completion_tokens":"2"}}"#, Usage::default()),
            (r#"[{"usage":{"prompt_tokens":1}}]"#, Usage::default()),
            ("", Usage::default()),
        ] {
            assert_eq!(Usage::of_object(body), expected, "{body}");
        }
    }

    #[test]
    fn streams_report_their_usage() {
        for (events, expected) in [
            (
                &[
                    r#"{"choices":[{"delta":{"content":"usage"}}],"usage":null}"#,
                    r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#,
                    "[DONE]",
                ][..],
                usage([3, 2]),
            ),
            (&[r#"{"choices":[],"x_groq":{"usage":{"prompt_tokens":3,"completion_tokens":2}}}"#], usage([3, 2])),
            (
                &[
                    r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":7,
                    "cache_creation_input_tokens":0,"output_tokens":1}}}"#,
                    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":40}}"#,
                ],
                usage([12, 40, 7, 0]),
            ),
            (
                &[
                    r#"{"type":"response.created","response":{"usage":null}}"#,
                    r#"{"type":"response.completed","response":{"usage":{"input_tokens":4,"output_tokens":6}}}"#,
                ],
                usage([4, 6]),
            ),
            (
                &[
                    r#"{"candidates":[],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":1}}"#,
                    r#"{"candidates":[],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":9}}"#,
                ],
                usage([4, 9]),
            ),
            (
                &[r#"{"type":"message-end","delta":{"usage":{"billed_units":{"input_tokens":2,"output_tokens":1}}}}"#],
                usage([2, 1]),
            ),
            (
                &[r#"{"message":{"content":"a"}}"#, r#"{"done":true,"prompt_eval_count":2,"eval_count":3}"#],
                usage([2, 3]),
            ),
            (&[r#"{"choices":[{"delta":{"content":"a"}}]}"#], Usage::default()),
        ] {
            let list: Vec<Event> = events.iter().map(|data| Event::data(*data)).collect();
            assert_eq!(Usage::of_events(&list), expected, "{events:?}");
        }
    }

    #[test]
    fn counters_become_zero_and_every_other_byte_stays() {
        for (essence, body, expected) in [
            (
                "application/json",
                r#" { "id":7, "usage" : {"prompt_tokens": 12,"d":{"cached":[ 1 ,2.5e3]},"tier":"1","cost":-0.1,"n":null} , "n":3}"#,
                r#" { "id":7, "usage" : {"prompt_tokens": 0,"d":{"cached":[ 0 ,0]},"tier":"1","cost":0,"n":null} , "n":3}"#,
            ),
            (
                "text/event-stream",
                "event: message_start\r\ndata: {\"message\":{\"usage\":{\"input_tokens\":5}},\"index\":1}\r\n\r\ndata:{\"usage\":{\"o\":40}}\n\n",
                "event: message_start\r\ndata: {\"message\":{\"usage\":{\"input_tokens\":0}},\"index\":1}\r\n\r\ndata:{\"usage\":{\"o\":0}}\n\n",
            ),
            (
                "application/json",
                r#"[{"usageMetadata":{"promptTokenCount":4}},{"usageMetadata":{"promptTokenCount":44}}]"#,
                r#"[{"usageMetadata":{"promptTokenCount":0}},{"usageMetadata":{"promptTokenCount":0}}]"#,
            ),
            ("application/x-ndjson", "{\"a\":1}\n{\"usage\":{\"a\":1}}\n", "{\"a\":1}\n{\"usage\":{\"a\":0}}\n"),
        ] {
            let zeroed = zeroed(body.as_bytes(), essence).map(|body| String::from_utf8(body).unwrap());
            assert_eq!(zeroed.as_deref(), Some(expected), "{body}");
        }
        assert_eq!(zeroed(br#"{"choices":[{"usage":{"a":1}}],"usage":null}"#, "application/json"), None);
        assert_eq!(zeroed(b"data: [DONE]\n\n", "text/event-stream"), None);
        assert_eq!(zeroed(&[0xff], "audio/mpeg"), None);
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        assert_eq!(serde_json::to_string(&usage([1, 2])).unwrap(), r#"{"input":1,"output":2}"#);
        assert_eq!(serde_json::from_str::<Usage>("{}").unwrap(), Usage::default());
    }
}
