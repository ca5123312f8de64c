//! Ollama chat and generate (its API documentation): one JSON object a line, the last with `"done": true`.

use super::finish_reason::reject_finish_reason;
use super::open_parts::OpenParts;
use super::{Accumulate, EventKind, text};
use crate::http::sse::Event;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// The kind of a line.
pub(super) fn event_kind(value: &Value) -> EventKind {
    match value.get("done") {
        Some(Value::Bool(true)) => {
            reject_finish_reason(text(value, "done_reason")).map_or(EventKind::Terminal, EventKind::Error)
        }
        _ => EventKind::Delta,
    }
}

/// Whether a line is part of a response.
pub(super) fn is_progress(value: &Value) -> bool {
    let is = |name: &str, test: fn(&Value) -> bool| value.get(name).is_some_and(test);
    is("message", Value::is_object) || is("response", Value::is_string) || is("done", Value::is_boolean)
}

/// Whether a line has text, reasoning, tool calls or images in it.
pub(super) fn has_output(value: &Value) -> bool {
    const MEMBERS: [&str; 6] = ["content", "image", "images", "response", "thinking", "tool_calls"];
    let has_one = |part: &Value| MEMBERS.iter().filter_map(|name| part.get(*name)).any(|member| !is_empty(member));
    has_one(value) || value.get("message").is_some_and(has_one)
}

/// Records the end, which only the last line has.
pub(super) fn track(value: &Value, parts: &mut OpenParts) {
    parts.update("response", None, true, value.get("done") == Some(&Value::Bool(true)));
}

/// A response while its lines arrive.
#[derive(Debug, Default)]
pub(super) struct Whole {
    fields: Object,
    done: bool,
}

impl Accumulate for Whole {
    fn add(&mut self, chunk: Value) -> Option<()> {
        let Value::Object(line) = chunk else {
            return None;
        };
        // The end is last.
        if self.done {
            return None;
        }
        self.done = line.get("done") == Some(&Value::Bool(true));
        for (name, value) in line {
            match (name.as_str(), value) {
                ("message", Value::Object(parts)) => {
                    let message = self.fields.entry(name).or_insert_with(|| Value::Object(Object::new()));
                    let message = message.as_object_mut()?;
                    parts.into_iter().try_for_each(|(name, value)| add_field(message, name, value))?;
                }
                (_, value) => add_field(&mut self.fields, name, value)?,
            }
        }
        Some(())
    }

    fn finish(self: Box<Self>) -> Option<Value> {
        self.done.then_some(Value::Object(self.fields))
    }
}

/// Adds a field. Texts and lists are joined, times and progress take the last value; any other field has one value.
fn add_field(whole: &mut Object, name: String, value: Value) -> Option<()> {
    let Some(so_far) = whole.get_mut(&name) else {
        whole.insert(name, value);
        return Some(());
    };
    match (name.as_str(), so_far, value) {
        ("content" | "response" | "thinking", Value::String(so_far), Value::String(more)) => so_far.push_str(&more),
        ("tool_calls" | "logprobs", Value::Array(items), Value::Array(more)) => items.extend(more),
        ("created_at" | "done" | "completed" | "total", so_far, value) => *so_far = value,
        (_, so_far, value) if *so_far == value => {}
        _ => return None,
    }
    Some(())
}

