// What this isolate has lately read or written, least recently used out first. Values are the platform's own buffers.
export class Memory {
  #kept = new Map(); // key → { value, at, id }, in order of use
  #barred = new Map(); // key → until when what is read of it is not kept, in milliseconds since 1970
  #barredPrefixes = new Map(); // the same of all keys that begin with this
  #bytes = 0;
  #ids = 0;

  // `capacity` in bytes, `ttl` in milliseconds.
  constructor(capacity, ttl) {
    this.capacity = capacity;
    this.ttl = ttl;
  }

  get(key, now) {
    return this.find(key, now)?.value;
  }

  // The same, as it is kept: `id` tells it from whatever was or will be kept under the same key.
  find(key, now) {
    const found = this.#kept.get(key);
    if (!found) return undefined;
    this.#kept.delete(key);
    if (now - found.at >= this.ttl) {
      this.#bytes -= found.value.byteLength;
      return undefined;
    }
    this.#kept.set(key, found);
    return found;
  }

  // What has been read from the store. It may be older than what has been written, deleted or asked for since the read
  // began, and then it is not kept.
  read(key, value, now) {
    if ((this.#barred.get(key) ?? 0) > now) return;
    for (const [prefix, until] of this.#barredPrefixes) if (until > now && key.startsWith(prefix)) return;
    this.#keep(key, value, now);
  }

  // What has been written to the store.
  written(key, value, now) {
    this.bar(key, now);
    this.#keep(key, value, now);
  }

  #keep(key, value, now) {
    this.#forget(key);
    // One answer must not drive out all others.
    if (value.byteLength > this.capacity / 4) return;
    this.#kept.set(key, { value, at: now, id: (this.#ids += 1) });
    this.#bytes += value.byteLength;
    for (const oldest of this.#kept.keys()) {
      if (this.#bytes <= this.capacity) break;
      this.#forget(oldest);
    }
  }

  #forget(key) {
    const found = this.#kept.get(key);
    if (found) this.#bytes -= found.value.byteLength;
    this.#kept.delete(key);
  }

  // Forgets an entry, and keeps nothing that is read of it for as long as that may be an older one.
  bar(key, now) {
    this.#forget(key);
    for (const [other, until] of this.#barred) {
      if (until > now) break; // they end in the order in which they began
      this.#barred.delete(other);
    }
    this.#barred.delete(key);
    this.#barred.set(key, now + this.#pause);
  }

  // The same for all entries whose names begin with this.
  barAll(prefix, now) {
    for (const key of this.#kept.keys()) if (key.startsWith(prefix)) this.#forget(key);
    for (const [other, until] of this.#barredPrefixes) if (until <= now) this.#barredPrefixes.delete(other);
    this.#barredPrefixes.set(prefix, now + this.#pause);
  }

  // No read takes longer than this, and nothing older is kept for longer.
  get #pause() {
    return Math.max(this.ttl, 60_000);
  }
}
