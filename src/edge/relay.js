// One body for many readers, each at its own pace. What has been read is kept once, up to `cap` bytes; beyond that the
// body is read as fast as its fastest reader wants it, and a reader that falls further behind than `cap` is broken off.
export class Relay {
  #chunks = [];
  #first = 0; // the number of the first piece that is kept
  #kept = 0; // bytes in #chunks
  #failed = false;
  #over = false;
  #grow = null;
  #wanted = null; // wakes the pump when it waits for a reader
  #waiting = []; // readers that wait for the next piece
  #readers = new Set();
  overflowed = false;
  beside = false; // whether somebody reads the body besides
  size = 0;

  // Gives the call up when nothing comes for `idle` milliseconds, and, unless it is to be kept, when its last reader leaves.
  // `ended` is "", "too-large", "truncated" or "stalled"; `grown` comes when nobody can join any more.
  constructor(body, idle, call, cap, kept) {
    this.cap = cap;
    this.kept = kept;
    this.call = call;
    this.grown = new Promise((resolve) => (this.#grow = resolve));
    this.ended = this.#pump(body.getReader(), idle, call);
  }

  async #pump(reader, idle, call) {
    let stalled = false;
    let since; // when the piece that is waited for began to be
    // One timer for many pieces: it costs more than all else about one.
    const look = () => {
      const left = since === undefined ? idle : since + idle - Date.now();
      if (left > 0) return (clock = setTimeout(look, left));
      stalled = true;
      call.abort();
    };
    let clock = setTimeout(look, idle);
    try {
      for (;;) {
        while (this.overflowed && !this.#waiting.length) {
          // Nobody reads it, and it is too long to be kept.
          if (!this.#readers.size) return this.#leave(reader);
          await new Promise((resolve) => (this.#wanted = resolve));
        }
        since = Date.now();
        const { done, value } = await reader.read();
        since = undefined;
        if (done) break;
        this.#chunks.push(value);
        this.#kept += value.byteLength;
        this.size += value.byteLength;
        if (this.size > this.cap && !this.overflowed) {
          this.overflowed = true;
          this.#grow();
        }
        this.#trim();
        this.#wake();
      }
      return this.overflowed ? "too-large" : "";
    } catch {
      clearTimeout(clock);
      this.#failed = true;
      // What cannot be decoded is of no use to whoever reads it beside us, as it came, but may be near its end.
      if (this.beside) await new Promise((resolve) => setTimeout(resolve, Math.min(idle, 5_000)));
      call.abort();
      if (this.overflowed && !stalled) return "too-large";
      return stalled ? "stalled" : "truncated";
    } finally {
      clearTimeout(clock);
      this.#over = true;
      this.#wake();
    }
  }

  #leave(reader) {
    this.#failed = true;
    if (this.beside) reader.cancel().catch(() => {});
    else this.call.abort();
    return "too-large";
  }

  #wake() {
    for (const resume of this.#waiting.splice(0)) resume();
  }

  // Once nobody can join any more, what everyone has read is dropped, and what only those have not who fell too far behind.
  #trim() {
    if (!this.overflowed) return;
    const next = [...this.#readers].map((reader) => reader.next);
    const slowest = Math.min(...next, this.#first + this.#chunks.length);
    const fastest = Math.max(...next, slowest);
    while (this.#first < slowest || (this.#first < fastest && this.#kept > 2 * this.cap)) {
      this.#kept -= this.#chunks.shift().byteLength;
      this.#first += 1;
    }
  }

  get readers() {
    return this.#readers.size;
  }

  // All of a body that did not overflow, in pieces of at least `size` bytes but for the last.
  *pieces(size) {
    let [some, length] = [[], 0];
    for (const chunk of this.#chunks) {
      some.push(chunk);
      length += chunk.byteLength;
      if (length < size) continue;
      yield joined(some, length);
      [some, length] = [[], 0];
    }
    if (length > 0) yield joined(some, length);
  }

  // The body from its first byte. `length` is its length, where it is known. Nobody can join what has overflowed.
  attach(length) {
    if (this.overflowed) throw new Error("the first bytes are gone");
    const reader = { next: 0 };
    this.#readers.add(reader);
    const leave = () => {
      this.#readers.delete(reader);
      this.#wanted?.();
      // Nobody is left, and it is of no use, or too long, to be kept.
      const useless = this.overflowed || !this.kept;
      if (useless && !this.#over && !this.#readers.size && !this.beside) this.call.abort();
    };
    const stream = new ReadableStream(
      {
        pull: async (controller) => {
          for (;;) {
            if (reader.next < this.#first) {
              leave();
              throw new Error("fell too far behind");
            }
            const piece = this.#chunks[reader.next - this.#first];
            if (piece) {
              reader.next += 1;
              return controller.enqueue(piece);
            }
            if (this.#over) {
              leave();
              if (this.#failed) throw new Error("the upstream broke off");
              return controller.close();
            }
            const more = new Promise((resolve) => this.#waiting.push(resolve));
            this.#wanted?.();
            await more;
          }
        },
        cancel: leave,
      },
      { highWaterMark: 0 },
    );
    return length === undefined ? stream : stream.pipeThrough(new FixedLengthStream(length));
  }
}

function joined(chunks, length) {
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}
