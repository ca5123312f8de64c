// A client that adds nothing, decodes nothing and hides nothing: what the tests see is what was on the wire.

import assert from "node:assert/strict";
import http from "node:http";
import net from "node:net";
import { within } from "./wait.mjs";

// One request, and its whole answer: { status, headers, rawHeaders, body, whole }. An answer that breaks off is
// an error, or with `mayBreak` an answer that is not `whole`.
export async function send(origin, { mayBreak = false, ...request } = {}) {
  const reply = await open(origin, request);
  const chunks = [];
  let whole = true;
  try {
    for (let chunk; (chunk = await reply.next()) !== null; ) chunks.push(chunk);
  } catch (error) {
    if (!mayBreak || error.code !== "ECONNRESET") throw error;
    whole = false;
  }
  const { status, headers, rawHeaders } = reply;
  return { status, headers, rawHeaders, body: Buffer.concat(chunks), whole };
}

// One request, answered as soon as the head is there; `next()` gives the body piece by piece and null at its
// end, `leave()` hangs up. `body` is bytes, or an array of chunks that are then sent without a content-length.
export async function open(origin, { method = "POST", path = "/", headers = {}, body } = {}) {
  const sent = { "accept-encoding": "identity", ...headers };
  if (body !== undefined && !Array.isArray(body)) sent["content-length"] ??= String(Buffer.byteLength(body));
  for (const name of Object.keys(sent)) if (sent[name] === null) delete sent[name];
  const { hostname, port } = new URL(origin);
  // Every request has a connection of its own, so that one left early cannot touch another.
  const req = http.request({ hostname, port, method, path, headers: sent, agent: false, maxHeaderSize: 1 << 20 });
  const what = `${method} ${path.slice(0, 80)}`;
  const arrived = new Promise((resolve, reject) => {
    req.once("response", resolve);
    req.once("error", reject);
  });
  for (const chunk of [body ?? []].flat()) req.write(chunk);
  req.end();
  const res = await within(arrived, `the answer to ${what}`);
  const pieces = res[Symbol.asyncIterator]();
  return {
    status: res.statusCode,
    headers: res.headers,
    rawHeaders: res.rawHeaders,
    async next() {
      const { done, value } = await within(pieces.next(), `more of the answer to ${what}`);
      return done ? null : value;
    },
    leave: () => req.destroy(),
  };
}

// For what no HTTP library would send: bytes in, and whatever comes back until the other side closes. With `hangUp`
// this side says that it has nothing more to send.
export function raw(origin, bytes, { hangUp = false } = {}) {
  const { hostname, port } = new URL(origin);
  return within(
    new Promise((resolve, reject) => {
      const socket = net.connect(Number(port), hostname, () => (hangUp ? socket.end(bytes) : socket.write(bytes)));
      const chunks = [];
      socket.on("data", (chunk) => chunks.push(chunk));
      // A server may well refuse malformed bytes by hanging up: that is an answer, too.
      socket.on("error", (error) => (error.code === "ECONNRESET" || error.code === "EPIPE" ? null : reject(error)));
      socket.on("close", () => resolve(Buffer.concat(chunks)));
    }),
    "the other side to answer raw bytes and close",
  );
}

// The next `length` bytes of an opened answer, as text.
export async function read(reply, length) {
  const pieces = [];
  for (let got = 0; got < length; ) {
    const piece = await reply.next();
    assert.notEqual(piece, null, `the answer ended after ${got} of ${length} bytes`);
    pieces.push(piece);
    got += piece.length;
  }
  return Buffer.concat(pieces).toString();
}
