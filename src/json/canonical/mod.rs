//! The canonical form of a request body, for the cache key.
//!
//! Equivalent bodies have the same canonical bytes: without whitespace, with one spelling of each string, and with sorted keys in
//! parameters ([`key_order`] decides which objects these are). Array order and number tokens stay as they are.
//!
//! Two linear passes without recursion: [`Document::parse`] checks the text and writes it compactly in document order,
//! with the offsets of objects and members. [`Document::write_canonical`] walks these from the root down, so that the position of
//! an object is known before its members are ordered.

mod key_order;
mod parse;

use key_order::Position;
pub use parse::ParseError;

/// An object in the compact text. Offsets are bytes of [`Document::flat`].
#[derive(Debug, Clone, Copy)]
struct Object {
    /// Offset of `{`.
    open: usize,
    /// Offset after `}`.
    end: usize,
    /// Its members are `members[first_member..][..member_count]`, in document order.
    first_member: usize,
    member_count: usize,
    /// Index of the first object that opens after this one's end.
    next: usize,
}

/// One `"key":value` of an object in the compact text.
#[derive(Debug, Clone, Copy)]
struct Member {
    /// Offset of the key's opening quote.
    start: usize,
    /// Offset of the value's first byte; the colon is before it.
    value: usize,
    /// Offset after the value.
    end: usize,
    /// Index of the first object that opens at or after `value`.
    first_object: usize,
}

/// A valid JSON text and the offsets of its objects.
#[derive(Debug)]
pub struct Document {
    /// The text without insignificant whitespace and with every string in one spelling, in document order.
    flat: Vec<u8>,
    objects: Vec<Object>,
    members: Vec<Member>,
}

/// Which top-level members are included.
#[derive(Debug, Clone, Copy)]
pub enum Select<'a> {
    /// All but these.
    Except(&'a [&'a str]),
    /// Only these.
    Only(&'a [&'a str]),
}

impl Select<'_> {
    fn includes(&self, key: &[u8]) -> bool {
        let is_in = |names: &[&str]| names.iter().any(|name| name.as_bytes() == key);
        match self {
            Select::Except(names) => !is_in(names),
            Select::Only(names) => is_in(names),
        }
    }
}

/// An object has a key twice. Its meaning depends on the reader, so it has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateKey;

/// A part that is still to be written. A stack of these replaces recursion.
enum Work {
    /// Copy `flat[at..end]`, ordering the objects in it, the first of which is `object`.
    Span { at: usize, end: usize, object: usize, position: Position },
    /// The members `order[next..]`, those written so far being `order[base..next]`; then `}`.
    Members { base: usize, next: usize, position: Position },
}

impl Document {
    /// Whether the text is a JSON object (rather than an array or a scalar).
    pub fn is_object(&self) -> bool {
        self.flat.first() == Some(&b'{')
    }

    /// Whether it is an object or array without members or items.
    pub fn is_empty(&self) -> bool {
        matches!(self.flat.as_slice(), b"{}" | b"[]")
    }

    /// The compact text of an array.
    pub fn array(&self) -> Option<&str> {
        std::str::from_utf8(&self.flat).ok().filter(|text| text.starts_with('['))
    }

    /// Whether this text occurs in a key or value, however it was escaped.
    pub fn contains(&self, needle: &str) -> bool {
        self.flat.windows(needle.len().max(1)).any(|window| window == needle.as_bytes())
    }

