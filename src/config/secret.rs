//! The operator's secrets. Their `Debug` output reveals nothing.

use crate::http::fields::credential;
use http::HeaderMap;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::{Choice, ConstantTimeEq};

/// A secret.
#[derive(Clone)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret that is sent in a header field.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderSecret(pub(super) String);

impl HeaderSecret {
    /// A secret of visible ASCII. `None`: the text is empty or could not be sent.
    pub fn new(text: &str) -> Option<HeaderSecret> {
        let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        visible.then(|| HeaderSecret(text.to_owned()))
    }
}

impl fmt::Debug for HeaderSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderSecret(…)")
    }
}

/// The digests of secrets that clients present. Digests have one length and do not reveal the secret.
#[derive(Clone)]
pub struct SecretDigests(Vec<[u8; 32]>);

impl SecretDigests {
    /// The digests of these secrets. `None`: there is none, or one could not be sent in a header field.
    pub fn read(texts: impl Iterator<Item = String>) -> Option<SecretDigests> {
        let digest =
            |text: String| text.bytes().all(|b| b.is_ascii_graphic()).then(|| Sha256::digest(text.as_bytes()).into());
        let digests = texts.map(digest).collect::<Option<Vec<_>>>()?;
        (!digests.is_empty()).then_some(SecretDigests(digests))
    }

    /// The digest of `shown`, if it is one of these. Takes constant time.
    pub fn find(&self, shown: &[u8]) -> Option<[u8; 32]> {
        let digest: [u8; 32] = Sha256::digest(shown).into();
        let known = self.0.iter().fold(Choice::from(0), |known, own| known | own.ct_eq(&digest));
        bool::from(known).then_some(digest)
    }

    /// Whether the request's `Authorization` has one of these.
    pub fn authorizes(&self, request: &HeaderMap) -> bool {
        request.get(http::header::AUTHORIZATION).is_some_and(|value| self.find(credential(value)).is_some())
    }
}

impl fmt::Debug for SecretDigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigests(…)")
    }
}
