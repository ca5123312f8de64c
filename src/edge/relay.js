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
    try {
      for (;;) {
        while (this.overflowed && !this.#waiting.length) {
          // Nobody reads it, and it is too long to be kept.
          if (!this.#readers.size) return this.#leave(reader);
          await new Promise((resolve) => (this.#wanted = resolve));
        }
        const clock = setTimeout(() => {
          stalled = true;
          call.abort();
        }, idle);
        const { done, value } = await reader.read().finally(() => clearTimeout(clock));
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
      this.#failed = true;
      // What cannot be decoded is of no use to whoever reads it beside us, as it came, but may be near its end.
      if (this.beside) await new Promise((resolve) => setTimeout(resolve, Math.min(idle, 5_000)));
      call.abort();
      if (this.overflowed && !stalled) return "too-large";
      return stalled ? "stalled" : "truncated";
    } finally {
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

  // All pieces, of a body that did not overflow.
  chunks() {
    return this.#chunks;
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
