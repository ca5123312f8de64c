//! Finds values in a JSON text, and replaces some of them.
//!
//! Everything else keeps its bytes: number tokens, the spelling of strings, the order of keys, whitespace. The text must be
//! valid JSON; in other texts fewer values are found.
//!
//! Strings are decoded to UTF-8. Lone surrogates (RFC 8259, section 8.2), which UTF-8 cannot encode, become three bytes as in
//! WTF-8, and are encoded as escapes again.

use serde::Deserialize;
use std::ops::Range;

/// Deserialises JSON from bytes. It reads them as text, because a second reader of `serde_json` would double the code.
/// `None`: the bytes are no such value.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    serde_json::from_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// A value in a text: its bytes, and where they begin.
#[derive(Debug, Clone, Copy)]
pub struct JsonCursor<'a> {
    text: &'a str,
    at: usize,
}

/// One `"key": value` of an object.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The key, a string.
    pub key: JsonCursor<'a>,
    /// The value.
    pub value: JsonCursor<'a>,
}

impl<'a> JsonCursor<'a> {
    /// The value of a whole text.
    pub fn root(text: &'a str) -> JsonCursor<'a> {
        let start = skip_blank(text.as_bytes(), 0);
        let text = text.get(start..).unwrap_or_default().trim_end();
        JsonCursor { text, at: start }
    }

    /// Its text.
    pub fn text(self) -> &'a str {
        self.text
    }

    /// Its place in the root's text, in bytes.
    pub fn range(self) -> Range<usize> {
        self.at..self.at.saturating_add(self.text.len())
    }

    /// The members of an object in their order. Other values have none.
    pub fn members(self) -> Members<'a> {
        Members { of: self, next: self.text.starts_with('{').then_some(1) }
    }

    /// The items of an array in their order. Other values have none.
    pub fn items(self) -> Items<'a> {
        Items { of: self, next: self.text.starts_with('[').then_some(1) }
    }

    /// The value of an object's member. The last of several with this name counts, as in most JSON libraries (RFC 8259,
    /// section 4).
    #[inline(never)]
    pub fn get(self, name: &str) -> Option<JsonCursor<'a>> {
        self.members().filter(|member| member.key.eq_str(name)).last().map(|member| member.value)
    }

    /// The value at the end of a path of names.
    pub fn at(self, path: &[&str]) -> Option<JsonCursor<'a>> {
        path.iter().try_fold(self, |value, name| value.get(name))
    }

    /// Whether an object's member is this string.
    pub fn member_eq(self, name: &str, text: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_str(text))
    }

    /// Whether it is this string, in any spelling.
    #[inline(never)]
    pub fn eq_str(self, text: &str) -> bool {
        match self.inner() {
            Some(inner) if !inner.contains('\\') => inner == text,
            Some(_) => self.string().is_some_and(|string| string == text.as_bytes()),
            None => false,
        }
    }

    /// A string's value.
    pub fn string(self) -> Option<Vec<u8>> {
        self.inner().map(unescape)
    }

    /// A string's value, if it is Unicode.
    pub fn as_string(self) -> Option<String> {
        String::from_utf8(self.string()?).ok()
    }

    /// The value of a whole number.
    pub fn index(self) -> Option<u64> {
        self.text.parse().ok()
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.text.starts_with('{')
    }

    /// Whether it is an array.
    pub fn is_array(self) -> bool {
        self.text.starts_with('[')
    }

    /// Whether it is a string.
    pub fn is_string(self) -> bool {
        self.text.starts_with('"')
    }

    /// The place of the closing bracket or quote in the root's text.
    pub fn end_bracket(self) -> usize {
        self.range().end.saturating_sub(1)
    }

    /// A string's spelling, without its quotes.
    fn inner(self) -> Option<&'a str> {
        self.text.strip_prefix('"')?.strip_suffix('"')
    }

    fn part(self, range: Range<usize>) -> Option<JsonCursor<'a>> {
        let at = self.at.saturating_add(range.start);
        Some(JsonCursor { text: self.text.get(range)?, at })
    }
}

