//! Encrypts entries before a store sees them. The cryptography is the runtime's WebCrypto.

use crate::cache::entry::ENCRYPTED_MAGIC;
use crate::config::secret::Secret;
use crate::key::EncryptionSalt;
use js_sys::{Array, JsString, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(module = "/src/worker/store/encryption.js")]
extern "C" {
    #[wasm_bindgen(js_name = seal)]
    fn js_seal(secret: &str, salt: &Uint8Array, magic: &Uint8Array, entry: &Uint8Array) -> Promise;

    #[wasm_bindgen(js_name = open)]
    fn js_open(secrets: &Array, salt: &Uint8Array, magic: &Uint8Array, value: &Uint8Array) -> Promise;
}

fn js_bytes(bytes: &[u8]) -> Uint8Array {
    Uint8Array::from(bytes)
}

/// Encrypts an encoded entry with the first secret. `None`: that failed.
pub async fn seal(secrets: &[Secret], salt: &EncryptionSalt, entry: &Uint8Array) -> Option<Uint8Array> {
    let Secret(secret) = secrets.first()?;
    let sealed = js_seal(secret, &js_bytes(salt.as_bytes()), &js_bytes(&ENCRYPTED_MAGIC), entry);
    JsFuture::from(sealed).await.ok()?.dyn_into().ok()
}

/// Decrypts a value to the encoded entry. `None`: it is not encrypted, not with one of these secrets, or damaged.
pub async fn open(secrets: &[Secret], salt: &EncryptionSalt, value: &Uint8Array) -> Option<Uint8Array> {
    let magic_len = u32::try_from(ENCRYPTED_MAGIC.len()).ok()?;
    if value.subarray(0, magic_len).to_vec() != ENCRYPTED_MAGIC {
        return None;
    }
    let secrets: Array = secrets.iter().map(|Secret(secret)| JsString::from(secret.as_str())).collect();
    let opened = js_open(&secrets, &js_bytes(salt.as_bytes()), &js_bytes(&ENCRYPTED_MAGIC), value);
    JsFuture::from(opened).await.ok()?.dyn_into().ok()
}
