// Streams to test the glue with, outside the Workers runtime.

// Streams of the Workers runtime that Node lacks: a stream that passes bytes on, and one that checks their number besides.
globalThis.IdentityTransformStream = TransformStream;

globalThis.FixedLengthStream = class extends TransformStream {
  constructor(length) {
    let left = length;
    const transform = (chunk, controller) => {
      left -= chunk.byteLength;
      if (left < 0) throw new TypeError("more bytes than the declared length");
      controller.enqueue(chunk);
    };
    const flush = () => {
      if (left > 0) throw new TypeError("fewer bytes than the declared length");
    };
    super({ transform, flush });
  }
};

/** An upstream body that does what it is told, step by step, as fast as it is read. Aborted by `signal`, as a fetch is. */
export class ScriptedBody {
  /** The number of chunks that have been read. */
  taken = 0;
  cancelled = false;
  #steps = [];
  #wake;

  constructor(signal) {
    this.stream = new ReadableStream(
      {
        type: "bytes",
        start: (controller) => signal?.addEventListener("abort", () => controller.error(signal.reason)),
        pull: async (controller) => {
          while (this.#steps.length === 0) {
            await new Promise((resolve) => {
              this.#wake = resolve;
            });
            if (signal?.aborted) return;
          }
          this.#steps.shift()(controller);
        },
        cancel: () => {
          this.cancelled = true;
        },
      },
      { highWaterMark: 0 },
    );
    signal?.addEventListener("abort", () => this.#wake?.());
  }

  #then(step) {
    this.#steps.push(step);
    this.#wake?.();
  }

  send(chunk) {
    this.#then((controller) => {
      this.taken += 1;
      controller.enqueue(new Uint8Array(Buffer.from(chunk)));
    });
  }

  end() {
    this.#then((controller) => {
      controller.close();
      controller.byobRequest?.respond(0);
    });
  }

  fail() {
    this.#then((controller) => controller.error(new Error("connection reset")));
  }
}

/** Resolves when everything has run that does not wait for a timer or for the test. */
export const settled = async () => {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

/** The text of one chunk, or undefined at the end. */
export async function readChunk(reader) {
  const { done, value } = await reader.read();
  return done ? undefined : Buffer.from(value).toString();
}

export async function readText(stream) {
  let text = "";
  for await (const chunk of stream) text += Buffer.from(chunk).toString();
  return text;
}

/** Reads a stream without end, and counts what it gives. */
export function drain(stream) {
  const result = { bytes: 0, error: undefined, ended: false };
  (async () => {
    try {
      for await (const chunk of stream) result.bytes += chunk.byteLength;
      result.ended = true;
    } catch (error) {
      result.error = error;
    }
  })();
  return result;
}
