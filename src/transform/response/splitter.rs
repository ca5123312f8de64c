//! Splits a stream into events. Unlike [`crate::http::sse`], which reads events, this keeps every byte around them.

use std::ops::Range;

/// The framing of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SplitAt {
    /// `text/event-stream`.
    Events,
    /// One JSON text per line.
    Lines,
    /// The items of one JSON array.
    Items,
}

/// A segment of a stream.
#[derive(Debug)]
pub(super) enum Segment {
    /// Bytes that are not an event.
    Raw(Vec<u8>),
    /// An event.
    Event(RawEvent),
    /// The end of the array.
    Close,
}

/// An event as it was sent.
#[derive(Debug)]
pub(super) struct RawEvent {
    raw: String,
    /// The ranges of its data, one for each line.
    data: Vec<Range<usize>>,
}

impl RawEvent {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.raw.as_bytes()
    }

    /// Its data.
    pub(super) fn data(&self) -> String {
        let lines: Vec<&str> = self.data.iter().filter_map(|range| self.raw.get(range.clone())).collect();
        lines.join("\n")
    }

    /// Its bytes with other data, on one line. (In JSON, line breaks occur only between values.)
    pub(super) fn with_data(&self, data: &[u8]) -> Vec<u8> {
        let [first, rest @ ..] = self.data.as_slice() else {
            return self.bytes().to_vec();
        };
        let raw = |range: Range<usize>| self.raw.as_bytes().get(range).unwrap_or_default();
        let mut out = raw(0..first.start).to_vec();
        out.extend(data.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        let mut done = first.end;
        // Further data lines are removed, with their line ends; what is between them stays.
        for line in rest {
            let before = self.raw.get(..line.start).and_then(|before| before.rfind(['\n', '\r']));
            out.extend_from_slice(raw(done..before.map_or(done, |at| at.saturating_add(1))));
            let after = self.raw.get(line.end..).unwrap_or_default();
            let ending = if after.starts_with("\r\n") { 2 } else { after.len().min(1) };
            done = line.end.saturating_add(ending);
        }
        out.extend_from_slice(raw(done..self.raw.len()));
        out
    }
}

/// Splits a stream, whatever its chunks.
#[derive(Debug)]
pub(super) struct Splitter {
    split_at: SplitAt,
    max_bytes: usize,
    buffer: Vec<u8>,
    /// The offset of the current line in the buffer.
    line: usize,
    /// The last byte was a carriage return, so a line feed belongs to the same line end.
    after_cr: bool,
    array: Array,
    /// The rest is not split: an event is too long, or the array has ended or is none.
    passing_through: bool,
}

/// The position in an array.
#[derive(Debug, Default)]
struct Array {
    open: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    pub(super) fn new(split_at: SplitAt, max_bytes: usize) -> Splitter {
        let array = Array::default();
        Splitter { split_at, max_bytes, buffer: Vec::new(), line: 0, after_cr: false, array, passing_through: false }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(Segment)) {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            if self.passing_through {
                emit(Segment::Raw(rest.to_vec()));
                return;
            }
            rest = after;
            match self.split_at {
                SplitAt::Items => self.item_byte(*byte, emit),
                _ => self.line_byte(*byte, emit),
            }
            if self.buffer.len() > self.max_bytes {
                self.passing_through = true;
                emit(Segment::Raw(std::mem::take(&mut self.buffer)));
            }
        }
    }

    /// The stream has ended.
    pub(super) fn finish(mut self, emit: &mut impl FnMut(Segment)) {
        if !self.buffer.is_empty() {
            match self.split_at {
                SplitAt::Items => emit(Segment::Raw(self.buffer)),
                _ => self.end(emit),
            }
        }
    }

    fn line_byte(&mut self, byte: u8, emit: &mut impl FnMut(Segment)) {
        if std::mem::take(&mut self.after_cr) && byte == b'\n' {
            if self.buffer.is_empty() {
                emit(Segment::Raw(vec![byte]));
            } else {
                self.buffer.push(byte);
                self.line = self.buffer.len();
            }
            return;
        }
        let end = self.buffer.len();
        self.buffer.push(byte);
        if !matches!(byte, b'\n' | b'\r') {
            return;
        }
        self.after_cr = byte == b'\r';
        let line = self.buffer.get(self.line..end).unwrap_or_default();
        // A comment before an event keeps the connection alive, so it is not held until the event ends.
        let comment = self.line == 0 && line.first() == Some(&b':');
        if self.split_at == SplitAt::Lines || line.is_empty() {
            self.end(emit);
        } else if comment {
            emit(Segment::Raw(std::mem::take(&mut self.buffer)));
            self.line = 0;
        } else {
            self.line = self.buffer.len();
        }
    }

    /// The buffer ends: it holds an event, or bytes without data.
    fn end(&mut self, emit: &mut impl FnMut(Segment)) {
        self.line = 0;
        let segment = match String::from_utf8(std::mem::take(&mut self.buffer)) {
            Ok(raw) => {
                let data = if self.split_at == SplitAt::Events { data_lines(&raw) } else { whole_line(&raw) };
                if data.is_empty() { Segment::Raw(raw.into_bytes()) } else { Segment::Event(RawEvent { raw, data }) }
            }
            Err(error) => Segment::Raw(error.into_bytes()),
        };
        emit(segment);
    }

    fn item_byte(&mut self, byte: u8, emit: &mut impl FnMut(Segment)) {
        let array = &mut self.array;
        if array.depth > 0 {
            self.buffer.push(byte);
            match byte {
                _ if array.escaped => array.escaped = false,
                b'\\' if array.in_string => array.escaped = true,
                b'"' => array.in_string = !array.in_string,
                _ if array.in_string => {}
                b'{' | b'[' => array.depth = array.depth.saturating_add(1),
                b'}' | b']' => array.depth = array.depth.saturating_sub(1),
                _ => {}
            }
            if array.depth == 0 {
                let segment = match String::from_utf8(std::mem::take(&mut self.buffer)) {
                    Ok(raw) => Segment::Event(RawEvent { data: std::iter::once(0..raw.len()).collect(), raw }),
                    Err(error) => Segment::Raw(error.into_bytes()),
                };
                emit(segment);
            }
            return;
        }
        match byte {
            b'{' if array.open => {
                array.depth = 1;
                self.buffer.push(byte);
                return;
            }
            b']' if array.open => {
                emit(Segment::Close);
                self.passing_through = true;
            }
            b'[' if !array.open => array.open = true,
            b' ' | b'\t' | b'\n' | b'\r' | b',' => {}
            _ => self.passing_through = true,
        }
        emit(Segment::Raw(vec![byte]));
    }
}

