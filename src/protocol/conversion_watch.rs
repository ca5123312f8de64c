//! Detects that a stream cannot be converted to an object, at its first event that has no place in one, before the stream ends.

use super::{Accumulate, EventKind, Protocol, is_done, parse};
use crate::http::media_type;
use crate::http::sse::{Decoder, Event, Framing};

/// The largest stream that is converted, in bytes. A conversion holds several copies of it, and all requests of an isolate share
/// its memory.
pub const MAX_CONVERTED: usize = 2 << 20;

/// Reads a stream until an event shows that it cannot be converted to an object.
#[derive(Debug)]
pub struct ConversionWatch {
    protocol: Protocol,
    decoder: Decoder,
    accumulator: Box<dyn Accumulate>,
    bytes: usize,
}

impl ConversionWatch {
    /// Begins to read a body of this media type. `None`: it is not read event by event.
    pub fn new(protocol: Protocol, essence: &str) -> Option<ConversionWatch> {
        let framing = match protocol {
            Protocol::Ollama => Framing::Lines,
            _ if media_type::is_event_stream(essence) => Framing::Events,
            _ => return None,
        };
        let decoder = Decoder::new(framing);
        protocol.is_stream(essence, true).then(|| ConversionWatch {
            protocol,
            decoder,
            accumulator: protocol.accumulator(),
            bytes: 0,
        })
    }

    /// Reads the next bytes. Returns whether the stream may still be converted.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.bytes = self.bytes.saturating_add(bytes.len());
        let mut fits = self.bytes <= MAX_CONVERTED;
        let ConversionWatch { protocol, decoder, accumulator, .. } = self;
        decoder.push(bytes, &mut |event: Event| {
            fits = fits && (is_done(&event) || adds(*protocol, accumulator.as_mut(), &event));
        });
        fits
    }
}

fn adds(protocol: Protocol, accumulator: &mut dyn Accumulate, event: &Event) -> bool {
    let Some(value) = parse(&event.data) else { return false };
    !matches!(protocol.event_kind(event, &value), EventKind::Error(_)) && accumulator.add(value).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The number of these events that are read before the stream is found unconvertible.
    fn read(protocol: Protocol, events: &[Value]) -> usize {
        let (essence, prefix, end) = if protocol == Protocol::Ollama {
            ("application/x-ndjson", "", "\n")
        } else {
            ("text/event-stream", "data: ", "\n\n")
        };
        let mut watch = ConversionWatch::new(protocol, essence).unwrap();
        let fits = |event: &&Value| {
            let text = format!("{prefix}{event}{end}");
            text.as_bytes().chunks(7).all(|chunk| watch.push(chunk))
        };
        events.iter().take_while(fits).count()
    }

    #[test]
    fn a_stream_is_unconvertible_at_the_first_event_without_a_place_in_an_object() {
        let chat = |delta: Value| json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        let start = json!({"type": "message_start", "message": {"content": [], "usage": {}}});
        for (protocol, good, bad) in [
            (
                Protocol::Chat,
                vec![chat(json!({"content": "a"})), chat(json!({"content": "b"}))],
                json!({"id": "d", "choices": []}),
            ),
            (Protocol::Chat, vec![chat(json!({"content": "a"}))], json!({"error": {"message": "m"}})),
            (Protocol::Chat, vec![], chat(json!({"tool_calls": [{"function": {"name": "f"}}]}))),
            (
                Protocol::Completions,
                vec![json!({"choices": [{"index": 0, "text": "a"}]})],
                json!({"choices": [{"text": "a"}]}),
            ),
            (Protocol::Anthropic, vec![start.clone(), json!({"type": "ping"})], json!({"type": "novelty"})),
            (Protocol::Anthropic, vec![], json!({"type": "content_block_stop", "index": 0})),
            (Protocol::Responses, vec![json!({"type": "response.created"})], json!({"type": "response.audio.delta"})),
            (
                Protocol::Google,
                vec![json!({"candidates": [], "responseId": "a"})],
                json!({"candidates": [], "responseId": "b"}),
            ),
            (Protocol::Cohere, vec![], json!({"type": "novelty"})),
            (
                Protocol::Ollama,
                vec![json!({"response": "a", "model": "m", "done": false})],
                json!({"response": "", "model": "n", "done": false}),
            ),
        ] {
            let events = [good.clone(), vec![bad.clone()]].concat();
            assert_eq!(read(protocol, &events), good.len(), "{protocol:?} {bad}");
        }
    }

    #[test]
    fn a_stream_that_grows_too_large_is_unconvertible() {
        let mut watch = ConversionWatch::new(Protocol::Chat, "text/event-stream").unwrap();
        let comment = format!(":{}\n", "x".repeat(MAX_CONVERTED / 2));
        assert!(watch.push(comment.as_bytes()));
        assert!(!watch.push(comment.as_bytes()));
    }

    #[test]
    fn only_streams_of_events_are_read() {
        assert!(ConversionWatch::new(Protocol::Google, "application/json").is_none());
        assert!(ConversionWatch::new(Protocol::Chat, "application/json").is_none());
    }
}
