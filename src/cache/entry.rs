//! The encoding of a stored response: its head and body as one value.
//!
//! | bytes | |
//! |---|---|
//! | 0..4 | `RPRS` |
//! | 4 | version |
//! | 5..9 | length of the head, big-endian |
//! | 9..41 | SHA-256 over everything after it |
//! | 41.. | the head as JSON, then the sketch of its request, whose length the head has, then the body as it is |
//!
//! Version 3 has no sketch, and its heads say neither the endpoint nor the model, usage and upstream time. It is read, too.
//!
//! With `CACHE_ENCRYPTION_KEY`, the stored value is an encrypted entry:
//!
//! | bytes | |
//! |---|---|
//! | 0..5 | [`ENCRYPTED_MAGIC`]: `RPRS` and the version of encrypted entries, also authenticated |
//! | 5..17 | the nonce |
//! | 17.. | AES-256-GCM of an entry as above, with its tag |
//!
//! A hit reads the [`Prefix`] and the [`EntryHead`]. The sketch and the body are not looked at.

use crate::json;
use crate::key::CacheKey;
use crate::protocol::ResponseMode;
use crate::protocol::usage::Usage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::ops::Range;

const MAGIC: [u8; 4] = *b"RPRS";
const VERSION: u8 = 4;
const VERSION_WITHOUT_SKETCH: u8 = 3;
/// The beginning of encrypted entries. Unencrypted ones never have this version.
pub const ENCRYPTED_MAGIC: [u8; 5] = *b"RPRS\x02";
/// Length of the fixed part before the head, in bytes.
pub const PREFIX_LEN: usize = 41;
/// The longest sketch, in bytes. A longer one is not stored.
pub const MAX_SKETCH_LEN: usize = 1_536;

/// A stored response without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryHead {
    /// The cache key that the response belongs to.
    pub key: CacheKey,
    /// HTTP status.
    pub status: u16,
    /// The stored header fields, in order.
    pub headers: Vec<(String, String)>,
    /// When it was stored, in milliseconds since 1970.
    pub stored_at: u64,
    /// When it expires, likewise; `None`: never.
    pub expires_at: Option<u64>,
    /// When what the response refers to is gone, likewise: after that it is not served stale either. `None`: never.
    pub valid_until: Option<u64>,
    /// Whether the body is an event stream.
    pub stream: bool,
    /// The mode that the client requested. The upstream may have responded in the other one.
    pub requested_mode: ResponseMode,
    /// Whether the stream ends in its usage.
    pub has_usage: bool,
    /// The name of the endpoint; empty: unknown.
    #[serde(default)]
    pub endpoint: Cow<'static, str>,
    /// The model that the request named.
    #[serde(default)]
    pub model: Option<String>,
    /// The token usage that the response reports.
    #[serde(default)]
    pub usage: Usage,
    /// The time from the request to the end of the upstream's response, in milliseconds.
    #[serde(default)]
    pub upstream_ms: Option<u64>,
    /// Length of the request's sketch, in bytes.
    #[serde(default)]
    pub sketch_len: u16,
}

impl EntryHead {
    /// The range of the sketch in the entry, in bytes.
    pub fn sketch_range(&self, prefix: &Prefix) -> Range<usize> {
        let start = prefix.head_end();
        start..start.saturating_add(usize::from(self.sketch_len))
    }

    /// The offset of the body in the entry, in bytes.
    pub fn body_start(&self, prefix: &Prefix) -> usize {
        self.sketch_range(prefix).end
    }

    /// Whole seconds since it was stored.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.stored_at) / 1000
    }

    /// Seconds until it expires, rounded up, or since then as a negative number. `None`: it never expires.
    pub fn ttl(&self, now: u64) -> Option<i64> {
        let at = self.expires_at?;
        let seconds = i64::try_from(at.abs_diff(now).div_ceil(1000)).unwrap_or(i64::MAX);
        Some(if at <= now { seconds.max(1).saturating_neg() } else { seconds })
    }

    /// Seconds for which a store keeps the entry, if it may be served stale until `beyond_ms` after it has expired. `None`:
    /// without end.
    pub fn retention_secs(&self, now: u64, beyond_ms: u64) -> Option<u64> {
        let until = self.expires_at?.saturating_add(beyond_ms).min(self.valid_until.unwrap_or(u64::MAX));
        Some(until.saturating_sub(now).div_ceil(1000))
    }
}

