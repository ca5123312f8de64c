// Chunks of a body, each held once for all readers.

/** The chunks that are held for readers, numbered from the first chunk of the body. */
export class ChunkBuffer {
  /** @type {Uint8Array[]} */
  #chunks = [];
  #bytes = 0;

  /** The number of the oldest chunk that is held. */
  first = 0;

  /** The number that the next chunk gets. */
  get end() {
    return this.first + this.#chunks.length;
  }

  /** @param {Uint8Array} chunk */
  push(chunk) {
    this.#chunks.push(chunk);
    this.#bytes += chunk.byteLength;
  }

  /** @param {number} number */
  get(number) {
    return this.#chunks[number - this.first];
  }

  /**
   * Drops all chunks before number `slowest`. If more than `maxBytes` are left, drops more of them, up to number `fastest`.
   *
   * @param {number} slowest
   * @param {number} fastest
   * @param {number} maxBytes
   */
  trim(slowest, fastest, maxBytes) {
    while (this.first < slowest || (this.first < fastest && this.#bytes > maxBytes)) {
      this.#bytes -= this.#chunks.shift()?.byteLength ?? 0;
      this.first += 1;
    }
  }

  /**
   * All bytes that are held, in segments of at least `minBytes`; the last may be shorter.
   *
   * @param {number} minBytes
   */
  *segments(minBytes) {
    /** @type {Uint8Array[]} */
    let segment = [];
    let bytes = 0;
    for (const chunk of this.#chunks) {
      segment.push(chunk);
      bytes += chunk.byteLength;
      if (bytes < minBytes) continue;
      yield concatenated(segment, bytes);
      segment = [];
      bytes = 0;
    }
    if (bytes > 0) yield concatenated(segment, bytes);
  }
}

/** Hands the chunks of a buffer to any number of streams. Each has its own position and starts at the first chunk. */
export class FanOut {
  #buffer;
  #onWait;
  #onRemove;
  /** @type {Set<{ next: number }>} */
  #readers = new Set();
  /** @type {(() => void)[]} Readers that wait for the next chunk. */
  #waiting = [];
  #failed = false;

  /** Whether no more chunks will come. */
  ended = false;

  /**
   * @param {ChunkBuffer} buffer
   * @param {() => void} onWait Called when a reader has read all there is and wants more.
   * @param {() => void} onRemove Called when a reader is done or has been cancelled.
   */
  constructor(buffer, onWait, onRemove) {
    this.#buffer = buffer;
    this.#onWait = onWait;
    this.#onRemove = onRemove;
  }

  get readerCount() {
    return this.#readers.size;
  }

  /** Whether a reader waits for the next chunk. */
  get isAwaited() {
    return this.#waiting.length > 0;
  }

  /** The lowest and the highest number that a reader wants next; without readers, the end of the buffer. */
  positions() {
    let slowest = this.#buffer.end;
    let fastest = 0;
    for (const { next } of this.#readers) {
      slowest = Math.min(slowest, next);
      fastest = Math.max(fastest, next);
    }
    return { slowest, fastest: Math.max(slowest, fastest) };
  }

  /** Tells the waiting readers that there is more to read. */
  wake() {
    for (const resume of this.#waiting.splice(0)) resume();
  }

  /**
   * Ends all streams, once they have read what is held.
   *
   * @param {boolean} failed Whether they end in an error.
   */
  end(failed) {
    this.ended = true;
    this.#failed = failed;
    this.wake();
  }

  /** A new stream from the first chunk on. */
  openStream() {
    const reader = { next: 0 };
    this.#readers.add(reader);
    const remove = () => {
      this.#readers.delete(reader);
      this.#onRemove();
    };
    /** @param {ReadableStreamDefaultController<Uint8Array>} controller */
    const pull = async (controller) => {
      for (;;) {
        if (reader.next < this.#buffer.first) {
          remove();
          throw new Error("This reader is too far behind.");
        }
        const chunk = this.#buffer.get(reader.next);
        if (chunk) {
          reader.next += 1;
          return controller.enqueue(chunk);
        }
        if (this.ended) {
          remove();
          if (this.#failed) throw new Error("The upstream's response was aborted.");
          return controller.close();
        }
        /** @type {Promise<void>} */
        const more = new Promise((resolve) => this.#waiting.push(resolve));
        this.#onWait();
        await more;
      }
    };
    return new ReadableStream({ pull, cancel: remove }, { highWaterMark: 0 });
  }
}

/**
 * @param {Uint8Array[]} chunks
 * @param {number} byteLength
 */
function concatenated(chunks, byteLength) {
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(byteLength);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return whole;
}