/// Object to stream: a line for the reasoning, the text and the tool calls each, and the last line with the counts.
pub(super) fn to_events(mut whole: Object) -> Option<Vec<Event>> {
    if whole.get("done") != Some(&Value::Bool(true)) {
        return None;
    }
    let mut shared: Object = ["model", "remote_model", "remote_host", "created_at"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), whole.get(*name)?.clone())))
        .collect();
    shared.insert("done".to_owned(), false.into());
    let mut probabilities = whole.shift_remove("logprobs").filter(|items| !is_empty(items));
    let is_chat = whole.contains_key("message");
    let (part, text) = if is_chat {
        (whole.get_mut("message")?.as_object_mut()?, "content")
    } else {
        whole.get("response")?;
        (&mut whole, "response")
    };
    let role = part.get("role").filter(|_| is_chat).cloned();
    let mut events = Vec::new();
    for name in ["thinking", text, "tool_calls"] {
        let Some(value) = part.get_mut(name).filter(|value| !is_empty(value)) else {
            continue;
        };
        let mut parts = Object::new();
        parts.extend(role.clone().map(|role| ("role".to_owned(), role)));
        parts.insert(text.to_owned(), "".into());
        if name == text {
            parts.insert(name.to_owned(), std::mem::replace(value, "".into()));
        } else {
            parts.insert(name.to_owned(), value.take());
            part.shift_remove(name);
        }
        let mut line = shared.clone();
        if is_chat {
            line.insert("message".to_owned(), Value::Object(parts));
        } else {
            line.append(&mut parts);
        }
        if name == text {
            line.extend(probabilities.take().map(|items| ("logprobs".to_owned(), items)));
        }
        events.push(Event::data(Value::Object(line).to_string()));
    }
    whole.extend(probabilities.map(|items| ("logprobs".to_owned(), items)));
    events.push(Event::data(Value::Object(whole).to_string()));
    Some(events)
}

/// Whether the last line can have the value, so that it needs no line of its own. (True of other types than text and lists.)
fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use crate::http::sse::Event;
    use crate::protocol::{Protocol, ResponseMode};
    use serde_json::{Value, json};

    fn to_object(lines: &[Value]) -> Option<Value> {
        let events: Vec<Event> = lines.iter().map(|line| Event::data(line.to_string())).collect();
        Protocol::Ollama.to_object(&events)
    }

    fn to_lines(object: Value) -> Option<Vec<Value>> {
        let events = Protocol::Ollama.to_events(object, ResponseMode::default())?;
        events.iter().map(|event| serde_json::from_str(&event.data).ok()).collect()
    }

    #[test]
    fn the_lines_of_a_chat_are_merged_into_the_last() {
        let line = |at: u64, message: Value| json!({"model": "m", "created_at": at, "message": message, "done": false});
        let call = |name: &str| json!({"function": {"name": name, "arguments": {}}});
        let mut end = line(9, json!({"role": "assistant", "content": ""}));
        end["done"] = true.into();
        end["eval_count"] = 3.into();
        let lines = [
            line(1, json!({"role": "assistant", "content": "", "thinking": "h"})),
            line(2, json!({"role": "assistant", "content": "", "thinking": "m"})),
            line(3, json!({"role": "assistant", "content": "a"})),
            line(4, json!({"role": "assistant", "content": "b", "tool_calls": [call("f")]})),
            line(5, json!({"role": "assistant", "content": "", "tool_calls": [call("g"), call("f")]})),
            end,
        ];
        let message = json!({"role": "assistant", "content": "ab", "thinking": "hm", "tool_calls": [call("f"), call("g"), call("f")]});
        let expected = json!({"model": "m", "created_at": 9, "message": message, "done": true, "eval_count": 3});
        assert_eq!(to_object(&lines), Some(expected.clone()));
        let made = to_lines(expected.clone()).unwrap();
        assert_eq!(made.len(), 4);
        assert_eq!(to_object(&made), Some(expected));
    }

    #[test]
    fn a_response_without_text_is_one_line() {
        let loaded = json!({"model": "m", "created_at": 1, "response": "", "done": true, "done_reason": "load"});
        assert_eq!(to_lines(loaded.clone()), Some(vec![loaded.clone()]));
        assert_eq!(to_object(std::slice::from_ref(&loaded)), Some(loaded));
    }

    #[test]
    fn incomplete_or_contradictory_lines_give_none() {
        let end = json!({"response": "", "done": true});
        for lines in [
            vec![],
            vec![json!({"response": "a", "done": false})],
            vec![end.clone(), end.clone()],
            vec![json!({"response": "a", "model": "m"}), json!({"response": "", "model": "n", "done": true})],
            vec![json!({"response": "a", "new": 1}), json!({"response": "", "new": 2, "done": true})],
            vec![json!({"response": "a"}), json!({"response": null, "done": true})],
            vec![json!("a"), end],
        ] {
            assert_eq!(to_object(&lines), None, "{lines:?}");
        }
        for object in [json!({"response": "a"}), json!({"done": true}), json!({"message": "a", "done": true})] {
            assert_eq!(to_lines(object), None);
        }
    }
}
