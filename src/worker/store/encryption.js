// Encrypted entries: AES-256-GCM. HKDF-SHA-256 derives the key from the operator's secret and the request's own salt.
// An encrypted entry is `magic`, a random nonce, and the ciphertext with its tag.

const NONCE_BYTES = 12;
const HKDF_INFO = new TextEncoder().encode("reprise-entry-key-1");

/**
 * @param {string} secret
 * @param {Uint8Array} salt
 */
async function deriveKey(secret, salt) {
  const material = await crypto.subtle.importKey("raw", new TextEncoder().encode(secret), "HKDF", false, ["deriveKey"]);
  const algorithm = { name: "HKDF", hash: "SHA-256", salt, info: HKDF_INFO };
  const usages = ["encrypt", "decrypt"];
  return crypto.subtle.deriveKey(algorithm, material, { name: "AES-GCM", length: 256 }, false, usages);
}

/**
 * @param {string} secret
 * @param {Uint8Array} salt
 * @param {Uint8Array} magic Authenticated, not encrypted.
 * @param {Uint8Array} entry
 */
export async function seal(secret, salt, magic, entry) {
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const key = await deriveKey(secret, salt);
  const ciphertext = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData: magic }, key, entry);
  const value = new Uint8Array(magic.length + NONCE_BYTES + ciphertext.byteLength);
  value.set(magic, 0);
  value.set(iv, magic.length);
  value.set(new Uint8Array(ciphertext), magic.length + NONCE_BYTES);
  return value;
}

/**
 * Decrypts an entry with the first secret that fits; undefined if none does.
 *
 * @param {string[]} secrets
 * @param {Uint8Array} salt
 * @param {Uint8Array} magic
 * @param {Uint8Array} value
 */
export async function open(secrets, salt, magic, value) {
  const iv = value.subarray(magic.length, magic.length + NONCE_BYTES);
  const ciphertext = value.subarray(magic.length + NONCE_BYTES);
  for (const secret of secrets) {
    try {
      const key = await deriveKey(secret, salt);
      const algorithm = { name: "AES-GCM", iv, additionalData: magic };
      return new Uint8Array(await crypto.subtle.decrypt(algorithm, key, ciphertext));
    } catch {
      // Encrypted with another secret, or damaged.
    }
  }
  return undefined;
}
