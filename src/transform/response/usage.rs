//! Removes the usage from a running stream, event by event.

use super::splitter::{RawEvent, Segment, SplitAt, Splitter};
use crate::protocol::{UsageRemover, WithoutUsage};

/// A filter for one stream.
#[derive(Debug)]
pub(super) struct UsageFilter {
    splitter: Splitter,
    events: Events,
}

#[derive(Debug, Default)]
struct Events {
    remover: UsageRemover,
    /// An event that ended in a carriage return has been left out. A line feed next belongs to it.
    after_cr: bool,
}

impl UsageFilter {
    /// `max_bytes`: longer events stay as they are.
    pub(super) fn new(max_bytes: usize) -> UsageFilter {
        UsageFilter { splitter: Splitter::new(SplitAt::Events, max_bytes), events: Events::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let events = &mut self.events;
        self.splitter.push(bytes, &mut |segment| events.emit(segment, &mut out));
        out
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let events = &mut self.events;
        self.splitter.finish(&mut |segment| events.emit(segment, &mut out));
        out
    }
}

impl Events {
    fn emit(&mut self, segment: Segment, out: &mut Vec<u8>) {
        let after_cr = std::mem::take(&mut self.after_cr);
        match segment {
            Segment::Raw(bytes) if after_cr => out.extend(bytes.strip_prefix(b"\n").unwrap_or(&bytes)),
            Segment::Raw(bytes) => out.extend(bytes),
            Segment::Event(event) => self.event(&event, out),
            Segment::Close => {}
        }
    }

    fn event(&mut self, event: &RawEvent, out: &mut Vec<u8>) {
        match self.remover.remove(&event.data()) {
            WithoutUsage::Unchanged => out.extend_from_slice(event.bytes()),
            WithoutUsage::Nothing => self.after_cr = event.bytes().ends_with(b"\r"),
            WithoutUsage::Data(data) => out.extend(event.with_data(&data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(stream: &str, chunk: usize) -> String {
        let mut filter = UsageFilter::new(1_000);
        let mut out: Vec<u8> = stream.as_bytes().chunks(chunk).flat_map(|bytes| filter.push(bytes)).collect();
        out.extend(filter.finish());
        String::from_utf8(out).unwrap()
    }

    const CHUNK: &str = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    #[test]
    fn the_usage_chunk_is_left_out_and_every_other_byte_stays() {
        let usage = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\n";
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let with = |text: &str| text.replace("\n\n", end);
            let stream = with(&format!(": comment\n\n{CHUNK}event: x\nid: 7\n{CHUNK}{usage}{DONE}"));
            let expected = with(&format!(": comment\n\n{CHUNK}event: x\nid: 7\n{CHUNK}{DONE}"));
            for chunk in [1, 2, 7, 10_000] {
                assert_eq!(filtered(&stream, chunk), expected, "{end:?} {chunk}");
            }
        }
    }

    #[test]
    fn what_only_the_usage_chunk_has_stays_with_a_usage_of_null() {
        let usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"n\":1.50},\"citations\":[\"x\"],\"n\":1e2}\n\n";
        let kept = "data: {\"id\":\"c\",\"choices\":[],\"usage\":null,\"citations\":[\"x\"],\"n\":1e2}\n\n";
        assert_eq!(filtered(&format!("{CHUNK}{usage}{DONE}"), 5), format!("{CHUNK}{kept}{DONE}"));
    }

    #[test]
    fn usage_beside_a_choice_stays() {
        let last = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"n\":1}}\n\n";
        let stream = format!("{CHUNK}{last}data: not json\n\n{DONE}data: cut");
        assert_eq!(filtered(&stream, 3), stream);
    }
}
