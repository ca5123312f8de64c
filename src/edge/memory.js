// What this isolate has lately read or written, least recently used out first. Values are the platform's own buffers.
export class Memory {
  #kept = new Map(); // key → { value, at }, in order of use
  #barred = new Map(); // key → until when, in milliseconds since 1970
  #bytes = 0;

  // `capacity` in bytes, `ttl` in milliseconds.
  constructor(capacity, ttl) {
    this.capacity = capacity;
    this.ttl = ttl;
  }

  get(key, now) {
    const found = this.#kept.get(key);
    if (!found) return undefined;
    this.#kept.delete(key);
    if (now - found.at >= this.ttl) {
      this.#bytes -= found.value.byteLength;
      return undefined;
    }
    this.#kept.set(key, found);
    return found.value;
  }

  // What has been read from the store, which may be older than what is being asked for.
  read(key, value, now) {
    if ((this.#barred.get(key) ?? 0) <= now) this.written(key, value, now);
  }

  // What has been written to the store.
  written(key, value, now) {
    this.forget(key);
    this.#barred.delete(key);
    // One answer must not drive out all others.
    if (value.byteLength > this.capacity / 4) return;
    this.#kept.set(key, { value, at: now });
    this.#bytes += value.byteLength;
    for (const oldest of this.#kept.keys()) {
      if (this.#bytes <= this.capacity) break;
      this.forget(oldest);
    }
  }

  forget(key) {
    const found = this.#kept.get(key);
    if (found) this.#bytes -= found.value.byteLength;
    this.#kept.delete(key);
  }

  forgetAll(prefix) {
    for (const key of this.#kept.keys()) if (key.startsWith(prefix)) this.forget(key);
  }

  // A newer answer is being asked for, and this isolate may not see it being written: the store is asked for as long as
  // an older one could be kept here.
  bar(key, now) {
    this.forget(key);
    for (const [other, until] of this.#barred) if (until <= now) this.#barred.delete(other);
    this.#barred.set(key, now + this.ttl);
  }
}
