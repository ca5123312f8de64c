// The in-memory tier in front of the store, one per isolate. Values are JavaScript buffers, not copies in wasm.

/** No read of the store takes longer than this. */
const MAX_READ_MS = 60_000;
/** The largest share of the capacity that one entry may take: it must not evict all others. */
const MAX_ENTRY_SHARE = 1 / 4;

/**
 * @typedef {object} MemoryEntry
 * @property {Uint8Array<ArrayBuffer>} value
 * @property {number} storedAt In milliseconds since 1970.
 * @property {number} id Differs from that of any other entry, before or after, under the same key.
 */

/**
 * Entries that this isolate has recently read or written. The least recently used are evicted first.
 *
 * All times are in milliseconds since 1970.
 */
export class MemoryCache {
  #capacityBytes;
  #ttlMs;
  /** @type {Map<string, MemoryEntry>} In order of use. */
  #entries = new Map();
  /** @type {Map<string, number>} Until when values read from the store under this key are not stored here. */
  #invalidated = new Map();
  /** @type {Map<string, number>} The same for all keys with this prefix. */
  #invalidatedPrefixes = new Map();
  #bytes = 0;
  #lastId = 0;

  /**
   * @param {number} capacityBytes
   * @param {number} ttlMs
   */
  constructor(capacityBytes, ttlMs) {
    this.#capacityBytes = capacityBytes;
    this.#ttlMs = ttlMs;
  }

  /**
   * @param {string} key
   * @param {number} now
   */
  get(key, now) {
    return this.getEntry(key, now)?.value;
  }

  /**
   * @param {string} key
   * @param {number} now
   */
  getEntry(key, now) {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    if (now - entry.storedAt >= this.#ttlMs) {
      this.#bytes -= entry.value.byteLength;
      return undefined;
    }
    this.#entries.set(key, entry);
    return entry;
  }

  /**
   * Stores a value that was read from the store, unless it may be older than what has been written, deleted or requested
   * since that read began.
   *
   * @param {string} key
   * @param {Uint8Array<ArrayBuffer>} value
   * @param {number} now
   */
  putIfCurrent(key, value, now) {
    if ((this.#invalidated.get(key) ?? 0) > now) return;
    for (const [prefix, until] of this.#invalidatedPrefixes) if (until > now && key.startsWith(prefix)) return;
    this.#put(key, value, now);
  }

  /**
   * Stores a value that is written to the store.
   *
   * @param {string} key
   * @param {Uint8Array<ArrayBuffer>} value
   * @param {number} now
   */
  put(key, value, now) {
    this.invalidate(key, now);
    this.#put(key, value, now);
  }

  /**
   * Removes an entry. Values that are read from the store are not stored for as long as they may be older.
   *
   * @param {string} key
   * @param {number} now
   */
  invalidate(key, now) {
    this.#remove(key);
    for (const [other, until] of this.#invalidated) {
      if (until > now) break; // They are in order of time.
      this.#invalidated.delete(other);
    }
    this.#invalidated.delete(key);
    this.#invalidated.set(key, now + this.#invalidationMs);
  }

  /**
   * The same for all keys with this prefix.
   *
   * @param {string} prefix
   * @param {number} now
   */
  invalidatePrefix(prefix, now) {
    for (const key of this.#entries.keys()) if (key.startsWith(prefix)) this.#remove(key);
    for (const [other, until] of this.#invalidatedPrefixes) {
      if (until <= now) this.#invalidatedPrefixes.delete(other);
    }
    this.#invalidatedPrefixes.set(prefix, now + this.#invalidationMs);
  }

  /** Long enough that no read is still under way, and that nothing older is still in another isolate's memory. */
  get #invalidationMs() {
    return Math.max(this.#ttlMs, MAX_READ_MS);
  }

  /**
   * @param {string} key
   * @param {Uint8Array<ArrayBuffer>} value
   * @param {number} now
   */
  #put(key, value, now) {
    this.#remove(key);
    if (value.byteLength > this.#capacityBytes * MAX_ENTRY_SHARE) return;
    this.#lastId += 1;
    this.#entries.set(key, { value, storedAt: now, id: this.#lastId });
    this.#bytes += value.byteLength;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= this.#capacityBytes) break;
      this.#remove(oldest);
    }
  }

  /** @param {string} key */
  #remove(key) {
    const entry = this.#entries.get(key);
    if (entry) this.#bytes -= entry.value.byteLength;
    this.#entries.delete(key);
  }
}