/// The members of an object.
#[derive(Debug)]
pub struct Members<'a> {
    of: JsonCursor<'a>,
    next: Option<usize>,
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    #[inline(never)]
    fn next(&mut self) -> Option<Member<'a>> {
        let bytes = self.of.text.as_bytes();
        let key = next_value(bytes, self.next.take()?)?;
        let colon = skip_blank(bytes, key.end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let value = next_value(bytes, colon.saturating_add(1))?;
        self.next = Some(value.end);
        Some(Member { key: self.of.part(key)?, value: self.of.part(value)? })
    }
}

/// The items of an array.
#[derive(Debug)]
pub struct Items<'a> {
    of: JsonCursor<'a>,
    next: Option<usize>,
}

impl<'a> Iterator for Items<'a> {
    type Item = JsonCursor<'a>;

    #[inline(never)]
    fn next(&mut self) -> Option<JsonCursor<'a>> {
        let item = next_value(self.of.text.as_bytes(), self.next.take()?)?;
        self.next = Some(item.end);
        self.of.part(item)
    }
}

fn skip_blank(bytes: &[u8], from: usize) -> usize {
    let blank = bytes.iter().skip(from).take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    from.saturating_add(blank)
}

/// The next key or value of a container, after a comma if there is one.
fn next_value(bytes: &[u8], from: usize) -> Option<Range<usize>> {
    let mut start = skip_blank(bytes, from);
    if bytes.get(start) == Some(&b',') {
        start = skip_blank(bytes, start.saturating_add(1));
    }
    let end = value_end(bytes, start)?;
    Some(start..end)
}

/// The end of the value that begins here. Depth is counted, without recursion.
#[inline(never)]
fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth = depth.saturating_add(1);
                at = at.saturating_add(1);
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at = at.saturating_add(1);
            }
            b',' | b':' if depth == 0 => return None,
            _ => {
                let plain = |byte: &&u8| !matches!(byte, b'"' | b'{' | b'[' | b'}' | b']' | b',');
                let scalar = |byte: &&u8| plain(byte) && !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b':');
                let rest = bytes.iter().skip(at);
                let length = if depth == 0 { rest.take_while(scalar).count() } else { rest.take_while(plain).count() };
                // A comma inside a container.
                at = at.saturating_add(length.max(1));
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The end of the string that begins here, after its quote.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start.saturating_add(1);
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at.saturating_add(1)),
            b'\\' => at = at.saturating_add(2),
            _ => at = at.saturating_add(1),
        }
    }
}

/// The value of a string's spelling, without quotes.
#[inline(never)]
fn unescape(inner: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.extend_from_slice(plain.as_bytes());
        let mut characters = escaped.chars();
        let escape = characters.next();
        rest = characters.as_str();
        match escape {
            Some('n') => out.push(b'\n'),
            Some('t') => out.push(b'\t'),
            Some('r') => out.push(b'\r'),
            Some('b') => out.push(8),
            Some('f') => out.push(12),
            Some('u') => {
                let unit = take_unit(&mut rest);
                // A pair is one character.
                let mut after = rest.strip_prefix("\\u").unwrap_or_default();
                let pair = take_unit(&mut after).and_then(|low| pair(unit?, low));
                if pair.is_some() {
                    rest = after;
                }
                push_code_point(pair.or(unit.map(u32::from)).unwrap_or(0xFFFD), &mut out);
            }
            Some(other) => push_code_point(u32::from(other), &mut out),
            None => {}
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// Takes four hexadecimal digits.
fn take_unit(rest: &mut &str) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    *rest = after;
    Some(unit)
}

/// The character of a surrogate pair.
pub(crate) fn pair(high: u16, low: u16) -> Option<u32> {
    char::decode_utf16([high, low]).next()?.ok().filter(|character| u32::from(*character) > 0xFFFF).map(u32::from)
}

fn push_code_point(code: u32, out: &mut Vec<u8>) {
    match char::from_u32(code) {
        Some(character) => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        None => {
            let six = |shift: u32| 0x80 | u8::try_from((code >> shift) & 0x3F).unwrap_or_default();
            out.extend_from_slice(&[0xE0 | u8::try_from(code >> 12).unwrap_or_default(), six(6), six(0)]);
        }
    }
}

/// A string as JSON, with quotes.
#[inline(never)]
pub fn to_json_string(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len().saturating_add(2));
    out.push(b'"');
    push_escaped(text, &mut out);
    out.push(b'"');
    out
}