/// The fixed part of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Length of the head, in bytes; it begins at [`PREFIX_LEN`].
    pub head_len: usize,
    /// SHA-256 over everything after the prefix.
    pub digest: [u8; 32],
}

impl Prefix {
    /// Reads the first [`PREFIX_LEN`] bytes of an entry. `None`: not an entry of a version that is read.
    pub fn decode(bytes: &[u8]) -> Option<Prefix> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first()?;
        let (head_len, rest) = rest.split_first_chunk::<4>()?;
        let digest = rest.first_chunk::<32>()?;
        (*magic == MAGIC && matches!(*version, VERSION_WITHOUT_SKETCH | VERSION))
            .then_some(Prefix { head_len: usize::try_from(u32::from_be_bytes(*head_len)).ok()?, digest: *digest })
    }

    /// The offset of the head's end in the entry, in bytes.
    pub fn head_end(&self) -> usize {
        PREFIX_LEN.saturating_add(self.head_len)
    }
}

/// Reads the JSON of a head whose digest has been checked. `None`: not a head, or that of another key, which a store that
/// mixes up its values may return.
pub fn decode_head(json: &[u8], key: &CacheKey) -> Option<EntryHead> {
    // The digest does not cover the head's length. Whitespace after the object would be the first of the body.
    let head: EntryHead = json::from_slice(json).filter(|_| json.last() == Some(&b'}'))?;
    let is_valid = (200..300).contains(&head.status) && usize::from(head.sketch_len) <= MAX_SKETCH_LEN;
    (is_valid && head.key == *key).then_some(head)
}

/// A response to store. Only a finished capture makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// All but the body.
    pub head: EntryHead,
    /// The sketch of its request; empty: there is none.
    pub sketch: Vec<u8>,
    /// The body, decoded from any content coding.
    pub body: Vec<u8>,
}

