//! Which bytes of a text stand between tags? In any pieces, holding back no more than may still be a tag.

use crate::config::think_tags::ThinkTags;

/// Leaves blocks out of one text. A block begins with the first start tag and ends with the first end tag after it; one
/// that does not end is none.
#[derive(Debug)]
pub struct TagFilter {
    tags: ThinkTags,
    /// What is held back: what may be the beginning of a start tag, or a block from its start tag on.
    held: Vec<u8>,
    inside: bool,
    /// How much of a held block has been searched for its end.
    searched: usize,
}

impl TagFilter {
    /// A filter at the beginning of a text.
    pub fn new(tags: ThinkTags) -> TagFilter {
        TagFilter { tags, held: Vec::new(), inside: false, searched: 0 }
    }

    /// Takes the next piece of the text; gives what is known to stay.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let mut out = Vec::new();
        loop {
            if self.inside {
                let Some(end) = find(&self.held, &self.tags.end, self.searched) else {
                    let begun = self.tags.end.len().saturating_sub(1);
                    self.searched = self.searched.max(self.held.len().saturating_sub(begun));
                    return out;
                };
                self.held.drain(..end.saturating_add(self.tags.end.len()));
                self.inside = false;
            } else if let Some(start) = find(&self.held, &self.tags.start, 0) {
                out.extend(self.held.drain(..start));
                self.inside = true;
                self.searched = self.tags.start.len();
            } else {
                let stays = self.held.len().saturating_sub(self.begun());
                out.extend(self.held.drain(..stays));
                return out;
            }
        }
    }

    /// The text has ended; gives back what was held.
    pub fn finish(self) -> Vec<u8> {
        self.held
    }

    /// How many bytes at the end may be the beginning of a start tag.
    fn begun(&self) -> usize {
        let longest = self.held.len().min(self.tags.start.len().saturating_sub(1));
        let begins = |length: &usize| {
            let beginning = self.tags.start.get(..*length);
            beginning.is_some_and(|beginning| self.held.ends_with(beginning))
        };
        (1..=longest).rev().find(begins).unwrap_or(0)
    }
}

fn find(text: &[u8], tag: &[u8], from: usize) -> Option<usize> {
    let found = text.get(from..)?.windows(tag.len().max(1)).position(|window| window == tag)?;
    Some(from.saturating_add(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(pieces: &[&str]) -> String {
        let mut filter = TagFilter::new(ThinkTags::new(Some("<t>"), Some("</t>\n")));
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| filter.push(piece.as_bytes())).collect();
        out.extend(filter.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn blocks_go_and_everything_else_stays() {
        assert_eq!(filtered(&["a<t>b</t>\nc"]), "ac");
        assert_eq!(filtered(&["a<", "t", ">b<", "/t>", "\nc<t>d</t>\n"]), "ac");
        assert_eq!(filtered(&["<t><t>a</t>\n</t>\n"]), "</t>\n");
        assert_eq!(filtered(&["a<t>b</t>c"]), "a<t>b</t>c");
        assert_eq!(filtered(&["<", "t"]), "<t");
        assert_eq!(filtered(&["</t>\n<t></t>\n"]), "</t>\n");
    }

    #[test]
    fn nothing_is_held_that_cannot_be_a_tag() {
        let mut filter = TagFilter::new(ThinkTags::default());
        assert_eq!(filter.push(b"a < b <<th"), b"a < b <");
        assert_eq!(filter.push(b"x"), b"<thx");
        assert_eq!(filter.push(b"<think>x</thin"), b"");
        assert_eq!(filter.push(b"k>y"), b"y");
    }
}
