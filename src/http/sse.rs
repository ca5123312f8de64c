//! Decodes and encodes event streams: server-sent events (WHATWG HTML standard, section 9.2) and JSON lines.
//!
//! The decoder takes bytes in chunks of any size. An incomplete line is held until the next chunk.

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event` field; empty without one.
    pub name: String,
    /// The `data` fields, joined by line feeds; for JSON lines, the line.
    pub data: String,
}

impl Event {
    /// An event without a name.
    pub fn data(data: impl Into<String>) -> Event {
        Event { name: String::new(), data: data.into() }
    }

    /// An event with a name.
    pub fn named(name: impl Into<String>, data: impl Into<String>) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    /// Writes the event as `text/event-stream`.
    pub fn write_sse(&self, out: &mut Vec<u8>) {
        if !self.name.is_empty() {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(self.name.as_bytes());
            out.push(b'\n');
        }
        for line in self.data.split('\n') {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
        out.push(b'\n');
    }

    /// Writes the event's data as a line of JSON lines.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.data.as_bytes());
        out.push(b'\n');
    }
}

/// The delimiter of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`.
    Events,
    /// `application/x-ndjson`: one JSON text a line.
    Lines,
}

/// Why a stream is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// It ended inside a line.
    MidLine,
    /// It is not UTF-8.
    NotUtf8,
}

/// An incremental decoder.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    /// The incomplete line.
    line: Vec<u8>,
    /// The last byte was a carriage return, so a line feed next belongs to it.
    after_cr: bool,
    /// No line has ended yet, so a byte order mark is still removed.
    at_start: bool,
    event: Event,
    has_data: bool,
    not_utf8: bool,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new(framing: Framing) -> Decoder {
        Decoder {
            framing,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            event: Event::default(),
            has_data: false,
            not_utf8: false,
        }
    }

    /// Takes the next bytes and gives the events that they complete to `emit`.
    pub fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(Event)) {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.after_cr = false;
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            self.line.extend_from_slice(line);
            rest = match after {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
            self.end_line(emit);
        }
        self.line.extend_from_slice(rest);
    }

    /// The stream has ended. An event whose lines are complete counts even if the blank line after it is missing.
    ///
    /// # Errors
    /// [`DecodeError`] if the stream is incomplete.
    pub fn finish(mut self, emit: &mut impl FnMut(Event)) -> Result<(), DecodeError> {
        if self.not_utf8 {
            return Err(DecodeError::NotUtf8);
        }
        match self.framing {
            Framing::Events if !self.line.is_empty() => return Err(DecodeError::MidLine),
            Framing::Events => self.dispatch(emit),
            // Whether the last line is whole shows when it is parsed.
            Framing::Lines => self.end_line(emit),
        }
        if self.not_utf8 { Err(DecodeError::NotUtf8) } else { Ok(()) }
    }

    fn end_line(&mut self, emit: &mut impl FnMut(Event)) {
        let line = std::mem::take(&mut self.line);
        let line = if std::mem::take(&mut self.at_start) { line.strip_prefix(BOM).unwrap_or(&line) } else { &line };
        let Ok(line) = std::str::from_utf8(line) else {
            self.not_utf8 = true;
            return;
        };
        match self.framing {
            Framing::Lines if line.trim().is_empty() => {}
            Framing::Lines => emit(Event::data(line)),
            Framing::Events if line.is_empty() => self.dispatch(emit),
            Framing::Events => self.field(line),
        }
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.name),
            // A comment (no name), `id`, `retry`, and whatever the standard tells us to ignore.
            _ => {}
        }
    }

    fn dispatch(&mut self, emit: &mut impl FnMut(Event)) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            emit(event);
        }
    }
}

/// All events of a whole stream.
///
/// # Errors
/// [`DecodeError`] if it is incomplete.
pub fn decode(framing: Framing, bytes: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let mut events = Vec::new();
    let mut decoder = Decoder::new(framing);
    decoder.push(bytes, &mut |event| events.push(event));
    decoder.finish(&mut |event| events.push(event))?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sse(text: &str) -> Vec<Event> {
        decode(Framing::Events, text.as_bytes()).unwrap()
    }

    #[test]
    fn fields_lines_and_comments_follow_the_standard() {
        assert_eq!(sse("data: a\n\n"), [Event::data("a")]);
        assert_eq!(
            sse("\u{feff}: hi\r\nevent: e\rdata:a\ndata:  b\ndata\nid: 1\nretry: 5\nx: y\n\n"),
            [Event::named("e", "a\n b\n")]
        );
        assert_eq!(sse("event: lost\n\ndata: a\n\n"), [Event::data("a")]);
        assert_eq!(sse("data: a\r\n\r\ndata: b\r\r"), [Event::data("a"), Event::data("b")]);
        assert_eq!(sse("data:\u{feff}\n\n"), [Event::data("\u{feff}")]);
    }

    #[test]
    fn the_last_line_counts_only_if_it_is_complete() {
        assert_eq!(sse("data: [DONE]\n"), [Event::data("[DONE]")]);
        assert_eq!(decode(Framing::Events, b"data: a\n\ndata: [DONE]"), Err(DecodeError::MidLine));
        assert_eq!(decode(Framing::Events, b"data: \xff\n\n"), Err(DecodeError::NotUtf8));
    }

    #[test]
    fn json_lines() {
        let lines = decode(Framing::Lines, b"{\"a\":1}\r\n\n{\"b\":2}").unwrap();
        assert_eq!(lines, [Event::data("{\"a\":1}"), Event::data("{\"b\":2}")]);
    }
}