/// A string as JSON, without quotes.
pub fn push_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            // A lone surrogate, which UTF-8 cannot encode.
            0xED => match after {
                [middle @ 0xA0..=0xBF, last, after @ ..] => {
                    let unit = 0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(last & 0x3F);
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                    rest = after;
                }
                _ => out.push(*byte),
            },
            _ => out.push(*byte),
        }
    }
}

/// Replacements in a text, sorted by place and applied all at once.
#[derive(Debug, Default)]
pub struct TextEdits(Vec<(Range<usize>, Vec<u8>)>);

impl TextEdits {
    /// Replaces this range with `bytes`.
    pub fn replace(&mut self, range: Range<usize>, bytes: Vec<u8>) {
        let before = self.0.iter().rposition(|(other, _)| other.start <= range.start);
        self.0.insert(before.map_or(0, |at| at.saturating_add(1)), (range, bytes));
    }

    /// Inserts `bytes` at this place.
    pub fn insert(&mut self, at: usize, bytes: Vec<u8>) {
        self.replace(at..at, bytes);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with the replacements.
    pub fn apply(self, text: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut done = 0;
        for (range, bytes) in self.0 {
            out.extend_from_slice(text.as_bytes().get(done..range.start).unwrap_or_default());
            out.extend_from_slice(&bytes);
            done = range.end;
        }
        out.extend_from_slice(text.as_bytes().get(done..).unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_with_their_place() {
        let text = " { \"a\" : [ 1.50 , {\"b\":\"]},\\\"\"} , [] ] ,\"c\":-0e1, \"\\u0061\":true } ";
        let root = JsonCursor::root(text);
        assert_eq!(root.get("a").unwrap().text(), "true");
        assert_eq!(root.get("c").unwrap().text(), "-0e1");
        let items: Vec<&str> = root.members().next().unwrap().value.items().map(JsonCursor::text).collect();
        assert_eq!(items, ["1.50", "{\"b\":\"]},\\\"\"}", "[]"]);
        for member in root.members() {
            assert_eq!(text.get(member.value.range()).unwrap(), member.value.text());
        }
        assert_eq!(JsonCursor::root("{}").members().count(), 0);
        assert_eq!(JsonCursor::root("[ ]").items().count(), 0);
        assert_eq!(JsonCursor::root("[1,2]").members().count(), 0);
        assert_eq!(JsonCursor::root(r#"{"a":{"b":{"c":7}}}"#).at(&["a", "b", "c"]).unwrap().index(), Some(7));
    }

    #[test]
    fn invalid_json_causes_no_panic() {
        for text in ["", "{", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":}", "[1,", "{a:1}", "[", "\"\\", "{\"a\":[}"] {
            let root = JsonCursor::root(text);
            let _ = (root.members().count(), root.items().count(), root.string());
        }
    }

    #[test]
    fn strings_survive_decoding_and_encoding() {
        for (spelled, again) in [
            (r#""aé\u00e9\n\"\\\/\b""#, "\"aéé\\n\\\"\\\\/\\u0008\""),
            (r#""\ud83d\ude00""#, "\"😀\""),
            (r#""\ud83dx\ude00\ud83d""#, r#""\ud83dx\ude00\ud83d""#),
            (r#""\ud83d\ud83d\ude00""#, "\"\\ud83d😀\""),
            ("\"\u{d7ff}\u{e000}\"", "\"\u{d7ff}\u{e000}\""),
        ] {
            let value = JsonCursor::root(spelled).string().unwrap();
            assert_eq!(String::from_utf8(to_json_string(&value)).unwrap(), again);
        }
        assert!(JsonCursor::root(r#""\u0061b""#).eq_str("ab"));
        assert_eq!(JsonCursor::root(r#""\ud800""#).as_string(), None);
    }

    #[test]
    fn edits_change_only_their_ranges() {
        let text = r#"{"a": 1.0, "b":[2]}"#;
        let root = JsonCursor::root(text);
        let mut edits = TextEdits::default();
        edits.replace(root.get("b").unwrap().range(), b"3".to_vec());
        edits.insert(root.end_bracket(), b",\"c\":4".to_vec());
        edits.replace(root.get("a").unwrap().range(), b"null".to_vec());
        assert_eq!(edits.apply(text), br#"{"a": null, "b":3,"c":4}"#);
    }
}
