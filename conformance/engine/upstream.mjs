// The scripted upstream. It knows which case a call belongs to by the token in it, so that cases can run side by side, and
// signs every answer with the number of the call, so that an answer can be told from any other.

import http from 'node:http';
import { gzipSync } from 'node:zlib';
import { apiAt, eventText, goodAnswer } from './apis.mjs';

const TOKEN = /cf[0-9a-f]{16}/;
const MARKER = /(cf[0-9a-f]{16})-answer-(\d+)-/;

export const markerOf = (token, n) => `${token}-answer-${n}-`;

/** Which call made these bytes: { token, n }, or undefined where they do not say. */
export function signature(text) {
  const found = MARKER.exec(text);
  return found ? { token: found[1], n: Number(found[2]) } : undefined;
}

/** One case's part of the upstream: what to say, and what was asked. */
export class Script {
  calls = []; // { n, question, method, url, headers, body, sent }
  answer = {}; // what the next calls get
  question; // what is being asked now
  stray = 0;
  #watchers = new Set();

  constructor(token) {
    this.token = token;
  }

  changed() {
    for (const wake of this.#watchers) wake();
    this.#watchers.clear();
  }

  /** Resolves to true when `condition` holds, to false after `ms`. */
  async until(condition, ms) {
    const end = Date.now() + ms;
    while (!condition()) {
      const left = end - Date.now();
      if (left <= 0) return false;
      let timer;
      await Promise.race([new Promise((wake) => this.#watchers.add(wake)),
        new Promise((wake) => { timer = setTimeout(wake, left); })]);
      clearTimeout(timer);
    }
    return true;
  }
}

export class Upstream {
  #scripts = new Map();
  #server;
  strangers = 0; // calls that belong to no case

  async listen(port = 0) {
    this.#server = http.createServer({ maxHeaderSize: 1 << 18, keepAliveTimeout: 60_000 }, (req, res) => this.#serve(req, res));
    await new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(port, '127.0.0.1', resolve);
    });
    this.port = this.#server.address().port;
    this.origin = `http://127.0.0.1:${this.port}`;
    return this;
  }

  close() {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(resolve));
  }

  script(token) {
    const script = new Script(token);
    this.#scripts.set(token, script);
    return script;
  }

  forget(token) {
    this.#scripts.delete(token);
  }

  async #serve(req, res) {
    res.on('error', () => {}); // a caller that leaves is no error of ours
    req.on('error', () => {});
    const chunks = [];
    try {
      for await (const chunk of req) chunks.push(chunk);
    } catch {
      return; // it left while it asked
    }
    const body = Buffer.concat(chunks);
    const token = TOKEN.exec(`${req.url} ${body.toString('latin1')}`)?.[0];
    const script = this.#scripts.get(token);
    if (!script) {
      this.strangers += 1;
      res.writeHead(404, { 'content-type': 'application/json' });
      res.end('{"error":{"message":"no case asks this","type":"invalid_request_error"}}');
      return;
    }
    const n = script.calls.length + 1;
    const call = { n, question: script.question, method: req.method, url: req.url, headers: req.headers, body };
    script.calls.push(call);
    res.once('close', () => { call.ended = true; script.changed(); });
    script.changed();
    try {
      await say(script, call, res);
    } catch (error) {
      call.failed = error;
      res.destroy();
    }
  }
}

function parsed(bytes) {
  try {
    return JSON.parse(bytes.toString()) ?? {};
  } catch {
    return {};
  }
}

