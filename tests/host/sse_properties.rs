//! Event streams and JSON lines: the decoder gives the same events for any chunks, and those that the standard defines.

use proptest::prelude::*;
use reprise::testing::{DecodeError, Decoder, Event, Framing, decode};

/// Bytes that are likely to matter.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "\n", "\r", "\r\n", "\n\n", "data", "data:", "data: ", "event: e", ":", ": c", " ", "id: 1", "retry: 2",
            "\u{feff}", "\u{e9}", "\u{1f600}", "{\"a\":1}", "[DONE]", "x", "\u{2028}", "\0",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn framing() -> impl Strategy<Value = Framing> {
    prop::sample::select(vec![Framing::Events, Framing::Lines])
}

/// All events, and the end.
type Outcome = (Vec<Event>, Result<(), DecodeError>);

fn in_chunks<'a>(framing: Framing, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut events = Vec::new();
    let mut decoder = Decoder::new(framing);
    for chunk in chunks {
        decoder.push(chunk, &mut |event| events.push(event));
    }
    let end = decoder.finish(&mut |event| events.push(event));
    (events, end)
}

/// A reference implementation of the standard, on a whole text.
fn reference(text: &str) -> Outcome {
    // Text after the last line end is an incomplete line.
    let mid_line = !text.is_empty() && !text.ends_with(['\n', '\r']);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    let mut events = Vec::new();
    let (mut name, mut data): (String, Option<String>) = Default::default();
    let mut dispatch = |name: &mut String, data: &mut Option<String>| {
        let name = std::mem::take(name);
        events.extend(data.take().map(|data| Event::named(name, data)));
    };
    for line in lines {
        if line.is_empty() {
            dispatch(&mut name, &mut data);
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => data = Some(data.map_or(value.to_owned(), |data| format!("{data}\n{value}"))),
            _ => {}
        }
    }
    if mid_line {
        return (events, Err(DecodeError::MidLine));
    }
    // Ours, beyond the standard: complete lines at the end count.
    dispatch(&mut name, &mut data);
    (events, Ok(()))
}

fn event() -> impl Strategy<Value = Event> {
    let name = "[a-z_.\u{e9}-]{0,8}";
    // Any text whose lines end in line feeds; a carriage return inside data would end a line on the wire.
    let data = "[ a-z:{}\"\u{e9}\u{feff}\u{1f600}\u{2028}\n]{0,20}";
    (name, data).prop_map(|(name, data)| Event::named(name, data))
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events_and_the_same_end(
        bytes in bytes(),
        framing in framing(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = in_chunks(framing, [bytes.as_slice()]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let chunks = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(&in_chunks(framing, chunks), &whole);
        prop_assert_eq!(&in_chunks(framing, bytes.chunks(1)), &whole);
        prop_assert_eq!(decode(framing, &bytes), whole.1.map(|()| whole.0));
    }

    #[test]
    fn text_is_decoded_as_the_standard_defines(bytes in bytes()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        prop_assert_eq!(in_chunks(Framing::Events, [text.as_bytes()]), reference(&text));
    }

    #[test]
    fn a_stream_that_is_not_utf8_is_never_complete(before in bytes(), after in bytes(), framing in framing()) {
        let bytes = [before, b"\xff\n".to_vec(), after].concat();
        let end = in_chunks(framing, [bytes.as_slice()]).1;
        prop_assert_eq!(end, Err(DecodeError::NotUtf8));
    }

    #[test]
    fn events_written_are_events_read(events in prop::collection::vec(event(), 0..6)) {
        let mut out = Vec::new();
        events.iter().for_each(|event| event.write_sse(&mut out));
        prop_assert_eq!(decode(Framing::Events, &out), Ok(events.clone()));
        // Also with the other two line endings, between comments, and after a byte order mark.
        let text = String::from_utf8(out).unwrap();
        for end in ["\r", "\r\n"] {
            let text = format!("\u{feff}: hello{end}{}: bye{end}{end}", text.replace('\n', end));
            prop_assert_eq!(decode(Framing::Events, text.as_bytes()), Ok(events.clone()));
        }
    }

    #[test]
    fn lines_written_are_lines_read(texts in prop::collection::vec("[ a-z{}:\"\u{e9}\u{1f600}\u{2028}]{0,12}x", 0..6)) {
        let events: Vec<Event> = texts.into_iter().map(Event::data).collect();
        let mut out = Vec::new();
        events.iter().for_each(|event| event.write_line(&mut out));
        prop_assert_eq!(decode(Framing::Lines, &out), Ok(events.clone()));
        // Blank lines mean nothing, and the last line feed may be missing.
        let text = String::from_utf8(out).unwrap().replace('\n', "\r\n \n");
        prop_assert_eq!(decode(Framing::Lines, text.trim_end().as_bytes()), Ok(events));
    }

    /// A stream truncated inside a line is incomplete. Truncated after a line, it has the events so far and no others.
    #[test]
    fn a_truncated_stream_is_noticed(events in prop::collection::vec(event(), 1..5), cut in any::<prop::sample::Index>()) {
        let mut out = Vec::new();
        events.iter().for_each(|event| event.write_sse(&mut out));
        let cut = cut.index(out.len());
        match decode(Framing::Events, &out[..cut]) {
            Ok(seen) if cut == 0 || out[cut - 1] == b'\n' => {
                // The last of them may have had more lines to come.
                let complete = seen.len().saturating_sub(1);
                prop_assert_eq!(&seen[..complete], &events[..complete]);
                prop_assert!(seen.len() <= events.len());
            }
            Ok(seen) => prop_assert!(false, "{:?}", seen),
            Err(broken) => prop_assert!(cut > 0 && out[cut - 1] != b'\n', "{:?}", broken),
        }
    }
}
