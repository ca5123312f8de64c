//! Removes blocks between tags from a text that arrives in chunks.

use crate::config::think_tags::ThinkTags;

/// Removes blocks from one text. A block begins with a start tag and ends with the next end tag. An unclosed block is not
/// removed. No more is held back than might still be a tag or a block.
#[derive(Debug)]
pub struct TagFilter {
    tags: ThinkTags,
    /// Bytes that are held back: a possible beginning of a start tag, or a block from its start tag on.
    held: Vec<u8>,
    inside: bool,
    /// The number of bytes of the block that have been searched for the end tag.
    searched: usize,
}

impl TagFilter {
    /// A filter at the beginning of a text.
    pub fn new(tags: ThinkTags) -> TagFilter {
        TagFilter { tags, held: Vec::new(), inside: false, searched: 0 }
    }

    /// Takes the next chunk of the text; returns the bytes that stay.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(chunk);
        let mut out = Vec::new();
        loop {
            if self.inside {
                let Some(end) = find(&self.held, &self.tags.end, self.searched) else {
                    let partial_tag = self.tags.end.len().saturating_sub(1);
                    self.searched = self.searched.max(self.held.len().saturating_sub(partial_tag));
                    return out;
                };
                self.held.drain(..end.saturating_add(self.tags.end.len()));
                self.inside = false;
            } else if let Some(start) = find(&self.held, &self.tags.start, 0) {
                out.extend(self.held.drain(..start));
                self.inside = true;
                self.searched = self.tags.start.len();
            } else {
                let end = self.held.len().saturating_sub(self.partial_start_tag());
                out.extend(self.held.drain(..end));
                return out;
            }
        }
    }

    /// The text has ended; returns the bytes that were held back.
    pub fn finish(self) -> Vec<u8> {
        self.held
    }

    /// The number of bytes at the end that might begin a start tag.
    fn partial_start_tag(&self) -> usize {
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

    fn filtered(chunks: &[&str]) -> String {
        let mut filter = TagFilter::new(ThinkTags::new(Some("<t>"), Some("</t>\n")));
        let mut out: Vec<u8> = chunks.iter().flat_map(|chunk| filter.push(chunk.as_bytes())).collect();
        out.extend(filter.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn removes_blocks_and_nothing_else() {
        assert_eq!(filtered(&["a<t>b</t>\nc"]), "ac");
        assert_eq!(filtered(&["a<", "t", ">b<", "/t>", "\nc<t>d</t>\n"]), "ac");
        assert_eq!(filtered(&["<t><t>a</t>\n</t>\n"]), "</t>\n");
        assert_eq!(filtered(&["a<t>b</t>c"]), "a<t>b</t>c");
        assert_eq!(filtered(&["<", "t"]), "<t");
        assert_eq!(filtered(&["</t>\n<t></t>\n"]), "</t>\n");
    }

    #[test]
    fn holds_back_only_possible_tags() {
        let mut filter = TagFilter::new(ThinkTags::default());
        assert_eq!(filter.push(b"a < b <<th"), b"a < b <");
        assert_eq!(filter.push(b"x"), b"<thx");
        assert_eq!(filter.push(b"<think>x</thin"), b"");
        assert_eq!(filter.push(b"k>y"), b"y");
    }
}
