// One upstream body for many readers, each at its own pace. The bytes move in JavaScript, so they reach the clients even
// if the wasm instance is reset.

import { ChunkBuffer, FanOut } from "./fan_out.js";
import { IdleWatchdog, PollPace, untilCalled } from "./pacing.js";

/** Size of the first reads. A larger buffer is only worth it if the upstream fills it. */
const MIN_READ_BYTES = 4_096;
const MAX_READ_BYTES = 65_536;
/** The time that the leader's piped branch waits for followers that read more slowly. */
const FOLLOWER_TIMEOUT_MS = 1_000;
/** The most that is read of a body too large to store, only to detect an idle upstream. */
const MAX_WATCHED_BYTES = 16_777_216;
/** The time in which the leader may still read the encoded bytes after decoding them has failed here. */
const DECODE_ERROR_GRACE_MS = 5_000;

/** @typedef {"" | "too-large" | "truncated" | "stalled"} Outcome `""`: complete, and small enough to store. */

/**
 * The leader's own branch of the body. The Workers runtime moves its bytes, which costs far less than reading a chunk here.
 * Either the branch is handed over as it is, and its end is not seen; or it is piped, and its end is reported.
 */
export class LeaderBranch {
  body;

  /** Whether the branch is piped and has not ended yet. */
  piped;

  /** Whether the leader may still read. */
  open = true;

  /**
   * @param {ReadableStream} branch
   * @param {boolean} piped
   * @param {number | undefined} length The body's length, if known.
   * @param {AbortSignal} client Aborted when the leader's client disconnects.
   * @param {() => void} onEnd Called when a piped branch has ended.
   * @param {() => void} onDisconnect Called when the reader of a piped branch has disconnected. May be called twice.
   */
  constructor(branch, piped, length, client, onEnd, onDisconnect) {
    this.piped = piped;
    this.body = branch;
    if (!piped) return;
    const { readable, writable } = length === undefined ? new IdentityTransformStream() : new FixedLengthStream(length);
    this.body = readable;
    const ended = () => {
      this.piped = false;
      this.open = false;
      onEnd();
    };
    const disconnected = () => {
      ended();
      onDisconnect();
    };
    branch.pipeTo(writable).then(ended, disconnected);
    // The signal comes one chunk earlier than the pipe's error.
    client.addEventListener("abort", disconnected);
  }
}

/**
 * Reads an upstream body and hands it to its readers.
 *
 * Every chunk is held once. If the body grows beyond `maxBufferedBytes`, no more readers can join. From then on only chunks
 * that a reader still needs are held, and at most twice `maxBufferedBytes` of them: slower readers are aborted.
 *
 * Reading a chunk here costs more than all that the Workers runtime does to pass it on. So the leader can have a branch of
 * its own, and while nobody else reads a piped body, reads pause in between.
 */
export class Broadcast {
  #controller;
  #maxBufferedBytes;
  #storable;
  #buffer = new ChunkBuffer();
  #pace = new PollPace();
  #watchdog;
  #fanOut;
  /** @type {LeaderBranch | undefined} */
  #leader;
  /** @type {(() => void) | undefined} Ends the wait for a reader. */
  #endWait;
  #followersTimedOut = false;
  #bytesRead = 0;
  #abandoned = false;
  #overflow;

  /** Whether the body is too large for more readers to join. */
  overflowed = false;

  /** @type {Promise<void>} Resolves when the body becomes too large for more readers to join, if ever. */
  whenOverflowed;

  /** @type {Promise<Outcome>} */
  whenEnded;

