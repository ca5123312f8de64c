// Sealed entries: AES-256-GCM, under a key that HKDF-SHA-256 derives from an operator's secret and the question's own
// sealing. All of it is the platform's WebCrypto. A sealed entry is `head`, a nonce of 12 random bytes, and what GCM gives.
const NONCE = 12;
const INFO = new TextEncoder().encode("reprise-entry-key-1");

async function entryKey(secret, sealing) {
  const material = await crypto.subtle.importKey("raw", new TextEncoder().encode(secret), "HKDF", false, ["deriveKey"]);
  const how = { name: "HKDF", hash: "SHA-256", salt: sealing, info: INFO };
  return crypto.subtle.deriveKey(how, material, { name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
}

export async function seal(secret, sealing, head, entry) {
  const iv = crypto.getRandomValues(new Uint8Array(NONCE));
  const key = await entryKey(secret, sealing);
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData: head }, key, entry);
  const value = new Uint8Array(head.length + NONCE + sealed.byteLength);
  value.set(head, 0);
  value.set(iv, head.length);
  value.set(new Uint8Array(sealed), head.length + NONCE);
  return value;
}

// What the first fitting secret opens; undefined where none does.
export async function unseal(secrets, sealing, head, value) {
  const iv = value.subarray(head.length, head.length + NONCE);
  const sealed = value.subarray(head.length + NONCE);
  for (const secret of secrets) {
    try {
      const key = await entryKey(secret, sealing);
      return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData: head }, key, sealed));
    } catch {
      // Another secret's, or no longer what was sealed.
    }
  }
  return undefined;
}
