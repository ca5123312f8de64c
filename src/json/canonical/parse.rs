//! The first pass: is the text JSON (RFC 8259), and where are its objects?

use super::{Document, Member, Object};

/// The deepest nesting. A deeper text is [`ParseError::TooComplex`].
pub const MAX_DEPTH: usize = 100_000;
/// The largest number of objects and members together, which bounds the memory (some 20 bytes each).
pub const MAX_NODES: usize = 1 << 20;

/// Why a text has no [`Document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Not JSON: what was expected, and at which byte.
    Syntax {
        /// Offset of the offending byte, from 0.
        at: usize,
        /// The expected token.
        expected: &'static str,
    },
    /// Beyond [`MAX_DEPTH`] or [`MAX_NODES`].
    TooComplex,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ParseError::Syntax { at, expected } => write!(f, "expected {expected} at byte {at}"),
            ParseError::TooComplex => f.write_str("nested too deeply or with too many members"),
        }
    }
}

/// The tokens that may follow.
enum Expect {
    Value,
    ValueOrClose,
    KeyOrClose,
    Key,
    CommaOrClose,
    End,
}

/// An open container.
enum Open {
    Array,
    Object {
        /// Its index in `objects`.
        index: usize,
        /// The index of its first member in `pending`.
        base: usize,
    },
}

struct Parser<'a> {
    rest: &'a [u8],
    len: usize,
    flat: Vec<u8>,
    objects: Vec<Object>,
    members: Vec<Member>,
    /// Members of the objects that are still open, innermost last.
    pending: Vec<Member>,
    open: Vec<Open>,
}