  /**
   * @param {ReadableStream} body
   * @param {number} idleMs The upstream request is aborted if nothing arrives for this long.
   * @param {AbortController} controller Aborts the upstream request.
   * @param {number} maxBufferedBytes
   * @param {boolean} storable Whether the body is read to its end even if all clients disconnect.
   * @param {AbortSignal | undefined} leader If set, the leader gets a branch of its own; aborted when its client disconnects.
   * @param {boolean} piped Whether that branch is piped, rather than handed over as it is.
   * @param {number | undefined} length The length of a piped body, if known.
   */
  constructor(body, idleMs, controller, maxBufferedBytes, storable, leader, piped, length) {
    this.#controller = controller;
    this.#maxBufferedBytes = maxBufferedBytes;
    this.#storable = storable;
    /** @type {PromiseWithResolvers<void>} */
    const overflow = Promise.withResolvers();
    this.whenOverflowed = overflow.promise;
    this.#overflow = overflow.resolve;
    this.#fanOut = new FanOut(
      this.#buffer,
      () => this.#endWait?.(),
      () => {
        this.#endWait?.();
        this.#abortIfUnwanted();
      },
    );
    let source = body;
    if (leader) {
      const [own, rest] = body.tee();
      source = rest;
      this.#leader = new LeaderBranch(
        own,
        piped,
        length,
        leader,
        () => this.#pace.endPause(),
        () => this.#abortIfUnwanted(),
      );
    }
    this.#watchdog = new IdleWatchdog(idleMs, () => controller.abort());
    this.whenEnded = this.#pump(source.getReader({ mode: "byob" }), idleMs);
  }

  /** The leader's own branch of the body, if it has one. */
  get leaderBody() {
    return this.#leader?.body;
  }

  /** The number of streams of `openStream` that are being read. */
  get readerCount() {
    return this.#fanOut.readerCount;
  }

  /** The number of bytes read; undefined if the end will not be seen. */
  get bytesRead() {
    return this.#abandoned ? undefined : this.#bytesRead;
  }

  /**
   * A body that has ended and did not overflow, in segments of at least `minBytes`; the last may be shorter.
   *
   * @param {number} minBytes
   */
  segments(minBytes) {
    return this.#buffer.segments(minBytes);
  }

  /**
   * The body from its first byte.
   *
   * @param {number} [length] Its length, if known.
   */
  openStream(length) {
    if (this.overflowed) throw new Error("The first bytes are no longer held.");
    const stream = this.#fanOut.openStream();
    this.#pace.endPause();
    return length === undefined ? stream : stream.pipeThrough(new FixedLengthStream(length));
  }

  /**
   * @param {ReadableStreamBYOBReader} reader
   * @param {number} idleMs
   * @returns {Promise<Outcome>}
   */
  async #pump(reader, idleMs) {
    let failed = false;
    let buffer = new ArrayBuffer(MIN_READ_BYTES);
    try {
      for (;;) {
        while (this.overflowed && !this.#fanOut.isAwaited && !this.#readsAhead) {
          if (this.#fanOut.readerCount === 0) {
            failed = true;
            return this.#abandon(reader);
          }
          this.#watchdog.suspend();
          await this.#readerWaits();
          this.#watchdog.resume();
        }
        this.#watchdog.readStarted();
        const { done, value } = await reader.read(new Uint8Array(buffer));
        this.#watchdog.readEnded();
        if (done) break;
        const filled = value.byteLength === value.buffer.byteLength;
        this.#add(value.slice());
        buffer = filled && value.byteLength < MAX_READ_BYTES ? new ArrayBuffer(MAX_READ_BYTES) : value.buffer;
        if (!filled && this.#leader?.piped && this.#fanOut.readerCount === 0) await this.#pace.pause(this.#bytesRead);
      }
      return this.overflowed ? "too-large" : "";
    } catch {
      failed = true;
      this.#watchdog.stop();
      await this.#abortFailed(idleMs);
      const { stalled } = this.#watchdog;
      if (this.overflowed && !stalled) return "too-large";
      return stalled ? "stalled" : "truncated";
    } finally {
      this.#watchdog.stop();
      this.#fanOut.end(failed);
    }
  }

  /** @param {Uint8Array} chunk */
  #add(chunk) {
    this.#buffer.push(chunk);
    this.#bytesRead += chunk.byteLength;
    if (this.#bytesRead > this.#maxBufferedBytes && !this.overflowed) {
      this.overflowed = true;
      this.#overflow();
    }
    this.#trim();
    this.#fanOut.wake();
  }

  /** Drops chunks that all readers have read, and chunks that only readers need that are too far behind. */
  #trim() {
    if (!this.overflowed) return;
    const { slowest, fastest } = this.#fanOut.positions();
    this.#buffer.trim(slowest, this.#readsAhead ? this.#buffer.end : fastest, 2 * this.#maxBufferedBytes);
  }

  /**
   * Whether a body that is too large is read although no reader waits for it: to detect an idle upstream, or because the
   * leader is faster than its followers.
   */
  get #readsAhead() {
    if (!this.#leader?.piped) return false;
    return this.#fanOut.readerCount > 0 ? this.#followersTimedOut : this.#bytesRead <= MAX_WATCHED_BYTES;
  }

  /** Resolves when a reader wants more. If the leader's branch is piped, it waits for at most `FOLLOWER_TIMEOUT_MS`. */
  async #readerWaits() {
    const timeoutMs = this.#leader?.piped ? FOLLOWER_TIMEOUT_MS : undefined;
    await untilCalled((resolve) => {
      this.#endWait = resolve;
    }, timeoutMs);
    this.#followersTimedOut = !this.#fanOut.isAwaited;
  }

  /**
   * Stops reading a body that is too large to store and has no reader here.
   *
   * @param {ReadableStreamBYOBReader} reader
   * @returns {Outcome}
   */
  #abandon(reader) {
    this.#abandoned = true;
    if (this.#leader?.open) reader.cancel().catch(() => {});
    else this.#controller.abort();
    return "too-large";
  }

  /**
   * Aborts the upstream request after an error, as soon as the leader can have read what came before it.
   *
   * @param {number} idleMs
   */
  async #abortFailed(idleMs) {
    if (this.#leader?.piped) return;
    // The leader reads the encoded bytes. It may be able to decode them, and may be near the end.
    if (this.#leader?.open)
      await new Promise((resolve) => setTimeout(resolve, Math.min(idleMs, DECODE_ERROR_GRACE_MS)));
    this.#controller.abort();
  }

  /** Aborts the upstream request if nobody reads the body any more and it will not be stored. */
  #abortIfUnwanted() {
    const unstored = this.overflowed || !this.#storable;
    const unread = this.#fanOut.readerCount === 0 && !this.#leader?.open;
    if (unstored && unread && !this.#fanOut.ended) this.#controller.abort();
  }
}
