// The engine's client. Unlike the tests' own it reports a failed exchange instead of throwing, speaks HTTPS, and expects nothing of
// a response's headers, which here are those of any gateway.

import http from "node:http";
import https from "node:https";

const LIMIT_MS = 30_000;

/**
 * Sends a request and reads the whole response: { status, headers, body, complete, disconnected, error }. A header of null is not
 * sent. `onText` gets the body's text as it grows; if `disconnectWhen(text)` is true, the client disconnects.
 */
export function send(base, { method, path, headers, body, onText, disconnectWhen, limitMs = LIMIT_MS }) {
  const url = new URL(base);
  const { request: open } = url.protocol === "https:" ? https : http;
  const sent = { "accept-encoding": "identity", ...headers };
  if (body !== undefined) sent["content-length"] ??= String(body.length);
  for (const name of Object.keys(sent)) if (sent[name] === null) delete sent[name];
  return new Promise((resolve) => {
    const reply = { status: 0, headers: {}, body: Buffer.alloc(0), complete: false };
    const chunks = [];
    const finish = (more) => {
      clearTimeout(timer);
      resolve(Object.assign(reply, { body: Buffer.concat(chunks) }, more));
    };
    const timer = setTimeout(() => {
      finish({ error: `no end after ${limitMs} ms` });
      request.destroy();
    }, limitMs);
    const options = {
      hostname: url.hostname,
      port: url.port || undefined,
      method,
      path: url.pathname.replace(/\/+$/, "") + path,
      headers: sent,
      agent: false,
      maxHeaderSize: 1 << 20,
    };
    const request = open(options, (response) => {
      reply.status = response.statusCode;
      reply.headers = response.headers;
      response.on("data", (chunk) => {
        chunks.push(chunk);
        if (!onText && !disconnectWhen) return;
        const text = Buffer.concat(chunks).toString();
        onText?.(text);
        if (!disconnectWhen?.(text)) return;
        finish({ disconnected: true });
        request.destroy();
      });
      response.on("end", () => finish({ complete: response.complete }));
      response.on("error", (/** @type {NodeJS.ErrnoException} */ error) =>
        finish({ error: error.code ?? error.message }),
      );
      response.on("close", () => finish({ complete: response.complete }));
    });
    request.on("error", (/** @type {NodeJS.ErrnoException} */ error) => finish({ error: error.code ?? error.message }));
    if (body !== undefined) request.write(body);
    request.end();
  });
}