/// The ranges of the values of an event's `data` fields.
fn data_lines(raw: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0usize;
    for line in raw.split_inclusive(['\n', '\r']) {
        let text = line.trim_end_matches(['\n', '\r']);
        let field = text.strip_prefix('\u{feff}').unwrap_or(text);
        if let Some(value) = field.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            let end = at.saturating_add(text.len());
            found.push(end.saturating_sub(value.len())..end);
        }
        at = at.saturating_add(line.len());
    }
    found
}

fn whole_line(raw: &str) -> Vec<Range<usize>> {
    let line = raw.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() { Vec::new() } else { std::iter::once(0..line.len()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_at(split_at: SplitAt, text: &str, size: usize) -> (Vec<String>, String) {
        let mut splitter = Splitter::new(split_at, 1000);
        let (mut data, mut raw) = (Vec::new(), Vec::new());
        let mut emit = |segment: Segment| match segment {
            Segment::Raw(bytes) => raw.extend(bytes),
            Segment::Event(block) => {
                data.push(block.data());
                raw.extend(block.bytes());
            }
            Segment::Close => {}
        };
        for chunk in text.as_bytes().chunks(size) {
            splitter.push(chunk, &mut emit);
        }
        splitter.finish(&mut emit);
        (data, String::from_utf8(raw).unwrap())
    }

    #[test]
    fn finds_every_event_and_keeps_every_byte() {
        let events = "\u{feff}: hi\r\n\r\nevent: e\r\ndata: {\"a\":1}\r\n\r\n:\n\ndata:x\rid: 1\rdata: y\r\rretry: 1\n\ndata: [DONE]";
        let lines = "{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}";
        let items = " [{\"a\":\"]}\\\"\"}\n, {\"b\":[[]]},3,{}]\n ";
        for size in [1, 2, 3, 1000] {
            let (data, raw) = split_at(SplitAt::Events, events, size);
            assert_eq!(
                (data, raw),
                (vec!["{\"a\":1}".into(), "x\ny".into(), "[DONE]".into()], events.to_owned()),
                "{size}"
            );
            let (data, raw) = split_at(SplitAt::Lines, lines, size);
            assert_eq!((data.len(), raw.as_str()), (3, lines));
            let (data, raw) = split_at(SplitAt::Items, items, size);
            assert_eq!((data.len(), raw.as_str()), (2, items), "3 is not an object, so the rest passes unsplit");
            assert_eq!(split_at(SplitAt::Items, "{\"a\":[{}]}", size).0.len(), 0);
        }
        let long = format!("data: {}\n\ndata: b\n\n", "a".repeat(2000));
        assert_eq!(split_at(SplitAt::Events, &long, 7), (vec![], long.clone()));
    }

    #[test]
    fn replaces_the_data_of_an_event() {
        let mut blocks = Vec::new();
        let mut splitter = Splitter::new(SplitAt::Events, 1000);
        let text = b"event: e\r\ndata:{\"a\":\r\nid: 7\r\ndata: 1}\r\n\r\n";
        splitter.push(text, &mut |segment| {
            if let Segment::Event(block) = segment {
                blocks.push(block)
            }
        });
        assert_eq!(blocks[0].data(), "{\"a\":\n1}");
        assert_eq!(
            blocks[0].with_data(b"{\"b\":\n2}"),
            b"event: e\r\ndata:{\"b\": 2}\r\nid: 7\r\n\r",
            "the last line feed is not part of the event"
        );
    }
}
