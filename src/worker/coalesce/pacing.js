// When a body is read, and for how long the upstream may pause.

const MIN_POLL_INTERVAL_MS = 250;
const MAX_POLL_INTERVAL_MS = 1_000;
/** If more than this arrives between two pauses, the interval goes back to its minimum. */
const POLL_BACKOFF_BYTES = 65_536;
/** Time to read what arrived during a pause, before the upstream counts as idle. */
const READ_GRACE_MS = 100;

/**
 * Reports an upstream that sends nothing for too long. One timer serves many chunks: setting one costs more than everything
 * else that is done about a chunk.
 */
export class IdleWatchdog {
  #idleMs;
  #onStall;
  #timer;
  /** @type {number | undefined} When the last chunk came; undefined while nothing is expected. */
  #lastChunkAt = Date.now();
  /** @type {number | undefined} When the current read began; undefined between two reads. */
  #readStartedAt;

  stalled = false;

  /**
   * @param {number} idleMs
   * @param {() => void} onStall
   */
  constructor(idleMs, onStall) {
    this.#idleMs = idleMs;
    this.#onStall = onStall;
    this.#timer = setTimeout(this.#check, idleMs);
  }

  #check = () => {
    const now = Date.now();
    const msLeft =
      this.#lastChunkAt === undefined
        ? this.#idleMs
        : // Between two reads the upstream cannot be judged.
          Math.max(this.#lastChunkAt + this.#idleMs, (this.#readStartedAt ?? now) + READ_GRACE_MS) - now;
    if (msLeft > 0) {
      this.#timer = setTimeout(this.#check, msLeft);
    } else {
      this.stalled = true;
      this.#onStall();
    }
  };

  readStarted() {
    this.#readStartedAt = Date.now();
  }

  readEnded() {
    this.#lastChunkAt = Date.now();
    this.#readStartedAt = undefined;
  }

  /** From now on nothing is expected of the upstream. */
  suspend() {
    this.#lastChunkAt = undefined;
  }

  /** From now on a chunk is expected again. */
  resume() {
    this.#lastChunkAt = Date.now();
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

/** Pauses between two reads. They grow while little arrives. */
export class PollPace {
  #intervalMs = MIN_POLL_INTERVAL_MS;
  #bytesAtLastPause = 0;
  /** @type {(() => void) | undefined} */
  #endPause;

  /**
   * Resolves after the current interval, or at the next call of `endPause`.
   *
   * @param {number} bytesRead How much of the body has been read so far.
   */
  async pause(bytesRead) {
    if (bytesRead - this.#bytesAtLastPause > POLL_BACKOFF_BYTES) this.#intervalMs = MIN_POLL_INTERVAL_MS;
    this.#bytesAtLastPause = bytesRead;
    await untilCalled((resolve) => {
      this.#endPause = resolve;
    }, this.#intervalMs);
    this.#intervalMs = Math.min(2 * this.#intervalMs, MAX_POLL_INTERVAL_MS);
  }

  endPause() {
    this.#endPause?.();
  }
}

/**
 * Resolves when the function that `arm` gets is called, or after `timeoutMs`, if set.
 *
 * @param {(resolve: () => void) => void} arm
 * @param {number | undefined} timeoutMs
 */
export async function untilCalled(arm, timeoutMs) {
  /** @type {ReturnType<typeof setTimeout> | null} */
  let timer = null;
  /** @type {Promise<void>} */
  const promise = new Promise((resolve) => {
    arm(resolve);
    if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs);
  });
  await promise;
  clearTimeout(timer);
}
