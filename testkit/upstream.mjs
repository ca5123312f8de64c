// The scripted upstream: it responds as a test tells it to, and records every request.

import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { WebSocketServer } from "ws";
import { result } from "./fixtures.mjs";
import { deferred, withTimeout } from "./wait.mjs";

/** @param {ConstructorParameters<typeof Upstream>[0] & { port?: number }} [options] */
export async function startUpstream({ port, ...options } = {}) {
  const upstream = new Upstream(options);
  await upstream.listen(port);
  return upstream;
}

/**
 * A response is a description or a function. All fields of a description are optional:
 *
 * - `status` (200) and `headers`. The content-type is JSON unless given; a header of null is not sent.
 * - The body, as one of `json`, `body` (text or bytes), `base64`, `repeat: { head, unit, times, tail }` or `chunks` (a list of
 *   texts or bytes). `gzip: true` compresses it.
 * - `hold`: a promise, or `delay`: milliseconds, to wait for before the head.
 * - `chunked: true`: no content-length. `chunks` implies it.
 * - `interval`: milliseconds between the chunks, by the clock: a late chunk does not delay the next ones.
 * - `afterChunk(chunk, call)`: awaited after each chunk.
 * - `refuse: true`: the connection is closed before the head.
 * - `truncate: n`: the connection is closed after n bytes of the body.
 * - `truncateSilently: n`: the body ends after n bytes as if it were complete.
 *
 * A function of one parameter gets the call when its body is complete, and returns a description. A function `(call, response)`
 * gets it at once and writes to Node's response itself.
 */
export class Upstream {
  /** @type {any[]} */
  calls = []; // { n, method, url, headers, rawHeaders, body, bodyReceived, responded, disconnected, sent }
  count = 0; // of all requests since the last reset
  #record;
  #responses = [];
  #fallback;
  #server;
  #port = 0;
  #sockets = new Set();
  #webSockets = new WebSocketServer({ noServer: true });
  #waiting = new Set();

  /** @param {{ record?: boolean }} [options] Without `record` calls are counted but not recorded. */
  constructor({ record = true } = {}) {
    this.#record = record;
  }

  get origin() {
    return `http://127.0.0.1:${this.#port}`;
  }

  get port() {
    return this.#port;
  }

  /** The response to every call for which none is queued. */
  otherwise(response) {
    this.#fallback = response;
  }

  /** The responses to the next calls, one each. */
  next(...responses) {
    this.#responses.push(...responses);
  }

  /** Queues a response that waits until the returned function is called. */
  holdNext(response) {
    const { promise, resolve } = deferred();
    this.next({ ...response, hold: promise });
    return resolve;
  }

  /** Forgets calls and responses, for the next test. */
  reset() {
    this.calls = [];
    this.count = 0;
    this.#responses = [];
    this.#fallback = undefined;
  }

  get last() {
    return this.calls.at(-1);
  }

  /** Resolves when n requests have arrived since the last reset. */
  async received(n) {
    while (this.count < n) {
      await withTimeout(new Promise((resolve) => this.#waiting.add(resolve)), `request ${n} to the upstream`);
    }
  }

  async listen(port = this.#port) {
    this.#server = http.createServer({ maxHeaderSize: 1 << 20, keepAliveTimeout: 600_000 }, (req, res) =>
      this.#onRequest(req, res),
    );
    this.#server.on("upgrade", (req, socket, head) => this.#onUpgrade(req, socket, head));
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.setMaxListeners(0); // each call on a persistent connection waits for its end
      socket.on("close", () => this.#sockets.delete(socket));
    });
    await new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(port, "127.0.0.1", resolve);
    });
    this.#port = this.#server.address().port;
    this.#server.unref(); // a test file that fails before its first test must end
  }

  /** Closes every connection and refuses new ones until `listen()` opens the same port again. */
  async stopListening() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  close() {
    return this.stopListening();
  }

  #arrived(req) {
    this.count += 1;
    const call = {
      n: this.count,
      method: req.method,
      url: req.url,
      headers: req.headers,
      rawHeaders: req.rawHeaders,
      disconnected: new Promise((resolve) => req.socket.once("close", resolve)),
    };
    if (this.#record) this.calls.push(call);
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
    return call;
  }

  #onRequest(req, res) {
    const call = this.#arrived(req);
    const response = this.#responses.shift() ?? this.#fallback ?? { json: result(`answer-${call.n}`) };
    res.sendDate = false; // the wire carries what the test wrote, and no more than HTTP needs
    res.on("error", () => {}); // a client that disconnects early is no error of the upstream's
    req.on("error", () => {});
    call.responded = new Promise((resolve) => res.once("close", resolve));
    const chunks = [];
    req.on("data", (chunk) => chunks.push(chunk));
    call.bodyReceived = new Promise((resolve) => {
      req.on("end", () => {
        call.body = Buffer.concat(chunks);
        resolve(call.body);
      });
    });
    this.#respond(response, call, res).catch((error) => {
      console.error("the scripted upstream failed:", error);
      res.destroy();
    });
  }

  async #respond(response, call, res) {
    if (typeof response === "function" && response.length >= 2) return response(call, res);
    await call.bodyReceived;
    const described = typeof response === "function" ? await response(call) : response;
    await described.hold;
    if (described.delay !== undefined) await sleep(described.delay);
    return write(described, call, res);
  }

  // A WebSocket that sends back every message.
  #onUpgrade(req, socket, head) {
    this.#arrived(req);
    this.#webSockets.handleUpgrade(req, socket, head, (webSocket) => {
      webSocket.on("error", () => {});
      webSocket.on("message", (data, binary) => webSocket.send(data, { binary }));
    });
  }
}