impl Entry {
    /// The encoded entry. `None` only for a head beyond 4 GiB.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let sketch = if self.sketch.len() <= MAX_SKETCH_LEN { self.sketch.as_slice() } else { &[] };
        let head = EntryHead { sketch_len: u16::try_from(sketch.len()).ok()?, ..self.head.clone() };
        let head = serde_json::to_vec(&head).ok()?;
        let head_len = u32::try_from(head.len()).ok()?;
        let digest = Sha256::new().chain_update(&head).chain_update(sketch).chain_update(&self.body).finalize();
        Some([&MAGIC[..], &[VERSION], &head_len.to_be_bytes(), &digest, &head, sketch, &self.body].concat())
    }

    /// Reads an entry and checks its digest. `None`: damaged, truncated, of an unknown version or of another key.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn decode(bytes: &[u8], key: &CacheKey) -> Option<Entry> {
        let prefix = Prefix::decode(bytes)?;
        let rest = bytes.get(PREFIX_LEN..)?;
        if Sha256::digest(rest) != prefix.digest {
            return None;
        }
        let head = decode_head(rest.get(..prefix.head_len)?, key)?;
        let sketch = bytes.get(head.sketch_range(&prefix))?.to_vec();
        let body = bytes.get(head.body_start(&prefix)..)?.to_vec();
        Some(Entry { head, sketch, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: &str) -> CacheKey {
        CacheKey::from_hex(&digit.repeat(64)).unwrap()
    }

    fn entry() -> Entry {
        Entry {
            head: EntryHead {
                key: key("a"),
                status: 200,
                headers: vec![("content-type".into(), "audio/mpeg".into())],
                stored_at: 1_000,
                expires_at: Some(61_500),
                valid_until: None,
                stream: false,
                requested_mode: ResponseMode::default(),
                has_usage: false,
                endpoint: "audio/speech".into(),
                model: Some("m".into()),
                usage: Usage { input: Some(3), ..Usage::default() },
                upstream_ms: Some(70),
                sketch_len: 2,
            },
            sketch: vec![1, 254],
            body: vec![0, 255, 10],
        }
    }

    #[test]
    fn an_entry_survives_encoding() {
        let bytes = entry().encode().unwrap();
        assert_eq!(Entry::decode(&bytes, &key("a")), Some(entry()));
        let (prefix, head) = (Prefix::decode(&bytes).unwrap(), entry().head);
        assert_eq!(bytes[head.sketch_range(&prefix)], [1, 254]);
        assert_eq!(&bytes[head.body_start(&prefix)..], [0, 255, 10]);
    }

    #[test]
    fn a_sketch_that_is_too_long_is_not_stored() {
        let long = Entry { sketch: vec![7; MAX_SKETCH_LEN + 1], ..entry() };
        let read = Entry::decode(&long.encode().unwrap(), &key("a")).unwrap();
        assert_eq!((read.sketch, read.head.sketch_len, read.body), (vec![], 0, entry().body));
        let longest = Entry { sketch: vec![7; MAX_SKETCH_LEN], ..entry() };
        assert_eq!(Entry::decode(&longest.encode().unwrap(), &key("a")).unwrap().sketch, vec![7; MAX_SKETCH_LEN]);
    }

    #[test]
    fn an_entry_of_version_3_is_read() {
        let head = format!(
            r#"{{"key":"{}","status":200,"headers":[["content-type","text/plain"]],"stored_at":1000,"expires_at":61500,"valid_until":null,"stream":false,"requested_mode":{{"stream":false,"include_usage":false}},"has_usage":false}}"#,
            "a".repeat(64)
        );
        let rest = [head.as_bytes(), b" body"].concat();
        let length = u32::try_from(head.len()).unwrap().to_be_bytes();
        let bytes = [b"RPRS\x03", &length[..], &Sha256::digest(&rest), &rest].concat();
        let read = Entry::decode(&bytes, &key("a")).unwrap();
        assert_eq!((read.body.as_slice(), read.sketch.len()), (&b" body"[..], 0));
        let EntryHead { endpoint, model, usage, upstream_ms, .. } = read.head;
        assert_eq!((endpoint.as_ref(), model, usage, upstream_ms), ("", None, Usage::default(), None));
        // The length of the head is not in the digest.
        let longer = u32::try_from(head.len() + 1).unwrap().to_be_bytes();
        let damaged = [b"RPRS\x03", &longer[..], &Sha256::digest(&rest), &rest].concat();
        assert_eq!(Entry::decode(&damaged, &key("a")), None);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let bytes = entry().encode().unwrap();
        for at in 0..bytes.len() {
            assert_eq!(Entry::decode(&bytes[..at], &key("a")), None, "cut at {at}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(Entry::decode(&flipped, &key("a")), None, "bit {bit} of byte {at}");
            }
        }
        assert_eq!(Entry::decode(&[&bytes[..], &[0]].concat(), &key("a")), None);
    }

    #[test]
    fn an_entry_under_another_key_is_not_read() {
        let bytes = entry().encode().unwrap();
        assert_eq!(Entry::decode(&bytes, &key("b")), None);
        let head = serde_json::to_vec(&entry().head).unwrap();
        assert_eq!((decode_head(&head, &key("a")), decode_head(&head, &key("b"))), (Some(entry().head), None));
    }

    #[test]
    fn entries_of_other_versions_are_not_read() {
        for version in (0..=u8::MAX).filter(|version| !matches!(*version, VERSION_WITHOUT_SKETCH | VERSION)) {
            let mut bytes = entry().encode().unwrap();
            bytes[4] = version;
            assert_eq!(Entry::decode(&bytes, &key("a")), None, "{version}");
        }
    }

    #[test]
    fn age_and_ttl_are_whole_seconds() {
        let head = entry().head;
        assert_eq!((head.age(500), head.age(1_999), head.age(2_000)), (0, 0, 1));
        assert_eq!(head.ttl(1_000), Some(61));
        assert_eq!((head.ttl(61_499), head.ttl(61_500), head.ttl(61_501)), (Some(1), Some(-1), Some(-1)));
        assert_eq!(head.ttl(63_000), Some(-2));
        assert_eq!((head.retention_secs(1_000, 0), head.retention_secs(1_000, 10_000)), (Some(61), Some(71)));
        assert_eq!(head.retention_secs(90_000, 0), Some(0));
        let ending = EntryHead { valid_until: Some(65_000), ..head.clone() };
        assert_eq!((ending.retention_secs(1_000, 0), ending.retention_secs(1_000, 10_000)), (Some(61), Some(64)));
        let lasting = EntryHead { expires_at: None, ..head };
        assert_eq!((lasting.ttl(5), lasting.retention_secs(5, 9)), (None, None));
    }
}
