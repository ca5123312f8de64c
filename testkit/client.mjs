// A client that adds nothing, decodes nothing and hides nothing: the tests see what was on the wire. It uses node:http because
// other clients refuse some of the headers and lengths that the tests have to send.

import assert from "node:assert/strict";
import http from "node:http";
import net from "node:net";
import { assertCacheFields } from "./cache-status.mjs";
import { withTimeout } from "./wait.mjs";

/**
 * @typedef {object} SentRequest
 * @property {string} [method] "POST" unless given.
 * @property {string} [path]
 * @property {Record<string, any>} [headers] A header of null is not sent.
 * @property {any} [body] Bytes, or an array of chunks that are sent without a content-length.
 */

/**
 * Sends a request and reads the whole response: { status, headers, rawHeaders, body, complete }. A truncated response is an
 * error, or with `allowTruncation` a reply that is not `complete`.
 *
 * @param {string} origin
 * @param {SentRequest & { allowTruncation?: boolean }} [request]
 */
export async function send(origin, { allowTruncation = false, ...request } = {}) {
  const reply = await open(origin, request);
  const chunks = [];
  let complete = true;
  try {
    for await (const chunk of reply) chunks.push(chunk);
  } catch (error) {
    if (!allowTruncation || error.code !== "ECONNRESET") throw error;
    complete = false;
  }
  const { status, headers, rawHeaders } = reply;
  return { status, headers, rawHeaders, body: Buffer.concat(chunks), complete };
}

/**
 * Sends a request and resolves with the response's head. `next()` gives the body chunk by chunk and null at its end, as does iteration;
 * `disconnect()` closes the connection.
 *
 * @param {string} origin
 * @param {SentRequest} [request]
 */
export async function open(origin, { method = "POST", path = "/", headers = {}, body } = {}) {
  const sent = { "accept-encoding": "identity", ...headers };
  if (body !== undefined && !Array.isArray(body)) sent["content-length"] ??= String(Buffer.byteLength(body));
  for (const name of Object.keys(sent)) if (sent[name] === null) delete sent[name];
  const { hostname, port } = new URL(origin);
  // Every request has its own connection: if one is closed early, no other is affected.
  const req = http.request({ hostname, port, method, path, headers: sent, agent: false, maxHeaderSize: 1 << 20 });
  const what = `the response to ${method} ${path.slice(0, 80)}`;
  const arrived = new Promise((resolve, reject) => {
    req.once("response", resolve);
    req.once("error", reject);
  });
  // As bytes: node:http writes the head in the encoding of a text body.
  for (const chunk of [body ?? []].flat()) req.write(Buffer.from(chunk));
  req.end();
  const res = await withTimeout(arrived, what);
  assertCacheFields(res);
  const chunks = res[Symbol.asyncIterator]();
  return {
    status: res.statusCode,
    headers: res.headers,
    rawHeaders: res.rawHeaders,
    async next() {
      const { done, value } = await withTimeout(chunks.next(), `more of ${what}`);
      return done ? null : value;
    },
    async *[Symbol.asyncIterator]() {
      for (let chunk = await this.next(); chunk !== null; chunk = await this.next()) yield chunk;
    },
    disconnect: () => req.destroy(),
  };
}

/**
 * Sends bytes that no HTTP library would send and resolves with all that comes back until the other side closes. With `endWrite`
 * this side announces that it sends nothing more.
 */
export function sendRaw(origin, bytes, { endWrite = false } = {}) {
  const { hostname, port } = new URL(origin);
  return withTimeout(
    new Promise((resolve, reject) => {
      const socket = net.connect(Number(port), hostname, () => (endWrite ? socket.end(bytes) : socket.write(bytes)));
      const chunks = [];
      socket.on("data", (chunk) => chunks.push(chunk));
      // A server may refuse malformed bytes by closing the connection.
      socket.on("error", (/** @type {NodeJS.ErrnoException} */ error) =>
        error.code === "ECONNRESET" || error.code === "EPIPE" ? null : reject(error),
      );
      socket.on("close", () => resolve(Buffer.concat(chunks)));
    }),
    "a response to raw bytes, and the end of the connection",
  );
}

/** The next `length` bytes of an opened response, as text. */
export async function readText(reply, length) {
  const chunks = [];
  for (let got = 0; got < length; ) {
    const chunk = await reply.next();
    assert.notEqual(chunk, null, `the response ended after ${got} of ${length} bytes`);
    chunks.push(chunk);
    got += chunk.length;
  }
  return Buffer.concat(chunks).toString();
}

/** The rest of an opened response's body. */
export async function readRest(reply) {
  const chunks = [];
  for await (const chunk of reply) chunks.push(chunk);
  return Buffer.concat(chunks);
}
