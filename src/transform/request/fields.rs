//! Sets and removes members of a JSON object. All other bytes stay the same.

use crate::json::{JsonCursor, to_json_string};
use std::borrow::Cow;

/// The text of an object, split into its members.
#[derive(Debug)]
pub struct Fields<'a> {
    /// Everything before the first member.
    head: &'a str,
    fields: Vec<Field<'a>>,
    /// From `}` to the end.
    tail: &'a str,
    changed: bool,
}

#[derive(Debug)]
struct Field<'a> {
    name: Vec<u8>,
    /// Everything between the previous comma or bracket and the value.
    before: Cow<'a, str>,
    value: Cow<'a, str>,
    /// The white space behind the value.
    after: &'a str,
}

impl<'a> Fields<'a> {
    /// Splits the text of an object.
    #[inline(never)]
    pub fn read(text: &'a str) -> Fields<'a> {
        let root = JsonCursor::root(text);
        let slice = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        let mut at = root.range().start.saturating_add(1);
        let members: Vec<_> = root.members().collect();
        let head = slice(0, if members.is_empty() { root.end_bracket() } else { at });
        let mut fields = Vec::with_capacity(members.len());
        for (number, member) in members.iter().enumerate() {
            let end = member.value.range().end;
            // White space before a comma belongs to the member before it.
            let next = members.get(number.saturating_add(1)).map_or(root.end_bracket(), |next| {
                let between = slice(end, next.key.range().start);
                end.saturating_add(between.find(',').unwrap_or_default())
            });
            fields.push(Field {
                name: member.key.string().unwrap_or_default(),
                before: Cow::Borrowed(slice(at, member.value.range().start)),
                value: Cow::Borrowed(member.value.text()),
                after: slice(end, next),
            });
            at = next.saturating_add(1);
        }
        let tail = text.get(root.end_bracket()..).unwrap_or_default();
        Fields { head, fields, tail, changed: false }
    }

    /// Whether there is a member with this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A member's value. If the key is repeated, the last one.
    #[inline(never)]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().rfind(|field| field.name == name.as_bytes()).map(|field| field.value.as_ref())
    }

    /// Whether a member is this string.
    pub fn is(&self, name: &str, text: &str) -> bool {
        self.get(name).is_some_and(|value| JsonCursor::root(value).eq_str(text))
    }

    /// Sets a member to a string.
    #[inline(never)]
    pub fn set_text(&mut self, name: &str, text: &str) {
        if !self.is(name, text) {
            self.set(name, &quoted(text.as_bytes()));
        }
    }

    /// Sets a member to a JSON text: in place, or at the end if there is none.
    #[inline(never)]
    pub fn set(&mut self, name: &str, value: &str) {
        let mut found = false;
        for field in self.fields.iter_mut().filter(|field| field.name == name.as_bytes()) {
            found = true;
            if field.value != value {
                field.value = Cow::Owned(value.to_owned());
                self.changed = true;
            }
        }
        if !found {
            let before = Cow::Owned(format!("{}:", quoted(name.as_bytes())));
            self.fields.push(Field {
                name: name.as_bytes().to_vec(),
                before,
                value: Cow::Owned(value.to_owned()),
                after: "",
            });
            self.changed = true;
        }
    }

    /// Removes a member.
    #[inline(never)]
    pub fn remove(&mut self, name: &str) {
        let before = self.fields.len();
        self.fields.retain(|field| field.name != name.as_bytes());
        self.changed |= self.fields.len() != before;
    }

    /// The object's text, if anything has changed.
    pub fn into_changed(self) -> Option<Vec<u8>> {
        if !self.changed {
            return None;
        }
        let mut out = self.head.to_owned();
        for (number, field) in self.fields.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            out.push_str(&field.before);
            out.push_str(&field.value);
            out.push_str(field.after);
        }
        out.push_str(self.tail);
        Some(out.into_bytes())
    }
}

/// A JSON string.
fn quoted(text: &[u8]) -> String {
    String::from_utf8(to_json_string(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, change: impl Fn(&mut Fields<'_>)) -> Option<String> {
        let mut fields = Fields::read(text);
        change(&mut fields);
        fields.into_changed().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_unchanged_object_keeps_its_bytes() {
        for text in ["{}", " { } ", r#"{"a" : 1.0 ,"b":{"c":[1,{"d":2}]} } "#] {
            assert_eq!(changed(text, |fields| fields.remove("x")), None);
            let mut fields = Fields::read(text);
            fields.changed = true;
            assert_eq!(fields.into_changed().unwrap(), text.as_bytes());
        }
        assert_eq!(changed(r#"{"m":"\u0061"}"#, |fields| fields.set_text("m", "a")), None);
        assert_eq!(changed(r#"{"m":1.0}"#, |fields| fields.set("m", "1.0")), None);
    }

    #[test]
    fn only_the_named_members_change() {
        let text =
            "{ \"a\" : 1.50 , \"b\":{\"a\":2},\n\"\\u0061\":3 ,\"z\": 12345678901234567890123, \"s\":\"\\ud800\" }";
        assert_eq!(
            changed(text, |fields| fields.set("a", "9")).unwrap(),
            "{ \"a\" : 9 , \"b\":{\"a\":2},\n\"\\u0061\":9 ,\"z\": 12345678901234567890123, \"s\":\"\\ud800\" }"
        );
        assert_eq!(
            changed(text, |fields| fields.remove("a")).unwrap(),
            "{ \"b\":{\"a\":2},\"z\": 12345678901234567890123, \"s\":\"\\ud800\" }"
        );
        assert_eq!(changed("{}", |fields| fields.set_text("a", "\"")).unwrap(), r#"{"a":"\""}"#);
        assert_eq!(changed(" { } ", |fields| fields.set("a", "1")).unwrap(), " { \"a\":1} ");
        assert_eq!(changed(r#"{"a":1}"#, |fields| fields.remove("a")).unwrap(), "{}");
        assert_eq!(changed(r#"{"a":1 }"#, |fields| fields.set("b", "2")).unwrap(), r#"{"a":1 ,"b":2}"#);
    }
}