impl Document {
    /// Reads a JSON text.
    ///
    /// # Errors
    /// [`ParseError::Syntax`] if it is not JSON in UTF-8 (a byte order mark is not JSON), [`ParseError::TooComplex`] if
    /// it exceeds a limit.
    pub fn parse(text: &[u8]) -> Result<Document, ParseError> {
        if let Err(error) = std::str::from_utf8(text) {
            return Err(ParseError::Syntax { at: error.valid_up_to(), expected: "UTF-8" });
        }
        let mut parser = Parser {
            rest: text,
            len: text.len(),
            flat: Vec::with_capacity(text.len()),
            objects: Vec::new(),
            members: Vec::new(),
            pending: Vec::new(),
            open: Vec::new(),
        };
        parser.run()?;
        Ok(Document { flat: parser.flat, objects: parser.objects, members: parser.members })
    }
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), ParseError> {
        let mut expect = Expect::Value;
        loop {
            self.skip_whitespace();
            expect = match expect {
                Expect::Value => self.value()?,
                Expect::ValueOrClose if self.peek() == Some(b']') => self.close(),
                Expect::ValueOrClose => self.value()?,
                Expect::KeyOrClose if self.peek() == Some(b'}') => self.close(),
                Expect::KeyOrClose | Expect::Key => self.key()?,
                Expect::CommaOrClose => self.comma_or_close()?,
                Expect::End if self.rest.is_empty() => return Ok(()),
                Expect::End => return self.fail("the end"),
            };
        }
    }

    fn value(&mut self) -> Result<Expect, ParseError> {
        match self.peek() {
            Some(b'{') => {
                let index = self.objects.len();
                let base = self.pending.len();
                self.objects.push(Object { open: self.flat.len(), end: 0, first_member: 0, member_count: 0, next: 0 });
                self.open_container(Open::Object { index, base })?;
                Ok(Expect::KeyOrClose)
            }
            Some(b'[') => {
                self.open_container(Open::Array)?;
                Ok(Expect::ValueOrClose)
            }
            Some(b'"') => {
                self.string()?;
                Ok(self.after_value())
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.fail("a value"),
        }
    }

    fn open_container(&mut self, open: Open) -> Result<(), ParseError> {
        let nodes = self.objects.len().saturating_add(self.members.len());
        if self.open.len() >= MAX_DEPTH || nodes.saturating_add(self.pending.len()) > MAX_NODES {
            return Err(ParseError::TooComplex);
        }
        self.open.push(open);
        self.take();
        Ok(())
    }

    fn key(&mut self) -> Result<Expect, ParseError> {
        if self.peek() != Some(b'"') {
            return self.fail("a key in quotes");
        }
        let nodes = self.objects.len().saturating_add(self.members.len());
        if nodes.saturating_add(self.pending.len()) > MAX_NODES {
            return Err(ParseError::TooComplex);
        }
        let start = self.flat.len();
        self.string()?;
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return self.fail("a colon");
        }
        self.take();
        self.pending.push(Member { start, value: self.flat.len(), end: 0, first_object: self.objects.len() });
        Ok(Expect::Value)
    }

    fn comma_or_close(&mut self) -> Result<Expect, ParseError> {
        match (self.open.last(), self.peek()) {
            (Some(Open::Array), Some(b',')) => {
                self.take();
                Ok(Expect::Value)
            }
            (Some(Open::Object { .. }), Some(b',')) => {
                self.take();
                Ok(Expect::Key)
            }
            (Some(Open::Array), Some(b']')) | (Some(Open::Object { .. }), Some(b'}')) => Ok(self.close()),
            (Some(Open::Array), _) => self.fail("a comma or ']'"),
            _ => self.fail("a comma or '}'"),
        }
    }

    /// Reads the closing bracket of the innermost container.
    fn close(&mut self) -> Expect {
        self.take();
        if let Some(Open::Object { index, base }) = self.open.pop() {
            let first_member = self.members.len();
            self.members.extend(self.pending.drain(base..));
            let next = self.objects.len();
            if let Some(object) = self.objects.get_mut(index) {
                object.end = self.flat.len();
                object.first_member = first_member;
                object.member_count = self.members.len().saturating_sub(first_member);
                object.next = next;
            }
        }
        self.after_value()
    }

    /// After a value: records its end if it is a member's.
    fn after_value(&mut self) -> Expect {
        match self.open.last() {
            None => Expect::End,
            Some(Open::Array) => Expect::CommaOrClose,
            Some(Open::Object { .. }) => {
                if let Some(member) = self.pending.last_mut() {
                    member.end = self.flat.len();
                }
                Expect::CommaOrClose
            }
        }
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<Expect, ParseError> {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.flat.extend_from_slice(word);
                self.rest = rest;
                Ok(self.after_value())
            }
            None => self.fail("true, false or null"),
        }
    }

    /// A number token, verbatim: `1`, `1.0` and `1e0` are different.
    fn number(&mut self) -> Result<Expect, ParseError> {
        if self.peek() == Some(b'-') {
            self.take();
        }
        if self.peek() == Some(b'0') {
            self.take();
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.take();
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.take();
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.take();
            }
            self.digits()?;
        }
        Ok(self.after_value())
    }

    fn digits(&mut self) -> Result<(), ParseError> {
        let count = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return self.fail("a digit");
        }
        self.take_many(count);
        Ok(())
    }

    /// A string with its quotes, in its canonical spelling: `\"`, `\\`, `\u00xx` for control characters, `\udxxx` for lone
    /// surrogates, and every other character as itself.
    fn string(&mut self) -> Result<(), ParseError> {
        self.take();
        loop {
            let plain = self.rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f)).unwrap_or(self.rest.len());
            self.take_many(plain);
            match self.peek() {
                Some(b'"') => {
                    self.take();
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fail("an escape instead of a control character"),
                None => return self.fail("the end of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ParseError> {
        let Some(&[_, kind]) = self.rest.first_chunk::<2>() else {
            return self.fail("the end of a string");
        };
        if kind == b'u' {
            return self.unicode_escape();
        }
        let character = match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            _ => return self.fail("a known escape"),
        };
        self.skip(2);
        self.push_char(character);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<(), ParseError> {
        let Some(unit) = code_unit(self.rest) else {
            return self.fail("four hexadecimal digits after \\u");
        };
        self.skip(6);
        let pair = [Some(unit), code_unit(self.rest)];
        let both = char::decode_utf16(pair.into_iter().flatten()).next();
        match both {
            Some(Ok(character)) => {
                if character.len_utf16() == 2 {
                    self.skip(6);
                }
                self.push_char(character);
            }
            _ => self.flat.extend_from_slice(format!("\\u{unit:04x}").as_bytes()),
        }
        Ok(())
    }

    fn push_char(&mut self, character: char) {
        match character {
            '"' | '\\' => self.flat.extend_from_slice(&[b'\\', character as u8]),
            '\0'..='\u{1f}' => {
                let spelled = format!("\\u{:04x}", u32::from(character));
                self.flat.extend_from_slice(spelled.as_bytes());
            }
            _ => {
                let mut buffer = [0; 4];
                self.flat.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }

    fn skip_whitespace(&mut self) {
        let blank = self.rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.skip(blank);
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Copies the next byte to the compact text.
    fn take(&mut self) {
        self.take_many(1);
    }

    fn take_many(&mut self, count: usize) {
        let (taken, rest) = self.rest.split_at_checked(count).unwrap_or((self.rest, &[]));
        self.flat.extend_from_slice(taken);
        self.rest = rest;
    }

    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    fn fail<T>(&self, expected: &'static str) -> Result<T, ParseError> {
        Err(ParseError::Syntax { at: self.len.saturating_sub(self.rest.len()), expected })
    }
}

/// The UTF-16 code unit of a `\uXXXX` at the front of the text.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.get(..6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0u16, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        u16::try_from(digit).ok().map(|digit| unit.wrapping_shl(4) | digit)
    })
}
