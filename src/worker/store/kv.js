/** @typedef {"store-timeout" | "store-error"} StoreFault */

/**
 * The value under `key`; undefined if there is none; a `StoreFault` if that cannot be told.
 *
 * @param {KVNamespace} kv
 * @param {string} key
 * @param {number} timeoutMs
 * @returns {Promise<Uint8Array<ArrayBuffer> | undefined | StoreFault>}
 */
export function readWithTimeout(kv, key, timeoutMs) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, timeoutMs, "store-timeout");
    /** @param {Uint8Array<ArrayBuffer> | undefined | StoreFault} value */
    const settle = (value) => {
      clearTimeout(timer);
      resolve(value);
    };
    const failed = () => settle("store-error");
    try {
      kv.get(key, "arrayBuffer").then((value) => settle(value ? new Uint8Array(value) : undefined), failed);
    } catch {
      // The binding may be something else than a KV namespace.
      failed();
    }
  });
}

// Admin commands are rare, so they are here rather than in the wasm, where they would take more space.

/**
 * Deletes a key. Returns how many entries were visible under it here: 0 or 1.
 *
 * @param {KVNamespace} kv
 * @param {string} key
 */
export async function deleteKey(kv, key) {
  const body = await kv.get(key, "stream");
  await body?.cancel();
  await kv.delete(key);
  return body ? 1 : 0;
}

/**
 * Deletes the next keys with a prefix. Returns how many there were, and the cursor for the next call, if any.
 *
 * @param {KVNamespace} kv
 * @param {string} prefix
 * @param {string | undefined} cursor
 * @param {number} limit The number of keys to delete at most.
 */
export async function deletePrefix(kv, prefix, cursor, limit) {
  const page = await kv.list({ prefix, cursor, limit });
  await Promise.all(page.keys.map(({ name }) => kv.delete(name)));
  return [page.keys.length, page.list_complete ? undefined : page.cursor];
}
