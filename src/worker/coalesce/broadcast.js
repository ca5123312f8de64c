const PIECES = [4_096, 65_536]; // how much is read at once at first, and at most, in bytes
const RESTS = [250, 1_000]; // the shortest and the longest rest, in milliseconds
const LITTLE = 65_536; // how much may come between two rests if the next is to be longer, in bytes
const MOMENT = 100; // in which what has come during a rest can be read, in milliseconds
const PATIENCE = 1_000; // how long others wait for a reader of what is handed on besides, in milliseconds
const WATCHED = 16_777_216; // how much is looked at of what is too long to be kept and goes to its reader by itself, in bytes

// One body for many readers, each at its own pace. What has been read is kept once, up to `cap` bytes; beyond that the
// body is read as fast as its fastest reader wants it, and a reader that falls further behind than `cap` is broken off.
//
// To read a piece here costs more than all that the platform does to hand it on. So the first reader can have a body of its
// `own`, and while nobody else reads it, this rests between the pieces.
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
  #beside = false; // whether somebody has a body of its own
  #piped = false; // whether the platform tells when that one has ended
  #rouse = null; // ends a rest
  #rest = RESTS[0]; // how long the next one is
  #rested = 0; // bytes when the last one began
  #late = false; // whether those who read here are not waited for any more
  #size = 0;
  overflowed = false;
  own = undefined;

  // Gives the call up when nothing comes for `idle` milliseconds, and, unless it is to be kept, when its last reader leaves.
  // `ended` is "", "too-large", "truncated" or "stalled"; `grown` comes when nobody can join any more. `first`, where
  // the first reader is to have a body of its own, rings when that leaves; it is handed on as it came, or piped by us. `length`: of
  // a piped one, if known.
  constructor(body, idle, call, cap, kept, first, piped, length) {
    this.cap = cap;
    this.kept = kept;
    this.call = call;
    this.grown = new Promise((resolve) => (this.#grow = resolve));
    if (first) {
      [this.own, body] = body.tee();
      this.#beside = true;
      if (piped) this.own = this.#pipe(this.own, first, length);
    }
    this.ended = this.#pump(body.getReader({ mode: "byob" }), idle, call);
  }

  #pipe(body, client, length) {
    const { readable, writable } = length === undefined ? new IdentityTransformStream() : new FixedLengthStream(length);
    this.#piped = true;
    const over = () => {
      this.#beside = this.#piped = false;
      this.#rouse?.();
      this.#wanted?.();
    };
    const left = () => {
      over();
      this.#left();
    };
    body.pipeTo(writable).then(over, left);
    // This tells it one piece earlier.
    client.addEventListener("abort", left);
    return readable;
  }

  async #pump(reader, idle, call) {
    let stalled = false;
    let since = Date.now(); // when the last piece came; undefined while a reader is waited for
    let reading; // when reading began; undefined during a rest
    // One timer for many pieces: it costs more than all else about one.
    const look = () => {
      const now = Date.now();
      const left = since === undefined ? idle : Math.max(since + idle, (reading ?? now) + MOMENT) - now;
      if (left > 0) return (clock = setTimeout(look, left));
      stalled = true;
      call.abort();
    };
    let clock = setTimeout(look, idle);
    let buffer = new ArrayBuffer(PIECES[0]);
    try {
      for (;;) {
        while (this.overflowed && !this.#waiting.length && !this.#hurries) {
          // Nobody reads it, and it is too long to be kept.
          if (!this.#readers.size) return this.#leave(reader);
          since = undefined;
          await this.#reader();
          since = Date.now();
        }
        if (this.#waiting.length) this.#late = false;
        reading = Date.now();
        const { done, value } = await reader.read(new Uint8Array(buffer));
        since = Date.now();
        reading = undefined;
        if (done) break;
        const full = value.byteLength === value.buffer.byteLength;
        this.#chunks.push(value.slice());
        buffer = full && value.byteLength < PIECES[1] ? new ArrayBuffer(PIECES[1]) : value.buffer;
        this.#kept += value.byteLength;
        this.#size += value.byteLength;
        if (this.#size > this.cap && !this.overflowed) {
          this.overflowed = true;
          this.#grow();
        }
        this.#trim();
        this.#wake();
        if (!full && this.#piped && !this.#readers.size) await this.#pause();
      }
      return this.overflowed ? "too-large" : "";
    } catch {
      clearTimeout(clock);
      this.#failed = true;
      // What cannot be decoded is of no use to whoever reads it beside us, as it came, but may be near its end.
      if (this.#beside && !this.#piped) await new Promise((resolve) => setTimeout(resolve, Math.min(idle, 5_000)));
      // Its reader has yet to get what came before.
      if (!this.#piped) call.abort();
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
    this.#size = undefined;
    if (this.#beside) reader.cancel().catch(() => {});
    else this.call.abort();
    return "too-large";
  }

  // Somebody has left: what is of no use, or too long, to be kept is given up when nobody reads it any more.
  #left() {
    const useless = this.overflowed || !this.kept;
    if (useless && !this.#over && !this.#readers.size && !this.#beside) this.call.abort();
  }

  // Whether what is too long to be kept is read without anybody who waits for it: for its pauses, or because the one to whom
  // it is handed on is faster.
  get #hurries() {
    return this.#piped && (this.#readers.size ? this.#late : this.#size <= WATCHED);
  }

  // Until a reader wants more; where the body is handed on besides, until that has taken too long.
  async #reader() {
    await until(this.#piped ? PATIENCE : undefined, (resolve) => (this.#wanted = resolve));
    this.#late = !this.#waiting.length;
  }

  // How many bytes there are so far; undefined where the end will not be seen.
  get size() {
    return this.#size;
  }

  // Until there may be more to read at once, or the piped body has ended, or somebody reads here.
  async #pause() {
    if (this.#size - this.#rested > LITTLE) this.#rest = RESTS[0];
    this.#rested = this.#size;
    await until(this.#rest, (resolve) => (this.#rouse = resolve));
    this.#rest = Math.min(2 * this.#rest, RESTS[1]);
  }

  #wake() {
    for (const resume of this.#waiting.splice(0)) resume();
  }

  // Once nobody can join any more, what everyone has read is dropped, and what only those have not who fell too far behind.
  #trim() {
    if (!this.overflowed) return;
    const next = [...this.#readers].map((reader) => reader.next);
    const slowest = Math.min(...next, this.#first + this.#chunks.length);
    const fastest = this.#hurries ? this.#first + this.#chunks.length : Math.max(...next, slowest);
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
    this.#rouse?.();
    const leave = () => {
      this.#readers.delete(reader);
      this.#wanted?.();
      this.#left();
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

// Until what `keep` is given is called, or `ms` milliseconds have passed, where they are limited.
async function until(ms, keep) {
  let timer;
  await new Promise((resolve) => {
    keep(resolve);
    if (ms !== undefined) timer = setTimeout(resolve, ms);
  });
  clearTimeout(timer);
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