/** Writes a described response. Resolves when it is written or the client has disconnected. */
async function write(described, call, res) {
  if (described.refuse) return void res.destroy();
  const closed = new Promise((resolve) => res.once("close", resolve));
  const flushed = (chunk) => Promise.race([new Promise((resolve) => res.write(chunk, resolve)), closed]);
  let chunks = described.chunks?.map(toBytes) ?? [bytesOf(described) ?? Buffer.alloc(0)];
  const headers = { "content-type": "application/json", ...described.headers };
  if (described.gzip) {
    chunks = [gzipSync(Buffer.concat(chunks))];
    headers["content-encoding"] ??= "gzip";
  }
  const status = described.status ?? 200;
  const hasBody = status !== 204 && status !== 205 && status !== 304;
  if (described.truncateSilently !== undefined)
    chunks = [Buffer.concat(chunks).subarray(0, described.truncateSilently)];
  call.sent = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
  const isChunked = described.chunked || described.chunks !== undefined;
  if (described.truncate !== undefined) {
    call.sent = call.sent.subarray(0, described.truncate);
    res.writeHead(status, withoutNulls(headers));
    res.flushHeaders(); // otherwise the connection could be closed before the head is sent
    await flushed(call.sent);
    return void res.destroy();
  }
  if (hasBody && !isChunked && headers["content-length"] === undefined)
    headers["content-length"] = String(call.sent.length);
  res.writeHead(status, withoutNulls(headers));
  if (!hasBody || described.chunks === undefined) return void res.end(hasBody ? call.sent : undefined);
  const began = performance.now();
  for (const [at, chunk] of chunks.entries()) {
    if (described.interval !== undefined && at > 0)
      await sleep(Math.max(0, began + at * described.interval - performance.now()));
    await flushed(chunk);
    await described.afterChunk?.(chunk, call);
  }
  res.end();
}

/**
 * A streamed response that the test controls: give `respond` to the upstream, then `send`, `end` or `abort`.
 *
 * @param {{ status?: number, headers?: Record<string, any> }} [head]
 */
export function controlledStream({ status = 200, headers = { "content-type": "text/event-stream" } } = {}) {
  let response;
  let closed; // a write is never confirmed once the client has disconnected
  const started = deferred();
  const done = (start, what) => withTimeout(Promise.race([new Promise(start), closed]), what);
  return {
    started: started.promise, // resolves with the call when the upstream has sent the head
    respond: async (call, res) => {
      response = res;
      closed = new Promise((resolve) => res.once("close", resolve));
      await call.bodyReceived;
      res.writeHead(status, headers);
      res.flushHeaders();
      started.resolve(call);
    },
    send: (chunk) => done((sent) => response.write(chunk, sent), "a chunk to be sent"),
    end: () => done((sent) => response.end(sent), "the end to be sent"),
    abort: () => response.destroy(),
  };
}

/** The bytes of a body described by `json`, `body`, `base64` or `repeat`; undefined for none. */
export function bytesOf(described) {
  if (described.json !== undefined) return Buffer.from(JSON.stringify(described.json));
  if (described.body !== undefined) return toBytes(described.body);
  if (described.base64 !== undefined) return Buffer.from(described.base64, "base64");
  if (described.repeat !== undefined) {
    const { head = "", unit = "", times = 0, tail = "" } = described.repeat;
    return Buffer.from(head + unit.repeat(times) + tail);
  }
  return undefined;
}

const toBytes = (chunk) => (Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk));

function withoutNulls(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== null));
}
