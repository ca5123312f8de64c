//! Encodes float embeddings as base64, as OpenAI's `encoding_format` has it: little-endian 32-bit floats.

use crate::json::{JsonCursor, TextEdits};
use base64::prelude::{BASE64_STANDARD, Engine};

/// The edits that encode every embedding of a list. `None`: one is not a list of 32-bit floats.
pub(super) fn encoded(root: JsonCursor<'_>) -> Option<TextEdits> {
    let mut edits = TextEdits::default();
    for item in root.get("data")?.items() {
        let embedding = item.get("embedding")?;
        if embedding.is_array() {
            edits.replace(embedding.range(), encode(embedding)?);
        }
    }
    Some(edits)
}

fn encode(embedding: JsonCursor<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for number in embedding.items() {
        // Parsed as 32 bits directly: by way of 64 bits it would be rounded twice.
        let float: f32 = number.text().parse().ok().filter(|float: &f32| float.is_finite())?;
        bytes.extend_from_slice(&float.to_le_bytes());
    }
    Some(format!("\"{}\"", BASE64_STANDARD.encode(bytes)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_encoded_exactly() {
        let text = r#"{"data":[{"index":0,"embedding":[0.5, -0.25,1.00000005960464477539062500000000001]},{"embedding":"AAAA"}],"n":1.0}"#;
        let out = String::from_utf8(encoded(JsonCursor::root(text)).unwrap().apply(text)).unwrap();
        let floats: Vec<u8> =
            [0.5f32, -0.25, 1.0 + f32::EPSILON].iter().flat_map(|float| float.to_le_bytes()).collect();
        let expected = BASE64_STANDARD.encode(floats);
        assert_eq!(
            out,
            format!(r#"{{"data":[{{"index":0,"embedding":"{expected}"}},{{"embedding":"AAAA"}}],"n":1.0}}"#)
        );
        for none in [r#"{"data":[{"embedding":[1e39]}]}"#, r#"{"data":[{"embedding":["1"]}]}"#, r#"{"a":[]}"#] {
            assert!(encoded(JsonCursor::root(none)).is_none(), "{none}");
        }
    }
}