/** Says what the script wants said to this call. See README.md for the fields of an answer. */
async function say(script, call, res) {
  const said = script.answer;
  const marker = markerOf(script.token, call.n);
  const about = { marker, n: call.n, asked: parsed(call.body) };
  const good = goodAnswer(apiAt(call.url), about);
  const fill = (text) => text.replaceAll('{marker}', marker).replaceAll('{long}', 'x'.repeat(1_000_000));

  let pieces;
  let type = good.type;
  if (said.json !== undefined) pieces = [fill(JSON.stringify(said.json))];
  else if (said.text !== undefined) pieces = [fill(said.text)];
  else if (said.base64 !== undefined) pieces = [Buffer.from(said.base64, 'base64')];
  else if (said.repeat !== undefined) pieces = [fill(said.repeat.head ?? ''), said.repeat.unit.repeat(said.repeat.times), fill(said.repeat.tail ?? '')];
  else if (said.stream !== undefined) pieces = said.stream.map((data) => fill(eventText(data)));
  else if (said.error !== undefined) pieces = [fill(JSON.stringify({ error: { message: `{marker}: ${said.error}`, type: said.error, code: said.error, param: null } }))];
  else pieces = good.events ?? [good.body];
  if (said.error !== undefined || said.json !== undefined) type = 'application/json';
  if (said.stream !== undefined) type = 'text/event-stream; charset=utf-8';
  if (said.set) pieces = [JSON.stringify(withSet(JSON.parse(pieces.join('')), said.set, fill))];
  if (said.drop) pieces = pieces.slice(0, -said.drop);
  if (said.insert) pieces.splice(said.insert.at, 0, fill(said.insert.text));
  if (said.newline) pieces = pieces.map((piece) => piece.replaceAll('\n', said.newline));

  let bytes = Buffer.concat(pieces.map((piece) => Buffer.from(piece)));
  const headers = { 'content-type': type };
  for (const [name, value] of Object.entries(said.headers ?? {})) {
    if (value === null) delete headers[name];
    else headers[name] = fillHeader(value, fill);
  }
  if (said.gzip) {
    bytes = gzipSync(bytes);
    pieces = [bytes];
    headers['content-encoding'] = 'gzip';
  }
  call.sent = bytes;
  const status = said.status ?? 200;
  if (said.holdFor) await script.until(() => script.calls.length >= said.holdFor, said.holdMs ?? 400);
  if (said.refuse) {
    res.destroy();
    return;
  }
  const streamed = good.events !== undefined || said.stream !== undefined;
  // `short`: bytes that are missing at the end; the length that was promised, or the chunks, show it. `quiet`: they do not.
  if (said.short !== undefined) {
    const kept = bytes.subarray(0, Math.max(0, bytes.length - said.short));
    if (!streamed && !said.chunked) headers['content-length'] = String(bytes.length);
    res.writeHead(status, headers);
    res.flushHeaders();
    await new Promise((resolve) => res.write(kept.length ? kept : Buffer.from(' '), resolve));
    call.said = kept;
    res.destroy();
    return;
  }
  if (said.quiet !== undefined) {
    const kept = bytes.subarray(0, Math.max(0, bytes.length - said.quiet));
    call.sent = kept;
    res.writeHead(status, headers);
    res.end(kept);
    return;
  }
  const bodiless = status === 204 || status === 205 || status === 304;
  if (!streamed && !said.chunked && !bodiless) headers['content-length'] = String(bytes.length);
  res.writeHead(status, headers);
  if (bodiless) {
    res.end();
    return;
  }
  if (!said.wait && !said.split) {
    res.end(bytes);
    return;
  }
  // `split`: pieces of so many bytes, wherever they fall. `wait`: nothing after the piece with the marker before the client
  // has seen it.
  if (said.split) pieces = Array.from({ length: Math.ceil(bytes.length / said.split) }, (_, i) => bytes.subarray(i * said.split, (i + 1) * said.split));
  for (const piece of pieces) {
    await new Promise((resolve) => res.write(piece, resolve));
    if (said.wait && piece.toString().includes(marker) && !piece.toString().includes('"role":"assistant"')) {
      call.seenInTime = await script.until(() => script.seen?.includes(marker), 2000);
    }
  }
  res.end();
}

const fillHeader = (value, fill) => (Array.isArray(value) ? value.map(fill) : fill(value));

/** Sets members named by dotted paths; numbers are places in lists. */
export function withSet(object, set, fill = (text) => text) {
  const copy = structuredClone(object);
  for (const [path, value] of Object.entries(set)) {
    const names = path.split('.');
    const last = names.pop();
    let at = copy;
    for (const [i, name] of names.entries()) {
      if (at[name] === undefined) at[name] = /^\d+$/.test(names[i + 1] ?? last) ? [] : {};
      at = at[name];
    }
    at[last] = typeof value === 'string' ? fill(value) : value;
  }
  return copy;
}