    /// The values of the top-level member `name`, compact and in document order: several if the key is repeated, none if the text
    /// is not an object.
    pub fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let root = self.objects.first().filter(|_| self.is_object());
        root.into_iter()
            .flat_map(|root| self.members_of(root))
            .filter(move |member| self.key(member) == name.as_bytes())
            .filter_map(|member| std::str::from_utf8(self.slice(member.value, member.end)).ok())
    }

    /// Writes the canonical form of the selected members in chunks.
    ///
    /// # Errors
    /// [`DuplicateKey`] if an included object has a key twice. The bytes written so far are then invalid.
    pub fn write_canonical(&self, select: Select<'_>, sink: &mut impl FnMut(&[u8])) -> Result<(), DuplicateKey> {
        let mut order: Vec<Member> = Vec::new();
        let mut stack = vec![Work::Span { at: 0, end: self.flat.len(), object: 0, position: Position::Root }];
        while let Some(work) = stack.pop() {
            match work {
                Work::Span { at, end, object, position } => match self.objects.get(object).filter(|o| o.open < end) {
                    None => sink(self.slice(at, end)),
                    Some(found) => {
                        sink(self.slice(at, found.open));
                        sink(b"{");
                        stack.push(Work::Span { at: found.end, end, object: found.next, position });
                        let base = order.len();
                        order.extend_from_slice(self.members_of(found));
                        let keys = self.members_of(found).iter();
                        let position = position.resolve(keys.map(|member| self.key(member)));
                        self.arrange(order.get_mut(base..).unwrap_or_default(), position)?;
                        if found.open == 0 {
                            order.retain(|member| select.includes(self.key(member)));
                        }
                        stack.push(Work::Members { base, next: base, position });
                    }
                },
                Work::Members { base, next, position } => match order.get(next).copied() {
                    None => {
                        sink(b"}");
                        order.truncate(base);
                    }
                    Some(member) => {
                        if next != base {
                            sink(b",");
                        }
                        sink(self.slice(member.start, member.value));
                        stack.push(Work::Members { base, next: next.saturating_add(1), position });
                        stack.push(Work::Span {
                            at: member.value,
                            end: member.end,
                            object: member.first_object,
                            position: position.child(self.key(&member)),
                        });
                    }
                },
            }
        }
        Ok(())
    }

    /// The canonical bytes: see [`Document::write_canonical`].
    ///
    /// # Errors
    /// [`DuplicateKey`], as there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_canonical(&self, select: Select<'_>) -> Result<Vec<u8>, DuplicateKey> {
        let mut bytes = Vec::with_capacity(self.flat.len());
        self.write_canonical(select, &mut |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Puts the members of an object in canonical order: sorted by key, or as they are if the order has a meaning.
    fn arrange(&self, members: &mut [Member], position: Position) -> Result<(), DuplicateKey> {
        let ascending = members.is_sorted_by(|a, b| self.key(a) < self.key(b));
        if ascending {
            return Ok(());
        }
        let mut sorted;
        let view = if position.keeps_order() {
            sorted = members.to_vec();
            sorted.as_mut_slice()
        } else {
            members
        };
        view.sort_unstable_by(|a, b| self.key(a).cmp(self.key(b)));
        if view.is_sorted_by(|a, b| self.key(a) < self.key(b)) { Ok(()) } else { Err(DuplicateKey) }
    }

    fn members_of(&self, object: &Object) -> &[Member] {
        let end = object.first_member.saturating_add(object.member_count);
        self.members.get(object.first_member..end).unwrap_or_default()
    }

    /// A member's key in its canonical spelling, without the quotes.
    fn key(&self, member: &Member) -> &[u8] {
        self.slice(member.start.saturating_add(1), member.value.saturating_sub(2))
    }

    fn slice(&self, start: usize, end: usize) -> &[u8] {
        self.flat.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::parse::MAX_DEPTH;
    use super::*;

    fn canonical(text: &str) -> String {
        let document = Document::parse(text.as_bytes()).unwrap();
        String::from_utf8(document.to_canonical(Select::Except(&[])).unwrap()).unwrap()
    }

    #[test]
    fn keys_of_parameters_are_sorted_at_every_level() {
        assert_eq!(
            canonical(r#" { "metadata" : [ {"y":1 , "x":{"q":[],"p":{}}} , 2 ] , "a" : null } "#),
            r#"{"a":null,"metadata":[{"x":{"p":{},"q":[]},"y":1},2]}"#
        );
    }

    #[test]
    fn scalars_and_arrays_have_a_canonical_form() {
        assert_eq!(canonical(" [ 1 , {\"b\":1,\"a\":2} ] "), r#"[1,{"a":2,"b":1}]"#);
        assert_eq!(canonical("-0.10E+2"), "-0.10E+2");
    }

    #[test]
    fn strings_are_compared_by_value() {
        assert_eq!(canonical(r#""\u00e9\/\u0022\n""#), "\"é/\\\"\\u000a\"");
        assert_eq!(canonical(r#""\ud83d\ude00""#), "\"😀\"");
        assert_eq!(canonical(r#""\ud83d\ud83d\ude00""#), "\"\\ud83d😀\"");
        assert_eq!(canonical(r#""\uD800x""#), r#""\ud800x""#);
    }

    #[test]
    fn schemas_keep_their_key_order() {
        for (body, schema) in [
            (
                r#"{"tools":[{"function":{"parameters":{"b":1,"a":{"d":1,"c":2}},"name":"n"}}]}"#,
                r#"{"b":1,"a":{"d":1,"c":2}}"#,
            ),
            (
                r#"{"response_format":{"type":"json_schema","json_schema":{"schema":{"b":1,"a":2},"name":"n"}}}"#,
                r#"{"b":1,"a":2}"#,
            ),
            (r#"{"response_format":{"type":"json_object","json_schema":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"tools":[{"input_schema":{"b":1,"a":2}}]}"#, r#"{"b":1,"a":2}"#),
            (r#"{"text":{"format":{"schema":{"b":1,"a":2}}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"generationConfig":{"responseSchema":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"tools":[{"functionDeclarations":[{"parameters":{"b":1,"a":2}}]}]}"#, r#"{"b":1,"a":2}"#),
            (r#"{"format":{"b":1,"a":2}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"functions":[{"parameters":{"b":1,"a":2}}]}"#, r#"{"b":1,"a":2}"#),
            // Where other servers take schemas: TGI, TensorRT-LLM, vLLM, llama.cpp, DashScope.
            (r#"{"response_format":{"type":"json","value":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"parameters":{"grammar":{"type":"json","value":{"b":1,"a":2}}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"grammar":{"value":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"guided_decoding":{"json":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"guided_json":{"b":1,"a":2}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"structured_outputs":{"json":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"extra_body":{"guided_json":{"b":1,"a":2}}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"json_schema":{"b":1,"a":2}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"output_schema":{"b":1,"a":2}}"#, r#"{"b":1,"a":2}"#),
            (r#"{"structural_tag":{"structures":[{"schema":{"b":1,"a":2}}]}}"#, r#"{"b":1,"a":2}"#),
            (
                r#"{"input":{"messages":[]},"parameters":{"response_format":{"json_schema":{"schema":{"b":1,"a":2}}}}}"#,
                r#"{"b":1,"a":2}"#,
            ),
        ] {
            assert!(canonical(body).contains(schema), "{body}");
        }
        assert_eq!(
            canonical(r#"{"response_format":{"json_schema":{"strict":true,"schema":{},"name":"n"}}}"#),
            r#"{"response_format":{"json_schema":{"name":"n","schema":{},"strict":true}}}"#
        );
    }

    #[test]
    fn content_keeps_its_key_order() {
        const CONTENT: &str = r#"{"b":1,"a":{"d":1,"c":2}}"#;
        for body in [
            r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","input":#}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"tool_result","content":#}]}]}"#,
            r#"{"messages":[{"role":"user","content":#}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"document","source":#}]}]}"#,
            r#"{"messages":[{"role":"tool","content":[{"type":"document","document":{"data":#}}]}]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":#}}]}]}"#,
            r#"{"messages":[{"role":"user","new":#}]}"#,
            r#"{"tools":[{"name":"f","input_schema":{},"input_examples":[#]}]}"#,
            r#"{"tools":[{"type":"custom","new":#}]}"#,
            r#"{"contents":[{"parts":[{"functionCall":{"name":"f","args":#}}]}]}"#,
            r#"{"contents":[{"parts":[{"functionResponse":{"name":"f","response":#}}]}]}"#,
            r#"{"contents":[{"parts":[{"new":#}]}]}"#,
            r#"{"input":[{"type":"function_call_output","output":#}]}"#,
            r#"{"input":[{"type":"mcp_call","arguments":#}]}"#,
            r#"{"input":[#]}"#,
            r#"{"input":#}"#,
            r#"{"documents":[{"id":"d","data":#}]}"#,
            r#"{"documents":[#]}"#,
            r#"{"prompt":{"id":"p","variables":#}}"#,
            r#"{"chat_history":[{"role":"CHATBOT","message":"m","tool_calls":[{"name":"f","parameters":#}]}]}"#,
            r#"{"tool_results":[{"outputs":[#]}]}"#,
            r#"{"examples":[#]}"#,
            r#"{"chat_template_kwargs":#}"#,
            r#"{"prediction":#}"#,
            r#"{"query":#}"#,
        ] {
            assert!(canonical(&body.replace('#', CONTENT)).contains(CONTENT), "{body}");
        }
    }

    #[test]
    fn parameters_are_sorted() {
        for (body, sorted) in [
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"t","cache_control":{"type":"e","ttl":1}}]}]}"#,
                r#"{"messages":[{"content":[{"cache_control":{"ttl":1,"type":"e"},"text":"t","type":"text"}],"role":"user"}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u","detail":"d"}}]}]}"#,
                r#"{"messages":[{"content":[{"image_url":{"detail":"d","url":"u"},"type":"image_url"}],"role":"user"}]}"#,
            ),
            (
                r#"{"contents":[{"role":"user","parts":[{"text":"t","thought":true},{"inlineData":{"mimeType":"m","data":"d"}}]}]}"#,
                r#"{"contents":[{"parts":[{"text":"t","thought":true},{"inlineData":{"data":"d","mimeType":"m"}}],"role":"user"}]}"#,
            ),
            (
                r#"{"tools":[{"type":"function","function":{"parameters":{},"name":"f","description":"d"}}]}"#,
                r#"{"tools":[{"function":{"description":"d","name":"f","parameters":{}},"type":"function"}]}"#,
            ),
            (
                r#"{"text":{"verbosity":"low","format":{"type":"json_schema","name":"n","schema":{}}}}"#,
                r#"{"text":{"format":{"name":"n","schema":{},"type":"json_schema"},"verbosity":"low"}}"#,
            ),
            (
                r#"{"provider":{"order":["a"],"max_price":{"prompt":1,"image":2}}}"#,
                r#"{"provider":{"max_price":{"image":2,"prompt":1},"order":["a"]}}"#,
            ),
            (r#"{"options":{"seed":1,"num_ctx":2}}"#, r#"{"options":{"num_ctx":2,"seed":1}}"#),
        ] {
            assert_eq!(canonical(body), sorted);
        }
    }

    #[test]
    fn names_of_schemas_are_ordinary_inside_parameters() {
        assert_eq!(
            canonical(r#"{"metadata":{"parameters":{"b":1,"a":2},"schema":{"b":1,"a":2}}}"#),
            r#"{"metadata":{"parameters":{"a":2,"b":1},"schema":{"a":2,"b":1}}}"#
        );
    }

    #[test]
    fn a_repeated_key_has_no_canonical_form() {
        for body in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":[{"b":1,"a":1,"b":2}]}"#,
            r#"{"tools":[{"parameters":{"b":1,"a":1,"b":2}}]}"#,
        ] {
            let document = Document::parse(body.as_bytes()).unwrap();
            assert_eq!(document.to_canonical(Select::Except(&[])), Err(DuplicateKey), "{body}");
        }
    }

    #[test]
    fn only_top_level_members_are_selected() {
        let body = br#"{"stream":true,"m":{"stream":1},"z":0}"#;
        let document = Document::parse(body).unwrap();
        let except = document.to_canonical(Select::Except(&["stream"])).unwrap();
        assert_eq!(except, br#"{"m":{"stream":1},"z":0}"#);
        let only = document.to_canonical(Select::Only(&["z"])).unwrap();
        assert_eq!(only, br#"{"z":0}"#);
        let array = Document::parse(br#"[{"stream":1}]"#).unwrap();
        assert_eq!(array.to_canonical(Select::Except(&["stream"])).unwrap(), br#"[{"stream":1}]"#);
    }

    #[test]
    fn fields_are_the_top_level_values() {
        let document = Document::parse(br#"{"a":{"b": 1},"b":[ 2 ],"a":null}"#).unwrap();
        assert_eq!(document.fields("a").collect::<Vec<_>>(), [r#"{"b":1}"#, "null"]);
        assert_eq!(document.fields("b").collect::<Vec<_>>(), ["[2]"]);
        assert_eq!(document.fields("c").count(), 0);
        assert_eq!(Document::parse(br#"[{"a":1}]"#).unwrap().fields("a").count(), 0);
    }

    #[test]
    fn deep_nesting_is_read_up_to_the_limit() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let text = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
            assert_eq!(canonical(&text), text);
        }
        let deeper = "[".repeat(MAX_DEPTH + 1);
        assert!(matches!(Document::parse(deeper.as_bytes()), Err(ParseError::TooComplex)));
    }
}
