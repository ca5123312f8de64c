// A client that adds nothing and hides nothing: what the cases see is what was on the wire.

import http from 'node:http';
import https from 'node:https';

const LIMIT_MS = 30_000;

/**
 * One request and its whole answer: { status, headers, body, whole, error }. `onPiece` sees the body grow; `leaveAfter`: hang
 * up as soon as the body contains this text.
 */
export function send(base, { method, path, headers, body, onPiece, leaveWhen, limit = LIMIT_MS }) {
  const url = new URL(base);
  const lib = url.protocol === 'https:' ? https : http;
  const sent = { 'accept-encoding': 'identity', ...headers };
  if (body !== undefined) sent['content-length'] = String(body.length);
  for (const name of Object.keys(sent)) if (sent[name] === null) delete sent[name];
  return new Promise((resolve) => {
    const reply = { status: 0, headers: {}, body: Buffer.alloc(0), whole: false };
    const chunks = [];
    const done = (more) => {
      clearTimeout(timer);
      resolve(Object.assign(reply, { body: Buffer.concat(chunks) }, more));
    };
    const timer = setTimeout(() => {
      done({ error: `no end after ${limit} ms` });
      request.destroy();
    }, limit);
    const request = lib.request({ hostname: url.hostname, port: url.port || undefined, method, path: url.pathname.replace(/\/+$/, '') + path,
      headers: sent, agent: false }, (response) => {
      reply.status = response.statusCode;
      reply.headers = response.headers;
      response.on('data', (chunk) => {
        chunks.push(chunk);
        if (!onPiece && !leaveWhen) return;
        const text = Buffer.concat(chunks).toString();
        onPiece?.(text);
        if (leaveWhen?.(text)) {
          done({ left: true });
          request.destroy();
        }
      });
      response.on('end', () => done({ whole: response.complete }));
      response.on('error', (error) => done({ error: error.code ?? error.message }));
      response.on('close', () => done({ whole: response.complete }));
    });
    request.on('error', (error) => done({ error: error.code ?? error.message }));
    if (body !== undefined) request.write(body);
    request.end();
  });
}
